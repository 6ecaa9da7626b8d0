/** Pictures encoded on a device of their own give the same features, and the model's device only what it needs. */
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { readFusionConfig } from '../model/config.ts';
import { type FusionModel, loadModel } from './model.ts';
import { openImage, type Picture, pictureOf } from './picture.ts';

const at = (name: string) => fileURLToPath(new URL(`../../${name}`, import.meta.url));
const TINY = at('models/tiny');

/** The features of a picture's tiles and of its whole crop, and which programs ran on the model's device. */
async function look(separateVision: boolean, picture: Picture | undefined) {
  const device = new CountingDevice();
  const model: FusionModel = await loadModel(TINY, { device, separateVision });
  const held = await model.images.tiles(picture);
  const tokens = await model.images.whole(picture, Int32Array.of(3, 4, 5));
  const tiles = (await device.download(held.features)).data;
  const whole = (await device.download(tokens)).data;
  await device.free([tokens]);
  await held.release();
  await model.dispose();
  expect(device.live).toBe(0);
  return { tiles, whole, runs: device.runs };
}

test.skipIf(availableParallelism() < 2)(
  'a second device makes the same features, and leaves the first to decode',
  async () => {
    const { vision } = await readFusionConfig(TINY);
    const scene = pictureOf(await openImage(at('examples/scene.png')), vision);
    for (const picture of [scene, undefined]) {
      const apart = await look(true, picture);
      const together = await look(false, picture);
      expect(apart.tiles.some((x) => x !== 0)).toBe(true);
      expect(apart.tiles).toEqual(together.tiles);
      expect(apart.whole).toEqual(together.whole);
      expect(apart.runs).toEqual([]);
      expect(together.runs.length).toBeGreaterThan(0);
    }
  },
);
