/**
 * The HTTP routes: OpenAI's chat completions and models, health, metrics, FUSION's own, and the page. Reads and
 * writes; `service.ts` does the work. Knows nothing of sockets (`server.ts`).
 */
import type { HttpBindings } from '@hono/node-server';
import { type Context, Hono } from 'hono';
import { cors } from 'hono/cors';
import { nextTurn } from '../common/nextTurn.ts';
import type { TokenLogprob } from '../generate/logprobs.ts';
import { ApiError, publicError } from './apiError.ts';
import { type BodyReader, parseJson } from './body.ts';
import { readChatRequest } from './chatRequest.ts';
import { completion, finishChunk, newCompletion, openingChunk, textChunk, usageChunk } from './completion.ts';
import { eventStream } from './eventStream.ts';
import { jsonResponse } from './jsonResponse.ts';
import { type Page, pageResponse } from './page.ts';
import { checkLocalHost, checkOrigin, keyCheck, SECURITY_HEADERS } from './security.ts';
import type { Job, Service } from './service.ts';
import { addVote } from './votes.ts';

export interface AppSettings {
  readonly version: string;
  /** Where any is given, requests must bring one. */
  readonly apiKeys: readonly string[];
  /** Origins of web pages elsewhere that may ask. */
  readonly origins: readonly string[];
  /** Whether only this machine can reach the server. */
  readonly loopback: boolean;
  readonly bodies: BodyReader;
  /** The file that votes are added to. */
  readonly votes: string | undefined;
  /** May be under way: requests for the page wait for it. */
  readonly page: Page | undefined | Promise<Page>;
  /** Milliseconds of silence after which a streaming client is told that the server still works. */
  readonly pingEvery: number;
  /** For clients to know beforehand; told by `/health`. */
  readonly limits: Readonly<Record<string, number | boolean>>;
  readonly log: (error: unknown) => void;
}

type Env = { Bindings: HttpBindings };
type RequestContext = Context<Env>;

const NO_PAGE = 'FUSION answers here. The API is under /v1; this installation has no web page.\n';

/** The routes over a service. */
export function createApp(service: Service, settings: AppSettings): Hono<Env> {
  const app = new Hono<Env>();
  app.onError((error) => told(error, settings).response());
  app.notFound((c) =>
    new ApiError(404, `${c.req.method}: no such address`, { code: 'not_found' }).response(),
  );
  app.use(seal(service), guardDoor(settings));
  if (settings.origins.length > 0) app.use(cors({ origin: [...settings.origins], maxAge: 600 }));
  const checkKey = keyCheck(settings.apiKeys);
  const needsKey = async (c: RequestContext, next: () => Promise<void>) => {
    checkKey(c.req.header('Authorization'));
    await next();
  };
  app.use('/v1/*', needsKey).use('/metrics', needsKey);

  const created = Math.floor(Date.now() / 1000);
  app.get('/health', (c) => health(c, service, settings));
  app.get('/metrics', (c) => c.text(service.metrics.text()));
  app.get('/v1/models', (c) => {
    const data = service.models.map(({ name }) => modelObject(service, name, created));
    return c.json({ object: 'list', data });
  });
  app.get('/v1/models/:model{.+}', (c) => c.json(modelObject(service, c.req.param('model'), created)));
  app.post('/v1/chat/completions', (c) => chat(c, service, settings));
  app.post('/v1/fusion/explain', (c) => explain(c, service, settings));
  app.post('/v1/fusion/votes', (c) => vote(c, settings));
  app.get('/*', (c) => pageOf(c, settings.page));
  return app;
}

/** What the client is told of an error; the log gets what it is not told. */
function told(error: unknown, { log }: AppSettings): ApiError {
  const shown = publicError(error);
  if (shown.cause !== undefined) log(shown.cause);
  return shown;
}

async function chat(c: RequestContext, service: Service, settings: AppSettings): Promise<Response> {
  const { conversation, options, stream, includeUsage } = readChatRequest(await readJson(c, settings));
  const job = await service.begin(conversation, options, c.req.raw.signal);
  if (stream) return streamed(job, includeUsage, settings);
  if (options.logprobs === undefined) return c.json(await whole(job, false));
  return jsonResponse(await whole(job, true));
}

async function explain(c: RequestContext, service: Service, settings: AppSettings): Promise<Response> {
  const { conversation, options } = readChatRequest(await readJson(c, settings));
  if (!service.modelNamed(conversation.model).explains) {
    throw new ApiError(501, 'this model cannot explain its answers', { code: 'not_implemented' });
  }
  const job = await service.begin(conversation, options, c.req.raw.signal);
  return jsonResponse(await job.explain());
}

