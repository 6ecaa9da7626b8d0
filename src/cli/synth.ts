/**
 * `fusion synth`: writes synthetic pictures with captions and questions, as a LLaVA data set. Knows only how to
 * read its options and say what was done.
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { UserError } from '../common/errors.ts';
import type { Category, Split } from '../data/synth/index.ts';
import { note, screenProgress } from './screen.ts';

interface SynthFlags {
  readonly out: string;
  readonly categories: string;
  readonly count: number;
  readonly seed: number;
  readonly split: Split;
  readonly size?: number;
  readonly minObjects?: number;
  readonly maxObjects?: number;
  readonly shapes?: number;
  readonly colours?: number;
  readonly extraTurns?: number;
  readonly single?: boolean;
  readonly words: boolean;
  readonly textures: boolean;
  readonly overlaps: boolean;
  readonly quiet?: boolean;
}

const HELP = `
Categories:
  Stage 1         SynthColor, SynthCount, SynthSpatial, SynthScene, SynthText
  Stages 1.5, 2   MultiChoice, ConvShort, ConvLong, ContrastShort, ContrastLong, Reasoning, TextQA

Examples:
  fusion synth --out data/synth --categories all --count 1000
  fusion synth --out data/easy --categories SynthColor,SynthCount --count 5000 --max-objects 3 --no-textures

A run that was stopped is continued by the same command.`;

export function registerSynth(program: Command): void {
  program
    .command('synth')
    .description('make synthetic pictures with captions and questions, as a data set to train on')
    .requiredOption('-o, --out <dir>', 'folder to write to')
    .option('--categories <names>', 'all, or names separated by commas', 'all')
    .option('--count <n>', 'samples of each category', integer, 1000)
    .option('--seed <n>', 'the same seed gives the same samples', integer, 0)
    .addOption(
      new Option('--split <name>', 'test samples are never among the training samples')
        .choices(['train', 'test'])
        .default('train'),
    )
    .option('--size <px>', 'side of the pictures, in pixels (default: 192)', integer)
    .option('--min-objects <n>', 'fewest objects of a picture (default: 2)', integer)
    .option('--max-objects <n>', 'most objects of a picture, up to 5 (default: 5)', integer)
    .option('--shapes <n>', 'how many different shapes occur, 2 to 8 (default: 8)', integer)
    .option('--colours <n>', 'how many different colours occur, 2 to 8 (default: 8)', integer)
    .option('--no-words', 'no words but in the categories about words')
    .option('--no-textures', 'plain objects only')
    .option('--no-overlaps', 'no object covers another')
    .option(
      '--extra-turns <n>',
      'up to so many questions more about each picture, 0 to 8 (default: 0)',
      integer,
    )
    .option('--single', 'one turn of each sample alone, whichever')
    .option('-q, --quiet', 'no progress, no summary')
    .addHelpText('after', HELP)
    .action(synth);
}

async function synth(flags: SynthFlags): Promise<void> {
  const { writeDataset } = await import('../data/synth/index.ts');
  const { out, count, seed, split, size, words, textures, overlaps, single = false, quiet = false } = flags;
  const { minObjects, maxObjects, shapes, colours, extraTurns } = flags;
  const given = Object.entries({ minObjects, maxObjects, shapes, colours, extraTurns });
  const numbers = Object.fromEntries(given.filter(([, value]) => value !== undefined));
  const progress = screenProgress(quiet);
  const start = performance.now();
  const { samples, kept } = await writeDataset({
    out,
    categories: await readCategories(flags.categories),
    count,
    seed,
    split,
    ...(size === undefined ? {} : { size }),
    options: { words, textures, overlaps, single, ...numbers },
    onProgress: (file, done, total) => progress({ phase: 'convert', unit: 'tiles', file, done, total }),
  }).finally(() => progress.end());
  if (quiet) return;
  const minutes = (performance.now() - start) / 60_000;
  const rate = Math.round(samples / minutes);
  note(`${samples} samples in ${out} (${rate} a minute, ${kept} pictures were there)`);
}

async function readCategories(text: string): Promise<readonly Category[]> {
  const { CATEGORIES } = await import('../data/synth/index.ts');
  if (text === 'all') return CATEGORIES;
  return text.split(',').map((part) => {
    const name = part.trim();
    const known = CATEGORIES.find((category) => category === name);
    if (known !== undefined) return known;
    throw new UserError(`categories: expected all or some of ${CATEGORIES.join(', ')}, got '${name}'`);
  });
}

function integer(text: string): number {
  if (/^[+-]?\d+$/.test(text) && Number.isSafeInteger(Number(text))) return Number(text);
  throw new InvalidArgumentError('Expected an integer.');
}
