/** Matrix products, and the rotary embedding that stands beside them in every decoder layer. */
import { broadcastShapes, type Dim, formatShape, type Shape } from '../dims.ts';
import { concat, dimOf, matMul, multiply, negate, reshape, rotary, slice, sum } from '../functions.ts';
import type { Lowering } from '../lowering.ts';
import type { OpTable } from '../ops.ts';
import { describe, type Tensor } from '../tensor.ts';
import { type Inferred, operand, requireFloat, requireSameType } from './rules.ts';
import { floatConstant } from './source.ts';

type MatMul = Tensor<'matMul'>;

function matrixDims(x: Tensor, transposed: boolean): readonly [Dim, Dim] {
  const [rows, columns] = [dimOf(x, -2), dimOf(x, -1)];
  return transposed ? [columns, rows] : [rows, columns];
}

function inferMatMul(inputs: readonly Tensor[], attributes: MatMul['attributes']): Inferred {
  const a = operand(inputs, 0, 'matMul');
  const b = operand(inputs, 1, 'matMul');
  requireFloat(a, 'matMul');
  requireSameType(a, b, 'matMul');
  if (a.shape.length < 2 || b.shape.length < 2) {
    throw new Error(`matMul: both operands need rank 2 or more, got ${describe(a)} and ${describe(b)}`);
  }
  const [rows, inner] = matrixDims(a, attributes.transposeA);
  const [innerB, columns] = matrixDims(b, attributes.transposeB);
  if (inner !== innerB) {
    const shown = (x: Tensor, t: boolean) => formatShape(x.shape) + (t ? 'ᵀ' : '');
    throw new Error(
      `matMul: inner sizes differ: a is ${shown(a, attributes.transposeA)}, b is ${shown(b, attributes.transposeB)} (${inner} ≠ ${innerB})`,
    );
  }
  const batch = broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2), 'matMul');
  return { shape: [...batch, rows, columns], dtype: a.dtype };
}

/** Swaps the last two axes by a Transpose node. */
function transposed(context: Lowering, name: string, rank: number): string {
  const perm = Array.from({ length: rank }, (_, i) => (i < rank - 2 ? i : 2 * rank - 3 - i));
  return context.emit('Transpose', [name], { attributes: { perm } });
}

/** Rows of `aᵀ·b` up to which ONNX Runtime's kernel takes long to lay out b, which it does for every so many rows. */
const FEW_ROWS = 128;

/**
 * Whether a product is `aᵀ·b` with few rows and many columns. Then `bᵀ·a` and the transposition of its result are
 * faster: 192 against 155 GFLOP/s for 4096×128 and 4096×512.
 */
function isWideGradient({ shape, attributes }: MatMul): boolean {
  const [rows, columns] = shape;
  const isGradient = shape.length === 2 && attributes.transposeA && !attributes.transposeB;
  return isGradient && Number(rows) <= FEW_ROWS && Number(columns) >= 2 * Number(rows);
}

function lowerMatMul(context: Lowering, [a = '', b = '']: readonly string[], node: MatMul): string {
  const { transposeA, transposeB, scale } = node.attributes;
  if (!transposeA && !transposeB && scale === 1) return context.emit('MatMul', [a, b]);
  if (context.target === 'cpu') {
    const fused = (left: string, right: string) =>
      context.emit('FusedMatMul', [left, right], {
        domain: 'com.microsoft',
        attributes: { transA: Number(transposeA), transB: Number(transposeB), alpha: { float: scale } },
      });
    return isWideGradient(node) ? transposed(context, fused(b, a), 2) : fused(a, b);
  }
  const left = transposeA ? transposed(context, a, operand(node.inputs, 0, 'matMul').shape.length) : a;
  const right = transposeB ? transposed(context, b, operand(node.inputs, 1, 'matMul').shape.length) : b;
  const product = context.emit('MatMul', [left, right]);
  return scale === 1 ? product : context.emit('Mul', [product, floatConstant(context, scale, node.dtype)]);
}

const rowsOf = (x: Tensor): Shape => [-1, dimOf(x, -1)];

/**
 * The gradient towards an operand that has no batch of its own is one product over all rows, not a batched
 * product that is summed afterwards.
 */
