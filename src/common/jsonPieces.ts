/**
 * JSON of values that may be large, as text in pieces, so that whoever writes it can do other work in between. Knows
 * nothing of who reads it.
 */

/** Characters of a piece, about: a millisecond's work or two. */
const PIECE = 32_768;
/** Numbers of an array that are written at once. */
const RUN = 1024;
/** Significant digits of the numbers of a Float32Array. */
const DIGITS = 5;

/**
 * The JSON of plain values, arrays and objects, as `JSON.stringify` writes it; a `Float32Array` is an array of numbers
 * with five significant digits.
 */
export function* jsonPieces(value: unknown): Generator<string, void, undefined> {
  let piece = '';
  for (const part of parts(value)) {
    piece += part;
    if (piece.length < PIECE) continue;
    yield piece;
    piece = '';
  }
  if (piece !== '') yield piece;
}

function* parts(value: unknown): Generator<string, void, undefined> {
  if (value instanceof Float32Array) yield* numbers(value);
  else if (typeof value !== 'object' || value === null) yield JSON.stringify(value) ?? 'null';
  else if (Array.isArray(value)) yield* items(value);
  else yield* fields(value);
}

function* numbers(values: Float32Array): Generator<string, void, undefined> {
  yield '[';
  for (let at = 0; at < values.length; at += RUN) {
    const run = Array.from(values.subarray(at, at + RUN), (x) => Number(x.toPrecision(DIGITS)));
    yield (at === 0 ? '' : ',') + JSON.stringify(run).slice(1, -1);
  }
  yield ']';
}

function* items(values: readonly unknown[]): Generator<string, void, undefined> {
  if (values.length <= RUN && values.every(isPlain)) {
    yield JSON.stringify(values);
    return;
  }
  yield '[';
  for (const [i, value] of values.entries()) {
    if (i > 0) yield ',';
    yield* parts(value);
  }
  yield ']';
}

function* fields(value: object): Generator<string, void, undefined> {
  let before = '{';
  for (const [key, field] of Object.entries(value)) {
    if (field === undefined) continue;
    yield `${before}${JSON.stringify(key)}:`;
    before = ',';
    yield* parts(field);
  }
  yield before === '{' ? '{}' : '}';
}

const isPlain = (value: unknown): boolean => typeof value !== 'object' || value === null;
