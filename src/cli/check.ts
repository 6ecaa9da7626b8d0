/**
 * `fusion check`: compares a checkpoint with the expected values stored beside it (`cases.json`,
 * `cases.safetensors`), one line for each case and group of quantities. For those who port or convert checkpoints.
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Outcome } from '../verify/compare.ts';
import { findModel } from './modelName.ts';
import { screenProgress } from './screen.ts';

interface CheckFlags {
  readonly tolerance: number;
  readonly json?: boolean;
  readonly device: 'auto' | 'cpu' | 'webgpu';
  readonly threads?: number;
  readonly quiet?: boolean;
}

const FAILED = 1;

const HELP = `
A deviation is given with what is allowed: "worst 4.0e-7 of 1e-3 (sample 1)" is far within. Exit code 0 when all is
within its tolerance, 1 when something is over it or could not be run, 2 when files are missing or broken.

Examples:
  fusion check DIR
  fusion check DIR --tolerance 100     for a checkpoint that was rounded to fewer bits`;

/** Adds the command to `program`. */
export function registerCheck(program: Command): void {
  program
    .command('check')
    .description('compare a checkpoint with the expected values stored beside it')
    .argument('<dir>', 'folder or hub id of the checkpoint, with cases.json and cases.safetensors')
    .option('--tolerance <factor>', 'multiply every tolerance by this factor', factor, 1)
    .addOption(
      new Option('--device <name>', 'where to run').choices(['auto', 'cpu', 'webgpu']).default('auto'),
    )
    .option('--threads <n>', 'threads of the CPU kernels (default: all cores)', Number)
    .option('--json', 'one JSON object')
    .option('-q, --quiet', 'no progress, and only lines of what is wrong')
    .addHelpText('after', HELP)
    .action(check);
}

async function check(model: string, flags: CheckFlags): Promise<void> {
  const dir = await findModel(model, flags.quiet);
  const { openDevice } = await import('../runtime/device.ts');
  const { checkCheckpoint } = await import('../verify/check.ts');
  const { describeOutcome } = await import('../verify/compare.ts');
  const device = await openDevice(
    flags.device,
    flags.threads === undefined ? {} : { threads: flags.threads },
  );
  const progress = screenProgress(flags.quiet ?? false);
  const onOutcome = (outcome: Outcome) => {
    progress.end();
    const wanted = !flags.quiet || outcome.status === 'over' || outcome.status === 'failed';
    if (!flags.json && wanted) process.stdout.write(`${describeOutcome(outcome, NAME_WIDTH)}\n`);
  };
  try {
    const options = { tolerance: flags.tolerance, onOutcome, onProgress: progress };
    const { passed, outcomes } = await checkCheckpoint(device, dir, options);
    const counts = countStatuses(outcomes);
    if (flags.json) {
      process.stdout.write(`${JSON.stringify({ dir, passed, outcomes }, undefined, 2)}\n`);
    } else if (!flags.quiet) {
      process.stdout.write(`${passed ? 'passed' : 'FAILED'}: ${counts}\n`);
    }
    if (!passed) process.exitCode = FAILED;
  } finally {
    progress.end();
    await device.close();
  }
}

/** Wide enough for the names of the usual cases, so that lines that come one by one line up. */
const NAME_WIDTH = 'two_turns_padded_batch'.length;

/** `22 ok, 1 over tolerance, 2 not checked`. */
function countStatuses(outcomes: readonly Outcome[]): string {
  const words = { ok: 'ok', over: 'over tolerance', failed: 'failed', unchecked: 'not checked' } as const;
  return Object.entries(words)
    .map(([status, word]) => ({ n: outcomes.filter((o) => o.status === status).length, word }))
    .filter(({ n, word }) => n > 0 || word === 'ok')
    .map(({ n, word }) => `${n} ${word}`)
    .join(', ');
}

function factor(text: string): number {
  const value = Number(text);
  if (text.trim() !== '' && value > 0 && Number.isFinite(value)) return value;
  throw new InvalidArgumentError('Expected a factor above 0.');
}
