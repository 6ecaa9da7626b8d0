/**
 * Sequences decoded together: a prefill fills a sequence's row of the cache, every step adds a token to each.
 * Sequences join and leave between steps. Knows ids and logits, not text, sampling or when to stop.
 *
 * Longrope's frequencies change when a sequence outgrows the original context, so its cached keys no longer fit
 * then: the step that crosses it prefills everything so far again, as the released Phi-3.5 code does.
 */
import type { FusionConfig } from '../model/config.ts';
import { i32, rotaryFeeds, rotaryRowFeeds, sequenceFeeds } from '../model/feeds.ts';
import { usesLongFactors } from '../model/rotary.ts';
import { END_OF_QUESTION, IGNORE } from '../model/sentinels.ts';
import { expandedLength, layOutSequences, type SequenceSizes } from '../model/sequence.ts';
import type { Device, Feed, HostTensor, ResidentTensor } from '../runtime/types.ts';
import type { BoundRunOptions, ModelPrograms } from './compiled.ts';
import { imageTokenCount } from './imageFeatures.ts';
import { type CacheOptions, type CacheRow, KvCache } from './kvCache.ts';

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

/** The model's part that decoding needs. */
export interface DecodeContext {
  readonly device: Device;
  readonly config: FusionConfig;
  readonly programs: ModelPrograms;
}

/** A sequence from its prompt on. */
export interface DecodeSequence {
  readonly ids: number[];
  readonly endsOfQuestion: readonly number[];
  /** None of a sequence that was read elsewhere. */
  readonly features: VisionFeatures | undefined;
  /** Latents per question. */
  readonly queryLength: number;
  readonly row: CacheRow;
}

/** A sequence whose prompt was read elsewhere. */
export interface ReadSequence extends Omit<DecodeSequence, 'row' | 'features'> {
  /** Positions of the prompt. */
  readonly length: number;
  /** The next token's: f32 [V]. */
  readonly logits: Float32Array;
  /** f32 [1, K, S, E], by the cache's names. */
  readonly keysValues: Readonly<Record<string, HostTensor>>;
}

/** How reading a prompt is stopped and reports; only models that read prompts in parts look at it. */
export type PrefillOptions = Pick<BoundRunOptions, 'signal' | 'onShare'>;

/** A sequence's next token. */
export interface NextToken {
  readonly sequence: DecodeSequence;
  readonly token: number;
}

/** How many positions the prompt takes once its placeholders are expanded. */
export function promptLength(config: FusionConfig, inputIds: ArrayLike<number>, queryLength: number): number {
  return expandedLength(inputIds, sizesOf(config, queryLength));
}

/** Nothing is cut here: what does not fit is refused before. */
function sizesOf(config: FusionConfig, queryLength: number): SequenceSizes {
  return { imageTokens: imageTokenCount(config), queryLength, maxLength: Number.POSITIVE_INFINITY };
}

/** The sequence's index tensors, for the prefill program. */
export function sequenceLayout(config: FusionConfig, sequence: Omit<DecodeSequence, 'row' | 'features'>) {
  const { ids, endsOfQuestion, queryLength } = sequence;
  const labels = new Int32Array(ids.length).fill(IGNORE);
  for (const end of endsOfQuestion) labels[end] = END_OF_QUESTION;
  return layOutSequences([{ inputIds: ids, labels }], sizesOf(config, queryLength));
}

/** What the prefill program takes of a sequence, and the positions it has. */
export function prefillFeeds(
  config: FusionConfig,
  sequence: Omit<DecodeSequence, 'row'>,
): { readonly feeds: Readonly<Record<string, Feed>>; readonly length: number } {
  const { features } = sequence;
  if (features === undefined) throw new Error('internal: a sequence that was read elsewhere is read again');
  const layout = sequenceLayout(config, sequence);
  const length = layout.sequence;
  const feeds = {
    ...sequenceFeeds(layout),
    ...rotaryFeeds(config.decoder, 0, length, length),
    image_tokens: features.imageTokens,
    tile_features: features.tiles,
    last_positions: i32(Int32Array.of(length - 1)),
  };
  return { feeds, length };
}

export class BatchDecoder {
  readonly #context: DecodeContext;
  readonly #cache: KvCache;

  /** Nothing is allocated before the first sequence joins; call `free` in the end. */
  constructor(context: DecodeContext, options: CacheOptions = {}) {
    this.#context = context;
    this.#cache = new KvCache(context.device, context.config.decoder, options);
  }

  /** Rows of the cache, in use or not. */
  get rows(): number {
    return this.#cache.rows;
  }

