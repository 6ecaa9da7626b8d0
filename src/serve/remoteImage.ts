/**
 * Images from the web, fetched so that nobody can make this server look around in its own network: names are
 * resolved here, every address must be public, the connection goes to the addresses that were checked, and each
 * redirect is a new request. Limits of time, size and redirects. Knows nothing of what the bytes are.
 */
import { lookup } from 'node:dns/promises';
import { type IncomingMessage, request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { isIP, type LookupFunction } from 'node:net';
import { ApiError } from './apiError.ts';
import { isPublicAddress } from './publicAddress.ts';

/** What may be fetched. Tests put their own in place of the internet. */
export interface RemoteImageRules {
  readonly maxBytes: number;
  /** Milliseconds for everything, redirects included. */
  readonly deadline: number;
  readonly maxRedirects: number;
  readonly ports: ReadonlySet<number>;
  /** All addresses of a name. */
  readonly resolve: (name: string) => Promise<readonly string[]>;
  readonly mayConnect: (address: string) => boolean;
}

/** The rules for the internet. maxBytes: of one image. */
export function publicRules(maxBytes: number): RemoteImageRules {
  return {
    maxBytes,
    deadline: 10_000,
    maxRedirects: 3,
    ports: new Set([80, 443]),
    resolve: async (name) => (await lookup(name, { all: true })).map(({ address }) => address),
    mayConnect: isPublicAddress,
  };
}

const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/**
 * The bytes at `url`.
 *
 * @throws ApiError 400 for an address that may not be asked, a response that is no image within the limits, and
 * one that does not come in time; the signal's reason when it is aborted.
 */
export async function fetchImage(url: string, rules: RemoteImageRules, signal: AbortSignal): Promise<Buffer> {
  const timer = new AbortController();
  const late = setTimeout(() => timer.abort(refusal('took too long')), rules.deadline);
  const giveUp = () => timer.abort(signal.reason);
  signal.addEventListener('abort', giveUp, { once: true });
  try {
    signal.throwIfAborted();
    return await follow(url, rules, timer.signal);
  } catch (error) {
    if (timer.signal.aborted) throw timer.signal.reason;
    // What a foreign server or the network did is nothing the client needs in detail.
    throw error instanceof ApiError ? error : refusal('could not be fetched');
  } finally {
    clearTimeout(late);
    signal.removeEventListener('abort', giveUp);
  }
}

async function follow(url: string, rules: RemoteImageRules, signal: AbortSignal): Promise<Buffer> {
  let next = checkUrl(url, rules);
  for (let hops = 0; hops <= rules.maxRedirects; hops++) {
    const response = await get(next, await addressesOf(next, rules, signal), signal);
    const { statusCode = 0, headers } = response;
    if (!REDIRECTS.has(statusCode)) return await receive(response, rules.maxBytes);
    response.destroy();
    next = checkUrl(headers.location ?? '', rules, next);
  }
  throw refusal(`redirected more than ${rules.maxRedirects} times`);
}

function checkUrl(text: string, { ports }: RemoteImageRules, base?: URL): URL {
  const url = URL.canParse(text, base?.href) ? new URL(text, base) : undefined;
  if (url === undefined || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw refusal('is no http or https address');
  }
  if (url.username !== '' || url.password !== '') throw refusal('has a user name in its address');
  if (!ports.has(portOf(url))) throw refusal(`has a port other than ${[...ports].join(' and ')}`);
  return url;
}

const portOf = (url: URL): number => Number(url.port) || (url.protocol === 'https:' ? 443 : 80);

/** The addresses to connect to; a name with one address that may not be asked is refused whole. */
async function addressesOf(
  url: URL,
  rules: RemoteImageRules,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const addresses = isIP(host) > 0 ? [host] : await Promise.race([rules.resolve(host), aborted(signal)]);
  if (addresses.length === 0) throw refusal('could not be fetched');
  if (!addresses.every(rules.mayConnect)) throw refusal('is not on the public internet');
  return addresses;
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

/** One request, to one of these addresses and no other: the name is not resolved again. */
function get(url: URL, addresses: readonly string[], signal: AbortSignal): Promise<IncomingMessage> {
  const all = addresses.map((address) => ({ address, family: isIP(address) }));
  const toChecked: LookupFunction = (_, { all: wantsAll }, done) => {
    const [first] = all;
    if (wantsAll || first === undefined) done(null, all);
    else done(null, first.address, first.family);
  };
  const send = url.protocol === 'https:' ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    const headers = { accept: 'image/*', 'accept-encoding': 'identity', 'user-agent': 'fusion-vl' };
    send(url, { agent: false, lookup: toChecked, headers, signal })
      .on('response', (response) => {
        signal.addEventListener('abort', () => response.destroy(), { once: true });
        resolve(response);
      })
      .on('error', reject)
      .end();
  });
}

async function receive(response: IncomingMessage, maxBytes: number): Promise<Buffer> {
  try {
    const { statusCode, headers } = response;
    if (statusCode !== 200) throw refusal(`answered with status ${statusCode}`);
    if ((headers['content-encoding'] ?? 'identity') !== 'identity') throw refusal('came compressed');
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of response as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > maxBytes) throw refusal(`has more than ${maxBytes} bytes`);
      chunks.push(chunk);
    }
    return Buffer.concat(chunks, size);
  } finally {
    response.destroy();
  }
}

const refusal = (what: string) =>
  new ApiError(400, `image_url: the image ${what}; send it as a data URI`, { code: 'invalid_image_url' });
