/**
 * A checkpoint folder: `model.safetensors`, or shards named by `model.safetensors.index.json`, as one table of
 * tensors. Reads headers on opening and tensors when asked.
 *
 * Knows nothing of which tensors a model needs. Source: the layout of Hugging Face checkpoints.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { messageOf, UserError } from '../common/errors.ts';
import { toF32 } from '../common/numberFormats.ts';
import { isRecord, kindOf, parseJsonObject } from './jsonText.ts';
import { openSafetensors, readRange, type TensorInfo } from './safetensors.ts';

/** Where one tensor lies: its file, and its place in it. */
export type CheckpointTensor = TensorInfo & { readonly file: string };

export type Checkpoint = {
  readonly dir: string;
  readonly tensors: ReadonlyMap<string, CheckpointTensor>;
  /** The tensor's bytes, little-endian. Throws `UserError` for an unknown name. */
  readonly read: (name: string) => Promise<Uint8Array>;
  /** The tensor as float32, row-major. Throws `UserError` for an unknown name or an integer dtype. */
  readonly readF32: (name: string) => Promise<Float32Array>;
};

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';

/**
 * Opens the checkpoint in `dir`, reading and checking every header. Throws `UserError` where the folder, the
 * index or a shard is missing or they disagree.
 */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  const files = await listFolder(dir);
  const tensors = files.includes(SINGLE)
    ? await openFile(path.join(dir, SINGLE))
    : await openShards(dir, await readIndex(dir, files));
  const find = (name: string): CheckpointTensor => {
    const tensor = tensors.get(name);
    if (tensor === undefined) {
      throw new UserError(`${dir}: expected tensor ${name}, got none of that name among ${tensors.size}`);
    }
    return tensor;
  };
  const read = async (name: string) => {
    const { file, begin, byteLength } = find(name);
    return readRange(file, begin, byteLength);
  };
  const readF32 = async (name: string) => toF32(find(name).dtype, await read(name), `${dir}: tensor ${name}`);
  return { dir, tensors, read, readF32 };
}

async function listFolder(dir: string): Promise<readonly string[]> {
  const expected = `expected a checkpoint folder with config.json and ${SINGLE} or ${INDEX}`;
  const found = await stat(dir).catch(() => undefined);
  if (found === undefined) throw new UserError(`${dir}: ${expected}, got no such folder`);
  if (!found.isDirectory()) throw new UserError(`${dir}: ${expected}, got a file`);
  const files = await readdir(dir).catch((error: unknown) => {
    throw new UserError(`${dir}: ${expected}, got ${messageOf(error)}`);
  });
  if (files.includes(SINGLE) || files.includes(INDEX)) return files;
  if (files.length === 0) throw new UserError(`${dir}: ${expected}, got an empty folder`);
  const hint = files.some((file) => file.endsWith('.bin')) ? '; PyTorch .bin weights are not read' : '';
  throw new UserError(`${dir}: ${expected}, got only ${someOf(files.toSorted())}${hint}`);
}

async function openFile(file: string): Promise<Map<string, CheckpointTensor>> {
  const { tensors } = await openSafetensors(file);
  return new Map([...tensors].map(([name, info]) => [name, { ...info, file }]));
}

/** The index as shard → names of its tensors. */
async function readIndex(
  dir: string,
  files: readonly string[],
): Promise<ReadonlyMap<string, readonly string[]>> {
  const where = path.join(dir, INDEX);
  const bytes = await readFile(where).catch((error: unknown) => {
    throw new UserError(`${where}: ${messageOf(error)}`);
  });
  const map = parseJsonObject(bytes, where).weight_map;
  if (!isRecord(map)) {
    throw new UserError(
      `${where}: expected weight_map, an object of tensor name → shard, got ${kindOf(map)}`,
    );
  }
  const shards = new Map<string, string[]>();
  for (const [name, shard] of Object.entries(map)) {
    checkShardName(where, dir, name, shard);
    const names = shards.get(shard);
    if (names === undefined) shards.set(shard, [name]);
    else names.push(name);
  }
  const missing = [...shards.keys()].filter((shard) => !shard.includes('/') && !files.includes(shard));
  if (missing.length > 0) {
    throw new UserError(`${where}: expected ${shards.size} shards, got no file ${someOf(missing)}`);
  }
  return shards;
}

/** Lexical only: the Hub's cache keeps shards as links that point elsewhere, rightly. */
function checkShardName(where: string, dir: string, name: string, shard: unknown): asserts shard is string {
  const relative = typeof shard === 'string' ? path.relative(dir, path.resolve(dir, shard)) : '';
  const inside = relative !== '' && relative !== '..' && !/^\.\.[\\/]/.test(relative);
  if (inside && !path.isAbsolute(String(shard)) && !relative.includes('\0')) return;
  throw new UserError(`${where}: ${name}: expected a file inside the folder, got ${kindOf(shard)}`);
}

async function openShards(
  dir: string,
  shards: ReadonlyMap<string, readonly string[]>,
): Promise<Map<string, CheckpointTensor>> {
  const all = new Map<string, CheckpointTensor>();
  for (const [shard, names] of shards) {
    const file = path.join(dir, shard);
    const tensors = await openFile(file);
    const absent = names.filter((name) => !tensors.has(name));
    if (absent.length > 0) {
      throw new UserError(`${file}: expected the tensors ${INDEX} places here, got no ${someOf(absent)}`);
    }
    const listed = new Set(names);
    const unlisted = [...tensors.keys()].filter((name) => !listed.has(name));
    if (unlisted.length > 0) {
      throw new UserError(
        `${file}: expected only tensors ${INDEX} places here, got also ${someOf(unlisted)}`,
      );
    }
    for (const [name, tensor] of tensors) all.set(name, tensor);
  }
  return all;
}

function someOf(names: readonly string[]): string {
  const more = names.length - 3;
  return `${names.slice(0, 3).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}
