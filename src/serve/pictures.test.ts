import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { GOLDEN } from '../../test/support/checkpoints.ts';
import { UserError } from '../common/errors.ts';
import { staticHdCrops } from '../data/image.ts';
import { readImage } from '../data/imageFile.ts';
import { pictureOfCrops } from '../generate/picture.ts';
import { Pictures } from './pictures.ts';

const file = join(GOLDEN, 'images/baseline.jpg');
const bytes = readFileSync(file);
const pictures = new Pictures();
afterAll(() => pictures.close());

test('pictures are what they are in this thread, and errors as well', async () => {
  const expected = pictureOfCrops(staticHdCrops(await readImage(file), 16));
  const [good, bad, again] = await Promise.allSettled([
    pictures.open(bytes, 16, 1e6),
    pictures.open(bytes.subarray(0, 2000), 16, 1e6),
    pictures.open(bytes, 16, 1e6),
  ]);
  expect(good).toEqual({ status: 'fulfilled', value: expected });
  expect(again).toEqual(good);
  expect(bad).toMatchObject({ status: 'rejected', reason: expect.any(UserError) });
  await expect(pictures.open(bytes, 16, 10)).rejects.toThrow(/at most 10 pixels/);
});

test('the picture of a later turn is at hand; the one not seen for longest goes', async () => {
  const size = 4 * 5 * 3 * 16 * 16;
  const own = new Pictures(2 * size);
  const open = (file: Uint8Array) => own.open(file, 16, 1e6);
  const other = readFileSync(join(GOLDEN, 'images/progressive.jpg'));
  const [first, second] = [await open(bytes), await open(other)];
  expect(await open(bytes)).toBe(first);
  expect(await own.open(bytes, 8, 1e6)).not.toEqual(first);
  expect(await open(bytes)).toBe(first);
  const third = readFileSync(join(GOLDEN, 'images/gray.png'));
  await open(third);
  const again = await open(other);
  expect(again).not.toBe(second);
  expect(again).toEqual(second);
  await own.close();
});

test('closing waits for what is under way; what comes later starts anew', async () => {
  const under = pictures.open(bytes, 16, 1e6);
  await pictures.close();
  await expect(under).resolves.toHaveProperty('crops');
  await expect(pictures.open(bytes, 16, 1e6)).resolves.toHaveProperty('crops');
});
