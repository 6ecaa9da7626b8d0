/** Ops that pick or place elements by integer indices. Indices are never negative. */
import type { Shape } from '../dims.ts';
import { DTYPES } from '../dtype.ts';
import {
  dimOf,
  fill,
  gather,
  gatherElements,
  reshape,
  scatterAdd,
  scatterElementsAdd,
  scatterRows,
  transpose,
} from '../functions.ts';
import type { Lowering } from '../lowering.ts';
import type { OpTable } from '../ops.ts';
import { describe, type Tensor } from '../tensor.ts';
import { operand, requireInteger, requireSameType } from './rules.ts';

/** Row numbers [N] as the i64 [N, 1] that ScatterND wants. */
function rowIndices(context: Lowering, name: string): string {
  const axis = context.constant(BigInt64Array.of(1n), 'i64', [1]);
  const wide = context.emit('Cast', [name], { attributes: { to: DTYPES.i64.onnx } });
  return context.emit('Unsqueeze', [wide, axis]);
}

/** Zeros of a shape, to be scattered into. */
function zeros(context: Lowering, shape: Shape, node: Tensor): string {
  const zero = context.constant(new DTYPES[node.dtype].array(1), node.dtype, []);
  return context.emit('Expand', [zero, context.shapeVector(shape)]);
}

/** Gathering along `axis` is undone by bringing that axis to the front, adding rows, and turning it back. */
function gatherGradient(g: Tensor, node: Tensor<'gather'>): readonly (Tensor | undefined)[] {
  const x = operand(node.inputs, 0, 'gather');
  const indices = operand(node.inputs, 1, 'gather');
  const { axis } = node.attributes;
  const before = x.shape.slice(0, axis);
  const after = x.shape.slice(axis + 1);
  const flat = reshape(g, [...before, ...reshape(indices, [-1]).shape, ...after]);
  const rest = x.shape.map((_, i) => i).filter((i) => i !== axis);
  const toFront = transpose(flat, [axis, ...rest]);
  const added = scatterAdd(toFront, reshape(indices, [-1]), dimOf(x, axis));
  const back = x.shape.map((_, i) => (i < axis ? i + 1 : i === axis ? 0 : i));
  return [transpose(added, back), undefined];
}

export const indexingOps: Pick<
  OpTable,
  'gather' | 'scatterAdd' | 'scatterRows' | 'gatherElements' | 'scatterElementsAdd'
> = {
  gather: {
    infer: (inputs, { axis }) => {
      const x = operand(inputs, 0, 'gather');
      const indices = operand(inputs, 1, 'gather');
      requireInteger(indices, 'gather');
      return {
        shape: [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)],
        dtype: x.dtype,
      };
    },
    lower: (context, inputs, node) =>
      context.emit('Gather', inputs, { attributes: { axis: node.attributes.axis } }),
    gradient: gatherGradient,
  },
  scatterAdd: {
    infer: (inputs, { rows }) => {
      const updates = operand(inputs, 0, 'scatterAdd');
      const indices = operand(inputs, 1, 'scatterAdd');
      requireInteger(indices, 'scatterAdd');
      if (indices.shape.length !== 1 || indices.shape[0] !== updates.shape[0]) {
        throw new Error(
          `scatterAdd: expected one index for each row of ${describe(updates)}, got ${describe(indices)}`,
        );
      }
      return { shape: [rows, ...updates.shape.slice(1)], dtype: updates.dtype };
    },
    lower: (context, [updates = '', indices = ''], node) =>
      context.emit('ScatterND', [zeros(context, node.shape, node), rowIndices(context, indices), updates], {
        attributes: { reduction: 'add' },
      }),
    gradient: (g, y) => [gather(g, operand(y.inputs, 1, 'scatterAdd')), undefined],
  },
  scatterRows: {
    infer: (inputs) => {
      const x = operand(inputs, 0, 'scatterRows');
      const indices = operand(inputs, 1, 'scatterRows');
      const updates = operand(inputs, 2, 'scatterRows');
      requireInteger(indices, 'scatterRows');
      requireSameType(x, updates, 'scatterRows');
      const rest = (tensor: Tensor) => tensor.shape.slice(1).join();
      if (indices.shape.length !== 1 || indices.shape[0] !== updates.shape[0] || rest(x) !== rest(updates)) {
        throw new Error(
          `scatterRows: ${describe(updates)} at ${describe(indices)} does not fit the rows of ${describe(x)}`,
        );
      }
      return { shape: x.shape, dtype: x.dtype };
    },
    lower: (context, [x = '', indices = '', updates = '']) =>
      context.emit('ScatterND', [x, rowIndices(context, indices), updates]),
    gradient: (g, y) => {
      const indices = operand(y.inputs, 1, 'scatterRows');
      const updates = operand(y.inputs, 2, 'scatterRows');
      return [scatterRows(g, indices, fill(0, updates.shape, g.dtype)), undefined, gather(g, indices)];
    },
  },
  gatherElements: {
    infer: (inputs, { axis }) => {
      const x = operand(inputs, 0, 'gatherElements');
      const indices = operand(inputs, 1, 'gatherElements');
      requireInteger(indices, 'gatherElements');
      if (indices.shape.length !== x.shape.length) {
        throw new Error(`gatherElements: ${describe(indices)} must have the rank of ${describe(x)}`);
      }
      if (indices.shape.some((dim, i) => i !== axis && dim !== x.shape[i])) {
        throw new Error(
          `gatherElements: ${describe(indices)} must agree with ${describe(x)} except on axis ${axis}`,
        );
      }
      return { shape: indices.shape, dtype: x.dtype };
    },
    lower: (context, inputs, node) =>
      context.emit('GatherElements', inputs, { attributes: { axis: node.attributes.axis } }),
    gradient: (g, y) => {
      const x = operand(y.inputs, 0, 'gatherElements');
      const indices = operand(y.inputs, 1, 'gatherElements');
      const { axis } = y.attributes;
      return [scatterElementsAdd(g, indices, axis, dimOf(x, axis)), undefined];
    },
  },
  scatterElementsAdd: {
    infer: (inputs, { axis, length }) => {
      const updates = operand(inputs, 0, 'scatterElementsAdd');
      const indices = operand(inputs, 1, 'scatterElementsAdd');
      requireInteger(indices, 'scatterElementsAdd');
      if (indices.shape.join() !== updates.shape.join()) {
        throw new Error(
          `scatterElementsAdd: ${describe(indices)} must have the shape of ${describe(updates)}`,
        );
      }
      return { shape: updates.shape.map((dim, i) => (i === axis ? length : dim)), dtype: updates.dtype };
    },
    lower: (context, [updates = '', indices = ''], node) =>
      context.emit('ScatterElements', [zeros(context, node.shape, node), indices, updates], {
        attributes: { axis: node.attributes.axis, reduction: 'add' },
      }),
    gradient: (g, y) => {
      const indices = operand(y.inputs, 1, 'scatterElementsAdd');
      return [gatherElements(g, indices, y.attributes.axis), undefined];
    },
  },
};
