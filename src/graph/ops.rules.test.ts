/** What rows of the op table reject, and in which words; where ties and repeated indices send gradients. */
import { describe, expect, it } from 'vitest';
import { evaluate, type NdArray, ndArray } from '../../test/support/reference.ts';
import * as f from './functions.ts';
import { grad } from './gradient.ts';
import { apply, OPS } from './ops.ts';
import { constant, input, scalar, type Tensor } from './tensor.ts';

const x = (...shape: number[]): Tensor => input('x', 'f32', shape);
const ids = (...shape: number[]): Tensor => input('ids', 'i64', shape);

describe('errors', () => {
  const cases: readonly (readonly [string, () => Tensor, string])[] = [
    ['add', () => f.add(x(2, 3), x(4)), 'add: shapes [2, 3] and [4] do not broadcast (3 ≠ 4)'],
    ['less', () => f.less(x(2), x(3)), 'less: shapes [2] and [3] do not broadcast'],
    ['add of a letter', () => f.add(input('a', 'f32', ['S']), x(3)), 'add: shapes [S] and [3]'],
    ['add of dtypes', () => f.add(x(2), ids(2)), 'add: dtypes differ: input f32 [2] and input i64 [2]'],
    ['exp', () => f.exp(ids(2)), 'exp: expected a float tensor, got input i64 [2]'],
    ['where', () => f.where(x(2), x(2), x(2)), 'where: the condition is f32, not bool'],
    [
      'where of shapes',
      () => f.where(input('c', 'bool', [2]), x(3), x(3)),
      'where: shapes [2] and [3] do not broadcast',
    ],
    ['matMul of rank', () => f.matMul(x(3), x(3, 2)), 'got input f32 [3] and input f32 [3, 2]'],
    ['matMul', () => f.matMul(x(2, 3), x(4, 5)), 'a is [2, 3], b is [4, 5] (3 ≠ 4)'],
    [
      'matMul transposed',
      () => f.matMul(x(2, 3), x(4, 5), { transposeB: true }),
      'a is [2, 3], b is [4, 5]ᵀ (3 ≠ 5)',
    ],
    ['matMul of batches', () => f.matMul(x(2, 1, 1), x(3, 1, 1)), 'matMul: shapes [2] and [3]'],
    [
      'rotary',
      () => f.rotary(x(1, 1, 2, 4), x(3, 2), x(3, 2)),
      'expected tables [2, 2], got input f32 [3, 2]',
    ],
    ['rotary of rank', () => f.rotary(x(1, 2, 4), x(2, 2), x(2, 2)), 'got input f32 [1, 2, 4]'],
    ['sum', () => f.sum(x(2), [1]), 'reduce: axis 1 is outside a tensor of rank 1'],
    ['softmax', () => f.softmax(ids(2)), 'softmax: expected a float tensor, got input i64 [2]'],
    [
      'layerNorm',
      () => f.layerNorm(x(2, 4), x(3), x(4), 1e-5),
      'layerNorm: expected a vector [4] for input f32 [2, 4], got input f32 [3]',
    ],
    [
      'rmsNorm',
      () => f.rmsNorm(x(2, 4), x(2, 4), 1e-5),
      'rmsNorm: expected a vector [4] for input f32 [2, 4], got input f32 [2, 4]',
    ],
    ['extraOutput', () => f.extraOutput(x(2), 1), 'extraOutput: input has no extra output 1'],
    ['reshape', () => f.reshape(x(2, 3), [4]), 'reshape: [2, 3] does not fit [4]'],
    [
      'transpose',
      () => f.transpose(x(2, 3), [1, 1]),
      '[1, 1] is no permutation of the axes of input f32 [2, 3]',
    ],
    ['broadcastTo', () => f.broadcastTo(x(2, 3), [3]), 'input f32 [2, 3] does not broadcast to [3]'],
    [
      'concat',
      () => f.concat([x(2, 3), x(3, 3)], 1),
      'concat on axis 1: input f32 [3, 3] does not fit input f32 [2, 3]',
    ],
    ['slice', () => f.slice(x(2, 3), 1, 2, 2), 'slice: 2…4 is outside axis 1 of input f32 [2, 3]'],
    ['split', () => f.split(x(2, 3), 1, [1, 1])[0]!, 'split: lengths 1 + 1 do not cover axis 1 of [2, 3]'],
    ['gather', () => f.gather(x(2), x(2)), 'gather: expected integer indices, got input f32 [2]'],
    [
      'scatterAdd',
      () => f.scatterAdd(x(2, 3), ids(3), 4),
      'one index for each row of input f32 [2, 3], got input i64 [3]',
    ],
    [
      'scatterRows',
      () => f.scatterRows(x(2, 3), ids(1), x(1, 4)),
      'input f32 [1, 4] at input i64 [1] does not fit the rows of input f32 [2, 3]',
    ],
    [
      'gatherElements',
      () => f.gatherElements(x(2, 3), ids(3), 1),
      'input i64 [3] must have the rank of input f32 [2, 3]',
    ],
    [
      'gatherElements of other rows',
      () => f.gatherElements(x(2, 3), ids(1, 3), 1),
      'input i64 [1, 3] must agree with input f32 [2, 3] except on axis 1',
    ],
    [
      'scatterElementsAdd',
      () => f.scatterElementsAdd(x(2, 3), ids(2, 1), 1, 4),
      'input i64 [2, 1] must have the shape of input f32 [2, 3]',
    ],
    ['constant', () => constant(Float32Array.of(1, 2), 'f32', [3]), 'constant: 2 values do not fill [3]'],
    ['scalar', () => scalar(1, 'f16'), 'f16 scalars are cast from f32'],
    ['input', () => apply('input', [], { name: 'x' }), 'input: made by input()'],
    ['a missing operand', () => apply('add', [x(2)], {}), 'add: operand 1 is missing'],
    ['axis', () => f.slice(x(2), 1.5, 0, 1), 'slice: axis 1.5 is outside a tensor of rank 1'],
    ['arithmetic', () => f.add(1, 2), 'arithmetic needs at least one tensor'],
  ];

  it.each(cases)('%s', (_name, build, message) => {
    expect(build).toThrow(message);
  });

  it('every row has its three cells', () => {
    for (const row of Object.values(OPS)) {
      expect(typeof row.infer).toBe('function');
      expect(typeof row.lower).toBe('function');
      expect(row.gradient === 'none' || typeof row.gradient === 'function').toBe(true);
    }
  });
});

