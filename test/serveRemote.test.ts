/**
 * Addresses of images meant to make the server look where it should not: each is refused for the right reason, and
 * nothing inside is ever asked.
 */
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { isPublicAddress } from '../src/serve/publicAddress.ts';
import type { RemoteImageRules } from '../src/serve/remoteImage.ts';
import type { RunningServer } from '../src/serve/server.ts';
import { GOLDEN } from './support/checkpoints.ts';
import { type FakeModel, fakeModel } from './support/fakeModel.ts';
import { askServer, errorOf, inline, metric, serverWith, showServer, stopServers } from './support/server.ts';

const png = readFileSync(join(GOLDEN, 'images/tiny.png'));

let server: RunningServer & { log: unknown[] };
let model: FakeModel;

/** The public internet of these tests. */
const WEB = '127.0.0.2';
let web: Server;
let secret: Server;
let webPort = 0;
let secretPort = 0;
let secretHits = 0;
/** What each name resolves to, one answer after another. */
const names = new Map<string, string[][]>();
let lookups: string[] = [];

const rules = (): RemoteImageRules => ({
  maxBytes: 100_000,
  deadline: 400,
  maxRedirects: 2,
  ports: new Set([80, 443, webPort, secretPort]),
  resolve: async (name) => {
    lookups.push(name);
    const answers = names.get(name) ?? [];
    return (answers.length > 1 ? answers.shift() : answers[0]) ?? [];
  },
  mayConnect: (address) => address === WEB || isPublicAddress(address),
});

const REDIRECTS: Readonly<Record<string, () => string>> = {
  '/to-secret': () => `http://127.0.0.1:${secretPort}/`,
  '/to-decimal': () => `http://2130706433:${secretPort}/`,
  '/to-mapped': () => `http://[::ffff:127.0.0.1]:${secretPort}/`,
  '/to-name': () => `http://inside.test:${secretPort}/`,
  '/to-file': () => 'file:///etc/passwd',
  '/to-data': () => 'data:image/png;base64,AAAA',
  '/to-nowhere': () => 'http://',
  '/hop': () => `http://hop.test:${webPort}/good.png`,
  '/loop': () => '/loop',
  '/twice': () => '/once',
  '/once': () => '/good.png',
};

beforeAll(async () => {
  web = createServer((request, response) => {
    const at = request.url ?? '';
    const target = REDIRECTS[at];
    if (target !== undefined) return response.writeHead(302, { Location: target() }).end();
    if (at === '/good.png') return response.end(png);
    if (at === '/large') return response.end(Buffer.alloc(100_001));
    if (at === '/gzip') return response.writeHead(200, { 'Content-Encoding': 'gzip' }).end(png);
    if (at === '/page') return response.end('<html>');
    if (at === '/drip') return drip(response);
    if (at === '/silent') return undefined;
    return response.writeHead(404).end();
  });
  secret = createServer((_, response) => {
    secretHits += 1;
    response.end(png);
  });
  for (const [each, host] of [
    [web, WEB],
    [secret, '127.0.0.1'],
  ] as const) {
    await new Promise<void>((resolve) => each.listen(0, host, resolve));
  }
  webPort = (web.address() as AddressInfo).port;
  secretPort = (secret.address() as AddressInfo).port;
  model = fakeModel();
  server = await serverWith({
    models: [model],
    bodyDeadline: 300,
    images: { maxBytes: 500_000, remote: rules() },
  });
});
afterEach(async () => {
  const log = server.log.splice(0);
  expect((await askServer(server)).status).toBe(200);
  expect(await metric(server, 'fusion_requests_running')).toBe(0);
  expect(await metric(server, 'fusion_requests_waiting')).toBe(0);
  expect([secretHits, log]).toEqual([0, []]);
  lookups = [];
});
afterAll(async () => {
  await stopServers();
  for (const each of [web, secret]) {
    each.closeAllConnections();
    each.close();
  }
});

