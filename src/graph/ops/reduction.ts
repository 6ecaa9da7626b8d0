/** Reductions. Sums of nothing are 0; the maximum of nothing is an error of the caller. */
import { type Dim, type Shape, sizeOf } from '../dims.ts';
import { argMax, broadcastTo, dimOf, divide, reshape, scatterElementsAdd } from '../functions.ts';
import type { Lowering } from '../lowering.ts';
import type { OpTable } from '../ops.ts';
import type { Tensor } from '../tensor.ts';
import { type Inferred, operand, requireFloat } from './rules.ts';
import { floatConstant } from './source.ts';

interface SumAttributes {
  readonly axes: readonly number[];
  readonly keepDims: boolean;
}

function reducedShape(shape: Shape, axes: readonly number[], keepDims: boolean): Shape {
  const kept: Dim[] = [];
  for (const [i, dim] of shape.entries()) {
    if (!axes.includes(i)) kept.push(dim);
    else if (keepDims) kept.push(1);
  }
  return kept;
}

function infer(op: string) {
  return (inputs: readonly Tensor[], { axes, keepDims }: SumAttributes): Inferred => {
    const x = operand(inputs, 0, op);
    requireFloat(x, op);
    return { shape: reducedShape(x.shape, axes, keepDims), dtype: x.dtype };
  };
}

function lower(operator: string) {
  return (context: Lowering, [x = '']: readonly string[], node: Tensor<'sum' | 'mean'>): string => {
    const { axes, keepDims } = node.attributes;
    const vector = context.constant(BigInt64Array.from(axes.map(BigInt)), 'i64', [axes.length]);
    return context.emit(operator, [x, vector], { attributes: { keepdims: Number(keepDims) } });
  };
}

/**
 * A sum over all axes but the last is, on the CPU, a product of a row of ones with the rows: its kernel reads them at
 * the memory's speed and on all threads.
 */
function lowerSum(context: Lowering, inputs: readonly string[], node: Tensor<'sum'>): string {
  const x = operand(node.inputs, 0, 'sum');
  const { axes } = node.attributes;
  const leading =
    x.shape.length > 1 && axes.length === x.shape.length - 1 && axes.every((axis, i) => axis === i);
  if (context.target !== 'cpu' || x.dtype !== 'f32' || !leading) {
    return lower('ReduceSum')(context, inputs, node);
  }
  const [rows, width] = [sizeOf(x.shape.slice(0, -1)), dimOf(x, -1)];
  const reshaped = (name: string, shape: Shape) =>
    context.emit('Reshape', [name, context.shapeVector(shape)], { attributes: { allowzero: 1 } });
  const ones = context.emit('Expand', [floatConstant(context, 1, x.dtype), context.shapeVector([1, rows])]);
  return reshaped(context.emit('MatMul', [ones, reshaped(inputs[0] ?? '', [rows, width])]), node.shape);
}

/** The gradient with its reduced axes back as ones, so that it broadcasts over the operand. */
function expanded(g: Tensor, x: Tensor, axes: readonly number[]): Tensor {
  return reshape(g, reducedShape(x.shape, axes, true));
}

function countOf(x: Tensor, axes: readonly number[]): number {
  return axes.reduce((product, axis) => {
    const dim = dimOf(x, axis);
    if (typeof dim !== 'number')
      throw new Error(`mean: axis ${axis} has the symbolic size ${dim}; sum and divide`);
    return product * dim;
  }, 1);
}

function inferAlongAxis(op: string, dtype?: 'i64') {
  return (inputs: readonly Tensor[], { axis, keepDims }: { axis: number; keepDims: boolean }): Inferred => {
    const x = operand(inputs, 0, op);
    requireFloat(x, op);
    return { shape: reducedShape(x.shape, [axis], keepDims), dtype: dtype ?? x.dtype };
  };
}

export const reductionOps: Pick<OpTable, 'sum' | 'mean' | 'max' | 'argMax'> = {
  sum: {
    infer: infer('sum'),
    lower: lowerSum,
    gradient: (g, y) => {
      const x = operand(y.inputs, 0, 'sum');
      return [broadcastTo(expanded(g, x, y.attributes.axes), x.shape)];
    },
  },
  mean: {
    infer: infer('mean'),
    lower: lower('ReduceMean'),
    gradient: (g, y) => {
      const x = operand(y.inputs, 0, 'mean');
      const { axes } = y.attributes;
      return [broadcastTo(divide(expanded(g, x, axes), countOf(x, axes)), x.shape)];
    },
  },
  max: {
    infer: inferAlongAxis('max'),
    lower: (context, [x = ''], node) => {
      const { axis, keepDims } = node.attributes;
      const vector = context.constant(BigInt64Array.of(BigInt(axis)), 'i64', [1]);
      return context.emit('ReduceMax', [x, vector], { attributes: { keepdims: Number(keepDims) } });
    },
    gradient: (g, y) => {
      const x = operand(y.inputs, 0, 'max');
      const { axis } = y.attributes;
      const first = argMax(x, axis, { keepDims: true });
      return [scatterElementsAdd(reshape(g, first.shape), first, axis, dimOf(x, axis))];
    },
  },
  argMax: {
    infer: inferAlongAxis('argMax', 'i64'),
    lower: (context, inputs, node) => {
      const { axis, keepDims } = node.attributes;
      return context.emit('ArgMax', inputs, { attributes: { axis, keepdims: Number(keepDims) } });
    },
    gradient: 'none',
  },
};