  /** Slots of each row. */
  get capacity(): number {
    return this.#cache.capacity;
  }

  /** Takes a sequence in and reads its prompt: the next token's logits are f32 [V]. Stopped, nothing is left of it. */
  async join(
    { inputIds, endsOfQuestion }: PromptIds,
    features: VisionFeatures,
    queryLength: number,
    options?: PrefillOptions,
  ): Promise<{ readonly sequence: DecodeSequence; readonly logits: Float32Array }> {
    const ids = Array.from(inputIds);
    const row = await this.#cache.open(promptLength(this.#context.config, ids, queryLength) + 1);
    const sequence = { ids, endsOfQuestion, features, queryLength, row };
    try {
      return { sequence, logits: await this.prefill(sequence, options) };
    } catch (error) {
      this.leave(sequence);
      throw error;
    }
  }

  /** Takes in a sequence whose prompt was read elsewhere, and the memory of what was read. */
  async adopt({
    ids,
    endsOfQuestion,
    queryLength,
    length,
    keysValues,
  }: ReadSequence): Promise<DecodeSequence> {
    const row = await this.#cache.open(length + 1);
    const sequence = { ids, endsOfQuestion, queryLength, features: undefined, row };
    try {
      await this.#cache.fill(row, keysValues);
      this.#cache.advance(row, length);
      return sequence;
    } catch (error) {
      this.leave(sequence);
      throw error;
    }
  }

  /** Reads everything of a sequence so far and gives the next token's logits: f32 [V]. */
  async prefill(sequence: DecodeSequence, options: PrefillOptions = {}): Promise<Float32Array> {
    const { config, programs } = this.#context;
    const { queryLength, row } = sequence;
    const { feeds, length } = prefillFeeds(config, sequence);
    this.#cache.clear(row);
    await this.#cache.reserve(length + 1);
    const program = await programs.prefill(queryLength);
    const { outputs } = await program.run(feeds, { ...options, write: this.#cache.writes(row) });
    this.#cache.advance(row, length);
    return outputs.logits?.data as Float32Array;
  }

  /** Adds a token to each of some sequences and gives the next ones' logits, in the same order: f32 [V] each. */
  async step(next: readonly NextToken[]): Promise<readonly Float32Array[]> {
    await this.#cache.settle();
    for (const { sequence, token } of next) sequence.ids.push(token);
    const logits = new Map<DecodeSequence, Float32Array>();
    const within = next.filter(({ sequence }) => !this.#outgrows(sequence));
    if (within.length > 0) await this.#decode(within, logits);
    for (const { sequence } of next) {
      if (!logits.has(sequence)) logits.set(sequence, await this.prefill(sequence));
    }
    return next.map(({ sequence }) => logits.get(sequence) as Float32Array);
  }

  /** Gives a sequence's row back. */
  leave({ row }: DecodeSequence): void {
    this.#cache.close(row);
  }

  /** Frees the cache; no sequence is in it any more. */
  async free(): Promise<void> {
    await this.#cache.free();
  }

  /** Whether one more position changes the rotary frequencies. */
  #outgrows({ row }: DecodeSequence): boolean {
    const { rope } = this.#context.config.decoder;
    return usesLongFactors(rope, row.length + 1) !== usesLongFactors(rope, row.length);
  }

  async #decode(next: readonly NextToken[], logits: Map<DecodeSequence, Float32Array>): Promise<void> {
    const { config, programs } = this.#context;
    const rows = next.map(({ sequence }) => sequence.row);
    await this.#cache.reserve(Math.max(...rows.map(({ length }) => length)) + 1);
    const program = await programs.decode();
    // A row without a sequence attends to its own new token alone, and nothing of it is kept.
    const [tokens, lengths] = [new Int32Array(this.rows), new Int32Array(this.rows)];
    for (const { sequence, token } of next) {
      tokens[sequence.row.index] = token;
      lengths[sequence.row.index] = sequence.row.length;
    }
    const { outputs } = await program.run(
      {
        token: i32(tokens),
        length: i32(lengths),
        ...rotaryRowFeeds(config.decoder, lengths),
        ...this.#cache.feeds(),
      },
      { write: this.#cache.appends(rows) },
    );
    const all = outputs.logits?.data as Float32Array;
    const width = all.length / this.rows;
    for (const { sequence } of next) {
      this.#cache.advance(sequence.row, 1);
      const { index } = sequence.row;
      logits.set(sequence, all.subarray(index * width, (index + 1) * width));
    }
  }
}
