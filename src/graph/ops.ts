/**
 * The op table: for each op its shape and dtype rule, its ONNX lowering and its gradient, in one row. The
 * table is a mapped type: a missing cell does not compile. Rows live in `ops/` by kind; composites that need
 * no row of their own are in `functions.ts` and `nn.ts`.
 *
 * A gradient rule receives the gradient of the node's value and returns one for each input (`undefined`:
 * none). It may return a gradient that is still broadcast: `gradient.ts` sums it back in one place.
 */

import type { Dim, Shape } from './dims.ts';
import type { DType, TypedArray } from './dtype.ts';
import type { Lowering } from './lowering.ts';
import { elementwiseOps } from './ops/elementwise.ts';
import { indexingOps } from './ops/indexing.ts';
import { matMulOps } from './ops/matMul.ts';
import { movementOps } from './ops/movement.ts';
import { normalizationOps } from './ops/normalization.ts';
import { quantisedOps } from './ops/quantised.ts';
import { reductionOps } from './ops/reduction.ts';
import { sourceOps } from './ops/source.ts';
import { makeNode, type Tensor } from './tensor.ts';

type None = Readonly<Record<never, never>>;

/** Each op and its attributes. */
export interface OpAttributes {
  // Sources
  input: { readonly name: string };
  constant: { readonly values: TypedArray };
  iota: { readonly length: Dim };
  dimValue: { readonly dim: Dim; readonly dtype: DType };
  fill: { readonly value: number; readonly shape: Shape; readonly dtype: DType };
  // Elementwise, with NumPy's broadcasting
  add: None;
  subtract: None;
  multiply: None;
  divide: None;
  maximum: None;
  equal: None;
  less: None;
  where: None;
  negate: None;
  exp: None;
  log: None;
  sqrt: None;
  tanh: None;
  sigmoid: None;
  erf: None;
  silu: None;
  gelu: { readonly approximate: 'none' | 'tanh' };
  cast: { readonly dtype: DType };
  stopGradient: None;
  after: None;
  withGradient: { readonly rule: GradientRule };
  // Products
  matMul: { readonly transposeA: boolean; readonly transposeB: boolean; readonly scale: number };
  matMulNBits: { readonly bits: 4 | 8; readonly activations: 'f32' | 'int8' };
  rotary: None;
  // Reductions
  sum: { readonly axes: readonly number[]; readonly keepDims: boolean };
  mean: { readonly axes: readonly number[]; readonly keepDims: boolean };
  max: { readonly axis: number; readonly keepDims: boolean };
  argMax: { readonly axis: number; readonly keepDims: boolean };
  // Normalisation
  softmax: None;
  logSoftmax: None;
  layerNorm: { readonly epsilon: number };
  rmsNorm: { readonly epsilon: number };
  extraOutput: { readonly index: number };
  // Movement
  reshape: { readonly shape: Shape };
  transpose: { readonly permutation: readonly number[] };
  broadcastTo: { readonly shape: Shape };
  concat: { readonly axis: number };
  slice: { readonly axis: number; readonly start: Dim; readonly length: Dim };
  pad: { readonly axis: number; readonly before: Dim; readonly after: Dim };
  // Indexing
  gather: { readonly axis: number };
  scatterAdd: { readonly rows: Dim };
  scatterRows: None;
  gatherElements: { readonly axis: number };
  scatterElementsAdd: { readonly axis: number; readonly length: Dim };
}

export type OpName = keyof OpAttributes;

/** From a value's gradient to those of the tensors it came from. */
export type GradientRule = (gradient: Tensor, node: Tensor) => readonly (Tensor | undefined)[];

export interface OpRow<N extends OpName> {
  /** Shape and dtype of the result; throws with the operands' shapes when they do not fit. */
  infer(
    inputs: readonly Tensor[],
    attributes: OpAttributes[N],
  ): { readonly shape: Shape; readonly dtype: DType };
  /** Emits ONNX nodes; returns the name that holds the result. */
  lower(context: Lowering, inputs: readonly string[], node: Tensor<N>): string;
  /** `'none'`: no gradient flows through (comparisons, indices). */
  gradient: ((gradient: Tensor, node: Tensor<N>) => readonly (Tensor | undefined)[]) | 'none';
}

export type OpTable = { readonly [N in OpName]: OpRow<N> };

export const OPS: OpTable = {
  ...sourceOps,
  ...elementwiseOps,
  ...matMulOps,
  ...quantisedOps,
  ...reductionOps,
  ...normalizationOps,
  ...movementOps,
  ...indexingOps,
};

/** Adds a node to the graph, with its shape and dtype inferred by the op's row. */
export function apply<N extends OpName>(
  op: N,
  inputs: readonly Tensor[],
  attributes: OpAttributes[N],
): Tensor<N> {
  const row: OpRow<N> = OPS[op];
  const { shape, dtype } = row.infer(inputs, attributes);
  return makeNode(op, attributes, inputs, shape, dtype);
}
