/**
 * What a program that runs exported graphs has to know, as JSON: their inputs and outputs, and what to feed them.
 * Knows no bytes. docs/export.md says how to read it.
 */
import type { Program } from '../../graph/index.ts';
import { describeVariant, type FusionConfig } from '../../model/config.ts';
import { keysOf, pastOf, valuesOf } from '../../model/programs.ts';
import { rotaryFrequencies } from '../../model/rotary.ts';
import { IMAGE, LATENT } from '../../model/sentinels.ts';
import type { OnnxGraph } from '../../onnx/lower.ts';
import { imageTokenCount } from '../imageFeatures.ts';
import { contextLength } from '../limits.ts';
import type { ModelFiles } from '../model.ts';

/** Of `export.json`. A program that reads it should refuse another. */
export const EXPORT_VERSION = 1;

/** A graph that was written. */
export interface ExportedGraph {
  readonly file: string;
  readonly graph: OnnxGraph;
}

/** What the letters of shapes stand for. */
const DIMENSIONS = {
  B: 'samples',
  T: 'tokens of the question, 1 at least',
  S: 'positions of the prompt',
  N: 'text tokens of the prompt',
  L: 'latents of the prompt: query_length for each question',
  R: 'rows: positions whose logits are wanted (prefill), sequences (decode)',
  C: 'slots of the cache',
};

/** Element types as NumPy and ONNX Runtime call them. */
const TYPE_NAMES: Readonly<Record<string, string>> = { f32: 'float32', i32: 'int32', u8: 'uint8' };

/** The contents of `export.json`. queryLength: latents per question, built into `prefill`. */
export function exportJson(
  files: ModelFiles,
  queryLength: number,
  graphs: readonly ExportedGraph[],
): Record<string, unknown> {
  const { config, quantization } = files;
  const beyond = graphs.flatMap(({ graph }) => nonStandard(graph));
  return {
    version: EXPORT_VERSION,
    variant: describeVariant(config),
    model_type: config.modelType,
    weights: quantization?.formats ?? 'f32',
    non_standard_operators: [...new Set(beyond)].toSorted(),
    graphs: Object.fromEntries(graphs.map((exported) => [exported.graph.name, graphJson(exported)])),
    dimensions: DIMENSIONS,
    order: ORDER,
    query_length: queryLength,
    image_tokens: imageTokenCount(config),
    patches: config.vision.patches,
    width: config.decoder.hiddenSize,
    vocabulary: config.decoder.vocabSize,
    context: contextLength(config),
    preprocessing: preprocessing(config),
    tokens: tokens(files),
    conversation: conversation(files),
    rotary: rotary(config),
    cache: cache(config),
  };
}

const ORDER = [
  { graph: 'encode_tile', runs: 'for each tile of a picture; without a picture once, on zeros' },
  { graph: 'encode_whole', runs: 'for each prompt with a picture' },
  { graph: 'prefill', runs: 'for each prompt' },
  { graph: 'decode', runs: 'for each token after the first' },
];

function graphJson({ file, graph }: ExportedGraph): Record<string, unknown> {
  const spec = ({ name, dtype, shape }: Program['inputs'][number]) => {
    return { name, dtype: TYPE_NAMES[dtype] ?? dtype, shape };
  };
  return {
    file,
    inputs: graph.inputs.map(spec),
    outputs: graph.outputs.map(spec),
    non_standard_operators: nonStandard(graph),
  };
}

function nonStandard({ nodes }: OnnxGraph): readonly string[] {
  const beyond = nodes.filter(({ domain }) => domain !== '');
  return [...new Set(beyond.map(({ domain, operator }) => `${domain}.${operator}`))].toSorted();
}

function preprocessing({ vision: { imageSize } }: FusionConfig): Record<string, unknown> {
  return {
    colours: 'RGB',
    layout: '[3, height, width]',
    resize: "bicubic, antialiased, as Pillow's BICUBIC; the aspect ratio is not kept",
    rescale: 1 / 255,
    mean: [0.5, 0.5, 0.5],
    std: [0.5, 0.5, 0.5],
    whole: { resize_to: [imageSize, imageSize] },
    tiles: {
      resize_to: [2 * imageSize, 2 * imageSize],
      size: [imageSize, imageSize],
      order: ['top left', 'top right', 'bottom left', 'bottom right'],
    },
  };
}

function tokens({ config, tokenizer, stopIds }: ModelFiles): Record<string, unknown> {
  return {
    image_placeholder: IMAGE,
    latent_placeholder: LATENT,
    instruct_padding: 0,
    begins_with: tokenizer.addsBos ? (tokenizer.bosId ?? null) : null,
    stop: [...stopIds],
    padding: config.padId ?? null,
  };
}

function conversation({ format }: ModelFiles): Record<string, unknown> {
  return {
    format: format.name,
    system: format.systemText === '' ? '' : format.systemHeader + format.systemText + format.turnEnd,
    user: format.userHeader,
    assistant: format.assistantHeader,
    turn_end: format.turnEnd,
    image: '<vision_start><image><vision_end>\n',
    latents: '<vision_start><latent_image><vision_end>',
  };
}

function rotary({ decoder }: FusionConfig): Record<string, unknown> {
  const { rope, headSize } = decoder;
  const frequencies = (total: number) => Array.from(rotaryFrequencies(rope, headSize, total));
  const common = { scale: rope.kind === 'longrope' ? rope.attentionFactor : 1, frequencies: frequencies(0) };
  if (rope.kind !== 'longrope') return common;
  const long = { beyond: rope.originalMaxPositions, frequencies: frequencies(Number.POSITIVE_INFINITY) };
  return { ...common, long };
}

function cache({ decoder }: FusionConfig): Record<string, unknown> {
  const layers = Array.from({ length: decoder.layers }, (_, i) => i);
  return {
    kv_heads: decoder.kvHeads,
    head_size: decoder.headSize,
    outputs: layers.flatMap((i) => [keysOf(i), valuesOf(i)]),
    inputs: layers.flatMap((i) => [pastOf(keysOf(i)), pastOf(valuesOf(i))]),
  };
}
