/**
 * A decoder of the same shapes and bits here and in llama.cpp: prompts and tokens a second, in turn. Needs a GGUF of
 * random weights and a folder where node-llama-cpp is installed; our side is a folder that `fusion convert` made.
 */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { median } from '../src/common/median.ts';
import { judge } from './judge.ts';

export const LLAMA_USAGE =
  '--model DIR --gguf FILE --peer FOLDER [--oracle ../shared/oracle] [--runs 5] [--prompt 871] [--threads 2]';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const WANTED = { prefill: 1, decode: 1.1 } as const;

/** Tokens a second. */
type Rates = Readonly<Record<keyof typeof WANTED, number>>;

/** Runs both in turn, each in a process of its own, and prints every run, the medians and the ratios' medians. */
export async function benchLlama(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      model: { type: 'string' },
      gguf: { type: 'string' },
      peer: { type: 'string' },
      oracle: { type: 'string', default: path.join(HERE, '../../shared/oracle') },
      runs: { type: 'string', default: '5' },
      prompt: { type: 'string', default: '871' },
      threads: { type: 'string', default: '2' },
    },
  });
  const { model, gguf, peer, oracle, prompt, threads } = values;
  if (model === undefined || gguf === undefined || peer === undefined) {
    throw new Error(`usage: npm run bench -- llama ${LLAMA_USAGE}`);
  }
  const script = path.resolve(oracle, 'peer_llamacpp.mjs');
  const ours: Rates[] = [];
  const theirs: Rates[] = [];
  console.log('tokens/s       prefill: ours   llama.cpp   decode: ours   llama.cpp');
  for (let i = 0; i < Number(values.runs); i++) {
    ours.push(await ourRates(model, prompt, threads));
    theirs.push(await theirRates(script, peer, [path.resolve(gguf), prompt, threads]));
    console.log(`run ${i + 1}`.padEnd(15) + row(ours[i], theirs[i]));
  }
  const middle = (all: readonly Rates[]): Rates => ({
    prefill: median(all.map(({ prefill }) => prefill)),
    decode: median(all.map(({ decode }) => decode)),
  });
  console.log('median'.padEnd(15) + row(middle(ours), middle(theirs)));
  const results = (['prefill', 'decode'] as const).map((phase) => {
    const ratio = median(ours.map((rates, i) => rates[phase] / (theirs[i]?.[phase] ?? Number.NaN)));
    return judge(
      `${phase}, ours / llama.cpp`,
      ratio.toFixed(2),
      `>= ${WANTED[phase]}`,
      ratio >= WANTED[phase],
    );
  });
  if (!results.every(Boolean)) process.exitCode = 1;
}

function row(ours: Rates | undefined, theirs: Rates | undefined): string {
  const cells = [ours?.prefill, theirs?.prefill, ours?.decode, theirs?.decode];
  const widths = [13, 12, 15, 12];
  return cells.map((rate, i) => (rate ?? Number.NaN).toFixed(2).padStart(widths[i] ?? 0)).join('');
}

async function output(args: readonly string[], folder: string): Promise<Record<string, unknown>> {
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: folder, maxBuffer: 2 ** 24 });
  return JSON.parse(stdout);
}

async function ourRates(model: string, prompt: string, threads: string): Promise<Rates> {
  const main = path.join(HERE, '../src/cli/main.ts');
  const options = ['--prompt-tokens', prompt, '--threads', threads, '--repeats', '1', '--quiet', '--json'];
  const command = ['--import', 'tsx', main, 'bench', '--model', path.resolve(model), ...options];
  const rates = await output(command, path.join(HERE, '..'));
  return { prefill: Number(rates.prefill_tokens_per_second), decode: Number(rates.decode_tokens_per_second) };
}

async function theirRates(script: string, peer: string, args: readonly string[]): Promise<Rates> {
  const rates = await output([script, ...args], path.resolve(peer));
  return { prefill: Number(rates.prefill_tokens_per_s), decode: Number(rates.decode_tokens_per_s) };
}
