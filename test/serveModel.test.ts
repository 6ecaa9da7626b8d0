/** `fusion serve` with a real model, in a process of its own: answers as the library's, the command, its end. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ask, type FusionModel, load } from '../src/index.ts';
import { copyCheckpoint, GOLDEN } from './support/checkpoints.ts';
import { finished, runCli, startCli } from './support/cli.ts';
import { errorOf, post } from './support/server.ts';

const checkpoint = copyCheckpoint();
const image = join(GOLDEN, 'images/baseline.jpg');
const dataUri = `data:image/jpeg;base64,${readFileSync(image).toString('base64')}`;
const ARGS = ['serve', '--port', '0', '--threads', '1', '-q', '--model', `golden=${checkpoint.dir}`];

/** Starts the command and gives the address it tells. */
async function start(...more: string[]) {
  const child = startCli([...ARGS, ...more]);
  const result = finished(child);
  const url = await new Promise<string>((resolve, reject) => {
    let text = '';
    child.stdout.on('data', (piece) => {
      text += piece;
      if (text.includes('\n')) resolve(text.trim());
    });
    void result.then(({ stderr }) => reject(new Error(`ended: ${stderr}`)));
  });
  return { child, result, url, openai: new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any', maxRetries: 0 }) };
}

const shown = (text: string) => [
  { type: 'text' as const, text },
  { type: 'image_url' as const, image_url: { url: dataUri } },
];
const user = (content: string | ReturnType<typeof shown>) => ({ role: 'user' as const, content });

let library: FusionModel;
let server: Awaited<ReturnType<typeof start>>;
beforeAll(async () => {
  [library, server] = await Promise.all([load(checkpoint.dir, { threads: 1 }), start()]);
});
afterAll(async () => {
  server.child.kill('SIGTERM');
  await library.dispose();
  const { code, stderr } = await server.result;
  expect([code, stderr]).toEqual([0, '']);
  checkpoint.remove();
});
const create = (body: object) =>
  server.openai.chat.completions.create({ model: 'golden', messages: [user('What is this?')], ...body });

describe('answers', () => {
  test('are the library’s, with an image and without, alone and together', async () => {
    const options = { maxTokens: 12 };
    const seeing = await ask(library, { text: 'What is this?', image }, options);
    const blind = await ask(library, 'What is this?', options);
    const sampled = await ask(library, 'What is this?', { ...options, temperature: 0.9, seed: 4, topP: 0.9 });
    const results = await Promise.all([
      create({ max_tokens: 12, messages: [user(shown('What is this?'))] }),
      create({ max_tokens: 12 }),
      create({ max_completion_tokens: 12, temperature: 0.9, seed: 4, top_p: 0.9 }),
    ]);
    for (const [i, expected] of [seeing, blind, sampled].entries()) {
      expect(results[i]?.choices[0]?.message.content).toBe(expected.text);
      expect(results[i]?.usage).toMatchObject({
        prompt_tokens: expected.promptTokens,
        completion_tokens: 12,
      });
    }
    expect(seeing.text).not.toBe(blind.text);
  });

  test('stream to the same text, with log-probabilities that add up to it', async () => {
    const whole = await ask(library, 'What is this?', { maxTokens: 10 });
    const stream = await server.openai.chat.completions.create({
      model: 'golden',
      messages: [user('What is this?')],
      max_tokens: 10,
      stream: true,
      logprobs: true,
      top_logprobs: 2,
    });
    let text = '';
    const tokens: { logprob: number; bytes: number[] | null; top_logprobs: unknown[] }[] = [];
    for await (const { choices } of stream) {
      text += choices[0]?.delta.content ?? '';
      tokens.push(...(choices[0]?.logprobs?.content ?? []));
    }
    expect(text).toBe(whole.text);
    expect(tokens).toHaveLength(10);
    expect(Buffer.from(tokens.flatMap(({ bytes }) => bytes ?? [])).toString()).toBe(text);
    for (const { logprob, top_logprobs } of tokens) {
      expect(logprob).toBeLessThan(0);
      expect(top_logprobs).toHaveLength(2);
    }
  });

  test('end before a stop text', async () => {
    const whole = await ask(library, 'What is this?', { maxTokens: 12 });
    const stop = whole.text.slice(5, 8);
    const { choices } = await create({ max_tokens: 12, stop: [stop] });
    expect(choices[0]).toMatchObject({
      message: { content: whole.text.slice(0, whole.text.indexOf(stop)) },
      finish_reason: 'stop',
    });
  });

  test('know the system’s text and earlier turns', async () => {
    const said = async (messages: object[]) => {
      const { choices, usage } = await create({ max_tokens: 8, messages });
      return { text: choices[0]?.message.content, prompt: usage?.prompt_tokens ?? 0 };
    };
    const plain = await said([user('What is this?')]);
    const told = await said([{ role: 'system', content: 'Answer in one word.' }, user('What is this?')]);
    expect(told.text).not.toBe(plain.text);
    // The format's own system text is a long one.
    expect(told.prompt).toBeLessThan(plain.prompt);
    const turns = [user('Hello'), { role: 'assistant', content: 'Hi.' }, user('What is this?')];
    expect((await said(turns)).prompt).toBeGreaterThan(plain.prompt + 8);
  });

  test.each([
    ['longer than the context', { messages: [user('why? '.repeat(1000))] }, /at most 1024 tokens/],
    [
      'too long to be worth counting',
      { messages: [user('why? '.repeat(20_000))] },
      /at most 8192 characters .* got 100000/,
    ],
    ['longer with its answer', { max_tokens: 1020 }, /at most 1024 tokens/],
    ['a query length that is no square', { query_length: 5 }, /perfect square/],
    [
      'no picture',
      {
        messages: [
          user([
            ...shown('What?').slice(0, 1),
            { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } },
          ] as never),
        ],
      },
      /expected an image/,
    ],
  ])('%s is refused', async (_, body, message) => {
    const messages = [user('What is this?')];
    const response = await post(`${server.url}/v1/chat/completions`, { messages, ...body });
    expect(await errorOf(response)).toMatchObject({
      status: 400,
      type: 'invalid_request_error',
      message: expect.stringMatching(message),
    });
  });

  test('of clients that leave make room for others', async () => {
    const leaving = Array.from({ length: 12 }, async (_, i) => {
      const stream = await server.openai.chat.completions.create({
        model: 'golden',
        messages: [user(`Count ${i}`)],
        max_tokens: 700,
        stream: true,
      });
      for await (const { choices } of stream) if (choices[0]?.delta.content) break;
    });
    await Promise.all(leaving);
    expect((await create({ max_tokens: 3 })).usage?.completion_tokens).toBe(3);
    const text = await (await fetch(`${server.url}/metrics`)).text();
    expect(text).toMatch(/fusion_answers_total{finish="cancelled"} 12\n/);
    expect(text).toMatch(/fusion_requests_running 0\n/);
  });
});

