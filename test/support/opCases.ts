/**
 * Small examples of every op: plain shapes, broadcasting, sizes 1 and 0. The table is mapped over the ops, so
 * a new op without an example does not compile.
 */
import fc from 'fast-check';
import type { Random } from '../../src/common/random.ts';
import type { DType } from '../../src/graph/dtype.ts';
import * as f from '../../src/graph/functions.ts';
import { codesShape } from '../../src/graph/nBits.ts';
import { LOWEST } from '../../src/graph/nn.ts';
import { apply, type OpName } from '../../src/graph/ops.ts';
import { constant, type Tensor } from '../../src/graph/tensor.ts';
import { normals } from './gradientCheck.ts';
import { sizeOfShape } from './reference.ts';

/** How an operand is drawn: reals, reals ≥ 0.5, multiples of 1 that repeat, or the values listed. */
type Draw = 'normal' | 'positive' | 'repeating' | readonly number[];

export interface Operand {
  readonly shape: readonly number[];
  readonly draw: Draw;
  /** `undefined`: the float type of the run. */
  readonly dtype?: DType;
}

export interface OpCase {
  readonly operands: readonly Operand[];
  readonly build: (x: readonly Tensor[]) => Tensor;
}

const normal = (...shape: number[]): Operand => ({ shape, draw: 'normal' });
const positive = (...shape: number[]): Operand => ({ shape, draw: 'positive' });
const repeating = (...shape: number[]): Operand => ({ shape, draw: 'repeating' });
const ids = (shape: readonly number[], values: readonly number[], dtype: DType = 'i64'): Operand => ({
  shape,
  draw: values,
  dtype,
});

function of(build: OpCase['build'], ...lists: readonly (readonly Operand[])[]): readonly OpCase[] {
  return lists.map((operands) => ({ operands, build }));
}

export function draw(random: Random, { shape, draw: how }: Operand): readonly number[] {
  if (typeof how !== 'string') return how;
  if (how === 'repeating') return Array.from({ length: sizeOfShape(shape) }, () => random.integer(3));
  const reals = normals(random, shape).map(Math.fround);
  return how === 'normal' ? reals : reals.map((x) => Math.fround(0.5 + Math.abs(x)));
}

/** x, and the codes and scales of a matrix with `out` rows for it; its bytes count up. */
function nBits(bits: 4 | 8, x: readonly number[], out: number): readonly Operand[] {
  const shape = codesShape(out, x.at(-1)!, bits);
  const bytes = Array.from({ length: sizeOfShape(shape) }, (_, i) => (37 * i + 11) % 256);
  return [
    { ...normal(...x), dtype: 'f32' },
    { shape, draw: bytes, dtype: 'u8' },
    { ...positive(...shape.slice(0, 2)), dtype: 'f32' },
  ];
}

/** Shapes that broadcast together, drawn from random ones with dims 0 to 3. */
function broadcastShapes(count: number, seed: number): readonly (readonly (readonly number[])[])[] {
  const one = (target: readonly number[]) =>
    fc
      .tuple(fc.nat({ max: target.length }), fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }))
      .map(([from, ones]) => target.slice(from).map((dim, i) => (ones[i] ? 1 : dim)));
  const shapes = fc
    .array(fc.constantFrom(0, 1, 2, 3, 2, 3), { maxLength: 3 })
    .chain((target) => fc.tuple(...Array.from({ length: count }, () => one(target))));
  return fc.sample(shapes, { seed, numRuns: 5 });
}

function binary(
  build: (a: Tensor, b: Tensor) => Tensor,
  second: (...shape: number[]) => Operand = normal,
  first: (...shape: number[]) => Operand = normal,
): readonly OpCase[] {
  const fixed = [
    [
      [2, 3],
      [2, 3],
    ],
    [
      [2, 1],
      [1, 3],
    ],
    [[], [2]],
    [[3], [0, 3]],
    [[1, 1], [1]],
    [
      [0, 2],
      [1, 1],
    ],
  ];
  return [...fixed, ...broadcastShapes(2, 11)].map(([a = [], b = []]) => ({
    operands: [first(...a), second(...b)],
    build: ([x, y]) => build(x!, y!),
  }));
}

