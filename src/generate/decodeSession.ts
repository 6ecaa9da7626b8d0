/**
 * One sequence in the decoder, alone: a `BatchDecoder` of one row. Knows ids and logits, not text, sampling or when
 * to stop.
 */
import {
  BatchDecoder,
  type DecodeContext,
  type DecodeSequence,
  type PrefillOptions,
  type PromptIds,
  type VisionFeatures,
} from './batchDecoder.ts';

export class DecodeSession {
  readonly #prompt: PromptIds;
  readonly #features: VisionFeatures;
  readonly #queryLength: number;
  readonly #decoder: BatchDecoder;
  #sequence: DecodeSequence | undefined;

  /** cacheBlock: slots by which the cache grows. Call `prefill` next, and `free` in the end. */
  constructor(
    context: DecodeContext,
    prompt: PromptIds,
    features: VisionFeatures,
    queryLength: number,
    cacheBlock?: number,
  ) {
    this.#prompt = prompt;
    this.#features = features;
    this.#queryLength = queryLength;
    this.#decoder = new BatchDecoder(context, { block: cacheBlock });
  }

  /** Positions in the cache. */
  get length(): number {
    return this.#sequence?.row.length ?? 0;
  }

  /** Slots of the cache. */
  get capacity(): number {
    return this.#decoder.capacity;
  }

  /** Reads the prompt and gives the next token's logits: f32 [V]. */
  async prefill(options?: PrefillOptions): Promise<Float32Array> {
    const { sequence, logits } = await this.#decoder.join(
      this.#prompt,
      this.#features,
      this.#queryLength,
      options,
    );
    this.#sequence = sequence;
    return logits;
  }

  /** Adds a token and gives the next one's logits: f32 [V]. */
  async append(token: number): Promise<Float32Array> {
    const sequence = this.#sequence;
    if (sequence === undefined) throw new Error('internal: a token before its prompt was read');
    const [logits] = await this.#decoder.step([{ sequence, token }]);
    return logits as Float32Array;
  }

  async free(): Promise<void> {
    await this.#decoder.free();
  }
}
