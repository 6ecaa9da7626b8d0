import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { InternalError, UserError } from './errors.ts';
import { philox4x32, Random } from './random.ts';

function philox(counter: number[], key: number[]): string {
  const out = new Uint32Array(4);
  const [c0, c1, c2, c3] = counter as [number, number, number, number];
  philox4x32(c0, c1, c2, c3, key[0]!, key[1]!, out);
  return Array.from(out, (x) => x.toString(16).padStart(8, '0')).join(' ');
}

function draw<T>(count: number, next: () => T): T[] {
  return Array.from({ length: count }, next);
}

function moments(values: ArrayLike<number>): { mean: number; variance: number; kurtosis: number } {
  const all = Array.from(values);
  const average = (f: (x: number) => number) => all.reduce((sum, x) => sum + f(x), 0) / all.length;
  const mean = average((x) => x);
  const variance = average((x) => (x - mean) ** 2);
  return { mean, variance, kurtosis: average((x) => (x - mean) ** 4) / variance ** 2 };
}

/** Sum of (seen − expected)² / expected over equally likely bins. */
function chiSquare(counts: readonly number[]): number {
  const expected = counts.reduce((a, b) => a + b, 0) / counts.length;
  return counts.reduce((sum, seen) => sum + (seen - expected) ** 2 / expected, 0);
}

describe('philox4x32', () => {
  it('gives the Random123 known answers', () => {
    expect(philox([0, 0, 0, 0], [0, 0])).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8');
    const ones = 0xffffffff;
    expect(philox([ones, ones, ones, ones], [ones, ones])).toBe('408f276d 41c83b0e a20bc7c6 6d5451fd');
    expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toBe(
      'd16cfe09 94fdcceb 5001e420 24126ea1',
    );
  });
});

describe('Random state', () => {
  it('draws the words of Philox in order', () => {
    const random = new Random(0);
    expect(draw(4, () => random.uint32())).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    const out = new Uint32Array(4);
    philox4x32(1, 0, 0, 0, 0, 0, out);
    expect(random.uint32()).toBe(out[0]);
  });

  it('continues bit for bit from any point, through JSON', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.nat(50), (seed, skip) => {
        const random = new Random(seed);
        draw(skip, () => random.uint32());
        const state = random.state();
        expect(state.counter).toBe(skip);
        const copy = Random.from(JSON.parse(JSON.stringify(state)));
        const next = (r: Random) => [r.normal(), r.uniform(), r.integer(7), r.uint32()];
        expect(next(copy)).toEqual(next(random));
        expect(copy.state()).toEqual(random.state());
      }),
    );
  });

  it('reaches blocks beyond 2^32', () => {
    const out = new Uint32Array(4);
    philox4x32(5, 3, 0, 0, 9, 0, out);
    const random = new Random(9, (3 * 2 ** 32 + 5) * 4 + 2);
    expect([random.uint32(), random.uint32()]).toEqual([out[2], out[3]]);
  });

  it('tells seeds apart, and takes integers modulo 2^64', () => {
    const first = (seed: number | bigint | string) => new Random(seed).uniform();
    expect(first(7)).toBe(first(7n));
    expect(first(-1)).toBe(first(2n ** 64n - 1n));
    expect(first('run')).toBe(first('run'));
    const seeds = [0, 1, 2n ** 32n, '', '0', '1', 'run', 'nur', 'run\0'];
    expect(new Set(seeds.map(first)).size).toBe(seeds.length);
  });

  it('forks streams that depend on seed and label only', () => {
    const random = new Random(3);
    const fresh = random.fork('shuffle').state();
    random.uint32();
    expect(random.fork('shuffle').state()).toEqual(fresh);
    expect(random.state().counter).toBe(1);
    const streams = ['', 'a', 'b', 'ab', 'ac', 'ba'].map((label) => random.fork(label).uniform());
    streams.push(
      new Random(4).fork('a').uniform(),
      new Random('a').uniform(),
      random.fork('a').fork('b').uniform(),
    );
    expect(new Set(streams).size).toBe(streams.length);
    expect(new Random(0).fork('a').uniform()).not.toBe(new Random('a').uniform());
  });

  it('refuses what is no seed, counter or bound', () => {
    expect(() => new Random(1.5)).toThrow(
      new UserError('seed: expected an integer between -(2^53 - 1) and 2^53 - 1, got 1.5'),
    );
    expect(() => new Random(1, -1)).toThrow(UserError);
    expect(() => Random.from({ seed: '12', counter: 0 })).toThrow(UserError);
    for (const n of [0, -1, 2.5, Number.NaN, 2 ** 53])
      expect(() => new Random(1).integer(n)).toThrow(InternalError);
    expect(() => new Random(1).fillNormal(new Float32Array(1), Number.NaN)).toThrow(InternalError);
  });
});

