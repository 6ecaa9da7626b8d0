/**
 * The web page, ready to be served: as it was compiled beside the program, or built here from its sources, once, and
 * kept until they change. Knows nothing of what the page does (`web/`).
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { messageOf } from '../common/errors.ts';
import { type Page, readPage, textPage } from './page.ts';

/** Where the build puts the page, and where pages built here are kept. */
const COMPILED = 'dist/web';
const CACHE = 'node_modules/.cache/fusion-vl/web';
/** What a page is made of; `package.json` names the libraries' versions. */
const SOURCES = ['package.json', 'web', 'src/common', 'examples'] as const;
/** Milliseconds after which a build that has not ended never will. */
const LONGEST_BUILD = 3_600_000;

/**
 * The page of the package whose folder is `root`; where it cannot be had, a text that says why. Building takes a
 * second or two; a page that was built from the same sources before is read.
 */
export async function openPage(root: string): Promise<Page> {
  try {
    const page = (await readPage(path.join(root, COMPILED))) ?? (await readPage(await built(root)));
    if (page?.has('/')) return page;
    throw new Error('it has no index.html');
  } catch (error) {
    return textPage(
      `FUSION answers here; the API is under /v1. The page could not be built: ${messageOf(error)}\n`,
    );
  }
}

/** The folder with the page of the present sources. */
async function built(root: string): Promise<string> {
  const web = path.join(root, 'web');
  if (!existsSync(web)) throw new Error('its sources are not here; install the package anew');
  const cache = path.join(root, CACHE);
  const dir = path.join(cache, await digest(root));
  if (existsSync(dir)) return dir;
  const { build } = await import('vite').catch(() => {
    throw new Error('Vite is not installed; run npm ci, or npm run build where it is');
  });
  const unfinished = `${dir}.${process.pid}`;
  await mkdir(cache, { recursive: true });
  try {
    await build({
      configFile: path.join(web, 'vite.config.ts'),
      logLevel: 'silent',
      build: { outDir: unfinished },
    });
    // Another process may have been quicker with the same page.
    await rename(unfinished, dir).catch((error: unknown) => {
      if (!existsSync(dir)) throw error;
    });
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
  await removeOthers(cache, path.basename(dir));
  return dir;
}

/** Removes pages of other sources, and what a build that was killed has left. */
async function removeOthers(cache: string, name: string): Promise<void> {
  for (const other of await readdir(cache)) {
    const dir = path.join(cache, other);
    const isFinished = !other.includes('.');
    const changed = (await stat(dir).catch(() => undefined))?.mtimeMs ?? 0;
    if (other === name || (!isFinished && Date.now() - changed < LONGEST_BUILD)) continue;
    await rm(dir, { recursive: true, force: true });
  }
}

/** A name for the content of the page's sources. */
async function digest(root: string): Promise<string> {
  const hash = createHash('sha256');
  for (const file of (await Promise.all(SOURCES.map((name) => filesOf(path.join(root, name))))).flat()) {
    const bytes = await readFile(file);
    hash.update(`${path.relative(root, file)}\0${bytes.length}\0`).update(bytes);
  }
  return hash.digest('hex').slice(0, 16);
}

/** All files of a folder, in order; a file itself; nothing where there is neither. */
async function filesOf(name: string): Promise<readonly string[]> {
  if ((await stat(name).catch(() => undefined))?.isFile()) return [name];
  const entries = await readdir(name, { recursive: true, withFileTypes: true }).catch(() => []);
  const files = entries.filter((entry) => entry.isFile());
  return files.map(({ parentPath, name: base }) => path.join(parentPath, base)).toSorted();
}