async function vote(c: RequestContext, settings: AppSettings): Promise<Response> {
  if (settings.votes === undefined) {
    throw new ApiError(404, 'votes are not kept here; start with --votes FILE', { code: 'not_found' });
  }
  await addVote(settings.votes, await readJson(c, settings));
  return c.json({ recorded: true });
}

/** Security headers of every response, and its count. */
function seal(service: Service) {
  return async (c: RequestContext, next: () => Promise<void>): Promise<void> => {
    await next();
    for (const [name, value] of Object.entries(SECURITY_HEADERS)) {
      if (!c.res.headers.has(name)) c.res.headers.set(name, value);
    }
    service.metrics.countRequest(routeOf(c.req.path), c.res.status);
  };
}

/** Refuses other hosts and origins. */
function guardDoor({ loopback, apiKeys, origins }: AppSettings) {
  return async (c: RequestContext, next: () => Promise<void>): Promise<void> => {
    const host = c.req.header('Host') ?? '';
    if (loopback && apiKeys.length === 0) checkLocalHost(host);
    checkOrigin(c.req.header('Origin'), host, origins);
    await next();
  };
}

const ROUTES = [
  '/health',
  '/metrics',
  '/v1/models',
  '/v1/chat/completions',
  '/v1/fusion/explain',
  '/v1/fusion/votes',
];

/** What a request counts as; clients choose paths, so that there are few. */
function routeOf(path: string): string {
  if (ROUTES.includes(path)) return path;
  if (path.startsWith('/v1/models/')) return '/v1/models/*';
  return path.startsWith('/v1/') ? 'other' : 'page';
}

function health(
  c: RequestContext,
  service: Service,
  { version, limits, votes, apiKeys }: AppSettings,
): Response {
  const { state } = service;
  const body = {
    status: state,
    version,
    models: service.modelStates(),
    running: service.admission.running,
    waiting: service.admission.waiting,
    needs_api_key: apiKeys.length > 0,
    votes: votes !== undefined,
    explain: service.models.some(({ explains }) => explains),
    limits,
  };
  return c.json(body, state === 'ok' ? 200 : 503);
}

/** @throws ApiError 404 for a name that no model has. */
function modelObject(service: Service, name: string, created: number) {
  const { facts, explains } = service.modelNamed(name);
  const { state } = service.modelStates().find((each) => each.name === name) ?? {};
  return { id: name, object: 'model', created, owned_by: 'fusion-vl', fusion: { ...facts, explains, state } };
}

async function readJson(c: RequestContext, { bodies }: AppSettings): Promise<unknown> {
  // A form's type would let any web page post here without the browser asking first.
  if (!/^application\/json\s*(;|$)/i.test(c.req.header('Content-Type') ?? '')) {
    throw new ApiError(415, 'expected a body with Content-Type: application/json');
  }
  const bytes = await bodies.read(c.env.incoming);
  // Large ones take tens of milliseconds: others go first.
  await nextTurn();
  const json = parseJson(bytes);
  await nextTurn();
  return json;
}

async function whole(job: Job, wantsLogprobs: boolean) {
  const head = newCompletion(job.model.name);
  const logprobs: TokenLogprob[] = [];
  const answer = await job.answer((event) => {
    logprobs.push(...(event.logprobs ?? []));
  });
  return completion(head, answer, wantsLogprobs ? logprobs : undefined, job.waited);
}

function streamed(job: Job, includeUsage: boolean, settings: AppSettings): Response {
  const head = newCompletion(job.model.name);
  return eventStream(
    async ({ send }) => {
      try {
        await send(openingChunk(head));
        const answer = await job.answer((event) => send(textChunk(head, event)));
        await send(finishChunk(head, answer, job.waited));
        if (includeUsage) await send(usageChunk(head, answer, job.waited));
        await send('[DONE]');
      } catch (error) {
        await send(told(error, settings).body);
      }
    },
    { pingEvery: settings.pingEvery, ping: () => JSON.stringify(job.status()) },
  );
}

async function pageOf(c: RequestContext, opening: AppSettings['page']): Promise<Response> {
  const page = await opening;
  if (page === undefined && c.req.path === '/') return c.text(NO_PAGE);
  const found =
    page === undefined ? undefined : pageResponse(page, c.req.path, c.req.header('If-None-Match'));
  if (found !== undefined) return found;
  throw new ApiError(404, 'no such page', { code: 'not_found' });
}
