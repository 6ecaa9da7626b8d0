/**
 * A hub on this machine that answers as huggingface.co does: large files through a redirect to a second server, small
 * ones through a relative one, ranges, ETags, gated models, error codes. Tests add faults.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export const COMMIT_A = 'a'.repeat(40);
export const COMMIT_B = 'b'.repeat(40);
/** The token that may read gated models. */
export const GOOD_TOKEN = 'hf_good';

/** Answers instead of the hub; `pass` lets the hub answer after all. */
export type Fault = (request: IncomingMessage, response: ServerResponse, pass: () => void) => void;

export interface Seen {
  readonly server: 'hub' | 'cdn';
  readonly method: string;
  readonly url: string;
  readonly authorization: string | undefined;
  readonly range: string | undefined;
}

export interface FakeHub {
  readonly endpoint: string;
  readonly requests: Seen[];
  /** Commit → file → content. Files over 100 bytes are in LFS. */
  readonly commits: Map<string, Map<string, Buffer>>;
  /** Branch or tag → commit. */
  readonly refs: Map<string, string>;
  gated: boolean;
  /** A mirror that lists names alone. */
  namesOnly: boolean;
  /** The next `times` requests whose URL matches meet the fault. */
  fault(url: RegExp, fault: Fault, times?: number): void;
  close(): Promise<void>;
}

export const ID = 'owner/model';
const hashes = new WeakMap<Buffer, string>();

function sha256(bytes: Buffer): string {
  const known = hashes.get(bytes) ?? createHash('sha256').update(bytes).digest('hex');
  hashes.set(bytes, known);
  return known;
}

const isLarge = (bytes: Buffer) => bytes.length > 100;

/** Git's hash of a file. */
export const gitHash = (bytes: Buffer) =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');

/** The name of a file's blob in the cache. */
export const etagOf = (bytes: Buffer) => (isLarge(bytes) ? sha256(bytes) : gitHash(bytes));

/** An exchange under way: what was asked, and where to answer. */
type Exchange = {
  readonly parts: readonly string[];
  readonly token: string | undefined;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
};

export async function startFakeHub(files: Readonly<Record<string, Buffer | string>>): Promise<FakeHub> {
  const content = new Map(Object.entries(files).map(([name, text]) => [name, Buffer.from(text)]));
  const faults: { url: RegExp; fault: Fault; times: number }[] = [];
  const state = { requests: [] as Seen[], gated: false, namesOnly: false };
  const commits = new Map([[COMMIT_A, content]]);
  const refs = new Map([['main', COMMIT_A]]);
  const handle = (server: 'hub' | 'cdn', answer: (exchange: Exchange) => void) =>
    createServer((request, response) => {
      const { method = '', url = '', headers } = request;
      const token = headers.authorization;
      hub.requests.push({ server, method, url, authorization: token, range: headers.range });
      const found = faults.find((one) => one.times > 0 && one.url.test(`${server}:${url}`));
      const parts = new URL(url, 'http://localhost').pathname.split('/').slice(1).map(decodeURIComponent);
      const pass = () => answer({ parts, token, request, response });
      if (found === undefined) return pass();
      found.times--;
      found.fault(request, response, pass);
    });
  const cdn = handle('cdn', (exchange) => answerCdn(hub, exchange));
  const cdnUrl = await listen(cdn);
  const server = handle('hub', (exchange) => answerHub(hub, cdnUrl, exchange));
  const endpoint = await listen(server);
  const close = async () => {
    for (const one of [server, cdn]) one.closeAllConnections();
    await Promise.all([server, cdn].map((one) => new Promise((done) => one.close(done))));
  };
  const fault = (url: RegExp, fault: Fault, times = 1) => void faults.push({ url, fault, times });
  const hub: FakeHub = Object.assign(state, { endpoint, commits, refs, fault, close });
  return hub;
}

/** `/COMMIT/FILE`. A CDN's validator is its own, not the hub's. */
function answerCdn(
  { commits }: FakeHub,
  { parts: [commit = '', name = ''], request, response }: Exchange,
): ServerResponse {
  const bytes = commits.get(commit)?.get(name);
  if (bytes === undefined) return refuse(response, 404, '');
  return serve(request, response, bytes, `md5-${bytes.length}`);
}

function answerHub(hub: FakeHub, cdnUrl: string, exchange: Exchange): ServerResponse {
  const { parts, token, request, response } = exchange;
  if (parts.join('/') === 'api/models') return json(response, [{ id: ID }, { id: 'owner/other-thing' }]);
  if (parts[1] === 'resolve-cache') {
    const [commit = '', name = ''] = parts.slice(5);
    const bytes = hub.commits.get(commit)?.get(name) ?? Buffer.alloc(0);
    response.setHeader('X-Repo-Commit', commit);
    return serve(request, response, bytes, gitHash(bytes));
  }
  const isApi = parts[0] === 'api';
  const id = (isApi ? parts.slice(2, 4) : parts.slice(0, 2)).join('/');
  if (token !== undefined && !token.startsWith('Bearer hf_')) {
    return refuse(response, 401, '', 'Invalid credentials in Authorization header');
  }
  if (id !== ID) return refuse(response, token === undefined ? 401 : 404, 'RepoNotFound');
  return isApi ? answerApi(hub, exchange) : answerResolve(hub, cdnUrl, exchange);
}

