/** Training from the outside: data that cannot be used, runs that must stop, and a model that learns. */
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Json, makeTinyRun, type TinyRun, tinyRecord, writeTinyConfig } from '../bench/tinyRun.ts';
import { openSafetensors } from '../src/checkpoint/safetensors.ts';
import { openDevice } from '../src/runtime/device.ts';
import type { Device } from '../src/runtime/types.ts';
import { readRun } from '../src/train/checkpoint.ts';
import type { MetricsRow } from '../src/train/metrics.ts';
import { type StagesOptions, trainStages } from '../src/train/runStages.ts';
import { finished, seen, startCli } from './support/cli.ts';

const MAIN = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));
const root = mkdtempSync(path.join(tmpdir(), 'fusion-train-test-'));
let device: Device;
/** A base and pictures that all tests share; each has data and a configuration of its own. */
let shared: TinyRun;

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 });
  shared = await makeTinyRun(path.join(root, 'shared'), []);
});

afterAll(async () => {
  await device.close();
  rmSync(root, { recursive: true, force: true });
});

const good = (count: number): Json[] => Array.from({ length: count }, (_, i) => tinyRecord(i));

/** A folder with data, configuration and room for a run. */
async function prepare(records: readonly Json[], keys: Json = {}) {
  const dir = mkdtempSync(path.join(root, 'run-'));
  cpSync(path.dirname(shared.base), dir, { recursive: true });
  const [config, data] = [path.join(dir, 'train.yaml'), path.join(dir, 'data.json')];
  writeFileSync(data, JSON.stringify(records));
  await writeTinyConfig(config, keys);
  const out = path.join(dir, 'run');
  const rows: MetricsRow[] = [];
  const train = (options: Partial<StagesOptions> = {}) =>
    trainStages({
      device,
      configFile: config,
      base: shared.base,
      out,
      resume: false,
      environment: {},
      onLog: (row) => rows.push(row),
      ...options,
    });
  const args = ['train', '-c', config, '-b', shared.base, '-o', out, '--threads', '1'];
  return { dir, config, data, out, stage: path.join(out, 'stage-1'), rows, train, args };
}

const answer = (text: string) => [
  { from: 'human', value: 'Say something.' },
  { from: 'gpt', value: text },
];

const BAD: Readonly<Record<string, Json>> = {
  'missing-image': { ...tinyRecord(0), image: 'nowhere.png' },
  'broken-image': { ...tinyRecord(0), image: 'broken.png' },
  'no-conversations': { id: 'none' },
  'unknown-role': { conversations: [{ from: 'robot', value: 'Hello.' }] },
  'no-answer': { conversations: answer('') },
  'too-long': { conversations: [{ from: 'human', value: 'word '.repeat(400) }, answer('Yes.')[1]] },
};

it('stages follow each other, and the card of the last tells of all', async () => {
  const { out, train } = await prepare(good(4), {
    stage: undefined,
    max_steps: undefined,
    stages: [
      { stage: '1', max_steps: 1 },
      { stage: '1.5', max_steps: 2 },
    ],
  });
  const last = await train();
  expect(path.relative(out, last)).toBe(path.join('stage-1.5', 'checkpoint-2'));
  const card = readFileSync(path.join(last, 'README.md'), 'utf8');
  expect(card).toContain('|  | stage 1 | stage 1.5 |');
  expect(card).toContain(`## Base models\n\n- ${path.basename(shared.base)}\n`);
  expect(card).toMatch(/^\| 1 \| 1 \|.*\n\| 1\.5 \| 2 \|/m);
  expect(card).toMatch(/stage 1: .* \| \d+ \|\n\| stage 1\.5: .* \| 4 \|/);
});

