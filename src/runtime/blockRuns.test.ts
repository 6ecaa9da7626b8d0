import { describe, expect, it } from 'vitest';
import { blockRuns, copyRuns } from './blockRuns.ts';
import type { Block } from './types.ts';

describe('copies of blocks', () => {
  type Elements = ReturnType<typeof counted>;
  const copy = (to: Elements, from: Elements, block: Block) =>
    copyRuns(to.data, from.data, blockRuns(to.shape, from.shape, [block]));
  const counted = (...shape: number[]) => {
    const size = shape.reduce((x, y) => x * y, 1);
    return { shape, data: Float32Array.from({ length: size }, (_, i) => i + 1) };
  };
  const zeros = (...shape: number[]) => ({ shape, data: counted(...shape).data.fill(0) });
  const indices = (shape: readonly number[]): number[][] =>
    shape.reduce<number[][]>(
      (all, n) => all.flatMap((head) => Array.from({ length: n }, (_, i) => [...head, i])),
      [[]],
    );
  const at = ({ shape, data }: ReturnType<typeof counted>, index: readonly number[]) =>
    data[index.reduce((sum, i, axis) => sum * shape[axis]! + i, 0)];

  it.each([
    [[3, 4, 5], [3, 4, 5], { at: [] }],
    [[2, 3, 2], [2, 1, 2], { at: [0, 1] }],
    [[4, 2, 6, 3], [3, 2, 1, 3], { at: [2, 0, 5], from: [1], size: [1] }],
    [[2, 3, 4], [3, 3, 5], { at: [1, 0, 1], from: [0, 2, 3], size: [1, 1, 2] }],
    [[2, 3, 80], [1, 3, 70], { at: [1, 0, 10] }],
    [[5], [3], { at: [2] }],
    [[], [], { at: [] }],
  ])('to %j from %j: %j', (toShape, fromShape, block: Block) => {
    const [to, from] = [zeros(...toShape), counted(...fromShape)];
    copy(to, from, block);
    const start = fromShape.map((_, axis) => block.from?.[axis] ?? 0);
    const size = fromShape.map((dim, axis) => block.size?.[axis] ?? dim - start[axis]!);
    for (const index of indices(toShape)) {
      const inner = index.map((i, axis) => i - (block.at[axis] ?? 0));
      const inside = inner.every((i, axis) => i >= 0 && i < size[axis]!);
      const source = inner.map((i, axis) => i + start[axis]!);
      expect(at(to, index)).toBe(inside ? at(from, source) : 0);
    }
  });

  it('rejects what does not fit', () => {
    const [to, from] = [zeros(2, 3), counted(2, 2)];
    expect(() => copy(to, from, { at: [0, 2] })).toThrow(
      'copy of [2,2] at [0,0] of [2,2] to [0,2] of [2,3] does not fit',
    );
    for (const block of [
      { at: [0, -1] },
      { at: [], from: [1], size: [2] },
      { at: [], from: [-1] },
      { at: [], size: [-1] },
      { at: [], from: [3] },
    ]) {
      expect(() => copy(to, from, block)).toThrow('does not fit');
    }
    expect(() => copy(to, counted(2), { at: [] })).toThrow('does not fit');
    expect(to.data).toEqual(new Float32Array(6));
  });
});
