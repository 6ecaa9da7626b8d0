/** `fusion tokenizer`: makes a small tokenizer for models trained from scratch on synthetic data. */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import type { Command } from 'commander';
import { positive } from './options.ts';

interface Flags {
  readonly out: string;
  readonly size: number;
  readonly samples: number;
}

export function registerTokenizer(program: Command): void {
  program
    .command('tokenizer')
    .description('make a byte-level BPE tokenizer from the texts of synthetic samples')
    .requiredOption('-o, --out <dir>', 'folder for tokenizer.json and tokenizer_config.json')
    .option('--size <n>', 'ids at most', positive, 1024)
    .option('--samples <n>', 'samples of each category to count words in', positive, 1000)
    .action(run);
}

async function run({ out, size, samples }: Flags): Promise<void> {
  const { CATEGORIES, sampleAt } = await import('../data/synth/index.ts');
  const { makeTokenizer } = await import('../data/bpe.ts');
  const { writeJson } = await import('../checkpoint/newFolder.ts');
  const texts = CATEGORIES.flatMap((category) =>
    Array.from({ length: samples }, (_, i) => sampleAt(category, 'train', 0, i).turns).flatMap((turns) =>
      turns.flatMap(({ question, answer }) => [question, answer]),
    ),
  );
  const made = makeTokenizer(texts, size);
  await mkdir(out, { recursive: true });
  await writeJson(path.join(out, 'tokenizer.json'), made.tokenizer);
  await writeJson(path.join(out, 'tokenizer_config.json'), made.config);
}
