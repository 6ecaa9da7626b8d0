/** Reverse mode itself: which contributions reach a target, how they add up, and what stops them. */
import { describe, expect, it } from 'vitest';
import { expectGradientsMatch } from '../../test/support/gradientCheck.ts';
import { evaluate, type NdArray, ndArray } from '../../test/support/reference.ts';
import * as f from './functions.ts';
import { grad } from './gradient.ts';
import { linear } from './nn.ts';
import { apply, type OpName } from './ops.ts';
import { input, type Tensor, topologicalOrder } from './tensor.ts';

const x = input('x', 'f64', [3]);
const FEEDS = new Map<string, NdArray>([['x', ndArray('f64', [3], [1, 2, 3])]]);

/** The gradient of `Σ y` towards x at x = [1, 2, 3]. */
const gradientOfSum = (y: Tensor): readonly number[] => [...evaluate(grad(f.sum(y), [x]), FEEDS)[0]!.data];

const opsOf = (tensors: readonly Tensor[]): readonly OpName[] =>
  topologicalOrder(tensors).map(({ op }) => op);

describe('grad', () => {
  it('adds up the uses of a shared node', () => {
    const shared = f.multiply(x, 3);
    expect(gradientOfSum(f.add(f.square(shared), shared))).toEqual([21, 39, 57]);
    expect(gradientOfSum(f.multiply(x, x))).toEqual([2, 4, 6]);
    expect(gradientOfSum(f.subtract(x, x))).toEqual([0, 0, 0]);
  });

  it('visits a shared node once, however many paths lead to it', () => {
    let y: Tensor = x;
    for (let i = 0; i < 40; i++) y = f.add(y, y);
    expect(gradientOfSum(y)).toEqual([2 ** 40, 2 ** 40, 2 ** 40]);
  });

  it('gives zeros to a target that is not used', () => {
    const unused = input('unused', 'f32', ['B', 2]);
    const [g] = grad(f.sum(x), [unused]);
    expect(g).toMatchObject({ op: 'fill', shape: ['B', 2], dtype: 'f32', attributes: { value: 0 } });
  });

  it('gives the output itself the gradient 1, and an inner node its own', () => {
    const inner = f.square(x);
    const loss = f.sum(f.multiply(inner, 5));
    const [ofLoss, ofInner] = evaluate(grad(loss, [loss, inner]), FEEDS);
    expect([...ofLoss!.data]).toEqual([1]);
    expect([...ofInner!.data]).toEqual([5, 5, 5]);
  });

  it('sums back what was broadcast, to the shape and dtype of the target', () => {
    expectGradientsMatch(([a, b]) => f.multiply(a!, b!), [[2, 3], [3]]);
    expectGradientsMatch(
      ([a, b]) => f.multiply(a!, b!),
      [
        [2, 1, 3],
        [4, 1],
      ],
    );
    expectGradientsMatch(([a, b]) => f.divide(f.exp(a!), f.exp(b!)), [[], [2, 2]]);
    expectGradientsMatch(([a, b]) => f.multiply(a!, b!), [[1, 1, 2], [2]]);
    const a = input('a', 'f32', [1, 'S']);
    const b = input('b', 'f32', ['B', 'S']);
    expect(grad(f.sum(f.multiply(a, b)), [a, b]).map((g) => g.shape)).toEqual([a.shape, b.shape]);
  });

  it('takes only scalars', () => {
    expect(() => grad(x, [x])).toThrow('grad: expected a scalar, got input f64 [3]');
  });

  it('does not differentiate where nothing leads to a target', () => {
    const other = input('other', 'f64', [3]);
    const [g] = grad(f.sum(f.add(f.exp(f.sqrt(other)), x)), [x]);
    expect(opsOf([g!])).not.toContain('sqrt');
  });
});

