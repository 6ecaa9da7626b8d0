/** Options that say how a model is loaded, from the outside: image tokens, formats, query lengths. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { GOLDEN } from './support/checkpoints.ts';
import { finished, runCli, seen, startCli } from './support/cli.ts';
import { type RandomModel, randomModel } from './support/randomModel.ts';
import { post } from './support/server.ts';

let made: RandomModel;
beforeAll(async () => {
  made = await randomModel();
  process.env.FUSION_CACHE = join(made.root, 'cache');
});
afterAll(() => made.remove());

test.each([
  ['bench', ['--prompt-tokens', '3'], /prompt tokens: expected at least \d+/],
  ['bench', ['--query-len', '5'], /query length: expected a perfect square/],
  ['bench', ['--image-tokens', '5'], /image tokens: expected a perfect square from 1 to 64, got 5/],
  ['ask', ['--image-tokens', '100', 'Hi'], /image tokens: expected a perfect square from 1 to 64, got 100/],
  ['chat', ['--image-tokens', '-1'], /image tokens: expected/],
  ['serve', ['--image-tokens', '7'], /image tokens: expected/],
  ['serve', ['--query-len', '7'], /query length: expected a perfect square/],
])('%s %j is refused in one line', async (command, args, message) => {
  const { code, stdout, stderr } = await runCli([command, '--model', made.dir, ...args]);
  expect([code, stdout]).toEqual([2, '']);
  expect(stderr).toMatch(message);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
});

test('ask takes fewer image tokens, and says that the model was trained with more', async () => {
  const image = join(GOLDEN, 'images/baseline.jpg');
  const args = [
    'ask',
    '--model',
    made.dir,
    '--threads',
    '1',
    '--json',
    '--max-tokens',
    '2',
    '--no-memory-check',
  ];
  const { code, stdout, stderr } = await runCli([...args, '--image-tokens', '16', image, 'What is this?']);
  expect([code, stderr]).toEqual([0, 'fusion: image tokens 16: the model was trained with 64\n']);
  const whole = JSON.parse((await runCli([...args, image, 'What is this?'])).stdout);
  expect(JSON.parse(stdout).prompt_tokens).toBe(whole.prompt_tokens - 48);
});

test('serve converts once, and answers with the latents and image tokens it was told', async () => {
  const given = ['--weights', 'int8', '--image-tokens', '16', '--query-len', '9', '--threads', '1'];
  const child = startCli(['serve', '--model', `small=${made.dir}`, '--port', '0', ...given]);
  const result = finished(child);
  let url = '';
  child.stdout.on('data', (text) => {
    url += text;
  });
  await seen(child.stdout, /\n/);
  const models = (await (await fetch(`${url.trim()}/v1/models`)).json()) as { data: { fusion: unknown }[] };
  expect(models.data[0]?.fusion).toMatchObject({ default_query_length: 9 });
  const messages = [{ role: 'user', content: 'Hi' }];
  const lengths = [];
  for (const asked of [{}, { query_length: 4 }]) {
    const answer = await post(`${url.trim()}/v1/chat/completions`, { messages, max_tokens: 1, ...asked });
    const { fusion } = (await answer.json()) as { fusion: { query_length: number } };
    lengths.push(fusion.query_length);
  }
  expect(lengths).toEqual([9, 4]);
  child.kill('SIGTERM');
  const { code, stderr } = await result;
  expect(code).toBe(0);
  expect(stderr).toMatch(/image tokens 16: the model was trained with 64\n/);
  expect(stderr).toMatch(/converting to int8 once, into /);
});
