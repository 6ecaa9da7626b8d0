/**
 * The thread that updates a share of the weights by AdamW. Arrays come and go without a copy: their memory moves
 * here with the request and back with the answer.
 */
import { parentPort } from 'node:worker_threads';
import { adamW, buffersOf } from './kernels.ts';
import type { AdamWOptions } from './types.ts';

/** One weight, its gradient and moments, all of one size. */
export interface AdamWArrays {
  readonly weight: Float32Array;
  readonly gradient: Float32Array;
  readonly first: Float32Array;
  readonly second: Float32Array;
  readonly learningRate: number;
  readonly weightDecay: number;
}

export interface AdamWRequest {
  readonly arrays: readonly AdamWArrays[];
  readonly options: AdamWOptions;
}

parentPort?.on('message', ({ arrays, options }: AdamWRequest) => {
  for (const { weight, gradient, first, second, ...rates } of arrays) {
    adamW(weight, gradient, first, second, rates, options);
  }
  parentPort?.postMessage(arrays, buffersOf(arrays));
});
