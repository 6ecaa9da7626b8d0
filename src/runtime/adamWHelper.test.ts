/** AdamW shared by two threads: the same bits as by one, and nothing lost on the way. */
import { afterEach, describe, expect, it } from 'vitest';
import { Random } from '../common/random.ts';
import { AdamWHelper, shareOf } from './adamWHelper.ts';
import type { AdamWArrays } from './adamWThread.ts';
import { adamW } from './kernels.ts';

const OPTIONS = { step: 3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, gradientScale: 0.5 };

function tensor(random: Random, size: number, learningRate: number): AdamWArrays {
  const values = () => {
    const offset = random.integer(1000);
    return Float32Array.from({ length: size }, (_, i) => Math.sin(offset + i));
  };
  const second = values().map(Math.abs);
  return { weight: values(), gradient: values(), first: values(), second, learningRate, weightDecay: 0.1 };
}

const model = (): AdamWArrays[] => {
  const random = new Random(5);
  return [10, 130_000, 3, 60_000, 90_000].map((size, i) => tensor(random, size, 1e-3 * (i + 1)));
};

const helpers: AdamWHelper[] = [];
afterEach(async () => {
  for (const helper of helpers.splice(0)) await helper.close();
});

describe('AdamWHelper', () => {
  it('gives what one thread gives, bit for bit, step after step', async () => {
    const helper = new AdamWHelper(250_000);
    helpers.push(helper);
    const expected = model();
    let tensors: readonly AdamWArrays[] = model();
    for (const step of [1, 2, 3]) {
      for (const { weight, gradient, first, second, ...rates } of expected) {
        adamW(weight, gradient, first, second, rates, { ...OPTIONS, step });
      }
      tensors = await helper.update(tensors, { ...OPTIONS, step });
    }
    expect(tensors.map(({ learningRate }) => learningRate)).toEqual([1, 2, 3, 4, 5].map((i) => 1e-3 * i));
    for (const [i, { weight, first, second }] of tensors.entries()) {
      expect(Buffer.compare(Buffer.from(weight.buffer), Buffer.from(expected[i]!.weight.buffer))).toBe(0);
      expect(Buffer.compare(Buffer.from(first.buffer), Buffer.from(expected[i]!.first.buffer))).toBe(0);
      expect(Buffer.compare(Buffer.from(second.buffer), Buffer.from(expected[i]!.second.buffer))).toBe(0);
    }
  });

  it('updates few elements, and parts of larger memory, where they are', async () => {
    const helper = new AdamWHelper(250_000);
    helpers.push(helper);
    const [small] = model();
    expect((await helper.update([small!], OPTIONS))[0]).toBe(small);
    const parts = model().map((whole) => {
      const joined = new Float32Array(2 * whole.weight.length);
      joined.set(whole.weight);
      return { ...whole, weight: joined.subarray(0, whole.weight.length) };
    });
    const after = await helper.update(parts, OPTIONS);
    expect(after.every((part, i) => part.weight === parts[i]!.weight)).toBe(true);
    const alone = model();
    for (const { weight, gradient, first, second, ...rates } of alone) {
      adamW(weight, gradient, first, second, rates, OPTIONS);
    }
    expect(after.map(({ weight }) => Array.from(weight.subarray(0, 9)))).toEqual(
      alone.map(({ weight }) => Array.from(weight.subarray(0, 9))),
    );
  });

  it('deals the elements evenly', () => {
    const tensors = model();
    const away = [...shareOf(tensors, 250_000)].map(({ weight }) => weight.length);
    const sum = away.reduce((a, b) => a + b, 0);
    expect(sum).toBeGreaterThan(120_000);
    expect(sum).toBeLessThan(160_000);
  });
});
