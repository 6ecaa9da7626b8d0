/** Tensors on a GPU: every call gives what it gives on the CPU. */
import { expect, it } from 'vitest';
import { runOnWebgpu } from '../../test/support/webgpuProcess.ts';
import { blockRows } from './blockRows.ts';
import { blockRuns, copyRuns } from './blockRuns.ts';
import type { Block } from './types.ts';

it('does every call on WebGPU as on the CPU', async (context) => {
  type Seen = Readonly<Record<string, unknown>>;
  const result = await runOnWebgpu<{ readonly cpu: Seen; readonly webgpu: Seen }>('./webgpuTensors.ts');
  if ('reason' in result) {
    console.warn(`skipped: webgpu: ${result.reason}`);
    return context.skip(result.reason);
  }
  expect(Object.keys(result.cpu).length).toBeGreaterThan(10);
  expect(result.webgpu).toEqual(result.cpu);
}, 120_000);

it.each<readonly [readonly number[], readonly number[], readonly Block[], width: number]>([
  [[3, 4, 5], [3, 4, 5], [{ at: [] }], 60],
  [[4, 2, 6, 3], [1, 2, 2, 3], [{ at: [2, 0, 1] }], 3],
  [[4, 2, 6, 3], [1, 2, 2, 3], [0, 1].map((i) => ({ from: [0, 0, i], size: [1, 2, 1], at: [i, 0, 3] })), 3],
  [[5], [3], [{ at: [2] }], 1],
  [[], [], [{ at: [] }], 1],
  [[2, 3], [2, 3], [{ at: [0], size: [0] }], 3],
])('lists the rows of a copy to %j from %j', (toShape, fromShape, blocks, width) => {
  const counted = (shape: readonly number[], first: number) => {
    const size = shape.reduce((x, y) => x * y, 1);
    return { shape, data: Float32Array.from({ length: size }, (_, i) => first + i) };
  };
  const [expected, got, from] = [counted(toShape, 100), counted(toShape, 100), counted(fromShape, 0)];
  copyRuns(expected.data, from.data, blockRuns(toShape, fromShape, blocks));
  const rows = blockRows(toShape, fromShape, blocks);
  expect(rows.width).toBe(width);
  for (const [i, to] of rows.to.entries()) {
    const at = rows.from[i]! * width;
    got.data.set(from.data.subarray(at, at + width), to * width);
  }
  expect(got.data).toEqual(expected.data);
});

it('refuses blocks that do not fit', () => {
  expect(() => blockRows([2, 3], [2, 2], [{ at: [0, 2] }])).toThrow('does not fit');
});
