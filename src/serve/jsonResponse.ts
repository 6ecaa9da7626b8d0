/**
 * A response of JSON that is written while other requests are served: log-probabilities of a long answer and maps of
 * an explanation are megabytes. Knows nothing of what the JSON says.
 */
import { jsonPieces } from '../common/jsonPieces.ts';
import { nextTurn } from '../common/nextTurn.ts';

/** The response; `value` is written as its client reads it and must not change meanwhile. */
export function jsonResponse(value: unknown): Response {
  const pieces = jsonPieces(value);
  const encoder = new TextEncoder();
  const pull = async (stream: ReadableStreamDefaultController<Uint8Array>) => {
    await nextTurn();
    const { value: piece, done } = pieces.next();
    if (done) stream.close();
    else stream.enqueue(encoder.encode(piece));
  };
  return new Response(new ReadableStream({ pull }), { headers: { 'Content-Type': 'application/json' } });
}
