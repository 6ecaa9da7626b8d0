/**
 * How the web page is built; `vite web` also serves it while it is worked on, with a `fusion serve` behind it.
 */
import { defineConfig } from 'vite';

/** Where `fusion serve` listens unless told otherwise. */
const SERVER = 'http://127.0.0.1:8080';

export default defineConfig({
  root: import.meta.dirname,
  // Relative addresses: the page also works below a path of a reverse proxy.
  base: './',
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    outDir: '../dist/web',
    emptyOutDir: true,
    // Small pictures stay files: the page fetches its samples, and its policy lets it fetch from the server alone.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: { proxy: { '/v1': SERVER, '/health': SERVER } },
});
