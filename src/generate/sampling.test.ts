import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { InternalError, UserError } from '../common/errors.ts';
import { Random } from '../common/random.ts';
import { logProbabilities, type SamplingOptions, sampleToken, validateSampling } from './sampling.ts';

const logits = (...values: number[]) => Float32Array.from(values);
/** Logits whose softmax is the given distribution. */
const probabilities = (...values: number[]) => Float32Array.from(values, Math.log);
const greedy = (l: Float32Array, options: SamplingOptions = {}, previous: Iterable<number> = []) =>
  sampleToken(l, options, previous, new Random(0)).id;

function counts(l: Float32Array, options: SamplingOptions, draws: number, previous: number[] = []): number[] {
  const random = new Random(options.seed ?? 1);
  const seen = new Array<number>(l.length).fill(0);
  for (let i = 0; i < draws; i++) seen[sampleToken(l, options, previous, random).id]!++;
  return seen;
}

/** Checks drawn frequencies against expected probabilities at p ≈ 0.001; impossible tokens must not occur. */
function expectDistribution(seen: readonly number[], expected: readonly number[]): void {
  const draws = seen.reduce((a, b) => a + b, 0);
  const possible = expected.filter((p) => p > 0).length;
  let chiSquare = 0;
  expected.forEach((p, id) => {
    if (p === 0) expect(seen[id], `token ${id}`).toBe(0);
    else chiSquare += (seen[id]! - p * draws) ** 2 / (p * draws);
  });
  const limit = [0, 1e-9, 10.8, 13.8, 16.3, 18.5][possible]!;
  expect(chiSquare).toBeLessThan(limit);
}

describe('greedy', () => {
  it('takes the largest logit, the lowest id of several', () => {
    expect(greedy(logits(-1, 3, 2, 3))).toBe(1);
    expect(greedy(logits(-5))).toBe(0);
    expect(greedy(logits(-Infinity, -9, -Infinity))).toBe(1);
  });

  it('draws nothing from the random stream', () => {
    const random = new Random(0);
    sampleToken(logits(1, 2), {}, [], random);
    expect(random.state().counter).toBe(0);
  });

  it('reports the log-probability under the untouched logits', () => {
    const l = probabilities(0.2, 0.5, 0.3);
    const { id, logProbability } = sampleToken(l, { repetitionPenalty: 5 }, [2], new Random(0));
    expect(id).toBe(1);
    expect(logProbability).toBeCloseTo(Math.log(0.5), 6);
    const sampled = sampleToken(l, { temperature: 9, topK: 1 }, [], new Random(0));
    expect(sampled.logProbability).toBeCloseTo(Math.log(0.5), 6);
    expect(l).toEqual(probabilities(0.2, 0.5, 0.3));
  });

  it('refuses logits no token can be chosen from', () => {
    expect(() => greedy(logits(1, Number.NaN, 2))).toThrow(
      new InternalError('logits: expected numbers, got NaN at token 1 of 3'),
    );
    expect(() => greedy(logits(Number.NaN), { temperature: 1 })).toThrow(InternalError);
    expect(() => greedy(logits(-Infinity, -Infinity))).toThrow('all 2 are -Infinity');
    expect(() => greedy(logits(1, Infinity))).toThrow('got Infinity at token 1');
    expect(() => greedy(logits())).toThrow(InternalError);
  });
});

describe('repetition penalty', () => {
  it('divides positive and multiplies negative logits, each id once', () => {
    expect(greedy(logits(4, 3), { repetitionPenalty: 2 }, [0])).toBe(1);
    expect(greedy(logits(-1, -1.5), { repetitionPenalty: 2 }, [0])).toBe(1);
    // Once: 4 / 1.3 = 3.08 stays above 3; twice would fall to 2.37.
    expect(greedy(logits(4, 3), { repetitionPenalty: 1.3 }, [0, 0, 0])).toBe(0);
    expect(greedy(logits(3, 4), { repetitionPenalty: 0.5 }, new Set([0]))).toBe(0);
  });

  it('ignores ids outside the vocabulary', () => {
    expect(greedy(logits(1, 2), { repetitionPenalty: 2 }, [-200, 7])).toBe(1);
  });

  it('comes before temperature', () => {
    // Penalised logits (1, 0) at temperature 0.5 are (2, 0): odds e² to 1.
    const p = Math.exp(2) / (1 + Math.exp(2));
    const seen = counts(logits(2, 0), { temperature: 0.5, repetitionPenalty: 2 }, 20_000, [0]);
    expectDistribution(seen, [p, 1 - p]);
  });
});

