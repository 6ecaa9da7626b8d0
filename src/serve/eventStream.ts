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
  const encoder = new TextEncoder();
  let open = true;
  let wake = () => {};
  const start = (stream: ReadableStreamDefaultController<Uint8Array>) => {
    const put = (text: string) => {
      if (open) stream.enqueue(encoder.encode(text));
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
      if (open) stream.close();
      open = false;
    });
  };
  const cancel = () => {
    open = false;
    wake();
  };
  const strategy = { highWaterMark: BUFFER_BYTES, size: (piece: Uint8Array) => piece.length };
  return new Response(new ReadableStream({ start, pull: () => wake(), cancel }, strategy), {
    headers: HEADERS,
  });
}
