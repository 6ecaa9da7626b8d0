/**
 * Requests meant to do harm: each is refused with the right status and within its limits, and the server answers
 * the next question as if nothing had been.
 */
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { crc32, deflateSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { GOLDEN } from './support/checkpoints.ts';
import {
  askServer,
  errorOf,
  inline,
  metric,
  post,
  serverWith,
  showServer,
  stopServers,
  until,
} from './support/server.ts';

const png = readFileSync(join(GOLDEN, 'images/tiny.png'));
const MAX_BODY = 1_000_000;
let server: Awaited<ReturnType<typeof serverWith>>;

beforeAll(async () => {
  server = await serverWith({ bodyDeadline: 300 });
});
afterEach(async () => {
  const log = server.log.splice(0);
  expect((await askServer(server)).status).toBe(200);
  expect(await metric(server, 'fusion_requests_running')).toBe(0);
  expect(await metric(server, 'fusion_requests_waiting')).toBe(0);
  expect(log).toEqual([]);
});
afterAll(stopServers);

const showing = (image_url: unknown) => showServer(server, image_url);

function chunk(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(data.length);
  sum.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, sum]);
}

/** A gray PNG that says it has so many pixels, with rows of zeros for `rows` of them. */
function pngOf(width: number, height: number, rows: number, extra: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header[8] = 8;
  const pixels = deflateSync(Buffer.alloc(rows * (width + 1)));
  const signature = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    extra,
    chunk('IDAT', pixels),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

describe('images', () => {
  const gif = Buffer.from(
    'GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;',
    'latin1',
  );
  test.each([
    ['a gigapixel header', () => pngOf(50_000, 50_000, 1), /at most 1000000 pixels/],
    ['a width of 2 billion', () => pngOf(0x7fffffff, 1, 0), /image/],
    ['a bomb: many pixels in few bytes', () => pngOf(1000, 1001, 1001), /at most 1000000 pixels/],
    ['a GIF of the largest size', () => gif, /at most 1000000 pixels/],
    ['a header and no pixels', () => pngOf(900, 900, 0), /truncated or damaged/],
    ['random bytes', () => Buffer.from('x'.repeat(1000)), /expected an image/],
  ])('%s', async (_, make, message) => {
    expect(await errorOf(await showing(inline(make())))).toMatchObject({
      status: 400,
      message: expect.stringMatching(message),
    });
  });

  test('a text inside that inflates to 64 MB is no matter', async () => {
    const text = Buffer.concat([Buffer.from('Comment\0\0', 'latin1'), deflateSync(Buffer.alloc(64e6))]);
    const start = performance.now();
    const { status } = await showing(inline(pngOf(8, 8, 8, chunk('zTXt', text))));
    expect([200, 400]).toContain(status);
    expect(performance.now() - start).toBeLessThan(2000);
  });

  test('a second image', async () => {
    const part = { type: 'image_url', image_url: inline(png) };
    const content = [{ type: 'text', text: 'Which?' }, part, part];
    const error = await errorOf(await askServer(server, { messages: [{ role: 'user', content }] }));
    expect(error).toMatchObject({
      status: 400,
      param: 'messages[0].content',
      message: expect.stringMatching(/one image a conversation/),
    });
  });
});

/** Writes bytes to a connection of their own and gives what came back until it closed, or 3 s were over. */
function raw(pieces: Iterable<string | Buffer> | AsyncIterable<string | Buffer>, to = server) {
  const { port } = new URL(to.url);
  return new Promise<{ text: string; sent: number }>((resolve) => {
    let text = '';
    let sent = 0;
    const socket = connect(Number(port), '127.0.0.1');
    const end = () => {
      socket.destroy();
      clearTimeout(timer);
      resolve({ text, sent });
    };
    const timer = setTimeout(end, 3000);
    socket.on('error', () => {}).on('close', end);
    socket.setEncoding('latin1').on('data', (piece) => {
      text += piece;
    });
    void (async () => {
      for await (const piece of pieces) {
        if (socket.destroyed) break;
        sent += piece.length;
        if (!socket.write(piece)) await new Promise((go) => socket.once('drain', go).once('close', go));
      }
    })();
  });
}

const HEAD = 'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n';

describe('bodies', () => {
  const completions = () => `${server.url}/v1/chat/completions`;
  const deep = /nested at most 32 deep/;
  test.each([
    ['deep arrays', '['.repeat(100_000), 400, deep],
    ['deep objects', '{"a":'.repeat(100_000), 400, deep],
    ['depth in a field nobody reads', `{"messages": [], "x": ${'['.repeat(40)}${']'.repeat(40)}}`, 400, deep],
    ['depth after a string that seems not to end', `{"a\\\\": ${'['.repeat(99)}`, 400, deep],
    ['a multitude of values', `[${'[],'.repeat(300_000)}1]`, 400, /at most 200000 JSON values/],
    ['invalid UTF-8', Buffer.from('{"messages": "\xff\xfe"}', 'latin1'), 400, /expected UTF-8/],
    ['half a surrogate', Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]), 400, /expected UTF-8/],
    ['no JSON', '{"messages": ', 400, /expected JSON/],
    ['nothing', '', 400, /expected JSON/],
    ['null', 'null', 400, /^body: /],
    ['a number', '7', 400, /^body: /],
    ['a prototype', '{"__proto__": {"messages": [1]}}', 400, /^messages: /],
    ['too many bytes', Buffer.alloc(MAX_BODY + 1, 0x20), 413, /at most 1000000 bytes/],
  ])('%s', async (_, body, status, message) => {
    const error = await errorOf(await post(completions(), body));
    expect(error).toMatchObject({ status, message: expect.stringMatching(message) });
    expect(error.message).not.toMatch(/ {4}at |node:|\.ts/);
  });

  test('brackets within a string are no depth', async () => {
    const content = `\\"${'['.repeat(99)}\\`;
    expect((await askServer(server, { messages: [{ role: 'user', content }] })).status).toBe(200);
  });

  test('another content type', async () => {
    const headers = { 'Content-Type': 'text/plain' };
    expect((await post(completions(), '{"messages": []}', { headers })).status).toBe(415);
  });

  test('100 MB announced are refused before they are sent', async () => {
    const { text, sent } = await raw([`${HEAD}Content-Length: 100000000\r\n\r\n`]);
    expect(text).toMatch(/^HTTP\/1\.1 413 /);
    expect(sent).toBeLessThan(1000);
  });

  test('100 MB in chunks are cut early', async () => {
    function* endless() {
      yield `${HEAD}Transfer-Encoding: chunked\r\n\r\n`;
      const piece = Buffer.concat([
        Buffer.from('10000\r\n'),
        Buffer.alloc(65_536, 0x20),
        Buffer.from('\r\n'),
      ]);
      for (let i = 0; i < 1600; i++) yield piece;
    }
    // This one would wait for the rest of the body for long.
    const patient = await serverWith({ bodyDeadline: 20_000 });
    const start = performance.now();
    const { text, sent } = await raw(endless(), patient);
    expect(text).toMatch(/^HTTP\/1\.1 413 /);
    expect(sent).toBeLessThan(16e6);
    expect(performance.now() - start).toBeLessThan(2000);
  });

  test('a body that drips', async () => {
    async function* slowly() {
      yield `${HEAD}Content-Length: 5000\r\n\r\n`;
      for (let i = 0; i < 100; i++) {
        yield ' ';
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
    const start = performance.now();
    const { text } = await raw(slowly());
    expect(text).toMatch(/^HTTP\/1\.1 408 /);
    expect(performance.now() - start).toBeLessThan(2000);
  });

  test('headers that drip', async () => {
    async function* slowly() {
      yield HEAD;
      for (let i = 0; i < 100; i++) {
        yield `X-${i}: 1\r\n`;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
    const start = performance.now();
    const { text } = await raw(slowly());
    expect(text).toMatch(/^HTTP\/1\.1 408 /);
    expect(performance.now() - start).toBeLessThan(2000);
  });

  test('a client that leaves in the middle of its body', async () => {
    const { port } = new URL(server.url);
    const socket = connect(Number(port), '127.0.0.1');
    socket.write(`${HEAD}Content-Length: 5000\r\n\r\n{`);
    await new Promise((resolve) => setTimeout(resolve, 50));
    socket.destroy();
    await until(async () => (await metric(server, 'fusion_requests_waiting')) === 0);
  });
});

describe('headers and paths', () => {
  const get = (path: string, headers = 'Host: localhost\r\n') =>
    raw([`GET ${path} HTTP/1.1\r\n${headers}Connection: close\r\n\r\n`]);

  test.each([
    ['a line break in a model’s name', '/v1/models/x%0d%0aSet-Cookie:%20a=b', 404],
    ['a line break in a path', '/%0d%0aSet-Cookie:%20a=b', 404],
    ['a way out of the page’s folder', '/../../etc/passwd', 404],
    ['an encoded way out', '/%2e%2e/%2e%2e/etc/passwd', 404],
    ['a broken encoding', '/%ff%', 404],
    ['a NUL', '/%00', 404],
    ['an address of elsewhere', 'http://elsewhere.test/health', 200],
  ])('%s', async (_, path, status) => {
    const { text } = await get(path);
    expect(text).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(text).not.toMatch(/^set-cookie/im);
  });

  test('a line break in a model’s name in the body', async () => {
    const response = await askServer(server, { model: 'x\r\nSet-Cookie: a=b' });
    expect([response.status, response.headers.get('set-cookie')]).toEqual([404, null]);
  });

  test.each([
    ['the name of another host', 'Host: evil.test\r\n', 403],
    ['a name that begins like this host', 'Host: localhost.evil.test\r\n', 403],
    ['a host that is none', 'Host: a b\r\n', 400],
    ['no host', '', 400],
    ['two lengths', 'Host: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n', 400],
    ['a length and chunks', 'Host: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n', 400],
    ['a broken line', 'Host: localhost\r\nX: a\nb\r\n', 400],
    ['long headers', `Host: localhost\r\nX: ${'x'.repeat(100_000)}\r\n`, 431],
    ['a page of another origin', 'Host: localhost\r\nOrigin: http://evil.test\r\n', 403],
    ['a page of no origin', 'Host: localhost\r\nOrigin: null\r\n', 403],
  ])('%s', async (_, headers, status) => {
    const { text } = await get('/health', headers);
    expect(text).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(text).not.toContain('access-control-allow-origin');
  });

  test('every response has the headers that keep browsers in check', async () => {
    const { text } = await get('/absent');
    for (const line of ["content-security-policy: default-src 'none'", 'x-content-type-options: nosniff']) {
      expect(text).toContain(line);
    }
  });
});
