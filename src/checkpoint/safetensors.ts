/**
 * The safetensors file: 8 bytes of header length, a JSON header, then the tensors' bytes without holes.
 * Reads the header alone and tensors by byte range; writes whole files, complete or not at all.
 *
 * Knows nothing of models or of several files together. Every rule of the format is checked on opening.
 * Source: https://github.com/huggingface/safetensors#format and the limits of its reference implementation.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { InternalError, messageOf, UserError } from '../common/errors.ts';
import { DTYPE_BYTES, type Dtype, isDtype } from '../common/numberFormats.ts';
import { isRecord, kindOf, parseJsonObject } from './jsonText.ts';

/** Where one tensor lies. */
export type TensorInfo = {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Absolute offset in the file; may exceed 4 GB. */
  readonly begin: number;
  readonly byteLength: number;
};

/** An opened file: its header, checked. No handle stays open. */
export type SafetensorsFile = {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: ReadonlyMap<string, string>;
};

/**
 * A tensor to be written; `data` may be a function, called when its turn comes, so that not all is in memory. What
 * it gives may be the tensor's bytes piece after piece.
 */
export type TensorEntry = {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: ArrayBufferView | (() => ArrayBufferView | Pieces | Promise<ArrayBufferView | Pieces>);
};

export type Pieces = AsyncIterable<ArrayBufferView>;

const LENGTH_BYTES = 8;
/** The reference implementation's limit. */
const MAX_HEADER_BYTES = 100_000_000;
/** One read or write call moves at most this much; Node's own limit is 2 GiB. */
const CHUNK_BYTES = 2 ** 30;
const METADATA = '__metadata__';

/** Reads and checks the header of the file at `filePath`. Throws `UserError` naming the file and what is wrong. */
export async function openSafetensors(filePath: string): Promise<SafetensorsFile> {
  return withFile(filePath, async (handle) => {
    const { size } = await handle.stat();
    const headerBytes = await readHeaderLength(handle, filePath, size);
    const header = await readExactly(handle, filePath, LENGTH_BYTES, headerBytes);
    if (header[0] !== 0x7b) throw wrong(filePath, 'a header that begins with {', byteName(header[0]));
    const json = parseJsonObject(header, `${filePath}: header`);
    const dataStart = LENGTH_BYTES + headerBytes;
    const tensors = new Map<string, TensorInfo>();
    for (const [name, entry] of Object.entries(json)) {
      if (name === METADATA) continue;
      tensors.set(name, parseTensor(entry, `${filePath}: tensor ${name}`, dataStart, size));
    }
    checkContiguous(filePath, tensors, dataStart, size);
    return { path: filePath, tensors, metadata: parseMetadata(json[METADATA], filePath) };
  });
}

/** The bytes of tensor `name`, little-endian, in a buffer of their own. Throws `UserError` for an unknown name. */
export async function readTensor(file: SafetensorsFile, name: string): Promise<Uint8Array> {
  const info = file.tensors.get(name);
  if (info === undefined) {
    throw new UserError(
      `${file.path}: expected tensor ${name}, got none of that name among ${file.tensors.size}`,
    );
  }
  return readRange(file.path, info.begin, info.byteLength);
}

/** `byteLength` bytes of the file from `begin` on. Throws `UserError` where the file ends before that. */
export async function readRange(filePath: string, begin: number, byteLength: number): Promise<Uint8Array> {
  return withFile(filePath, (handle) => readExactly(handle, filePath, begin, byteLength));
}

/**
 * Writes `entries` to `filePath` by way of a temporary file beside it, flushed to disk and renamed, so that a
 * reader sees the old file or the whole new one. Tensors come in the given order where that keeps each aligned,
 * else those of wider dtypes first. Throws `UserError` where the disk refuses, `InternalError` where data and shape disagree.
 */