describe('distributions', () => {
  const l = probabilities(0.1, 0.4, 0.05, 0.3, 0.15);

  it.each<[string, SamplingOptions, number[]]>([
    ['temperature 1', {}, [0.1, 0.4, 0.05, 0.3, 0.15]],
    // Squares: 0.01, 0.16, 0.0025, 0.09, 0.0225; their sum is 0.285.
    ['temperature 0.5', { temperature: 0.5 }, [0.01, 0.16, 0.0025, 0.09, 0.0225].map((p) => p / 0.285)],
    ['top-k', { topK: 3 }, [0, 0.4, 0, 0.3, 0.15].map((p) => p / 0.85)],
    ['top-k of all but one', { topK: 4 }, [0.1, 0.4, 0, 0.3, 0.15].map((p) => p / 0.95)],
    ['top-k of all', { topK: 5 }, [0.1, 0.4, 0.05, 0.3, 0.15]],
    ['top-k beyond all', { topK: 50 }, [0.1, 0.4, 0.05, 0.3, 0.15]],
    ['top-p', { topP: 0.69 }, [0, 4 / 7, 0, 3 / 7, 0]],
    ['top-p just above a sum', { topP: 0.71 }, [0, 0.4, 0, 0.3, 0.15].map((p) => p / 0.85)],
    ['top-p keeps one', { topP: 0.001 }, [0, 1, 0, 0, 0]],
    // 0.4 and 0.3 of the kept 0.85 are 0.82: enough only because top-k comes first.
    ['top-k, then top-p', { topK: 3, topP: 0.8 }, [0, 4 / 7, 0, 3 / 7, 0]],
    ['top-p without that top-k', { topP: 0.8 }, [0, 0.4, 0, 0.3, 0.15].map((p) => p / 0.85)],
    ['min-p', { minP: 0.3 }, [0, 0.4, 0, 0.3, 0.15].map((p) => p / 0.85)],
    ['min-p after top-k', { minP: 0.5, topK: 4 }, [0, 4 / 7, 0, 3 / 7, 0]],
    // At temperature 0.5, 0.15 has 0.14 of the maximum's probability.
    ['min-p after temperature', { minP: 0.2, temperature: 0.5 }, [0, 0.16 / 0.25, 0, 0.09 / 0.25, 0]],
    ['min-p after top-p', { minP: 0.2, topP: 0.9 }, [0.1, 0.4, 0, 0.3, 0.15].map((p) => p / 0.95)],
  ])('%s', (_, options, expected) => {
    expectDistribution(counts(l, { temperature: 1, ...options }, 20_000), expected);
  });

  it('never draws a forbidden token', () => {
    expectDistribution(
      counts(logits(-Infinity, 0, -Infinity, 0), { temperature: 100 }, 4000),
      [0, 0.5, 0, 0.5],
    );
    expectDistribution(counts(logits(-Infinity, 0, -Infinity), { temperature: 1, topK: 2 }, 100), [0, 1, 0]);
  });

  it('breaks ties at the border of top-k and top-p by the lowest id', () => {
    expectDistribution(counts(logits(1, 2, 1, 1), { temperature: 1, topK: 2, seed: 4 }, 4000), [
      1 / (1 + Math.E),
      Math.E / (1 + Math.E),
      0,
      0,
    ]);
    expectDistribution(counts(logits(1, 1, 1, 1), { temperature: 1, topP: 0.5 }, 4000), [0.5, 0.5, 0, 0]);
  });

  it('draws no token of probability 0 at either end of the random range', () => {
    const drawAt = (uniform: number, l: Float32Array) =>
      sampleToken(l, { temperature: 1 }, [], Object.assign(new Random(0), { uniform: () => uniform })).id;
    expect(drawAt(0, logits(-Infinity, 0, 0))).toBe(1);
    expect(drawAt(1, logits(0, 0, -Infinity))).toBe(1);
    expect(drawAt(0.5, logits(0, 0))).toBe(1);
  });

  it('measures the nucleus against the whole vocabulary', () => {
    const l = probabilities(0.3, 0.3, ...new Array<number>(998).fill(0.4 / 998));
    const seen = counts(l, { temperature: 1, topP: 0.4 }, 200);
    expect(seen[0]! + seen[1]!).toBe(200);
    expect(seen[1]).toBeGreaterThan(70);
  });

  it('finds a nucleus larger than the first ranks looked at', () => {
    const flat = new Float32Array(1000);
    const seen = counts(flat, { temperature: 1, topP: 0.5 }, 1500);
    expect(seen.findLastIndex((n) => n > 0)).toBeLessThan(500);
    expect(seen.slice(0, 500).filter((n) => n > 0).length).toBeGreaterThan(450);
  });
});

