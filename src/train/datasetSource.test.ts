import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Json, makeTinyRun, type TinyRun, tinyRecord } from '../../bench/tinyRun.ts';
import { readFusionConfig } from '../model/config.ts';
import { readTrainConfig } from './config.ts';
import { openEncoder, openSource } from './openSource.ts';
import type { Encoder, SampleSource } from './source.ts';

const dir = mkdtempSync(path.join(tmpdir(), 'fusion-source-'));
const skippedFile = path.join(dir, 'skipped.jsonl');
let run: TinyRun;
let encoder: Encoder;

beforeAll(async () => {
  const records = Array.from({ length: 11 }, (_, i): Json => (i % 4 === 1 ? { id: i } : tinyRecord(i)));
  run = await makeTinyRun(dir, records, { batch_size: 2, skip_limit: 0.5 });
  encoder = await openEncoder(await readFusionConfig(run.base), run.base);
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

async function open(synth = false): Promise<SampleSource> {
  const [stage] = await readTrainConfig(run.config);
  const recipe = { categories: ['SynthColor'], count: 10, size: 64 };
  const data = synth ? { data: { synth: recipe } } : {};
  return openSource({ ...stage!, ...data }, encoder, dir);
}

async function ids(source: SampleSource, batches: number): Promise<string[]> {
  const all: string[] = [];
  for (let i = 0; i < batches; i++) all.push((await source.next()).map(({ id }) => id).join());
  return all;
}

describe.each([
  ['a data set', false],
  ['synthetic samples', true],
])('%s', (_, synth) => {
  it('goes on from a state with the batches that followed it', async () => {
    const whole = await open(synth);
    const expected = await ids(whole, 14);
    const skipped = synth ? '' : readFileSync(skippedFile, 'utf8');
    const end = JSON.stringify(whole.state());
    await whole.close();
    for (const used of [0, 1, 5, 6, 13]) {
      const first = await open(synth);
      await ids(first, used);
      // One more is prepared by now, which the state must not count.
      const state = JSON.parse(JSON.stringify(first.state()));
      await ids(first, 1);
      await first.close();
      const second = await open(synth);
      second.restore(state);
      expect(await ids(second, 14 - used)).toEqual(expected.slice(used));
      expect(JSON.stringify(second.state())).toBe(end);
      await second.close();
      if (!synth) expect(readFileSync(skippedFile, 'utf8')).toBe(skipped);
    }
  });

  it('refuses the state of other data', async () => {
    const [source, other] = [await open(synth), await open(!synth)];
    expect(() => source.restore(other.state())).toThrow(/^resume: expected a state of .*, got one of /);
    await source.close();
    await other.close();
  });
});

it('gives pictures to the samples that have one and zeros to the others', async () => {
  const source = await open();
  const blank: boolean[] = [];
  const texts: boolean[] = [];
  for (let i = 0; i < source.batchesPerEpoch; i++) {
    for (const { id, crops } of await source.next()) {
      blank.push(crops.every((value) => value === 0));
      texts.push(Number(id.split('-')[1]) % 4 === 3);
    }
  }
  expect(blank).toEqual(texts);
  expect(blank.length).toBe(8);
  await source.close();
});
