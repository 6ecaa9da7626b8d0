/**
 * A FUSION checkpoint built from a language model's folder and a SigLIP's: their weights under FUSION's names, the
 * two vision tokens, fresh projectors and interaction layers. Or a whole one of random weights.
 *
 * Knows folders and names, not computing. One tensor is in memory at a time.
 * Source: the published training's starting point (paper, section 3) and the released checkpoints' tensor names.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { InternalError, messageOf, UserError } from '../common/errors.ts';
import type { OnProgress } from '../common/progress.ts';
import { Random } from '../common/random.ts';
import { type FusionConfig, parseFusionConfig, toConfigJson } from '../model/config.ts';
import { patchTensors } from '../model/patchPrograms.ts';
import {
  expectedTensors,
  fromSiglipName,
  optionalTensors,
  partOf,
  type Shape,
  toSiglipName,
  validateTensors,
} from '../model/weights.ts';
import { checkDecoderJson, fusionJson, type Json, modelNameOf, towerJson } from './baseConfigs.ts';
import { type Checkpoint, type CheckpointTensor, openCheckpoint } from './folder.ts';
import { type InitialValues, randomValues, torchValues } from './initialValues.ts';
import { parseJsonObject } from './jsonText.ts';
import { copyFiles, GENERATION_FILE, writeJson, writeNewFolder, writeWeights } from './newFolder.ts';
import type { TensorEntry } from './safetensors.ts';
import { asWeightDtype, copyTensor, growTable, torchDtype, type WeightDtype } from './tensorBytes.ts';
import { planTokenizer, type TokenizerPlan } from './visionTokens.ts';

type WriteOptions = {
  /** The new folder; it must not exist, or be empty. */
  readonly out: string;
  /** Of the fresh or random weights. Default 0. */
  readonly seed?: number | undefined;
  readonly maxShardBytes?: number | undefined;
  readonly onProgress?: OnProgress | undefined;
};

export type BaseOptions = WriteOptions & {
  /** Folder of a Llama or Phi-3 model. */
  readonly decoder: string;
  /** Folder of a SigLIP or SigLIP2 model, whole or its vision part alone. */
  readonly tower: string;
  /** Folder of the tokenizer; default: the decoder's. */
  readonly tokenizer?: string | undefined;
  /** `same` keeps each tensor's own and gives fresh ones the decoder's. Default BF16. */
  readonly dtype?: WeightDtype | 'same' | undefined;
  /** What is written as `mm_vision_tower`; default: the model id or folder name of `tower`. */
  readonly towerName?: string | undefined;
  /** Keys of config.json that replace the released ones, such as `query_len`. */
  readonly keys?: Json | undefined;
};

/** Where the weights come from, and how many rows the embedding tables have. */
type Sources = {
  readonly decoder: Checkpoint;
  readonly tower: Checkpoint;
  readonly tokens: TokenizerPlan;
  readonly config: FusionConfig;
  readonly dtype: WeightDtype | 'same';
  readonly fresh: InitialValues;
};

/**
 * Writes the checkpoint and returns its configuration. Throws `UserError` where a folder lacks something, is of
 * another kind of model, or its tensors are not those its config.json describes; then `out` is not made.
 */
export async function initFromBase(options: BaseOptions): Promise<FusionConfig> {
  const { decoder: decoderDir, tower: towerDir, out, seed = 0, dtype = 'BF16', keys = {} } = options;
  const decoderJson = await readJson(path.join(decoderDir, 'config.json'));
  checkDecoderJson(decoderJson, path.join(decoderDir, 'config.json'));
  const towerFile = path.join(towerDir, 'config.json');
  const sizes = towerJson(await readJson(towerFile), towerFile);
  const decoder = await openCheckpoint(decoderDir);
  const tower = await openCheckpoint(towerDir);
  const tokens = await planTokenizer(options.tokenizer ?? decoderDir);
  const rows = tableRows(decoder, tokens);
  const name = options.towerName ?? modelNameOf(towerDir);
  const raw = fusionJson(decoderJson, sizes, name, rows, keys);
  const config = parseFusionConfig(raw, `${decoderDir} with ${towerDir}`);
  const sources = { decoder, tower, tokens, config, dtype, fresh: torchValues(new Random(seed)) };
  checkNothingLost(sources);
  const entries = entriesOf(sources);
  await writeNewFolder(out, async (dir) => {
    await writeWeights(dir, entries, options);
    await writeConfig(dir, raw, config, freshDtype(sources));
    await copyFiles(decoderDir, dir, [GENERATION_FILE]);
    await tokens.write(dir);
  });
  return config;
}

