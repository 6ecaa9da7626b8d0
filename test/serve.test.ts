/** The server from the outside: the official client, streams, the queue, clients that leave, an orderly end. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import OpenAI from 'openai';
import { afterEach, describe, expect, test } from 'vitest';
import { UserError } from '../src/common/errors.ts';
import { GOLDEN } from './support/checkpoints.ts';
import { door, fakeModel } from './support/fakeModel.ts';
import { askServer, errorOf, metric, post, serverWith, stopServers, until } from './support/server.ts';

afterEach(stopServers);

const png = readFileSync(join(GOLDEN, 'images/tiny.png')).toString('base64');
const dataUri = `data:image/png;base64,${png}`;
const client = ({ url }: { url: string }, apiKey = 'any') =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const question = [{ role: 'user' as const, content: 'Hello?' }];

describe('the official client', () => {
  test('gets a whole answer', async () => {
    const model = fakeModel();
    const openai = client(await serverWith({ models: [model] }));
    const result = await openai.chat.completions.create({
      model: 'fake',
      messages: question,
      temperature: 0.5,
      top_p: 0.9,
      seed: 3,
      max_tokens: 2,
      stop: ['x', 'y'],
      logprobs: true,
      top_logprobs: 1,
      user: 'someone',
      metadata: { of: 'no interest' },
    });
    expect(result).toMatchObject({
      object: 'chat.completion',
      model: 'fake',
      choices: [{ index: 0, message: { role: 'assistant', content: 'Hello, ' }, finish_reason: 'length' }],
      usage: { prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 },
      timings: { prompt_ms: 2, predicted_ms: 4, predicted_n: 2 },
    });
    const bytes = [...Buffer.from('Hello')];
    expect(result.choices[0]?.logprobs?.content).toEqual([
      { token: 'Hello', logprob: -0.5, bytes, top_logprobs: [] },
      expect.objectContaining({ token: ', ' }),
    ]);
    expect(model.asked[0]?.options).toMatchObject({
      temperature: 0.5,
      topP: 0.9,
      seed: 3,
      maxTokens: 2,
      stop: ['x', 'y'],
      logprobs: 1,
    });
  });

  test('gets a stream: a role, text, the end with times, usage where it is wanted', async () => {
    const openai = client(await serverWith());
    const ask = { model: 'fake', messages: question, stream: true as const };
    const chunks = [];
    for await (const chunk of await openai.chat.completions.create({
      ...ask,
      stream_options: { include_usage: true },
    })) {
      chunks.push(chunk);
    }
    expect(chunks[0]?.choices[0]?.delta).toEqual({ role: 'assistant', content: '' });
    expect(chunks.slice(1, 4).map(({ choices }) => choices[0]?.delta.content)).toEqual([
      'Hello',
      ', ',
      'world',
    ]);
    expect(chunks[4]).toMatchObject({
      choices: [{ delta: {}, finish_reason: 'stop' }],
      timings: { prompt_n: 5 },
    });
    expect(chunks[5]).toMatchObject({ choices: [], usage: { total_tokens: 8 }, timings: { predicted_n: 3 } });
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
    let last: unknown;
    for await (const chunk of await openai.chat.completions.create(ask)) last = chunk;
    expect(last).toMatchObject({ choices: [{ finish_reason: 'stop' }], timings: { predicted_n: 3 } });
  });

  test.each([
    ['an object', { url: dataUri, detail: 'low' as const }],
    ['a bare text', dataUri as unknown as { url: string }],
  ])('shows an image given as %s', async (_, image_url) => {
    const model = fakeModel();
    const openai = client(await serverWith({ models: [model] }));
    const content = [
      { type: 'text' as const, text: 'What is <image> this?' },
      { type: 'image_url' as const, image_url },
    ];
    await openai.chat.completions.create({ model: 'fake', messages: [{ role: 'user', content }] });
    const { messages, picture } = model.asked[0]!.conversation;
    expect(messages).toEqual([{ role: 'user', text: '<image>\nWhat is < image> this?' }]);
    expect(picture?.crops).toHaveLength(5 * 3 * 8 * 8);
  });

  test('says several turns, and a system text', async () => {
    const model = fakeModel();
    const openai = client(await serverWith({ models: [model] }));
    const messages = [
      { role: 'system' as const, content: 'Be' },
      { role: 'developer' as const, content: 'brief.' },
      { role: 'user' as const, content: 'One?' },
      { role: 'assistant' as const, content: 'Two.' },
      { role: 'user' as const, content: 'Three?' },
    ];
    await openai.chat.completions.create({ model: 'fake', messages });
    expect(model.asked[0]).toMatchObject({
      conversation: {
        messages: [
          { role: 'user', text: 'One?' },
          { role: 'assistant', text: 'Two.' },
          { role: 'user', text: 'Three?' },
        ],
      },
      options: { systemText: 'Be\n\nbrief.' },
    });
  });

  test('gets its own kinds of error', async () => {
    const server = await serverWith({ apiKeys: ['secret', 'other'] });
    const openai = client(server, 'other');
    const ask = (body: object) =>
      openai.chat.completions.create({ model: 'fake', messages: question, ...body });
    await expect(ask({ n: 2 })).rejects.toThrow(OpenAI.BadRequestError);
    await expect(ask({ n: 2 })).rejects.toMatchObject({ param: 'n', code: 'unsupported_parameter' });
    await expect(ask({ model: 'gpt' })).rejects.toMatchObject({ status: 404, code: 'model_not_found' });
    const stranger = client(server, 'guess');
    await expect(stranger.models.list()).rejects.toThrow(OpenAI.AuthenticationError);
    expect((await openai.models.list()).data).toMatchObject([{ id: 'fake', object: 'model' }]);
    expect(await openai.models.retrieve('fake')).toMatchObject({ id: 'fake', fusion: { variant: 'fake' } });
    await expect(openai.models.retrieve('a/b')).rejects.toThrow(OpenAI.NotFoundError);
  });

  test('leaves a stream, and the answer ends', async () => {
    const { pause, open } = door();
    let words = 0;
    const model = fakeModel({ pause: () => (++words > 1 ? pause() : Promise.resolve()) });
    const openai = client(await serverWith({ models: [model] }));
    const stream = await openai.chat.completions.create({ model: 'fake', messages: question, stream: true });
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content === 'Hello') break;
    await until(() => model.asked[0]?.options.signal?.aborted ?? false);
    open();
    await until(() => model.running === 0);
  });
});

describe('the queue', () => {
  test('has a bound: more are sent away with the time to wait', async () => {
    const { pause, open } = door();
    const model = fakeModel({ pause });
    const server = await serverWith({ models: [model] });
    const answers = [askServer(server), askServer(server), askServer(server), askServer(server)];
    await until(async () => (await metric(server, 'fusion_requests_waiting')) === 2);
    const refused = await askServer(server);
    expect(Number(refused.headers.get('Retry-After'))).toBeGreaterThanOrEqual(1);
    expect(await errorOf(refused)).toMatchObject({
      status: 429,
      type: 'rate_limit_error',
      code: 'queue_full',
    });
    expect(await metric(server, 'fusion_requests_running')).toBe(2);
    open();
    for (const answer of answers) expect((await answer).status).toBe(200);
    expect(model.most).toBe(2);
    expect((await askServer(server)).status).toBe(200);
  });

  test('tells a stream how many are before it, while it waits', async () => {
    const { pause, open } = door();
    const server = await serverWith({
      models: [fakeModel({ pause })],
      admission: { slots: 1, queue: 5 },
      pingEvery: 20,
    });
    const first = askServer(server);
    const second = askServer(server);
    await until(async () => (await metric(server, 'fusion_requests_waiting')) === 1);
    const response = await askServer(server, { stream: true });
    let text = '';
    for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
      text += piece;
      if (text.includes(': {"waiting":2}\n\n')) open();
    }
    expect(text).toMatch(/data: \[DONE\]\n\n$/);
    await Promise.all([first, second]);
  });

  test.each([
    ['waits', 1],
    ['is answered', 0],
  ])('a client that leaves while it %s gives its place back', async (_, before) => {
    const { pause, open } = door();
    const model = fakeModel({ pause });
    const server = await serverWith({ models: [model], admission: { slots: 1, queue: 1 } });
    const others = Array.from({ length: before }, () => askServer(server));
    await until(() => model.running === before);
    const leaving = new AbortController();
    const left = askServer(server, {}, { signal: leaving.signal });
    left.catch(() => {});
    await until(async () => (await metric(server, 'fusion_requests_running')) === 1);
    await until(async () => (await metric(server, 'fusion_requests_waiting')) === before);
    leaving.abort();
    await expect(left).rejects.toThrow();
    if (before === 1) await until(async () => (await metric(server, 'fusion_requests_waiting')) === 0);
    open();
    await until(async () => (await metric(server, 'fusion_requests_running')) === 0);
    await Promise.all(others);
    expect((await askServer(server)).status).toBe(200);
  });

  test('a request has its time', async () => {
    const { pause, open } = door();
    const model = fakeModel({ pause });
    const server = await serverWith({ models: [model], timeout: 60 });
    const [whole, stream] = [askServer(server), askServer(server, { stream: true })];
    await until(
      () => model.asked.every(({ options }) => options.signal?.aborted) && model.asked.length === 2,
    );
    open();
    expect(await errorOf(await whole)).toMatchObject({ status: 504, type: 'timeout_error', code: 'timeout' });
    const text = await (await stream).text();
    expect(text).toMatch(/data: {"error":{"message":"expected the answer within 0.06 s[^\n]*\n\n$/);
  });
});

describe('health', () => {
  test('is 503 with the progress while loading, and questions wait', async () => {
    const { pause, open } = door();
    const model = fakeModel();
    const load: typeof model.load = async (onProgress) => {
      onProgress({ phase: 'load', done: 3, total: 9, unit: 'tensors' });
      await pause();
      return model.load(onProgress);
    };
    const server = await serverWith({ models: [{ ...model, load }] }, false);
    const response = await fetch(`${server.url}/health`);
    expect(response.status).toBe(503);
    expect(await response.json()).toMatchObject({
      status: 'loading',
      version: '1.2.3',
      models: [{ name: 'fake', state: 'loading', progress: { done: 3, total: 9, unit: 'tensors' } }],
    });
    const answer = askServer(server);
    open();
    expect((await answer).status).toBe(200);
    const after = await fetch(`${server.url}/health`);
    expect([after.status, await after.json()]).toMatchObject([200, { status: 'ok', limits: { queue: 2 } }]);
  });

  test('a model that cannot be loaded is told to the caller', async () => {
    const cause = new UserError('model.safetensors: damaged');
    const failing = fakeModel({ loading: () => Promise.reject(cause) });
    const server = await serverWith({ models: [failing] }, false);
    await expect(server.loaded).rejects.toMatchObject({ cause });
    const response = await errorOf(await askServer(server));
    expect(response).toMatchObject({ status: 503, code: 'model_not_loaded' });
    expect(response.message).not.toContain('safetensors');
    expect(server.log).toEqual([cause]);
  });
});

test('what fails inside is logged and not told; the model is loaded again', async () => {
  let failures = 1;
  const model = fakeModel({
    failure: () => (failures-- > 0 ? new Error('internal: secret detail') : undefined),
  });
  const server = await serverWith({ models: [model] });
  const error = await errorOf(await askServer(server));
  expect(error).toMatchObject({ status: 500, type: 'server_error' });
  expect(JSON.stringify(error)).not.toContain('secret');
  expect(String(server.log[0])).toContain('secret detail');
  expect((await askServer(server)).status).toBe(200);
  expect([model.loads, model.live]).toEqual([2, 1]);
});

test('several models: each by its name, the unused one leaves where memory is short', async () => {
  const [small, large] = [fakeModel({ name: 'small', bytes: 3 }), fakeModel({ name: 'large', bytes: 8 })];
  const server = await serverWith({ models: [small, large], memoryLimit: 10 });
  expect([small.live, large.live]).toEqual([1, 0]);
  const answer = await (await askServer(server, { model: 'large' })).json();
  expect(answer).toMatchObject({ model: 'large' });
  expect([small.live, large.live]).toEqual([0, 1]);
  expect(await (await askServer(server)).json()).toMatchObject({ model: 'small' });
  expect([small.live, large.live]).toEqual([1, 0]);
});

describe('the end', () => {
  test('finishes what runs, takes nothing new, frees the models', async () => {
    const { pause, open } = door();
    const model = fakeModel({ pause });
    const server = await serverWith({ models: [model] });
    const [whole, stream] = [askServer(server), askServer(server, { stream: true })];
    await until(() => model.running === 2);
    const stopped = server.stop();
    await expect(askServer(server)).rejects.toThrow('fetch failed');
    open();
    expect((await whole).status).toBe(200);
    expect(await (await stream).text()).toMatch(/\[DONE\]\n\n$/);
    await stopped;
    expect(model.live).toBe(0);
  });

  test('a second wish ends what runs', async () => {
    const { pause, open } = door();
    const model = fakeModel({ pause });
    const server = await serverWith({ models: [model] });
    const [whole, stream] = [askServer(server), askServer(server, { stream: true })];
    await until(() => model.running === 2);
    const stopped = server.stop();
    server.abort();
    open();
    expect(await errorOf(await whole)).toMatchObject({ status: 503, type: 'unavailable_error' });
    expect(await (await stream).text()).toContain('"the server is stopping"');
    await stopped;
    expect(model.live).toBe(0);
  });
});

test('connections that are open and unused do not hold up the end', async () => {
  const server = await serverWith();
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  await once(socket, 'connect');
  await askServer(server);
  const start = performance.now();
  await server.stop();
  expect(performance.now() - start).toBeLessThan(1500);
  socket.destroy();
});

describe('explain', () => {
  test('is 501 where there is none', async () => {
    const server = await serverWith();
    const response = await post(`${server.url}/v1/fusion/explain`, { messages: question });
    expect(await errorOf(response)).toMatchObject({ status: 501, code: 'not_implemented' });
  });

  test('gets the conversation and the options of its answer', async () => {
    const given: unknown[] = [];
    const model = fakeModel({
      explain: async (conversation, { seed, maxTokens }) => {
        given.push(conversation.messages, { seed, maxTokens });
        if (maxTokens === 1) throw new UserError('image: expected a picture to explain, got none');
        return { map: [1, 2] };
      },
    });
    const server = await serverWith({ models: [model] });
    const explain = (body: object) =>
      post(`${server.url}/v1/fusion/explain`, { messages: question, ...body });
    const response = await explain({ seed: 7, max_tokens: 5, model: 'fake' });
    expect(await response.json()).toEqual({ map: [1, 2] });
    expect(given).toEqual([[{ role: 'user', text: 'Hello?' }], { seed: 7, maxTokens: 5 }]);
    const wrong: [object, RegExp][] = [
      [{ max_tokens: 1 }, /image: expected a picture/],
      [{ max_tokens: 'many' }, /max_tokens/],
    ];
    for (const [body, message] of wrong) {
      const refused = { status: 400, message: expect.stringMatching(message) };
      expect(await errorOf(await explain(body))).toMatchObject(refused);
    }
    expect((await askServer(server)).status).toBe(200);
    expect(model.loads).toBe(1);
  });
});
