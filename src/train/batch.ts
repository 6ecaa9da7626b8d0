/**
 * Encoded samples and their pixels → the feeds of the loss program. Knows shapes and padding, not where samples
 * come from.
 */
import type { FusionConfig } from '../model/config.ts';
import { f32, type HostFeeds, paddedRows, rotaryFeeds, sequenceFeeds } from '../model/feeds.ts';
import { layOutSequences } from '../model/sequence.ts';

/** One sample, ready to be laid out. */
export interface EncodedSample {
  readonly id: string;
  readonly inputIds: Int32Array;
  readonly labels: Int32Array;
  readonly instructs: Int32Array;
  /** f32 [5, 3, S, S], normalised; zeros for a sample without an image. */
  readonly crops: Float32Array;
}

/** What one run of the loss program takes. */
export interface TrainBatch {
  readonly ids: readonly string[];
  readonly feeds: HostFeeds;
  /** Positions of all samples, padding apart. */
  readonly tokens: number;
}

/**
 * Lays samples out as one batch: sequences right-padded to the longest and cut at `maxLength`, questions padded
 * with 0. queryLength: latents per question.
 */
export function makeBatch(
  samples: readonly EncodedSample[],
  config: FusionConfig,
  queryLength: number,
  maxLength: number = config.maxLength,
): TrainBatch {
  const { vision, decoder, imageTokensSide } = config;
  const imageTokens = imageTokensSide === undefined ? vision.patches : imageTokensSide ** 2;
  const layout = layOutSequences(samples, { imageTokens, queryLength, maxLength });
  const crop = 5 * 3 * vision.imageSize ** 2;
  const pixels = new Float32Array(samples.length * crop);
  for (const [b, sample] of samples.entries()) {
    pixels.set(sample.crops, b * crop);
  }
  return {
    ids: samples.map(({ id }) => id),
    feeds: {
      pixels: f32(pixels, [samples.length, 5, 3, vision.imageSize, vision.imageSize]),
      instructs: paddedRows(samples.map(({ instructs }) => instructs)),
      ...sequenceFeeds(layout),
      ...rotaryFeeds(decoder, 0, layout.sequence, layout.sequence),
    },
    tokens: layout.lengths.reduce((a, b) => a + b, 0),
  };
}
