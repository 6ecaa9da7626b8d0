/** A model of `configs/models/tiny.json`'s kind, smaller still, with random weights and its own tokenizer. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { initRandom } from '../../src/checkpoint/fromBase.ts';
import { writeJson } from '../../src/checkpoint/newFolder.ts';
import { makeTokenizer } from '../../src/data/bpe.ts';
import { QA_CATEGORIES, sampleAt } from '../../src/data/synth/index.ts';

export const TINY_CONFIG = fileURLToPath(new URL('../../configs/models/tiny.json', import.meta.url));

export interface SmallBase {
  /** The checkpoint. */
  readonly base: string;
  /** A folder for whatever else a test makes. */
  readonly dir: string;
  remove(): void;
}

/** Makes one; changes: keys of config.json. */
export async function smallBase(changes: Readonly<Record<string, unknown>> = {}): Promise<SmallBase> {
  const dir = mkdtempSync(path.join(tmpdir(), 'fusion-base-'));
  const tokenizer = await smallTokenizer(path.join(dir, 'tokenizer'));
  const tiny = JSON.parse(readFileSync(TINY_CONFIG, 'utf8'));
  const json = {
    ...tiny,
    hidden_size: 48,
    intermediate_size: 64,
    num_hidden_layers: 4,
    num_of_vision_sampler_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    query_len: '4',
    vision_config: {
      ...tiny.vision_config,
      hidden_size: 32,
      intermediate_size: 64,
      num_hidden_layers: 4,
      image_size: 32,
    },
    ...changes,
  };
  const base = path.join(dir, 'base');
  await initRandom({ out: base, seed: 1, tokenizer, json, where: 'small', dtype: 'F32' });
  return { base, dir, remove: () => rmSync(dir, { recursive: true, force: true }) };
}

async function smallTokenizer(dir: string): Promise<string> {
  const samples = QA_CATEGORIES.flatMap((category) =>
    Array.from({ length: 40 }, (_, i) => sampleAt(category, 'train', 0, i)),
  );
  const texts = samples.flatMap(({ turns }) => turns.flatMap(({ question, answer }) => [question, answer]));
  const { tokenizer, config } = makeTokenizer(texts, 1024);
  await mkdir(dir, { recursive: true });
  await writeJson(path.join(dir, 'tokenizer.json'), tokenizer);
  await writeJson(path.join(dir, 'tokenizer_config.json'), config);
  return dir;
}
