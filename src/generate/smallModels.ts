/**
 * What is done otherwise for a small model: it answers with one thread, and its programs have their weights as constants
 * (more memory, faster steps), as those of larger ones where there is memory to spare. Knows sizes, not devices.
 */
import { availableParallelism } from 'node:os';
import { type MachineMemory, machineMemory } from '../common/machineMemory.ts';
import type { FusionConfig } from '../model/config.ts';
import { weightsInMemory } from './memoryNeeds.ts';

/**
 * Bytes of the weights, 20 million, of the smallest model that is not small. Below it one thread answers faster than two: the products of a
 * step take microseconds, and handing out parts of them as long (`npm run bench -- serve --threads N` measures it;
 * batches of many samples are another matter).
 */
const SMALL = 20e6 * Float32Array.BYTES_PER_ELEMENT;

/**
 * Weights in memory, of which there are two copies where they are constants: the tower's in the programs of tiles and of
 * the whole crop, the decoder's in those of prompts and of steps.
 */
const COPIES = 3;
/** The part of the free memory that these may take. */
const SPARE = 1 / 4;

/** Whether all weights together are few. */
export const isSmall = (config: FusionConfig): boolean => weightsInMemory(config, undefined) < SMALL;

/**
 * Whether programs are to have the weights as constants, which their kernels then find in the order they want: steps of
 * one position are a fourth faster.
 */
export function hasConstantWeights(config: FusionConfig, memory: MachineMemory = machineMemory()): boolean {
  return isSmall(config) || COPIES * weightsInMemory(config, undefined) <= SPARE * memory.available;
}

/** Threads for answers one at a time or a few together: all cores, or one for a small model. */
export function answeringThreads(config: FusionConfig): number {
  return isSmall(config) ? 1 : availableParallelism();
}
