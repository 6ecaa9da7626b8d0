import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { expandedLength, layOutSequences } from '../model/sequence.ts';
import { checkData } from './checkData.ts';
import { formatNamed } from './conversation.ts';
import {
  type DatasetOptions,
  type EncodedSample,
  type EncodeOptions,
  encodeSample,
  isSkipped,
  openDataset,
  SkipLog,
  type SkippedSample,
} from './dataset.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'dataset-'));
const phi3 = fileURLToPath(new URL('../../test/fixtures/golden/tokenizers/phi3', import.meta.url));
const sizes = { imageTokens: 16, queryLength: 4, maxLength: 120 };
let tokenizer: Tokenizer;

beforeAll(async () => {
  tokenizer = await loadTokenizer(phi3);
  mkdirSync(path.join(folder, 'images'));
  const create = { width: 4, height: 3, channels: 3, background: { r: 255, g: 0, b: 0 } } as const;
  await sharp({ create }).png().toFile(path.join(folder, 'images/red.png'));
  writeFileSync(
    path.join(folder, 'images/broken.png'),
    readFileSync(path.join(folder, 'images/red.png')).subarray(0, 60),
  );
});
afterAll(() => rmSync(folder, { recursive: true }));

const human = (value: string) => ({ from: 'human', value });
const gpt = (value: string) => ({ from: 'gpt', value });
const picture = { id: 'p', image: 'images/red.png', conversations: [human('<image>\nColour?'), gpt('Red.')] };
const text = { id: 't', conversations: [human('Two and two?'), gpt('Four.')] };

function fileOf(records: readonly unknown[], name = 'data.json'): string {
  const file = path.join(folder, name);
  writeFileSync(file, JSON.stringify(records));
  return file;
}

async function load(
  record: unknown,
  options: Partial<EncodeOptions> = {},
): Promise<EncodedSample | SkippedSample> {
  const dataset = await openDataset(fileOf([text, record]), { seed: 1 });
  const raw = await dataset.sample(1);
  await dataset.close();
  if (isSkipped(raw)) return raw;
  return encodeSample(raw, { tokenizer, format: formatNamed('phi_3'), sizes, cropSide: 8, ...options });
}

async function skipOf(record: unknown, options: Partial<EncodeOptions> = {}): Promise<SkippedSample> {
  const sample = await load(record, options);
  if (!isSkipped(sample)) throw new Error('expected a skipped sample');
  return sample;
}

async function loaded(record: unknown, options: Partial<EncodeOptions> = {}): Promise<EncodedSample> {
  const sample = await load(record, options);
  if (isSkipped(sample)) throw new Error(sample.reason);
  return sample;
}

describe('openDataset', () => {
  const open = async (yaml: string, options: Partial<DatasetOptions> = {}) => {
    fileOf([picture, text, { ...text, id: 3 }], 'a.json');
    writeFileSync(
      path.join(folder, 'b.jsonl'),
      [0, 1, 2, 3, 4, 5, 6, 7]
        .map((id) => `${JSON.stringify({ conversations: [human(`${id}`), gpt('x')] })}\n`)
        .join(''),
    );
    const file = path.join(folder, 'mix.yaml');
    writeFileSync(file, yaml);
    const dataset = await openDataset(file, { seed: 1, ...options });
    const samples = await Promise.all(Array.from({ length: dataset.count }, (_, i) => dataset.sample(i)));
    const lengths = samples.map((_, i) => [dataset.words(i), dataset.hasImage(i)]);
    await dataset.close();
    return { samples, lengths };
  };

  it('numbers the samples of all files', async () => {
    const { samples, lengths } = await open(
      'datasets:\n- json_path: a.json\n- {json_path: b.jsonl, sampling_strategy: "end:2"}\n- {json_path: a.json, sampling_strategy: "first:1"}\n',
    );
    const file = path.join(folder, 'a.json');
    expect(samples[0]).toEqual({
      file,
      index: 0,
      id: 'p',
      imagePath: path.join(folder, 'images/red.png'),
      conversations: picture.conversations,
      dataset: 'a.json',
    });
    expect(samples.map((sample) => sample.id)).toEqual(['p', 't', '3', 'b.jsonl:6', 'b.jsonl:7', 'p']);
    expect(lengths).toEqual([
      [3, true],
      [4, false],
      [4, false],
      [2, false],
      [2, false],
      [3, true],
    ]);
  });

  it('looks for images in the folder it is given', async () => {
    const { samples } = await open('datasets:\n- json_path: a.json\n', { imageFolder: '/pictures' });
    expect(samples[0]).toMatchObject({ imagePath: '/pictures/images/red.png' });
  });

  it('draws the same random records for the same seed, whatever else is in the mixture', async () => {
    const part = '- {json_path: b.jsonl, sampling_strategy: "random:4"}\n';
    const ids = async (yaml: string, seed: number) =>
      (await open(yaml, { seed })).samples.map(({ id }) => id).filter((id) => id?.startsWith('b'));
    const alone = await ids(`datasets:\n${part}`, 1);
    expect(alone.length).toBe(4);
    expect(await ids(`datasets:\n- json_path: a.json\n${part}`, 1)).toEqual(alone);
    const seeds = await Promise.all([2, 3, 4].map((seed) => ids(`datasets:\n${part}`, seed)));
    expect(seeds.some((other) => other.join() !== alone.join())).toBe(true);
  });

  it('says where a missing file is named, and refuses an empty set', async () => {
    await expect(open('datasets:\n- json_path: a.json\n- json_path: none.json\n')).rejects.toThrow(
      /mix\.yaml:3: .*none\.json: expected a readable/,
    );
    await expect(openDataset(fileOf([]), { seed: 1 })).rejects.toThrow(
      'expected at least one sample, got none',
    );
  });
});

