/**
 * A naive interpreter of the graph in f64: one function for each op, written from its definition, index by
 * index. It shares nothing with the ONNX lowering, so that each can prove the other. Slow; for small tensors.
 */
import { f16ToF32 } from '../../src/common/numberFormats.ts';
import { evaluateDim, type Shape } from '../../src/graph/dims.ts';
import type { DType, TypedArray } from '../../src/graph/dtype.ts';
import type { OpName } from '../../src/graph/ops.ts';
import { bindLetters } from '../../src/graph/program.ts';
import { describe, type Tensor, topologicalOrder } from '../../src/graph/tensor.ts';

/** A tensor whose elements, whatever their dtype, are held as f64, row-major. */
export interface NdArray {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

type Index = readonly number[];

interface Scope {
  readonly feeds: ReadonlyMap<string, NdArray>;
  readonly letters: ReadonlyMap<string, number>;
  readonly values: ReadonlyMap<Tensor, NdArray>;
}

type Rule<N extends OpName> = (node: Tensor<N>, inputs: readonly NdArray[], scope: Scope) => NdArray;

export const sizeOfShape = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Every index of a shape, row-major. */
export function* indicesOf(shape: readonly number[]): Generator<Index> {
  const index = shape.map(() => 0);
  for (let n = sizeOfShape(shape); n > 0; n--) {
    yield [...index];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis]! += 1;
      if (index[axis]! < shape[axis]!) break;
      index[axis] = 0;
    }
  }
}

function offsetOf(shape: readonly number[], index: Index): number {
  let offset = 0;
  for (const [axis, dim] of shape.entries()) {
    const i = index[axis]!;
    if (!(i >= 0 && i < dim)) throw new Error(`reference: index [${index}] is outside [${shape}]`);
    offset = offset * dim + i;
  }
  return offset;
}

/** The element at an index. */
const at = (x: NdArray, index: Index): number => x.data[offsetOf(x.shape, index)]!;

/** The element that broadcasting puts at an index: axes are aligned from the end, size 1 repeats. */
function broadcastAt(x: NdArray, index: Index): number {
  const aligned = index.slice(index.length - x.shape.length);
  return at(
    x,
    aligned.map((i, axis) => (x.shape[axis] === 1 ? 0 : i)),
  );
}

function tabulate(dtype: DType, shape: readonly number[], element: (index: Index) => number): NdArray {
  const data = new Float64Array(sizeOfShape(shape));
  let n = 0;
  for (const index of indicesOf(shape)) data[n++] = element(index);
  return { dtype, shape, data };
}

function broadcast(...shapes: readonly (readonly number[])[]): readonly number[] {
  const rank = Math.max(0, ...shapes.map((shape) => shape.length));
  return Array.from({ length: rank }, (_, i) => {
    const dims = shapes.map((shape) => shape[i - rank + shape.length] ?? 1).filter((dim) => dim !== 1);
    if (dims.some((dim) => dim !== dims[0])) throw new Error(`reference: ${shapes.join(' | ')}`);
    return dims[0] ?? 1;
  });
}

const bind = (shape: Shape, scope: Scope): readonly number[] =>
  shape.map((dim) => evaluateDim(dim, scope.letters));

const replaced = (index: Index, axis: number, i: number): Index => index.map((j, a) => (a === axis ? i : j));

const range = (length: number): readonly number[] => Array.from({ length }, (_, i) => i);

type Unary = 'negate' | 'exp' | 'log' | 'sqrt' | 'tanh' | 'sigmoid' | 'erf' | 'silu';

function unary<N extends Unary | 'gelu'>(f: (x: number, node: Tensor<N>) => number): Rule<N> {
  return (node, [x]) => ({ ...x!, data: x!.data.map((value) => f(value, node)) });
}

type Binary = 'add' | 'subtract' | 'multiply' | 'divide' | 'maximum' | 'equal' | 'less';

function binary<N extends Binary>(f: (a: number, b: number) => number, dtype?: DType): Rule<N> {
  return (_node, [a, b]) =>
    tabulate(dtype ?? a!.dtype, broadcast(a!.shape, b!.shape), (i) =>
      f(broadcastAt(a!, i), broadcastAt(b!, i)),
    );
}

