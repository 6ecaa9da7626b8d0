/**
 * Random access to the records of a JSON array or of JSONL, of any size, without holding the file.
 *
 * One pass over the bytes finds where each record begins and ends, how many words its conversation has and
 * whether it names an image: 16 bytes a record are kept. The pass checks what delimits records (brackets,
 * strings, commas); `record` parses one and finds the rest. Knows nothing of what a valid sample is.
 * Source: RFC 8259 (JSON); spec "Datasets" (lengths are words in the conversation, as in LLaVA's
 * `group_by_modality_length`).
 */
import { createHash } from 'node:crypto';
import { type FileHandle, mkdir, open, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { messageOf, UserError } from '../common/errors.ts';

/** The records of one file. */
export interface RecordIndex {
  readonly file: string;
  readonly count: number;
  /** Words in the conversation of record `i`, divided by white space. */
  words(i: number): number;
  /** Whether record `i` names an image. */
  hasImage(i: number): boolean;
  /** Reads and parses record `i`. @throws UserError for one that is not JSON, or a file that has changed. */
  record(i: number): Promise<unknown>;
  close(): Promise<void>;
}

export interface RecordIndexOptions {
  /** Where to keep the index of this file for the next time; it is found again by path, size and time. */
  readonly cacheDir?: string | undefined;
  /** Called as the pass goes on, with bytes. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

const CHUNK = 4 * 2 ** 20;
/** A record this long is a mistake, not a conversation. */
const MAX_RECORD = 256 * 2 ** 20;
const MAX_DEPTH = 256;
const CACHE_MAGIC = 0x46565249;

const [TAB, NEWLINE, RETURN, SPACE] = [9, 10, 13, 32];
const [QUOTE, COMMA, COLON, BACKSLASH] = [34, 44, 58, 92];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [91, 93, 123, 125];

/**
 * Indexes a file: a JSON array of objects, one object, or objects one after another (JSONL; in a `.jsonl` file
 * each must end on its line). Reads the whole file once, about 4 MB at a time.
 *
 * @throws UserError naming file and line for what is not such a file.
 */
export async function openRecordIndex(file: string, options: RecordIndexOptions = {}): Promise<RecordIndex> {
  const handle = await open(file, 'r').catch((error: unknown) => {
    throw new UserError(`${file}: expected a readable JSON or JSONL file, got: ${messageOf(error)}`);
  });
  try {
    const stat = await handle.stat();
    if (!stat.isFile())
      throw new UserError(`${file}: expected a JSON or JSONL file, got a directory or device`);
    const cache = options.cacheDir && cacheFile(options.cacheDir, file, stat.size, stat.mtimeMs);
    const known = cache ? await readTable(cache) : undefined;
    const table = known ?? (await scanFile(file, handle, stat.size, options.onProgress));
    if (cache && !known) await writeTable(cache, table);
    return indexOf(file, handle, table);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** Where the records are: byte offset [count]; byte length and `2·words + (image ? 1 : 0)` [count, 2]. */
interface RecordTable {
  readonly offsets: Float64Array;
  readonly sizes: Uint32Array;
}

function indexOf(file: string, handle: FileHandle, { offsets, sizes }: RecordTable): RecordIndex {
  return {
    file,
    count: offsets.length,
    words: (i) => (sizes[2 * i + 1] ?? 0) >>> 1,
    hasImage: (i) => ((sizes[2 * i + 1] ?? 0) & 1) === 1,
    record: (i) => readRecord(`${file}: record ${i}`, handle, offsets[i] ?? 0, sizes[2 * i] ?? 0),
    close: () => handle.close(),
  };
}

async function readRecord(
  name: string,
  handle: FileHandle,
  offset: number,
  length: number,
): Promise<unknown> {
  const bytes = new Uint8Array(length);
  const { bytesRead } = await handle.read(bytes, 0, length, offset);
  const where = `${name} (byte ${offset})`;
  if (bytesRead < length) {
    throw new UserError(`${where}: expected ${length} bytes, got ${bytesRead}; the file has changed`);
  }
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new UserError(`${where}: expected JSON, got: ${messageOf(error)}`);
  }
}

/** The one pass: bytes are read behind those of the record not yet complete, so every record is found whole. */
async function scanFile(
  file: string,
  handle: FileHandle,
  total: number,
  onProgress: RecordIndexOptions['onProgress'],
): Promise<RecordTable> {
  const scanner = new Scanner(file);
  let buffer = new Uint8Array(CHUNK);
  let held = 0;
  for (let done = 0; ; ) {
    if (held === buffer.length) buffer = doubled(buffer, scanner);
    const { bytesRead } = await handle.read(buffer, held, buffer.length - held, done);
    if (bytesRead === 0) return scanner.finish();
    done += bytesRead;
    held += bytesRead;
    const kept = scanner.scan(buffer, held, done - held);
    buffer.copyWithin(0, kept, held);
    held -= kept;
    onProgress?.(done, total);
  }
}

function doubled(buffer: Uint8Array<ArrayBuffer>, scanner: Scanner): Uint8Array<ArrayBuffer> {
  if (buffer.length >= MAX_RECORD) throw scanner.error('the end of a record', `${buffer.length} bytes of it`);
  const larger = new Uint8Array(2 * buffer.length);
  larger.set(buffer);
  return larger;
}

/** What comes next: the file's first byte; a record (or, after `[`, none); within one; `,` or `]`; nothing. */
type Expected = 'start' | 'first' | 'record' | 'inside' | 'separator' | 'nothing';

/** Finds records in bytes that arrive in pieces. */
class Scanner {
  readonly #file: string;
  readonly #table = new TableBuilder();
  /** JSONL: no brackets around the records, no commas between; `strict`: a record ends on its line. */
  #lines = false;
  readonly #strict: boolean;
  #expected: Expected = 'start';
  /** Positions in the present buffer: the next byte, and the first of the record it belongs to. */
  #at = 0;
  #record = 0;
  #inString = false;
  /** Of the brackets open in the record, which one closes each. */
  readonly #closers = new Uint8Array(MAX_DEPTH);
  #depth = 0;
  #line = 1;
  #recordLine = 1;

  constructor(file: string) {
    this.#file = file;
    this.#strict = path.extname(file).toLowerCase() === '.jsonl';
  }

  /**
   * Reads on to the end of `buffer[0 … held − 1]`, whose first byte is the file's byte `base`. Returns how many
   * bytes from the start are not needed again; the next call's buffer begins behind them.
   */
  scan(buffer: Uint8Array, held: number, base: number): number {
    if (this.#expected === 'start') this.#start(buffer, held);
    while (this.#at < held) {
      if (this.#expected === 'inside') this.#inside(buffer, held, base);
      else this.#between(buffer[this.#at] ?? 0);
    }
    const kept = Math.min(this.#expected === 'inside' ? this.#record : this.#at, held);
    this.#at -= kept;
    this.#record -= kept;
    return kept;
  }

  /** The table, once the file has ended. */
  finish(): RecordTable {
    const expected = this.#expected;
    if (expected === 'nothing' || (this.#lines && expected === 'record')) return this.#table.finish();
    const what = expected === 'inside' ? ` begun on line ${this.#recordLine}` : '';
    throw this.error(EXPECTED_TEXT[expected] + what, 'the end of the file');
  }

  error(expected: string, got: string): UserError {
    return new UserError(`${this.#file}:${this.#line}: expected ${expected}, got ${got}`);
  }

  /** Steps over a byte-order mark and sees whether an array begins. */
  #start(buffer: Uint8Array, held: number): void {
    if (buffer[0] === 0xef && buffer[1] === 0xbb && buffer[2] === 0xbf) this.#at = 3;
    while (this.#at < held && this.#isBlank(buffer[this.#at] ?? 0)) this.#at++;
    if (this.#at >= held) return;
    this.#lines = buffer[this.#at] !== OPEN_LIST;
    this.#expected = this.#lines ? 'record' : 'first';
    if (!this.#lines) this.#at++;
  }

  /** One byte outside of records. */
  #between(byte: number): void {
    if (this.#isBlank(byte)) {
      this.#at++;
    } else if (byte === OPEN_OBJECT && (this.#expected === 'first' || this.#expected === 'record')) {
      this.#record = this.#at;
      this.#recordLine = this.#line;
      this.#expected = 'inside';
    } else if (byte === COMMA && this.#expected === 'separator') {
      this.#expected = 'record';
      this.#at++;
    } else if (byte === CLOSE_LIST && (this.#expected === 'separator' || this.#expected === 'first')) {
      this.#expected = 'nothing';
      this.#at++;
    } else {
      throw this.error(EXPECTED_TEXT[this.#expected], shown(byte));
    }
  }

  #isBlank(byte: number): boolean {
    if (byte === NEWLINE) this.#line++;
    return byte === SPACE || byte === NEWLINE || byte === RETURN || byte === TAB;
  }

  /** Goes through a record, to its end or the buffer's. */
  #inside(buffer: Uint8Array, held: number, base: number): void {
    while (this.#at < held) {
      if (this.#inString) {
        this.#string(buffer, held);
        continue;
      }
      const byte = buffer[this.#at++] ?? 0;
      if (byte === QUOTE) this.#inString = true;
      else if (byte === OPEN_OBJECT) this.#open(CLOSE_OBJECT);
      else if (byte === OPEN_LIST) this.#open(CLOSE_LIST);
      else if (byte === NEWLINE && this.#strict) throw this.error('a record on one line', 'a new line');
      else if (byte === NEWLINE) this.#line++;
      else if (byte === CLOSE_OBJECT || byte === CLOSE_LIST) {
        this.#close(byte);
        if (this.#depth > 0) continue;
        this.#table.add(
          base + this.#record,
          this.#at - this.#record,
          conversationSize(buffer, this.#record, this.#at),
        );
        this.#expected = this.#lines ? 'record' : 'separator';
        return;
      }
    }
  }

  /** Goes through a string, to behind its closing quote or the buffer's end. */
  #string(buffer: Uint8Array, held: number): void {
    let at = this.#at;
    let byte = SPACE;
    while (at < held) {
      byte = buffer[at++] ?? 0;
      if (byte === BACKSLASH) at++;
      else if (byte === QUOTE || byte < SPACE) break;
    }
    this.#at = at;
    if (byte === QUOTE) this.#inString = false;
    else if (byte < SPACE) throw this.error('a string to end on its line', shown(byte));
  }

  #open(closer: number): void {
    if (this.#depth === MAX_DEPTH) throw this.error(`at most ${MAX_DEPTH} brackets in brackets`, 'more');
    this.#closers[this.#depth++] = closer;
  }

  #close(byte: number): void {
    const closer = this.#closers[--this.#depth] ?? 0;
    if (byte !== closer) throw this.error(shown(closer), shown(byte));
  }
}

const EXPECTED_TEXT: Readonly<Record<Expected, string>> = {
  start: 'a JSON array or JSONL',
  first: 'a record {…} or "]"',
  record: 'a record {…}',
  inside: 'the end of the record',
  separator: '"," or "]" after a record',
  nothing: 'nothing after the array',
};

const shown = (byte: number): string =>
  byte > SPACE && byte < 127 ? `"${String.fromCharCode(byte)}"` : `byte ${byte}`;

/** A table that grows by doubling. */
class TableBuilder {
  #offsets = new Float64Array(1024);
  #sizes = new Uint32Array(2048);
  #count = 0;

  add(offset: number, length: number, size: number): void {
    const i = this.#count++;
    if (i === this.#offsets.length) {
      const { offsets, sizes } = this.finish();
      this.#offsets = new Float64Array(2 * i);
      this.#offsets.set(offsets);
      this.#sizes = new Uint32Array(4 * i);
      this.#sizes.set(sizes);
    }
    this.#offsets[i] = offset;
    this.#sizes[2 * i] = length;
    this.#sizes[2 * i + 1] = size;
  }

  finish(): RecordTable {
    return { offsets: this.#offsets.slice(0, this.#count), sizes: this.#sizes.slice(0, 2 * this.#count) };
  }
}

const ascii = (text: string) => new TextEncoder().encode(text);
const [IMAGE_KEY, CONVERSATIONS_KEY, VALUE_KEY] = ['image', 'conversations', 'value'].map(ascii);

/**
 * `2·words + (image ? 1 : 0)` of the record at `bytes[start … end − 1]`: the words of every `value` in its
 * `conversations`, and whether its `image` is a text that is not empty.
 */
function conversationSize(bytes: Uint8Array, start: number, end: number): number {
  let [depth, words, image] = [0, 0, 0];
  let [isImage, inConversations, isValue] = [false, false, false];
  for (let at = start; at < end; at++) {
    const byte = bytes[at];
    if (byte === OPEN_OBJECT || byte === OPEN_LIST) depth++;
    else if (byte === CLOSE_OBJECT || byte === CLOSE_LIST) depth--;
    if (byte !== QUOTE) continue;
    const from = at + 1;
    at = endOfString(bytes, from);
    // Only a name is followed by a colon.
    const isName = followedByColon(bytes, at + 1);
    if (depth === 1 && isName) {
      isImage = equals(bytes, from, at, IMAGE_KEY);
      inConversations = equals(bytes, from, at, CONVERSATIONS_KEY);
    } else if (depth === 3 && isName) isValue = equals(bytes, from, at, VALUE_KEY);
    else if (depth === 1 && isImage) image = at > from ? 1 : 0;
    else if (depth === 3 && isValue && inConversations) words += countWords(bytes, from, at);
  }
  return 2 * words + image;
}

/** Where the string whose first character is at `at` is closed. */
function endOfString(bytes: Uint8Array, at: number): number {
  let end = at;
  while (bytes[end] !== QUOTE) end += bytes[end] === BACKSLASH ? 2 : 1;
  return end;
}

function followedByColon(bytes: Uint8Array, at: number): boolean {
  let next = at;
  while ((bytes[next] ?? COLON) <= SPACE) next++;
  return bytes[next] === COLON;
}

function equals(bytes: Uint8Array, from: number, to: number, name = ascii('')): boolean {
  if (to - from !== name.length) return false;
  for (let i = 0; i < name.length; i++) if (bytes[from + i] !== name[i]) return false;
  return true;
}

/** Words of a string as it stands in JSON; only ASCII's blanks and their escapes divide them. */
function countWords(bytes: Uint8Array, from: number, to: number): number {
  let words = 0;
  let inWord = false;
  for (let at = from; at < to; at++) {
    let byte = bytes[at] ?? 0;
    if (byte === BACKSLASH) byte = BLANK_ESCAPES.has(bytes[++at] ?? 0) ? SPACE : BACKSLASH;
    const isBlank = byte === SPACE;
    if (!isBlank && !inWord) words++;
    inWord = !isBlank;
  }
  return words;
}

/** The letters of `\f`, `\n`, `\r` and `\t`. */
const BLANK_ESCAPES: ReadonlySet<number> = new Set(ascii('fnrt'));

/** A file in `folder` whose name says which state of which file it indexes. */
function cacheFile(folder: string, file: string, size: number, mtimeMs: number): string {
  const key = `${path.resolve(file)}\n${size}\n${mtimeMs}`;
  return path.join(folder, `${createHash('sha256').update(key).digest('hex').slice(0, 32)}.index`);
}

/** The table kept in `cache`; undefined if there is none or it is not whole. */
async function readTable(cache: string): Promise<RecordTable | undefined> {
  const file = await readFile(cache).catch(() => new Uint8Array());
  const { buffer } = new Uint8Array(file);
  if (file.length < 16) return undefined;
  const [magic = 0, count = 0] = new Float64Array(buffer, 0, 2);
  if (magic !== CACHE_MAGIC || file.length !== 16 + 16 * count) return undefined;
  const sizes = new Uint32Array(buffer, 16 + 8 * count, 2 * count);
  return { offsets: new Float64Array(buffer, 16, count), sizes };
}

async function writeTable(cache: string, { offsets, sizes }: RecordTable): Promise<void> {
  const unfinished = `${cache}.${process.pid}`;
  await mkdir(path.dirname(cache), { recursive: true });
  await writeFile(unfinished, [Float64Array.of(CACHE_MAGIC, offsets.length), offsets, sizes]);
  await rename(unfinished, cache);
}
