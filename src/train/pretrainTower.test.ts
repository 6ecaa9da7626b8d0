/** A tower that is shown pictures learns what patches show, and nothing else of the model changes. */
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type SmallBase, smallBase } from '../../test/support/smallBase.ts';
import { type Checkpoint, openCheckpoint } from '../checkpoint/folder.ts';
import { PATCH_CLASSES, PATCH_QUESTIONS, QUESTION_CLASSES } from '../data/synth/index.ts';
import { readFusionConfig } from '../model/config.ts';
import type { Asked } from '../model/patchPrograms.ts';
import { validateTensors } from '../model/weights.ts';
import { LocalDevice } from '../runtime/localDevice.ts';
import { type PretrainOptions, pretrainTower } from './pretrainTower.ts';

const TOWER = 'model.vision_tower.';
const device = new LocalDevice({ name: 'cpu', threads: 2 });
let small: SmallBase;
beforeAll(async () => {
  small = await smallBase();
});
afterAll(async () => {
  small.remove();
  await device.close();
});

async function pretrained(
  name: string,
  steps: number,
  seed = 3,
  asked: Asked = 'tower',
  batchSize = 2,
  more: Partial<Pick<PretrainOptions, 'single' | 'weights'>> = {},
) {
  const out = path.join(small.dir, name);
  const logged: (readonly [number, Readonly<Record<string, number>>])[] = [];
  const onLog = (step: number, losses: Readonly<Record<string, number>>) => logged.push([step, losses]);
  const options = { batchSize, learningRate: 3e-3, logEvery: 1, seed, steps, asked, onLog };
  const all = { device, base: small.base, out, single: false, weights: {}, ...options, ...more };
  await pretrainTower(all);
  return { out, logged, checkpoint: await openCheckpoint(out) };
}

/** The tensors that are not as in the base. */
async function changedIn(checkpoint: Checkpoint): Promise<string[]> {
  const base = await openCheckpoint(small.base);
  const changed: string[] = [];
  for (const name of base.tensors.keys()) {
    const [before, after] = [await base.readF32(name), await checkpoint.readF32(name)];
    if (before.some((x, i) => x !== after[i])) changed.push(name);
  }
  return changed;
}

it('begins no better than a guesser, learns, and changes the tower alone', async () => {
  const { out, logged, checkpoint } = await pretrained('learned', 40);
  const [first, last] = [logged[0]![1], logged.at(-1)![1]];
  expect(logged.map(([step]) => step)).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
  expect(Object.keys(first)).toEqual(['loss', ...PATCH_QUESTIONS]);
  const mean = PATCH_QUESTIONS.reduce((sum, question) => sum + first[question]! / PATCH_QUESTIONS.length, 0);
  expect(first.loss).toBeCloseTo(mean, 4);
  // One question alone may be lucky: few pictures are all of one tone.
  const guessing = PATCH_QUESTIONS.map(
    (question) => first[question]! / Math.log(PATCH_CLASSES[question].length),
  );
  expect(guessing.reduce((sum, each) => sum + each, 0) / guessing.length).toBeGreaterThan(0.9);
  expect(last.tone).toBeLessThan(0.8 * first.tone!);
  validateTensors(await readFusionConfig(out), checkpoint);
  const base = await openCheckpoint(small.base);
  expect([...checkpoint.tensors.keys()].sort()).toEqual([...base.tensors.keys()].sort());
  for (const name of base.tensors.keys()) {
    const [before, after] = [await base.readF32(name), await checkpoint.readF32(name)];
    if (!name.startsWith(TOWER)) expect(after, name).toEqual(before);
  }
  const kernel = [...base.tensors.keys()].find((name) => name.endsWith('patch_embedding.weight'))!;
  expect(await checkpoint.readF32(kernel)).not.toEqual(await base.readF32(kernel));
});

it('teaches the projector too where its features are asked', async () => {
  const { logged, checkpoint } = await pretrained('projected', 40, 3, 'projector');
  expect(logged.at(-1)![1].tone).toBeLessThan(0.8 * logged[0]![1].tone!);
  const changed = await changedIn(checkpoint);
  expect(changed).toContain('model.mm_projector.0.weight');
  expect(
    changed.filter((name) => !name.startsWith(TOWER) && !name.startsWith('model.mm_projector.')),
  ).toEqual([]);
});

it('teaches how a question is read too where whole pictures come with one', async () => {
  const { logged, checkpoint } = await pretrained('asked', 60, 3, 'question', 8);
  const [first, last] = [logged[0]![1], logged.at(-1)![1]];
  expect(Object.keys(first)).toEqual(['loss', ...PATCH_QUESTIONS, ...Object.keys(QUESTION_CLASSES)]);
  expect(last.tone).toBeLessThan(0.8 * first.tone!);
  expect(Object.values(last).every(Number.isFinite)).toBe(true);
  const changed = await changedIn(checkpoint);
  expect(changed).toContain('model.aux_projector.0.weight');
  expect(changed).toContain('model.embed_tokens.weight');
  expect(
    changed.filter((name) => /layers\.\d+\.(self_attn\.o_proj|mlp\.up)|lm_head|sampler/.test(name)),
  ).toEqual([]);
});

it('weighs questions, and asks one of each picture where it is told to', async () => {
  const lossesOf = async (name: string, more: Parameters<typeof pretrained>[5]) =>
    (await pretrained(name, 1, 3, 'question', 16, more)).logged[0]![1];
  const plain = await lossesOf('plain', {});
  const weighted = await lossesOf('weighted', { weights: { shape: 5, row: 3 } });
  const { loss: _, ...each } = plain;
  expect(weighted).toMatchObject(each);
  // What is added is in the sum once per weight; the mapping loss stands beside both means.
  const sum = Object.values(each).reduce((total, value) => total + value, 0);
  const count = Object.keys(each).length;
  const mean = (sum + 4 * each.shape! + 2 * each.row!) / (count + 6);
  expect(weighted.loss! - plain.loss!).toBeCloseTo(mean - sum / count, 4);
  const single = await lossesOf('single', { single: true });
  expect(single.meant).not.toBeCloseTo(plain.meant!, 3);
});

it('knows no other questions', async () => {
  await expect(pretrained('unknown', 1, 3, 'tower', 2, { weights: { sound: 2 } })).rejects.toThrow(
    'no question of patches is called "sound"; there are kind, shape',
  );
});

it('gives the same weights for the same seed, and others for another', async () => {
  const weights = async (name: string, seed: number) => {
    const { checkpoint } = await pretrained(name, 3, seed);
    return checkpoint.readF32(
      'model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight',
    );
  };
  const one = await weights('one', 3);
  expect(await weights('again', 3)).toEqual(one);
  expect(await weights('other', 4)).not.toEqual(one);
});