describe('data that cannot be used', () => {
  it('is counted and logged with its reason, and the rest is trained on', async () => {
    const { dir, data, stage, rows, train } = await prepare([...good(5), ...Object.values(BAD)], {
      max_steps: undefined,
      epochs: 2,
      batch_size: 6,
      skip_limit: 0.6,
    });
    writeFileSync(path.join(dir, 'broken.png'), 'not a picture');
    const checkpoint = await train();
    const lines = readFileSync(path.join(stage, 'skipped.jsonl'), 'utf8').trim().split('\n');
    const skipped = lines.map((line) => JSON.parse(line));
    const kinds = Object.keys(BAD);
    expect(skipped.map(({ kind }) => kind).toSorted()).toEqual([...kinds, ...kinds].toSorted());
    expect(skipped.every(({ file, reason }) => file === data && reason.length > 20)).toBe(true);
    expect(rows.at(-1)).toMatchObject({ step: 4, epoch: 2 });
    const state = JSON.parse(readFileSync(path.join(checkpoint, 'data_state.json'), 'utf8'));
    expect(state.skips.counts['missing-image']).toBe(2);
  });

  it('stops the run above the limit, with the steps so far saved', async () => {
    const records = [...good(18), BAD['unknown-role']!, BAD['no-conversations']!];
    const { stage, train } = await prepare(records, { max_steps: 30, skip_limit: 0.05 });
    await expect(train()).rejects.toThrow(
      /expected at most 5% of samples skipped, got 2 of 20 \((unknown-role 1|no-conversations 1), .*; all are in .*skipped\.jsonl; mend the data or raise the limit/,
    );
    const saved = await readRun(stage);
    expect(saved.state.global_step).toBeGreaterThanOrEqual(8);
    // The batch that was not trained on is not counted as used, so the run can go on from here.
    const configured = { resume: true, allowChanges: true };
    await writeTinyConfig(path.join(path.dirname(path.dirname(stage)), 'train.yaml'), {
      max_steps: 30,
      skip_limit: 0.2,
    });
    expect(await train(configured)).toMatch(/checkpoint-30$/);
  });

  it('stops where nothing can be used, whatever the limit', async () => {
    const { train } = await prepare(Object.values(BAD).slice(2), { skip_limit: 1 });
    await expect(train()).rejects.toThrow(
      /data\.json: expected samples to train on, got none in a whole epoch/,
    );
  });

  it('is found by --check-data before any step', async () => {
    const { train, rows } = await prepare([...good(3), BAD['missing-image']!], { skip_limit: 0.1 });
    const lines: string[] = [];
    await expect(train({ onCheck: (line) => lines.push(line) })).rejects.toThrow(
      'stage 1: data: expected at most 10% of samples skipped, got 1 of 4',
    );
    expect(lines[0]).toMatch(/data\.json: 4 samples, 3 with an image, 1 to be skipped$/);
    expect(lines[1]).toBe('  missing-image: 1');
    expect(lines[2]).toMatch(/data\.json: record 3: missing-image: .*nowhere\.png/);
    expect(rows).toEqual([]);
  });

  it('is cut where it is too long but has an answer within the length', async () => {
    const long = { conversations: answer('word '.repeat(500)) };
    const { stage, rows, train } = await prepare([long, long], { max_steps: 1, max_length: 64 });
    await train();
    expect(Number.isFinite(rows[0]!.loss)).toBe(true);
    expect(readdirSync(stage)).not.toContain('skipped.jsonl');
  });
});

describe('a configuration', () => {
  it.each<[string, Json, RegExp]>([
    [
      'an unknown key',
      { batch_sise: 2 },
      /train\.yaml:\d+: batch_sise: unknown key; did you mean batch_size\?/,
    ],
    [
      'a wrong value',
      { max_length: 'long' },
      /train\.yaml:\d+: max_length: expected an integer .*, got "?long/,
    ],
  ])('with %s is refused with its line', async (_, keys, message) => {
    const { train } = await prepare(good(2), keys);
    await expect(train()).rejects.toThrow(message);
  });

  it('that changed is told and refused on resuming, unless told otherwise', async () => {
    const { config, train } = await prepare(good(4), { max_steps: 2 });
    await train();
    await expect(train()).rejects.toThrow(
      /stage-1: expected a new run, got one with checkpoints; go on with --resume last/,
    );
    await writeTinyConfig(config, { max_steps: 3, learning_rates: [['.*', 5e-4]] });
    await expect(train({ resume: true })).rejects.toThrow(
      /learning_rates\[0\]\[1\]: was 0\.001, is 0\.0005; max_steps: was 2, is 3; go on with --allow-changes/,
    );
  });
});

describe('a run that must stop', () => {
  it('because its loss is not a number says the step and the samples, and keeps the state before', async () => {
    const { config, stage, train } = await prepare(good(8), { max_steps: 2, save_total_limit: 1 });
    await train();
    await poison(path.join(stage, 'checkpoint-2', 'model.safetensors'));
    await writeTinyConfig(config, { max_steps: 4, save_total_limit: 1 });
    await expect(train({ resume: true, allowChanges: true })).rejects.toThrow(
      /^step 3: the (loss|gradients' norm) is NaN \(samples sample-\d, sample-\d\); the state before this step is in .*diverged-2$/,
    );
    expect(readdirSync(stage).filter((name) => /-\d+/.test(name))).toEqual(['checkpoint-2', 'diverged-2']);
    const { state, dataState } = await readRun(path.join(stage, 'diverged-2'));
    expect(state.global_step).toBe(2);
    expect(dataState.order).toMatchObject({ position: 2 });
  });

  it('because the disk is full leaves the checkpoint before whole', async () => {
    const { config, stage, args, train } = await prepare(good(8), { max_steps: 2 });
    await train();
    const before = contents(path.join(stage, 'checkpoint-2'));
    await writeTinyConfig(config, { max_steps: 4 });
    // The kernel refuses writes beyond 100 kB: the weights do not fit.
    const limited = 'ulimit -f 200; exec "$@"';
    const command = [
      process.execPath,
      '--import',
      'tsx',
      MAIN,
      ...args,
      '--resume',
      'last',
      '--allow-changes',
    ];
    const { code, stderr } = await finished(spawn('sh', ['-c', limited, 'sh', ...command]));
    expect(stderr).toMatch(/fusion: .*model\.safetensors.*: EFBIG/);
    expect(code).toBe(2);
    expect(contents(path.join(stage, 'checkpoint-2'))).toEqual(before);
    expect(readdirSync(stage).filter((name) => name.startsWith('checkpoint-'))).toEqual(['checkpoint-2']);
    expect(await train({ resume: true, allowChanges: true })).toMatch(/checkpoint-4$/);
  });

  it.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const)('because of %s saves, and goes on later', async (signal, exitCode) => {
    const { stage, args, train } = await prepare(good(8), { max_steps: 100_000 });
    const child = startCli(args);
    const end = finished(child);
    await seen(child.stderr, /step 3\//);
    child.kill(signal);
    const { code, stdout, stderr } = await end;
    expect({ code, last: stderr.trim().split('\n').at(-1) }).toEqual({
      code: exitCode,
      last: 'stopped and saved; go on with --resume last',
    });
    const { dir, state } = await readRun(stage);
    expect(stdout.trim()).toBe(dir);
    expect(state.global_step).toBeGreaterThanOrEqual(3);
    const stop = new AbortController();
    const rows: MetricsRow[] = [];
    const onLog = (row: MetricsRow) => {
      rows.push(row);
      stop.abort();
    };
    await train({ resume: true, signal: stop.signal, onLog });
    expect(rows.map(({ step }) => step)).toEqual([state.global_step + 1]);
  });
});

it('a model of random weights learns eight samples by heart', async () => {
  const { rows, train } = await prepare(good(8), {
    batch_size: 8,
    max_steps: 80,
    log_every: 1,
    learning_rates: [['.*', 1e-2]],
    warmup_ratio: 0.1,
  });
  await train();
  expect(rows.at(-1)!.loss).toBeLessThan(0.05 * rows[0]!.loss);
});

/** Makes the last weight of a file not a number. */
async function poison(file: string): Promise<void> {
  const { tensors } = await openSafetensors(file);
  const bytes = readFileSync(file);
  const norm = tensors.get('model.norm.weight')!;
  bytes.writeFloatLE(Number.NaN, norm.begin);
  writeFileSync(file, bytes);
}

function contents(dir: string): Readonly<Record<string, string>> {
  const files = readdirSync(dir).map((name) => [name, readFileSync(path.join(dir, name)).toString('base64')]);
  return Object.fromEntries(files);
}
