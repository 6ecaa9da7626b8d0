/** `fusion train`: runs the stages of a configuration, from a checkpoint to a trained one. */
import { arch, cpus, platform } from 'node:os';
import { type Command, Option } from 'commander';
import { UserError } from '../common/errors.ts';
import type { MetricsRow } from '../train/metrics.ts';
import { findModel } from './modelName.ts';
import { positive } from './options.ts';

interface Flags {
  readonly config: string;
  readonly base: string;
  readonly adapter?: string;
  readonly out: string;
  readonly stages?: string;
  readonly resume?: string;
  readonly allowChanges?: boolean;
  readonly checkData?: boolean;
  readonly device: 'auto' | 'cpu' | 'webgpu';
  readonly threads?: number;
  readonly quiet?: boolean;
}

/** As shells have it: 128 and the signal's number. A second signal ends the process at once. */
const STOP_CODES = [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const;

export function registerTrain(program: Command): void {
  program
    .command('train')
    .description('train the stages of a configuration')
    .requiredOption('-c, --config <file>', 'YAML with one stage or several')
    .requiredOption('-b, --base <dir>', 'checkpoint the first stage begins with: a folder or a hub id')
    .option('--adapter <file>', 'adapter-only checkpoint (mm_projector.bin) laid over the base')
    .requiredOption('-o, --out <dir>', "the run's folder")
    .option('--stages <list>', 'labels of the stages to run, such as 1,1.5,2 (default: all)')
    .option('--resume <last>', 'go on where the run stands')
    .option('--allow-changes', 'go on although the configuration changed')
    .option('--check-data', 'first walk the data sets and say what would be skipped, and why')
    .addOption(
      new Option('--device <name>', 'where to run').choices(['auto', 'cpu', 'webgpu']).default('auto'),
    )
    .option('--threads <n>', 'threads of the CPU kernels (default: all cores)', positive)
    .option('-q, --quiet', 'no log on the terminal')
    .action(run);
}

async function run(flags: Flags): Promise<void> {
  if (flags.resume !== undefined && flags.resume !== 'last') {
    throw new UserError(`resume: expected last, got ${flags.resume}`);
  }
  const base = await findModel(flags.base, flags.quiet);
  const adapter = flags.adapter === undefined ? undefined : await findModel(flags.adapter, flags.quiet);
  const { openDevice } = await import('../runtime/device.ts');
  const { trainStages } = await import('../train/runStages.ts');
  const device = await openDevice(
    flags.device,
    flags.threads === undefined ? {} : { threads: flags.threads },
  );
  const stop = new AbortController();
  for (const [signal, code] of STOP_CODES) process.once(signal, () => stop.abort(code));
  try {
    const checkpoint = await trainStages({
      device,
      configFile: flags.config,
      labels: flags.stages?.split(','),
      base,
      adapter,
      out: flags.out,
      resume: flags.resume !== undefined,
      allowChanges: flags.allowChanges,
      signal: stop.signal,
      ...(flags.checkData ? { onCheck: printLine } : {}),
      ...(flags.quiet ? {} : { onLog: printRow }),
      environment: {
        machine: `${platform()} ${arch()}, ${cpus().length} × ${cpus()[0]?.model.trim() ?? 'CPU'}`,
        node: process.version,
        command: ['fusion', ...process.argv.slice(2)].join(' '),
      },
    });
    console.log(checkpoint);
    if (stop.signal.aborted) {
      process.stderr.write('stopped and saved; go on with --resume last\n');
      process.exitCode = Number(stop.signal.reason);
    }
  } finally {
    await device.close();
  }
}

function printLine(line: string): void {
  process.stderr.write(`${line}\n`);
}

function printRow(row: MetricsRow, totalSteps: number): void {
  const left = row.step === 0 ? 0 : (row.seconds / row.step) * (totalSteps - row.step);
  const parts = [
    `step ${row.step}/${totalSteps}`,
    `loss ${row.loss.toFixed(4)}`,
    `(ce ${row.cross_entropy.toFixed(4)} text ${row.text_loss.toFixed(4)} vision ${row.vision_loss.toFixed(4)})`,
    `rate ${row.learning_rate.toExponential(2)}`,
    `grad ${row.grad_norm.toFixed(3)}`,
    `${row.samples_per_s.toFixed(1)} samples/s`,
    `${Math.round(row.tokens_per_s)} tokens/s`,
    `${Math.ceil(left / 60)} min left`,
  ];
  process.stderr.write(`${parts.join('  ')}\n`);
}
