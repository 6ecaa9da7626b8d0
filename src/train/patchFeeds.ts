/**
 * The pictures of a step of `pretrain-tower` and what their patches show, as the feeds of `patchProgram`. A step's
 * feeds are a function of the seed and the step. Knows pixels and labels, not weights.
 */
import { type ConversationFormat, encodeConversation, fromLlava } from '../data/conversation.ts';
import { CROPS_PER_IMAGE, staticHdCrops } from '../data/image.ts';
import {
  type Category,
  PATCH_CLASSES,
  patchLabels,
  QA_CATEGORIES,
  QUESTION_CLASSES,
  questionLabels,
  renderScene,
  type Sample,
  sampleAt,
  WHOLE_CROP,
} from '../data/synth/index.ts';
import type { Tokenizer } from '../data/tokenizer.ts';
import type { FusionConfig } from '../model/config.ts';
import { f32, i32, paddedRows } from '../model/feeds.ts';
import type { Asked, Questions } from '../model/patchPrograms.ts';
import type { HostTensor } from '../runtime/types.ts';

export interface PatchEncoder {
  readonly config: FusionConfig;
  readonly tokenizer: Tokenizer;
  readonly format: ConversationFormat;
  readonly asked: Asked;
  readonly seed: number;
  /** Pictures of a step. */
  readonly batchSize: number;
  /** One question of each picture instead of a conversation. */
  readonly single: boolean;
}

/** Every question of a patch, with its answers. */
export const questionsOf = (asked: Asked): Questions =>
  asked === 'question' ? { ...PATCH_CLASSES, ...QUESTION_CLASSES } : PATCH_CLASSES;

/** Pictures of these categories take turns. */
const SHOWN: readonly Category[] = ['SynthScene', 'SynthText', 'SynthScene', 'ContrastShort'];
const ASKED: readonly Category[] = [...QA_CATEGORIES, 'SynthScene'];

type Feeds = Record<string, HostTensor>;

export async function patchFeeds(encoder: PatchEncoder, step: number): Promise<Feeds> {
  const { batchSize, seed, asked, single } = encoder;
  const categories = asked === 'question' ? ASKED : SHOWN;
  const samples = Array.from({ length: batchSize }, (_, i) => {
    const index = (step - 1) * batchSize + i;
    const category = categories[index % categories.length] ?? 'SynthScene';
    return sampleAt(category, 'train', seed, index, { minObjects: 1, single });
  });
  const side = encoder.config.vision.imageSize;
  const pictures: Float32Array[] = [];
  for (const { scene } of samples) {
    pictures.push(staticHdCrops(await renderScene(scene, 2 * side), side));
  }
  return asked === 'question'
    ? questionFeeds(encoder, samples, pictures, step)
    : allCropsFeeds(encoder.config, samples, pictures);
}

/** All crops of each picture, without a question. */
function allCropsFeeds(
  { vision: { grid, imageSize } }: FusionConfig,
  samples: readonly Sample[],
  pictures: readonly Float32Array[],
): Feeds {
  const labels = patchLabels(
    samples.map(({ scene }) => scene),
    grid,
  );
  return { pixels: joined(pictures, CROPS_PER_IMAGE, imageSize), ...labelFeeds(labels) };
}

/** One tile of each picture, the four taking turns, and the whole with its questions. */
function questionFeeds(
  { config, tokenizer, format }: PatchEncoder,
  samples: readonly Sample[],
  pictures: readonly Float32Array[],
  step: number,
): Feeds {
  const { grid, imageSize, patches } = config.vision;
  const tileOf = (i: number) => (i + step) % WHOLE_CROP;
  const cropsAt = (cropOf: (i: number) => number) =>
    joined(
      pictures.map((crops, i) => cropAt(crops, cropOf(i))),
      1,
      imageSize,
    );
  const scenes = samples.map(({ scene }) => scene);
  const shown = patchLabels([...scenes, ...scenes], grid, (i) => [
    i < scenes.length ? tileOf(i) : WHOLE_CROP,
  ]);
  return {
    pixels: cropsAt(tileOf),
    whole_pixels: cropsAt(() => WHOLE_CROP),
    instructs: instructsOf(samples, tokenizer, format),
    ...labelFeeds(shown),
    ...labelFeeds(questionLabels(samples, grid, scenes.length * patches)),
  };
}

function cropAt(crops: Float32Array, crop: number): Float32Array {
  const size = crops.length / CROPS_PER_IMAGE;
  return crops.subarray(crop * size, (crop + 1) * size);
}

function joined(pictures: readonly Float32Array[], crops: number, side: number): HostTensor {
  const size = crops * 3 * side * side;
  const pixels = new Float32Array(pictures.length * size);
  for (const [i, picture] of pictures.entries()) pixels.set(picture, i * size);
  return f32(pixels, [pictures.length * crops, 3, side, side]);
}

/** The questions' tokens, padded with 0: i32 [B, T]. */
function instructsOf(
  samples: readonly Sample[],
  tokenizer: Tokenizer,
  format: ConversationFormat,
): HostTensor {
  const rows = samples.map(
    ({ conversations }) =>
      encodeConversation(tokenizer, format, fromLlava(conversations), { hasImage: true }).instructs,
  );
  return paddedRows(rows);
}

type Labels = Readonly<
  Record<string, { readonly rows: readonly number[]; readonly classes: readonly number[] }>
>;

function labelFeeds(labels: Labels): Feeds {
  return Object.fromEntries(
    Object.entries(labels).flatMap(([question, { rows, classes }]) => [
      [`rows.${question}`, i32(Int32Array.from(rows))],
      [`classes.${question}`, i32(Int32Array.from(classes))],
    ]),
  );
}
