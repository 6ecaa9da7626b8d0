/**
 * One file from the hub into the cache: continued where an earlier try ended, hashed as it comes, and given its name
 * only when its length and hash are right and it is on the disk.
 *
 * Knows nothing of other files. Source: RFC 9110, section 14 (ranges).
 */
import type { Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { InternalError, UserError } from '../../common/errors.ts';
import { onDisk } from './disk.ts';
import { type Retries, request, retrying, TransientError } from './http.ts';
import type { Hub } from './hub.ts';
import { type HubFile, startHash } from './listing.ts';

export type Transfer = {
  readonly url: string;
  readonly file: HubFile;
  /** The finished file's name; `.incomplete` is added until it is. */
  readonly blob: string;
  /** The model and the file, for errors. */
  readonly where: string;
  /** Told how many bytes were added, or fewer than none where some were thrown away. */
  readonly onBytes: (added: number) => void;
};

/** The bytes are not those the hub announced. */
class WrongContentError extends Error {
  override readonly name = 'WrongContentError';
}

const TRIES = 2;
const HASH_CHUNK = 2 ** 20;

/** The part of a blob that is there. */
export function partialFile(blob: string): string {
  return `${blob}.incomplete`;
}

/**
 * Makes `blob`. A dropped connection continues; wrong bytes are deleted and fetched once more. Throws `UserError`
 * where that did not help or the connection is not to be had; what is right so far is kept for a later run.
 */
export async function fetchBlob(hub: Hub, transfer: Transfer, retries: Retries): Promise<void> {
  const { blob, where, file } = transfer;
  await onDisk(blob, mkdir(path.dirname(blob), { recursive: true }));
  for (let tried = 1; ; tried++) {
    try {
      await fetchOnce(hub, transfer, retries);
      await onDisk(blob, rename(partialFile(blob), blob));
      return;
    } catch (error) {
      if (!(error instanceof WrongContentError)) throw error;
      await rm(partialFile(blob), { force: true });
      if (tried < TRIES) continue;
      throw new UserError(
        `${where}: expected ${file.size} bytes with hash ${file.etag}, got ${error.message}, twice; nothing of it was kept`,
      );
    }
  }
}

async function fetchOnce(hub: Hub, transfer: Transfer, retries: Retries): Promise<void> {
  const part = await openPart(transfer, retries.signal);
  try {
    await retrying(hub, transfer.where, retries, (progressed) =>
      receive(hub, transfer, part, progressed, retries.signal),
    );
    await part.finish();
  } catch (error) {
    if (error instanceof WrongContentError) transfer.onBytes(-part.size());
    throw error;
  } finally {
    await part.close();
  }
}

/** Asks for what is missing and takes what comes. */
async function receive(
  hub: Hub,
  { url, file }: Transfer,
  part: Part,
  progressed: () => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const begin = part.size();
  if (begin === file.size) return;
  await request(hub, { url, headers: rangeHeaders(begin, file), signal }, async (response, alive) => {
    if (!continues(response, begin, file)) await part.restart();
    if (response.status === 416) throw new TransientError('the range was refused (HTTP 416)');
    for await (const chunk of response.body ?? []) {
      alive();
      if (await part.append(chunk)) progressed();
    }
  });
  const end = part.size();
  if (end < file.size) throw new TransientError(`the connection ended at ${end} of ${file.size} bytes`);
}

/** Content with a hash is checked by it at the end; without one, the server must say that it is still the same. */
function rangeHeaders(begin: number, file: HubFile): Record<string, string> {
  if (begin === 0) return {};
  const same: Record<string, string> = startHash(file) === undefined ? { 'if-range': `"${file.etag}"` } : {};
  return { range: `bytes=${begin}-`, ...same };
}

/** Whether the answer goes on at `begin`. Throws where it announces another length than the file's. */
function continues({ status, headers }: Response, begin: number, { size }: HubFile): boolean {
  const [, from, whole] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get('content-range') ?? '') ?? [];
  const length = status === 206 ? whole : headers.get('content-length');
  const isPlain = status < 300 && !headers.has('content-encoding');
  if (isPlain && length != null && length !== '*' && Number(length) !== size) {
    throw new WrongContentError(`${length} bytes`);
  }
  if (status !== 206) return begin === 0 && status === 200;
  if (Number(from) === begin) return true;
  throw new TransientError(`the server sent ${headers.get('content-range')} for bytes ${begin}-`);
}

/** An open partial blob. */
type Part = {
  /** The bytes that are there. */
  readonly size: () => number;
  /** Whether the file is now longer than it ever was. Throws `WrongContentError` where it is too long. */
  readonly append: (chunk: Uint8Array) => Promise<boolean>;
  /** Throws away what is there. */
  readonly restart: () => Promise<void>;
  /** Checks the hash and flushes to the disk. */
  readonly finish: () => Promise<void>;
  readonly close: () => Promise<void>;
};

/** How much of a blob an earlier try left, in bytes; what is longer than the file cannot be a part of it. */
export async function partialBytes(blob: string, { size }: HubFile): Promise<number> {
  const found = await stat(partialFile(blob)).catch(() => undefined);
  return found !== undefined && found.size <= size ? found.size : 0;
}

async function openPart({ blob, file, onBytes }: Transfer, signal: AbortSignal | undefined): Promise<Part> {
  let size = await partialBytes(blob, file);
  const handle = await onDisk(blob, open(partialFile(blob), constants.O_RDWR | constants.O_CREAT));
  let hash = startHash(file);
  let furthest = size;
  try {
    await onDisk(blob, handle.truncate(size));
    if (hash !== undefined) await hashExisting(handle, size, hash, signal);
  } catch (error) {
    await handle.close();
    throw error;
  }
  return {
    size: () => size,
    append: async (chunk) => {
      if (size + chunk.length > file.size) throw new WrongContentError(`more than ${file.size} bytes`);
      await onDisk(blob, writeAll(handle, chunk, size));
      hash?.update(chunk);
      size += chunk.length;
      onBytes(chunk.length);
      const isFurther = size > furthest;
      furthest = Math.max(furthest, size);
      return isFurther;
    },
    restart: async () => {
      await onDisk(blob, handle.truncate(0));
      onBytes(-size);
      size = 0;
      hash = startHash(file);
    },
    finish: async () => {
      const digest = hash?.digest('hex') ?? file.etag;
      if (digest !== file.etag) throw new WrongContentError(`hash ${digest}`);
      await onDisk(blob, handle.sync());
    },
    close: () => handle.close(),
  };
}

async function hashExisting(handle: FileHandle, size: number, hash: Hash, signal: AbortSignal | undefined) {
  const buffer = Buffer.allocUnsafe(HASH_CHUNK);
  for (let at = 0; at < size; ) {
    signal?.throwIfAborted();
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, size - at), at);
    if (bytesRead === 0) throw new InternalError(`a partial file ended at ${at} of ${size} bytes`);
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
}

async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}
