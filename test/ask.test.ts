/** `fusion ask` from the outside: a golden checkpoint, a golden tokenizer, real image files, real processes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Answer, ask, type FusionModel, load } from '../src/index.ts';
import { copyCheckpoint, GOLDEN } from './support/checkpoints.ts';
import { finished, runCli, seen, startCli } from './support/cli.ts';

const checkpoint = copyCheckpoint();
const model = ['--model', checkpoint.dir];
const image = join(GOLDEN, 'images/baseline.jpg');
const QUESTION = 'What is this?';
const WARNING = /^fusion: .*the tokenizer has 908 ids, the checkpoint's vocabulary 512 rows.*\n$/;
afterAll(() => checkpoint.remove());

describe('answers', () => {
  let expected: Answer;
  let library: FusionModel;
  beforeAll(async () => {
    library = await load(checkpoint.dir, { threads: 1 });
    expected = await ask(library, { text: QUESTION, image }, { maxTokens: 12 });
  });
  afterAll(() => library.dispose());

  test('streams what the library answers, and only that, to stdout', async () => {
    const result = await runCli(['ask', ...model, '--image', image, QUESTION, '--max-tokens', '12']);
    expect(result).toMatchObject({ code: 0, stdout: `${expected.text}\n` });
    expect(result.stderr).toMatch(WARNING);
  });

  test.each([
    ['a positional image', [image, QUESTION], undefined],
    ['an image on standard input', ['--image', '-', QUESTION], image],
    ['a positional -', ['-', QUESTION], image],
  ])('reads %s', async (_, words, input) => {
    const args = ['ask', ...model, '-q', '--max-tokens', '12', ...words];
    const result = await runCli(args, input === undefined ? '' : readFileSync(input));
    expect(result).toEqual({ code: 0, stdout: `${expected.text}\n`, stderr: '' });
  });

  test('--json gives one object', async () => {
    const args = ['ask', ...model, '-q', '--json', '--max-tokens', '12', '--seed', '5', image, QUESTION];
    const { code, stdout, stderr } = await runCli(args);
    expect([code, stderr]).toEqual([0, '']);
    const json = JSON.parse(stdout);
    expect(json).toMatchObject({
      text: expected.text,
      finish_reason: 'length',
      prompt_tokens: expected.promptTokens,
      answer_tokens: 12,
      query_length: 4,
      seed: 5,
    });
    expect(Object.keys(json.seconds)).toEqual(['load', 'vision', 'prefill', 'decode']);
    for (const seconds of Object.values(json.seconds)) expect(seconds).toBeGreaterThan(0);
    expect(json.tokens_per_second).toBeGreaterThan(1);
    expect(json.peak_memory_bytes).toBeGreaterThan(50e6);
  });

  test('options reach the library', async () => {
    const options = { maxTokens: 10, temperature: 0.9, topK: 50, topP: 0.95, minP: 0.01, seed: 3 };
    const sampled = await ask(library, 'Hi', { ...options, repetitionPenalty: 1.1, queryLength: 9 });
    const { stdout } = await runCli(
      `ask ${model.join(' ')} -q --max-tokens 10 --temperature 0.9 --top-k 50 --top-p 0.95 --min-p 0.01 --seed 3 --repetition-penalty 1.1 --query-len 9 --threads 1 --device cpu Hi`.split(
        ' ',
      ),
    );
    expect(stdout).toBe(`${sampled.text}\n`);
    const stop = expected.text.slice(5, 8);
    const cut = await runCli(['ask', ...model, '-q', '--stop', '%%', '--stop', stop, image, QUESTION]);
    expect(cut.stdout).toBe(`${expected.text.slice(0, expected.text.indexOf(stop))}\n`);
  });

  test.each(['one_pixel.png', 'cmyk.jpg', 'animated.gif', 'lossless.webp'])('takes %s', async (name) => {
    const answer = await ask(
      library,
      { text: QUESTION, image: join(GOLDEN, 'images', name) },
      { maxTokens: 3 },
    );
    expect(answer.tokens.length).toBeGreaterThan(0);
  });
});

test('takes a single pixel from the command line', async () => {
  const args = ['ask', ...model, '-q', '--max-tokens', '2', join(GOLDEN, 'images/one_pixel.png'), QUESTION];
  expect(await runCli(args)).toMatchObject({ code: 0, stderr: '' });
});

test('Ctrl-C ends the answer with exit code 130', async () => {
  const child = startCli(['ask', ...model, '-q', '--max-tokens', '800', 'Hello']);
  const result = finished(child);
  await seen(child.stdout, /./);
  child.kill('SIGINT');
  const { code, stdout, stderr } = await result;
  expect([code, stderr]).toEqual([130, '']);
  expect(stdout.endsWith('\n')).toBe(true);
});

test('a reader that leaves early is no error', async () => {
  const child = startCli(['ask', ...model, '-q', '--max-tokens', '800', 'Hello']);
  const result = finished(child);
  await seen(child.stdout, /./);
  child.stdout.destroy();
  expect(await result).toMatchObject({ code: 0, stderr: '' });
});

test('a second Ctrl-C, while the first is not yet obeyed, ends the program at once', async () => {
  const child = startCli(['ask', ...model, '-q', '--max-tokens', '800', 'Hello']);
  const result = finished(child);
  await seen(child.stdout, /./);
  child.kill('SIGINT');
  child.kill('SIGINT');
  const { code, stderr } = await result;
  expect([130, null]).toContain(code);
  expect(stderr).toBe('');
});
