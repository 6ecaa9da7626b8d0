/** The conversation as it stands: questions, answers, and what can be done with each. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { Announcer } from './announcer.tsx';
import { AnswerTools } from './answerTools.tsx';
import { fitHeight, isAsking } from './composer.tsx';
import { type Exchange, speedText } from './conversation.ts';
import { IconButton } from './icons.tsx';
import { renderMarkdown } from './markdown.ts';
import type { Chat } from './useChat.ts';

export interface ExchangesProps {
  readonly chat: Chat;
  readonly hasPicture: boolean;
  /** Whether the server keeps votes. */
  readonly votes: boolean;
  /** The exchange whose attention is shown. */
  readonly looking: number | undefined;
  /** Whether there is a picture and the model that answered can show its attention. */
  readonly canLook: (exchange: Exchange) => boolean;
  readonly onLook: (exchange: Exchange) => void;
}

/** How near to its end a scrolled conversation follows the answer, in pixels. */
const NEAR = 80;

export function Exchanges(props: ExchangesProps) {
  const { exchanges } = props.chat;
  const scroller = useRef<HTMLDivElement>(null);
  useFollowing(scroller, exchanges);
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keyboard.
    <section class="exchanges" ref={scroller} tabIndex={0} aria-label="Questions and answers">
      {exchanges.length === 0 && <Welcome hasPicture={props.hasPicture} onAsk={props.chat.ask} />}
      {exchanges.map((exchange, i) => (
        <ExchangeItem key={exchange.id} exchange={exchange} index={i} {...props} />
      ))}
      <Announcer exchange={exchanges.at(-1)} />
    </section>
  );
}

/** Keeps the end in sight while an answer grows, unless the user has scrolled away. */
function useFollowing(
  scroller: { readonly current: HTMLElement | null },
  exchanges: readonly Exchange[],
): void {
  const count = useRef(0);
  const atEnd = useRef(true);
  useEffect(() => {
    let last = 0;
    const look = () => {
      const { scrollHeight, scrollTop, clientHeight } = scrollBox(scroller.current);
      // Text that grows moves the end away without the user's doing; only upwards is the user's.
      if (scrollTop < last - 1) atEnd.current = false;
      if (scrollHeight - scrollTop - clientHeight < NEAR) atEnd.current = true;
      last = scrollTop;
    };
    document.addEventListener('scroll', look, { capture: true, passive: true });
    return () => document.removeEventListener('scroll', look, { capture: true });
  }, [scroller]);
  useEffect(() => {
    const box = scrollBox(scroller.current);
    const asked = exchanges.length > count.current;
    count.current = exchanges.length;
    if (asked || (atEnd.current && exchanges.length > 0)) box.scrollTop = box.scrollHeight;
  }, [scroller, exchanges]);
}

/** On narrow screens the page scrolls, on wide ones the conversation. */
function scrollBox(conversation: HTMLElement | null): HTMLElement {
  const own = conversation !== null && getComputedStyle(conversation).overflowY === 'auto';
  return own ? conversation : document.documentElement;
}

const SUGGESTIONS = [
  'What is in this picture?',
  'How many objects are there?',
  'What colour is the largest one?',
];

function Welcome(props: { readonly hasPicture: boolean; readonly onAsk: (question: string) => void }) {
  if (!props.hasPicture) {
    return (
      <div class="welcome">
        <h2>Ask about a picture</h2>
        <p>
          Choose one, then ask. The question is read together with the picture: inside the vision encoder, and
          again between the layers of the language model.
        </p>
      </div>
    );
  }
  return (
    <div class="welcome">
      <h2>What would you like to know?</h2>
      <ul class="suggestions">
        {SUGGESTIONS.map((question) => (
          <li key={question}>
            <button type="button" class="suggestion" onClick={() => props.onAsk(question)}>
              {question}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

function ExchangeItem(props: ExchangesProps & { readonly exchange: Exchange; readonly index: number }) {
  const { exchange, index, chat } = props;
  const running = exchange.state === 'waiting' || exchange.state === 'streaming';
  return (
    <article class="exchange" aria-label={`Question ${index + 1}`}>
      <Question question={exchange.question} onChange={(question) => chat.ask(question, index)} />
      <div class="answer" aria-busy={running}>
        <h2 class="hidden-text">Answer</h2>
        <Markdown text={exchange.answer} />
        {exchange.state === 'waiting' && <p class="waiting">{exchange.status || 'Looking'}</p>}
        <Ending exchange={exchange} />
        {!running && <AnswerTools {...props} />}
      </div>
    </article>
  );
}

/** Why and how an answer ended. */
function Ending({
  exchange: { state, error, timings, cut, warnings = [] },
}: {
  readonly exchange: Exchange;
}) {
  return (
    <>
      {state === 'failed' && (
        <p class="failure" role="alert">
          {error}
        </p>
      )}
      {warnings.map((warning) => (
        <p key={warning} class="faint small">
          {warning}
        </p>
      ))}
      {state === 'stopped' && <p class="faint small">Stopped.</p>}
      {timings && (
        <p class="faint small speed">
          {speedText(timings)}
          {cut && ' · ended at the limit on tokens'}
        </p>
      )}
    </>
  );
}

function Markdown({ text }: { readonly text: string }) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => place.current?.replaceChildren(renderMarkdown(text)), [text]);
  return <div class="prose" ref={place} />;
}

function Question(props: { readonly question: string; readonly onChange: (question: string) => void }) {
  const [editing, setEditing] = useState(false);
  if (editing) return <QuestionEditor {...props} onEnd={() => setEditing(false)} />;
  return (
    <div class="question">
      <h2 class="hidden-text">Question</h2>
      <p>{props.question}</p>
      <IconButton icon="edit" label="Edit the question" onClick={() => setEditing(true)} />
    </div>
  );
}

function QuestionEditor(props: {
  readonly question: string;
  readonly onChange: (question: string) => void;
  readonly onEnd: () => void;
}) {
  const [text, setText] = useState(props.question);
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => field.current?.select(), []);
  useEffect(() => fitHeight(field.current), [text]);
  const save = () => {
    if (text.trim() === '') return;
    props.onEnd();
    props.onChange(text.trim());
  };
  return (
    <div class="question editing">
      <textarea
        ref={field}
        rows={1}
        aria-label="The question, to be changed"
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === 'Escape') props.onEnd();
          if (!isAsking(event)) return;
          event.preventDefault();
          save();
        }}
      />
      <div class="editor-tools">
        <button type="button" class="quiet" onClick={props.onEnd}>
          Cancel
        </button>
        <button type="button" class="filled" onClick={save}>
          Ask again
        </button>
      </div>
    </div>
  );
}
