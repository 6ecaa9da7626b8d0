/**
 * Whether memory stays where it is: the resident set over many answers of one model, and over a model that is loaded
 * and unloaded again and again. Each in a process of its own. Prints the series and a verdict; the exit code is 1 where
 * memory grows.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { median } from '../src/common/median.ts';
import { judge } from './judge.ts';
import type { Memory, SoakOptions } from './soakCase.ts';

export const SOAK_USAGE =
  '--model DIR [--answers 50] [--loads 10] [--tokens 32] [--threads 2] [--weights int4|int8] [--image FILE]';

const HERE = path.dirname(fileURLToPath(import.meta.url));
/** Rounds before memory is compared: programs are compiled, caches filled. */
const WARM_UP = { answers: 20, loads: 3 } as const;
/** What memory may differ by. */
const TOLERANCE = 0.03;

type Kind = keyof typeof WARM_UP;

/** Watches both series; a count of 0 leaves one out. */
export async function benchSoak(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      model: { type: 'string' },
      answers: { type: 'string', default: '50' },
      loads: { type: 'string', default: '10' },
      tokens: { type: 'string', default: '32' },
      threads: { type: 'string', default: '2' },
      weights: { type: 'string' },
      image: { type: 'string', default: path.join(HERE, '../examples/scene.png') },
    },
  });
  const { model, image } = values;
  if (model === undefined) throw new Error(`usage: npm run bench -- soak ${SOAK_USAGE}`);
  const weights = values.weights as SoakOptions['weights'];
  const [tokens, threads] = [Number(values.tokens), Number(values.threads)];
  const series = async (kind: Kind): Promise<boolean> => {
    const count = Number(values[kind]);
    if (count === 0) return true;
    const rounds = WARM_UP[kind] + count;
    return verdict(kind, await watch(kind, { model, image, weights, tokens, threads, rounds }));
  };
  const results = [await series('answers'), await series('loads')];
  if (!results.every(Boolean)) process.exitCode = 1;
}

/** Runs a process and gives its memory after each round; prints as it goes. */
async function watch(kind: Kind, options: SoakOptions): Promise<readonly Memory[]> {
  console.log(`${kind}, in MB      resident  anonymous  files  heap  arrays`);
  const command = ['--import', 'tsx', path.join(HERE, 'soakCase.ts'), kind, JSON.stringify(options)];
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  const all: Memory[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    const memory = JSON.parse(line) as Memory;
    all.push(memory);
    console.log(row(all.length - WARM_UP[kind], memory));
  }
  const [code] = await ended;
  if (code !== 0) throw new Error(`the process ended with exit code ${code}`);
  return all.slice(WARM_UP[kind]);
}

function row(round: number, { resident, anonymous, files, heap, arrays }: Memory): string {
  const name = round > 0 ? `${round}` : `${round} (warm-up)`;
  const cells = [resident, anonymous, files, heap, arrays].map((bytes) =>
    (bytes / 1e6).toFixed(1).padStart(9),
  );
  return `${name.padEnd(14)}${cells.join('')}`;
}

/** Answers: all near their median. Loads: the last third no more than the first. */
function verdict(kind: Kind, all: readonly Memory[]): boolean {
  const resident = all.map((memory) => memory.resident);
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  if (kind === 'answers') {
    const middle = median(resident);
    const furthest = Math.max(...resident.map((bytes) => Math.abs(bytes / middle - 1)));
    const what = 'answers: furthest from the median';
    return judge(what, percent(furthest), `<= ${percent(TOLERANCE)}`, furthest <= TOLERANCE);
  }
  const third = Math.ceil(resident.length / 3);
  const growth = median(resident.slice(-third)) / median(resident.slice(0, third)) - 1;
  return judge(
    'loads: last third over the first',
    percent(growth),
    `<= ${percent(TOLERANCE)}`,
    growth <= TOLERANCE,
  );
}
