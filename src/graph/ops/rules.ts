/** Shape and dtype rules that several rows of the op table share. */
import { broadcastShapes, formatShape, type Shape } from '../dims.ts';
import { type DType, isFloat } from '../dtype.ts';
import { describe, type Tensor } from '../tensor.ts';

export interface Inferred {
  readonly shape: Shape;
  readonly dtype: DType;
}

/** Input `i` of a node; its absence is a bug of the caller. */
export function operand(inputs: readonly Tensor[], i: number, op: string): Tensor {
  const tensor = inputs[i];
  if (tensor === undefined) throw new Error(`${op}: operand ${i} is missing`);
  return tensor;
}

export function requireFloat(x: Tensor, op: string): void {
  if (!isFloat(x.dtype)) throw new Error(`${op}: expected a float tensor, got ${describe(x)}`);
}

export function requireInteger(x: Tensor, op: string): void {
  if (x.dtype !== 'i32' && x.dtype !== 'i64')
    throw new Error(`${op}: expected integer indices, got ${describe(x)}`);
}

export function requireSameType(a: Tensor, b: Tensor, op: string): void {
  if (a.dtype !== b.dtype) throw new Error(`${op}: dtypes differ: ${describe(a)} and ${describe(b)}`);
}

/** One float operand; the result is like it. */
export function likeOperand(op: string) {
  return (inputs: readonly Tensor[]): Inferred => {
    const x = operand(inputs, 0, op);
    requireFloat(x, op);
    return { shape: x.shape, dtype: x.dtype };
  };
}

/** Two operands of one dtype, broadcast; `dtype` overrides the result's. */
export function broadcastOperands(op: string, dtype?: DType) {
  return (inputs: readonly Tensor[]): Inferred => {
    const a = operand(inputs, 0, op);
    const b = operand(inputs, 1, op);
    requireSameType(a, b, op);
    return { shape: broadcastShapes(a.shape, b.shape, op), dtype: dtype ?? a.dtype };
  };
}

/** The last dimension of a tensor of rank 1 or more. */
export function lastDim(x: Tensor, op: string) {
  const dim = x.shape.at(-1);
  if (dim === undefined) throw new Error(`${op}: expected rank 1 or more, got ${describe(x)}`);
  return dim;
}

/** A vector as long as the last axis of `x`. */
export function requireVector(vector: Tensor, x: Tensor, op: string): void {
  const last = lastDim(x, op);
  if (vector.shape.length !== 1 || vector.shape[0] !== last) {
    throw new Error(
      `${op}: expected a vector ${formatShape([last])} for ${describe(x)}, got ${describe(vector)}`,
    );
  }
  requireSameType(vector, x, op);
}
