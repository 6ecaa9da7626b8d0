/** `fusion bench` from the outside. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runCli } from './support/cli.ts';
import { type RandomModel, randomModel } from './support/randomModel.ts';

let made: RandomModel;
beforeAll(async () => {
  made = await randomModel();
});
afterAll(() => made.remove());

const QUICK = ['--threads', '1', '--new-tokens', '2', '--repeats', '1', '-q'];

test('bench prints one table, as rows and as JSON', async () => {
  const [shown, told] = await Promise.all([
    runCli(['bench', '--model', made.dir, ...QUICK]),
    runCli([
      'bench',
      '--model',
      made.dir,
      ...QUICK,
      '--json',
      '--prompt-tokens',
      '300',
      '--image-tokens',
      '16',
    ]),
  ]);
  expect(shown).toMatchObject({ code: 0, stderr: '' });
  const [head, ...rows] = shown.stdout.trimEnd().split('\n');
  expect(head).toBe(`${made.dir}: f32, cpu, 1 thread`);
  const figure = '\\d+(\\.\\d+)?';
  const patterns = [
    `load +${figure} s`,
    `vision +${figure} s +a second question about the picture: ${figure} s, \\d+%`,
    `prefill +${figure} tokens/s +\\d+ positions in ${figure} s; \\d+% of the limit`,
    `decode +${figure} tokens/s +median of 2 tokens; \\d+% of the limit`,
    `peak memory +${figure} GB`,
    `memory reads +${figure} GB/s +the limit of decode`,
    `one row f32 +${figure} GB/s +weights that its products get through`,
    `products f32 +${figure} GFLOP/s +the limit of prefill`,
  ];
  expect(rows).toHaveLength(patterns.length);
  for (const [i, pattern] of patterns.entries()) expect(rows[i]).toMatch(new RegExp(`^${pattern}$`));
  expect(told).toMatchObject({ code: 0, stderr: '' });
  const json = JSON.parse(told.stdout);
  expect(json).toMatchObject({
    weights: 'f32',
    threads: 1,
    prompt_tokens: 300,
    new_tokens: 2,
    query_length: 4,
  });
  const { second_question_vision_seconds: second, vision_seconds: first } = json;
  expect(json.second_question_vision_share).toBeCloseTo(second / first, 9);
  expect(json.memory_read_bytes_per_second).toBeGreaterThan(1e8);
});
