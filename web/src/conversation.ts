/**
 * A conversation about one picture: questions, answers as they come about, and the messages they are for the
 * server. Knows nothing of how they are sent or shown.
 */

/** Times of an answer, in milliseconds, as the last chunk of a stream tells them. */
export interface Timings {
  readonly queue_ms: number;
  readonly image_ms: number;
  readonly vision_ms: number;
  readonly prompt_ms: number;
  readonly prompt_n: number;
  readonly predicted_n: number;
  readonly predicted_ms: number;
  readonly predicted_per_second: number;
}

export type Vote = 'like' | 'dislike' | 'flag';

export interface Exchange {
  readonly id: number;
  readonly question: string;
  readonly answer: string;
  readonly state: 'waiting' | 'streaming' | 'done' | 'stopped' | 'failed';
  /** The model asked and the sampling that was sent with the question: the same again give the same answer. */
  readonly model: string | undefined;
  readonly sampling: Readonly<Record<string, number>>;
  /** Pieces of text that came. */
  readonly pieces: number;
  /** While waiting: what the server is doing. */
  readonly status?: string;
  readonly error?: string;
  readonly timings?: Timings;
  /** Whether the limit on tokens ended it. */
  readonly cut?: boolean;
  readonly warnings?: readonly string[];
  readonly vote?: Vote;
}

export type Action =
  /** Asks as the exchange at index `at`; what follows it is dropped. */
  | ({ readonly type: 'ask'; readonly at: number } & Pick<Exchange, 'id' | 'question' | 'model' | 'sampling'>)
  | { readonly type: 'text'; readonly id: number; readonly text: string; readonly pieces: number }
  | { readonly type: 'change'; readonly id: number; readonly change: Partial<Exchange> }
  | { readonly type: 'clear' };

export function reduce(exchanges: readonly Exchange[], action: Action): readonly Exchange[] {
  switch (action.type) {
    case 'ask': {
      const { id, question, model, sampling } = action;
      const asked = { id, question, model, sampling, answer: '', state: 'waiting', pieces: 0 } as const;
      return [...exchanges.slice(0, action.at), asked];
    }
    case 'text':
      return changed(exchanges, action.id, ({ answer, pieces }) => ({
        answer: answer + action.text,
        pieces: pieces + action.pieces,
        state: 'streaming',
      }));
    case 'change':
      return changed(exchanges, action.id, () => action.change);
    case 'clear':
      return [];
  }
}

function changed(
  exchanges: readonly Exchange[],
  id: number,
  change: (exchange: Exchange) => Partial<Exchange>,
): readonly Exchange[] {
  return exchanges.map((each) => (each.id === id ? { ...each, ...change(each) } : each));
}

export type Part =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'image_url'; readonly image_url: { readonly url: string } };

export interface Message {
  readonly role: 'user' | 'assistant';
  readonly content: string | readonly Part[];
}

/**
 * The messages up to a new question, in OpenAI's format; the picture stands in the first. An answer that brought no
 * text is left out with its question, as the format wants one after the other.
 */
export function messagesOf(
  before: readonly Pick<Exchange, 'question' | 'answer'>[],
  question: string,
  image: string | undefined,
): readonly Message[] {
  const turns = before
    .filter(({ answer }) => answer !== '')
    .flatMap(({ question, answer }): Message[] => [
      { role: 'user', content: question },
      { role: 'assistant', content: answer },
    ]);
  const messages: readonly Message[] = [...turns, { role: 'user', content: question }];
  if (image === undefined) return messages;
  return messages.map((message, i) => {
    if (i > 0 || typeof message.content !== 'string') return message;
    const picture = { type: 'image_url', image_url: { url: image } } as const;
    return { ...message, content: [picture, { type: 'text', text: message.content }] };
  });
}

/** `23 tokens · 41 tokens/s · first after 1.2 s`; a single token has no rate. */
export function speedText(timings: Timings): string {
  const { queue_ms, image_ms, vision_ms, prompt_ms, predicted_n, predicted_per_second } = timings;
  const first = (queue_ms + image_ms + vision_ms + prompt_ms) / 1000;
  const rate = predicted_n > 1 ? ` · ${Number(predicted_per_second.toPrecision(3))} tokens/s` : '';
  return `${predicted_n} ${predicted_n === 1 ? 'token' : 'tokens'}${rate} · first after ${first.toFixed(1)} s`;
}
