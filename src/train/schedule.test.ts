import { describe, expect, it } from 'vitest';
import { InternalError } from '../common/errors.ts';
import { scheduleFactor, warmupSteps } from './schedule.ts';

const cosine = { schedule: 'cosine', warmup_ratio: 0.2 } as const;

describe('warmupSteps', () => {
  it('rounds up, in doubles as the reference does', () => {
    expect(warmupSteps(0.03, 100)).toBe(3);
    expect(warmupSteps(0.03, 101)).toBe(4);
    expect(warmupSteps(0.03, 1)).toBe(1);
    expect(warmupSteps(0, 1000)).toBe(0);
    expect(warmupSteps(0.07, 100)).toBe(8);
  });
});

describe('scheduleFactor', () => {
  it('follows hand values: 10 steps, 2 of warm-up', () => {
    const half = Math.SQRT1_2 / 2;
    const eighth = Math.cos(Math.PI / 8) / 2;
    const sixteenth = [0, 0.5, 1, 0.5 + eighth, 0.5 + half, 0.6913417161825449, 0.5];
    sixteenth.forEach((expected, step) => {
      expect(scheduleFactor(cosine, step, 10)).toBeCloseTo(expected, 14);
    });
    expect(scheduleFactor(cosine, 8, 10)).toBeCloseTo(0.1464466094067262, 14);
    expect(scheduleFactor(cosine, 9, 10)).toBeCloseTo(0.0380602337443566, 14);
    expect(scheduleFactor(cosine, 10, 10)).toBe(0);
    expect(scheduleFactor(cosine, 11, 10)).toBe(0);
  });

  it('stays at 1 after the warm-up when constant', () => {
    const constant = { schedule: 'constant', warmup_ratio: 0.2 } as const;
    expect([0, 1, 2, 9].map((step) => scheduleFactor(constant, step, 10))).toEqual([0, 0.5, 1, 1]);
  });

  it('begins at full rate without warm-up', () => {
    expect(scheduleFactor({ schedule: 'cosine', warmup_ratio: 0 }, 0, 10)).toBe(1);
    expect(scheduleFactor({ schedule: 'cosine', warmup_ratio: 0 }, 5, 10)).toBeCloseTo(0.5, 14);
  });

  it('stays finite when every step is warm-up', () => {
    expect(scheduleFactor({ schedule: 'cosine', warmup_ratio: 1 }, 3, 4)).toBe(0.75);
    expect(scheduleFactor({ schedule: 'cosine', warmup_ratio: 1 }, 4, 4)).toBe(1);
  });

  it('refuses steps that are none', () => {
    expect(() => scheduleFactor(cosine, -1, 10)).toThrow(InternalError);
    expect(() => scheduleFactor(cosine, 0.5, 10)).toThrow(/steps from 0, got 0.5/);
  });
});