function drip(response: import('node:http').ServerResponse): void {
  response.writeHead(200);
  const timer = setInterval(() => response.write('x'), 50);
  response.on('close', () => clearInterval(timer));
}

const showing = (image_url: unknown) => showServer(server, image_url);

const INSIDE = /not on the public internet/;
const NO_WEB = /no http or https address/;
const OTHER = /expected a data URI .* or an http\(s\) address/;

describe('web addresses', () => {
  test.each(['/good.png', '/once', '/twice'])('a public image at %s is fetched', async (at) => {
    names.set('web.test', [[WEB]]);
    const response = await showing({ url: `http://web.test:${webPort}${at}` });
    expect(response.status).toBe(200);
    expect(model.asked.at(-1)?.conversation.picture).toBeDefined();
  });

  test.each([
    ['loopback', () => `http://127.0.0.1:${secretPort}/`, INSIDE],
    ['a name for loopback', () => `http://localhost:${secretPort}/`, INSIDE],
    ['a short form', () => `http://127.1:${secretPort}/`, INSIDE],
    ['a decimal form', () => `http://2130706433:${secretPort}/`, INSIDE],
    ['an octal form', () => `http://017700000001:${secretPort}/`, INSIDE],
    ['a hexadecimal form', () => `http://0x7f.0x0.0x0.0x1:${secretPort}/`, INSIDE],
    ['full-width digits', () => `http://１２７.0.0.1:${secretPort}/`, INSIDE],
    ['IPv6 loopback', () => `http://[::1]:${secretPort}/`, INSIDE],
    ['IPv4 mapped to IPv6', () => `http://[::ffff:127.0.0.1]:${secretPort}/`, INSIDE],
    ['IPv4 mapped, in hexadecimal', () => `http://[::ffff:7f00:1]:${secretPort}/`, INSIDE],
    ['IPv4 within IPv6', () => `http://[::127.0.0.1]:${secretPort}/`, INSIDE],
    ['NAT64', () => `http://[64:ff9b::7f00:1]:${secretPort}/`, INSIDE],
    ['6to4', () => `http://[2002:7f00:1::]:${secretPort}/`, INSIDE],
    ['a zone', () => 'http://[fe80::1%25lo]/', NO_WEB],
    ['link-local, where clouds keep credentials', () => 'http://169.254.169.254/latest/meta-data', INSIDE],
    ['a private network', () => 'http://10.0.0.1/', INSIDE],
    ['the unspecified address', () => `http://0.0.0.0:${secretPort}/`, INSIDE],
    ['a name that leads inside', () => `http://inside.test:${secretPort}/`, INSIDE],
    ['a name that leads inside and outside', () => `http://both.test:${webPort}/good.png`, INSIDE],
    ['a name without an address', () => 'http://absent.test/', /could not be fetched/],
    ['a user name', () => `http://web.test@${WEB}:${webPort}/good.png`, /has a user name/],
    ['another port', () => `http://${WEB}:22/`, /has a port other than/],
    ['a redirect inside', () => `http://${WEB}:${webPort}/to-secret`, INSIDE],
    ['a redirect inside, decimal', () => `http://${WEB}:${webPort}/to-decimal`, INSIDE],
    ['a redirect inside, mapped', () => `http://${WEB}:${webPort}/to-mapped`, INSIDE],
    ['a redirect to a name inside', () => `http://${WEB}:${webPort}/to-name`, INSIDE],
    ['a redirect to a file', () => `http://${WEB}:${webPort}/to-file`, NO_WEB],
    ['a redirect to data', () => `http://${WEB}:${webPort}/to-data`, NO_WEB],
    ['a redirect to nothing', () => `http://${WEB}:${webPort}/to-nowhere`, NO_WEB],
    ['redirects without end', () => `http://${WEB}:${webPort}/loop`, /redirected more than 2 times/],
    ['too many bytes', () => `http://${WEB}:${webPort}/large`, /more than 100000 bytes/],
    ['a compressed response', () => `http://${WEB}:${webPort}/gzip`, /came compressed/],
    ['no image', () => `http://${WEB}:${webPort}/page`, /expected an image/],
    ['not found', () => `http://${WEB}:${webPort}/absent`, /status 404/],
    ['bytes that drip', () => `http://${WEB}:${webPort}/drip`, /took too long/],
    ['no answer', () => `http://${WEB}:${webPort}/silent`, /took too long/],
    ['a file', () => 'file:///etc/passwd', OTHER],
    ['a FILE', () => 'FILE:///etc/passwd', OTHER],
    ['a path', () => '/etc/passwd', OTHER],
    ['another protocol', () => 'gopher://127.0.0.1/', OTHER],
    ['no protocol', () => '//127.0.0.1/x.png', OTHER],
    ['a data URI of another type', () => 'data:text/html;base64,AAAA', /another data URI/],
    ['a data URI without base64', () => 'data:image/png,%89PNG', /another data URI/],
    ['a data URI with other characters', () => 'data:image/png;base64,AA\r\nAA', /other characters/],
    ['a data URI of nothing', () => 'data:image/png;base64,', /expected base64/],
    ['a data URI of too many bytes', () => inline(new Uint8Array(500_010)), /at most 500000 bytes/],
    [
      'an SVG',
      () => inline(Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'), 'svg+xml'),
      /expected an image/,
    ],
  ])('%s is refused', async (_, url, message) => {
    names.set('inside.test', [['127.0.0.1']]);
    names.set('both.test', [[WEB, '10.1.2.3']]);
    names.set('localhost', [['127.0.0.1', '::1']]);
    const error = await errorOf(await showing(url()));
    expect(error).toMatchObject({
      status: 400,
      type: 'invalid_request_error',
      message: expect.stringMatching(message),
    });
    expect(error.message).not.toMatch(/127\.0\.0\.1|ECONN|passwd/);
  });

  test('a name that changes its address after the check still leads to what was checked', async () => {
    names.set('rebinding.test', [[WEB], ['127.0.0.1']]);
    expect((await showing(`http://rebinding.test:${webPort}/good.png`)).status).toBe(200);
    expect(lookups).toEqual(['rebinding.test']);
  });

  test('every redirect is checked anew', async () => {
    names.set('hop.test', [[WEB], ['127.0.0.1']]);
    const response = await showing(`http://hop.test:${webPort}/hop`);
    expect(response.status).toBe(400);
    expect(lookups).toEqual(['hop.test', 'hop.test']);
  });

  test('are not fetched at all unless that is wanted', async () => {
    const closed = await serverWith();
    const content = [
      { type: 'text', text: 'What?' },
      { type: 'image_url', image_url: `http://${WEB}:${webPort}/good.png` },
    ];
    const error = await errorOf(await askServer(closed, { messages: [{ role: 'user', content }] }));
    expect(error).toMatchObject({ status: 400, message: expect.stringMatching(/--allow-remote-images/) });
  });
});

describe('addresses', () => {
  test.each(['8.8.8.8', '1.1.1.1', '2606:4700::1111'])('%s is public', (address) => {
    expect(isPublicAddress(address)).toBe(true);
  });
  test.each([
    '127.0.0.1',
    '10.0.0.1',
    '100.64.0.1',
    '169.254.1.1',
    '172.31.255.255',
    '192.168.0.1',
    '192.0.2.1',
    '198.18.0.1',
    '224.0.0.1',
    '240.0.0.1',
    '255.255.255.255',
    '0.0.0.0',
    '::',
    '::1',
    '::8.8.8.8',
    '::ffff:10.0.0.1',
    'fe80::1',
    'fe80::1%eth0',
    'fc00::1',
    'fec0::1',
    'ff02::1',
    '2001::1',
    '2001:db8::1',
    '2002:808:808::',
    '64:ff9b::808:808',
    '4000::1',
    '2130706433',
    '0x7f.1',
    '127.1',
    '',
    'localhost',
  ])('%s is not', (address) => {
    expect(isPublicAddress(address)).toBe(false);
  });
});
