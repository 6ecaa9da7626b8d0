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
  #position = 0;
  #batches: AsyncGenerator<readonly EncodedSample[], void> | undefined;

  /** recipes: each gives its `count` samples of an epoch in turn; batch: samples of a batch. */
  constructor(recipes: readonly SynthRecipe[], encoder: Encoder, batch: number) {
    this.#recipes = recipes;
    this.#encoder = encoder;
    this.#batch = batch;
    this.count = recipes.reduce((sum, { count }) => sum + count, 0);
    this.batchesPerEpoch = this.count / batch;
  }

  async next(): Promise<readonly EncodedSample[]> {
    const size = this.#batch;
    const prepare = (first: number) =>
      Promise.all(Array.from({ length: size }, (_, i) => this.#sample(first + i)));
    this.#batches ??= prefetch(countFrom(this.#position, size), prepare, PREFETCHED);
    const { value } = await this.#batches.next();
    this.#position += size;
    return value ?? [];
  }

  async #sample(position: number): Promise<EncodedSample> {
    const { categories, seed, imageSize, options } = recipeAt(this.#recipes, position % this.count);
    const sample = sampleAt(drawCategory(categories, seed, position), 'train', seed, position, options);
    const { tokenizer, format, config } = this.#encoder;
    const messages = fromLlava(sample.conversations);
    const { inputIds, labels, instructs } = encodeConversation(tokenizer, format, messages, {
      hasImage: true,
    });
    const picture = await renderScene(sample.scene, imageSize);
    return {
      id: sample.id,
      inputIds,
      labels,
      instructs,
      crops: staticHdCrops(picture, config.vision.imageSize),
    };
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

function* countFrom(first: number, step: number): Generator<number> {
  for (let position = first; ; position += step) yield position;
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
