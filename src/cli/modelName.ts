/**
 * What a command is given as a model → its folder: a folder as it is, a hub's id by way of the cache. Knows nothing
 * of what the command does with it.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseHubId } from '../checkpoint/hub/ids.ts';
import { UserError } from '../common/errors.ts';
import { note, screenProgress } from './screen.ts';

/** The model that comes with the package. */
const EMBEDDED = fileURLToPath(new URL('../../models/tiny', import.meta.url));

/**
 * The model of a command that was given none.
 *
 * @throws UserError where none comes with the package.
 */
export function embeddedModel(): string {
  if (existsSync(EMBEDDED)) return EMBEDDED;
  throw new UserError(
    'model: expected --model DIR, a checkpoint folder or a hub id (or FUSION_MODEL in the environment)',
  );
}

/**
 * The folder of the model `name`, downloaded first where it is an id and not in the cache; progress and notes go to
 * stderr unless `quiet`. Ctrl-C ends the process; what has come is continued by the next run.
 *
 * @throws UserError where the model is not to be had.
 */
export async function findModel(name: string, quiet = false): Promise<string> {
  if (parseHubId(name) === undefined) return name;
  const { resolveModel } = await import('../checkpoint/hub/resolve.ts');
  const onProgress = screenProgress(quiet);
  const onNote = quiet
    ? undefined
    : (text: string) => {
        onProgress.end();
        note(text);
      };
  return resolveModel(name, { onProgress, onNote }).finally(() => onProgress.end());
}
