/** `fusion explain` from the outside: a golden checkpoint and a real image file. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, describe, expect, test } from 'vitest';
import { copyCheckpoint, GOLDEN } from './support/checkpoints.ts';
import { runCli } from './support/cli.ts';

const checkpoint = copyCheckpoint();
const folder = mkdtempSync(join(tmpdir(), 'fusion-explain-'));
afterAll(() => {
  checkpoint.remove();
  rmSync(folder, { recursive: true });
});
const image = join(GOLDEN, 'images/baseline.jpg');
const common = ['-q', '--model', checkpoint.dir, '--max-tokens', '6', '--image', image, 'What is this?'];

test('answers as `ask` does, and writes a picture and the numbers', async () => {
  const [out, json] = [join(folder, 'looked.png'), join(folder, 'looked.json')];
  const { stdout: expected } = await runCli(['ask', ...common]);
  const result = await runCli(['explain', ...common, '--out', out, '--json', json, '--layer', '5']);
  expect(result).toEqual({ code: 0, stdout: expected, stderr: '' });
  const { format, width, height } = await sharp(out).metadata();
  expect(format).toBe('png');
  expect(width).toBe(1480);
  expect(height).toBeGreaterThan(1000);
  const numbers = JSON.parse(readFileSync(json, 'utf8'));
  expect(`${numbers.text}\n`).toBe(expected);
  const tokens = numbers.question_tokens.length;
  expect(numbers.question_tokens.join('')).toContain('What is this?');
  expect(numbers.answer_tokens).toHaveLength(6);
  expect(numbers.tower.patches_to_question.shape).toEqual([6, tokens, 8, 8]);
  expect(numbers.tower.question_to_patches.data).toHaveLength(6 * tokens * 64);
  expect(numbers.interaction.after_decoder_layers).toEqual([1, 3]);
  expect(numbers.interaction.latents.shape).toEqual([2, 4, 16, 16]);
  const all: number[] = numbers.interaction.all.data;
  expect(all.reduce((a, b) => a + b, 0)).toBeCloseTo(2, 3);
  expect(numbers.answer.layers.shape).toEqual([6, 6, 8, 8]);
  expect(numbers.answer.mean.shape).toEqual([6, 8, 8]);
});

describe('refusals', () => {
  const out = join(folder, 'none.png');
  test.each([
    [[], 'output: expected --out FILE.png or --json FILE, got neither'],
    [['--out', out, '--layer', '7'], 'layer (of the vision tower): expected an integer from 1 to 6, got 7'],
    [['--out', out, '--token', '7'], "token (of the answer's): expected an integer from 1 to 6, got 7"],
  ])('%j', async (options, message) => {
    const { code, stderr } = await runCli(['explain', ...common, ...options]);
    expect([code, stderr]).toEqual([2, `fusion: ${message}\n`]);
    expect(existsSync(out)).toBe(false);
  });
});
