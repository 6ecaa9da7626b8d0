/**
 * AdamW on two cores: this thread updates one share of the weights while another thread updates the rest. Every
 * element is computed as it is by one thread, so the result has the same bits.
 */
import { Worker } from 'node:worker_threads';
import { threadModule } from '../common/threadModule.ts';
import type { AdamWArrays, AdamWRequest } from './adamWThread.ts';
import { adamW, buffersOf } from './kernels.ts';
import type { AdamWOptions } from './types.ts';

/** With fewer elements the other thread would only take time from ONNX Runtime's, which wait actively for a while. */
const WORTH_SHARING = 20_000_000;

export class AdamWHelper {
  readonly #least: number;
  #thread: Worker | undefined;

  /** least: elements from which the work is shared. */
  constructor(least = WORTH_SHARING) {
    this.#least = least;
  }

  /**
   * Updates all tensors and gives them in their order: those that were elsewhere come back as new arrays over the
   * same memory. An array that shares its memory with others, or is a part of it, stays here.
   */
  async update(tensors: readonly AdamWArrays[], options: AdamWOptions): Promise<readonly AdamWArrays[]> {
    const away = shareOf(tensors, this.#least);
    const others = tensors.filter((tensor) => !away.has(tensor));
    const answer = away.size === 0 ? undefined : this.#send({ arrays: [...away], options });
    for (const { weight, gradient, first, second, ...rates } of others) {
      adamW(weight, gradient, first, second, rates, options);
    }
    if (answer === undefined) return tensors;
    const back = (await answer)[Symbol.iterator]();
    return tensors.map((tensor) => (away.has(tensor) ? (back.next().value ?? tensor) : tensor));
  }

  /** Ends the thread. */
  async close(): Promise<void> {
    await this.#thread?.terminate();
    this.#thread = undefined;
  }

  #send(request: AdamWRequest): Promise<readonly AdamWArrays[]> {
    this.#thread ??= new Worker(threadModule(import.meta.url, 'adamWThread'), { execArgv: [] });
    const thread = this.#thread;
    return new Promise((resolve, reject) => {
      const done = () => {
        thread.off('message', onMessage).off('error', onError);
        thread.unref();
      };
      const onMessage = (arrays: AdamWArrays[]) => {
        done();
        // The thread's last message would hold what is in it: half of the gradients.
        resolve(arrays.splice(0));
      };
      const onError = (error: unknown) => {
        done();
        reject(error);
      };
      thread.on('message', onMessage).on('error', onError).ref();
      thread.postMessage(request, buffersOf(request.arrays));
    });
  }
}

/** About half of the elements where there are `least`, the largest tensors dealt first, in the order of `tensors`. */
export function shareOf(tensors: readonly AdamWArrays[], least: number): ReadonlySet<AdamWArrays> {
  const total = tensors.reduce((sum, { weight }) => sum + weight.length, 0);
  if (total < least) return new Set();
  const sizes = { here: 0, away: 0 };
  const away = new Set<AdamWArrays>();
  for (const tensor of [...tensors].sort((a, b) => b.weight.length - a.weight.length)) {
    const goes = sizes.away < sizes.here && ownsMemory(tensor);
    sizes[goes ? 'away' : 'here'] += tensor.weight.length;
    if (goes) away.add(tensor);
  }
  return new Set(tensors.filter((tensor) => away.has(tensor)));
}

function ownsMemory({ weight, gradient, first, second }: AdamWArrays): boolean {
  const arrays = [weight, gradient, first, second];
  const whole = arrays.every(({ buffer, byteLength }) => buffer.byteLength === byteLength);
  return whole && new Set(arrays.map(({ buffer }) => buffer)).size === arrays.length;
}
