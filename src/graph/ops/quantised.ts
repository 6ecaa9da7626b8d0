/**
 * The product with a matrix of few bits: whole numbers in blocks of 32 along the input axis, one scale a block.
 * Source: ONNX Runtime's `com.microsoft.MatMulNBits`.
 */
import { dimOf } from '../functions.ts';
import type { Lowering } from '../lowering.ts';
import { BLOCK, codesShape } from '../nBits.ts';
import type { OpTable } from '../ops.ts';
import { describe, type Tensor } from '../tensor.ts';
import { type Inferred, operand } from './rules.ts';
import { floatConstant } from './source.ts';

type MatMulNBits = Tensor<'matMulNBits'>;

/** The level of MatMulNBits that rounds the activations to 8 bits, block by block. */
const INT8_ACTIVATIONS = 4;

function infer(inputs: readonly Tensor[], { bits }: MatMulNBits['attributes']): Inferred {
  const [x, codes, scales] = [0, 1, 2].map((i) => operand(inputs, i, 'matMulNBits')) as [
    Tensor,
    Tensor,
    Tensor,
  ];
  const [out, width] = [Number(codes.shape[0]), Number(dimOf(x, -1))];
  const expected = codesShape(out, width, bits);
  const fits =
    x.dtype === 'f32' &&
    codes.dtype === 'u8' &&
    scales.dtype === 'f32' &&
    codes.shape.join() === expected.join() &&
    scales.shape.join() === expected.slice(0, 2).join();
  if (!fits) {
    throw new Error(
      `matMulNBits: ${describe(codes)} and ${describe(scales)} are no ${bits}-bit matrix for ${describe(x)}`,
    );
  }
  return { shape: [...x.shape.slice(0, -1), out], dtype: 'f32' };
}

function lower(context: Lowering, names: readonly string[], node: MatMulNBits): string {
  const [x = '', codes = '', scales = ''] = names;
  const { bits, activations } = node.attributes;
  const [width, out] = [Number(dimOf(operand(node.inputs, 0, 'matMulNBits'), -1)), Number(dimOf(node, -1))];
  if (context.target === 'plain')
    return context.emit('MatMul', [x, widened(context, codes, scales, width, node)]);
  const level = activations === 'int8' ? { accuracy_level: INT8_ACTIVATIONS } : {};
  return context.emit('MatMulNBits', [x, codes, scales], {
    domain: 'com.microsoft',
    attributes: { K: width, N: out, bits, block_size: BLOCK, ...level },
  });
}

/** The matrix in f32, [width, out], by standard operators. */
function widened(context: Lowering, codes: string, scales: string, width: number, node: MatMulNBits): string {
  const { bits } = node.attributes;
  const [out, blocks] = operand(node.inputs, 1, 'matMulNBits').shape.map(Number) as [number, number];
  const vector = (...values: number[]) =>
    context.constant(BigInt64Array.from(values, BigInt), 'i64', [values.length]);
  const reshaped = (name: string, ...shape: number[]) => context.emit('Reshape', [name, vector(...shape)]);
  let numbers = codes;
  if (bits === 4) {
    const nibble = (value: number) => context.constant(Uint8Array.of(value), 'u8', []);
    const low = context.emit('BitwiseAnd', [codes, nibble(15)]);
    const high = context.emit('BitShift', [codes, nibble(4)], { attributes: { direction: 'RIGHT' } });
    const halves = [low, high].map((half) => reshaped(half, out, blocks, BLOCK / 2, 1));
    numbers = reshaped(context.emit('Concat', halves, { attributes: { axis: 3 } }), out, blocks, BLOCK);
  }
  const floats = context.emit('Cast', [numbers], { attributes: { to: 1 } });
  const centred = context.emit('Sub', [floats, floatConstant(context, 2 ** (bits - 1), 'f32')]);
  const scaled = context.emit('Mul', [centred, reshaped(scales, out, blocks, 1)]);
  const rows = reshaped(scaled, out, blocks * BLOCK);
  const cut = context.emit('Slice', [rows, vector(0), vector(width), vector(1)]);
  return context.emit('Transpose', [cut], { attributes: { perm: [1, 0] } });
}

export const quantisedOps: Pick<OpTable, 'matMulNBits'> = {
  // Rounded weights are for running only: what is trained is what they were made of.
  matMulNBits: { infer, lower, gradient: 'none' },
};
