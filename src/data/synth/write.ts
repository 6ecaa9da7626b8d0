/**
 * Samples as files: LLaVA's JSON, one a category, pictures, and a `dataset.yaml` that lists the JSON files.
 *
 * Every file is written under another name and then renamed, so what exists is whole; a run that was stopped is
 * continued by running it again. Knows nothing of how samples are made.
 */
import { mkdir, open, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { UserError } from '../../common/errors.ts';
import { DEFAULT_SIZE, renderPng } from './render.ts';
import { CATEGORIES, type Category, checkedOptions, type Sample, type Split, sampleAt } from './sample.ts';
import type { SynthOptions } from './scene.ts';

/** What to write. */
export interface WriteOptions {
  /** The folder; made where missing. */
  readonly out: string;
  readonly categories: readonly Category[];
  /** Samples of each category. */
  readonly count: number;
  readonly seed: number;
  readonly split: Split;
  /** The side of the pictures, in pixels. */
  readonly size?: number;
  readonly options?: Partial<SynthOptions>;
  /** Told after every picture. */
  readonly onProgress?: (category: Category, done: number, total: number) => void;
}

/** What was written. */
export interface WriteResult {
  readonly samples: number;
  /** Pictures that a former run had left whole. */
  readonly kept: number;
}

/** The settings that a folder's samples share, so that a run is not continued with others. */
const SETTINGS_FILE = 'synth.json';
const RENDERS_IN_FLIGHT = 6;
/** The last chunk of a PNG file. */
const PNG_END = Buffer.from('0000000049454e44ae426082', 'hex');

/**
 * Writes `count` samples of each category. Pictures that are whole already are not drawn again.
 *
 * @throws UserError where the folder was begun with another seed, split, size or options, or an option is out of
 * range
 */
export async function writeDataset(request: WriteOptions): Promise<WriteResult> {
  const { out, categories, count, seed, split, size = DEFAULT_SIZE, onProgress } = request;
  const options = checkedOptions(request.options ?? {});
  assertWhole('count', count, 1, 10_000_000);
  assertWhole('size', size, 32, 4096);
  await mkdir(out, { recursive: true });
  await claimFolder(out, { seed, split, size, options });
  let kept = 0;
  for (const category of categories) {
    await mkdir(join(out, 'images', category), { recursive: true });
    let done = 0;
    const draw = async (index: number) => {
      const sample = sampleAt(category, split, seed, index, options);
      if (!(await writePicture(join(out, imagePath(sample)), sample, size))) kept++;
      onProgress?.(category, ++done, count);
    };
    await eachInFlight(count, draw);
    const samples = (index: number) => sampleAt(category, split, seed, index, options);
    await writeJson(join(out, `${category}.json`), count, samples);
  }
  await writeYaml(out);
  return { samples: count * categories.length, kept };
}

function assertWhole(name: string, value: number, low: number, high: number): void {
  if (Number.isInteger(value) && value >= low && value <= high) return;
  throw new UserError(`${name}: expected an integer from ${low} to ${high}, got ${value}`);
}

/** Relative to the folder of the JSON and the YAML. */
function imagePath({ category, id }: Sample): string {
  return `images/${category}/${id}.png`;
}

/** Calls `work` for 0 to `count` - 1 in order, a few at a time. */
async function eachInFlight(count: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: RENDERS_IN_FLIGHT }, worker));
}

/** Draws the picture unless it is there; whether it did. */
async function writePicture(path: string, { scene }: Sample, size: number): Promise<boolean> {
  if (await isWholePng(path)) return false;
  await replaceFile(path, await renderPng(scene, size));
  return true;
}

async function isWholePng(path: string): Promise<boolean> {
  const file = await openIfThere(path);
  if (file === undefined) return false;
  try {
    const { size } = await file.stat();
    const end = Buffer.alloc(PNG_END.length);
    await file.read(end, 0, end.length, Math.max(0, size - end.length));
    return end.equals(PNG_END);
  } finally {
    await file.close();
  }
}

async function openIfThere(path: string) {
  try {
    return await open(path);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

async function replaceFile(path: string, content: Uint8Array | string): Promise<void> {
  const partial = `${path}.partial`;
  await writeFile(partial, content);
  await rename(partial, path);
}

/** An array with one entry a line, written as it is made. */
async function writeJson(path: string, count: number, sample: (index: number) => Sample): Promise<void> {
  const partial = `${path}.partial`;
  const file = await open(partial, 'w');
  try {
    let lines = '[\n';
    for (let index = 0; index < count; index++) {
      lines += `${JSON.stringify(entryOf(sample(index)))}${index === count - 1 ? '\n]\n' : ',\n'}`;
      if (lines.length < 1 << 20 && index < count - 1) continue;
      await file.write(lines);
      lines = '';
    }
  } finally {
    await file.close();
  }
  await rename(partial, path);
}

function entryOf(sample: Sample): Record<string, unknown> {
  const { id, category, conversations } = sample;
  return { id, image: imagePath(sample), category, conversations };
}

/** Lists the JSON files that the folder has, of this run and of earlier ones. */
async function writeYaml(out: string): Promise<void> {
  const files = CATEGORIES.map((category) => `${category}.json`);
  const there = await Promise.all(files.map((file) => exists(join(out, file))));
  const entries = files.filter((_, i) => there[i]);
  const lines = entries.map((file) => `  - json_path: ${file}\n    sampling_strategy: all\n`);
  await replaceFile(join(out, 'dataset.yaml'), `datasets:\n${lines.join('')}`);
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

/** Notes the settings in a new folder; in one already begun they must be the same. */
async function claimFolder(out: string, settings: Record<string, unknown>): Promise<void> {
  const path = join(out, SETTINGS_FILE);
  const text = `${JSON.stringify(settings, undefined, 2)}\n`;
  if (!(await exists(path))) return replaceFile(path, text);
  const found = await readFile(path, 'utf8');
  if (found === text) return;
  const shown = (json: string) => json.replace(/\s+/g, ' ').trim();
  throw new UserError(
    `${path}: expected the settings ${shown(text)}, got ${shown(found)}; choose another folder or the same settings`,
  );
}
