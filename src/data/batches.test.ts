import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import {
  BatchOrder,
  collate,
  loadBatch,
  type OrderOptions,
  type PlannedBatch,
  prefetch,
  type SampleLengths,
} from './batches.ts';
import { formatNamed } from './conversation.ts';
import { type EncodedSample, openDataset } from './dataset.ts';
import { loadTokenizer } from './tokenizer.ts';

/** Samples by their words; below zero without an image. */
const lengthsOf = (words: readonly number[]): SampleLengths => ({
  count: words.length,
  words: (i) => Math.abs(words[i] ?? 0),
  hasImage: (i) => (words[i] ?? 0) >= 0,
});

const words = fc.array(fc.integer({ min: -50, max: 50 }), { minLength: 1, maxLength: 70 });
const setups = fc.record({
  words,
  batch: fc.integer({ min: 1, max: 9 }),
  world: fc.integer({ min: 1, max: 4 }),
  accumulation: fc.integer({ min: 1, max: 3 }),
  seed: fc.nat(),
  epoch: fc.integer({ min: 0, max: 3 }),
  groupByModalityLength: fc.boolean(),
});

/** All batches of an epoch, in the order in which the ranks together use them. */
function epochOf(lengths: SampleLengths, options: OrderOptions, epoch: number): number[][] {
  const ranks = Array.from(
    { length: options.world ?? 1 },
    (_, rank) => new BatchOrder(lengths, { ...options, rank }),
  );
  const positions = Array.from({ length: ranks[0]!.batchesPerEpoch }, (_, position) => position);
  return positions.flatMap((position) => ranks.map((rank) => [...rank.at(epoch, position)]));
}

const sorted = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b);

