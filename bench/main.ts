/** `npm run bench -- NAME [options]`: the project's benchmarks. Without a name: the list. */
import { benchLlama, LLAMA_USAGE } from './llama.ts';
import {
  benchForward,
  benchRecompute,
  benchTrain,
  FORWARD_USAGE,
  PEER_USAGE,
  RECOMPUTE_USAGE,
} from './model.ts';
import { benchResume, RESUME_USAGE } from './resume.ts';
import { benchServe, SERVE_USAGE } from './serve.ts';
import { benchSoak, SOAK_USAGE } from './soak.ts';

const BENCHMARKS: Readonly<
  Record<string, { usage: string; run: (args: readonly string[]) => Promise<void> }>
> = {
  forward: { usage: FORWARD_USAGE, run: benchForward },
  train: { usage: PEER_USAGE, run: benchTrain },
  recompute: { usage: RECOMPUTE_USAGE, run: benchRecompute },
  llama: { usage: LLAMA_USAGE, run: benchLlama },
  serve: { usage: SERVE_USAGE, run: benchServe },
  soak: { usage: SOAK_USAGE, run: benchSoak },
  resume: { usage: RESUME_USAGE, run: benchResume },
};

const [name = '', ...args] = process.argv.slice(2);
const benchmark = BENCHMARKS[name];
if (benchmark === undefined || args.includes('--help')) {
  const lines = Object.entries(BENCHMARKS).map(([key, { usage }]) => `  npm run bench -- ${key} ${usage}`);
  console.log(`benchmarks:\n${lines.join('\n')}`);
  process.exitCode = benchmark === undefined && name !== '' ? 2 : 0;
} else {
  await benchmark.run(args);
}
