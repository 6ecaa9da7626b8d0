/** Servers for tests: small limits, a free port, and ways to ask. */
import type { ServableModel } from '../../src/serve/answerer.ts';
import { type RunningServer, type ServerSettings, startServer } from '../../src/serve/server.ts';
import { fakeModel } from './fakeModel.ts';

const started: RunningServer[] = [];

export type Changes = Partial<Omit<ServerSettings, 'models'>> & {
  readonly models?: readonly ServableModel[];
};

/** Starts a server; its first model is loaded unless `load` is false. */
export async function serverWith(
  changes: Changes = {},
  load = true,
): Promise<RunningServer & { log: unknown[] }> {
  const { models = [fakeModel()], ...others } = changes;
  const [first = fakeModel(), ...rest] = models;
  const log: unknown[] = [];
  const server = await startServer({
    memoryLimit: 100,
    host: '127.0.0.1',
    port: 0,
    apiKeys: [],
    origins: [],
    admission: { slots: 2, queue: 2 },
    timeout: 20_000,
    maxBody: 1_000_000,
    bodyDeadline: 5000,
    maxPixels: 1_000_000,
    images: { maxBytes: 500_000, remote: undefined },
    votes: undefined,
    page: undefined,
    pingEvery: 5000,
    version: '1.2.3',
    log: (error) => log.push(error),
    ...others,
    models: [first, ...rest],
  });
  started.push(server);
  if (load) await server.loaded;
  return Object.assign(server, { log });
}

/** Ends all servers of a test. */
export async function stopServers(): Promise<void> {
  for (const server of started.splice(0)) {
    server.abort();
    await server.stop();
  }
}

/** Posts JSON, or a text as it is. */
export function post(url: string, body: unknown, init: RequestInit = {}): Promise<Response> {
  return fetch(url, {
    method: 'POST',
    ...init,
    headers: { 'Content-Type': 'application/json', ...init.headers },
    body: typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body),
  });
}

/** Asks for a completion; `body` may leave the messages out. */
export function askServer(
  server: RunningServer,
  body: object = {},
  init: RequestInit = {},
): Promise<Response> {
  const messages = [{ role: 'user', content: 'Hello?' }];
  return post(`${server.url}/v1/chat/completions`, { messages, ...body }, init);
}

/** A question about a picture, which `image_url` gives in one of OpenAI's ways. */
export function showServer(server: RunningServer, image_url: unknown): Promise<Response> {
  const content = [
    { type: 'text', text: 'What?' },
    { type: 'image_url', image_url },
  ];
  return askServer(server, { messages: [{ role: 'user', content }] });
}

/** A picture's bytes as a data URI. */
export const inline = (bytes: Uint8Array, type = 'png'): string =>
  `data:image/${type};base64,${Buffer.from(bytes).toString('base64')}`;

export async function errorOf(response: Response) {
  const body = (await response.json()) as {
    error: { message: string; type: string; param: unknown; code: unknown };
  };
  return { status: response.status, ...body.error };
}

/** Resolves when the condition holds. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** The value of a metric without labels. */
export async function metric(server: RunningServer, name: string): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1]);
}
