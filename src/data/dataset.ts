/**
 * A training set: the records a mixture selects, each checked and turned into tokens and crops, or skipped with
 * its reason.
 *
 * A record that cannot be used is never replaced by another: it becomes a `SkippedSample`, which `SkipLog`
 * counts, writes down and bounds. Knows nothing of order, batches or the model's weights.
 * Source: spec "Datasets" (LLaVA's JSON: `id`, `image`, `conversations`).
 */
import { appendFileSync, existsSync, statSync, truncateSync } from 'node:fs';
import path from 'node:path';
import { InternalError, messageOf, UserError } from '../common/errors.ts';
import { Random } from '../common/random.ts';
import { END_OF_QUESTION, IGNORE, IMAGE, LATENT } from '../model/sentinels.ts';
import { expandedLength, type SequenceSample, type SequenceSizes } from '../model/sequence.ts';
import {
  type ConversationFormat,
  encodeConversation,
  fromLlava,
  type LlavaTurn,
  type Message,
  renderConversation,
} from './conversation.ts';
import { staticHdCrops } from './image.ts';
import { readImage } from './imageFile.ts';
import { readMixture, type Selection, selectRecords } from './mixture.ts';
import { openRecordIndex, type RecordIndex } from './recordIndex.ts';
import type { Tokenizer } from './tokenizer.ts';

export interface DatasetOptions {
  /** Decides what `random:…` selects. */
  readonly seed: number | string;
  /** The folder of the records' image paths; each JSON file's own unless given. */
  readonly imageFolder?: string | undefined;
  /** Where to keep the files' indexes; nowhere unless given. */
  readonly cacheDir?: string | undefined;
  /** Called while a file is indexed, with bytes. */
  readonly onProgress?: ((file: string, done: number, total: number) => void) | undefined;
}

/** A record as it stands in its file. */
export interface RawSample {
  readonly file: string;
  /** The record's place in its file, from 0. */
  readonly index: number;
  /** The record's `id`, or `file name:index` where it has none. */
  readonly id: string;
  /** Absolute; undefined for a sample of text only. */
  readonly imagePath?: string | undefined;
  readonly conversations: readonly LlavaTurn[];
  /** The file as the mixture names it. */
  readonly dataset: string;
}

/** Why a record cannot be used. */
export type SkipKind =
  | 'broken-record'
  | 'no-conversations'
  | 'unknown-role'
  | 'broken-turn'
  | 'turn-order'
  | 'image-field'
  | 'image-marker'
  | 'missing-image'
  | 'broken-image'
  | 'no-answer'
  | 'too-long';

/** A record that is not trained on. */
export interface SkippedSample {
  readonly file: string;
  readonly index: number;
  readonly id?: string;
  readonly kind: SkipKind;
  /** What was expected and what found. */
  readonly reason: string;
}

/** A sample ready for a batch. */
export interface EncodedSample extends SequenceSample {
  readonly file: string;
  readonly index: number;
  readonly id: string;
  readonly inputIds: Int32Array;
  readonly labels: Int32Array;
  /** The questions' tokens; `[0]` without an image. */
  readonly instructs: Int32Array;
  readonly hasImage: boolean;
  /** f32 [5, 3, S, S], where there is an image and `cropSide` was given. */
  readonly crops?: Float32Array;
}

export interface EncodeOptions {
  readonly tokenizer: Tokenizer;
  readonly format: ConversationFormat;
  /** `queryLength` is the largest that may be drawn, so that whether a sample fits never depends on the draw. */
  readonly sizes: SequenceSizes;
  /** What to do with a sample longer than `sizes.maxLength`: skip it (default), or let the model cut it. */
  readonly tooLong?: 'skip' | 'cut' | undefined;
  /** S, pixels of a crop's side. Without it images are not opened. */
  readonly cropSide?: number | undefined;
}

export const isSkipped = (sample: object): sample is SkippedSample => 'kind' in sample;

