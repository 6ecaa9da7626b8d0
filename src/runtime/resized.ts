/**
 * The elements of an f32 tensor in another size along one axis, in the same memory where that has room. Knows nothing of
 * devices.
 */

/** Times the memory that is wanted. */
const ROOM = 1.25;
/** Memory that was made here: of other memory, what lies behind a tensor is not known to be free. */
const roomy = new WeakSet<ArrayBufferLike>();

export const elements = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/**
 * `data` of shape `from` in shape `to`: what fits stays where its indices say, the rest is 0. What lay in `data` is no
 * longer there where the memory is the same.
 *
 * @throws RangeError where there is not enough memory; then `data` is as it was.
 */
export function resized(data: Float32Array, from: readonly number[], to: readonly number[]): Float32Array {
  const differs = to.flatMap((dim, axis) => (dim === from[axis] ? [] : [axis]));
  if (from.length !== to.length || differs.length > 1) {
    throw new Error(`internal: [${from}] cannot be resized to [${to}]: expected one axis to differ`);
  }
  const [axis] = differs;
  if (axis === undefined) return data;
  const [old, now] = [elements(from.slice(axis)), elements(to.slice(axis))];
  const target = room(data, elements(to));
  const count = elements(to.slice(0, axis));
  for (let i = 0; i < count; i++) {
    // What moves back begins with the last, so that nothing is overwritten before it has moved.
    const block = now > old ? count - 1 - i : i;
    move(target, data, { from: block * old, to: block * now, length: Math.min(old, now) });
    if (now > old) target.fill(0, block * now + old, (block + 1) * now);
  }
  return target;
}

/** So many elements in the same memory, or in memory of their own that has room to spare. */
function room(data: Float32Array, length: number): Float32Array {
  const bytes = (count: number) => count * Float32Array.BYTES_PER_ELEMENT;
  const { buffer } = data;
  if (roomy.has(buffer) && bytes(length) <= buffer.byteLength) return new Float32Array(buffer, 0, length);
  const made = new ArrayBuffer(bytes(Math.ceil(ROOM * length)));
  roomy.add(made);
  return new Float32Array(made, 0, length);
}

function move(
  target: Float32Array,
  data: Float32Array,
  { from, to, length }: { readonly from: number; readonly to: number; readonly length: number },
): void {
  if (target.buffer !== data.buffer) target.set(data.subarray(from, from + length), to);
  // The longer of the two views has both places.
  else (target.length > data.length ? target : data).copyWithin(to, from, from + length);
}
