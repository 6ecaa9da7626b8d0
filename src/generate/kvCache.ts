/**
 * Keys and values of the sequences that are decoded together, one pair of resident tensors for each layer:
 * f32 [R, K, C, E], one row a sequence. Programs read them in place; new keys and values are written behind a row's
 * used slots, the others are masked by length. Rows and slots are added as they are needed and given back when
 * fewer have been enough for a while. Knows nothing of tokens.
 * Shapes: R rows, K kv heads, C capacity (slots of each row), E head size, S sequence.
 */
import type { DecoderConfig } from '../model/config.ts';
import { keysOf, pastOf, valuesOf } from '../model/programs.ts';
import type { Block, Device, HostTensor, ResidentTensor, TensorCopy, WriteTarget } from '../runtime/types.ts';

/** Slots that are added at once: a step reads all of them, used or not, and adding some moves all. */
export const CACHE_BLOCK = 64;

/** Steps after which a cache that is larger than needed shrinks: one step's worth of copying in so many. */
const SHRINK_AFTER = 32;

/** Bytes one position takes in the cache of a whole model. */
export function cacheBytesPerPosition({ layers, kvHeads, headSize }: DecoderConfig): number {
  return layers * 2 * kvHeads * headSize * Float32Array.BYTES_PER_ELEMENT;
}

/** A sequence's place. Its index changes when the cache shrinks. */
export interface CacheRow {
  readonly index: number;
  /** Slots that are used. */
  readonly length: number;
}

type Row = { -readonly [name in keyof CacheRow]: CacheRow[name] };

export interface CacheOptions {
  /** The most sequences at once; 1 unless given. */
  readonly maxRows?: number | undefined;
  /** Slots by which rows grow. */
  readonly block?: number | undefined;
}

export class KvCache {
  readonly #device: Device;
  readonly #config: DecoderConfig;
  readonly #maxRows: number;
  readonly #block: number;
  #tensors: ReadonlyMap<string, ResidentTensor> = new Map();
  /** By index; those nobody has are undefined. */
  #rows: (Row | undefined)[] = [];
  #capacity = 0;
  #stepsTooLarge = 0;

  /** An empty cache; nothing is allocated before `open`. */
  constructor(
    device: Device,
    config: DecoderConfig,
    { maxRows = 1, block = CACHE_BLOCK }: CacheOptions = {},
  ) {
    this.#device = device;
    this.#config = config;
    this.#maxRows = maxRows;
    this.#block = block;
  }

  /** Rows that are allocated: a power of two, or the most there may be. */
  get rows(): number {
    return this.#rows.length;
  }

  /** Slots that each row has. */
  get capacity(): number {
    return this.#capacity;
  }