/** One file of the training set. */
interface Source {
  readonly name: string;
  readonly records: RecordIndex;
  readonly selection: Selection;
  /** Number, in the whole set, of this file's first sample. */
  readonly first: number;
  readonly imageFolder: string;
}

/**
 * Opens a dataset YAML, or a lone `.json` or `.jsonl`, and indexes its files.
 *
 * @throws UserError for a YAML or file that is not as the spec says, or a set without samples.
 */
export async function openDataset(file: string, options: DatasetOptions): Promise<Dataset> {
  const sources: Source[] = [];
  let first = 0;
  try {
    for (const { name, jsonPath, sampling, where } of await readMixture(file)) {
      const onProgress = (done: number, total: number) => options.onProgress?.(jsonPath, done, total);
      const records = await openRecordIndex(jsonPath, { cacheDir: options.cacheDir, onProgress }).catch(
        (error: unknown) => {
          throw where === file ? error : new UserError(`${where}: ${messageOf(error)}`);
        },
      );
      // Named by the path as written, so adding a file does not change what is drawn from the others.
      const random = new Random(options.seed).fork(`records of ${path.basename(file)}: ${name}`);
      const selection = selectRecords(sampling, records.count, random);
      const imageFolder = path.resolve(options.imageFolder ?? path.dirname(jsonPath));
      sources.push({ name, records, selection, first, imageFolder });
      first += selection.count;
    }
    if (first === 0) throw new UserError(`${file}: expected at least one sample, got none`);
  } catch (error) {
    await Promise.all(sources.map(({ records }) => records.close()));
    throw error;
  }
  return new Dataset(file, sources, first);
}

/** The samples of a mixture, numbered from 0 through all its files. */
export class Dataset {
  readonly file: string;
  readonly count: number;
  readonly #sources: readonly Source[];

  /** Made by `openDataset`. */
  constructor(file: string, sources: readonly Source[], count: number) {
    this.file = file;
    this.count = count;
    this.#sources = sources;
  }

  /** Words in the conversation of sample `i`. */
  words(i: number): number {
    const { source, index } = this.#locate(i);
    return source.records.words(index);
  }

  /** Whether sample `i` names an image. */
  hasImage(i: number): boolean {
    const { source, index } = this.#locate(i);
    return source.records.hasImage(index);
  }

  /** Reads sample `i` and checks its form; its image is not looked at. */
  async sample(i: number): Promise<RawSample | SkippedSample> {
    const { source, index } = this.#locate(i);
    const place = { file: source.records.file, index };
    try {
      return rawSample(await source.records.record(index), place, source);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      return { ...place, kind: 'broken-record', reason: error.message };
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#sources.map(({ records }) => records.close()));
  }

  #locate(i: number): { source: Source; index: number } {
    let [low, high] = [0, this.#sources.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#sources[middle]?.first ?? 0) <= i) low = middle;
      else high = middle - 1;
    }
    const source = this.#sources[low];
    if (!source || !(i >= 0 && i < this.count)) throw new InternalError(`sample ${i} of ${this.count}`);
    return { source, index: source.selection.at(i - source.first) };
  }
}

type Place = Pick<SkippedSample, 'file' | 'index' | 'id'>;

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const shown = (value: unknown) => (JSON.stringify(value) ?? 'nothing').slice(0, 80);

function rawSample(record: unknown, place: Place, source: Source): RawSample | SkippedSample {
  if (!isRecord(record)) {
    return { ...place, kind: 'broken-record', reason: `expected an object, got ${shown(record)}` };
  }
  const { conversations, image } = record;
  const hasId = typeof record.id === 'string' || typeof record.id === 'number';
  const id = hasId ? String(record.id) : `${path.basename(place.file)}:${place.index}`;
  const skip = (kind: SkipKind, reason: string): SkippedSample => ({ ...place, id, kind, reason });
  if (!Array.isArray(conversations) || conversations.length === 0) {
    return skip('no-conversations', `conversations: expected a list of turns, got ${shown(conversations)}`);
  }
  const turns: LlavaTurn[] = [];
  for (const [k, turn] of conversations.entries()) {
    const { from, value }: Record<string, unknown> = isRecord(turn) ? turn : {};
    if (from !== 'human' && from !== 'gpt') {
      return skip('unknown-role', `conversations[${k}].from: expected "human" or "gpt", got ${shown(from)}`);
    }
    if (typeof value !== 'string') {
      return skip('broken-turn', `conversations[${k}].value: expected text, got ${shown(value)}`);
    }
    turns.push({ from, value });
  }
  const sample = { ...place, id, conversations: turns, dataset: source.name };
  if (image === undefined || image === null || image === '') return sample;
  if (typeof image !== 'string') return skip('image-field', `image: expected a path, got ${shown(image)}`);
  return { ...sample, imagePath: path.resolve(source.imageFolder, image) };
}