describe('what changes the flow', () => {
  it('stopGradient lets none through', () => {
    expect(gradientOfSum(f.multiply(x, f.stopGradient(x)))).toEqual([1, 2, 3]);
    expect(gradientOfSum(f.stopGradient(f.square(x)))).toEqual([0, 0, 0]);
  });

  it('withGradient sends what its rule says, and nothing through its value', () => {
    const rule = (g: Tensor) => [f.multiply(g, 7)];
    expect(gradientOfSum(f.withGradient(f.square(x), [x], rule))).toEqual([7, 7, 7]);
    expect(gradientOfSum(f.withGradient(f.square(x), [f.stopGradient(x)], rule))).toEqual([0, 0, 0]);
    expect(gradientOfSum(f.withGradient(f.square(x), [x], () => [undefined]))).toEqual([0, 0, 0]);
  });

  it('casts carry a gradient between floats and none through integers', () => {
    const y = f.cast(f.cast(f.square(x), 'f32'), 'f64');
    expect(gradientOfSum(y)).toEqual([2, 4, 6]);
    expect(gradientOfSum(f.cast(f.cast(x, 'i32'), 'f64'))).toEqual([0, 0, 0]);
  });
});

describe('the gradients of a split', () => {
  const pieces = f.split(x, 0, [1, 2]);
  const squares = pieces.map((piece, i) => f.multiply(f.square(piece), i + 1));

  it('join into one concat, in order', () => {
    const loss = f.add(f.sum(squares[1]!), f.sum(squares[0]!));
    const [g] = grad(loss, [x]);
    expect(g!.op).toBe('concat');
    expect([...evaluate([g!], FEEDS)[0]!.data]).toEqual([2, 8, 12]);
  });

  it('join when a length is a letter', () => {
    const y = input('y', 'f32', ['B', '64+S', 2]);
    const [front, back] = f.split(y, 1, [64, 'S']);
    const [g] = grad(f.add(f.sum(f.square(front!)), f.sum(f.exp(back!))), [y]);
    expect([g!.op, g!.shape]).toEqual(['concat', ['B', '64+S', 2]]);
  });

  it('are added where pieces are missing, overlap or repeat', () => {
    expect(gradientOfSum(f.square(pieces[1]!))).toEqual([0, 4, 6]);
    const overlapping = f.add(f.sum(f.slice(x, 0, 0, 2)), f.sum(f.square(f.slice(x, 0, 1, 2))));
    expect([...evaluate(grad(overlapping, [x]), FEEDS)[0]!.data]).toEqual([1, 5, 6]);
    const short = f.add(f.sum(f.square(f.slice(x, 0, 0, 1))), f.sum(f.square(f.slice(x, 0, 1, 1))));
    expect([...evaluate(grad(short, [x]), FEEDS)[0]!.data]).toEqual([2, 4, 0]);
    const repeated = f.add(f.sum(f.square(pieces[0]!)), f.sum(f.exp(f.slice(x, 0, 0, 1))));
    expect(evaluate(grad(repeated, [x]), FEEDS)[0]!.data[0]).toBeCloseTo(2 + Math.E, 12);
    const mixed = f.add(f.sum(x), f.add(f.sum(squares[0]!), f.sum(squares[1]!)));
    expect([...evaluate(grad(mixed, [x]), FEEDS)[0]!.data]).toEqual([3, 9, 13]);
  });

  it('join with empty pieces', () => {
    const [none, all] = f.split(x, 0, [0, 3]);
    const loss = f.add(f.sum(f.square(all!)), f.sum(none!));
    expect([...evaluate(grad(loss, [x]), FEEDS)[0]!.data]).toEqual([2, 4, 6]);
    const twice = f.add(f.sum(apply('pad', [x], { axis: 0, before: 1, after: 0 })), f.sum(x));
    expect([...evaluate(grad(twice, [x]), FEEDS)[0]!.data]).toEqual([2, 2, 2]);
  });
});

describe('a two-layer network', () => {
  it('has the gradients of central differences', () => {
    const network = ([y, w1, b1, w2, b2]: readonly Tensor[]) =>
      f.logSoftmax(linear(f.gelu(linear(y!, w1!, b1!), 'none'), w2!, b2!));
    expectGradientsMatch(network, [[2, 3, 4], [5, 4], [5], [3, 5], [3]]);
  });

  it('has second derivatives', () => {
    const slope = ([y, w]: readonly Tensor[]) => {
      const loss = f.sum(f.tanh(f.matMul(y!, w!, { transposeB: true })));
      return grad(loss, [y!])[0]!;
    };
    expectGradientsMatch(slope, [
      [2, 3],
      [4, 3],
    ]);
  });
});