export async function writeSafetensors(
  filePath: string,
  entries: readonly TensorEntry[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const ordered = isAligned(entries)
    ? entries
    : entries.toSorted((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype]);
  const header = makeHeader(ordered, metadata);
  const temporary = `${filePath}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`;
  try {
    const handle = await onDisk(filePath, open(temporary, 'wx'));
    try {
      await writeAll(handle, filePath, header);
      for (const entry of ordered) await writeTensor(handle, filePath, entry);
      await onDisk(filePath, handle.sync());
    } finally {
      await handle.close();
    }
    await onDisk(filePath, rename(temporary, filePath));
    await syncFolder(path.dirname(filePath));
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

async function readHeaderLength(handle: FileHandle, filePath: string, size: number): Promise<number> {
  if (size < LENGTH_BYTES) throw wrong(filePath, `at least ${LENGTH_BYTES} bytes`, `${size}`);
  const bytes = await readExactly(handle, filePath, 0, LENGTH_BYTES);
  if (Buffer.from(bytes).toString('latin1') === 'version ') {
    throw wrong(filePath, 'a safetensors file', 'a Git LFS pointer to one; fetch it with `git lfs pull`');
  }
  const length = new DataView(bytes.buffer).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw wrong(filePath, `a header of at most ${MAX_HEADER_BYTES} bytes`, `a header length of ${length}`);
  }
  if (length > BigInt(size - LENGTH_BYTES)) {
    const room = `${size - LENGTH_BYTES} bytes the file has left`;
    throw wrong(filePath, `a header within the ${room}`, `a header length of ${length}`);
  }
  return Number(length);
}

function parseTensor(entry: unknown, where: string, dataStart: number, size: number): TensorInfo {
  if (!isRecord(entry)) throw wrong(where, 'an object with dtype, shape and data_offsets', kindOf(entry));
  const { dtype, shape } = entry;
  if (typeof dtype !== 'string' || !isDtype(dtype)) {
    throw wrong(
      where,
      `dtype ${Object.keys(DTYPE_BYTES).join(', ')}`,
      `${kindOf(dtype)}, which is not supported`,
    );
  }
  if (!isSizes(shape)) throw wrong(where, 'a shape of integers, 0 or above', kindOf(shape));
  const elements = shape.reduce((product, dim) => product * dim, 1);
  const expected = elements * DTYPE_BYTES[dtype];
  if (!Number.isSafeInteger(expected)) throw wrong(where, 'a shape below 2^53 bytes', kindOf(shape));
  const offsets = entry.data_offsets;
  if (!isSizes(offsets) || offsets.length !== 2) {
    throw wrong(where, 'data_offsets [begin, end], integers 0 or above', kindOf(offsets));
  }
  const [begin = 0, end = 0] = offsets;
  if (begin > end) throw wrong(where, 'data_offsets with begin <= end', kindOf(offsets));
  if (end > size - dataStart) {
    const room = `the ${size - dataStart} bytes of data in the file`;
    throw wrong(where, `data_offsets within ${room}`, `${kindOf(offsets)} (an incomplete download?)`);
  }
  if (end - begin !== expected) {
    throw wrong(where, `${expected} bytes for ${dtype} ${kindOf(shape)}`, `${end - begin}`);
  }
  return { dtype, shape, begin: dataStart + begin, byteLength: expected };
}

function isSizes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

/** Tensors must follow each other without overlap or hole from the header's end to the file's. */
function checkContiguous(
  filePath: string,
  tensors: ReadonlyMap<string, TensorInfo>,
  dataStart: number,
  size: number,
): void {
  let end = dataStart;
  const inOrder = [...tensors].toSorted(([, a], [, b]) => a.begin - b.begin || a.byteLength - b.byteLength);
  for (const [name, { begin, byteLength }] of inOrder) {
    if (begin !== end) {
      const fault = begin < end ? 'overlaps the tensor before it' : 'leaves a hole before it';
      const got = `${begin - dataStart} (it ${fault})`;
      throw wrong(`${filePath}: tensor ${name}`, `data from byte ${end - dataStart} on`, got);
    }
    end = begin + byteLength;
  }
  if (end !== size) {
    throw wrong(filePath, `${end} bytes in all, as its header says`, `a file of ${size} bytes`);
  }
}

function parseMetadata(value: unknown, filePath: string): ReadonlyMap<string, string> {
  if (value === undefined) return new Map();
  const entries = isRecord(value) ? Object.entries(value) : undefined;
  const isText = (entry: [string, unknown]): entry is [string, string] => typeof entry[1] === 'string';
  if (entries === undefined || !entries.every(isText)) {
    throw wrong(`${filePath}: ${METADATA}`, 'an object of strings', kindOf(value));
  }
  return new Map(entries);
}

function makeHeader(entries: readonly TensorEntry[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const names = new Set([METADATA]);
  let offset = 0;
  const tensors = entries.map(({ name, dtype, shape }) => {
    if (names.has(name)) throw new InternalError(`tensor name ${name} written twice or reserved`);
    names.add(name);
    const begin = offset;
    offset += byteLengthOf(dtype, shape);
    return [name, { dtype, shape, data_offsets: [begin, offset] }] as const;
  });
  const head = Object.keys(metadata).length > 0 ? [[METADATA, metadata] as const] : [];
  const json = Buffer.from(JSON.stringify(Object.fromEntries([...head, ...tensors])));
  const padded = Math.ceil(json.length / 8) * 8;
  const bytes = Buffer.alloc(LENGTH_BYTES + padded, ' ');
  bytes.writeBigUInt64LE(BigInt(padded));
  json.copy(bytes, LENGTH_BYTES);
  return bytes;
}

/** Whether each tensor begins at a multiple of its element's size, one after the other as they are. */
function isAligned(entries: readonly TensorEntry[]): boolean {
  let offset = 0;
  return entries.every(({ dtype, shape }) => {
    const begin = offset;
    offset += byteLengthOf(dtype, shape);
    return begin % DTYPE_BYTES[dtype] === 0;
  });
}

async function writeTensor(handle: FileHandle, filePath: string, entry: TensorEntry): Promise<void> {
  const { name, dtype, shape, data } = entry;
  const given = typeof data === 'function' ? await data() : data;
  const pieces = ArrayBuffer.isView(given) ? [given] : given;
  let written = 0;
  for await (const { buffer, byteOffset, byteLength } of pieces) {
    await writeAll(handle, filePath, new Uint8Array(buffer, byteOffset, byteLength));
    written += byteLength;
  }
  const expected = byteLengthOf(dtype, shape);
  if (written !== expected) {
    throw new InternalError(`tensor ${name}: expected ${expected} bytes, got ${written}`);
  }
}

function byteLengthOf(dtype: Dtype, shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, DTYPE_BYTES[dtype]);
}

async function withFile<T>(filePath: string, use: (handle: FileHandle) => Promise<T>): Promise<T> {
  const handle = await onDisk(filePath, open(filePath, 'r'));
  try {
    return await use(handle);
  } finally {
    await handle.close();
  }
}

async function readExactly(
  handle: FileHandle,
  filePath: string,
  begin: number,
  byteLength: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(byteLength);
  let done = 0;
  while (done < byteLength) {
    const length = Math.min(CHUNK_BYTES, byteLength - done);
    const { bytesRead } = await onDisk(filePath, handle.read(bytes, done, length, begin + done));
    if (bytesRead === 0) throw wrong(filePath, `${byteLength} bytes from byte ${begin} on`, `${done}`);
    done += bytesRead;
  }
  return bytes;
}

async function writeAll(handle: FileHandle, filePath: string, bytes: Uint8Array): Promise<void> {
  let done = 0;
  while (done < bytes.byteLength) {
    const length = Math.min(CHUNK_BYTES, bytes.byteLength - done);
    done += (await onDisk(filePath, handle.write(bytes, done, length))).bytesWritten;
  }
}

/** Makes the rename last; some file systems cannot sync a folder, and need not. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r').catch(() => undefined);
  await handle?.sync().catch(() => undefined);
  await handle?.close();
}

/** A file-system failure as a `UserError` naming the file. */
async function onDisk<T>(filePath: string, action: Promise<T>): Promise<T> {
  return action.catch((error: unknown) => {
    throw new UserError(`${filePath}: ${messageOf(error)}`);
  });
}

function byteName(byte: number | undefined): string {
  return byte === undefined ? 'an empty header' : `byte 0x${byte.toString(16).padStart(2, '0')}`;
}

function wrong(where: string, expected: string, got: string): UserError {
  return new UserError(`${where}: expected ${expected}, got ${got}`);
}
