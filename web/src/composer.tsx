/** Where questions are written. Enter asks, Shift and Enter begin a new line, Escape stops the answer. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { Icon } from './icons.tsx';
import type { Chat } from './useChat.ts';

export function Composer(props: {
  readonly chat: Chat;
  readonly ready: boolean;
  readonly hint: string | undefined;
}) {
  const { chat, ready, hint } = props;
  const [text, setText] = useState('');
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => fitHeight(field.current), [text]);
  const able = ready && text.trim() !== '' && !chat.busy;
  const ask = () => {
    if (!able) return;
    chat.ask(text.trim());
    setText('');
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        ask();
      }}
    >
      <label class="hidden-text" for="question">
        Your question
      </label>
      <textarea
        id="question"
        ref={field}
        rows={1}
        value={text}
        placeholder="Ask about the picture"
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === 'Escape' && chat.busy) chat.stop();
          if (!isAsking(event)) return;
          event.preventDefault();
          ask();
        }}
      />
      <SendButton chat={chat} able={able} hint={hint} />
    </form>
  );
}

function SendButton(props: {
  readonly chat: Chat;
  readonly able: boolean;
  readonly hint: string | undefined;
}) {
  const { chat, able, hint } = props;
  if (chat.busy) {
    return (
      <button type="button" class="send" aria-label="Stop" title="Stop (Esc)" onClick={chat.stop}>
        <Icon name="stop" />
      </button>
    );
  }
  return (
    <button type="submit" class="send" aria-label="Ask" title={hint ?? 'Ask (Enter)'} disabled={!able}>
      <Icon name="send" />
    </button>
  );
}

/** Enter alone, and not the one that ends the composition of a character. */
export function isAsking(event: KeyboardEvent): boolean {
  return event.key === 'Enter' && !event.shiftKey && !event.isComposing;
}

/** As high as its text; the style sheet holds the limit. */
export function fitHeight(field: HTMLTextAreaElement | null): void {
  if (field === null) return;
  field.style.height = 'auto';
  field.style.height = `${field.scrollHeight}px`;
}
