/**
 * `checkpoint-N` folders: a model that `ask` loads, and everything a run needs to go on bit for bit. A folder
 * appears whole or not at all, so a killed save leaves the checkpoints before it as they were.
 *
 * model.safetensors (or shards), config.json (with LoRA instead: adapter_model.safetensors, adapter_config.json: no
 * model by itself, `fusion merge` makes one), tokenizer files · optimizer.safetensors (both AdamW moments) ·
 * trainer_state.json · data_state.json · training_config.yaml. Random numbers are functions of the seed and the
 * step, so there is no generator to save.
 */
import { readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  copyFiles,
  GENERATION_FILE,
  TOKENIZER_FILES,
  writeJson,
  writeNewFolder,
  writeWeights,
} from '../checkpoint/newFolder.ts';
import { openSafetensors, type TensorEntry, writeSafetensors } from '../checkpoint/safetensors.ts';
import { messageOf, UserError } from '../common/errors.ts';
import { type FusionConfig, toConfigJson } from '../model/config.ts';
import type { Device, ResidentTensor } from '../runtime/types.ts';
import { resolveConfig, type StageConfig, showConfig } from './config.ts';
import { writeLora } from './lora.ts';
import { downloadFactors, type LoraSetup } from './loraStage.ts';
import type { Moments, Trainer } from './trainer.ts';
import { readTrainerState, type TrainerState, writeTrainerState } from './trainerState.ts';

const OPTIMIZER_FILE = 'optimizer.safetensors';
const DATA_STATE_FILE = 'data_state.json';
const CONFIG_FILE = 'training_config.yaml';

/** Where the samples of a run stand; a JSON value that the source of samples understands. */
export type DataState = Readonly<Record<string, unknown>>;

export interface SavedRun {
  readonly dir: string;
  readonly state: TrainerState;
  readonly dataState: DataState;
  readonly stage: StageConfig;
}

export interface SaveOptions {
  /** The run's folder; `checkpoint-N` is made in it. */
  readonly out: string;
  /** `diverged` saves as `diverged-N`, which resuming and `save_total_limit` leave alone; `checkpoint` by default. */
  readonly kind?: 'checkpoint' | 'diverged' | undefined;
  readonly stage: StageConfig;
  readonly config: FusionConfig;
  /** Where tokenizer and generation files are copied from. */
  readonly base: string;
  readonly state: TrainerState;
  readonly dataState: DataState;
  /** The model card. */
  readonly readme: string;
  /** Save these factors, not the model they belong to. */
  readonly lora?: LoraSetup | undefined;
}

/** Saves a run as `checkpoint-N` and removes the oldest beyond `save_total_limit`. Returns the folder. */
export async function saveCheckpoint(
  device: Device,
  trainer: Trainer,
  options: SaveOptions,
): Promise<string> {
  const { out, stage, base, state, kind = 'checkpoint' } = options;
  const dir = path.join(out, `${kind}-${state.global_step}`);
  // A resumed run's base may be a checkpoint that is removed before this save; the newest never is.
  const newest = (await checkpointSteps(out)).at(-1);
  const tokenizer = newest === undefined ? base : path.join(out, `checkpoint-${newest}`);
  await removeLeftovers(out);
  if (kind === 'diverged') await removeFolder(dir);
  await writeNewFolder(dir, async (folder) => {
    await writeModel(folder, device, trainer, options);
    await writeSafetensors(path.join(folder, OPTIMIZER_FILE), momentEntries(device, trainer.moments));
    await writeJson(path.join(folder, DATA_STATE_FILE), options.dataState);
    await writeText(path.join(folder, CONFIG_FILE), showConfig([stage]));
    await writeText(path.join(folder, 'README.md'), options.readme);
    await copyFiles(tokenizer, folder, [...TOKENIZER_FILES, GENERATION_FILE]);
    await writeTrainerState(folder, state);
  });
  if (kind === 'checkpoint') await rotate(out, stage.save_total_limit);
  return dir;
}

/** The whole model; with LoRA the factors alone, as PEFT has them. */
async function writeModel(
  folder: string,
  device: Device,
  { weights }: Trainer,
  { config, lora }: SaveOptions,
): Promise<void> {
  if (lora !== undefined) {
    return writeLora(folder, lora.targets, lora.lora, await downloadFactors(device, lora, weights));
  }
  await writeWeights(folder, entriesOf(device, new Map(Object.entries(weights))));
  await writeJson(path.join(folder, 'config.json'), toConfigJson(config));
}

