/**
 * Builders: one small function for each op, and the composites every model needs. Shapes broadcast as in
 * NumPy. Numbers may stand where a tensor is expected in arithmetic: they become scalars of the other side's
 * dtype.
 */
import { addDims, type Dim, formatShape, multiplyDims, resolveAxis, type Shape, sizeOf } from './dims.ts';
import type { DType } from './dtype.ts';
import { apply, type GradientRule } from './ops.ts';
import { scalar, type Tensor } from './tensor.ts';

type Operand = Tensor | number;

function operands(a: Operand, b: Operand): readonly [Tensor, Tensor] {
  if (typeof a !== 'number') return [a, typeof b === 'number' ? scalarOf(b, a.dtype) : b];
  if (typeof b === 'number') throw new Error('arithmetic needs at least one tensor');
  return [scalarOf(a, b.dtype), b];
}

/** A scalar of any dtype; f16 has no typed array here, so it is cast. */
function scalarOf(value: number, dtype: DType): Tensor {
  return dtype === 'f16' ? cast(scalar(value), 'f16') : scalar(value, dtype);
}

export const add = (a: Operand, b: Operand): Tensor => apply('add', operands(a, b), {});
export const subtract = (a: Operand, b: Operand): Tensor => apply('subtract', operands(a, b), {});
export const multiply = (a: Operand, b: Operand): Tensor => apply('multiply', operands(a, b), {});
export const divide = (a: Operand, b: Operand): Tensor => apply('divide', operands(a, b), {});
export const maximum = (a: Operand, b: Operand): Tensor => apply('maximum', operands(a, b), {});
/** `a = b`, as bool. */
export const equal = (a: Operand, b: Operand): Tensor => apply('equal', operands(a, b), {});
/** `a < b`, as bool. */
export const less = (a: Operand, b: Operand): Tensor => apply('less', operands(a, b), {});
/** `condition ? a : b`, elementwise. */
export const where = (condition: Tensor, a: Operand, b: Operand): Tensor =>
  apply('where', [condition, ...operands(a, b)], {});

export const negate = (x: Tensor): Tensor => apply('negate', [x], {});
export const exp = (x: Tensor): Tensor => apply('exp', [x], {});
export const log = (x: Tensor): Tensor => apply('log', [x], {});
export const sqrt = (x: Tensor): Tensor => apply('sqrt', [x], {});
export const tanh = (x: Tensor): Tensor => apply('tanh', [x], {});
export const sigmoid = (x: Tensor): Tensor => apply('sigmoid', [x], {});
export const erf = (x: Tensor): Tensor => apply('erf', [x], {});
export const square = (x: Tensor): Tensor => multiply(x, x);
/** `x · sigmoid(x)`. */
export const silu = (x: Tensor): Tensor => apply('silu', [x], {});
/** `x · Φ(x)`, with the normal distribution's Φ by `erf` ('none') or by its `tanh` approximation. */
export const gelu = (x: Tensor, approximate: 'none' | 'tanh'): Tensor => apply('gelu', [x], { approximate });
export const cast = (x: Tensor, dtype: DType): Tensor =>
  x.dtype === dtype ? x : apply('cast', [x], { dtype });
/** The value of `x`, through which no gradient flows. */
export const stopGradient = (x: Tensor): Tensor => apply('stopGradient', [x], {});
/** `x`, computed from only once `other` is there, which has its shape: for the order in which things run. */
export const after = (x: Tensor, other: Tensor): Tensor => apply('after', [x, other], {});
/** The value of `y`, whose gradient goes by `rule` to `inputs`; none flows into `y` itself. */
export const withGradient = (y: Tensor, inputs: readonly Tensor[], rule: GradientRule): Tensor =>
  apply('withGradient', [y, ...inputs], { rule });

/** `[0, 1, …, length − 1]` as i32. */
export const iota = (length: Dim): Tensor => apply('iota', [], { length });
/** The size of a dimension as a scalar (f32 unless told), also where it is known only at run time. */
export const dimValue = (dim: Dim, dtype: DType = 'f32'): Tensor =>
  typeof dim === 'number' ? scalarOf(dim, dtype) : apply('dimValue', [], { dim, dtype });
/** A tensor with one value everywhere. */
export const fill = (value: number, shape: Shape, dtype: DType = 'f32'): Tensor =>
  apply('fill', [], { value, shape, dtype });

export interface MatMulOptions {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  /** Factor on the product. */
  readonly scale?: number;
}

