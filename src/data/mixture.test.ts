import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { UserError } from '../common/errors.ts';
import { Random } from '../common/random.ts';
import { parseMixture, parseSampling, parseStrictYaml, readMixture, selectRecords } from './mixture.ts';

function records(strategy: string, total: number, seed = 1): number[] {
  const selection = selectRecords(parseSampling(strategy, 'test'), total, new Random(seed));
  return Array.from({ length: selection.count }, (_, i) => selection.at(i));
}

function errorOf(content: string): string {
  try {
    parseMixture(content, 'data/mix.yaml');
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).message;
  }
  throw new Error('expected an error');
}

describe('parseMixture', () => {
  it('reads entries, paths relative to the YAML', () => {
    const yaml = `# a comment
datasets:
  - json_path: a.json
    sampling_strategy: first:10%
  - json_path: ../b/b.jsonl
  - { json_path: /abs/c.json, sampling_strategy: "random:5" }
`;
    expect(parseMixture(yaml, '/x/data/mix.yaml')).toEqual([
      {
        name: 'a.json',
        jsonPath: '/x/data/a.json',
        sampling: { kind: 'first', amount: { unit: 'percent', parts: 10, scale: 1 } },
        where: '/x/data/mix.yaml:3',
      },
      {
        name: '../b/b.jsonl',
        jsonPath: '/x/b/b.jsonl',
        sampling: { kind: 'all' },
        where: '/x/data/mix.yaml:5',
      },
      {
        name: '/abs/c.json',
        jsonPath: '/abs/c.json',
        sampling: { kind: 'random', amount: { unit: 'records', count: 5 } },
        where: '/x/data/mix.yaml:6',
      },
    ]);
  });

  it('names the line and the key nearest to an unknown one', () => {
    expect(errorOf('datasets:\n  - json_path: a.json\n    sampling_stratgy: all\n')).toBe(
      'data/mix.yaml:3: datasets[0].sampling_stratgy: expected one of the keys json_path, sampling_strategy, got sampling_stratgy; did you mean sampling_strategy?',
    );
    expect(errorOf('\n\ndataset:\n  - json_path: a.json\n')).toBe(
      'data/mix.yaml:3: dataset: expected one of the keys datasets, got dataset; did you mean datasets?',
    );
    expect(errorOf('datasets:\n  - json_path: a.json\n  - jsonpath: b.json\n')).toMatch(
      /^data\/mix\.yaml:3: datasets\[1\]\.jsonpath: .*did you mean json_path\?$/,
    );
    expect(errorOf('datasets:\n  - json_path: a.json\n    weight: 2\n')).toMatch(/got weight$/);
  });

  it.each([
    ['', 'data/mix.yaml:1: expected a mapping with the key datasets, got null'],
    ['datasets: 3\n', 'data/mix.yaml:1: datasets: expected a list of datasets, got 3'],
    ['datasets: []\n', 'data/mix.yaml:1: datasets: expected at least one dataset in the list, got []'],
    ['datasets:\n  - json_path: 7\n', 'data/mix.yaml:2: datasets[0].json_path: expected text, got 7'],
    [
      'datasets:\n  - json_path: a.json\n  -\n    sampling_strategy: all\n',
      'data/mix.yaml:4: datasets[1].json_path: expected text, got nothing',
    ],
    [
      'datasets:\n  - json_path: a.json\n\n    sampling_strategy: some:3\n',
      'data/mix.yaml:4: datasets[0].sampling_strategy: expected all, first:N, first:P%, end:N, end:P%, random:N or random:P% (N from 1, P above 0 and up to 100), got "some:3"',
    ],
  ])('refuses %j', (yaml, message) => expect(errorOf(yaml)).toBe(message));

  it('refuses broken YAML and a key given twice, with the line', () => {
    expect(errorOf('datasets:\n  - json_path: "a\n')).toMatch(/^data\/mix\.yaml:\d: expected YAML, got: /);
    expect(errorOf('datasets:\n  - json_path: a.json\n    json_path: b.json\n')).toMatch(
      /^data\/mix\.yaml:3: .*unique/,
    );
  });
});

