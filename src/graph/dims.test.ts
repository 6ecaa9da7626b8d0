/** Dimensions form a commutative ring in canonical spelling; shapes broadcast by NumPy's rule. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  addDims,
  broadcastAxes,
  broadcastShapes,
  type Dim,
  evaluateDim,
  formatShape,
  multiplyDims,
  resolveAxis,
  sameShape,
  sizeOf,
  termsOf,
} from './dims.ts';

const RUNS = { seed: 5, numRuns: 200 };
const LETTERS = new Map([
  ['B', 3],
  ['S', 7],
  ['T', 11],
]);

/** Random polynomials, built by the operations themselves. */
const dims: fc.Arbitrary<Dim> = fc.letrec<{ dim: Dim; leaf: Dim }>((tie) => ({
  leaf: fc.oneof(fc.integer({ min: -4, max: 9 }), fc.constantFrom('B', 'S', 'T')),
  dim: fc.oneof(
    { maxDepth: 3 },
    tie('leaf'),
    fc.tuple(tie('dim'), tie('dim')).map(([a, b]) => addDims(a, b)),
    fc.tuple(tie('dim'), tie('dim')).map(([a, b]) => multiplyDims(a, b)),
  ),
})).dim;

/** Equality in which −0 is 0, as it is for a size. */
const expectSame = (a: Dim, b: Dim): void => expect(a === 0 ? 0 : a).toBe(b === 0 ? 0 : b);

const value = (dim: Dim): number => evaluateDim(dim, LETTERS);

describe('dimensions', () => {
  it('have one spelling', () => {
    expect(addDims('S', 64)).toBe('64+S');
    expect(addDims(64, 'S')).toBe('64+S');
    expect(addDims('T', 'S')).toBe('S+T');
    expect(addDims('S', 'S')).toBe('2*S');
    expect(multiplyDims('S', 'B')).toBe('B*S');
    expect(multiplyDims(2, addDims('S', 1))).toBe('2+2*S');
    expect(multiplyDims(addDims('S', 1), addDims('S', -1))).toBe('-1+S*S');
    expect(sizeOf(['B', 4, 'S', 2])).toBe('8*B*S');
    expect(addDims('S*B', 0)).toBe('B*S');
  });

  it('become numbers when their letters cancel', () => {
    expect(addDims('S', multiplyDims(-1, 'S'))).toBe(0);
    expect(addDims(addDims('S', 5), '-1*S')).toBe(5);
    expect(multiplyDims(0, 'S')).toBe(0);
    expect(sizeOf([])).toBe(1);
    expect(sizeOf(['S', 0])).toBe(0);
  });

  it('are a commutative ring', () => {
    const properties = fc.property(dims, dims, dims, (a, b, c) => {
      expectSame(addDims(a, b), addDims(b, a));
      expectSame(multiplyDims(a, b), multiplyDims(b, a));
      expectSame(addDims(addDims(a, b), c), addDims(a, addDims(b, c)));
      expectSame(multiplyDims(multiplyDims(a, b), c), multiplyDims(a, multiplyDims(b, c)));
      expectSame(multiplyDims(a, addDims(b, c)), addDims(multiplyDims(a, b), multiplyDims(a, c)));
      expectSame(addDims(a, 0), a);
      expectSame(multiplyDims(a, 1), a);
      expectSame(multiplyDims(a, 0), 0);
      expectSame(addDims(a, multiplyDims(-1, a)), 0);
    });
    fc.assert(properties, RUNS);
  });

  it('evaluate like the numbers they stand for', () => {
    const properties = fc.property(dims, dims, (a, b) => {
      expectSame(value(addDims(a, b)), value(a) + value(b));
      expectSame(value(multiplyDims(a, b)), value(a) * value(b));
    });
    fc.assert(properties, RUNS);
  });

  it('fall into terms', () => {
    expect(termsOf('64+2*B*S')).toEqual([
      { coefficient: 64, letters: [] },
      { coefficient: 2, letters: ['B', 'S'] },
    ]);
    expect(termsOf(7)).toEqual([{ coefficient: 7, letters: [] }]);
  });

  it('name the letter that is not bound', () => {
    expect(() => evaluateDim('2+S*X', LETTERS)).toThrow("dimension letter X of '2+S*X' is not bound");
  });
});

describe('broadcasting', () => {
  it('aligns shapes from the end', () => {
    expect(broadcastShapes([2, 1, 3], [4, 1], 'add')).toEqual([2, 4, 3]);
    expect(broadcastShapes([], ['S'], 'add')).toEqual(['S']);
    expect(broadcastShapes(['B', 1], ['S'], 'add')).toEqual(['B', 'S']);
    expect(broadcastShapes([0], [1], 'add')).toEqual([0]);
    expect(broadcastShapes([1], [0], 'add')).toEqual([0]);
  });

  it('rejects what differs, with both shapes', () => {
    expect(() => broadcastShapes([2, 3], [4, 2], 'add')).toThrow(
      'add: shapes [2, 3] and [4, 2] do not broadcast (2 ≠ 4)',
    );
    expect(() => broadcastShapes(['S'], ['T'], 'add')).toThrow('shapes [S] and [T] do not broadcast');
    expect(() => broadcastShapes([0], [2], 'add')).toThrow('shapes [0] and [2]');
  });

  it('tells which axes were repeated', () => {
    expect(broadcastAxes([3], [2, 3])).toEqual([0]);
    expect(broadcastAxes([1, 3, 1], [2, 3, 1])).toEqual([0]);
    expect(broadcastAxes([], ['B', 'S'])).toEqual([0, 1]);
    expect(broadcastAxes([1, 'S'], ['B', 'S'])).toEqual([0]);
    expect(broadcastAxes([3], [1, 3])).toEqual([0]);
  });
});

describe('shapes', () => {
  it('compare by rank and by dimension', () => {
    expect(sameShape(['B', 2], ['B', 2])).toBe(true);
    expect(sameShape(['B', 2], ['B'])).toBe(false);
    expect(sameShape([2], [3])).toBe(false);
    expect(formatShape(['B', 2])).toBe('[B, 2]');
  });

  it('count axes from either end', () => {
    expect(resolveAxis(1, 3, 'sum')).toBe(1);
    expect(resolveAxis(-1, 3, 'sum')).toBe(2);
    for (const axis of [3, -4, 0.5]) {
      expect(() => resolveAxis(axis, 3, 'sum')).toThrow(`sum: axis ${axis} is outside a tensor of rank 3`);
    }
  });
});
