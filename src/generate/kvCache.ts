/**
 * Keys and values of all tokens so far, one pair of resident tensors for each layer: f32 [1, K, C, E], C slots
 * in blocks. Programs read them in place and write new rows into them; unused slots are masked by length. Knows
 * nothing of tokens. Shapes: K kv heads, C capacity, E head size.
 */
import type { DecoderConfig } from '../model/config.ts';
import { keysOf, pastOf, valuesOf } from '../model/programs.ts';
import type { Device, ResidentTensor, WriteTarget } from '../runtime/types.ts';

/** Slots that are added at once. */
export const CACHE_BLOCK = 256;

const SLOT_AXIS = 2;

/** Bytes one position takes in the cache of a whole model. */
export function cacheBytesPerPosition({ layers, kvHeads, headSize }: DecoderConfig): number {
  return layers * 2 * kvHeads * headSize * Float32Array.BYTES_PER_ELEMENT;
}

export class KvCache {
  readonly #device: Device;
  readonly #config: DecoderConfig;
  readonly #block: number;
  readonly #tensors = new Map<string, ResidentTensor>();
  #capacity = 0;
  #length = 0;

  /** An empty cache; nothing is allocated before `reserve`. */
  constructor(device: Device, config: DecoderConfig, block = CACHE_BLOCK) {
    this.#device = device;
    this.#config = config;
    this.#block = block;
  }

  /** Slots that are used. */
  get length(): number {
    return this.#length;
  }

  /** Slots that are allocated. */
  get capacity(): number {
    return this.#capacity;
  }

  /** Makes room for `length` positions in all; what is in the cache stays. */
  async reserve(length: number): Promise<void> {
    if (length <= this.#capacity) return;
    const capacity = Math.ceil(length / this.#block) * this.#block;
    const { kvHeads, headSize } = this.#config;
    for (const name of this.#names()) {
      const old = this.#tensors.get(name);
      const larger = await this.#device.zeros('f32', [1, kvHeads, capacity, headSize]);
      // Known to `free` before anything else can fail.
      this.#tensors.set(name, larger);
      if (old === undefined) continue;
      try {
        await this.#device.copy(old, { to: larger, axis: SLOT_AXIS, offset: 0 });
      } finally {
        await this.#device.free([old]);
      }
    }
    this.#capacity = capacity;
  }

  /** The cache as inputs of the decode program. */
  feeds(): Readonly<Record<string, ResidentTensor>> {
    return Object.fromEntries([...this.#tensors].map(([name, tensor]) => [pastOf(name), tensor]));
  }

  /** Where a program's new keys and values go: behind the used slots. */
  writes(): Readonly<Record<string, WriteTarget>> {
    const targets = [...this.#tensors].map(([name, to]) => {
      return [name, { to, axis: SLOT_AXIS, offset: this.#length }] as const;
    });
    return Object.fromEntries(targets);
  }

  /** Counts `count` more slots as used, after a program wrote them. */
  advance(count: number): void {
    this.#length += count;
  }

  /** Forgets what is in the slots and keeps them. */
  clear(): void {
    this.#length = 0;
  }

  async free(): Promise<void> {
    const tensors = [...this.#tensors.values()];
    this.#tensors.clear();
    this.#capacity = 0;
    this.#length = 0;
    await this.#device.free(tensors);
  }

  #names(): readonly string[] {
    return Array.from({ length: this.#config.layers }, (_, i) => [keysOf(i), valuesOf(i)]).flat();
  }
}