/** Replaces the axes by one number computed from all elements along them. */
function reduce(
  x: NdArray,
  axes: readonly number[],
  keepDims: boolean,
  f: (values: readonly number[]) => number,
): NdArray {
  const along = axes.map((axis) => x.shape[axis]!);
  const ones = x.shape.map((dim, axis) => (axes.includes(axis) ? 1 : dim));
  const kept = tabulate(x.dtype, ones, (index) =>
    f(
      [...indicesOf(along)].map((inner) =>
        at(
          x,
          axes.reduce((i, a, n) => replaced(i, a, inner[n]!), index),
        ),
      ),
    ),
  );
  return keepDims ? kept : { ...kept, shape: x.shape.filter((_, axis) => !axes.includes(axis)) };
}

/** Replaces each row of the last axis. */
function overRows(x: NdArray, f: (row: readonly number[]) => readonly number[]): NdArray {
  const width = x.shape.at(-1)!;
  const data = new Float64Array(x.data.length);
  for (let i = 0; i < data.length; i += width) data.set(f([...x.data.subarray(i, i + width)]), i);
  return { ...x, data };
}

const total = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const average = (values: readonly number[]): number => total(values) / values.length;

function softmax(row: readonly number[]): readonly number[] {
  const powers = row.map((value) => Math.exp(value - Math.max(...row)));
  return powers.map((power) => power / total(powers));
}

/** `log Σ exp`, shifted by the largest. */
function logSumExp(row: readonly number[]): number {
  const top = Math.max(...row);
  return top + Math.log(total(row.map((value) => Math.exp(value - top))));
}

/** The mean that a norm subtracts, and the inverse of the deviation by which it divides. */
function deviation(op: 'layerNorm' | 'rmsNorm', row: readonly number[], epsilon: number) {
  const mean = op === 'layerNorm' ? average(row) : 0;
  const inverse = 1 / Math.sqrt(average(row.map((value) => (value - mean) ** 2)) + epsilon);
  return { mean, inverse };
}

function norm<N extends 'layerNorm' | 'rmsNorm'>(): Rule<N> {
  return (node, [x, weight, bias]) =>
    overRows(x!, (row) => {
      const { mean, inverse } = deviation(node.op, row, node.attributes.epsilon);
      return row.map((value, d) => (value - mean) * inverse * weight!.data[d]! + (bias?.data[d] ?? 0));
    });
}

function matMul({ attributes }: Tensor<'matMul'>, [a, b]: readonly NdArray[]): NdArray {
  const { transposeA, transposeB, scale } = attributes;
  const swap = (shape: readonly number[], yes: boolean) =>
    yes ? [shape.at(-1)!, shape.at(-2)!] : shape.slice(-2);
  const [rows, inner] = swap(a!.shape, transposeA);
  const [, columns] = swap(b!.shape, transposeB);
  const batch = broadcast(a!.shape.slice(0, -2), b!.shape.slice(0, -2));
  // The last two axes never broadcast: `at`, not `broadcastAt`, checks them.
  const pick = (x: NdArray, batchIndex: Index, pair: Index) => {
    const own = batchIndex.slice(batch.length - (x.shape.length - 2));
    return at(x, [...own.map((i, axis) => (x.shape[axis] === 1 ? 0 : i)), ...pair]);
  };
  return tabulate(a!.dtype, [...batch, rows!, columns!], (index) => {
    const [i, j] = [index.at(-2)!, index.at(-1)!];
    const batchIndex = index.slice(0, -2);
    return (
      scale *
      total(
        range(inner!).map(
          (k) =>
            pick(a!, batchIndex, transposeA ? [k, i] : [i, k]) *
            pick(b!, batchIndex, transposeB ? [j, k] : [k, j]),
        ),
      )
    );
  });
}

