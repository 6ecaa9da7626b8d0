/** Ops whose attributes hold dimensions, with letters that are bound only when the program runs. */
import { beforeAll, describe, expect, it } from 'vitest';
import { normals } from '../../test/support/gradientCheck.ts';
import { compile, expectClose, referenceOf, TARGETS, type Values } from '../../test/support/lowered.ts';
import { type NdArray, ndArray } from '../../test/support/reference.ts';
import { Random } from '../common/random.ts';
import { evaluateDim } from './dims.ts';
import * as f from './functions.ts';
import { grad } from './gradient.ts';
import { crossEntropy } from './nn.ts';
import { apply } from './ops.ts';
import { program } from './program.ts';
import { input, type Tensor } from './tensor.ts';

const x = input('x', 'f32', ['B', 'S', 4]);
const y = input('y', 'f32', ['B', 'T', 4]);
const rows = input('rows', 'f32', ['N', 3]);
const ids = input('ids', 'i32', ['N']);
const table = input('table', 'f32', ['R', 3]);
const weight = input('weight', 'f32', [2, 4]);
const joined = f.concat([x, y], 1);

const OUTPUTS: Readonly<Record<string, Tensor>> = {
  reshapeMerged: f.multiply(f.reshape(x, [-1, 4]), 2),
  reshapeSplit: f.square(f.reshape(x, ['B', 'S', 2, 2])),
  reshapeWithLetters: f.square(f.reshape(x, ['2*B*S', 2])),
  broadcastTo: f.square(f.broadcastTo(f.mean(x, [2], { keepDims: true }), ['B', 'S', 3])),
  broadcastNew: f.square(f.broadcastTo(weight, ['B', 2, 4])),
  concat: f.square(joined),
  slice: f.square(f.slice(joined, 1, 'S', 'T')),
  sliceFront: f.square(f.slice(joined, 1, 0, 'S')),
  sliceMiddle: f.square(f.slice(f.concat([x, y, x], 1), 1, 'S', 'T')),
  pad: f.square(apply('pad', [x], { axis: 1, before: 'T', after: 1 })),
  split: f.concat([...f.split(joined, 1, ['S', 'T'])].reverse(), 1),
  fill: f.add(x, f.fill(0.5, ['B', 'S', 1])),
  fillProduct: f.multiply(f.reshape(x, [-1]), f.fill(0.5, ['4*B*S'])),
  iota: f.multiply(f.sum(x, [2]), f.cast(f.iota('S'), 'f32')),
  iotaSum: f.multiply(f.sum(joined, [2]), f.cast(f.iota('S+T'), 'f32')),
  dimValue: f.multiply(x, f.dimValue('S')),
  dimValuePolynomial: f.multiply(x, f.dimValue('3+2*B*S')),
  matMul: f.matMul(x, weight, { transposeB: true }),
  matMulBatched: f.matMul(x, y, { transposeB: true, scale: 0.5 }),
  sumOfAll: f.sum(f.square(x)),
  gather: f.gather(table, ids),
  scatterAdd: f.square(f.scatterAdd(rows, ids, 'R')),
  scatterRows: f.square(f.scatterRows(table, f.iota('N'), rows)),
  scatterElementsAdd: f.square(
    f.scatterElementsAdd(rows, f.broadcastTo(f.reshape(ids, ['N', 1]), ['N', 3]), 0, 'R'),
  ),
  gatherElements: f.gatherElements(table, f.broadcastTo(f.reshape(ids, ['N', 1]), ['N', 3]), 0),
  softmax: f.softmax(f.matMul(x, y, { transposeB: true })),
  crossEntropy: crossEntropy(f.matMul(rows, table, { transposeB: true }), ids),
};

const INPUTS = [x, y, rows, table, weight];

/** The outputs, and the gradients of the sum of squares of each. */
function withGradients(): Readonly<Record<string, Tensor>> {
  const all: Record<string, Tensor> = {};
  for (const [name, output] of Object.entries(OUTPUTS)) {
    all[name] = output;
    for (const [i, g] of grad(f.sum(f.square(output)), INPUTS).entries()) all[`${name}.gradient${i}`] = g;
  }
  return all;
}

function feedsFor(sizes: Readonly<Record<string, number>>): ReadonlyMap<string, NdArray> {
  const random = new Random(JSON.stringify(sizes));
  const letters = new Map(Object.entries(sizes));
  const feeds = new Map<string, NdArray>();
  for (const tensor of INPUTS) {
    const shape = tensor.shape.map((dim) => evaluateDim(dim, letters));
    feeds.set(tensor.attributes.name, ndArray('f32', shape, normals(random, shape).map(Math.fround)));
  }
  const drawn = Array.from({ length: sizes.N! }, () => random.integer(sizes.R!));
  return feeds.set('ids', ndArray('i32', [sizes.N!], drawn));
}

describe.each(TARGETS)('lowered for %s with letters', (target) => {
  const outputs = withGradients();
  let run: (feeds: Values) => Promise<Values>;
  beforeAll(async () => {
    run = await compile(program('symbolic', outputs), target);
  });

  it.each([
    { B: 2, S: 3, T: 2, N: 3, R: 5 },
    { B: 1, S: 1, T: 4, N: 1, R: 1 },
    { B: 2, S: 4, T: 0, N: 0, R: 2 },
    { B: 1, S: 0, T: 2, N: 2, R: 3 },
  ])('equals the reference for %o', async (sizes) => {
    const feeds = feedsFor(sizes);
    const expected = referenceOf(outputs, feeds);
    const got = await run(feeds);
    for (const [name, value] of expected) expectClose(got.get(name), value, name);
  });
});

describe('symbolic shapes', () => {
  it('are carried in canonical spelling', () => {
    expect(joined.shape).toEqual(['B', 'S+T', 4]);
    expect(f.reshape(x, [-1]).shape).toEqual(['4*B*S']);
    expect(f.reshape(x, [-1, 2]).shape).toEqual(['2*B*S', 2]);
    expect(f.slice(joined, 1, 'S', 'T').shape).toEqual(['B', 'T', 4]);
    expect(grad(f.sum(f.slice(joined, 1, 'S', 'T')), [x, y]).map((g) => g.shape)).toEqual([x.shape, y.shape]);
  });

  it('do not divide where a letter would be left over', () => {
    expect(() => f.reshape(x, [-1, 'T'])).toThrow('reshape: [B, S, 4] does not fit [-1, T]');
    expect(() => f.reshape(x, [-1, 3])).toThrow('reshape: [B, S, 4] does not fit [-1, 3]');
  });

  it('do not give a mean over a letter a gradient', () => {
    expect(() => grad(f.sum(f.mean(x, [1])), [x])).toThrow('mean: axis 1 has the symbolic size S');
  });
});
