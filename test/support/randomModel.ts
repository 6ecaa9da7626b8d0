/** A small checkpoint of random weights with a tokenizer, of which models in other formats can be made. */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { initRandom } from '../../src/checkpoint/fromBase.ts';
import { GOLDEN } from './checkpoints.ts';

export interface RandomModel {
  /** The checkpoint's folder. */
  readonly dir: string;
  /** A folder for what is made of it. */
  readonly root: string;
  remove(): Promise<void>;
}

/** Made in a temporary folder; `changes` to the golden checkpoint's config.json. Equal changes give equal weights. */
export async function randomModel(changes: Readonly<Record<string, unknown>> = {}): Promise<RandomModel> {
  const root = await mkdtemp(join(tmpdir(), 'fusion-random-'));
  const where = join(GOLDEN, 'llama-small/config.json');
  const small = JSON.parse(readFileSync(where, 'utf8')) as Record<string, unknown>;
  const json = { ...small, vocab_size: 912, tokenizer_model_max_length: 1024, ...changes };
  const dir = join(root, 'model');
  const tokenizer = join(GOLDEN, 'tokenizers/llama3');
  await initRandom({ json, where, out: dir, tokenizer, dtype: 'F32', embeddingStd: 1 });
  return { dir, root, remove: () => rm(root, { recursive: true, force: true }) };
}
