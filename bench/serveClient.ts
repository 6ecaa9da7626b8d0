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
  readonly tokens: number;
  /** A PNG's base64. */
  readonly image: string | undefined;
  /** Leave after this share of the answer, 0 to 1. */
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
  draw: () => Asked,
): Promise<ManyResult> {
  let [next, tokens, left] = [0, 0, 0];
  const times: number[] = [];
  const start = performance.now();
  const client = async () => {
    while (next < count) {
      const number = next++;
      const began = performance.now();
      const made = await askOnce(url, number, draw());
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
async function askOnce(
  url: string,
  number: number,
  { tokens, image, leaveAfter }: Asked,
): Promise<number | undefined> {
  const text = { type: 'text', text: `What is in picture ${number}?` };
  const parts =
    image === undefined ? [] : [{ type: 'image_url', image_url: `data:image/png;base64,${image}` }];
  const leaving = new AbortController();
  try {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({
        messages: [{ role: 'user', content: [text, ...parts] }],
        max_tokens: tokens,
        stream: true,
        stream_options: { include_usage: true },
      }),
      signal: leaving.signal,
    });
    if (!response.ok || response.body === null) throw new Error(`status ${response.status}`);
    let [events, said] = [0, ''];
    for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
      said = (said + piece).slice(-1000);
      events += piece.split('\n\n').length - 1;
      if (leaveAfter !== undefined && events >= leaveAfter * tokens) leaving.abort();
    }
    return Number(/"completion_tokens":(\d+)/.exec(said)?.[1] ?? Number.NaN);
  } catch (error) {
    if (leaving.signal.aborted) return undefined;
    throw error;
  }
}
