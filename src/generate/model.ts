/**
 * A checkpoint folder → a model ready to answer: configuration, tokenizer, conversation format, weights on a
 * device. Cheap checks come before the weights, so that a wrong folder is told at once. Knows nothing of
 * questions.
 */
import { realpathSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { type Checkpoint, openCheckpoint } from '../checkpoint/folder.ts';
import { loadWeights, type ResidentWeights } from '../checkpoint/loadWeights.ts';
import { convertedFolder } from '../checkpoint/quantise/cache.ts';
import {
  partFormats,
  type Quantization,
  readQuantization,
  type WeightFormat,
} from '../checkpoint/quantise/formats.ts';
import { openStored } from '../checkpoint/quantise/stored.ts';
import { UserError } from '../common/errors.ts';
import type { OnProgress } from '../common/progress.ts';
import { type ConversationFormat, formatFor, formatNamed, stopIds } from '../data/conversation.ts';
import { loadTokenizer, type Tokenizer } from '../data/tokenizer.ts';
import { type FusionConfig, readFusionConfig } from '../model/config.ts';
import { validateTensors } from '../model/weights.ts';
import { openDevice } from '../runtime/device.ts';
import type { Constants, Device, DeviceName } from '../runtime/types.ts';
import { CompiledPrograms, type ModelPrograms } from './compiled.ts';
import { checkMemory, type ExpectedUse, hasRoomForAll } from './fitCheck.ts';
import { generationEosIds } from './generationConfig.ts';
import { DEFAULT_FEATURE_BYTES, ImageFeatures } from './imageFeatures.ts';
import { withImageTokens } from './limits.ts';
import { openSeparateReader, type SeparateReader } from './separateReader.ts';
import { answeringThreads, hasConstantWeights } from './smallModels.ts';
import { StagedPrograms } from './stagedPrograms.ts';
import { loadStaged } from './stagedWeights.ts';
import { growVocabulary, withVocabulary } from './vocabulary.ts';

export interface LoadOptions {
  /** `cpu` (default), `webgpu`, `auto`, or an opened device, which the caller then closes. */
  readonly device?: DeviceName | 'auto' | Device | undefined;
  /** Threads of the CPU kernels; unless given all cores, or one for a model of under 20 million parameters. */
  readonly threads?: number | undefined;
  /** Folder with `tokenizer.json`; the model's own unless given. */
  readonly tokenizer?: string | undefined;
  /** Bytes of image features kept for images seen before; 256 MiB unless given. */
  readonly featureBytes?: number | undefined;
  /**
   * How weights are kept: f32 (default), or rounded (`int8`, `int4`), for which the checkpoint is converted once, into
   * a cache. A converted folder needs no word of it.
   */
  readonly weights?: LoadFormat | undefined;
  /**
   * Positions that an image takes in the sequence, a perfect square; the config's unless given. Of files that were
   * read before, what they were read with counts.
   */
  readonly imageTokens?: number | undefined;
  /**
   * True: where there is a core to spare, a small model reads prompts on a CPU device of their own, while other answers
   * are decoded. Of use where many ask at once.
   */
  readonly separateReader?: boolean | undefined;
  /** What memory is checked for before loading; `unchecked` loads anyway. */
  readonly memory?: ExpectedUse | 'unchecked' | undefined;
  readonly onProgress?: OnProgress | undefined;
  /** Told of work that takes long and is done once, and of memory that may not be enough, one line each. */
  readonly onNote?: ((text: string) => void) | undefined;
}

/** Formats that a checkpoint can be asked for in. */
export type LoadFormat = Exclude<WeightFormat, 'f16'>;

/** A loaded model. Several answers may be under way at once; `dispose` frees everything. */
export interface FusionModel {
  readonly dir: string;
  readonly config: FusionConfig;
  readonly tokenizer: Tokenizer;
  readonly format: ConversationFormat;
  /** Ids that end an answer: of the generation config, the tokenizer and the format. */
  readonly stopIds: ReadonlySet<number>;
  readonly device: Device;
  /** f32, by checkpoint name; of a converted model those that were not rounded. */
  readonly weights: ResidentWeights;
  readonly programs: ModelPrograms;
  readonly images: ImageFeatures;
  /** Reads prompts of several answers, where that is done apart. */
  readonly reader?: SeparateReader | undefined;
  /** What the user should know of the checkpoint, one line each. */
  readonly warnings: readonly string[];
  readonly loadSeconds: number;
  dispose(): Promise<void>;
}

/** What is known of a model before its weights are loaded: enough to check a question. */
export interface ModelFiles {
  readonly dir: string;
  readonly config: FusionConfig;
  readonly tokenizer: Tokenizer;
  readonly format: ConversationFormat;
  readonly stopIds: ReadonlySet<number>;
  readonly warnings: readonly string[];
  /** The folder that `tokenizer` was read from. */
  readonly tokenizerDir: string;
  readonly checkpoint: Checkpoint;
  /** With as many vocabulary rows as the checkpoint. */
  readonly trained: FusionConfig;
  /** Of a converted folder, how its weights are kept. */
  readonly quantization: Quantization | undefined;
  /** What reading took. */
  readonly seconds: number;
}

/**
 * Reads everything but the weights of the checkpoint in `dir`.
 *
 * @throws UserError for a folder that lacks something or holds something else than its config says, a tokenizer that
 * is absent or does not fit the conversation format, and a number of image tokens that cannot be.
 */
export async function readModelFiles(
  dir: string,
  { tokenizer = dir, imageTokens }: Pick<LoadOptions, 'tokenizer' | 'imageTokens'> = {},
): Promise<ModelFiles> {
  const start = performance.now();
  const resized = withImageTokens(await readFusionConfig(dir), imageTokens);
  const trained = resized.config;
  const checkpoint = await openCheckpoint(dir);
  const quantization = await readQuantization(dir);
  if (quantization === undefined) validateTensors(trained, checkpoint);
  else openStored(trained, quantization.formats, checkpoint);
  const text = await loadText(dir, trained, tokenizer);
  const config = withVocabulary(trained, text.tokenizer.vocabularySize);
  if (quantization !== undefined && config !== trained) throw withoutRows(dir, trained, config);
  const warnings = [...vocabularyWarnings(dir, trained, config), ...resized.warnings];
  const seconds = (performance.now() - start) / 1e3;
  const found = { ...text, tokenizerDir: tokenizer, warnings, checkpoint, trained, quantization };
  return { dir, config, ...found, seconds };
}

/**
 * Loads the checkpoint in a folder (or one whose files were read already) for answering.
 *
 * @throws UserError as `readModelFiles`, for memory that surely is not enough, and for a device that is not there.
 */
export async function loadModel(from: string | ModelFiles, options: LoadOptions = {}): Promise<FusionModel> {
  const found = typeof from === 'string' ? await readModelFiles(from, options) : from;
  if (options.memory !== 'unchecked') {
    for (const warning of checkMemory(found, options.weights, options.memory)) options.onNote?.(warning);
  }
  const files = await inFormat(found, options);
  const start = performance.now();
  const { dir, config, tokenizer, format, stopIds: ends, warnings } = files;
  const given = typeof options.device === 'object' ? options.device : undefined;
  const device = given ?? (await openNamed(options, config));
  try {
    const { weights, programs } = await loadPrograms(device, files, options);
    const limit = options.featureBytes ?? DEFAULT_FEATURE_BYTES;
    const images = new ImageFeatures(device, config, programs, { limit });
    const reader = options.separateReader ? await openReader(device, files, limit) : undefined;
    const dispose = async () => {
      await reader?.dispose();
      await programs.dispose();
      await images.dispose();
      await device.free(Object.values(weights));
      if (given === undefined) await device.close();
    };
    const loadSeconds = files.seconds + (performance.now() - start) / 1e3;
    const text = { tokenizer, format, stopIds: ends, warnings };
    return { dir, config, ...text, device, weights, programs, images, reader, loadSeconds, dispose };
  } catch (error) {
    if (given === undefined) await device.close();
    throw error;
  }
}

function openNamed({ device, threads }: LoadOptions, config: FusionConfig): Promise<Device> {
  const name = typeof device === 'string' ? device : 'cpu';
  return openDevice(name, { threads: threads ?? answeringThreads(config) });
}

async function loadText(
  dir: string,
  config: FusionConfig,
  folder: string,
): Promise<Pick<FusionModel, 'tokenizer' | 'format' | 'stopIds'>> {
  const tokenizer = await loadTokenizer(folder);
  const { conversationFormat } = config;
  const format =
    conversationFormat === undefined ? formatFor(config.modelType) : formatNamed(conversationFormat);
  const eos = await generationEosIds(path.join(dir, 'generation_config.json'), config);
  return { tokenizer, format, stopIds: new Set([...eos, ...stopIds(format, tokenizer)]) };
}

/**
 * The files of the model in the format that is asked for, converted where need be.
 *
 * @throws UserError for a folder that cannot be converted so.
 */
export async function inFormat(files: ModelFiles, options: LoadOptions): Promise<ModelFiles> {
  const { weights, tokenizer, imageTokens, threads, onProgress, onNote } = options;
  const { dir, quantization } = files;
  const kept = quantization?.formats.decoder ?? 'f32';
  if (weights === undefined || weights === kept) return files;
  if (quantization !== undefined) {
    throw new UserError(
      `${dir}: expected a checkpoint as it was trained to make ${weights} of, got one converted to ${kept}`,
    );
  }
  if (files.config !== files.trained) throw withoutRows(dir, files.trained, files.config);
  const formats = partFormats(weights);
  const made = await convertedFolder(dir, { label: weights, formats, threads, onProgress, onNote });
  return readModelFiles(made, { tokenizer: tokenizer ?? dir, imageTokens });
}

async function loadPrograms(
  device: Device,
  files: ModelFiles,
  { memory, onProgress }: LoadOptions,
): Promise<{ readonly weights: ResidentWeights; readonly programs: ModelPrograms }> {
  const { config, checkpoint, quantization } = files;
  if (quantization === undefined) {
    const weights = await loadGrown(device, files, onProgress);
    const constants = constantWeights(device, files);
    return { weights, programs: new CompiledPrograms(device, config, weights, constants) };
  }
  const staged = await loadStaged(device, config, checkpoint, quantization, onProgress);
  const keptBytes =
    memory !== 'unchecked' && hasRoomForAll(files, memory) ? Number.POSITIVE_INFINITY : undefined;
  return { weights: staged.resident, programs: new StagedPrograms(device, config, staged, { keptBytes }) };
}

/** A reader for a small model; none where no core is free for it, or where long answers have to be read again. */
async function openReader(
  device: Device,
  files: ModelFiles,
  featureBytes: number,
): Promise<SeparateReader | undefined> {
  const { config, quantization } = files;
  const constants = quantization === undefined ? constantWeights(device, files) : {};
  const spare = availableParallelism() > device.threads;
  if (Object.keys(constants).length === 0 || !spare || config.decoder.rope.kind === 'longrope')
    return undefined;
  return openSeparateReader(config, constants, featureBytes);
}

/** The weights as files have them, where these are what the kernels take and there is memory for their copies. */
function constantWeights(device: Device, { trained, config, checkpoint }: ModelFiles): Constants {
  const tensors = [...checkpoint.tensors];
  const fits = config === trained && tensors.every(([, { dtype }]) => dtype === 'F32');
  if (device.name !== 'cpu' || !fits || !hasConstantWeights(config)) return {};
  // Sessions map files of one folder alone, and the hub's cache has links out of it.
  return Object.fromEntries(
    tensors.map(([name, tensor]) => [name, { ...tensor, file: realpathSync(tensor.file), dtype: 'f32' }]),
  );
}

async function loadGrown(
  device: Device,
  { trained, config, checkpoint }: ModelFiles,
  onProgress: OnProgress | undefined,
): Promise<ResidentWeights> {
  const weights = await loadWeights(device, trained, checkpoint, onProgress);
  const rows = config.decoder.vocabSize;
  if (rows === trained.decoder.vocabSize) return weights;
  return growVocabulary(device, weights, checkpoint, rows);
}

function vocabularyWarnings(dir: string, trained: FusionConfig, config: FusionConfig): readonly string[] {
  const [rows, ids] = [trained.decoder.vocabSize, config.decoder.vocabSize];
  if (rows === ids) return [];
  return [
    `${dir}: the tokenizer has ${ids} ids, the checkpoint's vocabulary ${rows} rows; the missing ${ids - rows} start as the mean of the others`,
  ];
}

const withoutRows = (dir: string, trained: FusionConfig, config: FusionConfig): UserError =>
  new UserError(
    `${dir}: expected a vocabulary row for each of the tokenizer's ${config.decoder.vocabSize} ids to convert it, got ${trained.decoder.vocabSize}; use it in f32`,
  );
