/** AdamW's vector code against the formula in f64, at sizes around its blocks and vectors. */
import { describe, expect, it } from 'vitest';
import { Random } from '../common/random.ts';
import { adamW } from './kernels.ts';

const OPTIONS = { step: 7, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, gradientScale: 0.25 };
const RATES = { learningRate: 2e-3, weightDecay: 0.1 };

function normal(random: Random, size: number): Float32Array {
  const values = new Float32Array(size);
  random.fillNormal(values, 0.1);
  return values;
}

/** Decoupled weight decay, as the paper writes it. */
function expectedUpdate(w: number, gradient: number, m: number, v: number) {
  const { step, beta1, beta2, epsilon, gradientScale } = OPTIONS;
  const g = gradient * gradientScale;
  const first = beta1 * m + (1 - beta1) * g;
  const second = beta2 * v + (1 - beta2) * g ** 2;
  const [unbiased, power] = [first / (1 - beta1 ** step), second / (1 - beta2 ** step)];
  const decayed = w - RATES.learningRate * RATES.weightDecay * w;
  return { weight: decayed - (RATES.learningRate * unbiased) / (Math.sqrt(power) + epsilon), first, second };
}

describe('adamW', () => {
  it.each([0, 1, 3, 4, 16_383, 16_384, 16_389, 40_001])('updates every one of %i elements', (size) => {
    const random = new Random(size);
    const before = Array.from({ length: 3 }, () => normal(random, size)) as [
      Float32Array,
      Float32Array,
      Float32Array,
    ];
    const [weight, gradient, first] = before.map((values) => values.slice()) as typeof before;
    const second = normal(random, size).map((x) => x * x);
    const power = second.slice();
    adamW(weight, gradient, first, second, RATES, OPTIONS);
    expect(gradient).toEqual(before[1]);
    for (let i = 0; i < size; i++) {
      const expected = expectedUpdate(before[0][i]!, before[1][i]!, before[2][i]!, power[i]!);
      const wrong = [
        Math.abs(weight[i]! - expected.weight) > 1e-6 * Math.max(0.1, Math.abs(expected.weight)),
        Math.abs(first[i]! - expected.first) > 1e-7,
        Math.abs(second[i]! - expected.second) > 1e-6 * expected.second,
      ];
      if (wrong.includes(true)) expect([weight[i], first[i], second[i]]).toEqual(Object.values(expected));
    }
  });
});
