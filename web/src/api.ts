/** The server's routes, and its errors in words for people. Knows nothing of how anything is shown. */
import type { Message, Timings, Vote } from './conversation.ts';
import { type Explanation, readExplanation } from './explanation.ts';
import type { ImageLimits } from './imagePlan.ts';
import { streamEvents } from './sse.ts';

/** `/health`, as far as the page uses it. */
export interface Health {
  readonly status: 'loading' | 'ok' | 'stopping';
  readonly models: readonly { readonly name: string; readonly state: string; readonly progress?: Progress }[];
  readonly needs_api_key: boolean;
  readonly votes: boolean;
  readonly limits: ImageLimits;
}

export interface Progress {
  readonly phase?: string;
  readonly done?: number;
  readonly total?: number;
  /** Requests before this one. */
  readonly waiting?: number;
}

export interface ServedModel {
  readonly id: string;
  readonly fusion: { readonly variant?: string; readonly context?: number; readonly explains: boolean };
}

export interface Ask {
  readonly model: string | undefined;
  readonly messages: readonly Message[];
  readonly sampling: Readonly<Record<string, number>>;
}

export type AnswerEvent =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'progress'; readonly progress: Progress }
  | {
      readonly type: 'done';
      readonly timings: Timings;
      readonly cut: boolean;
      readonly warnings: readonly string[];
    };

/** An error that the user is told of, as it stands. */
export class ApiFailure extends Error {
  override readonly name = 'ApiFailure';
}

const UNREACHABLE = 'The server cannot be reached. Is it still running?';

export async function getHealth(): Promise<Health> {
  return (await send('health', {}, [503])).json() as Promise<Health>;
}

export async function getModels(key: string): Promise<readonly ServedModel[]> {
  const response = await send('v1/models', { headers: authorization(key) });
  return ((await response.json()) as { readonly data: readonly ServedModel[] }).data;
}

/** A streamed answer. @throws ApiFailure; an AbortError where the signal is aborted. */
export async function* streamAnswer(ask: Ask, key: string, signal: AbortSignal): AsyncGenerator<AnswerEvent> {
  const response = await post('v1/chat/completions', { ...bodyOf(ask), stream: true }, key, signal);
  let complete = false;
  try {
    for await (const { kind, text } of streamEvents(response.body ?? new ReadableStream())) {
      if (kind === 'comment') yield { type: 'progress', progress: parsed(text) };
      else if (text === '[DONE]') complete = true;
      else yield* chunkEvents(JSON.parse(text));
    }
  } catch (error) {
    throw signal.aborted || error instanceof ApiFailure ? error : new ApiFailure(brokenOff);
  }
  if (!complete) throw new ApiFailure(brokenOff);
}

const brokenOff = 'The answer broke off: the connection to the server was lost.';

/** A chunk of OpenAI's stream, or an error that ends it. */
interface Chunk {
  readonly error?: { readonly message: string };
  readonly choices?: readonly {
    readonly delta: { readonly content?: string };
    readonly finish_reason: string | null;
  }[];
  readonly timings?: Timings;
  readonly fusion?: { readonly warnings: readonly string[] };
}

function* chunkEvents({ error, choices, timings, fusion }: Chunk): Generator<AnswerEvent> {
  if (error !== undefined) throw new ApiFailure(sentence(error.message));
  const [choice] = choices ?? [];
  if (choice?.delta.content) yield { type: 'text', text: choice.delta.content };
  if (choice?.finish_reason != null && timings !== undefined) {
    yield { type: 'done', timings, cut: choice.finish_reason === 'length', warnings: fusion?.warnings ?? [] };
  }
}

/** What the model looked at while it gave an answer. @throws ApiFailure; an AbortError. */
export async function explain(ask: Ask, key: string, signal: AbortSignal): Promise<Explanation> {
  return readExplanation(await (await post('v1/fusion/explain', bodyOf(ask), key, signal)).json());
}

export interface VoteBody {
  readonly vote: Vote;
  readonly model: string | undefined;
  readonly messages: readonly Message[];
}

export async function sendVote(vote: VoteBody, key: string): Promise<void> {
  await post('v1/fusion/votes', vote, key);
}

const bodyOf = ({ model, messages, sampling }: Ask) => ({ model, messages, ...sampling });

const authorization = (key: string): Record<string, string> =>
  key ? { Authorization: `Bearer ${key}` } : {};

function post(address: string, body: object, key: string, signal?: AbortSignal): Promise<Response> {
  const headers = { 'Content-Type': 'application/json', ...authorization(key) };
  return send(address, { method: 'POST', headers, body: JSON.stringify(body), signal: signal ?? null });
}

/** accepted: statuses besides the good ones that are no failure. */
async function send(address: string, init: RequestInit, accepted: readonly number[] = []): Promise<Response> {
  const response = await fetch(address, init).catch((error: unknown) => {
    throw init.signal?.aborted ? error : new ApiFailure(UNREACHABLE);
  });
  if (response.ok || accepted.includes(response.status)) return response;
  throw new ApiFailure(failureText(response.status, await messageOf(response), retryAfter(response)));
}

async function messageOf(response: Response): Promise<string> {
  const body = parsed(await response.text()) as { readonly error?: { readonly message?: string } };
  return body.error?.message ?? `the server answered with status ${response.status}`;
}

function retryAfter(response: Response): number | undefined {
  const seconds = Number(response.headers.get('Retry-After') ?? Number.NaN);
  return Number.isFinite(seconds) ? seconds : undefined;
}

function parsed(text: string): Progress {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

/** What went wrong, and what to do. message: the server's. wait: seconds after which it says to come again. */
export function failureText(status: number, message: string, wait?: number): string {
  if (status === 401) return 'This server asks for an API key. Enter it in the settings.';
  if (status === 413)
    return 'This is more than the server takes. Use a smaller picture, or begin a new conversation.';
  if (status === 429) {
    const when = wait === undefined ? 'in a moment' : `in ${wait} ${wait === 1 ? 'second' : 'seconds'}`;
    return `The server has its hands full. Try again ${when}.`;
  }
  if (status === 503) return `The server cannot answer just now: ${message}. Try again in a moment.`;
  return sentence(message);
}

/** A message that begins with a field's name keeps it as it is. */
const sentence = (message: string): string => {
  const first = /^[\w.[\]]+:/.test(message) ? message.charAt(0) : message.charAt(0).toUpperCase();
  const text = first + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
};

const PHASES: Readonly<Record<string, string>> = {
  load: 'Loading the model',
  convert: 'Converting the model',
  vision: 'Looking at the picture',
  prefill: 'Reading the question',
  decode: 'Answering',
};

/** `Loading the model, 40 %`; undefined where nothing is known. */
export function progressText({ phase = '', done, total, waiting }: Progress): string | undefined {
  if (waiting !== undefined) return `${waiting} ${waiting === 1 ? 'question' : 'questions'} before yours`;
  const what = PHASES[phase];
  if (what === undefined || done === undefined || !total) return what;
  return `${what}, ${Math.floor((100 * done) / total)} %`;
}