describe('parseStrictYaml', () => {
  it('finds the known keys inside optional, default and nullable parts', () => {
    const schema = z.strictObject({
      stage: z.strictObject({ rate: z.number({ error: 'a number' }) }).optional(),
      list: z.array(z.strictObject({ pattern: z.string() })).default([]),
    });
    expect(() => parseStrictYaml('stage:\n  rte: 1\n', 'c.yaml', schema)).toThrow(
      'c.yaml:2: stage.rte: expected one of the keys rate, got rte; did you mean rate?',
    );
    expect(() => parseStrictYaml('list:\n- patern: x\n', 'c.yaml', schema)).toThrow(/did you mean pattern/);
    const { value, lineOf } = parseStrictYaml('\nstage:\n  rate: 2\n', 'c.yaml', schema);
    expect(value).toEqual({ stage: { rate: 2 }, list: [] });
    expect(lineOf(['stage', 'rate'])).toBe(3);
  });
});

describe('readMixture', () => {
  it('takes a lone JSON file, and refuses other kinds and missing files', async () => {
    expect(await readMixture('some/data.jsonl')).toEqual([
      {
        name: 'some/data.jsonl',
        jsonPath: path.resolve('some/data.jsonl'),
        sampling: { kind: 'all' },
        where: 'some/data.jsonl',
      },
    ]);
    await expect(readMixture('data.csv')).rejects.toThrow(/^data\.csv: expected a dataset as/);
    await expect(readMixture('/nowhere/mix.yaml')).rejects.toThrow(UserError);
  });

  it('reads a YAML file', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'mixture-'));
    const file = path.join(folder, 'mix.yml');
    await writeFile(file, 'datasets:\n  - json_path: sub/a.json\n');
    const [entry] = await readMixture(file);
    await rm(folder, { recursive: true });
    expect(entry?.jsonPath).toBe(path.join(folder, 'sub/a.json'));
  });
});

describe('sampling', () => {
  it.each([
    ['all', 4, [0, 1, 2, 3]],
    ['first:2', 4, [0, 1]],
    ['first:9', 4, [0, 1, 2, 3]],
    ['end:3', 5, [2, 3, 4]],
    ['first:34%', 3, [0, 1]],
    ['end:1%', 5, [4]],
    ['first:100%', 3, [0, 1, 2]],
    ['first:50%', 0, []],
    ['random:100%', 3, [0, 1, 2]],
  ])('%s of %i', (strategy, total, expected) => expect(records(strategy, total)).toEqual(expected));

  it.each([
    ['7%', 100, 7],
    ['0.1%', 1000, 1],
    ['12.5%', 8, 1],
    ['12.5%', 9, 2],
    ['29%', 100, 29],
    ['57%', 1_000_000, 570_000],
  ])('%s of %i are %i', (share, total, expected) =>
    expect(records(`end:${share}`, total).length).toBe(expected),
  );

  it.each([
    'first',
    'first:',
    'first:0',
    'first:0%',
    'first:101%',
    'first:1.5',
    'random:-1',
    'ALL',
    'end:5 %',
  ])('refuses %s', (strategy) =>
    expect(() => parseSampling(strategy, 'here')).toThrow(/^here: expected all, first:N/),
  );

  it('random takes that many different records, the same for the same seed', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 1, max: 60 }),
        fc.nat(),
        (n, k, seed) => {
          const picked = records(`random:${k}`, n, seed);
          expect(picked.length).toBe(Math.min(n, k));
          expect(new Set(picked).size).toBe(picked.length);
          expect(picked).toEqual([...picked].sort((a, b) => a - b));
          expect(picked.every((record) => record >= 0 && record < n)).toBe(true);
          expect(records(`random:${k}`, n, seed)).toEqual(picked);
        },
      ),
    );
    expect(records('random:10', 1000, 1)).not.toEqual(records('random:10', 1000, 2));
  });

  it('random takes each record equally often', () => {
    const taken = new Array<number>(10).fill(0);
    for (let seed = 0; seed < 2000; seed++) {
      for (const record of records('random:3', 10, seed)) taken[record] = (taken[record] ?? 0) + 1;
    }
    for (const count of taken) expect(Math.abs(count - 600)).toBeLessThan(100);
  });
});
