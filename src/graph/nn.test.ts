/** The composites, against their definitions and central differences, and lowered for ONNX Runtime. */
import { beforeAll, describe, expect, it } from 'vitest';
import { expectGradientsMatch, normals } from '../../test/support/gradientCheck.ts';
import { compile, expectClose, referenceOf, TARGETS, type Values } from '../../test/support/lowered.ts';
import { evaluate, type NdArray, ndArray } from '../../test/support/reference.ts';
import { Random } from '../common/random.ts';
import * as f from './functions.ts';
import { grad } from './gradient.ts';
import * as nn from './nn.ts';
import { program } from './program.ts';
import { constant, input, scalar, type Tensor } from './tensor.ts';

const i32 = (...values: number[]): Tensor => constant(Int32Array.from(values), 'i32', [values.length]);
const f64 = (values: readonly number[], shape: readonly number[] = [values.length]): Tensor =>
  constant(Float64Array.from(values), 'f64', shape);

const valuesOf = (y: Tensor, feeds: Values = new Map()): readonly number[] => [
  ...evaluate([y], feeds)[0]!.data,
];

const random = (seed: number, ...shape: number[]): readonly number[] => normals(new Random(seed), shape);

/** The gradient of `Σ w·build(x)` at `values`. */
function gradientAt(
  build: (x: Tensor) => Tensor,
  shape: readonly number[],
  values: readonly number[],
  weights: readonly number[],
): readonly number[] {
  const x = input('x', 'f64', shape);
  const y = build(x);
  const loss = f.sum(f.multiply(y, f64(weights, y.shape as readonly number[])));
  return valuesOf(grad(loss, [x])[0]!, new Map([['x', ndArray('f64', shape, values)]]));
}

describe('linear', () => {
  it('is x·Wᵀ + b', () => {
    const y = nn.linear(f64([1, 2], [1, 2]), f64([3, 4, 5, 6], [2, 2]), f64([10, 20]));
    expect(valuesOf(y)).toEqual([21, 37]);
    expect(valuesOf(nn.linear(f64([1, 2], [1, 2]), f64([3, 4], [1, 2])))).toEqual([11]);
  });

  it('has the gradients of central differences', () => {
    expectGradientsMatch(([x, w, b]) => nn.linear(x!, w!, b!), [[2, 3, 4], [5, 4], [5]]);
  });
});

describe('embedding', () => {
  const ids = constant(BigInt64Array.of(2n, 0n, 2n, 1n), 'i64', [2, 2]);

  it('looks up rows', () => {
    const y = nn.embedding(f64([1, 2, 3, 4, 5, 6], [3, 2]), ids);
    expect(y.shape).toEqual([2, 2, 2]);
    expect(valuesOf(y)).toEqual([5, 6, 1, 2, 5, 6, 3, 4]);
    expectGradientsMatch(([table]) => nn.embedding(table!, ids), [[3, 2]]);
  });

  it('gives the padding row no gradient and the others theirs', () => {
    const weights = [1, 10, 2, 20, 4, 40, 8, 80];
    const at = (padding?: number) =>
      gradientAt((x) => nn.embedding(x, ids, padding), [3, 2], [0, 0, 0, 0, 0, 0], weights);
    expect(at()).toEqual([2, 20, 8, 80, 5, 50]);
    expect(at(2)).toEqual([2, 20, 8, 80, 0, 0]);
    expect(at(0)).toEqual([0, 0, 8, 80, 5, 50]);
  });
});

describe('heads', () => {
  it('split and merge back', () => {
    const x = f64(random(1, 2, 3, 4), [2, 3, 4]);
    const split = nn.splitHeads(x, 2);
    expect(split.shape).toEqual([2, 2, 3, 2]);
    expect(valuesOf(nn.mergeHeads(split))).toEqual(valuesOf(x));
    // Head 1 of the first position is its second half.
    expect(valuesOf(split).slice(6, 8)).toEqual(valuesOf(x).slice(2, 4));
    expectGradientsMatch(([y]) => nn.mergeHeads(f.square(nn.splitHeads(y!, 2))), [[2, 3, 4]]);
  });
});

