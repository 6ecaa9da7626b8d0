import { describe, expect, it } from 'vitest';
import { expectGradientsMatch } from '../../test/support/gradientCheck.ts';
import { evaluate, ndArray } from '../../test/support/reference.ts';
import { Random } from '../common/random.ts';
import { constant, grad, input, sum, type Tensor, topologicalOrder } from '../graph/index.ts';
import { drawHashes, dropout } from './dropout.ts';
import { type LowRank, withLora } from './loraParameters.ts';
import { parameters } from './parameters.ts';

const [B, S, D, OUT, R] = [2, 3, 5, 4, 2];

function rows(b: number, s: number, seed = 1) {
  const random = new Random(seed);
  const part = () => constant(drawHashes(random, b * s), 'f32', [b, s, 1]);
  return { u: part(), v: part() };
}

/** A Linear `in.q` with a bias, and LoRA of `alpha` over it. */
function through(inputs: readonly Tensor[], alpha: number, drop?: LowRank['dropout']): Tensor {
  const [x, weight, bias, a, b] = inputs as [Tensor, Tensor, Tensor, Tensor, Tensor];
  const base = parameters(
    new Map([
      ['in.q.weight', weight],
      ['in.q.bias', bias],
    ]),
  );
  return withLora(base, new Map([['in.q', { a, b, dropout: drop }]]), alpha)
    .in('in')
    .linear('q', x);
}

const SHAPES = [[B, S, D], [OUT, D], [OUT], [R, D], [OUT, R]];

describe('withLora', () => {
  it('is W·x + bias + (alpha / r)·B·A·x', () => {
    const inputs = SHAPES.map((shape, i) => input(`x${i}`, 'f64', shape));
    const random = new Random(4);
    const values = SHAPES.map((shape) =>
      Array.from({ length: shape.reduce((p, n) => p * n) }, () => random.normal()),
    );
    const feeds = new Map(SHAPES.map((shape, i) => [`x${i}`, ndArray('f64', shape, values[i]!)]));
    const [y] = evaluate([through(inputs, 6)], feeds);
    const [x, w, bias, a, b] = values as [number[], number[], number[], number[], number[]];
    for (let row = 0; row < B * S; row++) {
      for (let o = 0; o < OUT; o++) {
        let expected = bias[o]!;
        for (let i = 0; i < D; i++) {
          let weight = w[o * D + i]!;
          for (let k = 0; k < R; k++) weight += (6 / R) * b[o * R + k]! * a[k * D + i]!;
          expected += weight * x[row * D + i]!;
        }
        expect(y!.data[row * OUT + o]).toBeCloseTo(expected, 10);
      }
    }
  });

  it('has the gradients of central differences, with and without dropout', () => {
    expectGradientsMatch((inputs) => through(inputs, 6), SHAPES);
    const drop = { rate: 0.4, rows: rows(B, S) };
    expectGradientsMatch((inputs) => through(inputs, 6, drop), SHAPES);
  });

  it('drops from what A reads and not from what W reads', () => {
    const inputs = SHAPES.map((shape, i) => input(`x${i}`, 'f64', shape));
    const drop = { rate: 0.999, rows: rows(B, S) };
    const feeds = new Map(
      SHAPES.map((shape, i) => [
        `x${i}`,
        ndArray(
          'f64',
          shape,
          Array(60)
            .fill(1)
            .slice(
              0,
              shape.reduce((p, n) => p * n),
            ),
        ),
      ]),
    );
    const [without, dropped] = evaluate([through(inputs, 6), through(inputs, 6, drop)], feeds);
    expect([...without!.data].every((value) => value === D + 1 + 6 * D)).toBe(true);
    expect([...dropped!.data].every((value) => value === D + 1)).toBe(true);
  });

  it('leaves Linears without factors and all other weights alone', () => {
    const weight = input('m.weight', 'f32', [OUT, D]);
    const base = parameters(new Map([['m.weight', weight]]));
    const wrapped = withLora(base, new Map(), 1);
    expect(wrapped.get('m.weight')).toBe(weight);
    expect(wrapped.find('m.bias')).toBeUndefined();
    expect(topologicalOrder([wrapped.linear('m', input('x', 'f32', [B, S, D]))])).toHaveLength(3);
  });
});

describe('dropout', () => {
  const mask = (b: number, s: number, d: number, rate: number, seed = 1): Float64Array => {
    const ones = constant(new Float32Array(b * s * d).fill(1), 'f32', [b, s, d]);
    return Float64Array.from(evaluate([dropout(ones, rows(b, s, seed), rate)], new Map())[0]!.data);
  };

  it('at rate 0 is x itself', () => {
    const x = input('x', 'f32', [1, 2, 3]);
    expect(dropout(x, rows(1, 2), 0)).toBe(x);
  });

  it('drops the share asked for and keeps the mean, also beyond 4,093 columns', () => {
    for (const [count, width] of [
      [200, 64],
      [5, 5000],
    ] as const) {
      const values = mask(1, count, width, 0.05);
      const kept = values.reduce((a, b) => Math.max(a, b));
      expect(new Set(values)).toEqual(new Set([0, kept]));
      expect(kept).toBeCloseTo(1 / 0.95, 3);
      const share = values.filter((value) => value === 0).length / values.length;
      expect(Math.abs(share - 0.05)).toBeLessThan(0.01);
    }
  });

  it('drops two columns of a row together as often as independence has it', () => {
    const [rate, count, width] = [0.3, 8000, 8];
    const values = mask(1, count, width, rate);
    for (const [i, j] of [
      [0, 1],
      [1, 2],
      [3, 7],
    ] as const) {
      let both = 0;
      for (let row = 0; row < count; row++) {
        if (values[row * width + i] === 0 && values[row * width + j] === 0) both += 1;
      }
      expect(Math.abs(both / count - rate * rate), `columns ${i}, ${j}`).toBeLessThan(0.015);
    }
  });

  it('is the same for the same numbers and another for others', () => {
    expect(mask(2, 3, 50, 0.5, 1)).toEqual(mask(2, 3, 50, 0.5, 1));
    expect(mask(2, 3, 50, 0.5, 1)).not.toEqual(mask(2, 3, 50, 0.5, 2));
  });

  it('gives no gradient to what it drops', () => {
    const x = input('x', 'f32', [1, 1, 40]);
    const feeds = new Map([['x', ndArray('f32', [1, 1, 40], Array(40).fill(2))]]);
    const y = dropout(x, rows(1, 1), 0.5);
    const [values, gradient] = evaluate([y, grad(sum(y), [x])[0]!], feeds);
    expect([...gradient!.data]).toEqual([...values!.data].map((value) => value / 2));
  });
});
