/**
 * One sequence in the decoder: a prefill fills the cache, every further token adds to it. Knows ids and logits,
 * not text, sampling or when to stop.
 *
 * Longrope's frequencies change when a sequence outgrows the original context, so cached keys no longer fit
 * then: the step that crosses it prefills everything so far again, as the released Phi-3.5 code does.
 */
import type { FusionConfig } from '../model/config.ts';
import { i32, rotaryFeeds, sequenceFeeds } from '../model/feeds.ts';
import { usesLongFactors } from '../model/rotary.ts';
import { END_OF_QUESTION, IGNORE } from '../model/sentinels.ts';
import { expandedLength, layOutSequences, type SequenceSizes } from '../model/sequence.ts';
import type { Device, ResidentTensor } from '../runtime/types.ts';
import type { CompiledPrograms } from './compiled.ts';
import { imageTokenCount } from './imageFeatures.ts';
import { KvCache } from './kvCache.ts';

/** A prompt as ids with sentinels. */
export interface PromptIds {
  readonly inputIds: ArrayLike<number>;
  /** Positions in `inputIds` at which questions end, ascending. */
  readonly endsOfQuestion: readonly number[];
}

/** What the vision tower made of the picture; both resident and owned by the caller. */
export interface VisionFeatures {
  /** f32 [1, 4·P, D]. */
  readonly tiles: ResidentTensor;
  /** f32 [1, P', D]. */
  readonly imageTokens: ResidentTensor;
}

/** The model's part that a session needs. */
export interface DecodeContext {
  readonly device: Device;
  readonly config: FusionConfig;
  readonly programs: CompiledPrograms;
}

/** How many positions the prompt takes once its placeholders are expanded. */
export function promptLength(config: FusionConfig, inputIds: ArrayLike<number>, queryLength: number): number {
  return expandedLength(inputIds, sizesOf(config, queryLength));
}

/** Nothing is cut here: what does not fit is refused before. */
function sizesOf(config: FusionConfig, queryLength: number): SequenceSizes {
  return { imageTokens: imageTokenCount(config), queryLength, maxLength: Number.POSITIVE_INFINITY };
}

export class DecodeSession {
  readonly #context: DecodeContext;
  readonly #features: VisionFeatures;
  readonly #queryLength: number;
  readonly #ids: number[];
  readonly #endsOfQuestion: readonly number[];
  readonly #cache: KvCache;

  /** cacheBlock: slots by which the cache grows. Call `prefill` next, and `free` in the end. */
  constructor(
    context: DecodeContext,
    prompt: PromptIds,
    features: VisionFeatures,
    queryLength: number,
    cacheBlock?: number,
  ) {
    this.#context = context;
    this.#features = features;
    this.#queryLength = queryLength;
    this.#ids = Array.from(prompt.inputIds);
    this.#endsOfQuestion = prompt.endsOfQuestion;
    this.#cache = new KvCache(context.device, context.config.decoder, cacheBlock);
  }

  /** Positions in the cache. */
  get length(): number {
    return this.#cache.length;
  }

  /** Slots of the cache. */
  get capacity(): number {
    return this.#cache.capacity;
  }

  /** Reads everything so far and gives the next token's logits: f32 [V]. */
  async prefill(): Promise<Float32Array> {
    const { config, programs } = this.#context;
    const labels = new Int32Array(this.#ids.length).fill(IGNORE);
    for (const end of this.#endsOfQuestion) labels[end] = END_OF_QUESTION;
    const sizes = sizesOf(config, this.#queryLength);
    const layout = layOutSequences([{ inputIds: this.#ids, labels }], sizes);
    const { sequence } = layout;
    this.#cache.clear();
    await this.#cache.reserve(sequence + 1);
    const program = await programs.prefill(this.#queryLength);
    const { outputs } = await program.run(
      {
        ...sequenceFeeds(layout),
        ...rotaryFeeds(config.decoder, 0, sequence, sequence),
        image_tokens: this.#features.imageTokens,
        tile_features: this.#features.tiles,
        last_positions: i32(Int32Array.of(sequence - 1)),
      },
      { write: this.#cache.writes() },
    );
    this.#cache.advance(sequence);
    return outputs.logits?.data as Float32Array;
  }

  /** Adds a token and gives the next one's logits: f32 [V]. */
  async append(token: number): Promise<Float32Array> {
    const { config, programs } = this.#context;
    const { rope } = config.decoder;
    const past = this.#cache.length;
    this.#ids.push(token);
    if (usesLongFactors(rope, past + 1) !== usesLongFactors(rope, past)) return this.prefill();
    await this.#cache.reserve(past + 1);
    const program = await programs.decode();
    const { outputs } = await program.run(
      {
        token: i32(Int32Array.of(token)),
        length: i32(Int32Array.of(past)),
        ...rotaryFeeds(config.decoder, past, 1, past + 1),
        ...this.#cache.feeds(),
      },
      { write: this.#cache.writes() },
    );
    this.#cache.advance(1);
    return outputs.logits?.data as Float32Array;
  }

  async free(): Promise<void> {
    await this.#cache.free();
  }
}