test('the commands in the documentation work as they stand', async () => {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const blocks = readFileSync(join(root, 'docs/serve.md'), 'utf8').matchAll(/```sh\n([^`]*?)```/g);
  const commands = [...blocks]
    .map(([, command = '']) => command)
    .filter((command) => command.includes('curl'));
  expect(commands).toHaveLength(2);
  const outputs = commands.map(async (command) => {
    const here = command
      .replaceAll('http://127.0.0.1:8080', server.url)
      .replaceAll('curl', 'curl -sS --fail');
    return (await promisify(execFile)('bash', ['-c', here], { cwd: root })).stdout;
  });
  const [whole = '', stream = ''] = await Promise.all(outputs);
  expect(JSON.parse(whole)).toMatchObject({ choices: [{ message: { role: 'assistant' } }] });
  expect(stream).toMatch(/^data: {.*\n\ndata: \[DONE\]\n\n$/s);
});

describe('the end', () => {
  const speaking = async (child: ChildProcessWithoutNullStreams, openai: OpenAI, signals: number) => {
    const stream = await openai.chat.completions.create({
      model: 'golden',
      messages: [user('Count')],
      max_tokens: 400,
      stream: true,
    });
    let last = '';
    let killed = 0;
    for await (const { choices } of stream) {
      last = choices[0]?.finish_reason ?? last;
      if (choices[0]?.delta.content && killed++ < signals) child.kill('SIGINT');
    }
    return last;
  };

  test('a first Ctrl-C finishes what runs', async () => {
    const { child, result, openai } = await start();
    expect(await speaking(child, openai, 1)).toBe('length');
    expect(await result).toMatchObject({ code: 0, stderr: '' });
  });

  test('a second one ends it', async () => {
    const { child, result, openai } = await start();
    await expect(speaking(child, openai, 2)).rejects.toThrow('the server is stopping');
    expect(await result).toMatchObject({ code: 130, stderr: '' });
  });
});

test.each([
  ['one name twice', [...ARGS, '--model', `golden=${checkpoint.dir}`], /golden twice; write --model NAME=/],
  ['too little memory', [...ARGS, '--memory-limit', '1kB'], /raise --memory-limit/],
  ['a port that is none', [...ARGS, '--port', '70000'], /127.0.0.1:70000: cannot listen here/],
])('%s is told in one line', async (_, args, message) => {
  const { code, stdout, stderr } = await runCli(args);
  expect([code, stdout]).toEqual([2, '']);
  expect(stderr).toMatch(message);
  expect(stderr).toMatch(/^fusion: [^\n]+\n$/);
});
