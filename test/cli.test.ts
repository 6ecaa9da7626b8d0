/** The command as a whole: help, mistakes in the arguments, inspect, and everything that can be wrong with input. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type CheckpointCopy, copyCheckpoint, GOLDEN } from './support/checkpoints.ts';
import { type CliResult, runCli } from './support/cli.ts';

const checkpoint = copyCheckpoint();
const image = join(GOLDEN, 'images/baseline.jpg');
const folder = mkdtempSync(join(tmpdir(), 'fusion-cli-'));
const copies: CheckpointCopy[] = [];
afterAll(() => {
  checkpoint.remove();
  for (const made of copies) made.remove();
  rmSync(folder, { recursive: true, force: true });
});

/** A mistake of the user: exit code 2, nothing on stdout, one line without a stack. */
function expectRefusal({ code, stdout, stderr }: CliResult, message: RegExp): void {
  expect(stderr).toMatch(message);
  expect(stderr).toMatch(/^fusion: [^\n]+\n$/);
  expect(stderr).not.toContain('    at ');
  expect([code, stdout]).toEqual([2, '']);
}

describe('arguments', () => {
  test('without any, help shows a first example', async () => {
    const { code, stdout, stderr } = await runCli([]);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toContain('fusion ask --model DIR --image photo.jpg "What is in this picture?"');
    for (const name of ['ask', 'chat', 'inspect', 'check'])
      expect(stdout).toMatch(new RegExp(`^ +${name} `, 'm'));
  });

  test('help and version end well', async () => {
    expect(await runCli(['ask', '--help'])).toMatchObject({ code: 0, stderr: '' });
    const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
    expect(await runCli(['--version'])).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' });
  });

  test.each([
    [['akk'], /unknown command 'akk' \(did you mean ask\?\)/],
    [['ask', '--modle', 'x', 'Hi'], /unknown option '--modle' \(did you mean --model\?\)/],
    [['ask', '--model', 'x'], /missing required argument 'question'/],
    [['ask', '--model', 'x', 'a', 'b', 'c'], /put the question in quotes/],
    [['ask', '--model', 'x', '--max-tokens', 'many', 'Hi'], /--max-tokens <n>' argument 'many' is invalid/],
    [['ask', '--model', 'x', '--max-tokens', '0', 'Hi'], /max tokens: expected an integer from 1, got 0/],
    [['ask', '--model', 'x', '--temperature', '-1', 'Hi'], /temperature: expected a number from 0/],
    [
      ['ask', '--model', 'x', '--device', 'tpu', 'Hi'],
      /argument 'tpu' is invalid. Allowed choices are .*cpu/,
    ],
    [['ask', '--model', 'x', '--threads', '0', 'Hi'], /argument '0' is invalid. Expected an integer from 1/],
    [['chat', '--model', 'x', '--top-p', '2'], /topP: expected a number above 0/],
    [['inspect'], /missing required argument 'dir'/],
  ])('%j', async (args, message) => {
    expectRefusal(await runCli(args), message);
  });
});

describe('inspect', () => {
  test('counts parameters by part, and the memory they need', async () => {
    const { code, stdout } = await runCli(['inspect', checkpoint.dir, '--json']);
    expect(code).toBe(0);
    const facts = JSON.parse(stdout);
    const parts: number[] = Object.values(facts.parameters);
    expect(parts.reduce((a, b) => a + b)).toBe(facts.total_parameters);
    expect(facts.parameters).toMatchObject({ embeddings: 512 * 64, lm_head: 512 * 64 });
    expect(Object.keys(facts.parameters)).toHaveLength(7);
    expect(facts).toMatchObject({
      model_type: 'fusion_llama',
      context: 1024,
      query_lengths: [4],
      dtypes: { F32: facts.total_parameters },
    });
    // 6 layers, keys and values, 2 heads of 16 floats.
    expect(facts.memory_bytes.cache_per_1000_tokens).toBe(1000 * 6 * 2 * 2 * 16 * 4);
    // The unused post_layernorm is in the file and not in memory.
    expect(facts.memory_bytes.weights_f32).toBe(4 * (facts.total_parameters - 64));
  });

  test('says it in words', async () => {
    const { code, stdout, stderr } = await runCli(['inspect', join(GOLDEN, 'llama-siglip')]);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/^FUSION \(custom sizes\) \(fusion_llama\)\n/);
    expect(stdout).toContain('model-00002-of-00002.safetensors');
    expect(stdout).toMatch(/kv cache +[\d.]+ MB per 1000 tokens/);
  });
});

