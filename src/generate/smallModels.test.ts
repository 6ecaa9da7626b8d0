/** A small model answers with one thread, a large one with all cores. */
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { benchShape } from '../../bench/shapes.ts';
import { readFusionConfig } from '../model/config.ts';
import { answeringThreads, isSmall } from './smallModels.ts';

it('tells models apart by their parameters', async () => {
  const tiny = await readFusionConfig(fileURLToPath(new URL('../../models/tiny', import.meta.url)));
  const { config: mid } = benchShape('mid');
  expect([isSmall(tiny), isSmall(mid)]).toEqual([true, false]);
  expect([answeringThreads(tiny), answeringThreads(mid)]).toEqual([1, availableParallelism()]);
});
