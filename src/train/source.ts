/**
 * Where training samples come from, batch after batch in an order that a state can name, so that a run goes on
 * from where it was saved; and the synthetic ones. The next batch is made while the device computes on the last.
 * Knows nothing of weights.
 */
import { InternalError, UserError } from '../common/errors.ts';
import { Random } from '../common/random.ts';
import { prefetch } from '../data/batches.ts';
import { type ConversationFormat, encodeConversation, fromLlava } from '../data/conversation.ts';
import { staticHdCrops } from '../data/image.ts';
import { CATEGORIES, type Category, renderScene, type SynthOptions, sampleAt } from '../data/synth/index.ts';
import type { Tokenizer } from '../data/tokenizer.ts';
import type { FusionConfig } from '../model/config.ts';
import { expandedLength } from '../model/sequence.ts';
import type { EncodedSample } from './batch.ts';
import type { DataState } from './checkpoint.ts';

export interface SampleSource {
  /** Samples of one epoch. */
  readonly count: number;
  /** Calls of `next` that make an epoch; a fraction where batches do not end with the epoch. */
  readonly batchesPerEpoch: number;
  /** The next batch: fewer samples where some cannot be used, none where all cannot. */
  next(): Promise<readonly EncodedSample[]>;
  /** Where the batches used so far end, whatever has been prepared beyond; a JSON value. */
  state(): DataState;
  /** Goes on from a state; called before the first batch. Throws `UserError` for a state of other data. */
  restore(state: DataState): void;
  /** Waits for what is under way. */
  close(): Promise<void>;
}

/** Batches under way while the device computes. */
export const PREFETCHED = 1;

/** Batches among which samples are dealt by length, where that is asked for. */
const GROUPED_BATCHES = 8;

/** A recipe for synthetic samples, made as they are needed. */
export interface SynthRecipe {
  /** Categories and their shares. */
  readonly categories: readonly (readonly [Category, number])[];
  /** Samples of one epoch; the next epoch's are new ones. */
  readonly count: number;
  readonly seed: number;
  /** Pixels along the side of a rendered picture. */
  readonly imageSize: number;
  readonly options: Partial<SynthOptions>;
}

/** Tokenizer, format and sizes: what turns a conversation and its picture into a sample. */
export interface Encoder {
  readonly tokenizer: Tokenizer;
  readonly format: ConversationFormat;
  readonly config: FusionConfig;
}

/** Synthetic samples of the training split: sample i of a category is a function of seed and i alone. */
export class SynthSource implements SampleSource {
  readonly count: number;
  readonly batchesPerEpoch: number;
  readonly #recipes: readonly SynthRecipe[];
  readonly #encoder: Encoder;
  readonly #batch: number;
  readonly #grouped: boolean;
  #position = 0;
  #batches: AsyncGenerator<readonly EncodedSample[], void> | undefined;

  /**
   * recipes: each gives its `count` samples of an epoch in turn; batch: samples of a batch; grouped: whether batches
   * hold samples of similar length, so that little is padded.
   */
  constructor(recipes: readonly SynthRecipe[], encoder: Encoder, batch: number, grouped = false) {
    this.#recipes = recipes;
    this.#encoder = encoder;
    this.#batch = batch;
    this.#grouped = grouped;
    this.count = recipes.reduce((sum, { count }) => sum + count, 0);
    this.batchesPerEpoch = this.count / batch;
  }

