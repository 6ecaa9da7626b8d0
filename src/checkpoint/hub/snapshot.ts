/**
 * Whether the cache holds all a model needs, without asking the hub. Beside the snapshots, `trees/COMMIT.json` notes
 * every file of a commit; a snapshot without such a note is judged by its weights' index.
 *
 * Knows nothing of the network. Source: the `trees` that huggingface_hub writes since version 1.
 */
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { isRecord, parseJsonObject } from '../jsonText.ts';
import { holdsAll, readRef, replaceFile, repositoryFolder, snapshotFolder } from './cacheLayout.ts';
import type { HubId } from './ids.ts';
import { type HubFile, isSha256, isWanted, isWeights, type ListedFile } from './listing.ts';

/** The version of the notes that are read and written. */
const TREE_VERSION = 1;

/**
 * The snapshot's folder for a revision where everything a model needs is there, whichever program brought it;
 * undefined otherwise.
 */
export async function completeSnapshot(cache: string, id: HubId): Promise<string | undefined> {
  const folder = repositoryFolder(cache, id);
  const commit = await readRef(folder, id.revision);
  if (commit === undefined) return undefined;
  const snapshot = snapshotFolder(folder, commit);
  const files = await readTree(folder, commit);
  const complete = files === undefined ? await looksComplete(snapshot) : await holdsModel(snapshot, files);
  return complete ? snapshot : undefined;
}

async function holdsModel(snapshot: string, files: readonly HubFile[]): Promise<boolean> {
  return files.some((file) => isWeights(file.path)) && (await holdsAll(snapshot, files));
}

/** A configuration, and weights with every shard their index names. */
async function looksComplete(snapshot: string): Promise<boolean> {
  const names = await readdir(snapshot).catch(() => []);
  const isThere = await Promise.all(names.map((name) => isFile(path.join(snapshot, name))));
  const files = names.filter((_, i) => isThere[i]);
  if (!files.includes('config.json') && !files.includes('adapter_config.json')) return false;
  const index = files.find((name) => name.endsWith('.safetensors.index.json'));
  if (index === undefined) return files.some(isWeights);
  const shards = (await readJson(path.join(snapshot, index)))?.weight_map;
  return isRecord(shards) && Object.values(shards).every((shard) => files.includes(String(shard)));
}

async function isFile(file: string): Promise<boolean> {
  return (await stat(file).catch(() => undefined))?.isFile() === true;
}

/** Notes all files of a commit; nothing where the hub did not tell what the note has to say. */
export async function writeTree(folder: string, commit: string, files: readonly ListedFile[]): Promise<void> {
  if (
    files.some(({ size, etag, blobId }) => size === undefined || etag === undefined || blobId === undefined)
  )
    return;
  const entries = files.map(({ path: name, size, etag, blobId }) => {
    const lfs = etag !== undefined && isSha256(etag) ? { lfs_sha256: etag, lfs_size: size } : {};
    return [name, { size, blob_id: blobId, ...lfs }];
  });
  const tree = { format_version: TREE_VERSION, files: Object.fromEntries(entries) };
  await replaceFile(treeFile(folder, commit), (file) => writeFile(file, JSON.stringify(tree, undefined, 1)));
}

/** The files of a commit that a model needs; undefined where no note says it, or one that cannot be read. */
async function readTree(folder: string, commit: string): Promise<readonly HubFile[] | undefined> {
  const tree = await readJson(treeFile(folder, commit));
  if (tree?.format_version !== TREE_VERSION || !isRecord(tree.files)) return undefined;
  return Object.entries(tree.files).flatMap(([name, entry]) => {
    if (!isWanted(name) || !isRecord(entry)) return [];
    return [{ path: name, size: Number(entry.size), etag: String(entry.lfs_sha256 ?? entry.blob_id) }];
  });
}

function treeFile(folder: string, commit: string): string {
  return path.join(folder, 'trees', `${commit}.json`);
}

async function readJson(file: string): Promise<Record<string, unknown> | undefined> {
  try {
    return parseJsonObject(await readFile(file), file);
  } catch {
    return undefined;
  }
}