describe('Random distributions', () => {
  it('uniform: in [0, 1), flat, uncorrelated with its successor', () => {
    const random = new Random(11);
    const values = draw(100_000, () => random.uniform());
    const { mean, variance } = moments(values);
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.004);
    expect(Math.abs(variance - 1 / 12)).toBeLessThan(0.001);
    expect(Math.min(...values.slice(0, 1000))).toBeGreaterThanOrEqual(0);
    const bins = new Array<number>(100).fill(0);
    for (const x of values) bins[Math.floor(x * 100)]!++;
    expect(bins.length).toBe(100);
    expect(chiSquare(bins)).toBeLessThan(149); // 99 degrees of freedom, p ≈ 0.001
    const products = values.slice(1).map((x, i) => (x - 0.5) * (values[i]! - 0.5));
    expect(Math.abs(moments(products).mean)).toBeLessThan(0.001);
  });

  it('uniform: fills all 53 bits', () => {
    const random = new Random(5);
    const low = draw(64, () => (random.uniform() * 2 ** 53) % 2);
    expect(new Set(low)).toEqual(new Set([0, 1]));
  });

  it('normal: mean 0, variance 1, kurtosis 3', () => {
    const random = new Random(12);
    const { mean, variance, kurtosis } = moments(draw(100_000, () => random.normal()));
    expect(Math.abs(mean)).toBeLessThan(0.012);
    expect(Math.abs(variance - 1)).toBeLessThan(0.018);
    expect(Math.abs(kurtosis - 3)).toBeLessThan(0.08);
  });

  it('fillNormal: scaled by std, any length, one word per number', () => {
    const random = new Random(13);
    const values = new Float32Array(100_001);
    random.fillNormal(values, 0.02);
    expect(random.state().counter).toBe(100_002);
    const { mean, variance, kurtosis } = moments(values);
    expect(Math.abs(mean)).toBeLessThan(0.02 * 0.012);
    expect(Math.abs(variance / 0.0004 - 1)).toBeLessThan(0.018);
    expect(Math.abs(kurtosis - 3)).toBeLessThan(0.08);
    expect(values[100_000]).not.toBe(0);
    const pairs = Array.from({ length: 50_000 }, (_, i) => (values[2 * i]! * values[2 * i + 1]!) / 0.0004);
    expect(Math.abs(moments(pairs).mean)).toBeLessThan(0.015);
  });

  it('integer: every value equally likely, small and above 2^32', () => {
    const random = new Random(14);
    const counts = new Array<number>(7).fill(0);
    for (let i = 0; i < 70_000; i++) counts[random.integer(7)]!++;
    expect(counts.length).toBe(7);
    expect(chiSquare(counts)).toBeLessThan(22.5); // 6 degrees of freedom, p ≈ 0.001
    expect(random.integer(1)).toBe(0);
    expect(moments(draw(2000, () => random.integer(2 ** 52) / 2 ** 52)).mean).toBeCloseTo(0.5, 1);
  });

  it('integer: rejects the words that would favour small values', () => {
    // With n = 3 · 2^30 a plain remainder would put half of all draws below 2^30.
    const random = new Random(15);
    const below = draw(9000, () => random.integer(3 * 2 ** 30)).filter((x) => x < 2 ** 30).length;
    expect(Math.abs(below / 9000 - 1 / 3)).toBeLessThan(0.02);
  });

  it('shuffle: in place, a permutation, all orders equally likely', () => {
    const random = new Random(16);
    const array = [1, 2, 3];
    expect(random.shuffle(array)).toBe(array);
    const counts = new Map<string, number>();
    for (let i = 0; i < 12_000; i++) {
      const order = random.shuffle([1, 2, 3]).join('');
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect([...counts.keys()].sort()).toEqual(['123', '132', '213', '231', '312', '321']);
    expect(chiSquare([...counts.values()])).toBeLessThan(20.5); // 5 degrees of freedom, p ≈ 0.001
    expect(Array.from(random.shuffle(Uint32Array.from([5, 6, 7]))).sort()).toEqual([5, 6, 7]);
  });
});
