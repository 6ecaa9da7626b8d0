/**
 * A checkpoint folder that appears whole or not at all: filled under another name beside its place, flushed to
 * disk, renamed. And its weights: one safetensors file, or shards with their index.
 *
 * Knows nothing of what the tensors mean. Source: the layout of Hugging Face checkpoints (shards up to 5 GB).
 */
import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { messageOf, UserError } from '../common/errors.ts';
import { DTYPE_BYTES } from '../common/numberFormats.ts';
import type { OnProgress } from '../common/progress.ts';
import { type TensorEntry, writeSafetensors } from './safetensors.ts';

/** Hugging Face's limit for one shard; a larger tensor has a shard to itself. */
const MAX_SHARD_BYTES = 5e9;

/** Files beside the weights that a tokenizer and a generation consist of; each may be missing. */
export const TOKENIZER_FILES: readonly string[] = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'tokenizer.model',
  'chat_template.jinja',
];
export const GENERATION_FILE = 'generation_config.json';

export type WriteWeightsOptions = {
  readonly maxShardBytes?: number | undefined;
  readonly onProgress?: OnProgress | undefined;
};

/**
 * Makes the folder `out` by `fill`, which is given the folder to write into. Throws `UserError` where `out` is a
 * file or a folder with something in it, or where the disk refuses; then nothing is left behind.
 */
export async function writeNewFolder(out: string, fill: (dir: string) => Promise<void>): Promise<void> {
  const target = path.resolve(out);
  await checkFree(target);
  const temporary = `${target}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`;
  try {
    await onDisk(out, mkdir(temporary, { recursive: true }));
    await fill(temporary);
    await onDisk(out, syncFiles(temporary));
    await syncFolder(temporary);
    await onDisk(out, rename(temporary, target));
    await syncFolder(path.dirname(target));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
}

async function checkFree(target: string): Promise<void> {
  const files = await readdir(target).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw new UserError(`${target}: expected a new folder, got ${messageOf(error)}`);
  });
  if (files.length > 0) {
    throw new UserError(`${target}: expected a new or an empty folder, got one with ${files.length} files`);
  }
}

/**
 * Writes `entries` as `model.safetensors`, or in their order as shards with an index. Their data are asked for
 * one at a time. Throws `UserError` where the disk refuses.
 */
export async function writeWeights(
  dir: string,
  entries: readonly TensorEntry[],
  { maxShardBytes = MAX_SHARD_BYTES, onProgress = () => {} }: WriteWeightsOptions = {},
): Promise<void> {
  const shards = planShards(entries, maxShardBytes);
  let done = 0;
  const counted = (entry: TensorEntry): TensorEntry => ({
    ...entry,
    data: async () => {
      onProgress({ phase: 'convert', done: done++, total: entries.length, unit: 'tensors' });
      return typeof entry.data === 'function' ? entry.data() : entry.data;
    },
  });
  const map: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    const file = shards.length === 1 ? 'model.safetensors' : shardName(i, shards.length);
    await writeSafetensors(path.join(dir, file), shard.map(counted), { format: 'pt' });
    for (const { name } of shard) map[name] = file;
  }
  onProgress({ phase: 'convert', done, total: entries.length, unit: 'tensors' });
  if (shards.length === 1) return;
  const index = { metadata: { total_size: sum(entries.map(bytesOf)) }, weight_map: map };
  await writeJson(path.join(dir, 'model.safetensors.index.json'), index);
}

function planShards(entries: readonly TensorEntry[], limit: number): TensorEntry[][] {
  const shards: TensorEntry[][] = [[]];
  let size = 0;
  for (const entry of entries) {
    const bytes = bytesOf(entry);
    if (size > 0 && size + bytes > limit) {
      shards.push([]);
      size = 0;
    }
    shards.at(-1)?.push(entry);
    size += bytes;
  }
  return shards;
}

function shardName(index: number, count: number): string {
  const five = (n: number) => String(n).padStart(5, '0');
  return `model-${five(index + 1)}-of-${five(count)}.safetensors`;
}

function bytesOf({ dtype, shape }: TensorEntry): number {
  return shape.reduce((product, dim) => product * dim, DTYPE_BYTES[dtype]);
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

/** Writes `value` as indented JSON, flushed. Throws `UserError` where the disk refuses. */
export async function writeJson(file: string, value: unknown): Promise<void> {
  const handle = await onDisk(file, open(file, 'w'));
  try {
    await onDisk(file, handle.writeFile(`${JSON.stringify(value, undefined, 2)}\n`));
    await onDisk(file, handle.sync());
  } finally {
    await handle.close();
  }
}

/** Copies those of `names` that exist in `from` to `to`. Throws `UserError` where the disk refuses. */
export async function copyFiles(from: string, to: string, names: readonly string[]): Promise<void> {
  for (const name of names) {
    await copyFile(path.join(from, name), path.join(to, name)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw new UserError(`${path.join(to, name)}: ${messageOf(error)}`);
    });
  }
}

/** Flushes the files of a folder, so that after its renaming none is empty. */
async function syncFiles(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const handle = await open(path.join(folder, entry.name), 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
}

/** Some file systems cannot sync a folder, and need not. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r').catch(() => undefined);
  await handle?.sync().catch(() => undefined);
  await handle?.close();
}

async function onDisk<T>(where: string, action: Promise<T>): Promise<T> {
  return action.catch((error: unknown) => {
    throw new UserError(`${where}: ${messageOf(error)}`);
  });
}