/**
 * Tokens, labels and crops of a sample, or why it cannot be trained on.
 *
 * @throws UserError only for what concerns every sample: a format that does not fit the tokenizer.
 */
export async function encodeSample(
  raw: RawSample,
  options: EncodeOptions,
): Promise<EncodedSample | SkippedSample> {
  const encoded = encodeText(raw, options);
  if (isSkipped(encoded) || raw.imagePath === undefined || options.cropSide === undefined) return encoded;
  const { cropSide } = options;
  const crops = await useImage(raw, raw.imagePath, async (path) =>
    staticHdCrops(await readImage(path), cropSide),
  );
  return crops instanceof Float32Array ? { ...encoded, crops } : crops;
}

/** What `use` makes of a sample's image; a `UserError` of it becomes the reason to skip the sample. */
export async function useImage<T>(
  { file, index, id }: RawSample,
  imagePath: string,
  use: (path: string) => Promise<T>,
): Promise<T | SkippedSample> {
  try {
    return await use(imagePath);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const code = isRecord(error.cause) ? error.cause.code : undefined;
    const isMissing = code === 'ENOENT' || code === 'ENOTDIR' || code === 'EISDIR';
    return { file, index, id, kind: isMissing ? 'missing-image' : 'broken-image', reason: error.message };
  }
}

function encodeText(raw: RawSample, options: EncodeOptions): EncodedSample | SkippedSample {
  const { file, index, id } = raw;
  const { tokenizer, format, sizes } = options;
  const hasImage = raw.imagePath !== undefined;
  const messages = fromLlava(raw.conversations);
  const wrong = wrongMessages(format, messages, hasImage);
  if (wrong) return { file, index, id, ...wrong };
  const { inputIds, labels, instructs } = encodeConversation(tokenizer, format, messages, { hasImage });
  const unusable = wrongLength({ inputIds, labels }, sizes, options.tooLong ?? 'skip');
  if (unusable) return { file, index, id, ...unusable };
  return { file, index, id, inputIds, labels, instructs, hasImage };
}

type Fault = Pick<SkippedSample, 'kind' | 'reason'>;

/** Turns must alternate, and hold one image marker where there is an image and no other placeholder. */
function wrongMessages(
  format: ConversationFormat,
  messages: readonly Message[],
  hasImage: boolean,
): Fault | undefined {
  let prompt: string;
  try {
    prompt = renderConversation(format, messages, { hasImage });
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { kind: 'turn-order', reason: error.message };
  }
  const markers = prompt.split('<image>').length - 1;
  const wanted = hasImage ? 1 : 0;
  if (markers !== wanted) {
    const reason = `conversations: expected ${wanted} turns with <image> (${hasImage ? 'one' : 'no'} image), got ${markers}`;
    return { kind: 'image-marker', reason };
  }
  // One more would shift every later question onto another's latents.
  const questions = messages.filter(({ role }) => role === 'user').length;
  const latents = prompt.split('<latent_image>').length - 1;
  if (latents === questions) return undefined;
  return { kind: 'image-marker', reason: 'conversations: expected no <latent_image> in a text, got one' };
}