function entriesOf(device: Device, tensors: ReadonlyMap<string, ResidentTensor>): TensorEntry[] {
  return [...tensors].map(([name, tensor]) => ({
    name,
    dtype: 'F32' as const,
    shape: tensor.shape,
    data: async () => (await device.download(tensor)).data,
  }));
}

const FIRST = 'first.';
const SECOND = 'second.';

function momentEntries(device: Device, moments: ReadonlyMap<string, Moments>): TensorEntry[] {
  const all = [...moments].flatMap(([name, { first, second }]) => [
    [FIRST + name, first] as const,
    [SECOND + name, second] as const,
  ]);
  return entriesOf(device, new Map(all));
}

/** The moments of a saved run, resident again. */
export async function loadMoments(device: Device, dir: string): Promise<ReadonlyMap<string, Moments>> {
  const file = await openSafetensors(path.join(dir, OPTIMIZER_FILE));
  const moments = new Map<string, Moments>();
  const load = async (name: string): Promise<ResidentTensor> => {
    const tensor = file.tensors.get(name);
    if (tensor?.dtype !== 'F32') throw new UserError(`${file.path}: expected the f32 tensor ${name}`);
    const { begin, byteLength, dtype, shape } = tensor;
    return device.readFile({ file: file.path, begin, byteLength, dtype, shape });
  };
  for (const name of file.tensors.keys()) {
    if (!name.startsWith(FIRST)) continue;
    const weight = name.slice(FIRST.length);
    moments.set(weight, { first: await load(name), second: await load(SECOND + weight) });
  }
  return moments;
}

/** The steps of the checkpoints in a run's folder, oldest first. */
export async function checkpointSteps(out: string): Promise<readonly number[]> {
  const names = await readdir(out).catch(() => []);
  const steps = names.flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? []).map(Number);
  return steps.sort((a, b) => a - b);
}

/**
 * The run saved in `dir`, or for a run's folder its newest checkpoint. Throws `UserError` where there is none, or
 * where it holds a model but no run.
 */
export async function readRun(dir: string): Promise<SavedRun> {
  const newest = (await checkpointSteps(dir)).at(-1);
  const folder = newest === undefined ? dir : path.join(dir, `checkpoint-${newest}`);
  const state = await readTrainerState(folder);
  const configFile = path.join(folder, CONFIG_FILE);
  const [stage] = resolveConfig(await readText(configFile), configFile);
  if (stage === undefined) throw new UserError(`${configFile}: expected one stage, got none`);
  const dataState = JSON.parse(await readText(path.join(folder, DATA_STATE_FILE))) as DataState;
  return { dir: folder, state, dataState, stage };
}

async function writeText(file: string, text: string): Promise<void> {
  return writeFile(file, text).catch((error: unknown) => {
    throw new UserError(`${file}: ${messageOf(error)}`);
  });
}

async function readText(file: string): Promise<string> {
  return readFile(file, 'utf8').catch((error: unknown) => {
    throw new UserError(`${file}: ${messageOf(error)}`);
  });
}

/** Removes the oldest checkpoints beyond `limit`. */
async function rotate(out: string, limit: number | undefined): Promise<void> {
  if (limit === undefined) return;
  for (const step of (await checkpointSteps(out)).slice(0, -limit)) {
    await removeFolder(path.join(out, `checkpoint-${step}`));
  }
}

/** Removes a folder at once for its readers: half a checkpoint never has a checkpoint's name. */
async function removeFolder(dir: string): Promise<void> {
  const doomed = `${dir}.${process.pid}.old.tmp`;
  await rename(dir, doomed).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw new UserError(`${dir}: ${messageOf(error)}`);
  });
  await rm(doomed, { recursive: true, force: true });
}

/** Removes what killed saves left in a run's folder. */
export async function removeLeftovers(out: string): Promise<void> {
  const names = await readdir(out).catch(() => []);
  const leftovers = names.filter((name) => /^(checkpoint|diverged)-\d+\..*\.tmp$/.test(name));
  for (const name of leftovers) await rm(path.join(out, name), { recursive: true, force: true });
}