describe('bad checkpoints', () => {
  const broken = (damage: (dir: string) => void, changes: Record<string, unknown> = {}) => {
    const made = copyCheckpoint('llama-small', changes);
    copies.push(made);
    damage(made.dir);
    return made.dir;
  };
  const weights = (dir: string) => join(dir, 'model.safetensors');
  const withHeaderLength = (length: bigint) => (dir: string) => {
    const bytes = readFileSync(weights(dir));
    bytes.writeBigUInt64LE(length);
    writeFileSync(weights(dir), bytes);
  };
  const withoutSecondShard = (dir: string) => {
    rmSync(weights(dir));
    const from = join(GOLDEN, 'llama-siglip');
    const files = ['config.json', 'model.safetensors.index.json', 'model-00001-of-00002.safetensors'];
    for (const file of files) copyFileSync(join(from, file), join(dir, file));
  };
  const nothing = () => {};

  test.each([
    ['truncated weights', (dir: string) => truncateSync(weights(dir), 9e5), {}, /model.safetensors: /],
    ['empty weights', (dir: string) => truncateSync(weights(dir), 0), {}, /model.safetensors: /],
    ['a header beyond the file', withHeaderLength(2n ** 26n), {}, /model.safetensors: /],
    ['a header of 100 MB', withHeaderLength(10n ** 8n + 8n), {}, /model.safetensors: /],
    ['a missing shard', withoutSecondShard, {}, /index.json: .*got no file model-00002-of-00002/],
    ['no weights', (dir: string) => rmSync(weights(dir)), {}, /expected a checkpoint folder/],
    ['no config', (dir: string) => rmSync(join(dir, 'config.json')), {}, /config.json: expected/],
    [
      'a config cut off',
      (dir: string) => truncateSync(join(dir, 'config.json'), 99),
      {},
      /config.json: expected JSON/,
    ],
    ['an odd width', nothing, { hidden_size: 63 }, /config.json: .*63/],
    ['a negative size', nothing, { num_hidden_layers: -1 }, /num_hidden_layers: expected .*got -1/],
    ['an immense size', nothing, { vocab_size: 1e15 }, /vocab_size/],
    ['a layer too many', nothing, { num_hidden_layers: 7 }, /got 198: 9 missing \(model\.layers\.6\./],
    [
      'another width',
      nothing,
      { intermediate_size: 100 },
      /of another shape \(.*\[100, 64\], got \[96, 64\]/,
    ],
    ['no tokenizer', (dir: string) => rmSync(join(dir, 'tokenizer.json')), {}, /no tokenizer.json/],
    ['another tokenizer', nothing, { model_type: 'fusion_phi' }, /phi_3|config.json/],
  ])('%s', async (_, damage, changes, message) => {
    const dir = broken(damage, changes);
    expectRefusal(await runCli(['ask', '--model', dir, 'Hi']), message);
  });

  test('a folder that is not there, an empty one, a file', async () => {
    for (const dir of [join(folder, 'nowhere'), folder, image]) {
      expectRefusal(
        await runCli(['ask', '--model', dir, 'Hi']),
        /config.json: expected a FUSION checkpoint's/,
      );
    }
  });
});

describe('bad images', () => {
  const file = (name: string, bytes: Uint8Array | string) => {
    writeFileSync(join(folder, name), bytes);
    return join(folder, name);
  };
  const ask = (...args: string[]) =>
    runCli(['ask', '--model', checkpoint.dir, '-q', '--max-tokens', '2', ...args]);
  const flat = (width: number, height: number) => {
    const create = { width, height, channels: 3 as const, background: { r: 9, g: 99, b: 199 } };
    return sharp({ create, limitInputPixels: false }).png().toBuffer();
  };
  let wide: Buffer;
  let line: Buffer;
  beforeAll(async () => {
    [wide, line] = [await flat(30_000, 4000), await flat(30_000, 1)];
  });

  test.each([
    ['empty', () => file('empty.png', ''), /empty.png: expected an image, got an empty file/],
    [
      'truncated',
      () => file('cut.jpg', readFileSync(image).subarray(0, 9000)),
      /cut.jpg: .*truncated or damaged/,
    ],
    ['not an image', () => file('note.png', 'dear diary'), /note.png: expected an image/],
    ['not there', () => join(folder, 'absent.png'), /absent.png: .*no such file/],
    ['a folder', () => folder, /got a directory/],
    [
      'too large',
      () => file('wide.png', wide),
      /wide.png: expected at most 100000000 pixels, got 30000x4000/,
    ],
  ])('%s', async (_, make, message) => {
    expectRefusal(await ask('--image', make(), 'What?'), message);
  });

  test('an empty standard input', async () => {
    expectRefusal(await ask('--image', '-', 'What?'), /standard input: expected an image, got an empty file/);
  });

  test('30 000 px wide is well if flat; the limit is adjustable', async () => {
    const path = file('line.png', line);
    expect((await ask('--image', path, 'What?')).code).toBe(0);
    const limited = await ask('--image', path, '--max-pixels', '29999', 'What?');
    expectRefusal(limited, /line.png: expected at most 29999 pixels, got 30000x1/);
  });
});

describe('bad questions', () => {
  const ask = (...args: string[]) => runCli(['ask', '--model', checkpoint.dir, ...args]);

  test.each([
    ['empty', [''], /question: expected some text, got an empty one/],
    ['blank', ['  '], /question: expected some text/],
    [
      'longer than the context',
      ['why? '.repeat(2000)],
      /at most 1024 tokens .*got \d+.*shorten the question/,
    ],
    [
      'longer with its answer',
      ['Hi', '--max-tokens', '1000'],
      /at most 1024 .* got 11\d\d: 1\d\d .* and 1000 /,
    ],
    ['a query length that is no square', ['Hi', '--query-len', '10'], /perfect square .* got 10; .* with 4/],
  ])('%s', async (_, args, message) => {
    expectRefusal(await ask(...args), message);
  });

  test('the golden checkpoint has room for no format text at all, and says so', async () => {
    const args = ['--tokenizer', join(GOLDEN, 'tokenizers/llama3'), 'Hi'];
    const result = await runCli(['ask', '--model', join(GOLDEN, 'llama-small'), ...args]);
    expectRefusal(result, /at most 120 tokens/);
  });
});
