/** How many threads answering takes. Knows sizes, not devices. */
import { availableParallelism } from 'node:os';
import type { FusionConfig } from '../model/config.ts';
import { expectedTensors } from '../model/weights.ts';

/**
 * Below so many parameters one thread answers faster than two: the products of a step take microseconds, and handing
 * out parts of them as long. (`npm run bench -- serve --threads N` measures it; batches of many samples are another
 * matter.)
 */
const SMALL = 20e6;

/** Threads for answers one at a time or a few together: all cores, or one for a small model. */
export function answeringThreads(config: FusionConfig): number {
  let parameters = 0;
  for (const shape of expectedTensors(config).values()) parameters += shape.reduce((a, b) => a * b, 1);
  return parameters < SMALL ? 1 : availableParallelism();
}
