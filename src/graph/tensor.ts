/**
 * Symbolic tensors: nodes of a graph that has not run. A node is an op of the table (`ops.ts`), its inputs
 * and its attributes; building one checks shapes and dtypes at once. Nodes are numbered as they are made, so
 * the number is a topological order. Knows nothing of FUSION or of ONNX Runtime.
 */

import { formatShape, type Shape } from './dims.ts';
import { type DType, isFloat, type TypedArray } from './dtype.ts';
import type { OpAttributes, OpName } from './ops.ts';

export interface Tensor<N extends OpName = OpName> {
  readonly op: N;
  readonly attributes: OpAttributes[N];
  readonly inputs: readonly Tensor[];
  readonly shape: Shape;
  readonly dtype: DType;
  /** Creation order, unique in the process. */
  readonly id: number;
}

let created = 0;

/** Makes a node without checking it: `apply` in `ops.ts` is what builders call. */
export function makeNode<N extends OpName>(
  op: N,
  attributes: OpAttributes[N],
  inputs: readonly Tensor[],
  shape: Shape,
  dtype: DType,
): Tensor<N> {
  created += 1;
  return { op, attributes, inputs, shape, dtype, id: created };
}

/** A named hole that is filled when the program runs. */
export function input(name: string, dtype: DType, shape: Shape): Tensor<'input'> {
  return makeNode('input', { name }, [], shape, dtype);
}

/** A value known now. `values` is used as it is, row-major; its length must fit the shape. */
export function constant(values: TypedArray, dtype: DType, shape: readonly number[]): Tensor<'constant'> {
  const size = shape.reduce((product, dim) => product * dim, 1);
  if (values.length !== size) {
    throw new Error(`constant: ${values.length} values do not fill ${formatShape(shape)}`);
  }
  return makeNode('constant', { values }, [], shape, dtype);
}

/** A scalar of a float type (f32 unless told). */
export function scalar(value: number, dtype: DType = 'f32'): Tensor<'constant'> {
  if (dtype === 'f16') throw new Error('scalar: f16 scalars are cast from f32');
  const array =
    dtype === 'f64'
      ? Float64Array.of(value)
      : dtype === 'i64'
        ? BigInt64Array.of(BigInt(value))
        : isFloat(dtype)
          ? Float32Array.of(value)
          : dtype === 'i32'
            ? Int32Array.of(value)
            : Uint8Array.of(value);
  return constant(array, dtype, []);
}

/** `add f32 [B, S]`, for messages. */
export function describe(tensor: Tensor): string {
  return `${tensor.op} ${tensor.dtype} ${formatShape(tensor.shape)}`;
}

/** Every node the outputs depend on, inputs before users. */
export function topologicalOrder(outputs: readonly Tensor[]): readonly Tensor[] {
  const seen = new Set<Tensor>();
  const stack = [...outputs];
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    stack.push(...node.inputs);
  }
  return [...seen].sort((a, b) => a.id - b.id);
}
