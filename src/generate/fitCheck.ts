/**
 * Whether a model fits the memory that is free, told before it is loaded, with what would fit. Knows nothing of how
 * memory is measured (`common/machineMemory.ts`) or estimated (`memoryNeeds.ts`).
 */
import {
  type PartFormats,
  partFormats,
  type Quantization,
  type WeightFormat,
} from '../checkpoint/quantise/formats.ts';
import { UserError } from '../common/errors.ts';
import { type MachineMemory, machineMemory } from '../common/machineMemory.ts';
import type { FusionConfig } from '../model/config.ts';
import { imageTokenCount } from './imageFeatures.ts';
import { contextLength } from './limits.ts';
import { type MemoryUse, memoryNeeds } from './memoryNeeds.ts';

/** What a model is loaded for. */
export interface ExpectedUse {
  /** Positions of the first prompt; those of an image and a short question unless given. */
  readonly promptTokens?: number | undefined;
  /** Positions of prompt and answer at most; 4096, or what the context allows, unless given. */
  readonly positions?: number | undefined;
  /** Latents per question; the config's default unless given. */
  readonly queryLength?: number | undefined;
  /** Conversations at once; 1 unless given. */
  readonly sequences?: number | undefined;
  /** Whether more than one question is asked. */
  readonly asksAgain?: boolean | undefined;
}

/** What is known of the model before it is loaded. */
export interface CheckedModel {
  readonly dir: string;
  readonly config: FusionConfig;
  readonly quantization: Quantization | undefined;
}

/** Estimates are this near. */
const MARGIN = 0.15;
const USUAL_POSITIONS = 4096;
const SHORT_QUESTION = 100;
/** Fewer positions than this are no advice. */
const USEFUL_ROOM = 64;

/**
 * Notes where memory may not be enough, one line each. weights: the format it is to be loaded in, where that is not
 * the folder's own.
 *
 * @throws UserError where it surely is not enough for one short question, with what would fit.
 */
export function checkMemory(
  model: CheckedModel,
  weights: WeightFormat | undefined,
  expected: ExpectedUse = {},
  memory: MachineMemory = machineMemory(),
): readonly string[] {
  const { config, dir } = model;
  const formats = plannedFormats(model, weights);
  const full = fullUse(config, expected);
  const least = {
    ...full,
    positions: Math.min(promptOf(config, expected) + 1, full.positions),
    sequences: 1,
    asksAgain: false,
  };
  const needed = memoryNeeds(config, formats, least).peak;
  const { available } = memory;
  if (needed > (1 + MARGIN) * available) {
    const advice = adviceFor(model, formats, least, available);
    throw new UserError(
      `${dir}: expected ${gigabytes(needed)} of free memory for its weights in ${nameOf(formats)} and a short question, got ${gigabytes(available)}${advice}; --no-memory-check loads it anyway`,
    );
  }
  const most = memoryNeeds(config, formats, full).peak;
  if ((1 + MARGIN) * most <= available) return [];
  const advice = adviceFor(model, formats, full, available);
  return [
    `${dir}: in ${nameOf(formats)} it takes about ${gigabytes(most)} of memory with ${describeUse(full)}, ${gigabytes(available)} is free${advice}`,
  ];
}

/**
 * Whether a converted model that is asked more than once may keep compiled what it needs only at times: where twice
 * what it takes at most is free.
 */
export function hasRoomForAll(
  { config, quantization }: CheckedModel,
  expected: ExpectedUse = {},
  memory: MachineMemory = machineMemory(),
): boolean {
  if (!expected.asksAgain) return false;
  return 2 * memoryNeeds(config, quantization?.formats, fullUse(config, expected)).peak <= memory.available;
}

/** In which formats the model's parts will be in memory; undefined for a checkpoint as it was trained. */
export function plannedFormats(
  { quantization }: Pick<CheckedModel, 'quantization'>,
  weights: WeightFormat | undefined,
): PartFormats | undefined {
  if (quantization !== undefined) return quantization.formats;
  return weights === undefined || weights === 'f32' ? undefined : partFormats(weights);
}

function fullUse(config: FusionConfig, expected: ExpectedUse): MemoryUse {
  const { positions, queryLength, sequences, asksAgain } = expected;
  return {
    positions: positions ?? Math.min(contextLength(config), USUAL_POSITIONS),
    queryLength: queryLength ?? config.defaultQueryLen,
    sequences: sequences ?? 1,
    asksAgain: asksAgain ?? false,
  };
}

const promptOf = (config: FusionConfig, { promptTokens, queryLength }: ExpectedUse): number =>
  promptTokens ?? imageTokenCount(config) + (queryLength ?? config.defaultQueryLen) + SHORT_QUESTION;

/** `; --weights int8 (8.90 GB) or 1200 positions would fit`, or nothing. */
function adviceFor(
  model: CheckedModel,
  formats: PartFormats | undefined,
  use: MemoryUse,
  available: number,
): string {
  const { config } = model;
  const peak = (kept: PartFormats | undefined, changes: Partial<MemoryUse> = {}) =>
    memoryNeeds(config, kept, { ...use, ...changes }).peak;
  const fits: string[] = [];
  for (const weights of fewerBits(formats)) {
    const bytes = peak(partFormats(weights));
    const how =
      model.quantization === undefined ? `--weights ${weights}` : `the original converted to ${weights}`;
    if (bytes <= available) fits.push(`${how} (${gigabytes(bytes)})`);
  }
  const room = mostPositions(use.positions, (positions) => peak(formats, { positions }) <= available);
  if (room >= USEFUL_ROOM && room < use.positions) fits.push(`conversations of up to ${room} positions`);
  const shortest = Math.min(...config.queryLens);
  const saved = use.queryLength - shortest;
  if (saved > 0 && peak(formats, { queryLength: shortest, positions: use.positions - saved }) <= available) {
    fits.push(`--query-len ${shortest}`);
  }
  return fits.length === 0 ? '' : `; what fits: ${fits.join(', ')}`;
}

/** The largest number from 0 to `limit` that fits, where every smaller one does too. */
function mostPositions(limit: number, fits: (positions: number) => boolean): number {
  let [low, high] = [0, limit + 1];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (fits(middle)) low = middle;
    else high = middle;
  }
  return low;
}

/** Formats that take less than those of the model. */
function fewerBits(formats: PartFormats | undefined): readonly ('int8' | 'int4')[] {
  const kept = formats?.decoder ?? 'f32';
  if (kept === 'int4') return [];
  return kept === 'int8' ? ['int4'] : ['int8', 'int4'];
}

const nameOf = (formats: PartFormats | undefined): string => formats?.decoder ?? 'f32';

function describeUse({ positions, sequences }: MemoryUse): string {
  return sequences === 1 ? `${positions} positions` : `${sequences} conversations of ${positions} positions`;
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;