/** Something must be supervised, within the maximum length. */
function wrongLength(
  sample: { readonly inputIds: Int32Array; readonly labels: Int32Array },
  sizes: SequenceSizes,
  tooLong: 'skip' | 'cut',
): Fault | undefined {
  const { maxLength, imageTokens, queryLength } = sizes;
  const first = sample.labels.findIndex((label) => label !== IGNORE && label !== END_OF_QUESTION);
  if (first === -1) return { kind: 'no-answer', reason: 'conversations: expected an answer, got none' };
  const length = expandedLength(sample.inputIds, sizes);
  if (length <= maxLength) return undefined;
  const reason = `expected at most ${maxLength} positions, got ${length}`;
  if (tooLong === 'skip') return { kind: 'too-long', reason };
  const before = sample.inputIds.subarray(0, first);
  const placeholders = before.filter((id) => id === IMAGE || id === LATENT).length;
  const images = sample.inputIds.includes(IMAGE) ? 1 : 0;
  const start = first - placeholders + images * imageTokens + (placeholders - images) * queryLength;
  return start < maxLength
    ? undefined
    : { kind: 'too-long', reason: `${reason}, all before the first answer` };
}

export interface SkipLogOptions {
  /** `skipped.jsonl`, appended to: one `SkippedSample` a line. Nothing is written unless given. */
  readonly file?: string | undefined;
  /** The largest share of samples that may be skipped; 0.01 unless given. */
  readonly limit?: number | undefined;
  /** How many samples must have been seen before the share counts; 100 unless given. */
  readonly minimum?: number | undefined;
  /** Where a run that is resumed stood; lines written after that are cut off. */
  readonly state?: SkipLogState | undefined;
}

/** Plain JSON. */
export interface SkipLogState {
  readonly seen: number;
  readonly counts: Readonly<Partial<Record<SkipKind, number>>>;
  /** Length of the file. */
  readonly bytes: number;
}

/** Counts skipped samples, writes them down, and stops a run that skips too many. */
export class SkipLog {
  readonly #options: SkipLogOptions;
  readonly #counts: Partial<Record<SkipKind, number>>;
  #seen: number;
  #last = '';

  constructor(options: SkipLogOptions = {}) {
    const { file, state } = options;
    this.#options = options;
    this.#seen = state?.seen ?? 0;
    this.#counts = { ...state?.counts };
    if (file && state && sizeOf(file) > state.bytes) truncateSync(file, state.bytes);
  }

  /**
   * Notes that `seen` samples were read, of which `skipped` cannot be used. Call it as batches are used, not as
   * they are prepared, so that `state` belongs to the step.
   *
   * @throws UserError when more than the limit's share of all seen so far is skipped.
   */
  record(seen: number, skipped: readonly SkippedSample[]): void {
    const { file, limit = 0.01, minimum = 100 } = this.#options;
    this.#seen += seen;
    for (const { kind, file: from, index, reason } of skipped) {
      this.#counts[kind] = (this.#counts[kind] ?? 0) + 1;
      this.#last = `; the last: ${from}: record ${index}: ${reason}`;
    }
    const lines = skipped.map((sample) => `${JSON.stringify(sample)}\n`);
    if (file && lines.length > 0) appendFileSync(file, lines.join(''));
    if (this.#seen < minimum || this.skipped <= limit * this.#seen) return;
    const reasons = Object.entries(this.#counts).map(([kind, count]) => `${kind} ${count}`);
    throw new UserError(
      `training data: expected at most ${100 * limit}% of samples skipped, got ${this.skipped} of ${this.#seen} ` +
        `(${reasons.join(', ')})${this.#last}; ${file ? `all are in ${file}; ` : ''}mend the data or raise the limit`,
    );
  }

  get skipped(): number {
    return Object.values(this.#counts).reduce((sum, count) => sum + count, 0);
  }

  /** To continue from here. */
  state(): SkipLogState {
    const { file } = this.#options;
    return { seen: this.#seen, counts: { ...this.#counts }, bytes: file ? sizeOf(file) : 0 };
  }
}

const sizeOf = (file: string) => (existsSync(file) ? statSync(file).size : 0);
