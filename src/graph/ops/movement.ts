/** Ops that move elements without changing them. */
import { addDims, broadcastShapes, type Dim, formatShape, type Shape, sameShape, sizeOf } from '../dims.ts';
import { concat, dimOf, reshape, slice, transpose } from '../functions.ts';
import { apply, type OpTable } from '../ops.ts';
import { describe, type Tensor } from '../tensor.ts';
import { operand, requireSameType } from './rules.ts';

function withDim(shape: Shape, axis: number, dim: Dim): Shape {
  return shape.map((old, i) => (i === axis ? dim : old));
}

/** `total − parts`, where the parts are known to be contained in it. */
function remainder(total: Dim, start: Dim, length: Dim): Dim {
  const used = addDims(start, length);
  if (used === total) return 0;
  if (typeof total === 'number' && typeof used === 'number') return total - used;
  const left = addDims(total, addDims(0, negativeOf(used)));
  return left;
}

/** `−dim`, as a dimension expression with negative coefficients. */
function negativeOf(dim: Dim): Dim {
  if (typeof dim === 'number') return -dim;
  return dim
    .split('+')
    .map((term) => (/^\d+$/.test(term) ? `${-Number(term)}` : `-1*${term}`))
    .join('+');
}

function inferConcat(inputs: readonly Tensor[], axis: number) {
  const first = operand(inputs, 0, 'concat');
  let total: Dim = 0;
  for (const x of inputs) {
    requireSameType(first, x, 'concat');
    if (!sameShape(withDim(x.shape, axis, 0), withDim(first.shape, axis, 0))) {
      throw new Error(`concat on axis ${axis}: ${describe(x)} does not fit ${describe(first)}`);
    }
    total = addDims(total, dimOf(x, axis));
  }
  return { shape: withDim(first.shape, axis, total), dtype: first.dtype };
}

export const movementOps: Pick<
  OpTable,
  'reshape' | 'transpose' | 'broadcastTo' | 'concat' | 'slice' | 'pad'
> = {
  reshape: {
    infer: (inputs, { shape }) => {
      const x = operand(inputs, 0, 'reshape');
      if (sizeOf(shape) !== sizeOf(x.shape)) {
        throw new Error(`reshape: ${formatShape(x.shape)} does not fit ${formatShape(shape)}`);
      }
      return { shape, dtype: x.dtype };
    },
    lower: (context, [x = ''], node) =>
      context.emit('Reshape', [x, context.shapeVector(node.attributes.shape)], {
        attributes: { allowzero: 1 },
      }),
    gradient: (g, y) => [reshape(g, operand(y.inputs, 0, 'reshape').shape)],
  },
  transpose: {
    infer: (inputs, { permutation }) => {
      const x = operand(inputs, 0, 'transpose');
      const sorted = [...permutation].sort((a, b) => a - b);
      if (sorted.length !== x.shape.length || sorted.some((axis, i) => axis !== i)) {
        throw new Error(
          `transpose: ${formatShape(permutation)} is no permutation of the axes of ${describe(x)}`,
        );
      }
      return { shape: permutation.map((axis) => dimOf(x, axis)), dtype: x.dtype };
    },
    lower: (context, inputs, node) =>
      context.emit('Transpose', inputs, { attributes: { perm: node.attributes.permutation } }),
    gradient: (g, y) => {
      const inverse: number[] = [];
      for (const [to, from] of y.attributes.permutation.entries()) inverse[from] = to;
      return [transpose(g, inverse)];
    },
  },
  broadcastTo: {
    infer: (inputs, { shape }) => {
      const x = operand(inputs, 0, 'broadcastTo');
      if (!sameShape(broadcastShapes(x.shape, shape, 'broadcastTo'), shape)) {
        throw new Error(`broadcastTo: ${describe(x)} does not broadcast to ${formatShape(shape)}`);
      }
      return { shape, dtype: x.dtype };
    },
    lower: (context, [x = ''], node) =>
      context.emit('Expand', [x, context.shapeVector(node.attributes.shape)]),
    gradient: (g) => [g],
  },
  concat: {
    infer: (inputs, { axis }) => inferConcat(inputs, axis),
    lower: (context, inputs, node) =>
      context.emit('Concat', inputs, { attributes: { axis: node.attributes.axis } }),
    gradient: (g, y) => {
      const { axis } = y.attributes;
      let start: Dim = 0;
      return y.inputs.map((x) => {
        const piece = slice(g, axis, start, dimOf(x, axis));
        start = addDims(start, dimOf(x, axis));
        return piece;
      });
    },
  },
  slice: {
    infer: (inputs, { axis, start, length }) => {
      const x = operand(inputs, 0, 'slice');
      const [total, end] = [dimOf(x, axis), addDims(start, length)];
      if (typeof total === 'number' && typeof end === 'number' && end > total) {
        throw new Error(`slice: ${start}…${end} is outside axis ${axis} of ${describe(x)}`);
      }
      return { shape: withDim(x.shape, axis, length), dtype: x.dtype };
    },
    lower: (context, [x = ''], node) => {
      const { axis, start, length } = node.attributes;
      const axes = context.constant(BigInt64Array.of(BigInt(axis)), 'i64', [1]);
      return context.emit('Slice', [
        x,
        context.shapeVector([start]),
        context.shapeVector([addDims(start, length)]),
        axes,
      ]);
    },
    gradient: (g, y) => {
      const { axis, start, length } = y.attributes;
      const total = dimOf(operand(y.inputs, 0, 'slice'), axis);
      return [apply('pad', [g], { axis, before: start, after: remainder(total, start, length) })];
    },
  },
  pad: {
    infer: (inputs, { axis, before, after }) => {
      const x = operand(inputs, 0, 'pad');
      return {
        shape: withDim(x.shape, axis, addDims(addDims(before, dimOf(x, axis)), after)),
        dtype: x.dtype,
      };
    },
    lower: (context, [x = ''], node) => {
      const { axis, before, after } = node.attributes;
      const zeros = node.shape.map((): Dim => 0);
      const amounts = [...withDim(zeros, axis, before), ...withDim(zeros, axis, after)];
      return context.emit('Pad', [x, context.shapeVector(amounts)]);
    },
    gradient: (g, y) => {
      const { axis, before } = y.attributes;
      return [slice(g, axis, before, dimOf(operand(y.inputs, 0, 'pad'), axis))];
    },
  },
};

/**
 * The sum of paddings that cover disjoint stretches of one axis without a gap, as a concatenation;
 * `undefined` when they do not. This is what the gradients of a `split` add up to.
 */
export function joinPads(tensors: readonly Tensor[]): Tensor | undefined {
  const pads = tensors.filter((x): x is Tensor<'pad'> => x.op === 'pad');
  const axis = pads[0]?.attributes.axis;
  if (axis === undefined || pads.length !== tensors.length) return undefined;
  if (pads.some((x) => x.attributes.axis !== axis)) return undefined;
  const pieces: Tensor[] = [];
  const left = [...pads];
  let end: Dim = 0;
  while (left.length > 0) {
    const at = left.findIndex((x) => x.attributes.before === end);
    const [next] = at < 0 ? [] : left.splice(at, 1);
    if (next === undefined) return undefined;
    const piece = operand(next.inputs, 0, 'pad');
    pieces.push(piece);
    end = addDims(end, dimOf(piece, axis));
  }
  return end === dimOf(operand(pads, 0, 'pad'), axis) ? concat(pieces, axis) : undefined;
}
