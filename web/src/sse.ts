/**
 * Server-sent events of a response, as they come. Knows nothing of what they say.
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
 */

/** `data` of an event, or a comment, which servers send while they have nothing to say. */
export interface StreamEvent {
  readonly kind: 'data' | 'comment';
  readonly text: string;
}

/** Takes the stream's text in pieces cut anywhere and gives the events that each completes. */
export function eventParser(): (piece: string) => readonly StreamEvent[] {
  let rest = '';
  let data: string[] = [];
  const eventsOf = (line: string): readonly StreamEvent[] => {
    if (line === '') {
      const text = data.join('\n');
      const complete = data.length > 0;
      data = [];
      return complete ? [{ kind: 'data', text }] : [];
    }
    if (line.startsWith(':')) return [{ kind: 'comment', text: line.slice(1).trim() }];
    const [, value] = /^data(?:$|: ?(.*))/s.exec(line) ?? [];
    if (line.startsWith('data')) data.push(value ?? '');
    return [];
  };
  return (piece) => {
    // A carriage return at the end may be half of a line's end.
    const lines = (rest + piece).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? '';
    return lines.flatMap(eventsOf);
  };
}

/** The events of a body; ends with it. @throws what reading it throws. */
export async function* streamEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<StreamEvent> {
  const parse = eventParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parse(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Not awaited: the connection may be gone.
    void reader.cancel().catch(() => {});
  }
}
