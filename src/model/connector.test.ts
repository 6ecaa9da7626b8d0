/** Pooling and resizing against their definitions, written out. */
import { describe, expect, it } from 'vitest';
import { constant, program, type Tensor } from '../graph/index.ts';
import { LocalDevice } from '../runtime/localDevice.ts';
import type { FusionConfig } from './config.ts';
import { poolTiles, resizeImageTokens } from './connector.ts';

async function run(outputs: Record<string, Tensor>) {
  const executable = await new LocalDevice({ threads: 1 }).load(program('connector', outputs));
  return (await executable.run({})).outputs;
}

/** Only what the connector reads. */
const configOf = (grid: number, window: number, imageTokensSide?: number) =>
  ({ vision: { grid, patches: grid ** 2 }, interaction: { window }, imageTokensSide }) as FusionConfig;

const value = (y: number, x: number) => Math.sin(y * 12.9 + x * 78.2) * 10;

describe.each([
  { grid: 3, side: 2, window: 1 },
  { grid: 4, side: 2, window: 3 },
  { grid: 8, side: 2, window: 3 },
  { grid: 5, side: 3, window: 2 },
])('poolTiles $grid², a = $side, w = $window', ({ grid, side, window }) => {
  /** Tile by tile, row by row. */
  const features = Float32Array.from({ length: 4 * grid * grid }, (_, i) => {
    const [tile, cell] = [Math.floor(i / grid ** 2), i % grid ** 2];
    return value((tile >> 1) * grid + Math.floor(cell / grid), (tile & 1) * grid + (cell % grid));
  });
  const pooled = (cells: number, row: number, column: number) => {
    const bounds = (i: number) =>
      [Math.floor((i * 2 * grid) / cells), Math.ceil(((i + 1) * 2 * grid) / cells)] as const;
    let best = -Infinity;
    for (let y = bounds(row)[0]; y < bounds(row)[1]; y++) {
      for (let x = bounds(column)[0]; x < bounds(column)[1]; x++) best = Math.max(best, value(y, x));
    }
    return Math.fround(best);
  };

  it('is adaptive max pooling of the 2g×2g grid', async () => {
    const config = configOf(grid, window);
    const { latents, windows } = poolTiles(
      constant(features, 'f32', [1, 4 * grid ** 2, 1]),
      config,
      side ** 2,
    );
    const got = await run({ latents, windows });
    const order = Array.from({ length: side ** 2 }, (_, i) => [Math.floor(i / side), i % side] as const);
    expect([...got.latents!.data]).toEqual(order.map(([y, x]) => pooled(side, y, x)));
    const cells = order.flatMap(([y, x]) =>
      Array.from({ length: window ** 2 }, (_, k) =>
        pooled(side * window, y * window + Math.floor(k / window), x * window + (k % window)),
      ),
    );
    expect([...got.windows!.data]).toEqual(cells);
  });
});

describe('resizeImageTokens', () => {
  const tokens = (grid: number) =>
    constant(
      Float32Array.from({ length: grid ** 2 }, (_, i) => i),
      'f32',
      [1, grid ** 2, 1],
    );

  it('halves by averaging neighbours', async () => {
    const got = await run({ y: resizeImageTokens(tokens(4), configOf(4, 1, 2)) });
    expect([...got.y!.data]).toEqual([2.5, 4.5, 10.5, 12.5]);
  });

  it('keeps a plane a plane between the centres of the border', async () => {
    const got = await run({ y: resizeImageTokens(tokens(3), configOf(3, 1, 2)) });
    expect([...got.y!.data].map((x) => Math.round(Number(x) * 1e4) / 1e4)).toEqual([1, 2.5, 5.5, 7]);
  });

  it('leaves the tokens alone where no side is set', () => {
    const x = tokens(3);
    expect(resizeImageTokens(x, configOf(3, 1))).toBe(x);
  });
});