/** Attention row by row: head h reads the keys of kv head ⌊h·K/H⌋. */
function directAttention(
  q: NdArray,
  k: NdArray,
  v: NdArray,
  scale: number,
  bias?: NdArray,
): readonly number[] {
  const [batch, heads, rows, size] = q.shape as readonly [number, number, number, number];
  const [, kvHeads, keys] = k.shape as readonly [number, number, number];
  const out: number[] = [];
  for (let n = 0; n < batch * heads * rows; n++) {
    const [b, h, s] = [Math.floor(n / rows / heads), Math.floor(n / rows) % heads, n % rows];
    const group = b * kvHeads + Math.floor((h * kvHeads) / heads);
    const scores = Array.from({ length: keys }, (_, t) => {
      const products = Array.from(
        { length: size },
        (_, e) => q.data[n * size + e]! * k.data[(group * keys + t) * size + e]!,
      );
      return scale * products.reduce((a, c) => a + c, 0) + (bias === undefined ? 0 : biasAt(bias, b, s, t));
    });
    const weights = scores.map((score) => Math.exp(score - Math.max(...scores)));
    const total = weights.reduce((a, c) => a + c, 0);
    for (let e = 0; e < size; e++) {
      out.push(weights.reduce((a, w, t) => a + (w / total) * v.data[(group * keys + t) * size + e]!, 0));
    }
  }
  return out;
}

function biasAt({ data, shape }: NdArray, b: number, s: number, t: number): number {
  const [batch, rows, keys] = shape as readonly [number, number, number];
  return data[((batch === 1 ? 0 : b) * rows + (rows === 1 ? 0 : s)) * keys + t]!;
}

describe('attention', () => {
  const SHAPES = [
    { q: [2, 2, 3, 4], k: [2, 2, 5, 4], bias: undefined },
    { q: [2, 4, 3, 2], k: [2, 2, 5, 2], bias: undefined },
    { q: [2, 4, 3, 2], k: [2, 2, 5, 2], bias: [1, 3, 5] },
    { q: [2, 4, 3, 2], k: [2, 1, 5, 2], bias: [2, 1, 5] },
    { q: [2, 2, 3, 2], k: [2, 2, 5, 2], bias: [2, 3, 5] },
    { q: [1, 2, 1, 2], k: [1, 1, 1, 2], bias: [1, 1, 1] },
  ];

  it.each(SHAPES)('equals its definition for %o', ({ q, k, bias }) => {
    const shapes = bias === undefined ? [q, k, k] : [q, k, k, bias];
    const arrays = shapes.map((shape, i) => ndArray('f64', shape, random(i + 1, ...shape)));
    const [tq, tk, tv, tb] = arrays.map(({ data, shape }) => constant(data, 'f64', shape));
    const expected = directAttention(arrays[0]!, arrays[1]!, arrays[2]!, 0.7, arrays[3]);
    const got = valuesOf(nn.attention(tq!, tk!, tv!, 0.7, tb));
    expect(got.length).toBe(expected.length);
    for (const [n, value] of expected.entries()) expect(got[n]).toBeCloseTo(value, 12);
  });

  it.each(SHAPES)('has the gradients of central differences for %o', ({ q, k, bias }) => {
    const fixed = bias === undefined ? undefined : f64(random(9, ...bias), bias);
    expectGradientsMatch(([a, b, c]) => nn.attention(a!, b!, c!, 0.7, fixed), [q, k, k]);
  });

  it('under a causal bias sees nothing after its own row', () => {
    const [q, k] = [f64(random(1, 1, 1, 3, 2), [1, 1, 3, 2]), f64(random(2, 1, 1, 3, 2), [1, 1, 3, 2])];
    const v = f64([1, 0, 0, 1, 0, 0], [1, 1, 3, 2]);
    const y = valuesOf(nn.attention(q, k, v, 1, f.cast(nn.causalBias(3), 'f64')));
    expect(y.slice(0, 2)).toEqual([1, 0]);
    expect(y[2]! + y[3]!).toBeCloseTo(1, 12);
    expect(y[4]! + y[5]!).toBeLessThan(1);
  });

  it('rejects heads that do not divide', () => {
    const x = (heads: number) => input('x', 'f32', [1, heads, 2, 2]);
    expect(() => nn.attention(x(3), x(2), x(2), 1)).toThrow(
      '3 heads are no multiple of the 2 of [1, 2, 2, 2]',
    );
  });
});

