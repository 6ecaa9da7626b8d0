/**
 * What an answer needs before its prompt can be read: compiled programs and the picture's features. Knows nothing of
 * tokens that are made. Shapes: P patches, P' image tokens, D decoder width.
 */
import type { AnswerOptions, AnswerPlan, Timings } from './answer.ts';
import type { VisionFeatures } from './batchDecoder.ts';
import type { FusionModel } from './model.ts';
import type { Picture } from './picture.ts';

/** Seconds of each phase so far. */
export type Clock = { -readonly [name in keyof Timings]: number };

/** Features of the picture on the device; `free` gives them back, once. */
export interface AnswerInputs {
  readonly features: VisionFeatures;
  free(): Promise<void>;
}

export const startClock = ({ loadSeconds }: FusionModel): Clock => ({
  load: loadSeconds,
  vision: 0,
  prefill: 0,
  decode: 0,
});

/** Does the work and adds its duration to a phase. */
export async function timed<T>(clock: Clock, phase: keyof Clock, work: () => Promise<T>): Promise<T> {
  const start = performance.now();
  try {
    return await work();
  } finally {
    clock[phase] += (performance.now() - start) / 1e3;
  }
}

/** Compiles what the answer needs and encodes the picture; undefined where the signal was aborted meanwhile. */
export async function prepareInputs(
  model: FusionModel,
  plan: AnswerPlan,
  picture: Picture | undefined,
  options: Pick<AnswerOptions, 'signal' | 'onProgress'>,
  clock: Clock,
): Promise<AnswerInputs | undefined> {
  const cancelled = () => options.signal?.aborted ?? false;
  if (cancelled()) return undefined;
  await timed(clock, 'load', () => compile(model, plan.queryLength, picture !== undefined));
  try {
    return await timed(clock, 'vision', () => encodePicture(model, plan, picture, options));
  } catch (error) {
    if (cancelled()) return undefined;
    throw error;
  }
}

async function compile(
  { images, programs }: FusionModel,
  queryLength: number,
  hasImage: boolean,
): Promise<void> {
  await images.compile(hasImage);
  await programs.prefill(queryLength);
  await programs.decode();
}

/** Encodes the picture's tiles and its whole crop, with the questions. */
export async function encodePicture(
  { images, device }: Pick<FusionModel, 'images' | 'device'>,
  { prompt }: AnswerPlan,
  picture: Picture | undefined,
  { signal, onProgress }: Pick<AnswerOptions, 'signal' | 'onProgress'>,
): Promise<AnswerInputs> {
  const held = await images.tiles(picture, { signal, onProgress });
  try {
    signal?.throwIfAborted();
    onProgress?.({ phase: 'vision', done: 4, total: 5, unit: 'tiles' });
    const imageTokens = await images.whole(picture, prompt.instructs);
    onProgress?.({ phase: 'vision', done: 5, total: 5, unit: 'tiles' });
    const free = async () => {
      await device.free([imageTokens]);
      await held.release();
    };
    return { features: { tiles: held.features, imageTokens }, free };
  } catch (error) {
    await held.release();
    throw error;
  }
}
