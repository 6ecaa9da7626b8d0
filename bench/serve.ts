/**
 * `fusion serve` under load, in a process of its own: one client against many, fairness, the event loop's delay, and
 * clients that leave at random. Prints what it measured beside what is wanted; the exit code is 1 where one misses.
 */
import { parseArgs } from 'node:util';
import { Random } from '../src/common/random.ts';
import { renderPng, sampleAt } from '../src/data/synth/index.ts';
import { judge } from './judge.ts';
import { type Asked, askMany, type ServedProcess, startServing } from './serveClient.ts';

export const SERVE_USAGE =
  '--model DIR [--clients 16] [--answers 8] [--tokens 64] [--requests 1000] [--leaving 0.3] [--threads N] [--seed N]';

const PICTURES = 64;
const WANTED = { speedup: 3, slowest: 2, delay: 0.05, growth: 1.1 } as const;

/** Starts a server, puts load on it and judges. */
export async function benchServe(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      model: { type: 'string' },
      clients: { type: 'string', default: '16' },
      answers: { type: 'string', default: '8' },
      tokens: { type: 'string', default: '64' },
      requests: { type: 'string', default: '1000' },
      leaving: { type: 'string', default: '0.3' },
      threads: { type: 'string' },
      seed: { type: 'string', default: '0' },
    },
  });
  if (values.model === undefined) throw new Error(`usage: npm run bench -- serve ${SERVE_USAGE}`);
  const [clients, answers, tokens, requests] = [
    values.clients,
    values.answers,
    values.tokens,
    values.requests,
  ].map(Number) as [number, number, number, number];
  const questions = await describePictures(Number(values.seed), tokens);
  const threads = values.threads === undefined ? [] : ['--threads', values.threads];
  const options = ['--model', values.model, '--max-sequences', String(clients), ...threads];
  const server = await startServing(options);
  try {
    await askMany(server, 1, 2, questions);
    const speeds = await compareClients(server, clients, answers, questions);
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
async function describePictures(seed: number, tokens: number): Promise<(number: number) => Asked> {
  const contents: unknown[] = [];
  for (let i = 0; i < PICTURES; i++) {
    const picture = await renderPng(sampleAt('SynthScene', 'test', seed, i).scene, 256);
    const url = `data:image/png;base64,${Buffer.from(picture).toString('base64')}`;
    const text = { type: 'text', text: 'Describe the picture.' };
    contents.push([text, { type: 'image_url', image_url: { url } }]);
  }
  return (number) => ({ content: contents[number % PICTURES], tokens });
}

/** One client, then many; true where speed, fairness and delay are as wanted. */
async function compareClients(
  server: ServedProcess,
  clients: number,
  answers: number,
  questions: (number: number) => Asked,
): Promise<boolean> {
  const one = await askMany(server, 1, answers, questions);
  await server.metric('fusion_event_loop_delay_p99_seconds');
  const many = await askMany(server, clients, clients * answers, questions);
  const delay = await server.metric('fusion_event_loop_delay_p99_seconds');
  const speedup = many.tokens / many.seconds / (one.tokens / one.seconds);
  const mean = many.times.reduce((a, b) => a + b, 0) / many.times.length;
  const slowest = Math.max(...many.times) / mean;
  console.log(`1 client: ${(one.tokens / one.seconds).toFixed(1)} tokens/s`);
  console.log(`${clients} clients: ${(many.tokens / many.seconds).toFixed(1)} tokens/s`);
  const results = [
    judge('speed of many over one', speedup.toFixed(2), `>= ${WANTED.speedup}`, speedup >= WANTED.speedup),
    judge('slowest answer over mean', slowest.toFixed(2), `<= ${WANTED.slowest}`, slowest <= WANTED.slowest),
    judge('event loop delay p99', `${(1000 * delay).toFixed(1)} ms`, '<= 50 ms', delay <= WANTED.delay),
  ];
  return results.every(Boolean);
}

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
