/** Elements in another size: what fits stays, the rest is 0, and the second time no memory is made. */
import { expect, it } from 'vitest';
import { elements, resized } from './resized.ts';

/** 1, 2, 3 … */
const counted = (shape: readonly number[]): Float32Array =>
  Float32Array.from({ length: elements(shape) }, (_, i) => i + 1);

/** Index by index. */
function expected(data: Float32Array, from: readonly number[], to: readonly number[]): number[] {
  return Array.from({ length: elements(to) }, (_, flat) => {
    let [rest, index, inside] = [flat, 0, true];
    const place = to.toReversed().map((dim) => {
      const at = rest % dim;
      rest = Math.floor(rest / dim);
      return at;
    });
    for (const [axis, at] of place.toReversed().entries()) {
      inside &&= at < from[axis]!;
      index = index * from[axis]! + at;
    }
    return inside ? data[index]! : 0;
  });
}

it.each([
  [
    [2, 3, 4, 2],
    [2, 3, 7, 2],
  ],
  [
    [2, 3, 7, 2],
    [2, 3, 4, 2],
  ],
  [
    [2, 3, 0, 2],
    [2, 3, 5, 2],
  ],
  [
    [2, 3, 5, 2],
    [2, 3, 0, 2],
  ],
  [
    [1, 3],
    [4, 3],
  ],
  [[5], [2]],
  [
    [2, 2],
    [2, 3],
  ],
])('from %j to %j and back, in memory of its own and in place', (from, to) => {
  const data = counted(from);
  const wanted = expected(data, from, to);
  const first = resized(data, from, to);
  expect(Array.from(first)).toEqual(wanted);
  expect(Array.from(data)).toEqual(Array.from(counted(from)));
  // The memory made for the larger of the two has room for both.
  const larger = elements(to) > elements(from) ? first : resized(first, to, from);
  const [one, other] = elements(to) > elements(from) ? [to, from] : [from, to];
  larger.set(counted(one));
  const smaller = resized(larger, one, other);
  expect(smaller.buffer).toBe(larger.buffer);
  expect(Array.from(smaller)).toEqual(expected(counted(one), one, other));
  const again = Float32Array.from(smaller);
  const back = resized(smaller, other, one);
  expect(back.buffer).toBe(larger.buffer);
  expect(Array.from(back)).toEqual(expected(again, other, one));
});

it('leaves data of the same shape alone', () => {
  const data = counted([2, 3]);
  expect(resized(data, [2, 3], [2, 3])).toBe(data);
});

it('does not write behind memory it did not make', () => {
  const whole = counted([6]);
  const part = resized(whole.subarray(0, 2), [2], [4]);
  expect(Array.from(part)).toEqual([1, 2, 0, 0]);
  expect(Array.from(whole)).toEqual([1, 2, 3, 4, 5, 6]);
});

it('refuses more than one other axis', () => {
  expect(() => resized(counted([2, 2]), [2, 2], [3, 3])).toThrow('one axis');
  expect(() => resized(counted([4]), [4], [2, 2])).toThrow('one axis');
});
