/**
 * Who may ask: API keys, host names, origins; and headers that keep browsers from doing more than they should.
 * Knows nothing of routes.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { ApiError } from './apiError.ts';

/** The page's own scripts, styles and pictures, and nothing from anywhere else. */
export const PAGE_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' blob: data:",
  "font-src 'self'",
  "connect-src 'self'",
  "manifest-src 'self'",
  "worker-src 'self' blob:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** Headers of every response; a page's own policy stands in place of the one here. */
export const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Permissions-Policy': 'camera=(), microphone=(), geolocation=()',
};

const digest = (text: string) => createHash('sha256').update(text).digest();

/**
 * A check of the `Authorization` header against keys, in a time that tells nothing of them; without keys it lets
 * everyone in. It throws ApiError 401.
 */
export function keyCheck(keys: readonly string[]): (authorization: string | undefined) => void {
  const digests = keys.map(digest);
  return (authorization) => {
    if (digests.length === 0) return;
    const given = digest(/^Bearer +(.+)$/i.exec(authorization ?? '')?.[1]?.trim() ?? '');
    // All keys are compared, so that the time does not tell which one came near.
    const matches = digests.map((key) => timingSafeEqual(key, given));
    if (authorization !== undefined && matches.includes(true)) return;
    throw new ApiError(401, 'expected a valid API key in the header Authorization: Bearer KEY', {
      code: 'invalid_api_key',
      headers: { 'WWW-Authenticate': 'Bearer' },
    });
  };
}

/** Whether an address that the server listens at is reachable from this machine only. */
export function isLoopback(host: string): boolean {
  if (host === 'localhost') return true;
  return isIP(host) > 0 && ipaddr.process(host).range() === 'loopback';
}

/**
 * Refuses names other than this machine's own: a web page whose name was made to point here (DNS rebinding) would
 * otherwise pass for the server's own page. host: the request's `Host`. Throws ApiError 403.
 */
export function checkLocalHost(host: string): void {
  const name = host
    .replace(/:\d+$/, '')
    .replace(/^\[(.*)\]$/, '$1')
    .toLowerCase();
  if (isLoopback(name) || name.endsWith('.localhost')) return;
  throw new ApiError(
    403,
    'this server answers to localhost alone; start it with --api-key to use another name',
  );
}

/**
 * Refuses web pages of other origins; programs send no `Origin`. host: the request's `Host`. Throws ApiError 403.
 */
export function checkOrigin(origin: string | undefined, host: string, allowed: readonly string[]): void {
  if (origin === undefined || allowed.includes(origin)) return;
  if (URL.canParse(origin) && new URL(origin).host === host.toLowerCase()) return;
  throw new ApiError(403, 'web pages of other origins are not allowed here; start with --cors ORIGIN');
}