describe('BatchOrder', () => {
  it('has every sample exactly once in an epoch, in ⌈samples / batch⌉ batches', () => {
    fc.assert(
      fc.property(setups, ({ words, epoch, ...options }) => {
        const batches = epochOf(lengthsOf(words), options, epoch);
        expect(sorted(batches.flat())).toEqual(words.map((_, i) => i));
        const used = batches.filter((batch) => batch.length > 0);
        expect(used.length).toBe(Math.ceil(words.length / options.batch));
        expect(batches.every((batch) => batch.length <= options.batch)).toBe(true);
        // Only the very end may leave ranks without a batch.
        expect(batches.slice(0, used.length)).toEqual(used);
        expect(batches.length - used.length).toBeLessThan(options.world);
      }),
    );
  });

  it('grouped: batches but the last hold one modality', () => {
    fc.assert(
      fc.property(setups, ({ words, epoch, ...options }) => {
        const lengths = lengthsOf(words);
        const batches = epochOf(lengths, { ...options, groupByModalityLength: true }, epoch);
        const used = batches.filter((batch) => batch.length > 0);
        for (const batch of used.slice(0, -1)) {
          expect(new Set(batch.map((i) => lengths.hasImage(i))).size).toBe(1);
        }
      }),
    );
  });

  it('grouped: the batches of a window have nearly even totals', () => {
    fc.assert(
      fc.property(
        fc.nat(),
        fc.integer({ min: 2, max: 5 }),
        fc.integer({ min: 2, max: 8 }),
        (seed, world, batch) => {
          const count = 3 * world * batch;
          const lengths = lengthsOf(Array.from({ length: count }, (_, i) => (i * i * 7) % 1000));
          const batches = epochOf(lengths, { batch, world, seed, groupByModalityLength: true }, 0);
          for (let w = 0; w < batches.length; w += world) {
            const window = batches.slice(w, w + world);
            const totals = window.map((samples) => samples.reduce((sum, i) => sum + lengths.words(i), 0));
            const longest = Math.max(...window.flat().map((i) => lengths.words(i)));
            expect(Math.max(...totals) - Math.min(...totals)).toBeLessThanOrEqual(longest);
            for (const samples of window) {
              const own = samples.map((i) => lengths.words(i));
              expect(own).toEqual([...own].sort((a, b) => b - a));
            }
          }
        },
      ),
    );
  });

  it('deals the longest first, each to the shortest rank with room', () => {
    const lengths = lengthsOf([10, 9, 8, 1]);
    const batches = epochOf(lengths, { batch: 2, world: 2, seed: 3, groupByModalityLength: true }, 0);
    expect(batches).toEqual([
      [0, 3],
      [1, 2],
    ]);
  });

  it('grouped: windows are drawn at random and shuffled', () => {
    const lengths = lengthsOf(Array.from({ length: 80 }, (_, i) => (i < 40 ? 5 : -5)));
    const batches = epochOf(lengths, { batch: 4, seed: 1, groupByModalityLength: true }, 0);
    const kinds = batches.map(([first = 0]) => (lengths.hasImage(first) ? 'i' : 't')).join('');
    expect(kinds).toMatch(/i+t+i+t+/);
    expect(sorted(batches[0] ?? [])).not.toEqual([0, 1, 2, 3]);
    expect(new Set(batches.filter(([i = 0]) => i < 40).flat()).size).toBe(40);
  });

  it('depends on seed and epoch alone', () => {
    const lengths = lengthsOf(Array.from({ length: 50 }, (_, i) => i - 25));
    for (const groupByModalityLength of [false, true]) {
      const order = (seed: number, epoch: number) =>
        epochOf(lengths, { batch: 4, seed, groupByModalityLength }, epoch).join(' ');
      expect(order(1, 0)).toBe(order(1, 0));
      expect(order(1, 0)).not.toBe(order(1, 1));
      expect(order(1, 0)).not.toBe(order(2, 0));
    }
  });

  it('resumed from any state, goes on as it would have', () => {
    fc.assert(
      fc.property(setups, fc.nat(), ({ words, epoch, ...options }, pick) => {
        const make = () => new BatchOrder(lengthsOf(words), { ...options, rank: pick % options.world });
        const order = make();
        const plain = (batches: Iterable<PlannedBatch>) =>
          Array.from(batches, (batch) => ({ ...batch, indices: [...batch.indices] }));
        const all = plain(order.from(order.start(), epoch + 1));
        expect(all.length).toBe((epoch + 1) * order.batchesPerEpoch);
        const stop = pick % all.length;
        const state = JSON.parse(JSON.stringify(all[stop]!.next));
        expect(plain(make().from(state, epoch + 1))).toEqual(all.slice(stop + 1));
      }),
      { numRuns: 60 },
    );
  });

  it('goes to a far position in the time of one epoch, however many came before', () => {
    const lengths = lengthsOf(new Array<number>(200_000).fill(3));
    const order = new BatchOrder(lengths, { batch: 8, seed: 1 });
    const started = performance.now();
    const [batch] = order.from({ ...order.start(), epoch: 1_000_000, position: 20_000 });
    expect(batch?.indices.length).toBe(8);
    expect(performance.now() - started).toBeLessThan(2000);
  });

  it('refuses sizes that are none, and a state of other data', () => {
    const lengths = lengthsOf([1, 2, 3, 4, 5]);
    expect(() => new BatchOrder(lengths, { batch: 0, seed: 1 })).toThrow(
      'batch: expected a whole number from 1, got 0',
    );
    expect(() => new BatchOrder(lengths, { batch: 1.5, seed: 1 })).toThrow(UserError);
    expect(() => new BatchOrder(lengths, { batch: 1, seed: 1, world: 2, rank: 2 })).toThrow(
      'rank: expected 0 to 1',
    );
    expect(() => new BatchOrder(lengthsOf([]), { batch: 1, seed: 1 })).toThrow(/^samples: /);
    const order = new BatchOrder(lengths, { batch: 2, seed: 1 });
    const start = order.start();
    expect(() => order.from({ ...start, seed: 2 })).toThrow(
      'resume: seed of the training data: expected 2 as before, got 1',
    );
    expect(() => order.from({ ...start, samples: 6 })).toThrow('resume: samples of the training data');
    expect(() => order.from({ ...start, position: 3 })).toThrow(
      'expected a position below 3, got batch 3 of epoch 0',
    );
    expect(() => order.from({ ...start, position: 2 })).not.toThrow();
  });
});

const encoded = (id: string, instructs: number[], crops?: Float32Array): EncodedSample => ({
  file: 'a.json',
  index: 0,
  id,
  inputIds: Int32Array.of(1, 2),
  labels: Int32Array.of(-100, 2),
  instructs: Int32Array.from(instructs),
  hasImage: crops !== undefined,
  ...(crops && { crops }),
});

describe('collate', () => {
  it('pads questions on the right with 0 and puts crops in place', () => {
    const size = 5 * 3 * 2 * 2;
    const samples = [encoded('a', [0]), encoded('b', [5, 6, 7], new Float32Array(size).fill(2))];
    const batch = collate(samples, 2);
    expect([...batch.instructs]).toEqual([0, 0, 0, 5, 6, 7]);
    expect(batch).toMatchObject({ instructLength: 3, hasImage: [false, true], samples });
    expect([...batch.crops!]).toEqual([...new Array(size).fill(0), ...new Array(size).fill(2)]);
    expect(collate(samples).crops).toBeUndefined();
  });
});

