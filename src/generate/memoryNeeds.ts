/**
 * What a model takes of memory, estimated from its configuration before anything is loaded. Knows nothing of what there
 * is. `docs/quantisation.md` has figures that were measured; estimates are within 15% of them.
 */
import type { PartFormats } from '../checkpoint/quantise/formats.ts';
import { EMBEDDINGS, storedTensors } from '../checkpoint/quantise/stored.ts';
import type { DecoderConfig, FusionConfig } from '../model/config.ts';
import { layerGroups, towerGroups } from '../model/stages.ts';
import { expectedTensors, type Part, partOf, type Shape } from '../model/weights.ts';
import { imageTokenCount } from './imageFeatures.ts';
import { CACHE_BLOCK, cacheBytesPerPosition } from './kvCache.ts';
import { KEPT_BYTES, PROMPT_CHUNK } from './stagedPrograms.ts';
import { KERNEL_BYTES } from './workload.ts';

/** What a model is used for, as far as its memory depends on it. */
export interface MemoryUse {
  /** Positions of a conversation: prompt and answer. */
  readonly positions: number;
  /** Latents per question. */
  readonly queryLength: number;
  /** Conversations that are answered at once. */
  readonly sequences: number;
  /** Whether the tower is needed again while the decoder is loaded: another question, another picture. */
  readonly asksAgain: boolean;
}

/** In bytes. */
export interface MemoryNeeds {
  /** Weights as they are in memory; token embeddings of converted models are read from their file. */
  readonly weights: Readonly<Record<Part, number>>;
  /** Keys and values. */
  readonly cache: number;
  /** A picture's features, as the decoder gets them. */
  readonly features: number;
  /** What encoding a crop has in hand. */
  readonly vision: number;
  /** What reading a prompt has in hand. */
  readonly prefill: number;
  /** The program itself. */
  readonly program: number;
  /** The most at a time. */
  readonly peak: number;
}

const F32 = Float32Array.BYTES_PER_ELEMENT;
const TILES = 4;
/** Node.js, ONNX Runtime and a tokenizer. */
const PROGRAM = 170e6;
/** Tokens of a question that are read with the crop. */
const QUESTION = 64;
/** Bytes of a weight's share of its block's scale, which stays in memory beside what kernels read. */
const SCALE_BYTES = 0.125;
/** Bytes of it in the file. */
const STORED_BYTES = { 4: 0.625, 8: 1.125 } as const;

/** formats: how the parts of a converted model are kept; undefined for a checkpoint as it was trained. */
export function memoryNeeds(
  config: FusionConfig,
  formats: PartFormats | undefined,
  use: MemoryUse,
): MemoryNeeds {
  const { weights, staged } = formats === undefined ? trainedWeights(config) : storedWeights(config, formats);
  const slots = Math.ceil(use.positions / CACHE_BLOCK) * CACHE_BLOCK;
  const parts = {
    weights,
    cache: use.sequences * slots * cacheBytesPerPosition(config.decoder),
    features: F32 * (TILES * config.vision.patches + imageTokenCount(config)) * config.decoder.hiddenSize,
    vision: visionWork(config),
    prefill: prefillWork(config, use, staged !== undefined),
    program: PROGRAM,
  };
  return { ...parts, peak: peakOf(parts, staged, use) };
}

/** Bytes of all weights as they are in memory. formats: as in `memoryNeeds`. */
export function weightsInMemory(config: FusionConfig, formats: PartFormats | undefined): number {
  const { weights } = formats === undefined ? trainedWeights(config) : storedWeights(config, formats);
  return sumOf(weights);
}

const sumOf = (weights: Readonly<Record<Part, number>>): number =>
  Object.values(weights).reduce((a, b) => a + b, 0);

/** Weights of stages that come and go; all others stay. */
interface Staged {
  /** The tower with its projectors, and what of them is there at a time. */
  readonly vision: number;
  readonly visionGroup: number;
  /** All interaction layers, and one of them. */
  readonly interaction: number;
  readonly interactionLayer: number;
}