/** `scale · a @ b` over the last two axes, the axes before them broadcast. Both need rank 2 or more. */
export function matMul(a: Tensor, b: Tensor, options: MatMulOptions = {}): Tensor {
  const { transposeA = false, transposeB = false, scale = 1 } = options;
  return apply('matMul', [a, b], { transposeA, transposeB, scale });
}

/**
 * Rotary position embedding, rotate-half convention. x: [B, H, S, E]; cos, sin: [S, E/2] →
 * `[x₁·cos − x₂·sin, x₂·cos + x₁·sin]` with x₁, x₂ the halves of the last axis.
 */
export const rotary = (x: Tensor, cos: Tensor, sin: Tensor): Tensor => apply('rotary', [x, cos, sin], {});

export interface MatMulNBitsOptions {
  readonly bits: 4 | 8;
  /** `int8`: x is rounded to 8 bits in blocks of 32, for the fast kernels. */
  readonly activations: 'f32' | 'int8';
}

/**
 * `x @ Wᵀ`, W = (codes − 2^(bits−1)) · scale in blocks of 32. x: f32 [..., in]; codes: u8 [out, ⌈in/32⌉, 4·bits], of
 * 4 bits the even element's in the lower half of a byte; scales: f32 [out, ⌈in/32⌉] → f32 [..., out].
 */
export const matMulNBits = (x: Tensor, codes: Tensor, scales: Tensor, options: MatMulNBitsOptions): Tensor =>
  apply('matMulNBits', [x, codes, scales], options);

export interface ReduceOptions {
  readonly keepDims?: boolean;
}

function reduceAttributes(x: Tensor, axes: readonly number[] | undefined, options: ReduceOptions) {
  const all = axes ?? x.shape.map((_, i) => i);
  const resolved = all.map((axis) => resolveAxis(axis, x.shape.length, 'reduce'));
  return { axes: resolved.sort((a, b) => a - b), keepDims: options.keepDims ?? false };
}

/** Sum over `axes` (all unless told). */
export const sum = (x: Tensor, axes?: readonly number[], options: ReduceOptions = {}): Tensor =>
  axes?.length === 0 ? x : apply('sum', [x], reduceAttributes(x, axes, options));
/** Mean over `axes` (all unless told). */
export const mean = (x: Tensor, axes?: readonly number[], options: ReduceOptions = {}): Tensor =>
  axes?.length === 0 ? x : apply('mean', [x], reduceAttributes(x, axes, options));
/** Maximum along one axis; the gradient goes to the first maximal element. */
export const max = (x: Tensor, axis: number, options: ReduceOptions = {}): Tensor =>
  apply('max', [x], { axis: resolveAxis(axis, x.shape.length, 'max'), keepDims: options.keepDims ?? false });
/** Index of the first maximum along one axis, i64. */
export const argMax = (x: Tensor, axis: number, options: ReduceOptions = {}): Tensor =>
  apply('argMax', [x], {
    axis: resolveAxis(axis, x.shape.length, 'argMax'),
    keepDims: options.keepDims ?? false,
  });

/** Softmax over the last axis. */
export const softmax = (x: Tensor): Tensor => apply('softmax', [x], {});
/** Logarithm of the softmax over the last axis. */
export const logSoftmax = (x: Tensor): Tensor => apply('logSoftmax', [x], {});
/** Layer normalisation over the last axis. weight, bias: [D]. */
export const layerNorm = (x: Tensor, weight: Tensor, bias: Tensor, epsilon: number): Tensor =>
  apply('layerNorm', [x, weight, bias], { epsilon });
/** `x / √(mean(x²) + epsilon) · weight` over the last axis. weight: [D]. */
export const rmsNorm = (x: Tensor, weight: Tensor, epsilon: number): Tensor =>
  apply('rmsNorm', [x, weight], { epsilon });
/** A by-product of a node that ONNX gives as a further output (the inverse deviation of a norm). */
export const extraOutput = (x: Tensor, index: number): Tensor => apply('extraOutput', [x], { index });

/** The same elements in another shape. `-1` may stand once for "what is left". */
export function reshape(x: Tensor, shape: Shape): Tensor {
  return apply('reshape', [x], { shape: completeShape(x.shape, shape) });
}

function completeShape(from: Shape, to: Shape): Shape {
  const hole = to.indexOf(-1);
  if (hole < 0) return to;
  const rest = to.filter((_, i) => i !== hole);
  const missing = divideSizes(from, rest);
  if (missing === undefined) throw new Error(`reshape: ${formatShape(from)} does not fit ${formatShape(to)}`);
  return to.map((dim, i) => (i === hole ? missing : dim));
}