function matMulNBits({ attributes: { bits } }: Tensor<'matMulNBits'>, operands: readonly NdArray[]): NdArray {
  const [x, codes, scales] = operands as [NdArray, NdArray, NdArray];
  const width = x.shape.at(-1)!;
  const weight = (n: number, k: number) => {
    const [block, i] = [Math.floor(k / 32), k % 32];
    const byte = at(codes, [n, block, bits === 4 ? Math.floor(i / 2) : i]);
    const code = bits === 4 ? Math.floor(byte / 16 ** (i % 2)) % 16 : byte;
    return (code - 2 ** (bits - 1)) * at(scales, [n, block]);
  };
  return tabulate('f32', [...x.shape.slice(0, -1), codes.shape[0]!], (index) => {
    const row = index.slice(0, -1);
    return total(range(width).map((k) => at(x, [...row, k]) * weight(index.at(-1)!, k)));
  });
}

/** Each pair (x[e], x[e + E/2]) turned by the angle of its position. */
function rotary(_node: Tensor<'rotary'>, [x, cos, sin]: readonly NdArray[]): NdArray {
  const half = x!.shape[3]! / 2;
  return tabulate(x!.dtype, x!.shape, ([b, h, s, e]) => {
    const pair = e! % half;
    const [c, n] = [at(cos!, [s!, pair]), at(sin!, [s!, pair])];
    const [first, second] = [at(x!, [b!, h!, s!, pair]), at(x!, [b!, h!, s!, pair + half])];
    return e! < half ? first * c - second * n : second * c + first * n;
  });
}

function argMax({ attributes }: Tensor<'argMax'>, [x]: readonly NdArray[]): NdArray {
  const found = reduce(x!, [attributes.axis], attributes.keepDims, (row) => row.indexOf(Math.max(...row)));
  return { ...found, dtype: 'i64' };
}

function concat({ attributes: { axis } }: Tensor<'concat'>, inputs: readonly NdArray[]): NdArray {
  const length = total(inputs.map((x) => x.shape[axis]!));
  const shape = inputs[0]!.shape.map((dim, a) => (a === axis ? length : dim));
  return tabulate(inputs[0]!.dtype, shape, (index) => {
    let i = index[axis]!;
    for (const x of inputs) {
      if (i < x.shape[axis]!) return at(x, replaced(index, axis, i));
      i -= x.shape[axis]!;
    }
    throw new Error('reference: concat ran out of tensors');
  });
}

function pad({ attributes }: Tensor<'pad'>, [x]: readonly NdArray[], scope: Scope): NdArray {
  const [before, after] = bind([attributes.before, attributes.after], scope) as readonly [number, number];
  const { axis } = attributes;
  const length = x!.shape[axis]!;
  const shape = x!.shape.map((dim, a) => (a === axis ? before + dim + after : dim));
  return tabulate(x!.dtype, shape, (index) => {
    const i = index[axis]! - before;
    return i >= 0 && i < length ? at(x!, replaced(index, axis, i)) : 0;
  });
}

function slice({ attributes }: Tensor<'slice'>, [x]: readonly NdArray[], scope: Scope): NdArray {
  const [start, length] = bind([attributes.start, attributes.length], scope) as readonly [number, number];
  const { axis } = attributes;
  const shape = x!.shape.map((dim, a) => (a === axis ? length : dim));
  return tabulate(x!.dtype, shape, (index) => at(x!, replaced(index, axis, start + index[axis]!)));
}

function gather({ attributes: { axis } }: Tensor<'gather'>, [x, ids]: readonly NdArray[]): NdArray {
  const rank = ids!.shape.length;
  const shape = [...x!.shape.slice(0, axis), ...ids!.shape, ...x!.shape.slice(axis + 1)];
  return tabulate(x!.dtype, shape, (index) => {
    const chosen = at(ids!, index.slice(axis, axis + rank));
    return at(x!, [...index.slice(0, axis), chosen, ...index.slice(axis + rank)]);
  });
}

function scatterAdd(
  { attributes }: Tensor<'scatterAdd'>,
  [updates, ids]: readonly NdArray[],
  scope: Scope,
): NdArray {
  const shape = [evaluateDim(attributes.rows, scope.letters), ...updates!.shape.slice(1)];
  const y = tabulate(updates!.dtype, shape, () => 0);
  for (const index of indicesOf(updates!.shape)) {
    y.data[offsetOf(shape, replaced(index, 0, ids!.data[index[0]!]!))]! += at(updates!, index);
  }
  return y;
}

