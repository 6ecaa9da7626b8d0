/**
 * Short greedy answers to many questions at once, for marking. A batch is encoded once; for each further token the
 * decoder reads all prompts again, answers so far included, which for answers of a few tokens costs less than
 * keeping caches of unequal lengths. Knows nothing of where questions come from or what is right.
 * Shapes: B questions, P patches, S crop side, T question tokens, D width, V vocabulary.
 */
import type { EncodedPrompt } from '../data/conversation.ts';
import { imageTokenCount } from '../generate/imageFeatures.ts';
import type { FusionModel } from '../generate/model.ts';
import { f32, i32, rotaryFeeds, sequenceFeeds } from '../model/feeds.ts';
import { END_OF_QUESTION, IGNORE } from '../model/sentinels.ts';
import { layOutSequences, type SequenceSample } from '../model/sequence.ts';
import type { HostTensor } from '../runtime/types.ts';

/** A question with its picture. */
export interface PicturedPrompt {
  readonly prompt: EncodedPrompt;
  /** f32 [5, 3, S, S]: four tiles, then the whole. */
  readonly crops: Float32Array;
}

/** What the decoder gets of the pictures: tiles f32 [B, 4·P, D], image tokens f32 [B, P', D]. */
interface Features {
  readonly tiles: HostTensor;
  readonly imageTokens: HostTensor;
}

/** An answer under way. */
interface Row {
  readonly sample: { readonly inputIds: number[]; readonly labels: number[] };
  /** Its place in the batch, and so in `Features`. */
  readonly place: number;
  readonly answer: number[];
}

/**
 * The likeliest answers, as token ids without the end token; cut at `maxTokens`. All with one number of latents, the
 * model's default. The result depends on the batch by rounding only.
 */
export async function answerBatch(
  model: FusionModel,
  batch: readonly PicturedPrompt[],
  maxTokens: number,
): Promise<readonly (readonly number[])[]> {
  const features = await encode(model, batch);
  const rows = batch.map(({ prompt }, place): Row => ({ sample: sampleOf(prompt), place, answer: [] }));
  let open: readonly Row[] = rows;
  for (let step = 0; step < maxTokens && open.length > 0; step++) {
    const tokens = await nextTokens(model, open, features);
    open = open.filter((row, i) => {
      const token = tokens[i] ?? 0;
      if (model.stopIds.has(token)) return false;
      row.answer.push(token);
      row.sample.inputIds.push(token);
      row.sample.labels.push(IGNORE);
      return true;
    });
  }
  return rows.map(({ answer }) => answer);
}

function sampleOf({ inputIds, endsOfQuestion }: EncodedPrompt): Row['sample'] {
  const labels = Array.from(inputIds, () => IGNORE as number);
  for (const end of endsOfQuestion) labels[end] = END_OF_QUESTION;
  return { inputIds: Array.from(inputIds), labels };
}

async function encode(model: FusionModel, batch: readonly PicturedPrompt[]): Promise<Features> {
  return { tiles: await encodeTiles(model, batch), imageTokens: await encodeWholes(model, batch) };
}

async function encodeTiles({ config, programs }: FusionModel, batch: readonly PicturedPrompt[]) {
  const { vision, decoder } = config;
  const side = vision.imageSize;
  const size = 4 * 3 * side ** 2;
  const pixels = joined(batch.map(({ crops }) => crops.subarray(0, size)));
  const { outputs } = await (await programs.tile()).run({
    tile_pixels: f32(pixels, [4 * batch.length, 3, side, side]),
  });
  const shape = [batch.length, 4 * vision.patches, decoder.hiddenSize];
  return { ...(outputs.features as HostTensor), shape };
}

/**
 * The whole crops, those with equally long questions at once: padding would change them, because early text rows of
 * the tower average it in.
 */
async function encodeWholes(model: FusionModel, batch: readonly PicturedPrompt[]): Promise<HostTensor> {
  const { config } = model;
  const [tokens, width] = [imageTokenCount(config), config.decoder.hiddenSize];
  const all = new Float32Array(batch.length * tokens * width);
  const lengths = new Set(batch.map(({ prompt }) => prompt.instructs.length));
  for (const length of lengths) {
    const places = [...batch.keys()].filter((b) => batch[b]?.prompt.instructs.length === length);
    const alike = batch.filter(({ prompt }) => prompt.instructs.length === length);
    const features = await encodeEqual(model, alike);
    for (const [i, place] of places.entries()) {
      all.set(features.subarray(i * tokens * width, (i + 1) * tokens * width), place * tokens * width);
    }
  }
  return f32(all, [batch.length, tokens, width]);
}

/** The whole crops of questions of one length: f32 [B, P', D]. */
async function encodeEqual({ config, programs }: FusionModel, batch: readonly PicturedPrompt[]) {
  const side = config.vision.imageSize;
  const pixels = joined(batch.map(({ crops }) => crops.subarray(4 * 3 * side ** 2)));
  const ids = Int32Array.from(batch.flatMap(({ prompt }) => [...prompt.instructs]));
  const { outputs } = await (await programs.whole()).run({
    pixels: f32(pixels, [batch.length, 3, side, side]),
    instructs: i32(ids, [batch.length, ids.length / batch.length]),
  });
  return outputs.image_tokens?.data as Float32Array;
}

/** Arrays of one length, one after the other. */
function joined(parts: readonly Float32Array[]): Float32Array {
  const size = parts[0]?.length ?? 0;
  const all = new Float32Array(parts.length * size);
  for (const [i, part] of parts.entries()) all.set(part, i * size);
  return all;
}

/** The likeliest next token of each row. */
async function nextTokens(model: FusionModel, rows: readonly Row[], features: Features): Promise<number[]> {
  const { config, programs } = model;
  const queryLength = config.defaultQueryLen;
  const sizes = {
    imageTokens: imageTokenCount(config),
    queryLength,
    maxLength: Number.POSITIVE_INFINITY,
  };
  const samples: SequenceSample[] = rows.map(({ sample }) => sample);
  const layout = layOutSequences(samples, sizes);
  const places = rows.map(({ place }) => place);
  const last = layout.lengths.map((length, b) => b * layout.sequence + length - 1);
  const { outputs } = await (await programs.prefill(queryLength)).run({
    ...sequenceFeeds(layout),
    ...rotaryFeeds(config.decoder, 0, layout.sequence, layout.sequence),
    image_tokens: rowsOf(features.imageTokens, places),
    tile_features: rowsOf(features.tiles, places),
    last_positions: i32(Int32Array.from(last)),
  });
  return largestInRows(outputs.logits as HostTensor);
}

/** The named items of the first axis of an f32 tensor. */
function rowsOf(tensor: HostTensor, places: readonly number[]): HostTensor {
  const [count = 0, ...inner] = tensor.shape;
  if (places.length === count) return tensor;
  const size = inner.reduce((a, b) => a * b, 1);
  const all = tensor.data as Float32Array;
  const chosen = new Float32Array(places.length * size);
  for (const [i, place] of places.entries())
    chosen.set(all.subarray(place * size, (place + 1) * size), i * size);
  return f32(chosen, [places.length, ...inner]);
}

/** Of each row of [R, V] the index of the largest value, the lowest of equal ones. */
function largestInRows({ data, shape }: HostTensor): number[] {
  const [count = 0, width = 0] = shape;
  const best = (row: number) => {
    let at = row * width;
    for (let i = at + 1; i < (row + 1) * width; i++) if (Number(data[i]) > Number(data[at])) at = i;
    return at - row * width;
  };
  return Array.from({ length: count }, (_, row) => best(row));
}
