/**
 * The directory of a ZIP file whose entries are stored uncompressed, as `torch.save` writes it: name → place.
 * Reads the directory and the entries' headers, never their data; ZIP64 included.
 *
 * Knows nothing of pickles or tensors. Source: PKWARE's APPNOTE 6.3.10, sections 4.3.7 to 4.3.16.
 */
import { stat } from 'node:fs/promises';
import { messageOf, UserError } from '../common/errors.ts';
import { readRange } from './safetensors.ts';

/** Where an entry's data lie in the file. */
export type ZipEntry = { readonly begin: number; readonly size: number };

const END_BYTES = 22;
const LOCATOR_BYTES = 20;
const LONG_END_BYTES = 56;
const ENTRY_BYTES = 46;
const LOCAL_BYTES = 30;
const MAX_COMMENT_BYTES = 65_535;
/** A directory of all tensors of the largest models takes well below this. */
const MAX_DIRECTORY_BYTES = 2 ** 26;
const SIGNATURE = { end: 0x06054b50, locator: 0x07064b50, longEnd: 0x06064b50, entry: 0x02014b50 };
const LOCAL_SIGNATURE = 0x04034b50;

type Directory = { readonly begin: number; readonly size: number; readonly count: number };
type Listed = { readonly name: string; readonly header: number; readonly size: number };

/**
 * Name → place of every entry in the file of `size` bytes. Throws `UserError` where it is no complete ZIP of
 * stored entries.
 */
export async function openZip(filePath: string, size: number): Promise<ReadonlyMap<string, ZipEntry>> {
  const directory = await findDirectory(filePath, size);
  const bytes = viewOf(await readRange(filePath, directory.begin, directory.size));
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let i = 0; i < directory.count; i++) {
    const { listed, next } = readEntry(filePath, bytes, at, i);
    at = next;
    if (entries.has(listed.name)) throw wrong(filePath, `one entry ${listed.name}`, 'two of that name');
    const begin = await dataBegin(filePath, listed, directory.begin);
    entries.set(listed.name, { begin, size: listed.size });
  }
  return entries;
}

/** Bytes of the file. Throws `UserError` where it is none, or too small for a ZIP. */
export async function zipSize(filePath: string): Promise<number> {
  const found = await stat(filePath).catch((error: unknown) => {
    throw new UserError(`${filePath}: ${messageOf(error)}`);
  });
  if (!found.isFile()) throw wrong(filePath, 'a PyTorch file', 'a folder or a device');
  if (found.size < END_BYTES) throw wrong(filePath, 'a PyTorch file', `one of ${found.size} bytes`);
  return found.size;
}

/** The end record is searched from the file's end backwards, for a comment may follow it. */
async function findDirectory(filePath: string, size: number): Promise<Directory> {
  const tailBytes = Math.min(size, END_BYTES + MAX_COMMENT_BYTES + LOCATOR_BYTES);
  const tail = viewOf(await readRange(filePath, size - tailBytes, tailBytes));
  for (let at = tailBytes - END_BYTES; at >= 0; at--) {
    if (tail.getUint32(at, true) !== SIGNATURE.end) continue;
    if (tail.getUint16(at + 20, true) !== tailBytes - END_BYTES - at) continue;
    const long = await findLongDirectory(filePath, tail, at - LOCATOR_BYTES, size);
    const short = {
      count: tail.getUint16(at + 10, true),
      size: tail.getUint32(at + 12, true),
      begin: tail.getUint32(at + 16, true),
    };
    return checkDirectory(filePath, long ?? short, size - tailBytes + at);
  }
  throw wrong(filePath, 'a ZIP directory at its end', 'none (an incomplete download?)');
}

async function findLongDirectory(
  filePath: string,
  tail: DataView,
  locator: number,
  size: number,
): Promise<Directory | undefined> {
  if (locator < 0 || tail.getUint32(locator, true) !== SIGNATURE.locator) return undefined;
  const at = uint64(tail, locator + 8);
  if (at > size - LONG_END_BYTES)
    throw wrong(filePath, `a ZIP64 record within ${size} bytes`, `one at ${at}`);
  const record = viewOf(await readRange(filePath, at, LONG_END_BYTES));
  if (record.getUint32(0, true) !== SIGNATURE.longEnd) {
    throw wrong(filePath, `a ZIP64 record at byte ${at}`, 'something else');
  }
  return { count: uint64(record, 32), size: uint64(record, 40), begin: uint64(record, 48) };
}

