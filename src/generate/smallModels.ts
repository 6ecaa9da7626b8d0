/**
 * What is done otherwise for a small model: it answers with one thread, its programs have their weights as constants
 * (more memory, faster steps), and its cache grows by few slots. Knows sizes, not devices.
 */
import { availableParallelism } from 'node:os';
import type { FusionConfig } from '../model/config.ts';
import { expectedTensors } from '../model/weights.ts';
import { CACHE_BLOCK } from './kvCache.ts';

/**
 * Parameters of the smallest model that is not small. Below it one thread answers faster than two: the products of a
 * step take microseconds, and handing out parts of them as long (`npm run bench -- serve --threads N` measures it;
 * batches of many samples are another matter).
 */
const SMALL = 20e6;

/** Whether all weights together are few. */
export function isSmall(config: FusionConfig): boolean {
  let parameters = 0;
  for (const shape of expectedTensors(config).values()) parameters += shape.reduce((a, b) => a * b, 1);
  return parameters < SMALL;
}

/** Threads for answers one at a time or a few together: all cores, or one for a small model. */
export function answeringThreads(config: FusionConfig): number {
  return isSmall(config) ? 1 : availableParallelism();
}

/** Slots by which rows of the cache grow: a step of a small model takes mostly the reading of them, used or not. */
export function cacheBlock(config: FusionConfig): number {
  return isSmall(config) ? CACHE_BLOCK / 4 : CACHE_BLOCK;
}