function scatterRows(_node: Tensor<'scatterRows'>, [x, ids, updates]: readonly NdArray[]): NdArray {
  const y = { ...x!, data: x!.data.slice() };
  for (const index of indicesOf(updates!.shape)) {
    y.data[offsetOf(x!.shape, replaced(index, 0, ids!.data[index[0]!]!))] = at(updates!, index);
  }
  return y;
}

function scatterElementsAdd(
  { attributes: { axis, length } }: Tensor<'scatterElementsAdd'>,
  [updates, ids]: readonly NdArray[],
  scope: Scope,
): NdArray {
  const rows = evaluateDim(length, scope.letters);
  const shape = updates!.shape.map((dim, a) => (a === axis ? rows : dim));
  const y = tabulate(updates!.dtype, shape, () => 0);
  for (const index of indicesOf(updates!.shape)) {
    y.data[offsetOf(shape, replaced(index, axis, at(ids!, index)))]! += at(updates!, index);
  }
  return y;
}

function cast({ attributes: { dtype } }: Tensor<'cast'>, [x]: readonly NdArray[]): NdArray {
  const isInteger = dtype === 'i32' || dtype === 'i64' || dtype === 'i8' || dtype === 'u8';
  const convert =
    dtype === 'bool' ? (v: number) => Number(v !== 0) : isInteger ? Math.trunc : (v: number) => v;
  return { ...x!, dtype, data: x!.data.map(convert) };
}

function extraOutput(node: Tensor<'extraOutput'>, _inputs: readonly NdArray[], scope: Scope): NdArray {
  const source = node.inputs[0] as Tensor<'layerNorm' | 'rmsNorm'>;
  const x = scope.values.get(source.inputs[0]!)!;
  return reduce(x, [x.shape.length - 1], true, (row) => {
    return deviation(source.op, row, source.attributes.epsilon).inverse;
  });
}

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

function gelu(x: number, { attributes }: Tensor<'gelu'>): number {
  return attributes.approximate === 'tanh'
    ? 0.5 * x * (1 + Math.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x ** 3)))
    : 0.5 * x * (1 + erf(x / Math.SQRT2));
}

const REFERENCE: { readonly [N in OpName]: Rule<N> } = {
  input: ({ attributes: { name } }, _inputs, scope) => {
    const value = scope.feeds.get(name);
    if (value === undefined) throw new Error(`reference: no value for the input ${name}`);
    return value;
  },
  constant: (node) => ndArray(node.dtype, node.shape as readonly number[], node.attributes.values),
  iota: ({ attributes }, _inputs, scope) =>
    tabulate('i32', [evaluateDim(attributes.length, scope.letters)], ([i]) => i!),
  dimValue: ({ attributes }, _inputs, scope) =>
    tabulate('f32', [], () => evaluateDim(attributes.dim, scope.letters)),
  fill: ({ attributes: { dtype, shape, value } }, _inputs, scope) =>
    tabulate(dtype, bind(shape, scope), () => value),
  add: binary((a, b) => a + b),
  subtract: binary((a, b) => a - b),
  multiply: binary((a, b) => a * b),
  divide: binary((a, b) => a / b),
  maximum: binary(Math.max),
  equal: binary((a, b) => Number(a === b), 'bool'),
  less: binary((a, b) => Number(a < b), 'bool'),
  where: (_node, [condition, a, b]) =>
    tabulate(a!.dtype, broadcast(condition!.shape, a!.shape, b!.shape), (i) =>
      broadcastAt(condition!, i) !== 0 ? broadcastAt(a!, i) : broadcastAt(b!, i),
    ),
  negate: unary((x) => -x),
  exp: unary(Math.exp),
  log: unary(Math.log),
  sqrt: unary(Math.sqrt),
  tanh: unary(Math.tanh),
  sigmoid: unary(sigmoid),
  erf: unary(erf),
  silu: unary((x) => x * sigmoid(x)),
  gelu: unary(gelu),
  cast,
  stopGradient: (_node, [x]) => x!,
  after: (_node, [x]) => x!,
  withGradient: (_node, [y]) => y!,
  matMul,
  matMulNBits,
  rotary,
  sum: ({ attributes: { axes, keepDims } }, [x]) => reduce(x!, axes, keepDims, total),
  mean: ({ attributes: { axes, keepDims } }, [x]) => reduce(x!, axes, keepDims, average),
  max: ({ attributes: { axis, keepDims } }, [x]) => reduce(x!, [axis], keepDims, (row) => Math.max(...row)),
  argMax,
  softmax: (_node, [x]) => overRows(x!, softmax),
  logSoftmax: (_node, [x]) => overRows(x!, (row) => row.map((value) => value - logSumExp(row))),
  layerNorm: norm(),
  rmsNorm: norm(),
  extraOutput,
  reshape: ({ attributes: { shape } }, [x], scope) => ({ ...x!, shape: bind(shape, scope) }),
  transpose: ({ attributes: { permutation } }, [x]) => {
    const shape = permutation.map((axis) => x!.shape[axis]!);
    return tabulate(x!.dtype, shape, (index) =>
      at(
        x!,
        range(shape.length).map((axis) => index[permutation.indexOf(axis)]!),
      ),
    );
  },
  broadcastTo: ({ attributes: { shape } }, [x], scope) =>
    tabulate(x!.dtype, bind(shape, scope), (index) => broadcastAt(x!, index)),
  concat,
  slice,
  pad,
  gather,
  scatterAdd,
  scatterRows,
  gatherElements: ({ attributes: { axis } }, [x, ids]) =>
    tabulate(x!.dtype, ids!.shape, (index) => at(x!, replaced(index, axis, at(ids!, index)))),
  scatterElementsAdd,
};