/** The gradient of `Σ w·build(x)` at `values`. */
function gradientAt(
  build: (x: Tensor) => Tensor,
  shape: readonly number[],
  values: readonly number[],
  weights: readonly number[],
): readonly number[] {
  const free = input('x', 'f64', shape);
  const y = build(free);
  const w = constant(Float64Array.from(weights), 'f64', y.shape as readonly number[]);
  const feeds = new Map<string, NdArray>([['x', ndArray('f64', shape, values)]]);
  return [...evaluate(grad(f.sum(f.multiply(y, w)), [free]), feeds)[0]!.data];
}

describe('ties and repeats', () => {
  it('max sends its gradient to the first of equals', () => {
    expect(gradientAt((y) => f.max(y, 1), [2, 3], [1, 5, 5, 2, 2, 2], [10, 20])).toEqual([
      0, 10, 0, 20, 0, 0,
    ]);
    expect(gradientAt((y) => f.max(y, 0), [2, 2], [1, 3, 1, 4], [10, 20])).toEqual([10, 0, 0, 20]);
  });

  it('argMax is the first of equals', () => {
    const y = f.argMax(constant(Float32Array.of(1, 5, 5, 2, 2, 2), 'f32', [2, 3]), 1);
    expect([...evaluate([y], new Map())[0]!.data]).toEqual([1, 0]);
  });

  it('maximum halves the gradient between equals', () => {
    expect(gradientAt((y) => f.maximum(y, 2), [3], [1, 2, 3], [4, 4, 4])).toEqual([0, 2, 4]);
    expect(gradientAt((y) => f.maximum(2, y), [3], [1, 2, 3], [4, 4, 4])).toEqual([0, 2, 4]);
    expect(gradientAt((y) => f.maximum(y, y), [2], [1, 2], [4, 6])).toEqual([4, 6]);
  });

  it('gather adds up the gradients of repeated rows', () => {
    const twice = constant(Int32Array.of(1, 1, 0), 'i32', [3]);
    expect(gradientAt((y) => f.gather(y, twice), [3], [7, 8, 9], [1, 2, 4])).toEqual([4, 3, 0]);
  });
});