  /** An empty row with room for `length` positions; the cache grows where none is free. */
  async open(length: number): Promise<CacheRow> {
    const used = this.#used().length;
    if (used >= this.#maxRows) throw new Error(`internal: all ${used} rows of the cache are in use`);
    await this.#hold(Math.max(this.rows, this.#rowsFor(used + 1)), length);
    const row = { index: this.#rows.indexOf(undefined), length: 0 };
    this.#rows[row.index] = row;
    return row;
  }

  /** Gives a row back. */
  close(row: CacheRow): void {
    this.#own(row);
    this.#rows[row.index] = undefined;
  }

  /** Makes room for `length` positions in every row; what is in the cache stays. */
  async reserve(length: number): Promise<void> {
    await this.#hold(this.rows, length);
  }

  /** To be called once a step: gives memory back that has not been needed for a while. */
  async settle(): Promise<void> {
    const used = this.#used();
    const rows = this.#rowsFor(used.length);
    const capacity = this.#slotsFor(Math.max(0, ...used.map(({ length }) => length)) + 1);
    const tooLarge = rows < this.rows || 2 * capacity <= this.#capacity;
    this.#stepsTooLarge = tooLarge ? this.#stepsTooLarge + 1 : 0;
    if (this.#stepsTooLarge >= SHRINK_AFTER) await this.#resize(rows, capacity);
  }

  /** The cache as inputs of the decode program. */
  feeds(): Readonly<Record<string, ResidentTensor>> {
    return Object.fromEntries([...this.#tensors].map(([name, tensor]) => [pastOf(name), tensor]));
  }

  /** Where keys and values [1, K, S, E] of one sequence's next S positions go. */
  writes(row: CacheRow): Readonly<Record<string, WriteTarget>> {
    const { index, length } = this.#own(row);
    return this.#targets([{ at: [index, 0, length] }]);
  }

  /** Takes over keys and values [1, K, S, E] of one sequence's next S positions, by name. */
  async fill(row: CacheRow, keysValues: Readonly<Record<string, HostTensor>>): Promise<void> {
    const copies = Object.entries(this.writes(row)).map(([name, target]) => {
      const from = keysValues[name];
      if (from === undefined) throw new Error(`internal: nothing was read for ${name} of the cache`);
      return { from, target, transfer: true };
    });
    await this.#device.copy(copies);
  }

  /** Where keys and values [1, K, R, E] of one more position of each of the `rows` go; others are left out. */
  appends(rows: readonly CacheRow[]): Readonly<Record<string, WriteTarget>> {
    const { kvHeads } = this.#config;
    const blocks = rows.map((row): Block => {
      const { index, length } = this.#own(row);
      return { from: [0, 0, index], size: [1, kvHeads, 1], at: [index, 0, length] };
    });
    return this.#targets(blocks);
  }

  /** Counts `count` more slots of a row as used, after a program wrote them. */
  advance(row: CacheRow, count: number): void {
    this.#own(row).length += count;
  }

  /** Forgets what is in a row and keeps it. */
  clear(row: CacheRow): void {
    this.#own(row).length = 0;
  }

  /** Frees everything; the rows are no longer there. May be called again. */
  async free(): Promise<void> {
    const tensors = [...this.#tensors.values()];
    this.#tensors = new Map();
    this.#rows = [];
    this.#capacity = 0;
    await this.#device.free(tensors);
  }

  #used(): readonly Row[] {
    return this.#rows.filter((row) => row !== undefined);
  }

  #own(row: CacheRow): Row {
    const own = this.#rows[row.index];
    if (own === undefined || own !== row) throw new Error('internal: a row of the cache was given back');
    return own;
  }

  #rowsFor(count: number): number {
    return Math.min(2 ** Math.ceil(Math.log2(Math.max(count, 1))), this.#maxRows);
  }

  #slotsFor(length: number): number {
    return Math.ceil(length / this.#block) * this.#block;
  }

  /** One list of blocks for all tensors: it crosses to the device's thread once. */
  #targets(blocks: readonly Block[]): Readonly<Record<string, WriteTarget>> {
    return Object.fromEntries([...this.#tensors].map(([name, to]) => [name, { to, blocks }]));
  }

  async #hold(rows: number, length: number): Promise<void> {
    const capacity = Math.max(this.#slotsFor(length), this.#capacity);
    if (rows > this.rows || capacity > this.#capacity) await this.#resize(rows, capacity);
  }

  /** Where it fails, everything is as before. */
  async #resize(rows: number, capacity: number): Promise<void> {
    if (rows === this.rows && capacity > this.#capacity) await this.#addSlots(capacity);
    else await this.#moveRows(rows, capacity);
    this.#capacity = capacity;
    this.#stepsTooLarge = 0;
  }

  /** Needs no memory but for the new slots, which matters where the cache is a large part of it. */
  async #addSlots(capacity: number): Promise<void> {
    const { kvHeads, headSize } = this.#config;
    const names = [...this.#tensors.keys()];
    const shape = [this.rows, kvHeads, capacity, headSize];
    const larger = await this.#device.resize([...this.#tensors.values()], shape);
    this.#tensors = new Map(larger.map((tensor, i) => [names[i] as string, tensor]));
  }

  /** Moves the used rows to the front of new tensors. */
  async #moveRows(rows: number, capacity: number): Promise<void> {
    const { kvHeads, headSize } = this.#config;
    const used = this.#used();
    const blocks = used.map(
      ({ index, length }, i): Block => ({ from: [index], size: [1, kvHeads, length], at: [i] }),
    );
    const made = new Map<string, ResidentTensor>();
    const copies: TensorCopy[] = [];
    try {
      for (const name of this.#names()) {
        const to = await this.#device.zeros('f32', [rows, kvHeads, capacity, headSize]);
        made.set(name, to);
        const from = this.#tensors.get(name);
        if (from !== undefined && blocks.length > 0) copies.push({ from, target: { to, blocks } });
      }
      await this.#device.copy(copies);
    } catch (error) {
      await this.#device.free([...made.values()]);
      throw error;
    }
    const old = [...this.#tensors.values()];
    for (const [i, row] of used.entries()) row.index = i;
    this.#tensors = made;
    this.#rows = Array.from({ length: rows }, (_, i) => used[i]);
    await this.#device.free(old);
  }

  #names(): readonly string[] {
    return Array.from({ length: this.#config.layers }, (_, i) => [keysOf(i), valuesOf(i)]).flat();
  }
}