describe('sampling properties', () => {
  // Halves make ties common.
  const anyLogits = fc
    .array(fc.integer({ min: -20, max: 20 }), { minLength: 1, maxLength: 40 })
    .map((values) => Float32Array.from(values, (x) => x / 2));
  const anyOptions = fc.record(
    {
      temperature: fc.double({ min: 0.05, max: 3, noNaN: true }),
      topK: fc.nat(45),
      topP: fc.double({ min: 0.01, max: 1, noNaN: true }),
      minP: fc.double({ min: 0, max: 1, noNaN: true }),
    },
    { requiredKeys: ['temperature'] },
  );

  it('top-k 1 is greedy', () => {
    fc.assert(
      fc.property(
        anyLogits,
        fc.nat(),
        fc.double({ min: 0.01, max: 10, noNaN: true }),
        (l, seed, temperature) => {
          expect(sampleToken(l, { temperature, topK: 1 }, [], new Random(seed))).toEqual(
            sampleToken(l, {}, [], new Random(0)),
          );
        },
      ),
    );
  });

  it('equal seeds choose equal tokens', () => {
    fc.assert(
      fc.property(anyLogits, anyOptions, fc.nat(), (l, options, seed) => {
        expect(counts(l, { ...options, seed }, 5)).toEqual(counts(l, { ...options, seed }, 5));
      }),
    );
    const l = new Float32Array(1000);
    expect(counts(l, { temperature: 1, seed: 1 }, 5)).not.toEqual(counts(l, { temperature: 1, seed: 2 }, 5));
  });

  it('stays inside the set that a full sort allows', () => {
    fc.assert(
      fc.property(anyLogits, anyOptions, fc.nat(), (l, options, seed) => {
        const allowed = allowedIds(l, options);
        const random = new Random(seed);
        for (let i = 0; i < 10; i++) expect(allowed).toContain(sampleToken(l, options, [], random).id);
      }),
      { numRuns: 500 },
    );
  });
});

/** The filters by a full sort; sums a hair short of p do not count as short. */
function allowedIds(l: Float32Array, options: SamplingOptions): number[] {
  const { temperature = 1, topK = 0, topP = 1, minP = 0 } = options;
  let ids = Array.from(l.keys()).sort((a, b) => l[b]! - l[a]! || a - b);
  if (topK > 0) ids = ids.slice(0, topK);
  const weight = (id: number) => Math.exp((l[id]! - Math.max(...l)) / temperature);
  const total = ids.reduce((sum, id) => sum + weight(id), 0);
  let reached = 0;
  return ids.filter((id) => {
    const needed = reached < topP * total * (1 + 1e-12);
    reached += weight(id);
    return needed && weight(id) >= minP * (1 - 1e-12);
  });
}

describe('logProbabilities', () => {
  const l = probabilities(0.1, 0.4, 0.05, 0.3, 0.15);

  it('gives log-softmax values for ids, in their order', () => {
    const shifted = l.map((x) => x + 50);
    const result = logProbabilities(shifted, [3, 0, 3]);
    expect(result.map((t) => t.id)).toEqual([3, 0, 3]);
    expect(result[0]!.logProbability).toBeCloseTo(Math.log(0.3), 5);
    expect(result[1]!.logProbability).toBeCloseTo(Math.log(0.1), 5);
    expect(logProbabilities(logits(1000, 1000), [0])[0]!.logProbability).toBeCloseTo(-Math.LN2, 12);
  });

  it('gives the n most likely, best first, ties by id', () => {
    expect(logProbabilities(l, 3).map((t) => t.id)).toEqual([1, 3, 4]);
    expect(logProbabilities(logits(1, 2, 2, 1), 9).map((t) => t.id)).toEqual([1, 2, 0, 3]);
    expect(logProbabilities(l, 0)).toEqual([]);
  });

  it('agrees with a full sort', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: -9, max: 9 }), { minLength: 1, maxLength: 60 }),
        fc.nat(60),
        (values, n) => {
          const sorted = values.map((_, id) => id).sort((a, b) => values[b]! - values[a]! || a - b);
          expect(logProbabilities(Float32Array.from(values), n).map((t) => t.id)).toEqual(sorted.slice(0, n));
        },
      ),
    );
  });

  it('refuses ids outside the vocabulary', () => {
    expect(() => logProbabilities(l, [5])).toThrow(
      new InternalError('logits: expected a token id below 5, got 5'),
    );
  });
});

describe('validateSampling', () => {
  it('accepts the borders of every range', () => {
    validateSampling({});
    validateSampling({ temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: -3 });
    validateSampling({ temperature: 5, topK: 1, topP: 1e-9, minP: 1, repetitionPenalty: 0.1, seed: 0 });
  });

  it.each<[keyof SamplingOptions, unknown]>([
    ['temperature', -0.1],
    ['temperature', Infinity],
    ['temperature', '1'],
    ['topK', -1],
    ['topK', 1.5],
    ['topP', 0],
    ['topP', 1.01],
    ['minP', -0.01],
    ['minP', 1.5],
    ['repetitionPenalty', 0],
    ['seed', 0.5],
    ['topP', Number.NaN],
  ])('refuses %s %j', (name, value) => {
    const check = () => validateSampling({ [name]: value } as SamplingOptions);
    expect(check).toThrow(UserError);
    expect(check).toThrow(new RegExp(`^${name}: expected .*, got `));
  });

  it('names option, range and value', () => {
    expect(() => validateSampling({ topP: 1.5 })).toThrow(
      new UserError('topP: expected a number above 0, at most 1 (keep all), got 1.5'),
    );
    expect(() => validateSampling({ temperature: Number.NaN })).toThrow('got NaN');
    expect(() => sampleToken(logits(1), { topP: 2 }, [], new Random(0))).toThrow(UserError);
  });
});