/** The error function to about 1e-15: a series of positive terms, and the continued fraction of `1 − erf`. */
export function erf(x: number): number {
  if (Number.isNaN(x)) return x;
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  if (z < 3) {
    // erf z = 2/√π · exp(−z²) · Σ 2ⁿ z²ⁿ⁺¹ / (2n + 1)!!
    let term = z;
    let sum = z;
    for (let n = 1; term > sum * 1e-18; n++) {
      term *= (2 * z * z) / (2 * n + 1);
      sum += term;
    }
    return Math.sign(x) * (2 / Math.sqrt(Math.PI)) * Math.exp(-z * z) * sum;
  }
  // erfc z = exp(−z²)/√π · 1/(z + (1/2)/(z + (2/2)/(z + (3/2)/(z + …))))
  let fraction = z;
  for (let n = 60; n > 0; n--) fraction = z + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / fraction);
}

/** Elements of a typed array (f16: its bits) as an `NdArray`. */
export function ndArray(
  dtype: DType,
  shape: readonly number[],
  values: TypedArray | readonly number[],
): NdArray {
  const numbers = dtype === 'f16' && values instanceof Uint16Array ? f16ToF32(values) : values;
  return { dtype, shape, data: Float64Array.from(numbers as ArrayLike<number | bigint>, Number) };
}

/**
 * The values of `outputs`. Letters are bound by the shapes of the feeds; each op's value is checked to have
 * the dtype and shape that the op's own rule inferred.
 */
export function evaluate(
  outputs: readonly Tensor[],
  feeds: ReadonlyMap<string, NdArray>,
): readonly NdArray[] {
  const order = topologicalOrder(outputs);
  const letters = new Map<string, number>();
  for (const node of order) {
    if (node.op !== 'input') continue;
    const { name } = (node as Tensor<'input'>).attributes;
    const fed = feeds.get(name)?.shape ?? [];
    bindLetters({ name, dtype: node.dtype, shape: node.shape }, fed, letters, 'reference');
  }
  const values = new Map<Tensor, NdArray>();
  const scope = { feeds, letters, values };
  for (const node of order) {
    const rule: Rule<typeof node.op> = REFERENCE[node.op] as Rule<typeof node.op>;
    const inputs = node.inputs.map((x) => values.get(x)!);
    const value = rule(node, inputs, scope);
    const expected = bind(node.shape, scope);
    if (`${value.shape}` !== `${expected}` || value.dtype !== node.dtype) {
      throw new Error(
        `reference: ${describe(node)} has the value ${value.dtype} [${value.shape}], expected [${expected}]`,
      );
    }
    values.set(node, value);
  }
  return outputs.map((output) => values.get(output)!);
}
