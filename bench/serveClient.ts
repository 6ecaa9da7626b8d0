/** Clients of a `fusion serve` process: start it, ask it in streams, leave some of them, read its metrics. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));

export interface ServedProcess {
  readonly url: string;
  /** The value of a metric without labels. */
  metric(name: string): Promise<number>;
  stop(): Promise<void>;
}

/** One question. */
export interface Asked {
  /** Its parts, in OpenAI's format. */
  readonly content: unknown;
  readonly tokens: number;
  /** Leave after this share of the tokens, 0 to 1. */
  readonly leaveAfter?: number;
}

export interface ManyResult {
  /** Of answers read to their end. */
  readonly tokens: number;
  /** Wall time of all. */
  readonly seconds: number;
  /** Of each answer read to its end, in seconds. */
  readonly times: readonly number[];
  readonly left: number;
}

/** Starts `fusion serve` at a free port and waits until the model is loaded. */
export async function startServing(args: readonly string[]): Promise<ServedProcess> {
  const child = spawn(process.execPath, ['--import', 'tsx', MAIN, 'serve', '--port', '0', '-q', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const url = line.toString().trim();
  while ((await fetch(`${url}/health`)).status !== 200)
    await new Promise((resolve) => setTimeout(resolve, 100));
  return {
    url,
    metric: async (name) => {
      const text = await (await fetch(`${url}/metrics`)).text();
      return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1]);
    },
    stop: async () => {
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** `count` questions by `clients` clients, each asking the next when it has its answer. */
export async function askMany(
  { url }: ServedProcess,
  clients: number,
  count: number,
  draw: (number: number) => Asked,
): Promise<ManyResult> {
  let [next, tokens, left] = [0, 0, 0];
  const times: number[] = [];
  const start = performance.now();
  const client = async () => {
    while (next < count) {
      const number = next++;
      const began = performance.now();
      const made = await askOnce(url, draw(number));
      if (made === undefined) {
        left += 1;
        continue;
      }
      tokens += made;
      times.push((performance.now() - began) / 1e3);
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  return { tokens, seconds: (performance.now() - start) / 1e3, times, left };
}

/** Tokens of the answer; undefined where it was left. */
async function askOnce(url: string, { content, tokens, leaveAfter }: Asked): Promise<number | undefined> {
  const leaving = new AbortController();
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({
      messages: [{ role: 'user', content }],
      max_tokens: tokens,
      stream: true,
      stream_options: { include_usage: true },
    }),
    signal: leaving.signal,
  });
  if (!response.ok || response.body === null) throw new Error(`status ${response.status}`);
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let [events, said] = [0, ''];
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const piece = decoder.decode(read.value, { stream: true });
    said = (said + piece).slice(-1000);
    events += piece.split('\n\n').length - 1;
    if (leaveAfter === undefined || events < leaveAfter * tokens) continue;
    // Not read any further: what was on its way when a request was aborted may never arrive.
    leaving.abort();
    return undefined;
  }
  return Number(/"completion_tokens":(\d+)/.exec(said)?.[1] ?? Number.NaN);
}