function peakOf(needs: Omit<MemoryNeeds, 'peak'>, staged: Staged | undefined, use: MemoryUse): number {
  const { cache, features, vision, prefill, program } = needs;
  const weights = sumOf(needs.weights);
  // Every program keeps what its largest run took: the tiles', the whole crop's, the prompt's.
  if (staged === undefined) return program + weights + cache + features + 2 * vision + prefill;
  const stays = program + weights - staged.vision - staged.interaction + features;
  const reading = stays + cache + prefill + staged.interactionLayer;
  const looking = staged.visionGroup + vision;
  // The decoder is loaded after the first picture was encoded, and is there when the next one is.
  const decoder = needs.weights.decoder + needs.weights.lm_head;
  return Math.max(reading, use.asksAgain ? stays + cache + looking : stays - decoder + looking);
}

function trainedWeights(config: FusionConfig): {
  readonly weights: Record<Part, number>;
  readonly staged: undefined;
} {
  const weights = noWeights();
  for (const [name, shape] of expectedTensors(config)) add(weights, partOf(name), F32 * sizeOf(shape));
  return { weights, staged: undefined };
}

function storedWeights(config: FusionConfig, formats: PartFormats) {
  const weights = noWeights();
  const [inMemory, inFile] = [noWeights(), noWeights()];
  const { plain, rounded } = storedTensors(config, formats);
  for (const { name, shape } of plain) {
    if (name !== EMBEDDINGS) add(weights, partOf(name), F32 * sizeOf(shape));
  }
  for (const { name, bits, out, width } of rounded) {
    const part = name === EMBEDDINGS ? 'lm_head' : partOf(name);
    const bytes = (KERNEL_BYTES[bits] + SCALE_BYTES) * out * width;
    add(weights, part, bytes);
    add(inMemory, part, bytes);
    add(inFile, part, STORED_BYTES[bits] * out * width);
  }
  const goes = (part: Part) => inFile[part] > KEPT_BYTES;
  const projectors = inMemory.mm_projector + inMemory.aux_projector;
  const interaction = goes('interaction') ? inMemory.interaction : 0;
  const staged: Staged = {
    vision: goes('vision_tower') ? inMemory.vision_tower + projectors : 0,
    visionGroup: goes('vision_tower') ? largestGroup(config) * inMemory.vision_tower + projectors : 0,
    interaction,
    interactionLayer: interaction / Math.max(config.interaction.layers, 1),
  };
  return { weights, staged };
}

/** The share of the tower's layers that is in its largest group. */
function largestGroup(config: FusionConfig): number {
  const sizes = towerGroups(config).map(({ first, last }) => last - first + 1);
  return Math.max(...sizes) / config.vision.layers;
}

/** A layer over a crop and a question: the widest tensors, and everybody's attention to everybody. */
function visionWork({ vision }: FusionConfig): number {
  const tokens = vision.patches + QUESTION;
  return F32 * tokens * (2 * vision.intermediateSize + 6 * vision.hiddenSize + vision.heads * tokens);
}

/** A layer over the positions that are read at a time, and what is kept of all of them meanwhile. */
function prefillWork(config: FusionConfig, use: MemoryUse, staged: boolean): number {
  const { decoder, interaction } = config;
  const { positions, queryLength } = use;
  const { hiddenSize, intermediateSize, heads, kvHeads, headSize } = decoder;
  const rows = staged ? Math.min(PROMPT_CHUNK, positions) : positions;
  const row = 3 * intermediateSize + (heads + 2 * kvHeads) * headSize + 4 * hiddenSize + heads * positions;
  const states = 2 * positions * hiddenSize;
  const windows = 2 * queryLength * interaction.window ** 2 * hiddenSize;
  // In stages a group's cache is made apart, and copied; at once, all layers' keys and values are outputs.
  const layers = staged ? longestGroup(config) : decoder.layers;
  return F32 * (rows * row + states + windows) + layers * positions * cacheBytesPerLayer(decoder);
}

const cacheBytesPerLayer = (decoder: DecoderConfig): number =>
  cacheBytesPerPosition(decoder) / decoder.layers;

const longestGroup = (config: FusionConfig): number =>
  Math.max(...layerGroups(config).map(({ first, last }) => last - first + 1));

const sizeOf = (shape: Shape): number => shape.reduce((a, b) => a * b, 1);

const noWeights = (): Record<Part, number> => ({
  vision_tower: 0,
  mm_projector: 0,
  aux_projector: 0,
  interaction: 0,
  decoder: 0,
  embeddings: 0,
  lm_head: 0,
});

function add(weights: Record<Part, number>, part: Part | undefined, bytes: number): void {
  if (part !== undefined) weights[part] += bytes;
}