/** `/api/models/ID/refs` and `/api/models/ID/revision/REVISION`. */
function answerApi({ refs, commits, namesOnly }: FakeHub, { parts, response }: Exchange): ServerResponse {
  if (parts[4] === 'refs') {
    return json(response, { branches: [...refs.keys()].map((name) => ({ name })), tags: [] });
  }
  const revision = parts[5] ?? '';
  const commit = refs.get(revision) ?? revision;
  const listed = commits.get(commit);
  if (listed === undefined) return refuse(response, 404, 'RevisionNotFound');
  return json(response, {
    id: ID,
    sha: commit,
    siblings: [...listed].map((file) => sibling(file, namesOnly)),
  });
}

/** `/ID/resolve/COMMIT/FILE`: a redirect, which tells what the file is. */
function answerResolve(
  { commits, gated }: FakeHub,
  cdnUrl: string,
  { parts, token, response }: Exchange,
): ServerResponse {
  if (gated && token !== `Bearer ${GOOD_TOKEN}`) {
    return refuse(response, token === undefined ? 401 : 403, 'GatedRepo');
  }
  const [commit = '', name = ''] = parts.slice(3);
  const bytes = commits.get(commit)?.get(name);
  if (bytes === undefined) return refuse(response, 404, 'EntryNotFound');
  const [status, Location] = isLarge(bytes)
    ? [302, `${cdnUrl}/${commit}/${name}?signature=1`]
    : [307, `/api/resolve-cache/models/${ID}/${commit}/${name}`];
  const linked = { 'X-Linked-Etag': `"${etagOf(bytes)}"`, 'X-Linked-Size': bytes.length };
  return response.writeHead(status, { 'X-Repo-Commit': commit, ...linked, Location }).end('redirect');
}

/** Answers with a status and headers alone. */
export const answers =
  (status: number, headers: Readonly<Record<string, string>> = {}): Fault =>
  (_request, response) => {
    response.writeHead(status, headers).end();
  };

/**
 * Announces all of `content`, sends it up to `end`, and breaks the connection when `arrived`: `fetch` throws away what
 * it has not yet handed on.
 */
export const drops =
  (content: Buffer, end: number, arrived: () => boolean): Fault =>
  (request, response) => {
    const begin = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const range = { 'Content-Range': `bytes ${begin}-${content.length - 1}/${content.length}` };
    const length = { 'Content-Length': content.length - begin };
    response.writeHead(begin > 0 ? 206 : 200, begin > 0 ? { ...length, ...range } : length);
    response.write(content.subarray(begin, end));
    const timer = setInterval(() => {
      if (!arrived()) return;
      clearInterval(timer);
      response.destroy();
    }, 5);
    response.on('close', () => clearInterval(timer));
  };

/** Sends `content` whole, whatever was asked for. */
export const sends =
  (content: Buffer): Fault =>
  (_request, response) => {
    response.writeHead(200, { 'Content-Length': content.length }).end(content);
  };

function sibling([rfilename, bytes]: readonly [string, Buffer], namesOnly: boolean) {
  if (namesOnly) return { rfilename };
  const pointer = Buffer.from(
    `version https://git-lfs.github.com/spec/v1\noid sha256:${sha256(bytes)}\nsize ${bytes.length}\n`,
  );
  const lfs = { sha256: sha256(bytes), size: bytes.length, pointerSize: pointer.length };
  const size = bytes.length;
  return isLarge(bytes)
    ? { rfilename, size, blobId: gitHash(pointer), lfs }
    : { rfilename, size, blobId: gitHash(bytes) };
}

function serve(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Buffer,
  etag: string,
): ServerResponse {
  const [, from] = /^bytes=(\d+)-$/.exec(request.headers.range ?? '') ?? [];
  const sameOnly = request.headers['if-range'];
  const begin =
    from === undefined || (sameOnly !== undefined && sameOnly !== `"${etag}"`) ? undefined : Number(from);
  const common = { ETag: `"${etag}"`, 'Accept-Ranges': 'bytes' };
  if (begin === undefined) {
    return response.writeHead(200, { ...common, 'Content-Length': bytes.length }).end(bytes);
  }
  if (begin >= bytes.length)
    return response.writeHead(416, { 'Content-Range': `bytes */${bytes.length}` }).end();
  const range = `bytes ${begin}-${bytes.length - 1}/${bytes.length}`;
  const headers = { ...common, 'Content-Range': range, 'Content-Length': bytes.length - begin };
  return response.writeHead(206, headers).end(bytes.subarray(begin));
}

function refuse(
  response: ServerResponse,
  status: number,
  code: string,
  message = `refused: ${code}`,
): ServerResponse {
  return response.writeHead(status, { 'X-Error-Code': code, 'X-Error-Message': message }).end(message);
}

function json(response: ServerResponse, value: unknown): ServerResponse {
  return response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
}

async function listen(server: Server): Promise<string> {
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