describe('encodeSample', () => {
  it('gives tokens, labels and crops', async () => {
    const sample = await loaded(picture);
    expect(sample).toMatchObject({ id: 'p', index: 1, hasImage: true });
    expect(sample.inputIds.length).toBe(sample.labels.length);
    expect(sample.crops?.length).toBe(5 * 3 * 8 * 8);
    expect([sample.crops?.[0], sample.crops?.[64]]).toEqual([1, -1]);
    expect(sample.instructs.length).toBeGreaterThan(1);
    const plain = await loaded(text);
    expect(plain).toMatchObject({ hasImage: false, instructs: Int32Array.of(0) });
    expect(plain.crops).toBeUndefined();
  });

  it('takes an empty or null image for none, and does not open images unless asked', async () => {
    expect(await loaded({ ...text, image: null })).toMatchObject({ hasImage: false });
    expect(await loaded({ ...text, image: '' })).toMatchObject({ hasImage: false });
    const unopened = await loaded({ ...picture, image: 'none.png' }, { cropSide: undefined });
    expect(unopened).toMatchObject({ hasImage: true });
  });

  it.each([
    ['no-conversations', { id: 'x' }],
    ['no-conversations', { id: 'x', conversations: [] }],
    ['no-conversations', { id: 'x', conversations: 'hello' }],
    ['unknown-role', { conversations: [{ from: 'system', value: 'a' }, gpt('b')] }],
    ['unknown-role', { conversations: [null] }],
    ['broken-turn', { conversations: [human('a'), { from: 'gpt' }] }],
    ['turn-order', { conversations: [human('a'), human('b')] }],
    ['turn-order', { conversations: [gpt('b')] }],
    ['image-field', { ...picture, image: ['a.png', 'b.png'] }],
    ['image-marker', { ...picture, conversations: text.conversations }],
    ['image-marker', { ...text, conversations: picture.conversations }],
    ['image-marker', { ...picture, conversations: [...picture.conversations, ...picture.conversations] }],
    ['image-marker', { conversations: [human('a <latent_image>'), gpt('b')] }],
    ['missing-image', { ...picture, image: 'images/none.png' }],
    ['missing-image', { ...picture, image: 'images' }],
    ['broken-image', { ...picture, image: 'images/broken.png' }],
    ['no-answer', { conversations: [human('a')] }],
    ['no-answer', { ...picture, conversations: [human('<image> a'), gpt('')] }],
    ['too-long', { conversations: [human('a'), gpt('word '.repeat(200))] }],
  ])('%s: %j', async (kind, record) => {
    const skipped = await skipOf(record);
    expect(skipped).toMatchObject({ kind, file: path.join(folder, 'data.json'), index: 1 });
    expect(skipped.reason).toMatch(/expected .*got /);
  });

  it('names a record that is not JSON', async () => {
    const file = path.join(folder, 'broken.json');
    writeFileSync(file, '[{"conversations" 1}]');
    const dataset = await openDataset(file, { seed: 1 });
    expect(await dataset.sample(0)).toMatchObject({ file, index: 0, kind: 'broken-record' });
    await dataset.close();
  });

  it('a format of another tokenizer is no reason to skip', async () => {
    await expect(load(text, { format: formatNamed('llama_3') })).rejects.toThrow(UserError);
  });

  it('accepts just the maximum length, and one less is too long', async () => {
    for (const record of [text, picture]) {
      const { inputIds } = await loaded(record);
      const maxLength = expandedLength(inputIds, sizes);
      expect(isSkipped(await load(record, { sizes: { ...sizes, maxLength } }))).toBe(false);
      const shorter = { ...sizes, maxLength: maxLength - 1 };
      expect(await skipOf(record, { sizes: shorter })).toMatchObject({ kind: 'too-long' });
      expect(isSkipped(await load(record, { sizes: shorter, tooLong: 'cut' }))).toBe(false);
    }
  });

  it('cut to any length, a sample is kept exactly where something stays supervised', async () => {
    const turns = [human('Hello'), gpt('Hi'), human('<image>\nAnd this?'), gpt('Red.')];
    for (const record of [text, picture, { ...picture, conversations: turns }]) {
      const whole = await loaded(record);
      for (let maxLength = 1; maxLength <= expandedLength(whole.inputIds, sizes); maxLength++) {
        const cut = { ...sizes, maxLength };
        const { targets } = layOutSequences([whole], cut);
        expect(isSkipped(await load(record, { sizes: cut, tooLong: 'cut' }))).toBe(targets.length === 0);
      }
    }
  });
});