function checkDirectory(filePath: string, directory: Directory, end: number): Directory {
  const { begin, size, count } = directory;
  if (size > MAX_DIRECTORY_BYTES || begin + size > end) {
    const limit = `at most ${MAX_DIRECTORY_BYTES} bytes before byte ${end}`;
    throw wrong(filePath, `a ZIP directory of ${limit}`, `${size} bytes from byte ${begin} on`);
  }
  if (count * ENTRY_BYTES > size) {
    throw wrong(filePath, `at most ${Math.floor(size / ENTRY_BYTES)} entries in its directory`, `${count}`);
  }
  return directory;
}

function readEntry(filePath: string, bytes: DataView, at: number, index: number) {
  const fits = at + ENTRY_BYTES <= bytes.byteLength && bytes.getUint32(at, true) === SIGNATURE.entry;
  if (!fits) throw wrong(filePath, `a ZIP directory entry ${index}`, 'something else');
  const nameEnd = at + ENTRY_BYTES + bytes.getUint16(at + 28, true);
  const extraEnd = nameEnd + bytes.getUint16(at + 30, true);
  const next = extraEnd + bytes.getUint16(at + 32, true);
  if (next > bytes.byteLength) throw wrong(filePath, `a whole ZIP directory entry ${index}`, 'a part of it');
  const name = Buffer.from(bytes.buffer, bytes.byteOffset + at + ENTRY_BYTES, nameEnd - at - ENTRY_BYTES);
  const where = `${filePath}: ${JSON.stringify(name.toString('utf8'))}`;
  if ((bytes.getUint16(at + 8, true) & 1) !== 0) throw wrong(where, 'a plain entry', 'an encrypted one');
  const method = bytes.getUint16(at + 10, true);
  if (method !== 0) throw wrong(where, 'an entry stored uncompressed', `compression method ${method}`);
  const [size, packed, header] = longSizes(where, bytes, at, nameEnd, extraEnd);
  if (size !== packed) throw wrong(where, `${size} bytes stored as they are`, `${packed} bytes`);
  return { listed: { name: name.toString('utf8'), header, size } satisfies Listed, next };
}

/** Size, stored size and header's place; those that read 0xffffffff stand in the ZIP64 extra field, in order. */
function longSizes(where: string, bytes: DataView, at: number, begin: number, end: number) {
  const short = [24, 20, 42].map((offset) => bytes.getUint32(at + offset, true));
  if (!short.includes(0xffffffff)) return short as [number, number, number];
  let field = begin;
  while (field + 4 <= end && bytes.getUint16(field, true) !== 1)
    field += 4 + bytes.getUint16(field + 2, true);
  let value = field + 4;
  const fieldEnd = value <= end ? Math.min(end, value + bytes.getUint16(field + 2, true)) : end;
  return short.map((size) => {
    if (size !== 0xffffffff) return size;
    if (value + 8 > fieldEnd) throw wrong(where, 'its sizes in a ZIP64 field', 'none');
    value += 8;
    return uint64(bytes, value - 8);
  }) as [number, number, number];
}

/** The data follow the entry's own header, whose name and padding have lengths of their own. */
async function dataBegin(filePath: string, { name, header, size }: Listed, limit: number): Promise<number> {
  const where = `${filePath}: ${JSON.stringify(name)}`;
  if (header > limit - LOCAL_BYTES) throw wrong(where, `an entry before byte ${limit}`, `one at ${header}`);
  const local = viewOf(await readRange(filePath, header, LOCAL_BYTES));
  if (local.getUint32(0, true) !== LOCAL_SIGNATURE) {
    throw wrong(where, `a ZIP entry at byte ${header}`, 'something else');
  }
  const begin = header + LOCAL_BYTES + local.getUint16(26, true) + local.getUint16(28, true);
  if (begin + size > limit) {
    throw wrong(
      where,
      `data within the ${limit} bytes before the directory`,
      `${size} bytes from ${begin} on`,
    );
  }
  return begin;
}

/** An unsigned 64-bit number; beyond 2^53 it is inexact, and in any case beyond every file. */
function uint64(view: DataView, at: number): number {
  return Number(view.getBigUint64(at, true));
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function wrong(where: string, expected: string, got: string): UserError {
  return new UserError(`${where}: expected ${expected}, got ${got}`);
}
