/**
 * Options that several commands share: how they are written, read and turned into the library's options. Knows
 * nothing of models.
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { TerminalProgress } from '../common/progress.ts';
import type { AnswerOptions } from '../generate/answer.ts';
import type { ExpectedUse } from '../generate/fitCheck.ts';
import type { LoadFormat, LoadOptions } from '../generate/model.ts';
import { embeddedModel, findModel } from './modelName.ts';
import { note } from './screen.ts';

/** What `--weights` accepts; named here so that help needs no model's code. */
const WEIGHTS = ['f32', 'int8', 'int4'] as const satisfies readonly LoadFormat[];

/** What the options of `addModelOptions` give. */
export interface ModelFlags {
  readonly model?: string;
  readonly tokenizer?: string;
  readonly weights?: LoadFormat;
  readonly imageTokens?: number;
  readonly device: 'auto' | 'cpu' | 'webgpu';
  readonly threads?: number;
  readonly memoryCheck?: boolean;
  readonly quiet?: boolean;
}

/** What the options of `addAnswerOptions` give. */
export interface AnswerFlags {
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly seed?: number;
  readonly stop?: readonly string[];
  readonly queryLen?: number;
  readonly maxPixels?: number;
  readonly exifRotation?: boolean;
}

/** Adds `--model` and what says how to load it. */
export function addModelOptions(command: Command): Command {
  const named = command
    .addOption(
      new Option('-m, --model <dir>', 'folder of the checkpoint, or its id on the hub').env('FUSION_MODEL'),
    )
    .option('--tokenizer <dir>', 'folder with tokenizer.json, where the model has none');
  return addDeviceOptions(addWeightOptions(named));
}

/** Adds what of a checkpoint is changed as it is loaded. */
export function addWeightOptions(command: Command): Command {
  return command
    .addOption(new Option('--weights <format>', 'convert to this format once, into a cache').choices(WEIGHTS))
    .option(
      '--image-tokens <n>',
      'positions an image takes, a perfect square such as 576, 256 or 144: fewer are quicker',
      integer,
    );
}

/** Adds where to run, on how many threads, whether memory is checked before, and how silently. */
export function addDeviceOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--device <name>', 'where to run').choices(['auto', 'cpu', 'webgpu']).default('auto'),
    )
    .option(
      '--threads <n>',
      'threads of the CPU kernels (default: all cores; one for small models)',
      positive,
    )
    .option('--no-memory-check', 'load a model even where memory is too small for it')
    .option('-q, --quiet', 'no progress, no warnings');
}

/** Adds what says how to answer, and how to read images. */
export function addAnswerOptions(command: Command): Command {
  return command
    .option(
      '--max-tokens <n>',
      'longest answer, in tokens (default: 1024 or what the context leaves)',
      integer,
    )
    .option('--temperature <x>', '0 takes the likeliest token (default), more is more varied', decimal)
    .option('--top-k <n>', 'choose among the k likeliest tokens', integer)
    .option('--top-p <x>', 'choose among the likeliest tokens that add up to this share', decimal)
    .option('--min-p <x>', "leave out tokens below this share of the likeliest one's probability", decimal)
    .option('--repetition-penalty <x>', 'above 1: avoid what was said before', decimal)
    .option('--seed <n>', 'the same seed and options give the same answer', integer)
    .option('--stop <text>', 'end the answer before this text (may be repeated)', collect)
    .option(
      '--query-len <n>',
      'latent tokens per question, a perfect square (default: 36 or the nearest)',
      integer,
    )
    .option('--max-pixels <n>', 'largest image that is decoded, in pixels (default: 100 million)', integer)
    .option('--exif-rotation', 'turn images as their EXIF data say');
}

/** The checkpoint's folder: the one given, or the model that comes with the package. */
export async function modelFolder({ model, quiet }: ModelFlags): Promise<string> {
  return model === undefined ? embeddedModel() : findModel(model, quiet);
}

/** The library's options for loading. use: what memory is checked for. */
export function loadOptions(
  flags: ModelFlags,
  onProgress: TerminalProgress,
  use: ExpectedUse = {},
): LoadOptions {
  const { device, threads, tokenizer, weights, imageTokens, memoryCheck = true, quiet } = flags;
  const tell = (text: string) => {
    onProgress.end();
    note(text);
  };
  const memory = memoryCheck ? use : 'unchecked';
  const onNote = quiet ? undefined : tell;
  return { device, threads, tokenizer, weights, imageTokens, memory, onProgress, onNote };
}

/** The library's options for answering; what was not given is left out. */
export function answerOptions(flags: AnswerFlags): AnswerOptions {
  const { maxTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop, queryLen } = flags;
  const all = { temperature, topK, topP, minP, repetitionPenalty, seed };
  const given = Object.entries(all).filter(([, value]) => value !== undefined);
  return { ...Object.fromEntries(given), maxTokens, stop, queryLength: queryLen };
}

export function integer(text: string): number {
  if (/^[+-]?\d+$/.test(text) && Number.isSafeInteger(Number(text))) return Number(text);
  throw new InvalidArgumentError('Expected an integer.');
}

export function positive(text: string): number {
  if (integer(text) >= 1) return Number(text);
  throw new InvalidArgumentError('Expected an integer from 1.');
}

export function decimal(text: string): number {
  if (text.trim() !== '' && Number.isFinite(Number(text))) return Number(text);
  throw new InvalidArgumentError('Expected a number.');
}

export function collect(text: string, before: readonly string[] = []): readonly string[] {
  return [...before, text];
}