describe('causalBias', () => {
  it('is 0 up to the diagonal and the lowest f32 after it', () => {
    const y = nn.causalBias(3);
    expect(y.shape).toEqual([1, 3, 3]);
    const low = nn.LOWEST;
    expect(valuesOf(y)).toEqual([0, low, low, 0, 0, low, 0, 0, 0]);
    expect(Math.fround(low)).toBe(low);
    expect(Math.fround(low * 1.0000001)).toBe(-Infinity);
  });
});

describe('maxOverRows', () => {
  const groups = [
    [0, 1],
    [2, 2],
    [3, 1],
  ];

  it('takes the maximum of each group', () => {
    const x = f64([1, 8, 5, 2, 3, 3, 4, 9], [1, 4, 2]);
    expect(valuesOf(nn.maxOverRows(x, groups))).toEqual([5, 8, 3, 3, 5, 9]);
  });

  it('has the gradients of central differences, with repeated and shared members', () => {
    expectGradientsMatch(([x]) => nn.maxOverRows(x!, groups), [[2, 4, 3]]);
    expectGradientsMatch(([x]) => nn.maxOverRows(x!, [[0], [2]]), [[1, 3, 2]]);
  });

  it('sends the gradient of a tie to the member that comes first in its group', () => {
    const build = (x: Tensor) => nn.maxOverRows(x, groups);
    expect(gradientAt(build, [1, 4, 1], [7, 7, 7, 7], [1, 2, 4])).toEqual([1, 0, 2, 4]);
  });
});

describe('cosineSimilarity', () => {
  it('is the cosine', () => {
    const y = nn.cosineSimilarity(f64([1, 0, 3, 4], [2, 2]), f64([1, 1, -3, -4], [2, 2]));
    expect(valuesOf(y)[0]).toBeCloseTo(Math.SQRT1_2, 12);
    expect(valuesOf(y)[1]).toBeCloseTo(-1, 12);
    expectGradientsMatch(
      ([a, b]) => nn.cosineSimilarity(a!, b!),
      [
        [3, 4],
        [3, 4],
      ],
    );
    expectGradientsMatch(([a, b]) => nn.cosineSimilarity(a!, b!), [[2, 3, 4], [4]]);
  });

  it('has a finite value and gradient at zero vectors', () => {
    expect(valuesOf(nn.cosineSimilarity(f64([0, 0]), f64([0, 0])))).toEqual([0]);
    const towards = gradientAt((x) => nn.cosineSimilarity(x, f64([3, 4])), [2], [0, 0], [1]);
    expect(towards.every(Number.isFinite)).toBe(true);
    expect(gradientAt((x) => nn.cosineSimilarity(x, x), [2], [0, 0], [1])).toEqual([0, 0]);
  });
});

describe('crossEntropy', () => {
  it('is the mean negative log-likelihood', () => {
    const logits = constant(Float32Array.of(0, 0, 0, Math.log(3), 0, 0), 'f32', [2, 3]);
    const expected = (Math.log(3) + Math.log(5 / 3)) / 2;
    expect(valuesOf(nn.crossEntropy(logits, i32(1, 0)))[0]).toBeCloseTo(expected, 6);
    expectGradientsMatch(([x]) => nn.crossEntropy(x!, i32(2, 0, 2)), [[3, 4]], { dtype: 'f32' });
  });

  it('is 0 without rows, and its gradient is empty', () => {
    const logits = input('x', 'f32', [0, 3]);
    const loss = nn.crossEntropy(logits, i32());
    const feeds = new Map([['x', ndArray('f32', [0, 3], [])]]);
    expect(Math.abs(valuesOf(loss, feeds)[0]!)).toBe(0);
    expect(evaluate(grad(loss, [logits]), feeds)[0]!.shape).toEqual([0, 3]);
  });
});

