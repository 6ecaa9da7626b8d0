/**
 * What answering must do at least: bytes that a decode step reads, operations that reading a prompt takes. Measured
 * times are compared with them. Knows nothing of how it is done. Letters: N positions, D width, H heads, E head size.
 */
import type { PartFormats } from '../checkpoint/quantise/formats.ts';
import { storedTensors } from '../checkpoint/quantise/stored.ts';
import type { DecoderConfig, FusionConfig } from '../model/config.ts';
import { interactionAfter } from '../model/fusion.ts';
import { expectedTensors, type Part, partOf, type Shape } from '../model/weights.ts';
import { cacheBytesPerPosition } from './kvCache.ts';

const F32 = Float32Array.BYTES_PER_ELEMENT;
/** Bytes of a rounded weight as kernels read it: its code, and its share of a scale and of the block's sum. */
export const KERNEL_BYTES = { 4: 0.75, 8: 1.25 } as const;
/** Parts that every step reads whole. */
const READ: ReadonlySet<Part | undefined> = new Set<Part>(['decoder', 'lm_head']);

/** Bytes of weights that one decode step reads. formats: undefined for a checkpoint as it was trained. */
export function decodeWeightBytes(config: FusionConfig, formats: PartFormats | undefined): number {
  const { vocabSize, hiddenSize, tiedEmbeddings } = config.decoder;
  if (formats === undefined) {
    const tied = tiedEmbeddings ? vocabSize * hiddenSize : 0;
    const shapes = [...expectedTensors(config)].filter(([name]) => READ.has(partOf(name)));
    return F32 * shapes.reduce((sum, [, shape]) => sum + sizeOf(shape), tied);
  }
  const { plain, rounded } = storedTensors(config, formats);
  const isRead = ({ name }: { readonly name: string }) => READ.has(partOf(name));
  // A rounded token embedding is the head.
  const read = rounded.filter((each) => isRead(each) || partOf(each.name) === 'embeddings');
  return (
    plain.filter(isRead).reduce((sum, { shape }) => sum + F32 * sizeOf(shape), 0) +
    read.reduce((sum, { bits, out, width }) => sum + KERNEL_BYTES[bits] * out * width, 0)
  );
}

/** Bytes that the decode step after `positions` positions reads: weights, keys and values. */
export function decodeBytes(
  config: FusionConfig,
  formats: PartFormats | undefined,
  positions: number,
): number {
  return decodeWeightBytes(config, formats) + positions * cacheBytesPerPosition(config.decoder);
}

/** Operations of reading a prompt, a multiplication and an addition each two; products only. */
export function prefillOperations(config: FusionConfig, positions: number, queryLength: number): number {
  const { decoder } = config;
  const { layers, hiddenSize, heads, headSize, vocabSize } = decoder;
  // Half of all pairs of positions, scores and sums over values.
  const attention = 2 * positions ** 2 * heads * headSize;
  const whole = 2 * positions * layerWeights(decoder) + attention;
  const endsWithLayer = interactionAfter(layers - 1, config) === undefined;
  const last = endsWithLayer ? 2 * positions * attentionInputs(decoder) : whole;
  const head = 2 * vocabSize * hiddenSize;
  return (layers - 1) * whole + last + interactionOperations(config, queryLength) + head;
}

/** Latents and windows through the products of the interaction layers. */
function interactionOperations({ interaction, decoder }: FusionConfig, queryLength: number): number {
  const { layers, window } = interaction;
  const cells = queryLength * window ** 2;
  const square = decoder.hiddenSize ** 2;
  // Of the context: itself, keys, values. Of the latents: 2D → D, queries, output and two at the end.
  return layers * 2 * square * (3 * cells + 6 * queryLength);
}

/** Of queries, keys and values. */
const attentionInputs = ({ hiddenSize, heads, kvHeads, headSize }: DecoderConfig): number =>
  hiddenSize * (heads + 2 * kvHeads) * headSize;

const layerWeights = (decoder: DecoderConfig): number =>
  attentionInputs(decoder) + decoder.hiddenSize ** 2 + 3 * decoder.hiddenSize * decoder.intermediateSize;

const sizeOf = (shape: Shape): number => shape.reduce((a, b) => a * b, 1);
