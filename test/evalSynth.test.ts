/** `fusion eval-synth` as people run it. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runCli } from './support/cli.ts';
import { type SmallBase, smallBase } from './support/smallBase.ts';

let made: SmallBase;
beforeAll(async () => {
  made = await smallBase();
});
afterAll(() => made.remove());

const evaluate = (...args: string[]) => runCli(['eval-synth', '--model', made.base, ...args]);

test('prints a table, overall first, and says how fast it was', async () => {
  const { code, stdout, stderr } = await evaluate('--count', '7', '--blank');
  expect(code).toBe(0);
  const lines = stdout.split('\n');
  expect(lines[0]?.trim().split(/ {2,}/)).toEqual(['questions', 'right', '95 % interval', 'blind', 'grey']);
  expect(lines[1]).toMatch(/^overall +7 +[\d.]+ +[\d.]+ to [\d.]+ +[\d.]+ +[\d.]+$/);
  expect(stdout).toMatch(/^TextQA +1 /m);
  expect(stderr).toMatch(/^fusion: \d+ questions a minute\n$/);
});

test('prints JSON and writes a file with every answer', async () => {
  const out = path.join(made.dir, 'scores.json');
  const { code, stdout, stderr } = await evaluate('--count', '3', '--seed', '9', '--json', '-q', '-o', out);
  expect([code, stderr]).toEqual([0, '']);
  const printed = JSON.parse(stdout);
  const written = JSON.parse(readFileSync(out, 'utf8'));
  expect(printed.reports).toHaveLength(1);
  expect(printed.reports[0]).toMatchObject({ count: 3, seed: 9, blank: false, overall: { questions: 3 } });
  const { answers, ...scores } = written.reports[0];
  expect(scores).toEqual(printed.reports[0]);
  expect(answers).toHaveLength(3);
  expect(Object.keys(answers[0])).toEqual(
    expect.arrayContaining(['id', 'question', 'expected', 'answer', 'right']),
  );
});

test.each([
  [['--count', '0'], /count.*Expected an integer from 1/],
  [['--seed', '-1'], /seed.*Expected an integer from 0/],
  [['--count', '1', '-q', '-o', '/nowhere/scores.json'], /^fusion: \/nowhere\/scores\.json: expected a file/],
])('refuses %j', async (args, message) => {
  const { code, stderr } = await evaluate(...args);
  expect(code).toBe(2);
  expect(stderr).toMatch(message);
});
