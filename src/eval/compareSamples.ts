/**
 * Conversations with known answers, for comparing models: records of a data set, or generated test questions. Each
 * can be encoded for any model. Knows nothing of what is measured.
 */
import { UserError } from '../common/errors.ts';
import { encodeConversation } from '../data/conversation.ts';
import {
  type EncodedSample,
  encodeSample,
  isSkipped,
  openDataset,
  type SkippedSample,
} from '../data/dataset.ts';
import { staticHdCrops } from '../data/image.ts';
import { evalQuestions, renderScene } from '../data/synth/index.ts';
import { imageTokenCount } from '../generate/imageFeatures.ts';
import type { FusionModel } from '../generate/model.ts';

/** A conversation as one model reads it. */
export type KnownSample = Pick<EncodedSample, 'id' | 'inputIds' | 'labels' | 'instructs' | 'crops'>;

/** A conversation that is not encoded yet. */
export type SampleFor = (model: FusionModel) => Promise<KnownSample | SkippedSample>;

export interface SampleList {
  readonly count: number;
  sample(i: number): Promise<SampleFor>;
  close(): Promise<void>;
}

/**
 * The first `limit` records of a data set in LLaVA's format.
 *
 * @throws UserError as `openDataset`.
 */
export async function datasetSamples(file: string, limit = Number.POSITIVE_INFINITY): Promise<SampleList> {
  const dataset = await openDataset(file, { seed: 0 });
  const sample = async (i: number): Promise<SampleFor> => {
    const raw = await dataset.sample(i);
    if (isSkipped(raw)) return async () => raw;
    return async ({ tokenizer, format, config }) => {
      const { vision, maxLength, defaultQueryLen: queryLength } = config;
      const sizes = { imageTokens: imageTokenCount(config), queryLength, maxLength };
      return encodeSample(raw, { tokenizer, format, sizes, cropSide: vision.imageSize });
    };
  };
  return { count: Math.min(dataset.count, limit), sample, close: () => dataset.close() };
}

/** `count` generated questions of the test split with their answers; the same ones for the same seed. */
export function questionSamples(count: number, seed: number): SampleList {
  const questions = evalQuestions('test', seed, count);
  const sample = async (i: number): Promise<SampleFor> => {
    const asked = questions[i];
    if (asked === undefined) throw new UserError(`questions: expected a number below ${count}, got ${i}`);
    return async ({ tokenizer, format, config }) => {
      const messages = [
        { role: 'user', text: `<image>\n${asked.question}` },
        { role: 'assistant', text: asked.answer },
      ] as const;
      const encoded = encodeConversation(tokenizer, format, messages, { hasImage: true });
      const side = config.vision.imageSize;
      const crops = staticHdCrops(await renderScene(asked.scene, 2 * side), side);
      return { id: asked.id, ...encoded, crops };
    };
  };
  return { count, sample, close: async () => {} };
}
