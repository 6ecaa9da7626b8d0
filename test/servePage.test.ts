/** What the server gives besides answers: the page, votes, keys, origins, metrics. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { readPage } from '../src/serve/page.ts';
import { fakeModel } from './support/fakeModel.ts';
import { askServer, errorOf, post, serverWith, stopServers } from './support/server.ts';

const dir = mkdtempSync(join(tmpdir(), 'fusion-serve-'));
afterEach(stopServers);
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('the page', () => {
  const site = join(dir, 'site');
  mkdirSync(join(site, 'assets'), { recursive: true });
  writeFileSync(join(dir, 'outside.txt'), 'outside');
  writeFileSync(join(site, 'index.html'), '<h1>FUSION</h1>');
  writeFileSync(join(site, 'assets/main-a1B2c3D4.js'), 'let x = 1;');
  writeFileSync(join(site, 'notes.secret'), 'not served');
  symlinkSync(join(dir, 'outside.txt'), join(site, 'link.txt'));

  test('is served with its type, a policy and an ETag', async () => {
    const { url } = await serverWith({ page: await readPage(site) });
    const index = await fetch(url);
    expect(await index.text()).toBe('<h1>FUSION</h1>');
    expect(Object.fromEntries(index.headers)).toMatchObject({
      'content-type': 'text/html; charset=utf-8',
      'cache-control': 'no-cache',
      'content-security-policy': expect.stringContaining("img-src 'self' blob: data:"),
      'x-content-type-options': 'nosniff',
    });
    const script = await fetch(`${url}/assets/main-a1B2c3D4.js`);
    expect(script.headers.get('content-type')).toBe('text/javascript; charset=utf-8');
    expect(script.headers.get('cache-control')).toContain('immutable');
    const headers = { 'If-None-Match': `W/"other", ${index.headers.get('etag')}` };
    const again = await fetch(url, { headers });
    expect([again.status, await again.text()]).toEqual([304, '']);
    const head = await fetch(url, { method: 'HEAD' });
    expect([head.status, head.headers.get('etag')]).toEqual([200, index.headers.get('etag')]);
  });

  test.each(['/notes.secret', '/link.txt', '/assets', '/absent.html', '/../outside.txt'])(
    '%s is not there',
    async (at) => {
      const { url } = await serverWith({ page: await readPage(site) });
      expect((await fetch(url + at)).status).toBe(404);
    },
  );

  test('where there is none, the address says so', async () => {
    expect(await readPage(join(dir, 'nowhere'))).toBeUndefined();
    const { url } = await serverWith();
    expect(await (await fetch(url)).text()).toMatch(/no web page/);
  });
});

describe('votes', () => {
  const messages = [
    {
      role: 'user',
      content: [
        { type: 'text', text: 'What\nis it?' },
        { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } },
      ],
    },
    { role: 'assistant', content: 'A dog.' },
  ];

  test('are kept a line each, images as their hash', async () => {
    const file = join(dir, 'votes.jsonl');
    const { url } = await serverWith({ votes: file });
    const vote = (body: object) => post(`${url}/v1/fusion/votes`, body);
    const votes = ['like', 'dislike', 'flag'].map((kind) =>
      vote({ vote: kind, messages, model: 'm', extra: 'x' }),
    );
    for (const response of await Promise.all(votes))
      expect(await response.json()).toEqual({ recorded: true });
    const lines = readFileSync(file, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines.map((line) => line.vote).toSorted()).toEqual(['dislike', 'flag', 'like']);
    expect(lines[0]).toEqual({
      time: expect.stringMatching(/^\d{4}-.*Z$/),
      vote: expect.any(String),
      model: 'm',
      comment: null,
      messages: [
        {
          role: 'user',
          content: [
            { type: 'text', text: 'What\nis it?' },
            { type: 'image', sha256: expect.stringMatching(/^[0-9a-f]{64}$/) },
          ],
        },
        { role: 'assistant', content: 'A dog.' },
      ],
    });
    expect(await errorOf(await vote({ vote: 'love', messages }))).toMatchObject({
      status: 400,
      param: 'vote',
    });
    expect(await errorOf(await vote({ vote: 'like' }))).toMatchObject({ status: 400, param: 'messages' });
  });

  test('are refused where nobody keeps them, and where the file is full', async () => {
    const { url } = await serverWith();
    expect(await errorOf(await post(`${url}/v1/fusion/votes`, { vote: 'like', messages }))).toMatchObject({
      status: 404,
      message: expect.stringMatching(/--votes FILE/),
    });
    const full = join(dir, 'full.jsonl');
    writeFileSync(full, Buffer.alloc(100e6));
    const server = await serverWith({ votes: full });
    const response = await post(`${server.url}/v1/fusion/votes`, { vote: 'like', messages });
    expect(response.status).toBe(507);
    rmSync(full);
  });
});

describe('doors', () => {
  test('a key opens the API and the metrics; page and health are open', async () => {
    const server = await serverWith({ apiKeys: ['first', 'second'] });
    const get = (at: string, key?: string) =>
      fetch(server.url + at, key === undefined ? {} : { headers: { Authorization: `Bearer ${key}` } });
    for (const at of ['/v1/models', '/metrics']) {
      expect(await errorOf(await get(at))).toMatchObject({ status: 401, code: 'invalid_api_key' });
      for (const key of ['third', 'first,second', 'firs', 'first ']) {
        expect([key, (await get(at, key)).status]).toEqual([key, key === 'first ' ? 200 : 401]);
      }
      for (const key of ['first', 'second']) expect((await get(at, key)).status).toBe(200);
    }
    expect((await get('/health')).status).toBe(200);
    expect((await get('/')).status).toBe(200);
    expect(await (await get('/health')).json()).toMatchObject({ needs_api_key: true });
  });

  test('other origins are shut out unless named', async () => {
    const origin = 'https://page.test';
    const shut = await serverWith();
    const open = await serverWith({ origins: [origin] });
    const headers = { Origin: origin };
    const refused = await askServer(shut, {}, { headers });
    expect([refused.status, refused.headers.get('access-control-allow-origin')]).toEqual([403, null]);
    const allowed = await askServer(open, {}, { headers });
    expect([allowed.status, allowed.headers.get('access-control-allow-origin')]).toEqual([200, origin]);
    expect((await askServer(open, {}, { headers: { Origin: 'https://other.test' } })).status).toBe(403);
    const own = await askServer(shut, {}, { headers: { Origin: shut.url } });
    expect(own.status).toBe(200);
    const preflight = await fetch(`${open.url}/v1/chat/completions`, {
      method: 'OPTIONS',
      headers: {
        ...headers,
        'Access-Control-Request-Method': 'POST',
        'Access-Control-Request-Headers': 'authorization,content-type',
      },
    });
    expect([preflight.status, preflight.headers.get('access-control-allow-headers')]).toEqual([
      204,
      'authorization,content-type',
    ]);
  });
});

test('metrics count requests, answers, tokens and times', async () => {
  const server = await serverWith({ models: [fakeModel()] });
  await askServer(server);
  await askServer(server, { stream: true }).then((response) => response.text());
  await askServer(server, { n: 3 });
  await fetch(`${server.url}/v1/${'x'.repeat(50)}`);
  const text = await (await fetch(`${server.url}/metrics`)).text();
  for (const line of [
    'fusion_requests_total{route="/v1/chat/completions",status="200"} 2',
    'fusion_requests_total{route="/v1/chat/completions",status="400"} 1',
    'fusion_requests_total{route="other",status="404"} 1',
    'fusion_answers_total{finish="stop"} 2',
    'fusion_requests_running 0',
    'fusion_requests_waiting 0',
    'fusion_prompt_tokens_total 10',
    'fusion_completion_tokens_total 6',
    'fusion_time_to_first_token_seconds_count 2',
    'fusion_time_per_token_seconds_bucket{le="0.0025"} 2',
    'fusion_time_per_token_seconds_sum 0.004',
  ]) {
    expect(text).toContain(`${line}\n`);
  }
  expect(Number(/^process_resident_memory_bytes (\d+)$/m.exec(text)?.[1])).toBeGreaterThan(1e7);
});