  async next(): Promise<readonly EncodedSample[]> {
    const prepare = (positions: readonly number[]) =>
      Promise.all(positions.map((position) => this.#sample(position)));
    this.#batches ??= prefetch(this.#positionsFrom(this.#position), prepare, PREFETCHED);
    const { value } = await this.#batches.next();
    this.#position += this.#batch;
    return value ?? [];
  }

  /** The positions of each batch, from the one that begins at `first`. */
  *#positionsFrom(first: number): Generator<readonly number[]> {
    for (let batch = first / this.#batch; ; ) {
      const [start, count] = this.#grouped ? this.#windowOf(batch) : [batch, 1];
      const dealt = this.#grouped ? this.#deal(start, count) : [this.#range(batch, 1)];
      yield* dealt.slice(batch - start);
      batch = start + count;
    }
  }

  /** First and number of the batches that are dealt together; an epoch of whole batches ends a window. */
  #windowOf(batch: number): readonly [number, number] {
    const epoch = Number.isInteger(this.batchesPerEpoch) ? this.batchesPerEpoch : Number.MAX_SAFE_INTEGER;
    const begin = batch - (batch % epoch);
    const start = batch - ((batch - begin) % GROUPED_BATCHES);
    return [start, Math.min(GROUPED_BATCHES, begin + epoch - start)];
  }

  /** The samples of `count` batches dealt by length, the batches in an order drawn for them. */
  #deal(start: number, count: number): readonly (readonly number[])[] {
    const positions = this.#range(start, count);
    const lengths = new Map(positions.map((position) => [position, this.#length(position)]));
    positions.sort((a, b) => (lengths.get(a) ?? 0) - (lengths.get(b) ?? 0));
    const order = Array.from({ length: count }, (_, i) => i);
    new Random(this.#recipes[0]?.seed ?? 0).fork(`window/${start}`).shuffle(order);
    return order.map((i) => positions.slice(i * this.#batch, (i + 1) * this.#batch));
  }

  /** The positions of `count` batches from batch `start`. */
  #range(start: number, count: number): number[] {
    return Array.from({ length: count * this.#batch }, (_, i) => start * this.#batch + i);
  }

  /** What a sample takes in the sequence. */
  #length(position: number): number {
    const { queryLens, vision, maxLength } = this.#encoder.config;
    const sizes = { imageTokens: vision.patches, queryLength: Math.max(...queryLens), maxLength };
    return expandedLength(this.#text(position).inputIds, sizes);
  }

  #text(position: number) {
    const recipe = recipeAt(this.#recipes, position % this.count);
    const { categories, seed, options } = recipe;
    const sample = sampleAt(drawCategory(categories, seed, position), 'train', seed, position, options);
    const { tokenizer, format } = this.#encoder;
    const encoded = encodeConversation(tokenizer, format, fromLlava(sample.conversations), {
      hasImage: true,
    });
    return { ...encoded, sample, recipe };
  }

  async #sample(position: number): Promise<EncodedSample> {
    const { inputIds, labels, instructs, sample, recipe } = this.#text(position);
    const picture = await renderScene(sample.scene, recipe.imageSize);
    const crops = staticHdCrops(picture, this.#encoder.config.vision.imageSize);
    return { id: sample.id, inputIds, labels, instructs, crops };
  }

  state(): DataState {
    return { source: 'synth', seed: this.#recipes[0]?.seed, position: this.#position };
  }

  restore(state: DataState): void {
    if (state.source !== 'synth' || !Number.isSafeInteger(state.position)) {
      throw new UserError(`resume: expected a state of synthetic data, got one of ${state.source}`);
    }
    this.#position = Number(state.position);
  }

  async close(): Promise<void> {
    await this.#batches?.return();
  }
}

/** The recipe of a place within an epoch. */
function recipeAt(recipes: readonly SynthRecipe[], place: number): SynthRecipe {
  let end = 0;
  const found = recipes.find(({ count }) => {
    end += count;
    return place < end;
  });
  if (found === undefined) throw new InternalError(`synthetic sample ${place} of ${end}`);
  return found;
}

/** The category of one position, drawn by share; a function of seed and position. */
function drawCategory(categories: SynthRecipe['categories'], seed: number, position: number): Category {
  const total = categories.reduce((sum, [, share]) => sum + share, 0);
  let left = new Random(seed).fork(`category/${position}`).uniform() * total;
  for (const [category, share] of categories) {
    left -= share;
    if (left < 0) return category;
  }
  return categories.at(-1)?.[0] ?? CATEGORIES[0];
}