/** `size(from) / size(divisors)`: common dims cancel, then one whole quotient must be left. */
function divideSizes(from: Shape, divisors: Shape): Dim | undefined {
  const left = [...from];
  const unmatched: Dim[] = [];
  for (const divisor of divisors) {
    const at = left.indexOf(divisor);
    if (at >= 0) left.splice(at, 1);
    else unmatched.push(divisor);
  }
  const symbolic = left.filter((dim) => typeof dim === 'string');
  const numbers = left.filter((dim) => typeof dim === 'number').reduce((a, b) => a * b, 1);
  if (unmatched.some((dim) => typeof dim === 'string')) return undefined;
  const divisor = unmatched.reduce<number>((a, b) => a * Number(b), 1);
  if (divisor === 0 || numbers % divisor !== 0) return undefined;
  return multiplyDims(sizeOf(symbolic), numbers / divisor);
}

export const transpose = (x: Tensor, permutation: readonly number[]): Tensor =>
  permutation.every((axis, i) => axis === i) ? x : apply('transpose', [x], { permutation });
export const broadcastTo = (x: Tensor, shape: Shape): Tensor =>
  x.shape.length === shape.length && x.shape.every((dim, i) => dim === shape[i])
    ? x
    : apply('broadcastTo', [x], { shape });

export function concat(tensors: readonly Tensor[], axis: number): Tensor {
  const [first] = tensors;
  if (first === undefined) throw new Error('concat: no tensors');
  if (tensors.length === 1) return first;
  return apply('concat', tensors, { axis: resolveAxis(axis, first.shape.length, 'concat') });
}

/** `length` elements from `start` along one axis. */
export const slice = (x: Tensor, axis: number, start: Dim, length: Dim): Tensor => {
  const resolved = resolveAxis(axis, x.shape.length, 'slice');
  return start === 0 && x.shape[resolved] === length
    ? x
    : apply('slice', [x], { axis: resolved, start, length });
};

/** Cuts one axis into consecutive pieces of the given lengths, which must cover it. */
export function split(x: Tensor, axis: number, lengths: readonly Dim[]): readonly Tensor[] {
  const resolved = resolveAxis(axis, x.shape.length, 'split');
  const total = lengths.reduce<Dim>(addDims, 0);
  if (total !== x.shape[resolved]) {
    throw new Error(
      `split: lengths ${lengths.join(' + ')} do not cover axis ${axis} of ${formatShape(x.shape)}`,
    );
  }
  let start: Dim = 0;
  return lengths.map((length) => {
    const piece = slice(x, resolved, start, length);
    start = addDims(start, length);
    return piece;
  });
}

/** Rows of `x` along `axis`, chosen by integer `indices` (i32 or i64) of any shape. */
export const gather = (x: Tensor, indices: Tensor, axis = 0): Tensor =>
  apply('gather', [x, indices], { axis: resolveAxis(axis, x.shape.length, 'gather') });
/** `[rows, …]` zeros, to whose row `indices[i]` row i of `updates` is added. indices: [N]; updates: [N, …]. */
export const scatterAdd = (updates: Tensor, indices: Tensor, rows: Dim): Tensor =>
  apply('scatterAdd', [updates, indices], { rows });
/** `x` with row `indices[i]` replaced by row i of `updates`. Indices are distinct. x: [R, …]; indices: [N]. */
export const scatterRows = (x: Tensor, indices: Tensor, updates: Tensor): Tensor =>
  apply('scatterRows', [x, indices, updates], {});
/** `y[…, i, …] = x[…, indices[…, i, …], …]` along `axis`. */
export const gatherElements = (x: Tensor, indices: Tensor, axis: number): Tensor =>
  apply('gatherElements', [x, indices], { axis: resolveAxis(axis, x.shape.length, 'gatherElements') });
/** The transpose of `gatherElements`: zeros of `length` along `axis`, to which `updates` are added. */
export const scatterElementsAdd = (updates: Tensor, indices: Tensor, axis: number, length: Dim): Tensor =>
  apply('scatterElementsAdd', [updates, indices], {
    axis: resolveAxis(axis, updates.shape.length, 'scatterElementsAdd'),
    length,
  });

/** Dimension `axis` of a tensor (negative counts from the end). */
export function dimOf(x: Tensor, axis: number): Dim {
  const dim = x.shape.at(axis);
  if (dim === undefined) throw new Error(`dimOf: axis ${axis} of ${formatShape(x.shape)}`);
  return dim;
}