describe('rotary', () => {
  it('turns each pair of halves by the angle of its position', () => {
    const positions = 3;
    const frequencies = [1, 0.1];
    const angles = Array.from({ length: positions }, (_, s) => frequencies.map((w) => s * w)).flat();
    const x = random(4, 1, 2, positions, 4);
    const table = (g: (angle: number) => number) => f64(angles.map(g), [positions, 2]);
    const got = valuesOf(f.rotary(f64(x, [1, 2, positions, 4]), table(Math.cos), table(Math.sin)));
    for (let row = 0; row < 2 * positions; row++) {
      for (let pair = 0; pair < 2; pair++) {
        const angle = (row % positions) * frequencies[pair]!;
        const [re, im] = [x[row * 4 + pair]!, x[row * 4 + pair + 2]!];
        expect(got[row * 4 + pair]).toBeCloseTo(re * Math.cos(angle) - im * Math.sin(angle), 12);
        expect(got[row * 4 + pair + 2]).toBeCloseTo(re * Math.sin(angle) + im * Math.cos(angle), 12);
      }
    }
  });
});

/** Each composite with its gradients, letters B and S free, for the lowering. */
function composites(): Readonly<Record<string, Tensor>> {
  const q = input('q', 'f32', ['B', 4, 'S', 2]);
  const k = input('k', 'f32', ['B', 2, 'S', 2]);
  const x = input('x', 'f32', ['B', 'S', 6]);
  const rows = input('rows', 'f32', ['B', 4, 3]);
  const table = input('table', 'f32', [3, 6]);
  const ids = input('ids', 'i64', ['B', 'S']);
  const flat = f.reshape(ids, [-1]);
  const made: Record<string, Tensor> = {
    attention: nn.attention(q, k, f.square(k), 0.7, nn.causalBias('S')),
    plainAttention: nn.attention(q, f.exp(q), q, 0.5),
    embedding: f.multiply(nn.embedding(table, ids, 1), x),
    heads: f.square(nn.mergeHeads(nn.splitHeads(x, 3))),
    maxOverRows: nn.maxOverRows(rows, [
      [0, 1, 2],
      [3, 3, 1],
    ]),
    cosineSimilarity: nn.cosineSimilarity(x, nn.embedding(table, ids)),
    cosineAtZero: nn.cosineSimilarity(f.multiply(x, 0), x),
    crossEntropy: nn.crossEntropy(f.reshape(nn.linear(x, table), [-1, 3]), flat),
    causalBias: f.maximum(nn.causalBias('S'), scalar(-1)),
  };
  const outputs: Record<string, Tensor> = {};
  for (const [name, y] of Object.entries(made)) {
    outputs[name] = y;
    const gradients = grad(f.sum(f.multiply(y, f.add(y, 1))), [q, k, x, rows, table]);
    for (const [i, g] of gradients.entries()) outputs[`${name}.gradient${i}`] = g;
  }
  return outputs;
}

describe.each(TARGETS)('lowered for %s', (target) => {
  const outputs = composites();
  let run: (feeds: Values) => Promise<Values>;
  beforeAll(async () => {
    run = await compile(program('composites', outputs), target);
  });

  it.each([
    [2, 3],
    [1, 1],
    [2, 0],
  ])('the composites and their gradients equal the reference for B = %i, S = %i', async (b, s) => {
    const shapes = { q: [b, 4, s, 2], k: [b, 2, s, 2], x: [b, s, 6], rows: [b, 4, 3], table: [3, 6] };
    const feeds = new Map<string, NdArray>();
    for (const [name, shape] of Object.entries(shapes)) {
      feeds.set(name, ndArray('f32', shape, random(name.length, ...shape).map(Math.fround)));
    }
    feeds.set(
      'ids',
      ndArray(
        'i64',
        [b, s],
        Array.from({ length: b * s }, (_, i) => (i * 2) % 3),
      ),
    );
    const expected = referenceOf(outputs, feeds);
    const got = await run(feeds);
    for (const [name, value] of expected) {
      expect(value.data.every(Number.isFinite), name).toBe(true);
      expectClose(got.get(name), value, name);
    }
  });
});
