import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type SmallBase, smallBase } from '../../test/support/smallBase.ts';
import { readFusionConfig } from '../model/config.ts';
import type { EncodedSample } from './batch.ts';
import { readTrainConfig } from './config.ts';
import { openEncoder, openSource } from './openSource.ts';
import { type Encoder, type SampleSource, SynthSource } from './source.ts';
import { totalStepsOf } from './train.ts';

const EASY = { maxObjects: 2, shapes: 2, colours: 2, words: false, textures: false };
const RECIPES = [
  { categories: [['SynthColor', 1]], count: 6, seed: 5, imageSize: 64, options: EASY },
  { categories: [['TextQA', 1]], count: 4, seed: 5, imageSize: 64, options: {} },
] as const;
const TINY = fileURLToPath(new URL('../../configs/train/tiny.yaml', import.meta.url));

let made: SmallBase;
let encoder: Encoder;
beforeAll(async () => {
  made = await smallBase();
  encoder = await openEncoder(await readFusionConfig(made.base), made.base);
});
afterAll(() => made.remove());

async function take(source: SampleSource, batches: number): Promise<EncodedSample[]> {
  const all: EncodedSample[] = [];
  for (let i = 0; i < batches; i++) all.push(...(await source.next()));
  return all;
}
const category = ({ id }: EncodedSample) => id.split('-')[0];

test('recipes take turns, and begin again with new samples', async () => {
  const source = new SynthSource(RECIPES, encoder, 4);
  expect(source).toMatchObject({ count: 10, batchesPerEpoch: 2.5 });
  const samples = await take(source, 5);
  await source.close();
  const epoch = [...Array(6).fill('SynthColor'), ...Array(4).fill('TextQA')];
  expect(samples.map(category)).toEqual([...epoch, ...epoch]);
  expect(new Set(samples.map(({ id }) => id)).size).toBe(20);
});

test('deals samples by length: the same ones, each batch of similar length, and goes on where it was', async () => {
  const recipes = [
    { categories: [['ConvLong', 1]], count: 40, seed: 5, imageSize: 64, options: { extraTurns: 4 } },
  ] as const;
  const lengthsOf = (all: readonly EncodedSample[]) => all.map(({ inputIds }) => inputIds.length);
  const plain = new SynthSource(recipes, encoder, 4);
  const grouped = new SynthSource(recipes, encoder, 4, true);
  const [one, other] = [await take(plain, 10), await take(grouped, 10)];
  expect(other.map(({ id }) => id).sort()).toEqual(one.map(({ id }) => id).sort());
  const padding = (all: readonly EncodedSample[]) =>
    Array.from({ length: 8 }, (_, b) => Math.max(...lengthsOf(all.slice(4 * b, 4 * b + 4))) * 4).reduce(
      (a, b) => a + b,
      0,
    );
  expect(padding(other)).toBeLessThan(0.85 * padding(one));
  const resumed = new SynthSource(recipes, encoder, 4, true);
  resumed.restore({ ...plain.state(), position: 20 });
  expect((await take(resumed, 5)).map(({ id }) => id)).toEqual(other.slice(20).map(({ id }) => id));
  for (const source of [plain, grouped, resumed]) await source.close();
});

test('goes on in the middle of a curriculum as if it had never stopped', async () => {
  const whole = new SynthSource(RECIPES, encoder, 4);
  const [first] = [await take(whole, 1)];
  const state = JSON.parse(JSON.stringify(whole.state()));
  const rest = await take(whole, 2);
  const resumed = new SynthSource(RECIPES, encoder, 4);
  resumed.restore(state);
  expect(await take(resumed, 2)).toEqual(rest);
  expect(rest.map(category)).not.toEqual(first?.map(category));
  await Promise.all([whole.close(), resumed.close()]);
});

test('configs/train/tiny.yaml: 152,000 samples, captions before questions, answers alone supervised', async () => {
  const stages = await readTrainConfig(TINY);
  expect(stages.map(({ stage }) => stage)).toEqual(['1', '1.5', '2']);
  expect(new Set(stages.map(({ seed }) => seed)).size).toBe(3);
  const kinds: Set<string>[] = [];
  let samples = 0;
  for (const stage of stages) {
    const source = await openSource(stage, encoder, made.dir);
    samples += stage.batch_size * totalStepsOf(stage, source.batchesPerEpoch);
    const first = await take(source, 8);
    await source.close();
    kinds.push(new Set(first.map(({ id }) => (id.startsWith('Synth') ? 'caption' : 'question'))));
    for (const { inputIds, labels } of first) {
      const supervised = labels.filter((label) => label >= 0).length;
      expect(supervised).toBeGreaterThan(1);
      expect(supervised).toBeLessThan(inputIds.length - 5);
    }
  }
  expect(samples).toBe(152_000);
  expect(kinds.map((set) => [...set].sort())).toEqual([['caption'], ['question'], ['question']]);
});
