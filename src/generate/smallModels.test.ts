/** A small model answers with one thread, a large one with all cores. */
import { copyFileSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { benchShape } from '../../bench/shapes.ts';
import { ask, load } from '../index.ts';
import { readFusionConfig } from '../model/config.ts';
import { answeringThreads, hasConstantWeights, isSmall } from './smallModels.ts';

const TINY = fileURLToPath(new URL('../../models/tiny', import.meta.url));

it('tells models apart by their parameters', async () => {
  const tiny = await readFusionConfig(TINY);
  const { config: mid } = benchShape('mid');
  expect([isSmall(tiny), isSmall(mid)]).toEqual([true, false]);
  expect([answeringThreads(tiny), answeringThreads(mid)]).toEqual([1, availableParallelism()]);
});

it('has weights as constants where their copies are a small part of the free memory', async () => {
  const tiny = await readFusionConfig(TINY);
  const { config: mid } = benchShape('mid');
  const free = (available: number) => ({ available, total: 64e9 });
  // 66 million parameters, 0.79 GB three times.
  expect([hasConstantWeights(mid, free(3.3e9)), hasConstantWeights(mid, free(3e9))]).toEqual([true, false]);
  expect(hasConstantWeights(tiny, free(1e8))).toBe(true);
});

it('answers from a folder of links, as the hub’s cache has them', async () => {
  const dir = mkdtempSync(path.join(tmpdir(), 'fusion-links-'));
  for (const file of ['config.json', 'tokenizer.json', 'tokenizer_config.json']) {
    copyFileSync(path.join(TINY, file), path.join(dir, file));
  }
  symlinkSync(path.join(TINY, 'model.safetensors'), path.join(dir, 'model.safetensors'));
  const model = await load(dir);
  expect((await ask(model, { text: 'Describe the picture.' })).tokens.length).toBeGreaterThan(0);
  await model.dispose();
  rmSync(dir, { recursive: true });
});
