/**
 * The pass over a training set before a run: every record read, encoded and its image decoded, nothing trained.
 *
 * Knows nothing of order or batches. Uses the same checks as training, so what passes here is trained on there.
 */
import { stat } from 'node:fs/promises';
import { UserError } from '../common/errors.ts';
import { prefetch } from './batches.ts';
import {
  type Dataset,
  type EncodeOptions,
  encodeSample,
  isSkipped,
  type SkipKind,
  type SkippedSample,
  useImage,
} from './dataset.ts';
import { readImage } from './imageFile.ts';

export interface CheckOptions extends Omit<EncodeOptions, 'cropSide'> {
  /** Decode every image (default), or only see that its file is there and not empty. */
  readonly images?: 'decode' | 'exists' | undefined;
  /** How many skipped samples to list; 20 unless given. */
  readonly examples?: number | undefined;
  /** Receives every skipped sample, for a complete list. */
  readonly onSkipped?: ((sample: SkippedSample) => void) | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** What the pass found. */
export interface DataReport {
  readonly seen: number;
  readonly withImage: number;
  readonly skipped: number;
  /** Skipped samples by reason. */
  readonly counts: Readonly<Partial<Record<SkipKind, number>>>;
  /** The first of them. */
  readonly examples: readonly SkippedSample[];
}

/** Samples under way at once; sharp decodes in four threads. */
const CONCURRENCY = 8;

/**
 * Reads, encodes and checks every sample of a set, in order.
 *
 * @throws UserError only for what concerns every sample: a format that does not fit the tokenizer.
 */
export async function checkData(dataset: Dataset, options: CheckOptions): Promise<DataReport> {
  const counts: Partial<Record<SkipKind, number>> = {};
  const examples: SkippedSample[] = [];
  let [seen, withImage, skipped] = [0, 0, 0];
  const checked = prefetch(numbersTo(dataset.count), (i) => checkSample(dataset, i, options), CONCURRENCY);
  for await (const result of checked) {
    seen++;
    options.onProgress?.(seen, dataset.count);
    if (result === 'image') withImage++;
    if (typeof result === 'string') continue;
    skipped++;
    counts[result.kind] = (counts[result.kind] ?? 0) + 1;
    if (examples.length < (options.examples ?? 20)) examples.push(result);
    options.onSkipped?.(result);
  }
  return { seen, withImage, skipped, counts, examples };
}

async function checkSample(
  dataset: Dataset,
  i: number,
  { images = 'decode', ...options }: CheckOptions,
): Promise<'image' | 'text' | SkippedSample> {
  const raw = await dataset.sample(i);
  if (isSkipped(raw)) return raw;
  const { tokenizer, format, sizes, tooLong } = options;
  const encoded = await encodeSample(raw, { tokenizer, format, sizes, tooLong });
  if (isSkipped(encoded)) return encoded;
  if (raw.imagePath === undefined) return 'text';
  const use = images === 'decode' ? readImage : assertFile;
  const image = await useImage(raw, raw.imagePath, use);
  return image && isSkipped(image) ? image : 'image';
}

async function assertFile(path: string): Promise<object | undefined> {
  const size = await stat(path).then(
    (file) => (file.isFile() ? file.size : 0),
    (cause: unknown) => {
      throw new UserError(`${path}: expected an image file, got no such file; check the path`, { cause });
    },
  );
  if (size > 0) return undefined;
  throw new UserError(`${path}: expected an image file, got an empty file or a folder`);
}

function* numbersTo(count: number): Generator<number> {
  for (let i = 0; i < count; i++) yield i;
}
