/** A conversation with the server: asking, stopping, asking again. Knows nothing of how it is shown. */
import { useCallback, useReducer, useRef } from 'preact/hooks';
import { type AnswerEvent, progressText, sendVote, streamAnswer } from './api.ts';
import { type Action, type Exchange, messagesOf, reduce, type Vote } from './conversation.ts';
import type { Settings } from './settings.ts';

export interface ChatSettings {
  readonly model: string | undefined;
  readonly image: string | undefined;
  readonly settings: Settings;
  readonly key: string;
}

export interface Chat {
  readonly exchanges: readonly Exchange[];
  readonly busy: boolean;
  /** Asks as the exchange at an index, in place of it and of what follows; without one, after all. */
  readonly ask: (question: string, at?: number) => void;
  readonly stop: () => void;
  readonly clear: () => void;
  readonly vote: (at: number, vote: Vote) => Promise<void>;
}

let lastId = 0;

export function useChat(given: ChatSettings): Chat {
  const [exchanges, dispatch] = useReducer(reduce, []);
  const running = useRef<AbortController | undefined>(undefined);
  const { model, image, key } = given;
  const stop = useCallback(() => running.current?.abort(), []);
  const ask = (question: string, at = exchanges.length) => {
    stop();
    const id = ++lastId;
    const sampling = samplingOf(given.settings);
    const controller = new AbortController();
    running.current = controller;
    dispatch({ type: 'ask', at, id, question, model, sampling });
    const messages = messagesOf(exchanges.slice(0, at), question, image);
    void follow(
      streamAnswer({ model, messages, sampling }, key, controller.signal),
      id,
      controller,
      dispatch,
    );
  };
  const clear = () => {
    stop();
    dispatch({ type: 'clear' });
  };
  const vote = async (at: number, vote: Vote) => {
    const exchange = exchanges[at];
    if (exchange === undefined) return;
    const messages = [
      ...messagesOf(exchanges.slice(0, at), exchange.question, image),
      { role: 'assistant', content: exchange.answer } as const,
    ];
    // A question asked before the server told its models went to the first of them.
    await sendVote({ vote, model: exchange.model ?? model, messages }, key);
    dispatch({ type: 'change', id: exchange.id, change: { vote } });
  };
  const busy = exchanges.some(({ state }) => state === 'waiting' || state === 'streaming');
  return { exchanges, busy, ask, stop, clear, vote };
}

/** The seed is always sent, so that the same answer can be asked for again and explained. */
function samplingOf({ temperature, topP, maxTokens, seed }: Settings): Readonly<Record<string, number>> {
  const drawn = seed ?? Math.floor(Math.random() * 2 ** 31);
  return { temperature, top_p: topP, max_tokens: maxTokens, seed: drawn };
}

/** Brings the events of an answer into the conversation, text at most once a frame. */
async function follow(
  events: AsyncGenerator<AnswerEvent>,
  id: number,
  { signal }: AbortController,
  dispatch: (action: Action) => void,
): Promise<void> {
  const text = gathered((text, pieces) => dispatch({ type: 'text', id, text, pieces }));
  const change = (change: Partial<Exchange>) => {
    text.flush();
    dispatch({ type: 'change', id, change });
  };
  try {
    for await (const event of events) {
      if (event.type === 'text') text.add(event.text);
      else if (event.type === 'progress') change({ status: progressText(event.progress) ?? '' });
      else {
        const { timings, cut, warnings } = event;
        change({ state: 'done', timings, cut, warnings });
      }
    }
  } catch (error) {
    if (signal.aborted) change({ state: 'stopped' });
    else change({ state: 'failed', error: error instanceof Error ? error.message : String(error) });
  }
}

/** Gathers pieces of text until the next frame, or until they are wanted. */
function gathered(give: (text: string, pieces: number) => void) {
  let [waiting, pieces, frame] = ['', 0, 0];
  const flush = () => {
    cancelAnimationFrame(frame);
    if (pieces > 0) give(waiting, pieces);
    [waiting, pieces, frame] = ['', 0, 0];
  };
  const add = (text: string) => {
    waiting += text;
    pieces += 1;
    if (frame === 0) frame = requestAnimationFrame(flush);
  };
  return { add, flush };
}
