/** Starts the page. */
import { render } from 'preact';
import { App } from './app.tsx';
import './style/base.css';
import './style/stage.css';
import './style/chat.css';
import './style/look.css';

const root = document.querySelector('#app');
if (root !== null) render(<App />, root);
