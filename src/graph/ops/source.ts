/** Tensors that come from nowhere: inputs, constants, counters. */
import { DTYPES, type DType, isFloat, type TypedArray } from '../dtype.ts';
import type { Lowering } from '../lowering.ts';
import type { OpTable } from '../ops.ts';

/** One value as a typed array of a dtype. */
export function oneValue(value: number, dtype: DType): TypedArray {
  if (dtype === 'i64') return BigInt64Array.of(BigInt(value));
  if (dtype === 'f16') throw new Error('fill: f16 is cast from f32');
  return DTYPES[dtype].array.of(value);
}

/** The name of a scalar constant of a float type. */
export function floatConstant(context: Lowering, value: number, dtype: DType): string {
  if (dtype !== 'f16') return context.constant(oneValue(value, dtype), dtype, []);
  const wide = context.constant(Float32Array.of(value), 'f32', []);
  return context.emit('Cast', [wide], { attributes: { to: DTYPES.f16.onnx } });
}

export const sourceOps: Pick<OpTable, 'input' | 'constant' | 'iota' | 'dimValue' | 'fill'> = {
  input: {
    infer: () => {
      throw new Error('input: made by input(), which knows its shape');
    },
    lower: (_context, _inputs, node) => node.attributes.name,
    gradient: 'none',
  },
  constant: {
    infer: () => {
      throw new Error('constant: made by constant(), which knows its shape');
    },
    lower: (context, _inputs, node) =>
      context.constant(node.attributes.values, node.dtype, node.shape.map(Number)),
    gradient: 'none',
  },
  iota: {
    infer: (_inputs, { length }) => ({ shape: [length], dtype: 'i32' }),
    lower: (context, _inputs, node) => {
      const scalar = (value: number) => context.constant(BigInt64Array.of(BigInt(value)), 'i64', []);
      const squeezed = context.emit('Squeeze', [context.shapeVector([node.attributes.length])]);
      const range = context.emit('Range', [scalar(0), squeezed, scalar(1)]);
      return context.emit('Cast', [range], { attributes: { to: DTYPES.i32.onnx } });
    },
    gradient: 'none',
  },
  dimValue: {
    infer: (_inputs, { dtype }) => ({ shape: [], dtype }),
    lower: (context, _inputs, node) => {
      const squeezed = context.emit('Squeeze', [context.shapeVector([node.attributes.dim])]);
      return context.emit('Cast', [squeezed], { attributes: { to: DTYPES[node.dtype].onnx } });
    },
    gradient: 'none',
  },
  fill: {
    infer: (_inputs, { shape, dtype }) => ({ shape, dtype }),
    lower: (context, _inputs, node) => {
      const { value, dtype, shape } = node.attributes;
      const f32 = isFloat(dtype) && dtype === 'f16' ? 'f32' : dtype;
      const one = context.constant(oneValue(value, f32), f32, []);
      const filled = context.emit('Expand', [one, context.shapeVector(shape)]);
      return f32 === dtype
        ? filled
        : context.emit('Cast', [filled], { attributes: { to: DTYPES[dtype].onnx } });
    },
    gradient: 'none',
  },
};
