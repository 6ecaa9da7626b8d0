/**
 * Hugging Face's cache on disk: `models--OWNER--NAME/{blobs,refs,snapshots/COMMIT}`, snapshots made of links into
 * the blobs. Everything appears whole or not at all.
 *
 * Knows nothing of the network. Source: "Understand caching" in the documentation of huggingface_hub, and the files
 * it writes.
 */
import { randomBytes } from 'node:crypto';
import { constants, copyFile, mkdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { COMMIT, type HubId } from './ids.ts';
import type { HubFile } from './listing.ts';

/** The folder of one repository in the cache. */
export function repositoryFolder(cache: string, { owner, name }: HubId): string {
  return path.join(cache, folderName(owner, name));
}

/** The file whose lock keeps two processes of this program from one repository. */
export function lockFile(cache: string, { owner, name }: HubId): string {
  return path.join(cache, '.locks', folderName(owner, name), 'fusion-vl.lock');
}

export function blobFile(folder: string, { etag }: HubFile): string {
  return path.join(folder, 'blobs', etag);
}

export function snapshotFolder(folder: string, commit: string): string {
  return path.join(folder, 'snapshots', commit);
}

function folderName(owner: string, name: string): string {
  return `models--${owner}--${name}`;
}

/** The commit a revision stood at when it was last asked for; undefined where the cache does not know. */
export async function readRef(folder: string, revision: string): Promise<string | undefined> {
  if (COMMIT.test(revision)) return revision;
  const text = await readFile(path.join(folder, 'refs', revision), 'utf8').catch(() => '');
  return COMMIT.test(text.trim()) ? text.trim() : undefined;
}

/** Notes the commit of a branch or tag. */
export async function writeRef(folder: string, revision: string, commit: string): Promise<void> {
  if ((await readRef(folder, revision)) === commit) return;
  await replaceFile(path.join(folder, 'refs', revision), (file) => writeFile(file, commit));
}

/** Whether `file` is there with `size` bytes, itself or through links. */
export async function hasSize(file: string, size: number): Promise<boolean> {
  const found = await stat(file).catch(() => undefined);
  return found?.isFile() === true && found.size === size;
}

/** Whether the snapshot has every one of `files` in its length. */
export async function holdsAll(snapshot: string, files: readonly HubFile[]): Promise<boolean> {
  const found = await Promise.all(files.map((file) => hasSize(path.join(snapshot, file.path), file.size)));
  return found.every(Boolean);
}

/** Makes the snapshot's file of a blob: a relative link, or a copy where the disk has no links. */
export async function linkBlob(folder: string, commit: string, file: HubFile): Promise<void> {
  const place = path.join(snapshotFolder(folder, commit), file.path);
  if (await hasSize(place, file.size)) return;
  const blob = blobFile(folder, file);
  await replaceFile(place, async (temporary) => {
    await symlink(path.relative(path.dirname(place), blob), temporary).catch(() =>
      copyFile(blob, temporary, constants.COPYFILE_FICLONE),
    );
  });
}

/** Makes `file` by `make`, which is given another name beside it; what stood there before is replaced at once. */
export async function replaceFile(file: string, make: (temporary: string) => Promise<void>): Promise<void> {
  const temporary = `${file}.${randomBytes(4).toString('hex')}.tmp`;
  await mkdir(path.dirname(file), { recursive: true });
  try {
    await make(temporary);
    await rename(temporary, file);
  } finally {
    await rm(temporary, { force: true });
  }
}