const unary = (build: (x: Tensor) => Tensor, operand = normal): readonly OpCase[] =>
  of(([x]) => build(x!), [operand(2, 5)], [operand()], [operand(1, 1)], [operand(0, 2)]);

/** Far from zero on both sides, where exponentials overflow or vanish. */
const FAR: Operand = { shape: [7], draw: [-100, -20, -5, 0, 5, 20, 100] };

const one = (build: (x: Tensor) => Tensor, ...shapes: readonly (readonly number[])[]): readonly OpCase[] =>
  of(([x]) => build(x!), ...shapes.map((shape) => [normal(...shape)]));

/** x · cast(y): gives a constant-like op a neighbour with a gradient. */
const scaled = (y: () => Tensor, ...shape: number[]): readonly OpCase[] =>
  one((x) => f.multiply(x, f.cast(y(), x.dtype)), shape);

const product = (options: f.MatMulOptions, ...pairs: readonly (readonly (readonly number[])[])[]) =>
  of(
    ([a, b]) => f.matMul(a!, b!, options),
    ...pairs.map((shapes) => shapes.map((shape) => normal(...shape))),
  );

const gathered = (axis: number, x: Operand, indices: Operand): readonly OpCase[] =>
  of(([a, i]) => f.gather(a!, i!, axis), [x, indices]);

const sums = (build: typeof f.sum): readonly OpCase[] => [
  ...one((x) => build(x), [2, 3], [1], []),
  ...one((x) => build(x, [1]), [2, 3, 2], [2, 1]),
  ...one((x) => build(x, [-1, 0], { keepDims: true }), [2, 3, 2], [1, 2]),
  ...one((x) => build(x, [0]), [2, 0]),
];

const NORM_SHAPES = [[2, 4], [2, 1, 3], [4], [1, 1], [0, 3], [2, 0, 3]];
const HALVES = Uint16Array.of(0x3c00, 0xc000, 0x3555);

