/**
 * The server as a process sees it: a socket with limits against slow and endless clients, loading, and an orderly
 * end. Knows nothing of routes (`app.ts`) or models.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getRequestListener, type HttpBindings } from '@hono/node-server';
import { messageOf, UserError } from '../common/errors.ts';
import { ApiError } from './apiError.ts';
import { type AppSettings, createApp } from './app.ts';
import { BodyReader } from './body.ts';
import { isLoopback, SECURITY_HEADERS } from './security.ts';
import { Service, type ServiceSettings } from './service.ts';

export interface ServerSettings extends ServiceSettings, Omit<AppSettings, 'bodies' | 'loopback' | 'limits'> {
  /** Address to listen at. */
  readonly host: string;
  /** 0 picks a free one. */
  readonly port: number;
  /** The most bytes of a request's body. */
  readonly maxBody: number;
  /** Milliseconds within which a body must have come; headers have less. */
  readonly bodyDeadline: number;
}

export interface RunningServer {
  readonly url: string;
  /** Resolves when the first model is loaded. @throws why it could not be. */
  readonly loaded: Promise<void>;
  /** Takes no more requests, finishes those under way, frees everything. May be called again. */
  stop(): Promise<void>;
  /** Ends requests under way; to be followed by `stop`. */
  abort(): void;
}

const HEADERS_DEADLINE = 10_000;
/** What a client may still send after its request was refused, so that it reads the answer first. */
const LINGER = { bytes: 1_000_000, milliseconds: 500 };
/** Milliseconds that reading a response may take longer than making it. */
const READING_GRACE = 60_000;
const MAX_CONNECTIONS = 1000;

/**
 * Listens, and begins to load the first model.
 *
 * @throws UserError where the address cannot be listened at.
 */
export async function startServer(settings: ServerSettings): Promise<RunningServer> {
  const service = new Service(settings);
  const { server, closeUnused } = makeServer(service, settings);
  try {
    await listen(server, settings);
  } catch (error) {
    await service.close();
    throw error;
  }
  const loaded = service.load();
  // Whoever waits for it is told; nobody has to.
  loaded.catch(() => {});
  let stopped: Promise<void> | undefined;
  const stop = async () => {
    service.stop();
    const closed = once(server, 'close');
    server.close();
    closeUnused();
    await Promise.all([closed, loaded.catch(() => {})]);
    await service.close();
  };
  return {
    url: urlOf(settings.host, server.address() as AddressInfo),
    loaded,
    stop: () => {
      stopped ??= stop();
      return stopped;
    },
    abort: () => service.scopes.abort(),
  };
}

/** closeUnused: closes all connections if the server stops and none of them has a request. */
function makeServer(service: Service, settings: ServerSettings): { server: Server; closeUnused: () => void } {
  const { bodyDeadline, timeout } = settings;
  const listener = makeListener(service, settings);
  const headersTimeout = Math.min(HEADERS_DEADLINE, bodyDeadline);
  const options = {
    headersTimeout,
    requestTimeout: headersTimeout + bodyDeadline,
    connectionsCheckingInterval: Math.min(1000, headersTimeout),
  };
  let active = 0;
  // Node would wait for connections that were opened and never used; browsers keep such.
  const closeUnused = () => {
    if (service.state === 'stopping' && active === 0) server.closeAllConnections();
  };
  const server = createServer(options, (incoming, outgoing) => {
    guard(incoming, outgoing, bodyDeadline + timeout + READING_GRACE);
    active += 1;
    outgoing.once('close', () => {
      active -= 1;
      closeUnused();
    });
    void listener(incoming, outgoing);
  });
  server.maxConnections = MAX_CONNECTIONS;
  return { server, closeUnused };
}

function makeListener(service: Service, settings: ServerSettings) {
  const { host, maxBody, bodyDeadline, maxPixels, images, admission, timeout } = settings;
  const limits = {
    body_bytes: maxBody,
    image_bytes: images.maxBytes,
    image_pixels: maxPixels,
    remote_images: images.remote !== undefined,
    sequences: admission.slots,
    queue: admission.queue,
    seconds: timeout / 1000,
  };
  const bodies = new BodyReader({ maxBytes: maxBody, deadline: bodyDeadline });
  const app = createApp(service, { ...settings, bodies, limits, loopback: isLoopback(host) });
  return getRequestListener((request, env) => app.fetch(request, env as HttpBindings), {
    overrideGlobalObjects: false,
    autoCleanupIncoming: false,
    errorHandler: malformed,
  });
}

async function listen(server: Server, { host, port }: ServerSettings): Promise<void> {
  try {
    server.listen(port, host);
    await once(server, 'listening');
  } catch (error) {
    const advice = 'choose another --host or --port';
    throw new UserError(`${host}:${port}: cannot listen here (${messageOf(error)}); ${advice}`);
  }
}

function urlOf(host: string, { port }: AddressInfo): string {
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** A request that is no HTTP, such as one with a host that is none. */
function malformed(): Response {
  const response = new ApiError(400, 'the request is malformed').response();
  for (const [name, value] of Object.entries(SECURITY_HEADERS)) response.headers.set(name, value);
  return response;
}

/**
 * Closes connections whose request was answered before it had come whole, and those whose client does not read its
 * response. lifetime: milliseconds.
 */
function guard(incoming: IncomingMessage, outgoing: ServerResponse, lifetime: number): void {
  const late = setTimeout(() => outgoing.destroy(), lifetime);
  outgoing.once('close', () => clearTimeout(late));
  outgoing.once('finish', () => {
    if (incoming.complete) return;
    let bytes = 0;
    const cut = () => incoming.socket.destroy();
    const timer = setTimeout(cut, LINGER.milliseconds);
    incoming.once('end', () => clearTimeout(timer)).once('close', () => clearTimeout(timer));
    incoming.on('error', () => {});
    incoming.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > LINGER.bytes) cut();
    });
  });
}
