/**
 * Encode, prefill, loss + gradients, answers and whole training steps against eager PyTorch (float32, CPU) on the three
 * sizes of `shapes.ts`, with random weights. Prints medians and the ratio PyTorch / ours of neighbouring runs: above 1, ours is
 * faster. Needs a Python with torch and the folder with the PyTorch model.
 */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { median } from '../src/common/median.ts';
import { expectedTensors } from '../src/model/weights.ts';
import { judge } from './judge.ts';
import { alternate, alternateAlone, type Command } from './peers.ts';
import { benchShape, SHAPE_NAMES, type ShapeName } from './shapes.ts';

export const PEER_USAGE =
  '[--python python3] [--oracle ../shared/oracle] [--sizes tiny,mid,real-layers] [--runs 7] [--threads 2]';
export const RECOMPUTE_USAGE = '[--sizes mid] [--runs 3] [--threads 2]';
export const FORWARD_USAGE = `${PEER_USAGE} [--modes encode,prefill,gradients,first-token,decode]`;

const HERE = path.dirname(fileURLToPath(import.meta.url));

interface ForwardOptions {
  readonly python: string;
  readonly oracle: string;
  readonly sizes: readonly string[];
  readonly modes: readonly string[];
  readonly runs: number;
  readonly threads: string;
}

function parse(args: readonly string[], modes: string): ForwardOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      python: { type: 'string', default: 'python3' },
      oracle: { type: 'string', default: path.join(HERE, '../../shared/oracle') },
      sizes: { type: 'string', default: SHAPE_NAMES.join(',') },
      modes: { type: 'string', default: modes },
      runs: { type: 'string', default: '7' },
      threads: { type: 'string', default: '2' },
    },
  });
  return {
    ...values,
    sizes: values.sizes.split(','),
    modes: values.modes.split(','),
    runs: Number(values.runs),
  };
}

function commands(size: string, mode: string, o: ForwardOptions): readonly [Command, Command] {
  const theirs = [path.join(HERE, 'torchPeer.py'), o.oracle, size, mode, o.threads];
  const recompute = mode === 'train' && size === 'real-layers' ? ['recompute'] : [];
  return [ours(size, mode, o, ...recompute), [o.python, theirs]];
}

function ours(size: string, mode: string, { threads }: ForwardOptions, ...options: string[]): Command {
  return [
    process.execPath,
    ['--import', 'tsx', path.join(HERE, 'modelCase.ts'), size, mode, threads, ...options],
  ];
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

/** Encode, prefill, loss + gradients, the time to an answer's first token, and 16 tokens after it. */
export const benchForward = (args: readonly string[]): Promise<void> =>
  benchModes(parse(args, 'encode,prefill,gradients,first-token,decode'));

/**
 * Training steps, the optimizer's included; of the released sizes as the published stages train them, with layers computed
 * again in the backward pass.
 */
export const benchTrain = (args: readonly string[]): Promise<void> => benchModes(parse(args, 'train'));

/**
 * Loss and gradients with all layers' values kept and with layers computed again: seconds, the peak, and what of it is
 * activations: neither what was resident before (weights, the program) nor the gradients, which are there twice when a run
 * ends: where they were computed, in memory that is kept for the next run, and as the arrays that are given back.
 */
export async function benchRecompute(args: readonly string[]): Promise<void> {
  const options = parse(['--sizes', 'mid', '--runs', '3', ...args], 'gradients');
  console.log('size         layers     seconds    peak       activations');
  for (const size of options.sizes) {
    const command = (...more: string[]) => ours(size, 'gradients', options, ...more);
    const results = await alternate([command(), command('recompute')], options.runs);
    const gradients = 2 * weightBytes(size);
    const activations = results.map(({ peakBytes, residentBytes }) => peakBytes - residentBytes - gradients);
    for (const [i, { seconds, peakBytes }] of results.entries()) {
      const cells = [size.padEnd(13), (i === 0 ? 'kept' : 'recomputed').padEnd(11)];
      cells.push(`${median(seconds).toFixed(3)} s`.padEnd(11), gigabytes(peakBytes).padEnd(11));
      console.log(cells.join('') + gigabytes(activations[i] ?? Number.NaN));
    }
    const ratio = (activations[1] ?? Number.NaN) / (activations[0] ?? Number.NaN);
    judge('activations, recomputed / kept', ratio.toFixed(2), '<= 0.5', ratio <= 0.5);
  }
}

/** All weights in f32. */
function weightBytes(size: string): number {
  const shapes = [...expectedTensors(benchShape(size as ShapeName).config).values()];
  return shapes.reduce((sum, shape) => sum + 4 * shape.reduce((a, b) => a * b, 1), 0);
}

/** Runs every size and mode asked for and prints a row for each. */
async function benchModes(options: ForwardOptions): Promise<void> {
  console.log('size         mode         ours       PyTorch    PyTorch/ours  peak ours  peak PyTorch');
  for (const size of options.sizes) {
    for (const mode of options.modes) {
      const run = mode === 'train' && size === 'real-layers' ? alternateAlone : alternate;
      const [ours, theirs] = await run(commands(size, mode, options), options.runs);
      const ratios = ours.seconds.map((seconds, i) => (theirs.seconds[i] ?? Number.NaN) / seconds);
      const seconds = (values: readonly number[]) => `${median(values).toFixed(3)} s`.padEnd(11);
      console.log(
        size.padEnd(13) +
          mode.padEnd(13) +
          seconds(ours.seconds) +
          seconds(theirs.seconds) +
          median(ratios).toFixed(2).padEnd(14) +
          gigabytes(ours.peakBytes).padEnd(11) +
          gigabytes(theirs.peakBytes),
      );
    }
  }
}
