/**
 * `fusion serve` under load, in a process of its own: one client against many, fairness, the event loop's delay, and
 * clients that leave at random. Prints what it measured beside what is wanted; the exit code is 1 where one misses.
 */
import { parseArgs } from 'node:util';
import { median } from '../src/common/median.ts';
import { Random } from '../src/common/random.ts';
import { renderPng, sampleAt } from '../src/data/synth/index.ts';
import { judge } from './judge.ts';
import { type Asked, askMany, type ManyResult, type ServedProcess, startServing } from './serveClient.ts';

export const SERVE_USAGE =
  '--model DIR [--clients 16] [--rounds 5] [--answers 12] [--pictures 64] [--tokens 64] [--requests 1000] [--leaving 0.3] [--threads N] [--seed N]';

/** Answers for each client before anything is measured. */
const WARM_UP = 4;
const WANTED = { speedup: 3, slowest: 2, delay: 0.05, growth: 1.1 } as const;

/** Starts a server, puts load on it and judges. */
export async function benchServe(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      model: { type: 'string' },
      clients: { type: 'string', default: '16' },
      rounds: { type: 'string', default: '5' },
      answers: { type: 'string', default: '12' },
      pictures: { type: 'string', default: '64' },
      tokens: { type: 'string', default: '64' },
      requests: { type: 'string', default: '1000' },
      leaving: { type: 'string', default: '0.3' },
      threads: { type: 'string' },
      seed: { type: 'string', default: '0' },
    },
  });
  if (values.model === undefined) throw new Error(`usage: npm run bench -- serve ${SERVE_USAGE}`);
  const [clients, rounds, answers, tokens, requests] = [
    values.clients,
    values.rounds,
    values.answers,
    values.tokens,
    values.requests,
  ].map(Number) as [number, number, number, number, number];
  const questions = await describePictures(Number(values.seed), Number(values.pictures), tokens);
  const threads = values.threads === undefined ? [] : ['--threads', values.threads];
  const options = ['--model', values.model, '--max-sequences', String(clients), ...threads];
  const server = await startServing(options);
  try {
    const speeds = await compareClients(server, { clients, rounds, answers }, questions);
    const random = new Random(values.seed);
    const memory = await disconnects(server, 2 * clients, requests, (number) => ({
      ...questions(number),
      ...(random.uniform() < Number(values.leaving) ? { leaveAfter: random.uniform() } : {}),
    }));
    if (!speeds || !memory) process.exitCode = 1;
  } finally {
    await server.stop();
  }
}

/** Asks for all that is in a scene, a long answer. Scenes take turns and come again, as pictures of conversations do. */
async function describePictures(
  seed: number,
  count: number,
  tokens: number,
): Promise<(number: number) => Asked> {
  const contents: unknown[] = [];
  for (let i = 0; i < count; i++) {
    const picture = await renderPng(sampleAt('SynthScene', 'test', seed, i).scene, 256);
    const url = `data:image/png;base64,${Buffer.from(picture).toString('base64')}`;
    const text = { type: 'text', text: 'Describe the picture.' };
    contents.push([text, { type: 'image_url', image_url: { url } }]);
  }
  return (number) => ({ content: contents[number % count], tokens });
}

interface Load {
  readonly clients: number;
  readonly rounds: number;
  /** Of each client in each round. */
  readonly answers: number;
}

/** One client and many take turns; true where speed, fairness and delay are as wanted. */
async function compareClients(
  server: ServedProcess,
  { clients, rounds, answers }: Load,
  questions: (number: number) => Asked,
): Promise<boolean> {
  let asked = 0;
  const ask = (count: number) => askMany(server, count, count * answers, () => questions(asked++));
  // Programs are compiled, and the code as well, before anything is measured.
  await askMany(server, clients, WARM_UP * clients, () => questions(asked++));
  const measured: Round[] = [];
  for (let round = 0; round < rounds; round++) {
    const one = speedOf(await ask(1));
    await server.metric(DELAY);
    const { times, ...many } = await ask(clients);
    const delay = await server.metric(DELAY);
    const mean = times.reduce((a, b) => a + b, 0) / times.length;
    measured.push({ one, many: speedOf(many), slowest: Math.max(...times) / mean, delay });
  }
  return judgeRounds(clients, measured);
}

/** Tokens a second of one client and of many, the slowest answer over the mean, and the event loop's delay in seconds. */
interface Round {
  readonly one: number;
  readonly many: number;
  readonly slowest: number;
  readonly delay: number;
}

/** Medians of the rounds, but the longest delay. */
function judgeRounds(clients: number, rounds: readonly Round[]): boolean {
  const speedups = rounds.map(({ one, many }) => many / one);
  const speedup = median(speedups);
  const slowest = median(rounds.map((round) => round.slowest));
  const delay = Math.max(...rounds.map((round) => round.delay));
  console.log(`1 client: ${median(rounds.map(({ one }) => one)).toFixed(1)} tokens/s`);
  console.log(`${clients} clients: ${median(rounds.map(({ many }) => many)).toFixed(1)} tokens/s`);
  const each = (values: readonly number[]) => values.map((value) => value.toFixed(2)).join(' ');
  console.log(`many over one, each round: ${each(speedups)}`);
  console.log(`slowest answer over mean, each round: ${each(rounds.map((round) => round.slowest))}`);
  const results = [
    judge('speed of many over one', speedup.toFixed(2), `>= ${WANTED.speedup}`, speedup >= WANTED.speedup),
    judge('slowest answer over mean', slowest.toFixed(2), `<= ${WANTED.slowest}`, slowest <= WANTED.slowest),
    judge('event loop delay p99', `${(1000 * delay).toFixed(1)} ms`, '<= 50 ms', delay <= WANTED.delay),
  ];
  return results.every(Boolean);
}

const DELAY = 'fusion_event_loop_delay_p99_seconds';
/** Tokens a second. */
const speedOf = ({ tokens, seconds }: Pick<ManyResult, 'tokens' | 'seconds'>) => tokens / seconds;

/** Many requests of which some leave; true where all places come back and the memory stays flat. */
async function disconnects(
  server: ServedProcess,
  clients: number,
  requests: number,
  draw: (number: number) => Asked,
): Promise<boolean> {
  const resident: number[] = [];
  let left = 0;
  // Programs are compiled and caches filled before memory is compared.
  await askMany(server, clients, Math.ceil(requests / 4), draw);
  for (let quarter = 0; quarter < 4; quarter++) {
    const result = await askMany(server, clients, Math.ceil(requests / 4), draw);
    left += result.left;
    resident.push(await server.metric('process_resident_memory_bytes'));
  }
  // Answers that nobody reads any more end at the next step.
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const running = await server.metric('fusion_requests_running');
  const waiting = await server.metric('fusion_requests_waiting');
  const growth = (resident[3] ?? 0) / (resident[0] ?? 1);
  console.log(`${4 * Math.ceil(requests / 4)} requests, ${left} left early`);
  console.log(
    `resident set after each quarter: ${resident.map((bytes) => `${(bytes / 1e6).toFixed(0)} MB`).join(', ')}`,
  );
  const results = [
    judge('answers under way at the end', String(running), '0', running === 0),
    judge('requests waiting at the end', String(waiting), '0', waiting === 0),
    judge(
      'memory, last quarter over first',
      growth.toFixed(2),
      `<= ${WANTED.growth}`,
      growth <= WANTED.growth,
    ),
  ];
  return results.every(Boolean);
}
