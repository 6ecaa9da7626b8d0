import { expect, test } from 'vitest';
import { Random } from '../common/random.ts';
import { input, program } from '../graph/index.ts';
import type { FusionConfig } from '../model/config.ts';
import { poolTiles } from '../model/connector.ts';
import { LocalDevice } from '../runtime/localDevice.ts';
import { lastRows, type Maps, mapAt, mapsOf, meanOver, transposeRows, windowMaps } from './attentionMaps.ts';

const counted = (...shape: number[]): Maps => ({
  shape,
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i),
});

test('a map is found by its indices', () => {
  expect(mapAt(counted(2, 3, 2, 2), 1, 2)).toEqual({ shape: [2, 2], data: Float32Array.of(20, 21, 22, 23) });
  expect(mapAt(counted(2, 2), 1, 0)).toEqual({ shape: [], data: Float32Array.of(2) });
});

test.each([
  [0, [3, 2], [6, 7, 8, 9, 10, 11]],
  [1, [2, 2], [2, 3, 8, 9]],
  [2, [2, 3], [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]],
])('the mean over axis %i', (axis, shape, values) => {
  const first = axis === 0 ? values.map((x) => x - 3) : values;
  expect(meanOver(counted(2, 3, 2), axis)).toEqual({ shape, data: Float32Array.from(first) });
  expect(meanOver({ shape: [0, 2], data: new Float32Array() }, 0).data).toEqual(Float32Array.of(0, 0));
});

test('rows are turned and cut', () => {
  expect(transposeRows(counted(2, 2, 3))).toEqual({
    shape: [2, 3, 2],
    data: Float32Array.of(0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11),
  });
  expect(lastRows(counted(2, 3, 2), 2)).toEqual({
    shape: [2, 2, 2],
    data: Float32Array.of(2, 3, 4, 5, 8, 9, 10, 11),
  });
});

test('an output that is not there is a bug', () => {
  expect(() => mapsOf(undefined)).toThrow('internal: attention');
});

/** For each latent and cell of its window the places of the 2g×2g grid that the model pools into it. */
async function pooledPlaces(grid: number, window: number, latents: number) {
  const places = 4 * grid ** 2;
  const config = { interaction: { window }, vision: { grid, patches: grid ** 2 } } as FusionConfig;
  const features = input('features', 'f32', [1, places, places]);
  const { windows } = poolTiles(features, config, latents);
  const executable = await new LocalDevice({ threads: 1 }).load(program('pool', { windows }));
  // Row r is one at column r: a cell's maximum is one at the rows it was pooled from.
  const identity = Float32Array.from({ length: places ** 2 }, (_, i) => (i % (places + 1) === 0 ? 1 : 0));
  const run = await executable.run({
    features: { dtype: 'f32', shape: [1, places, places], data: identity },
  });
  const pooled = run.outputs.windows?.data as Float32Array;
  const rowOf = (place: number) => {
    const [y, x] = [Math.floor(place / (2 * grid)), place % (2 * grid)];
    const tile = Math.floor(y / grid) * 2 + Math.floor(x / grid);
    return tile * grid ** 2 + (y % grid) * grid + (x % grid);
  };
  return (cell: number, place: number) => pooled[cell * places + rowOf(place)] === 1;
}

test.each([
  [4, 2, 4],
  [3, 3, 4],
  [4, 3, 9],
  [2, 3, 16],
])(
  'grid %i, window %i, %i latents: weights lie where the model pooled from',
  async (grid, window, latents) => {
    const isPooled = await pooledPlaces(grid, window, latents);
    const [side, cells] = [2 * grid, window ** 2];
    for (let cell = 0; cell < latents * cells; cell++) {
      const latent = Math.floor(cell / cells);
      const weights = new Float32Array(latents * cells);
      weights[cell] = 0.5;
      const maps = windowMaps({ shape: [1, latents, cells], data: weights }, side);
      expect(maps.shape).toEqual([1, latents, side, side]);
      const { data } = mapAt(maps, 0, latent);
      const expected = Array.from(data, (_, place) => isPooled(cell, place));
      const count = expected.filter((inside) => inside).length;
      expect(Array.from(data)).toEqual(expected.map((inside) => Math.fround(inside ? 0.5 / count : 0)));
      expect(maps.data.filter((x) => x !== 0)).toHaveLength(count);
    }
  },
);

test('a map sums to what its window sums to', () => {
  const data = new Float32Array(2 * 9 * 9);
  new Random(2).fillNormal(data, 1);
  const maps = windowMaps({ shape: [2, 9, 9], data }, 8);
  const sum = (x: Float32Array) => x.reduce((a, b) => a + b, 0);
  for (let i = 0; i < 18; i++) {
    expect(sum(mapAt(maps, Math.floor(i / 9), i % 9).data)).toBeCloseTo(
      sum(data.subarray(i * 9, (i + 1) * 9)),
      5,
    );
  }
});
