/** `--image-tokens`: a shorter image sequence than the model was trained with, in every kind of model. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { GOLDEN } from '../../test/support/checkpoints.ts';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { type RandomModel, randomModel } from '../../test/support/randomModel.ts';
import { convertFolder } from '../checkpoint/quantise/convert.ts';
import { partFormats } from '../checkpoint/quantise/formats.ts';
import { ask } from './chat.ts';
import { withImageTokens } from './limits.ts';
import { type LoadOptions, loadModel } from './model.ts';

const QUESTION = { text: 'What is this?', image: join(GOLDEN, 'images/baseline.jpg') };
/** Patches of the model: 8 × 8. */
const PATCHES = 64;

let made: RandomModel;
/** The same weights with `image_tokens_side` 4 in config.json. */
let short: RandomModel;
beforeAll(async () => {
  made = await randomModel();
  short = await randomModel();
  const file = join(short.dir, 'config.json');
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), image_tokens_side: 4 }));
});
afterAll(async () => {
  await made.remove();
  await short.remove();
});

async function answer(dir: string, options: LoadOptions = {}) {
  const model = await loadModel(dir, { ...options, device: new CountingDevice(), threads: 1 });
  try {
    const { tokens, promptTokens } = await ask(model, QUESTION, { maxTokens: 5 });
    return { tokens, promptTokens, warnings: model.warnings };
  } finally {
    await model.dispose();
  }
}

it('answers as a model whose config says so, and says that it was trained otherwise', async () => {
  const whole = await answer(made.dir);
  const fewer = await answer(made.dir, { imageTokens: 16 });
  expect(fewer.promptTokens).toBe(whole.promptTokens - PATCHES + 16);
  const { warnings, ...told } = await answer(short.dir);
  expect(fewer).toEqual({ ...told, warnings: ['image tokens 16: the model was trained with 64'] });
  expect(warnings).toEqual([]);
  // A model that was trained with few reads the whole sequence, too.
  expect((await answer(short.dir, { imageTokens: PATCHES })).tokens).toEqual(whole.tokens);
});

it('so do converted models, also those that are converted now', async () => {
  process.env.FUSION_CACHE = join(made.root, 'cache');
  const out = join(made.root, 'f32');
  await convertFolder({ source: made.dir, out, formats: partFormats('f32'), threads: 1 });
  const expected = await answer(made.dir, { imageTokens: 16 });
  expect(await answer(out, { imageTokens: 16 })).toEqual(expected);
  const now = await answer(made.dir, { imageTokens: 16, weights: 'int8' });
  expect([now.promptTokens, now.warnings]).toEqual([expected.promptTokens, expected.warnings]);
  delete process.env.FUSION_CACHE;
});

it.each([0, -4, 2, 63, 2.25, 81, Number.NaN])('%d is refused', async (imageTokens) => {
  await expect(loadModel(made.dir, { imageTokens })).rejects.toThrow(
    /^image tokens: expected a perfect square from 1 to 64, got .*; this model was trained with 64$/,
  );
});

it('the number the model has changes nothing', async () => {
  const model = await loadModel(made.dir, { device: new CountingDevice(), imageTokens: PATCHES });
  expect(withImageTokens(model.config, undefined).config).toBe(model.config);
  expect(model.config.imageTokensSide).toBeUndefined();
  expect(model.warnings).toEqual([]);
  await model.dispose();
});
