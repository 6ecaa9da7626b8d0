/**
 * Converted models that were made because someone asked for another weight format: kept in a cache folder, one for
 * each content. Knows nothing of running models.
 */
import { createHash } from 'node:crypto';
import { readdir, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { UserError } from '../../common/errors.ts';
import type { OnProgress } from '../../common/progress.ts';
import { openCheckpoint } from '../folder.ts';
import { GENERATION_FILE, TOKENIZER_FILES } from '../newFolder.ts';
import { convertFolder } from './convert.ts';
import { LAYOUT_VERSION, type PartFormats } from './formats.ts';

export interface ConvertedOptions {
  /** Short name of the formats, for the folder's name. */
  readonly label: string;
  readonly formats: PartFormats;
  readonly threads?: number | undefined;
  readonly onProgress?: OnProgress | undefined;
  /** Told what is done, one line each. */
  readonly onNote?: ((text: string) => void) | undefined;
}

/**
 * Where converted models are kept: `FUSION_CACHE`, else `fusion-vl` in `XDG_CACHE_HOME` or `~/.cache`; each in a folder
 * of `converted/`.
 */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  const given = env.FUSION_CACHE;
  if (given !== undefined && given !== '') return path.resolve(given, 'converted');
  const base = env.XDG_CACHE_HOME;
  const caches = base !== undefined && base !== '' ? base : path.join(homedir(), '.cache');
  return path.join(caches, 'fusion-vl', 'converted');
}

/**
 * The converted folder of the checkpoint in `dir`: from the cache, or made now.
 *
 * @throws UserError as `convertFolder`.
 */
export async function convertedFolder(dir: string, options: ConvertedOptions): Promise<string> {
  const { label, formats, threads, onProgress, onNote } = options;
  const key = await contentKey(dir, formats);
  const name = `${path.basename(path.resolve(dir))}-${label}-${key}`;
  const out = path.join(cacheFolder(), name);
  if (await isThere(out)) return out;
  await removeAbandoned(out);
  onNote?.(`${dir}: converting to ${label} once, into ${out}`);
  try {
    await convertFolder({ source: dir, out, formats, threads, onProgress });
  } catch (error) {
    // Another process may have been quicker.
    if (error instanceof UserError && (await isThere(out))) return out;
    throw error;
  }
  return out;
}

/** A folder has config.json from the moment it has its name. */
async function isThere(dir: string): Promise<boolean> {
  return (await stat(path.join(dir, 'config.json')).catch(() => undefined)) !== undefined;
}

/**
 * Says apart what converts to something else: the tensors' names, dtypes, shapes and places, sizes and times of the
 * files they are in and of those that are copied, the formats and the version of the layout.
 */
async function contentKey(dir: string, formats: PartFormats): Promise<string> {
  const { tensors } = await openCheckpoint(dir);
  const table = [...tensors].map(([name, { dtype, shape, begin, file }]) => [
    name,
    dtype,
    shape,
    begin,
    path.relative(dir, file),
  ]);
  const beside = ['config.json', GENERATION_FILE, ...TOKENIZER_FILES].map((name) => path.join(dir, name));
  const files = new Set([...beside, ...[...tensors.values()].map(({ file }) => file)]);
  const states = await Promise.all(
    [...files].map(async (file) => {
      const found = await stat(file).catch(() => undefined);
      return [path.relative(dir, file), found?.size, found?.mtimeMs];
    }),
  );
  const content = JSON.stringify([LAYOUT_VERSION, formats, table.toSorted(), states.toSorted()]);
  return createHash('sha256').update(content).digest('hex').slice(0, 16);
}

/** Removes what processes that no longer run left of a conversion to `out`. */
async function removeAbandoned(out: string): Promise<void> {
  const folder = path.dirname(out);
  const names = await readdir(folder).catch(() => []);
  for (const name of names) {
    const pid = name.startsWith(`${path.basename(out)}.`)
      ? /\.(\d+)\.[0-9a-f]{8}\.tmp$/.exec(name)?.[1]
      : undefined;
    if (pid === undefined || isRunning(Number(pid))) continue;
    await rm(path.join(folder, name), { recursive: true, force: true });
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