function sharedOperandGradient(g: Tensor, a: Tensor, node: MatMul): Tensor {
  const { transposeB, scale } = node.attributes;
  const rows = reshape(a, rowsOf(a));
  const gradient = reshape(g, rowsOf(g));
  return transposeB
    ? matMul(gradient, rows, { transposeA: true, scale })
    : matMul(rows, gradient, { transposeA: true, scale });
}

function matMulGradient(g: Tensor, node: MatMul): readonly Tensor[] {
  const a = operand(node.inputs, 0, 'matMul');
  const b = operand(node.inputs, 1, 'matMul');
  const { transposeA, transposeB, scale } = node.attributes;
  const towardsA = transposeA
    ? matMul(b, g, { transposeA: transposeB, transposeB: true, scale })
    : matMul(g, b, { transposeB: !transposeB, scale });
  if (b.shape.length === 2 && !transposeA) return [towardsA, sharedOperandGradient(g, a, node)];
  const towardsB = transposeB
    ? matMul(g, a, { transposeA: true, transposeB: transposeA, scale })
    : matMul(a, g, { transposeA: !transposeA, scale });
  return [towardsA, towardsB];
}

function inferRotary(inputs: readonly Tensor[]): Inferred {
  const x = operand(inputs, 0, 'rotary');
  const cos = operand(inputs, 1, 'rotary');
  const sin = operand(inputs, 2, 'rotary');
  const [sequence, size] = [dimOf(x, -2), dimOf(x, -1)];
  for (const table of [cos, sin]) {
    if (x.shape.length !== 4 || typeof size !== 'number' || size % 2 !== 0 || table.shape.length !== 2) {
      throw new Error(`rotary: expected x [B, H, S, E] with even E and tables [S, E/2], got ${describe(x)}`);
    }
    if (table.shape[0] !== sequence || table.shape[1] !== size / 2) {
      throw new Error(`rotary: expected tables ${formatShape([sequence, size / 2])}, got ${describe(table)}`);
    }
  }
  return { shape: x.shape, dtype: x.dtype };
}

/** From standard operators: `concat(x₁·cos − x₂·sin, x₂·cos + x₁·sin)`. */
function lowerRotary(
  context: Lowering,
  [x = '', cos = '', sin = '']: readonly string[],
  node: Tensor<'rotary'>,
) {
  if (context.target === 'cpu') {
    const zero = context.constant(BigInt64Array.of(0n), 'i64', [1]);
    return context.emit('RotaryEmbedding', [x, zero, cos, sin], { domain: 'com.microsoft' });
  }
  const half = Number(dimOf(node, -1)) / 2;
  const bound = (value: number) => context.constant(BigInt64Array.of(BigInt(value)), 'i64', [1]);
  const part = (from: number) => context.emit('Slice', [x, bound(from), bound(from + half), bound(3)]);
  const [x1, x2] = [part(0), part(half)];
  const times = (a: string, b: string) => context.emit('Mul', [a, b]);
  const first = context.emit('Sub', [times(x1, cos), times(x2, sin)]);
  const second = context.emit('Add', [times(x2, cos), times(x1, sin)]);
  return context.emit('Concat', [first, second], { attributes: { axis: 3 } });
}

/** The rotation turned back; the tables' own gradients are there for completeness. */
function rotaryGradient(g: Tensor, node: Tensor<'rotary'>): readonly Tensor[] {
  const x = operand(node.inputs, 0, 'rotary');
  const cos = operand(node.inputs, 1, 'rotary');
  const sin = operand(node.inputs, 2, 'rotary');
  const half = Number(dimOf(x, -1)) / 2;
  const swapped = concat([negate(slice(x, -1, half, half)), slice(x, -1, 0, half)], -1);
  const folded = (y: Tensor) => {
    const both = sum(multiply(g, y), [0, 1]);
    return sum(reshape(both, [dimOf(both, 0), 2, half]), [1]);
  };
  return [rotary(g, cos, negate(sin)), folded(x), folded(swapped)];
}

export const matMulOps: Pick<OpTable, 'matMul' | 'rotary'> = {
  matMul: { infer: inferMatMul, lower: lowerMatMul, gradient: matMulGradient },
  rotary: { infer: inferRotary, lower: lowerRotary, gradient: rotaryGradient },
};
