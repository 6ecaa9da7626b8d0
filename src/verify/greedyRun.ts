/**
 * Greedy decoding of a case's prompt in the two ways that must agree: with the cache, as answers are made, and with
 * everything computed anew for every token. Knows nothing of what is expected.
 */
import type { ResidentWeights } from '../checkpoint/loadWeights.ts';
import type { DecodeContext, VisionFeatures } from '../generate/batchDecoder.ts';
import { CompiledPrograms } from '../generate/compiled.ts';
import { DecodeSession } from '../generate/decodeSession.ts';
import { ImageFeatures } from '../generate/imageFeatures.ts';
import { pictureOfCrops } from '../generate/picture.ts';
import type { FusionConfig } from '../model/config.ts';
import type { Device } from '../runtime/types.ts';
import { casePixels } from './caseRun.ts';
import type { ExpectedGreedy } from './cases.ts';

/** Tokens, as many as are expected; fewer where logits were not numbers. */
export interface GreedyResults {
  readonly cached: readonly number[];
  readonly recomputed: readonly number[];
}

/** Decodes both ways; nothing stays on the device. */
export async function runGreedy(
  device: Device,
  config: FusionConfig,
  weights: ResidentWeights,
  expected: ExpectedGreedy,
): Promise<GreedyResults> {
  const programs = new CompiledPrograms(device, config, weights);
  const images = new ImageFeatures(device, config, programs, { limit: 0 });
  try {
    const features = await encode(images, config, expected);
    const context = { device, config, programs };
    const cached = await decodeCached(context, features, expected);
    const recomputed = await decodeAnew(context, features, expected);
    await device.free([features.imageTokens]);
    return { cached, recomputed };
  } finally {
    await images.dispose();
    await programs.dispose();
  }
}

async function encode(
  images: ImageFeatures,
  { vision }: FusionConfig,
  { case: { instructs, blankImages } }: ExpectedGreedy,
): Promise<VisionFeatures> {
  const { data } = casePixels(1, vision.imageSize, []);
  const picture = blankImages.includes(0) ? undefined : pictureOfCrops(data as Float32Array);
  const question = instructs.data.slice(0, instructs.shape[1]);
  const { features: tiles } = await images.tiles(picture);
  return { tiles, imageTokens: await images.whole(picture, question) };
}

function openSession(
  context: DecodeContext,
  features: VisionFeatures,
  { case: { samples }, promptLength, queryLength }: ExpectedGreedy,
  made: readonly number[],
): DecodeSession {
  const prompt = Array.from(samples[0]?.inputIds ?? []).slice(0, promptLength);
  const ids = { inputIds: [...prompt, ...made], endsOfQuestion: [promptLength - 1] };
  return new DecodeSession(context, ids, features, queryLength);
}

async function decodeCached(
  context: DecodeContext,
  features: VisionFeatures,
  expected: ExpectedGreedy,
): Promise<readonly number[]> {
  const session = openSession(context, features, expected, []);
  try {
    const made: number[] = [];
    let logits = await session.prefill();
    for (;;) {
      const token = largest(logits);
      if (token === undefined) return made;
      made.push(token);
      if (made.length === expected.tokens.length) return made;
      logits = await session.append(token);
    }
  } finally {
    await session.free();
  }
}

async function decodeAnew(
  context: DecodeContext,
  features: VisionFeatures,
  expected: ExpectedGreedy,
): Promise<readonly number[]> {
  const made: number[] = [];
  while (made.length < expected.tokens.length) {
    const session = openSession(context, features, expected, made);
    const logits = await session.prefill().finally(() => session.free());
    const token = largest(logits);
    if (token === undefined) break;
    made.push(token);
  }
  return made;
}

/** The first position of the largest value; none where a value is not a number. */
function largest(logits: Float32Array): number | undefined {
  if (logits.length === 0 || logits.some(Number.isNaN)) return undefined;
  return logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
}