describe('SkipLog', () => {
  const skip = (index: number): SkippedSample => ({
    file: 'a.json',
    index,
    kind: 'missing-image',
    reason: 'gone',
  });

  it('stops above the limit, once enough was seen', () => {
    const log = new SkipLog({ limit: 0.1, minimum: 20 });
    log.record(5, [skip(0), skip(1), skip(2)]);
    log.record(14, []);
    expect(() => log.record(1, [])).toThrow(
      'training data: expected at most 10% of samples skipped, got 3 of 20 (missing-image 3); the last: a.json: record 2: gone; mend the data or raise the limit',
    );
    log.record(10, []);
    expect(() => log.record(1, [skip(3)])).toThrow(UserError);
  });

  it('by default stops above 1% of 100', () => {
    const log = new SkipLog();
    log.record(99, [skip(0)]);
    log.record(1, []);
    expect(() => log.record(1, [skip(1)])).toThrow(UserError);
  });

  it('writes a line each, and a resumed run cuts off what came after its state', () => {
    const file = path.join(folder, 'skipped.jsonl');
    const log = new SkipLog({ file });
    log.record(10, [skip(0), skip(1)]);
    const state = JSON.parse(JSON.stringify(log.state()));
    log.record(10, [skip(2)]);
    const lines = () =>
      readFileSync(file, 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
    expect(lines()).toEqual([skip(0), skip(1), skip(2)]);
    const resumed = new SkipLog({ file, state });
    expect(lines()).toEqual([skip(0), skip(1)]);
    resumed.record(10, [skip(2)]);
    expect(resumed.state()).toEqual(log.state());
    expect(resumed.skipped).toBe(3);
  });
});

describe('checkData', () => {
  const records = [
    text,
    picture,
    { ...picture, image: 'images/none.png' },
    { ...picture, image: 'images/broken.png' },
    {},
  ];

  it.each(['decode', 'exists'] as const)(
    'counts and lists what training would skip; images: %s',
    async (images) => {
      const dataset = await openDataset(fileOf(records), { seed: 1 });
      const all: SkippedSample[] = [];
      const done: number[] = [];
      const report = await checkData(dataset, {
        tokenizer,
        format: formatNamed('phi_3'),
        sizes,
        images,
        examples: 1,
        onSkipped: (sample) => all.push(sample),
        onProgress: (count) => done.push(count),
      });
      await dataset.close();
      const broken = images === 'decode' ? { 'broken-image': 1 } : {};
      const skipped = images === 'decode' ? 3 : 2;
      expect(report).toEqual({
        seen: 5,
        withImage: 4 - skipped,
        skipped,
        counts: { 'missing-image': 1, 'no-conversations': 1, ...broken },
        examples: all.slice(0, 1),
      });
      expect(all.map(({ index }) => index)).toEqual(images === 'decode' ? [2, 3, 4] : [2, 4]);
      expect(done).toEqual([1, 2, 3, 4, 5]);
    },
  );
});