describe('loadBatch', () => {
  it('keeps the order, leaves out what cannot be used, and says so', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'batches-'));
    const phi3 = fileURLToPath(new URL('../../test/fixtures/golden/tokenizers/phi3', import.meta.url));
    const create = { width: 2, height: 2, channels: 3, background: 'white' } as const;
    await sharp({ create }).png().toFile(path.join(folder, 'white.png'));
    const asked = (value: string) => [
      { from: 'human', value },
      { from: 'gpt', value: 'Yes.' },
    ];
    const records = [
      { id: 'a', conversations: asked('Is it?') },
      { id: 'b', image: 'white.png', conversations: asked('<image>\nWhite?') },
      { id: 'c', image: 'none.png', conversations: asked('<image>\nWhite?') },
      { id: 'd' },
    ];
    writeFileSync(path.join(folder, 'data.json'), JSON.stringify(records));
    const dataset = await openDataset(path.join(folder, 'data.json'), { seed: 1 });
    const order = new BatchOrder(dataset, { batch: 4, seed: 1 });
    const [planned] = order.from(order.start());
    const batch = await loadBatch(
      dataset,
      { ...planned!, indices: Uint32Array.of(3, 2, 1, 0) },
      {
        tokenizer: await loadTokenizer(phi3),
        format: formatNamed('phi_3'),
        sizes: { imageTokens: 16, queryLength: 4, maxLength: 200 },
        cropSide: 2,
      },
    );
    await dataset.close();
    rmSync(folder, { recursive: true });
    expect(batch.samples.map(({ id }) => id)).toEqual(['b', 'a']);
    expect(batch.skipped.map(({ id, kind }) => [id, kind])).toEqual([
      ['d', 'no-conversations'],
      ['c', 'missing-image'],
    ]);
    expect(batch).toMatchObject({
      seen: 4,
      epoch: 0,
      position: 0,
      hasImage: [true, false],
      next: planned?.next,
    });
    const half = 5 * 3 * 2 * 2;
    expect([...batch.crops!]).toEqual([...new Array(half).fill(1), ...new Array(half).fill(0)]);
    expect(batch.instructs.length).toBe(2 * batch.instructLength);
    expect([...batch.instructs.subarray(batch.instructLength)].every((id) => id === 0)).toBe(true);
  });
});

describe('prefetch', () => {
  const later = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

  it('keeps the order, with just so many under way', async () => {
    let [running, most, started] = [0, 0, 0];
    const prepare = async (i: number) => {
      started++;
      most = Math.max(most, ++running);
      await later(5 * ((7 * i) % 4));
      running--;
      return i;
    };
    const items = Array.from({ length: 20 }, (_, i) => i);
    const results: number[] = [];
    for await (const result of prefetch(items, prepare, 3)) {
      // While this one is used, three more are prepared.
      await later(1);
      expect(started).toBe(Math.min(20, result + 4));
      results.push(result);
    }
    expect(results).toEqual(items);
    expect(most).toBeLessThanOrEqual(4);
    expect(most).toBeGreaterThan(1);
  });

  it('throws an error in its place and starts nothing after it', async () => {
    const started: number[] = [];
    const prepare = async (i: number) => {
      started.push(i);
      await later(i === 3 ? 1 : 10);
      if (i === 3) throw new UserError('three');
      return i;
    };
    const results: number[] = [];
    const all = Array.from({ length: 50 }, (_, i) => i);
    const run = async () => {
      for await (const result of prefetch(all, prepare, 4)) results.push(result);
    };
    await expect(run()).rejects.toThrow('three');
    expect(results).toEqual([0, 1, 2]);
    expect(started.length).toBeLessThan(10);
  });

  it('left early, waits for what is under way and takes no more of an endless source', async () => {
    let [finished, started, closed] = [0, 0, false];
    function* endless() {
      try {
        for (let i = 0; ; i++) yield i;
      } finally {
        closed = true;
      }
    }
    const prepare = async () => {
      started++;
      await later(5);
      finished++;
    };
    for await (const _ of prefetch(endless(), prepare, 2)) break;
    expect([started, finished, closed]).toEqual([3, 3, true]);
  });
});
