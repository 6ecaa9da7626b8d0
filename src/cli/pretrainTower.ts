/** `fusion pretrain-tower`: gives the vision tower of a model of random weights eyes, on synthetic scenes. */
import { type Command, InvalidArgumentError } from 'commander';
import { integer, positive } from './options.ts';

interface Flags {
  readonly base: string;
  readonly out: string;
  readonly steps: number;
  readonly batchSize: number;
  readonly learningRate: number;
  readonly seed: number;
  readonly projector?: boolean;
  readonly question?: boolean;
  readonly single?: boolean;
  readonly weights: Readonly<Record<string, number>>;
  readonly logEvery: number;
  readonly threads?: number;
  readonly quiet?: boolean;
}

export function registerPretrainTower(program: Command): void {
  program
    .command('pretrain-tower')
    .description('teach the vision tower of a random model what patches show, before it meets language')
    .requiredOption('-b, --base <dir>', 'model to begin with')
    .requiredOption('-o, --out <dir>', 'folder for the model with the trained tower')
    .option('--steps <n>', 'optimizer steps', positive, 2000)
    .option('--batch-size <n>', 'pictures of a step', positive, 16)
    .option('--learning-rate <rate>', 'peak of the cosine', rate, 1e-3)
    .option('--seed <n>', 'the same seed gives the same weights', integer, 0)
    .option('--projector', 'ask of what the projector makes, and teach it too')
    .option(
      '--question',
      'the same, and show the whole picture with a question, whose way into the tower learns too',
    )
    .option('--single', 'one question of each picture, not a conversation')
    .option('--weights <list>', 'questions of patches that count more, as shape=3,meant=2', weightsOf, {})
    .option('--log-every <n>', 'steps between lines', positive, 50)
    .option('--threads <n>', 'threads of the CPU kernels (default: all cores)', positive)
    .option('-q, --quiet', 'no log on the terminal')
    .action(run);
}

async function run({
  threads,
  quiet,
  projector,
  question,
  single = false,
  ...options
}: Flags): Promise<void> {
  const { pretrainTower } = await import('../train/pretrainTower.ts');
  const { openDevice } = await import('../runtime/device.ts');
  const { findModel } = await import('./modelName.ts');
  const base = await findModel(options.base, quiet);
  const device = await openDevice('cpu', threads === undefined ? {} : { threads });
  const began = performance.now();
  const print = (step: number, losses: Readonly<Record<string, number>>) => {
    const pictures = (step * options.batchSize * 1e3) / (performance.now() - began);
    const parts = Object.entries(losses).map(([name, value]) => `${name} ${value.toFixed(3)}`);
    process.stdout.write(
      `step ${step}/${options.steps}  ${parts.join('  ')}  ${pictures.toFixed(1)} pictures/s\n`,
    );
  };
  try {
    const asked = question ? 'question' : projector ? 'projector' : 'tower';
    await pretrainTower({ ...options, asked, single, base, device, ...(quiet ? {} : { onLog: print }) });
  } finally {
    await device.close();
  }
}

function rate(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value < 1))
    throw new InvalidArgumentError(`expected a rate between 0 and 1, got ${text}`);
  return value;
}

function weightsOf(text: string): Record<string, number> {
  const pairs = text.split(',').map((part) => {
    const [, name, weight] = /^(\w+)=(\d+(?:\.\d+)?)$/.exec(part.trim()) ?? [];
    if (name === undefined) throw new InvalidArgumentError(`expected name=weight, got "${part}"`);
    return [name, Number(weight)] as const;
  });
  return Object.fromEntries(pairs);
}
