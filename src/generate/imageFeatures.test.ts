import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { copyCheckpoint, goldenPixels } from '../../test/support/checkpoints.ts';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import type { ProgressEvent } from '../common/progress.ts';
import { ImageFeatures } from './imageFeatures.ts';
import { type FusionModel, loadModel } from './model.ts';
import { pictureOf, pictureOfCrops } from './picture.ts';

/** Bytes of one picture's features in this model: 4 tiles of 64 patches, width 64. */
const PICTURE_BYTES = 4 * 64 * 64 * 4;

const checkpoint = copyCheckpoint();
const device = new CountingDevice();
let model: FusionModel;
beforeAll(async () => {
  model = await loadModel(checkpoint.dir, { device });
});
afterAll(async () => {
  await model.dispose();
  checkpoint.remove();
  expect(device.live).toBe(0);
});
beforeEach(() => {
  device.runs.length = 0;
  device.afterRun = () => {};
});

const pictureNumber = (n: number) => pictureOfCrops(goldenPixels(64).map((x) => x * (1 + n)));
const featuresWithin = (limit: number) => new ImageFeatures(device, model.config, model.programs, { limit });

test('a picture is encoded once, tile by tile, with progress', async () => {
  const images = featuresWithin(PICTURE_BYTES);
  const events: ProgressEvent[] = [];
  const first = await images.tiles(pictureNumber(0), { onProgress: (event) => events.push(event) });
  await first.release();
  expect(device.runs).toEqual(['encode_tile', 'encode_tile', 'encode_tile', 'encode_tile']);
  expect(events.map(({ done, total }) => [done, total])).toEqual([0, 1, 2, 3].map((done) => [done, 5]));
  const second = await images.tiles(pictureNumber(0));
  expect(second.features).toBe(first.features);
  expect(device.runs).toHaveLength(4);
  await images.dispose();
});

test('the tiles stand one after the other, each as it is encoded alone', async () => {
  const images = featuresWithin(0);
  const picture = pictureNumber(0);
  const held = await images.tiles(picture);
  const { data } = await device.download(held.features);
  const size = 3 * 64 * 64;
  const program = await model.programs.tile();
  for (let tile = 0; tile < 4; tile++) {
    const pixels = picture.crops.slice(tile * size, (tile + 1) * size);
    const { outputs } = await program.run({
      tile_pixels: { dtype: 'f32', shape: [1, 3, 64, 64], data: pixels },
    });
    const width = 64 * 64;
    expect(data.slice(tile * width, (tile + 1) * width)).toEqual(outputs.features?.data);
  }
  await held.release();
  expect(images.size).toBe(0);
});

test('tiles of one run are what they are one by one', async () => {
  const picture = pictureNumber(0);
  const values = async (tilesAtOnce: 1 | 2 | 4) => {
    const { device, config, programs } = model;
    const images = new ImageFeatures(device, config, programs, { limit: 0, tilesAtOnce });
    const held = await images.tiles(picture);
    const { data } = await device.download(held.features);
    await held.release();
    return data;
  };
  const oneByOne = await values(1);
  device.runs.length = 0;
  expect(await values(2)).toEqual(oneByOne);
  expect(device.runs).toHaveLength(2);
  expect(await values(4)).toEqual(oneByOne);
  expect(device.runs).toHaveLength(3);
});

test('blank tiles are encoded once and are all alike', async () => {
  const images = featuresWithin(PICTURE_BYTES);
  const held = await images.tiles(undefined);
  expect(device.runs).toEqual(['encode_tile']);
  const { data } = await device.download(held.features);
  const parts = [0, 1, 2, 3].map((tile) => data.slice(tile * 4096, (tile + 1) * 4096));
  expect(parts[0]?.some((value) => value !== 0)).toBe(true);
  for (const part of parts) expect(part).toEqual(parts[0]);
  await images.dispose();
});

test('what was used longest ago is freed first, and nothing in use', async () => {
  const images = featuresWithin(2 * PICTURE_BYTES);
  const before = device.live;
  const use = async (n: number) => (await images.tiles(pictureNumber(n))).release();
  const held = await images.tiles(pictureNumber(0));
  for (const n of [1, 2, 1, 3]) await use(n);
  // 0 is in use, 1 was used after 2, and 3 came last: room is left for one beside 0.
  expect(device.live - before).toBe(2);
  device.runs.length = 0;
  await use(0);
  await use(3);
  expect(device.runs).toHaveLength(0);
  await use(2);
  expect(device.runs).toHaveLength(4);
  await held.release();
  await images.dispose();
  expect(device.live).toBe(before);
});

test('a signal stops between tiles and leaves nothing', async () => {
  const images = featuresWithin(PICTURE_BYTES);
  const before = device.live;
  const stopper = new AbortController();
  device.afterRun = () => device.runs.length === 2 && stopper.abort(new Error('enough'));
  await expect(images.tiles(pictureNumber(5), { signal: stopper.signal })).rejects.toThrow('enough');
  expect(device.runs).toHaveLength(2);
  expect([device.live, images.size]).toEqual([before, 0]);
});

test('two answers that encode the same picture at once keep one copy', async () => {
  const images = featuresWithin(PICTURE_BYTES);
  const before = device.live;
  const [a, b] = await Promise.all([images.tiles(pictureNumber(0)), images.tiles(pictureNumber(0))]);
  expect(a.features).toBe(b.features);
  expect(device.live - before).toBe(1);
  await images.dispose();
});

test('equal pixels have equal keys, and an image object is cut once', () => {
  const image = { width: 2, height: 1, data: Uint8Array.of(1, 2, 3, 4, 5, 6) };
  const picture = pictureOf(image, model.config.vision);
  expect(pictureOf(image, model.config.vision)).toBe(picture);
  expect(pictureOf({ ...image }, model.config.vision).key).toBe(picture.key);
  const other = { ...image, data: Uint8Array.of(1, 2, 3, 4, 5, 60) };
  expect(pictureOf(other, model.config.vision).key).not.toBe(picture.key);
});