export type RandomOptions = WriteOptions & {
  /** A parsed FUSION config.json. */
  readonly json: Json;
  /** Where `json` is from, for errors. */
  readonly where: string;
  /** Folder of a tokenizer to copy, with the vision tokens added where they are missing. */
  readonly tokenizer?: string | undefined;
  /** Default BF16. */
  readonly dtype?: WeightDtype | undefined;
  /** Standard deviation of the embedding tables. Default 0.02. */
  readonly embeddingStd?: number | undefined;
  /** Folder of a FUSION checkpoint whose vision tower, projectors and token embeddings stand in for random ones. */
  readonly tower?: string | undefined;
};

/**
 * Writes a checkpoint of random weights and returns its configuration. Equal seeds give equal files.
 *
 * @throws UserError for a tokenizer of too many ids, and a tower of other sizes.
 */
export async function initRandom(options: RandomOptions): Promise<FusionConfig> {
  const { json, where, out, seed = 0, dtype = 'BF16', embeddingStd } = options;
  const config = parseFusionConfig(json, where);
  const tokens = options.tokenizer === undefined ? undefined : await planTokenizer(options.tokenizer);
  const lastId = tokens === undefined ? -1 : tokens.size + tokens.newIds.length - 1;
  if (lastId >= config.decoder.vocabSize) {
    const got = `${options.tokenizer} with ids up to ${lastId}`;
    throw new UserError(
      `${where}: expected a tokenizer of at most vocab_size ${config.decoder.vocabSize} ids, got ${got}`,
    );
  }
  const shapes = expectedTensors(config);
  const values = randomValues(config, new Random(seed), embeddingStd);
  const given = await givenTower(config, options.tower);
  const entries = [...shapes].map(([name, shape]): TensorEntry => {
    const tensor = given.get(name);
    const data = () => (tensor === undefined ? values(name, shapes, dtype) : copyTensor(tensor, dtype));
    return { name, dtype, shape, data };
  });
  await writeNewFolder(out, async (dir) => {
    await writeWeights(dir, entries, options);
    await writeConfig(dir, json, config, dtype);
    await tokens?.write(dir);
  });
  return config;
}

/** What `pretrain-tower --question` teaches, from the checkpoint in a folder. */
async function givenTower(
  config: FusionConfig,
  dir: string | undefined,
): Promise<ReadonlyMap<string, CheckpointTensor>> {
  if (dir === undefined) return new Map();
  const { tensors } = await openCheckpoint(dir);
  const given = [...patchTensors(config, {}, 'question').own].map(([name, shape]) => {
    const tensor = tensors.get(name);
    const where = `${dir}: tensor ${name}`;
    if (tensor === undefined) throw new UserError(`${where}: expected shape [${shape.join(', ')}], got none`);
    checkShape(tensor, shape, where);
    return [name, tensor] as const;
  });
  return new Map(given);
}

/** The tables grow where the new tokens' ids lie beyond them (Phi-3's have rows to spare). */
function tableRows(decoder: Checkpoint, { size, newIds }: TokenizerPlan): number {
  const table = decoder.tensors.get(EMBEDDINGS);
  const rows = table?.shape[0];
  if (rows === undefined) throw new UserError(`${decoder.dir}: expected tensor ${EMBEDDINGS}, got none`);
  if (size > rows) {
    throw new UserError(`${decoder.dir}: expected a tokenizer of at most ${rows} ids, got one of ${size}`);
  }
  return Math.max(rows, size + newIds.length);
}

const EMBEDDINGS = 'model.embed_tokens.weight';
const HEAD = 'lm_head.weight';

/** Tensors neither used nor known to be left out are a sign of another architecture. */
function checkNothingLost({ decoder, tower, config }: Sources): void {
  const known = new Set([...expectedTensors(config).keys(), ...optionalTensors(config).keys()]);
  const leftOut = (name: string) => name.endsWith('.rotary_emb.inv_freq') || name === HEAD;
  const strangers = [...decoder.tensors.keys()].filter((name) => !known.has(name) && !leftOut(name));
  refuseStrangers(decoder.dir, strangers);
  const ofTower = [...tower.tensors.keys()].filter((name) => {
    const renamed = fromSiglipName(name, config.vision.layers);
    return renamed !== undefined && !known.has(renamed);
  });
  refuseStrangers(tower.dir, ofTower);
}

