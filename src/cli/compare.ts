/**
 * `fusion compare`: how far two models are apart, for instance a checkpoint and what it was converted to. Knows only
 * how to read its options and to print the figures.
 */
import type { Command } from 'commander';
import type { Comparison } from '../eval/compare.ts';
import { findModel } from './modelName.ts';
import { addDeviceOptions, integer, loadOptions, type ModelFlags, positive } from './options.ts';
import { note, screenProgress } from './screen.ts';

type Flags = ModelFlags & {
  readonly data?: string;
  readonly limit?: number;
  readonly seed: number;
  readonly json?: boolean;
};

/** Generated questions where there is no data set and nobody says how many. */
const QUESTIONS = 200;

const HELP = `
Both models read conversations with known answers. Measured at each token of the answers: the divergence
KL(A || B) of the distributions of the next token, in nats, and whether both find the same token the likeliest.
An answer is exact when each of its tokens is the likeliest, as greedy decoding would give it. Both models are in
memory at once.

Examples:
  fusion compare models/tiny /tmp/tiny-int4
  fusion compare models/FUSION-X-Phi3.5-3B models/FUSION-X-Phi3.5-3B-int4 --data data.json --limit 100`;

export function registerCompare(program: Command): void {
  const command = program
    .command('compare')
    .description('measure how far two models with one tokenizer are apart')
    .argument('<a>', 'folder or hub id of a model')
    .argument('<b>', 'folder or hub id of the other')
    .option('--data <file>', "a data set in LLaVA's format (JSON, JSONL or YAML); else generated questions")
    .option(
      '--limit <n>',
      `samples at most (default: all of the data, ${QUESTIONS} generated questions)`,
      positive,
    )
    .option('--seed <n>', 'the same seed generates the same questions', integer, 0)
    .option('--json', 'print the figures as JSON');
  addDeviceOptions(command).addHelpText('after', HELP).action(run);
}

async function run(nameA: string, nameB: string, flags: Flags): Promise<void> {
  const { loadModel } = await import('../generate/model.ts');
  const { compareModels } = await import('../eval/compare.ts');
  const { datasetSamples, questionSamples } = await import('../eval/compareSamples.ts');
  const { data, limit, seed, quiet = false } = flags;
  const list =
    data === undefined ? questionSamples(limit ?? QUESTIONS, seed) : await datasetSamples(data, limit);
  const onProgress = screenProgress(quiet);
  const load = async (name: string) =>
    loadModel(await findModel(name, quiet), loadOptions(flags, onProgress));
  try {
    const a = await load(nameA);
    try {
      const b = await load(nameB);
      try {
        const report = await compareModels(a, b, list, onProgress);
        onProgress.end();
        if (report.firstSkip !== undefined && !quiet)
          note(`${report.skipped} samples skipped: ${report.firstSkip}`);
        process.stdout.write(flags.json ? `${JSON.stringify(report, undefined, 2)}\n` : described(report));
      } finally {
        await b.dispose();
      }
    } finally {
      await a.dispose();
    }
  } finally {
    onProgress.end();
    await list.close();
  }
}

function described(report: Comparison): string {
  const { samples, positions, klDivergence, top1Agreement, a, b, lost, gained } = report;
  const percent = (share: number) => `${(100 * share).toFixed(2)}%`;
  return `${[
    `samples              ${samples}, with ${positions} answer tokens`,
    `KL(A || B)           ${klDivergence.toExponential(3)} nats a token`,
    `top-1 agreement      ${percent(top1Agreement)}`,
    `exact answers        A ${percent(a.exactMatch)}, B ${percent(b.exactMatch)}: ${lost} lost, ${gained} gained`,
    `loss                 A ${a.crossEntropy.toFixed(4)}, B ${b.crossEntropy.toFixed(4)}`,
  ].join('\n')}\n`;
}
