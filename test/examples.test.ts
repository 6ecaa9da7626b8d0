/** The pictures in `examples/` are what the documentation says they are. */
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { readImage } from '../src/data/imageFile.ts';
import { renderScene, sampleAt } from '../src/data/synth/index.ts';

const SCENE = fileURLToPath(new URL('../examples/scene.png', import.meta.url));

it('scene.png is sample 2 of the test split with seed 263, with two red circles', async () => {
  const { scene } = sampleAt('ConvShort', 'test', 263, 2);
  const red = scene.panels[0].objects.filter(({ shape, colour }) => shape === 'circle' && colour === 'red');
  expect(red).toHaveLength(2);
  const [file, drawn] = [await readImage(SCENE), await renderScene(scene, 384)];
  expect([file.width, file.height]).toEqual([384, 384]);
  const difference = drawn.data.reduce((sum, value, i) => sum + Math.abs(value - (file.data[i] ?? 0)), 0);
  expect(difference / drawn.data.length).toBeLessThan(0.5);
});