export const OP_CASES: { readonly [N in OpName]: readonly OpCase[] } = {
  input: one((x) => x, [2, 3], [], [0, 2]),
  constant: [
    ...scaled(() => constant(Float32Array.of(1, -2, 3), 'f32', [3]), 2, 3),
    ...of(() => constant(BigInt64Array.of(-3n, 5n), 'i64', [2, 1]), []),
    ...scaled(() => constant(Float64Array.of(0.1), 'f64', []), 2),
    ...scaled(() => constant(HALVES, 'f16', [3]), 3),
    ...scaled(() => constant(BigInt64Array.of(-3n, 1000n), 'i64', [2]), 2),
    ...scaled(() => constant(Uint8Array.of(1, 0), 'bool', [2]), 2),
    ...scaled(() => constant(Int8Array.of(-7, 100), 'i8', [2]), 2),
    ...scaled(() => constant(new Float32Array(0), 'f32', [0, 2]), 0, 2),
    ...scaled(
      () =>
        constant(
          Float32Array.from({ length: 20 }, (_, i) => i / 8),
          'f32',
          [20],
        ),
      20,
    ),
  ],
  iota: [
    ...of(() => f.iota(3), []),
    ...scaled(() => f.iota(3), 2, 3),
    ...scaled(() => f.iota(0), 0),
    ...scaled(() => f.iota(1), 1),
  ],
  dimValue: scaled(() => apply('dimValue', [], { dtype: 'f32', dim: 5 }), 2),
  fill: [
    ...scaled(() => f.fill(2.5, [2, 3]), 2, 3),
    ...of(() => f.fill(-4, [2], 'i64'), []),
    ...scaled(() => f.fill(-4, [], 'i64'), 2),
    ...scaled(() => f.fill(-4, [2], 'i32'), 2),
    ...scaled(() => f.fill(1, [2], 'bool'), 2),
    ...scaled(() => f.fill(0.25, [2], 'f16'), 2),
    ...scaled(() => f.fill(7, [0, 2]), 0, 2),
  ],
  add: binary(f.add),
  subtract: binary(f.subtract),
  multiply: binary(f.multiply),
  divide: binary(f.divide, positive),
  maximum: binary(f.maximum),
  equal: binary(f.equal, repeating, repeating),
  less: binary(f.less, repeating, repeating),
  where: [...broadcastShapes(3, 12), [[2, 1], [3], [2, 3]], [[3], [], [2, 1]], [[0, 1], [2], [1]]].flatMap(
    ([c = [], a = [], b = []]) =>
      of(
        ([p, x, y]) => f.where(p!, x!, y!),
        [
          { shape: c, draw: Array.from({ length: sizeOfShape(c) }, (_, i) => i % 2), dtype: 'bool' },
          normal(...a),
          normal(...b),
        ],
      ),
  ),
  negate: unary(f.negate),
  exp: unary(f.exp),
  log: unary(f.log, positive),
  sqrt: unary(f.sqrt, positive),
  tanh: [...unary(f.tanh), ...of(([x]) => f.tanh(x!), [FAR])],
  sigmoid: [...unary(f.sigmoid), ...of(([x]) => f.sigmoid(x!), [FAR])],
  erf: [...unary(f.erf), ...of(([x]) => f.erf(x!), [FAR])],
  silu: [...unary(f.silu), ...of(([x]) => f.silu(x!), [FAR])],
  gelu: (['none', 'tanh'] as const).flatMap((approximate) => [
    ...unary((x) => f.gelu(x, approximate)),
    ...of(([x]) => f.gelu(x!, approximate), [FAR]),
  ]),
  cast: [
    ...one((x) => f.cast(f.cast(x, 'f64'), x.dtype), [2, 3], [0, 2]),
    ...one((x) => f.cast(f.cast(x, 'f32'), 'f64'), [2]),
    ...of(([x]) => f.cast(x!, 'f16'), [{ shape: [3], draw: [0.5, -2.25, 1024] }]),
    ...of(([x]) => f.cast(x!, 'i32'), [{ shape: [4], draw: [0.5, -2.75, 3.5, -0.25] }]),
    ...of(([x]) => f.cast(x!, 'bool'), [{ shape: [3], draw: [0.5, -2.75, 1] }]),
    ...of(([x]) => f.cast(x!, 'i64'), [ids([2], [3, -4], 'i32')]),
  ],
  stopGradient: unary(f.stopGradient),
  after: [
    ...of(
      ([x, y]) => f.after(f.square(x!), f.exp(y!)),
      [
        { shape: [2, 3], draw: 'normal' },
        { shape: [2, 3], draw: 'normal' },
      ],
    ),
  ],
  withGradient: unary((x) => f.withGradient(f.square(x), [x], (g) => [f.multiply(g, f.multiply(x, 2))])),
  matMul: [
    ...product(
      {},
      [
        [2, 3],
        [3, 2],
      ],
      [
        [2, 2, 3],
        [3, 4],
      ],
      [
        [2, 1, 2, 3],
        [3, 3, 2],
      ],
      [
        [2, 3],
        [2, 3, 1],
      ],
    ),
    ...product(
      {},
      [
        [2, 0],
        [0, 3],
      ],
      [
        [0, 3],
        [3, 2],
      ],
      [
        [2, 3],
        [3, 0],
      ],
      [
        [0, 2, 3],
        [3, 2],
      ],
      [
        [1, 1],
        [1, 1],
      ],
    ),
    ...product(
      { transposeB: true, scale: 0.5 },
      [
        [2, 3],
        [4, 3],
      ],
      [
        [2, 2, 3],
        [4, 3],
      ],
      [
        [2, 1, 2, 3],
        [3, 4, 3],
      ],
    ),
    ...product(
      { transposeB: true },
      [
        [0, 3],
        [4, 3],
      ],
      [
        [2, 0],
        [3, 0],
      ],
      [
        [1, 2, 3],
        [2, 4, 3],
      ],
      [
        [0, 2, 3],
        [4, 3],
      ],
    ),
    ...product(
      { transposeA: true, scale: -2 },
      [
        [3, 2],
        [3, 7],
      ],
      [
        [3, 2],
        [3, 4],
      ],
      [
        [2, 3, 2],
        [3, 4],
      ],
      [
        [3, 2],
        [2, 3, 1],
      ],
    ),
    ...product(
      { transposeA: true },
      [
        [0, 2],
        [0, 3],
      ],
      [
        [1, 3, 2],
        [2, 3, 4],
      ],
    ),
    ...product(
      { transposeA: true, transposeB: true },
      [
        [3, 2],
        [4, 3],
      ],
      [
        [2, 3, 2],
        [2, 4, 3],
      ],
      [
        [2, 3, 2],
        [4, 3],
      ],
    ),
  ],
  matMulNBits: ([4, 8] as const).flatMap((bits) =>
    of(
      ([x, codes, scales]) => f.matMulNBits(x!, codes!, scales!, { bits, activations: 'f32' }),
      nBits(bits, [3, 32], 2),
      nBits(bits, [2, 1, 64], 5),
      nBits(bits, [2, 40], 3),
      nBits(bits, [0, 32], 4),
    ),
  ),
  rotary: of(
    ([x, cos, sin]) => f.rotary(x!, cos!, sin!),
    [normal(2, 3, 4, 6), normal(4, 3), normal(4, 3)],
    [normal(1, 1, 1, 2), normal(1, 1), normal(1, 1)],
    [normal(0, 2, 3, 4), normal(3, 2), normal(3, 2)],
    [normal(1, 2, 0, 4), normal(0, 2), normal(0, 2)],
  ),
  sum: sums(f.sum),
  mean: [...sums(f.mean), ...one((x) => f.mean(x, [1]), [0, 3])],
  max: [
    ...one((x) => f.max(x, 1), [2, 3, 2], [2, 1], [0, 3]),
    ...one((x) => f.max(x, -1, { keepDims: true }), [2, 3, 2], [4], [1, 1]),
  ],
  argMax: [
    ...of(([x]) => f.argMax(x!, 1), [normal(2, 3, 2)], [repeating(3, 5)], [normal(0, 3)], [normal(2, 1)]),
    ...of(([x]) => f.argMax(x!, -1, { keepDims: true }), [repeating(2, 2, 4)], [normal(4)]),
  ],
  softmax: [
    ...one(f.softmax, [2, 3], [4], [2, 2, 1], [0, 3], [2, 0]),
    ...of(([x]) => f.softmax(x!), [FAR], [{ shape: [3], draw: [LOWEST, 1, 2] }]),
    ...of(([x]) => f.stopGradient(f.softmax(x!)), [{ shape: [2], draw: [LOWEST, LOWEST] }]),
  ],
  logSoftmax: [
    ...one(f.logSoftmax, [2, 3], [4], [2, 2, 1], [0, 3], [2, 0]),
    ...of(([x]) => f.logSoftmax(x!), [FAR]),
  ],
  layerNorm: [
    ...of(
      ([x, w, b]) => f.layerNorm(x!, w!, b!, 1e-3),
      ...NORM_SHAPES.map((shape) => [normal(...shape), normal(shape.at(-1)!), normal(shape.at(-1)!)]),
    ),
    ...one((x) => f.layerNorm(x, f.fill(1, [4], x.dtype), f.fill(0, [4], x.dtype), 1e-3), [2, 3, 4]),
    ...of(([x, b]) => f.layerNorm(x!, f.fill(1, [4], x!.dtype), b!, 1e-3), [normal(2, 4), normal(4)]),
  ],
  rmsNorm: [
    ...of(
      ([x, w]) => f.rmsNorm(x!, w!, 1e-3),
      ...NORM_SHAPES.map((shape) => [normal(...shape), normal(shape.at(-1)!)]),
    ),
    ...one((x) => f.rmsNorm(x, f.fill(1, [4], x.dtype), 1e-3), [2, 3, 4]),
  ],
  extraOutput: [
    ...of(
      ([x, w, b]) => f.extraOutput(f.layerNorm(x!, w!, b!, 1e-3), 2),
      [normal(2, 4), normal(4), normal(4)],
      [normal(0, 4), normal(4), normal(4)],
    ),
    ...of(([x, w]) => f.extraOutput(f.rmsNorm(x!, w!, 1e-3), 1), [normal(2, 2, 4), normal(4)]),
  ],
  reshape: [
    ...one((x) => f.reshape(x, [3, -1]), [2, 3], [3], [6, 2, 1]),
    ...one((x) => f.reshape(x, [0, 5]), [2, 0], [0]),
    ...one((x) => f.reshape(x, []), [1, 1]),
  ],
  transpose: [
    ...one((x) => f.transpose(x, [2, 0, 1]), [2, 3, 4], [1, 2, 1], [2, 0, 3]),
    ...one((x) => f.transpose(x, [1, 0]), [2, 3]),
  ],
  broadcastTo: one((x) => f.broadcastTo(x, [2, 3, 4]), [3, 1], [], [2, 3, 4], [1, 1, 4]).concat(
    one((x) => f.broadcastTo(x, [0, 2]), [1, 2], [2], []),
  ),
  concat: of(
    (xs) => f.concat(xs, 1),
    [normal(2, 1), normal(2, 3), normal(2, 2)],
    [normal(2, 0), normal(2, 2)],
    [normal(0, 2), normal(0, 1)],
    [normal(1, 2, 3), normal(1, 1, 3)],
  ),
  slice: [
    ...one((x) => f.slice(x, 1, 1, 2), [2, 3], [0, 4], [2, 5, 2]),
    ...one((x) => f.slice(x, 0, 1, 0), [2, 3]),
    ...one((x) => f.slice(x, -1, 2, 1), [3]),
  ],
  pad: one(
    (x) => apply('pad', [x], { axis: 1, before: 1, after: 2 }),
    [2, 3],
    [0, 2],
    [2, 0],
    [2, 1, 2],
  ).concat(one((x) => apply('pad', [x], { axis: 0, before: 0, after: 1 }), [2])),
  gather: [
    ...gathered(0, normal(4, 3), ids([5], [3, 0, 3, 1, 3])),
    ...gathered(1, normal(2, 4, 3), ids([2, 2], [1, 1, 0, 3], 'i32')),
    ...gathered(2, normal(2, 1, 3), ids([], [2])),
    ...gathered(0, normal(4, 3), ids([0], [])),
    ...gathered(0, normal(0, 3), ids([0], [])),
    ...gathered(1, normal(0, 3), ids([2], [2, 0])),
  ],
  scatterAdd: of(
    ([updates, i]) => f.scatterAdd(updates!, i!, 4),
    [normal(5, 3), ids([5], [3, 0, 3, 1, 3])],
    [normal(3, 2, 2), ids([3], [2, 2, 2], 'i32')],
    [normal(4), ids([4], [0, 1, 1, 0])],
    [normal(0, 3), ids([0], [])],
    [normal(2, 0), ids([2], [1, 1])],
  ),
  scatterRows: of(
    ([x, i, updates]) => f.scatterRows(x!, i!, updates!),
    [normal(4, 3), ids([2], [3, 0]), normal(2, 3)],
    [normal(3, 2, 2), ids([1], [1], 'i32'), normal(1, 2, 2)],
    [normal(4, 3), ids([0], []), normal(0, 3)],
    [normal(3), ids([2], [2, 1]), normal(2)],
    [normal(0, 3), ids([0], []), normal(0, 3)],
  ),
  gatherElements: [
    ...of(
      ([x, i]) => f.gatherElements(x!, i!, 1),
      [normal(2, 3), ids([2, 4], [0, 2, 2, 1, 0, 0, 0, 0])],
      [normal(2, 3), ids([2, 1], [2, 0], 'i32')],
      [normal(0, 3), ids([0, 2], [])],
      [normal(2, 3), ids([2, 0], [])],
    ),
    ...of(([x, i]) => f.gatherElements(x!, i!, 0), [normal(3, 1, 2), ids([2, 1, 2], [0, 2, 2, 2])]),
  ],
  scatterElementsAdd: of(
    ([updates, i]) => f.scatterElementsAdd(updates!, i!, 1, 3),
    [normal(2, 4), ids([2, 4], [0, 2, 2, 1, 0, 0, 0, 0])],
    [normal(2, 1, 2), ids([2, 1, 2], [2, 0, 1, 1], 'i32')],
    [normal(0, 2), ids([0, 2], [])],
    [normal(2, 0), ids([2, 0], [])],
  ),
};
