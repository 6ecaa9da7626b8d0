/**
 * A response of server-sent events that is written as it comes about, with comments while nothing comes. Knows
 * nothing of what the events say. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
 */

/** Writes to a stream. */
export interface EventWriter {
  /** Sends one event: JSON of `data`, or the text itself. Waits where the client reads slowly. */
  send(data: unknown): Promise<void>;
}

export interface EventStreamOptions {
  /** Milliseconds of silence after which a comment is sent. */
  readonly pingEvery: number;
  /** What the comment says, on one line. */
  readonly ping: () => string;
}

/** A client that reads slowly has so many bytes waiting before the writer waits for it. */
const BUFFER_BYTES = 1_000_000;

/**
 * Milliseconds after a packet in which further events wait for one another, and characters that are not kept waiting. A
 * small model makes tokens faster than anybody reads, for many clients at once, and a packet costs more than a token.
 */
const GATHER = { milliseconds: 10, characters: 16_384 };

const HEADERS = {
  'Content-Type': 'text/event-stream; charset=utf-8',
  'Cache-Control': 'no-cache, no-transform',
  'X-Accel-Buffering': 'no',
};

/** The response whose events `write` sends; it ends when `write` does, which must not throw. */
export function eventStream(
  write: (writer: EventWriter) => Promise<void>,
  { pingEvery, ping }: EventStreamOptions,
): Response {
  let open = true;
  let wake = () => {};
  let gathered: Gathered | undefined;
  const start = (stream: ReadableStreamDefaultController<Uint8Array>) => {
    const packets = new Gathered((text) => stream.enqueue(Buffer.from(text)));
    gathered = packets;
    const put = (text: string) => {
      if (open) packets.add(text);
    };
    const pings = setInterval(() => put(`: ${ping()}\n\n`), pingEvery);
    const send = async (data: unknown) => {
      put(`data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`);
      pings.refresh();
      while (open && (stream.desiredSize ?? 0) <= 0) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    };
    // Not awaited: the stream is readable from its start.
    void write({ send }).finally(() => {
      clearInterval(pings);
      if (!open) return;
      packets.end();
      stream.close();
      open = false;
    });
  };
  const cancel = () => {
    open = false;
    gathered?.drop();
    wake();
  };
  const strategy = { highWaterMark: BUFFER_BYTES, size: (piece: Uint8Array) => piece.length };
  return new Response(new ReadableStream({ start, pull: () => wake(), cancel }, strategy), {
    headers: HEADERS,
  });
}

/** Texts that go out at once where nothing went shortly before, and else together. */
class Gathered {
  readonly #flush: (text: string) => void;
  #waiting = '';
  #pause: NodeJS.Timeout | undefined;

  constructor(flush: (text: string) => void) {
    this.#flush = flush;
  }

  add(text: string): void {
    this.#waiting += text;
    if (this.#pause !== undefined && this.#waiting.length < GATHER.characters) return;
    this.#send();
    this.#pause ??= setTimeout(() => {
      this.#pause = undefined;
      if (this.#waiting !== '') this.add('');
    }, GATHER.milliseconds);
  }

  /** Sends what waits; the last call. */
  end(): void {
    if (this.#waiting !== '') this.#send();
    this.drop();
  }

  /** Forgets what waits; the last call. */
  drop(): void {
    clearTimeout(this.#pause);
  }

  #send(): void {
    this.#flush(this.#waiting);
    this.#waiting = '';
  }
}