function refuseStrangers(dir: string, names: readonly string[]): void {
  if (names.length === 0) return;
  const shown = `${names.slice(0, 3).join(', ')}${names.length > 3 ? ', …' : ''}`;
  throw new UserError(
    `${dir}: expected only tensors its config.json describes, got also ${names.length}: ${shown}`,
  );
}

/** Every tensor of the new checkpoint, in the model's order; the tower's post_layernorm where it has one. */
function entriesOf(sources: Sources): readonly TensorEntry[] {
  const { config, tower } = sources;
  const shapes = expectedTensors(config);
  const kept = [...optionalTensors(config)].filter(([name]) => tower.tensors.has(toSiglipName(name) ?? ''));
  const entries = [...shapes, ...kept].map(([name, shape]) => entryOf(sources, name, shape, shapes));
  const table = new Map(entries.map((entry) => [entry.name, entry]));
  validateTensors(config, { dir: 'internal', tensors: table });
  return entries;
}

function entryOf(
  sources: Sources,
  name: string,
  shape: Shape,
  shapes: ReadonlyMap<string, Shape>,
): TensorEntry {
  const part = partOf(name);
  if (part === 'mm_projector' || part === 'aux_projector' || part === 'interaction') {
    const dtype = freshDtype(sources);
    return { name, dtype, shape, data: () => sources.fresh(name, shapes, dtype) };
  }
  const siglipName = toSiglipName(name);
  const from = siglipName === undefined ? sources.decoder : sources.tower;
  const tensor = from.tensors.get(siglipName ?? name);
  const where = `${from.dir}: tensor ${siglipName ?? name}`;
  if (tensor === undefined) throw new UserError(`${where}: expected shape [${shape.join(', ')}], got none`);
  const own = asWeightDtype(tensor.dtype, where);
  const dtype = sources.dtype === 'same' ? own : sources.dtype;
  const isTable = name === EMBEDDINGS || name === HEAD;
  checkShape(
    tensor,
    isTable ? [sources.decoder.tensors.get(EMBEDDINGS)?.shape[0] ?? 0, ...shape.slice(1)] : shape,
    where,
  );
  const { newIds, size } = sources.tokens;
  const grown = { rows: shape[0] ?? 0, newRows: newIds, meanOf: newIds.length > 0 ? size : 0 };
  const data = () => (isTable ? growTable(tensor, dtype, grown) : copyTensor(tensor, dtype));
  return { name, dtype, shape, data };
}

function checkShape(tensor: CheckpointTensor, expected: Shape, where: string): void {
  const { shape } = tensor;
  if (shape.length === expected.length && shape.every((dim, i) => dim === expected[i])) return;
  throw new UserError(`${where}: expected shape [${expected.join(', ')}], got [${shape.join(', ')}]`);
}

/** Fresh tensors are of the dtype asked for, or of the decoder's. */
function freshDtype({ dtype, decoder }: Sources): WeightDtype {
  if (dtype !== 'same') return dtype;
  const tensor = decoder.tensors.get(EMBEDDINGS);
  if (tensor === undefined) throw new InternalError('the embedding table was found before');
  return asWeightDtype(tensor.dtype, `${decoder.dir}: tensor ${EMBEDDINGS}`);
}

/** Keys this project does not read stay as they were. */
async function writeConfig(dir: string, raw: Json, config: FusionConfig, dtype: WeightDtype): Promise<void> {
  const written = toConfigJson(config);
  // Where the tower's name says its sizes they are left out, as in the released files.
  const { vision_config: _, ...rest } = raw;
  await writeJson(path.join(dir, 'config.json'), { ...rest, ...written, torch_dtype: torchDtype(dtype) });
}

async function readJson(file: string): Promise<Json> {
  const bytes = await readFile(file).catch((error: unknown) => {
    throw new UserError(`${file}: expected a model's config.json, got ${messageOf(error)}`);
  });
  return parseJsonObject(bytes, file);
}
