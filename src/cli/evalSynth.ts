/**
 * `fusion eval-synth`: generated test questions, marked. Knows only how to read its options and to print scores.
 */

import { writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { type Command, InvalidArgumentError } from 'commander';
import { messageOf, UserError } from '../common/errors.ts';
import type { Score } from '../eval/score.ts';
import type { EvalReport } from '../eval/synth.ts';
import { addModelOptions, loadOptions, type ModelFlags, modelFolder, positive } from './options.ts';
import { note, screenProgress } from './screen.ts';

type Flags = ModelFlags & {
  readonly count: number;
  readonly seed: number;
  readonly plain?: boolean;
  readonly blank?: boolean;
  readonly json?: boolean;
  readonly out?: string;
  readonly card?: boolean;
};

const HELP = `
An answer is right when it is the expected text, apart from spaces around it, upper and lower case and a period at
the end. "blind" is what the best constant answer to each kind of question would reach.

Examples:
  fusion eval-synth --model models/tiny
  fusion eval-synth --model models/tiny --count 200 --blank --out scores.json`;

export function registerEvalSynth(program: Command): void {
  const command = program
    .command('eval-synth')
    .description('ask questions about generated pictures never trained on, and mark the answers');
  addModelOptions(command)
    .option('--count <n>', 'questions', positive, 1000)
    .option('--seed <n>', 'the same seed asks the same questions', natural, 0)
    .option('--plain', 'scenes of one to three objects without textures and overlaps: for small comparisons')
    .option('--blank', 'ask once more with grey pictures: what a model that does not look would reach')
    .option('--json', 'print the report as JSON')
    .option('-o, --out <file>', 'write the report with every answer to this file')
    .option('--card', "put the scores into the model's card")
    .addHelpText('after', HELP)
    .action(run);
}

async function run(flags: Flags): Promise<void> {
  const dir = await modelFolder(flags);
  const { loadModel } = await import('../generate/model.ts');
  const { evalSynth } = await import('../eval/synth.ts');
  const onProgress = screenProgress(flags.quiet ?? false);
  // Questions are answered in large batches, which keep all cores busy.
  const threads = flags.threads ?? availableParallelism();
  const options = { ...loadOptions(flags, onProgress), threads };
  const model = await loadModel(dir, options).finally(() => onProgress.end());
  const { count, seed, plain } = flags;
  const reports: EvalReport[] = [];
  const start = performance.now();
  try {
    for (const blank of flags.blank ? [false, true] : [false]) {
      reports.push(await evalSynth(model, { count, seed, plain, blank, onProgress }));
    }
  } finally {
    onProgress.end();
    await model.dispose();
  }
  if (!flags.quiet) sayRate((count * reports.length) / ((performance.now() - start) / 60_000));
  const short = reports.map(({ answers: _answers, ...scores }) => scores);
  process.stdout.write(flags.json ? json({ model: dir, reports: short }) : table(reports));
  if (flags.out !== undefined) await writeReport(flags.out, { model: dir, reports });
  if (flags.card) await writeToCard(dir, flags, reports);
}

async function writeToCard(
  dir: string,
  { count, seed, plain }: Flags,
  reports: readonly EvalReport[],
): Promise<void> {
  const { writeScores } = await import('../train/modelCard.ts');
  const [columns, ...rows] = scoreRows(reports, ['categories']);
  const note = `Per cent right of ${count} generated questions about pictures never trained on: fusion eval-synth --seed ${seed} --count ${count}${plain ? ' --plain' : ''}.`;
  await writeScores(dir, { columns: columns ?? [], rows: rows.filter(({ length }) => length > 0), note });
}

const sayRate = (perMinute: number): void => note(`${Math.round(perMinute)} questions a minute`);

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

async function writeReport(file: string, report: unknown): Promise<void> {
  await writeFile(file, json(report)).catch((error: unknown) => {
    throw new UserError(`${file}: expected a file to write to, got an error: ${messageOf(error)}`);
  });
}

const WIDTHS = [18, 10, 9, 15, 8, 9] as const;

function table(reports: readonly EvalReport[]): string {
  return `${scoreRows(reports, ['categories', 'kinds']).map(line).join('\n')}\n`;
}

/** Header, overall, then the groups, an empty row before each; the last column where grey pictures were asked about. */
function scoreRows(
  [seen, blank]: readonly EvalReport[],
  groups: readonly ('categories' | 'kinds')[],
): readonly (readonly string[])[] {
  if (seen === undefined) return [];
  const group = (part: 'categories' | 'kinds') => [
    [],
    ...Object.entries(seen[part]).map(([name, score]) => cells(name, score, blank?.[part][name])),
  ];
  return [
    ['', 'questions', 'right', '95 % interval', 'blind', ...(blank ? ['grey'] : [])],
    cells('overall', seen.overall, blank?.overall),
    ...groups.flatMap(group),
  ];
}

function cells(name: string, score: Score, blank: Score | undefined): string[] {
  const interval = `${percent(score.low)} to ${percent(score.high)}`;
  const grey = blank === undefined ? [] : [percent(blank.accuracy)];
  return [name, String(score.questions), percent(score.accuracy), interval, percent(score.blind), ...grey];
}

const percent = (share: number): string => (100 * share).toFixed(1);

function line(columns: readonly string[]): string {
  return columns
    .map((cell, i) => (i === 0 ? cell.padEnd(WIDTHS[0]) : cell.padStart(WIDTHS[i] ?? 0)))
    .join('');
}

function natural(text: string): number {
  if (/^\d+$/.test(text) && Number.isSafeInteger(Number(text))) return Number(text);
  throw new InvalidArgumentError('Expected an integer from 0.');
}
