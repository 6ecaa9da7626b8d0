/** What the cache's disk refuses, and whether it has room: in one line that says what to do. Knows nothing of models. */
import { mkdir } from 'node:fs/promises';
import { messageOf, UserError } from '../../common/errors.ts';
import type { Hub } from './hub.ts';

const ELSEWHERE = 'make room, or name a folder on another disk in HF_HUB_CACHE';
const FULL: ReadonlySet<string | undefined> = new Set(['ENOSPC', 'EDQUOT']);

/** The result of `action` on the file or folder `where`. Throws `UserError` where the disk refuses. */
export async function onDisk<T>(where: string, action: Promise<T>): Promise<T> {
  return action.catch((error: NodeJS.ErrnoException) => {
    const help = FULL.has(error.code)
      ? `${ELSEWHERE}; what has come is kept`
      : 'HF_HUB_CACHE names another folder';
    throw new UserError(`${where}: expected to write to the cache, got ${messageOf(error)}; ${help}`);
  });
}

/** Throws `UserError` unless `bytes` more fit on the disk of `dir`, which is made where it is not there. */
export async function checkRoom(hub: Hub, dir: string, bytes: number): Promise<void> {
  await onDisk(dir, mkdir(dir, { recursive: true }));
  // A file system that does not tell is found out when it is full.
  const free = await hub.freeBytes(dir).catch(() => Number.POSITIVE_INFINITY);
  if (free >= bytes) return;
  throw new UserError(`${dir}: expected ${sizeText(bytes)} free, got ${sizeText(free)}; ${ELSEWHERE}`);
}

/** `12.31 GB`, `402.0 MB`, `3.0 kB`. */
export function sizeText(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e3).toFixed(1)} kB`;
}
