/**
 * Requests to the hub: redirects followed by hand, so that the token goes to the hub alone; a watch on connections
 * that give nothing; failures told apart into those that pass and those that do not.
 *
 * Knows nothing of files or folders. Source: RFC 9110, the error codes of huggingface.co (`X-Error-Code`), and its
 * rate limits (`RateLimit: "api";r=0;t=55`).
 */
import { messageOf, UserError } from '../../common/errors.ts';
import type { Hub } from './hub.ts';

/** A failure that may pass: worth another try, after the pause the server asked for where it did. */
export class TransientError extends Error {
  override readonly name = 'TransientError';
  readonly waitMs: number | undefined;

  constructor(message: string, waitMs?: number) {
    super(message);
    this.waitMs = waitMs;
  }
}

/** An answer that another try would not change. `code`: the hub's own, such as `GatedRepo`. */
export class RefusedError extends Error {
  override readonly name = 'RefusedError';
  readonly status: number;
  readonly code: string;

  constructor(response: Response) {
    super(response.headers.get('x-error-message') ?? `HTTP ${response.status}`);
    this.status = response.status;
    this.code = response.headers.get('x-error-code') ?? '';
  }
}

export type HubRequest = {
  readonly url: string;
  readonly method?: 'GET' | 'HEAD';
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
};

const MAX_REDIRECTS = 8;
const USER_AGENT = 'fusion-vl';

/**
 * Sends a request and hands a good answer, or 416, to `read`, which must call `alive` with each piece it gets: a
 * connection that gives nothing for `hub.stallMs` is given up. The answer to `HEAD` is the hub's own, which may be a
 * redirect to another server. Throws `TransientError` for what may pass, `RefusedError` for what will not.
 */
export async function request<T>(
  hub: Hub,
  { url, method = 'GET', headers = {}, signal }: HubRequest,
  read: (response: Response, alive: () => void) => Promise<T>,
): Promise<T> {
  const watch = watchdog(hub.stallMs);
  const either = signal === undefined ? watch.signal : AbortSignal.any([signal, watch.signal]);
  const send = (to: string) => fetch(to, { ...optionsOf(hub, to, headers), method, signal: either });
  try {
    const response = await follow(url, send, (next) => method === 'GET' || isOfHub(hub, next));
    watch.alive();
    if (response.status >= 400 && response.status !== 416) throw await failureOf(hub, response);
    return await read(response, watch.alive);
  } catch (error) {
    signal?.throwIfAborted();
    if (watch.signal.aborted) throw new TransientError(`no data for ${hub.stallMs / 1000} s`);
    throw isConnectionError(error) ? new TransientError(connectionMessage(error, url)) : error;
  } finally {
    watch.stop();
  }
}

/** Bodies are asked for as they are: compressed on the way, their lengths would not be the files'. */
function optionsOf(hub: Hub, url: string, headers: Readonly<Record<string, string>>) {
  const secret = isOfHub(hub, url) && hub.token !== undefined ? { authorization: `Bearer ${hub.token}` } : {};
  const all = { 'user-agent': USER_AGENT, 'accept-encoding': 'identity', ...headers, ...secret };
  return { headers: all, redirect: 'manual' } as const;
}

function isOfHub({ endpoint }: Hub, url: string): boolean {
  return new URL(url).origin === new URL(endpoint).origin;
}

async function follow(
  url: string,
  send: (url: string) => Promise<Response>,
  goesTo: (url: string) => boolean,
): Promise<Response> {
  let at = url;
  for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
    const response = await send(at);
    const location = response.headers.get('location');
    if (response.status < 300 || response.status >= 400 || location === null) return response;
    at = new URL(location, at).href;
    if (!goesTo(at)) return response;
    await response.body?.cancel();
  }
  throw new TransientError(`more than ${MAX_REDIRECTS} redirects`);
}

/** A server the hub sent us to refuses an address that has grown old: the hub gives a new one. */
async function failureOf(hub: Hub, response: Response): Promise<Error> {
  await response.body?.cancel();
  const { status } = response;
  if (status === 429) return new TransientError('too many requests (HTTP 429)', toldWait(response.headers));
  const passes = status >= 500 || status === 408 || !isOfHub(hub, response.url);
  const from = new URL(response.url).host;
  return passes
    ? new TransientError(`HTTP ${status} from ${from}`, toldWait(response.headers))
    : new RefusedError(response);
}

/** Milliseconds to wait: `Retry-After` in seconds or as a date, or the rest of the rate limit's window. */
function toldWait(headers: Headers): number | undefined {
  const after = headers.get('retry-after');
  if (after !== null && /^\d+$/.test(after)) return 1000 * Number(after);
  const date = Date.parse(after ?? '');
  if (!Number.isNaN(date)) return Math.max(0, date - Date.now());
  const [, window] = /\bt=(\d+)/.exec(headers.get('ratelimit') ?? '') ?? [];
  return window === undefined ? undefined : 1000 * Number(window);
}

/** Aborts its signal when nobody has called `alive` for `ms`. */
function watchdog(ms: number) {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), ms);
  return { signal: controller.signal, alive: () => void timer.refresh(), stop: () => clearTimeout(timer) };
}

/** `fetch` and its bodies fail with a `TypeError`, its reason beneath. */
function isConnectionError(error: unknown): error is TypeError {
  return error instanceof TypeError && /fetch failed|terminated/.test(error.message);
}

function connectionMessage(error: TypeError, url: string): string {
  const { cause } = error;
  const reason =
    cause instanceof Error ? ((cause as NodeJS.ErrnoException).code ?? messageOf(cause)) : error.message;
  return `no connection with ${new URL(url).host} (${reason})`;
}

export type Retries = {
  /** How many failures in a row end it. */
  readonly limit: number;
  readonly signal?: AbortSignal | undefined;
  /** Told before each pause. */
  readonly onWait?: ((reason: string, ms: number) => void) | undefined;
};

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 30_000;

/**
 * Runs `action` until it succeeds, again after each `TransientError`: after the pause it asks for, else one that
 * doubles and is spread at random, so that many clients do not return at once. `action` may call `progressed`, and
 * failures count anew. Throws `UserError` beginning with `where` after `limit` failures in a row.
 */
export async function retrying<T>(
  hub: Hub,
  where: string,
  { limit, signal, onWait }: Retries,
  action: (progressed: () => void) => Promise<T>,
): Promise<T> {
  let failures = 0;
  const progressed = () => {
    failures = 0;
  };
  for (;;) {
    try {
      return await action(progressed);
    } catch (error) {
      if (!(error instanceof TransientError)) throw error;
      failures++;
      if (failures >= limit) throw new UserError(`${where}: ${error.message}, ${limit} times in a row`);
      const ms =
        error.waitMs ?? Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1)) * (0.5 + Math.random());
      onWait?.(error.message, ms);
      await hub.wait(ms, signal);
    }
  }
}
