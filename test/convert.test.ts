/** `fusion convert`, `--weights` and `fusion compare`, as commands. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runCli } from './support/cli.ts';
import { type RandomModel, randomModel } from './support/randomModel.ts';

let model: RandomModel;
beforeAll(async () => {
  model = await randomModel();
  process.env.FUSION_CACHE = path.join(model.root, 'cache');
});
afterAll(async () => {
  delete process.env.FUSION_CACHE;
  await model.remove();
});

it('converts, answers from what it made, and compares the two', async () => {
  const out = path.join(model.root, 'int8');
  expect(await runCli(['convert', model.dir, out, '--weights', 'int8', '--vision', 'f16', '-q'])).toEqual({
    code: 0,
    stdout: `${out}\n`,
    stderr: '',
  });
  const answer = await runCli(['ask', '--model', out, '--max-tokens', '3', '--json', 'Hello']);
  expect(JSON.parse(answer.stdout)).toMatchObject({ answer_tokens: 3 });
  const compared = await runCli(['compare', model.dir, out, '--limit', '2', '--json']);
  expect(compared.stderr).toBe('');
  const { samples, klDivergence } = JSON.parse(compared.stdout);
  expect(samples).toBe(2);
  expect(klDivergence).toBeGreaterThan(0);
  expect(klDivergence).toBeLessThan(0.05);
}, 60_000);

it('converts once where a format is asked for, and says so', async () => {
  const ask = () =>
    runCli(['ask', '--model', model.dir, '--weights', 'int4', '--max-tokens', '2', '--json', 'Hello']);
  const [first, second] = [await ask(), await ask()];
  expect(first.stderr).toMatch(
    /^fusion: .*: converting to int4 once, into .*cache.converted.model-int4-[0-9a-f]{16}\n$/,
  );
  expect(second.stderr).toBe('');
  expect(JSON.parse(second.stdout).text).toBe(JSON.parse(first.stdout).text);
}, 60_000);

it('says in one line what is wrong', async () => {
  const out = path.join(model.root, 'none');
  for (const [args, message] of [
    [['convert', model.dir, out], /--weights <format>/],
    [['compare', model.dir, path.join(model.root, 'missing')], /config.json/],
  ] as const) {
    const { code, stderr } = await runCli(args);
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  }
  expect(existsSync(out)).toBe(false);
}, 60_000);
