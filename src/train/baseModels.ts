/**
 * What a checkpoint was made from, for the model card of what is trained on it. Read from its folder: the hub's cache names
 * its models, and a card of ours names those of a checkpoint that is not trained yet. Knows nothing of weights.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { modelNameOf } from '../checkpoint/baseConfigs.ts';
import { readSources, type Source } from './modelCard.ts';

/** A folder's name, with its id where it is a model in the hub's cache. */
export function sourceAt(dir: string): Source {
  const name = modelNameOf(dir);
  return name.includes('/') ? { name, id: name } : { name };
}

/** What training that begins with the checkpoint in `dir` is based on: that checkpoint, or what it was put together of. */
export async function baseModelsOf(dir: string): Promise<readonly Source[]> {
  const card = await readFile(path.join(dir, 'README.md'), 'utf8').catch(() => '');
  return readSources(card) ?? [sourceAt(dir)];
}
