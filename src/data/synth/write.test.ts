/** Data sets on disk: what the JSON says, which files there are, and continuing a run that was stopped. */
import { mkdtemp, readFile, rm, stat, truncate, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { registerSynth } from '../../cli/synth.ts';
import { fromLlava } from '../conversation.ts';
import { readImage } from '../imageFile.ts';
import { renderScene } from './render.ts';
import { sampleAt } from './sample.ts';
import { type WriteOptions, writeDataset } from './write.ts';

interface Entry {
  readonly id: string;
  readonly image: string;
  readonly category: string;
  readonly conversations: { readonly from: string; readonly value: string }[];
}

let out: string;
beforeEach(async () => {
  out = await mkdtemp(join(tmpdir(), 'synth-'));
});
afterEach(() => rm(out, { recursive: true }));

const request = (more: Partial<WriteOptions> = {}): WriteOptions => ({
  out,
  categories: ['SynthColor', 'ContrastShort'],
  count: 5,
  seed: 2,
  split: 'train',
  size: 64,
  ...more,
});
const entries = async (name: string): Promise<Entry[]> =>
  JSON.parse(await readFile(join(out, `${name}.json`), 'utf8')) as Entry[];

describe('writeDataset', () => {
  it('writes LLaVA JSON, the pictures it names and the list of data sets', async () => {
    expect(await writeDataset(request())).toEqual({ samples: 10, kept: 0 });
    for (const category of ['SynthColor', 'ContrastShort'] as const) {
      const found = await entries(category);
      expect(found).toHaveLength(5);
      for (const [i, entry] of found.entries()) {
        const sample = sampleAt(category, 'train', 2, i);
        expect(entry).toMatchObject({ id: sample.id, category, conversations: sample.conversations });
        expect(fromLlava(entry.conversations)[0]!.text).toMatch(/^<image>\n/);
        const { data } = await readImage(join(out, entry.image));
        expect(data).toEqual((await renderScene(sample.scene, 64)).data);
      }
    }
    expect(await readFile(join(out, 'dataset.yaml'), 'utf8')).toBe(
      'datasets:\n  - json_path: SynthColor.json\n    sampling_strategy: all\n' +
        '  - json_path: ContrastShort.json\n    sampling_strategy: all\n',
    );
  });

  it('continues: keeps whole pictures, draws missing and broken ones again', async () => {
    await writeDataset(request());
    const [first, second, third] = (await entries('SynthColor')).map(({ image }) => join(out, image));
    const bytes = await Promise.all([first!, second!].map((path) => readFile(path)));
    const kept = (await stat(third!)).mtimeMs;
    await unlink(first!);
    await truncate(second!, bytes[1]!.length - 5);
    expect(await writeDataset(request({ count: 6 }))).toEqual({ samples: 12, kept: 8 });
    expect(await Promise.all([first!, second!].map((path) => readFile(path)))).toEqual(bytes);
    expect((await stat(third!)).mtimeMs).toBe(kept);
    expect(await entries('SynthColor')).toHaveLength(6);
  });

  it('does not mix samples of other settings into a folder', async () => {
    await writeDataset(request());
    await expect(writeDataset(request({ seed: 3 }))).rejects.toThrow(
      /synth\.json: expected the settings .*"seed": 3/,
    );
    await expect(writeDataset(request({ options: { maxObjects: 3 } }))).rejects.toThrow(/another folder/);
    await expect(writeDataset(request({ count: 0 }))).rejects.toThrow(/count: expected an integer from 1/);
  });
});

describe('fusion synth', () => {
  const run = (...args: string[]) => {
    const program = new Command().exitOverride().configureOutput({ writeErr: () => {} });
    registerSynth(program);
    return program.parseAsync(['synth', '--quiet', '--out', out, ...args], { from: 'user' });
  };

  it('reads its options', async () => {
    await run(
      '--categories',
      'Reasoning',
      '--count',
      '2',
      '--seed',
      '5',
      '--split',
      'test',
      '--size',
      '48',
      '--max-objects',
      '3',
      '--no-textures',
    );
    const [entry] = await entries('Reasoning');
    const sample = sampleAt('Reasoning', 'test', 5, 0, { maxObjects: 3, textures: false });
    expect(entry).toMatchObject({ id: 'Reasoning-test-5-000000', conversations: sample.conversations });
    expect((await readImage(join(out, entry!.image))).width).toBe(48);
  });

  it('refuses a category it does not know', async () => {
    await expect(run('--categories', 'Reasoning,Sums')).rejects.toThrow(
      /categories: expected all or some of .*, got 'Sums'/,
    );
  });
});
