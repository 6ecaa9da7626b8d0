/**
 * A model from the hub into the cache: what is missing is fetched, four files at a time, and the snapshot's links are
 * made when all is there.
 *
 * Knows neither HTTP nor hashes. Source: the layout described in `cacheLayout.ts`.
 */
import path from 'node:path';
import type { OnProgress } from '../../common/progress.ts';
import { describeFile, fileUrl, type ModelInfo } from './api.ts';
import {
  blobFile,
  hasSize,
  holdsAll,
  linkBlob,
  lockFile,
  repositoryFolder,
  snapshotFolder,
  writeRef,
} from './cacheLayout.ts';
import { checkRoom, onDisk, sizeText } from './disk.ts';
import { RefusedError, type Retries } from './http.ts';
import type { Hub } from './hub.ts';
import { type HubId, showId } from './ids.ts';
import { type HubFile, wantedFiles } from './listing.ts';
import { withLock } from './lock.ts';
import { refusal } from './refusal.ts';
import { writeTree } from './snapshot.ts';
import { fetchBlob, partialBytes, type Transfer } from './transfer.ts';

export type DownloadOptions = {
  /** Phase `download`, in bytes of all files together. */
  readonly onProgress?: OnProgress | undefined;
  /** Told in one line why nothing goes on for a while. */
  readonly onNote?: ((text: string) => void) | undefined;
  /** Ends it; what has come is kept for a later run. */
  readonly signal?: AbortSignal | undefined;
};

export type Downloaded = {
  /** The snapshot: a folder with the model. */
  readonly folder: string;
  /** What this call brought. */
  readonly fetchedBytes: number;
};

const PARALLEL_FILES = 4;
/** Failures in a row, without a byte between them, that end a download. */
const MOST_FAILURES = 5;
/** Pauses shorter than this are not worth a line. */
const LONG_PAUSE = 5_000;

/**
 * Brings what a model needs of the commit `info` names. Throws `UserError` where it is not to be had, the disk has no
 * room, or what comes is wrong; then no file of the snapshot is there that was not right.
 */
export async function downloadModel(
  hub: Hub,
  id: HubId,
  info: ModelInfo,
  options: DownloadOptions = {},
): Promise<Downloaded> {
  const { signal, onNote } = options;
  const retries = downloadRetries(id, options);
  const listed = wantedFiles(info.files, showId(id));
  const files = await Promise.all(listed.map((file) => describeFile(hub, id, info.commit, file, retries)));
  const folder = repositoryFolder(hub.cache, id);
  const snapshot = snapshotFolder(folder, info.commit);
  const isWhole = await holdsAll(snapshot, files);
  const onWait = () => onNote?.(`${showId(id)}: another process is downloading it; waiting`);
  const bring = (held: AbortSignal) => fetchMissing(hub, id, info, files, { ...options, signal: held });
  const fetchedBytes = isWhole ? 0 : await withLock(hub, lockFile(hub.cache, id), { signal, onWait }, bring);
  const noted = writeRef(folder, id.revision, info.commit);
  // A cache that cannot be written to serves what it has.
  await (isWhole ? noted.catch(() => undefined) : onDisk(folder, noted));
  return { folder: snapshot, fetchedBytes };
}

/** How failures on the way are taken, and told where they take long. */
export function downloadRetries(
  id: HubId,
  { signal, onNote }: DownloadOptions,
  limit = MOST_FAILURES,
): Retries {
  const onWait = (reason: string, ms: number) => {
    if (ms >= LONG_PAUSE) onNote?.(`${showId(id)}: ${reason}; waiting ${Math.ceil(ms / 1000)} s`);
  };
  return { limit, signal, onWait };
}

/** Fetches and links what is not there; returns the number of bytes fetched. */
async function fetchMissing(
  hub: Hub,
  id: HubId,
  { commit, files: all }: ModelInfo,
  files: readonly HubFile[],
  options: DownloadOptions,
): Promise<number> {
  const folder = repositoryFolder(hub.cache, id);
  const missing = await missingBlobs(folder, commit, files);
  const parts = await Promise.all(missing.map((file) => partialBytes(blobFile(folder, file), file)));
  const total = sum(files.map(({ size }) => size));
  const toFetch = sum(missing.map(({ size }) => size)) - sum(parts);
  await checkRoom(hub, folder, toFetch);
  if (toFetch > 0) options.onNote?.(`${showId(id)}: downloading ${sizeText(toFetch)} to ${folder}`);
  let [done, fetched] = [total - toFetch, 0];
  const onBytes = (added: number) => {
    done += added;
    fetched += Math.max(0, added);
    options.onProgress?.({ phase: 'download', unit: 'bytes', done, total });
  };
  onBytes(0);
  await inParallel(missing, options.signal, (file, signal) =>
    fetchFile(hub, id, commit, { file, onBytes }, downloadRetries(id, { ...options, signal })),
  );
  for (const file of files) await onDisk(folder, linkBlob(folder, commit, file));
  await onDisk(folder, writeTree(folder, commit, all));
  return fetched;
}

/** Equal content has one blob. */
async function missingBlobs(
  folder: string,
  commit: string,
  files: readonly HubFile[],
): Promise<readonly HubFile[]> {
  const missing = new Map<string, HubFile>();
  for (const file of files) {
    const places = [blobFile(folder, file), path.join(snapshotFolder(folder, commit), file.path)];
    const isThere = await Promise.all(places.map((place) => hasSize(place, file.size)));
    if (!isThere.includes(true)) missing.set(file.etag, file);
  }
  return [...missing.values()];
}

async function fetchFile(
  hub: Hub,
  id: HubId,
  commit: string,
  { file, onBytes }: Pick<Transfer, 'file' | 'onBytes'>,
  retries: Retries,
): Promise<void> {
  const blob = blobFile(repositoryFolder(hub.cache, id), file);
  const where = `${showId(id)}: ${file.path}`;
  const transfer = { url: fileUrl(hub, id, commit, file.path), file, blob, where, onBytes };
  await fetchBlob(hub, transfer, retries).catch(async (error: unknown) => {
    throw error instanceof RefusedError ? await refusal(hub, id, error, retries.signal, file.path) : error;
  });
}

/** Some at a time. The first failure ends the others, and is thrown when they have ended. */
async function inParallel<T>(
  items: readonly T[],
  outer: AbortSignal | undefined,
  action: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const stop = new AbortController();
  const signal = outer === undefined ? stop.signal : AbortSignal.any([outer, stop.signal]);
  const queue = items.values();
  const work = async () => {
    for (const item of queue) {
      signal.throwIfAborted();
      await action(item, signal);
    }
  };
  const workers = Array.from({ length: PARALLEL_FILES }, work);
  await Promise.allSettled(workers.map((worker) => worker.catch((error: unknown) => stop.abort(error))));
  signal.throwIfAborted();
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
