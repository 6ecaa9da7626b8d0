/**
 * Where training samples come from, one after the other in an order that a state can name, so that a run goes on
 * from where it was saved. Knows nothing of weights.
 */
import { Random } from '../common/random.ts';
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
  /** The next samples, in order. */
  next(count: number): Promise<readonly EncodedSample[]>;
  state(): DataState;
  restore(state: DataState): void;
}

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
  readonly #recipe: SynthRecipe;
  readonly #encoder: Encoder;
  #position = 0;

  constructor(recipe: SynthRecipe, encoder: Encoder) {
    this.#recipe = recipe;
    this.#encoder = encoder;
    this.count = recipe.count;
  }

  async next(count: number): Promise<readonly EncodedSample[]> {
    const first = this.#position;
    this.#position += count;
    return Promise.all(Array.from({ length: count }, (_, i) => this.#sample(first + i)));
  }

  async #sample(position: number): Promise<EncodedSample> {
    const { categories, seed, imageSize, options } = this.#recipe;
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
    return { source: 'synth', seed: this.#recipe.seed, position: this.#position };
  }

  restore(state: DataState): void {
    this.#position = Number(state.position);
  }
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
