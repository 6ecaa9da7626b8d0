/**
 * One process of this program at a time in a repository of the cache. A lock whose owner was killed is taken over
 * when it has not been renewed for a while.
 *
 * Knows nothing of what is done under it. The rest of Hugging Face's programs do not know this lock; they write under
 * names of their own, so that they and this one only do the work twice.
 */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { lock } from 'proper-lockfile';
import { UserError } from '../../common/errors.ts';
import { onDisk } from './disk.ts';
import type { Hub } from './hub.ts';

const STALE_MS = 20_000;
const POLL_MS = 500;

/**
 * Runs `action` under the lock `file`, waiting for another owner (`onWait` is told once). `action` gets a signal that
 * aborts with `signal`, or with a `UserError` when another process took the lock over (after the machine slept).
 */
export async function withLock<T>(
  hub: Hub,
  file: string,
  {
    signal,
    onWait,
  }: { readonly signal?: AbortSignal | undefined; readonly onWait?: (() => void) | undefined },
  action: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  await onDisk(file, mkdir(path.dirname(file), { recursive: true }));
  const lost = new AbortController();
  const onCompromised = () => lost.abort(new UserError(`${file}: another process took the lock; try again`));
  for (let waited = false; ; waited = true) {
    const options = { lockfilePath: file, realpath: false, stale: STALE_MS, onCompromised };
    const release = await onDisk(file, lock(file, options).catch(whenLocked));
    if (release !== undefined) {
      return await action(
        signal === undefined ? lost.signal : AbortSignal.any([signal, lost.signal]),
      ).finally(() => release().catch(() => undefined));
    }
    if (!waited) onWait?.();
    await hub.wait(POLL_MS, signal);
  }
}

function whenLocked(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ELOCKED') throw error;
}
