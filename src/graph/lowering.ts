/**
 * What an op's lowering may ask of the ONNX writer. The writer itself is in `src/onnx`; ops only emit nodes
 * through this interface, so the op table knows ONNX operators but no protobuf.
 */

import type { Shape } from './dims.ts';
import type { DType, TypedArray } from './dtype.ts';
import type { Tensor } from './tensor.ts';

/**
 * Where the program will run: `cpu` may use ONNX Runtime's own operators (domain `com.microsoft`) with CPU
 * kernels, `webgpu` those with WebGPU kernels, `plain` only the ONNX standard, `portable` that and ONNX Runtime's product
 * with few bits, which the standard does not have.
 */
export type Target = 'cpu' | 'webgpu' | 'plain' | 'portable';

export type AttributeValue = number | string | readonly number[] | { readonly float: number };

export interface EmitOptions {
  readonly domain?: string;
  readonly attributes?: Readonly<Record<string, AttributeValue>>;
  /** Number of outputs, or which of them are wanted; one unless told. */
  readonly outputs?: readonly boolean[];
}

export interface Lowering {
  readonly target: Target;
  /** Adds an ONNX node; returns its first output's name. An empty input name is an omitted input. */
  emit(operator: string, inputs: readonly string[], options?: EmitOptions): string;
  /** Like `emit`, returning every output's name ('' where not wanted). */
  emitAll(operator: string, inputs: readonly string[], options: EmitOptions): readonly string[];
  /** A constant's name; equal constants share one initializer. */
  constant(values: TypedArray, dtype: DType, shape: readonly number[]): string;
  /** An i64 vector holding the shape: a constant, or computed from the letters of the program's inputs. */
  shapeVector(shape: Shape): string;
  /** The name that holds a tensor already lowered. */
  nameOf(tensor: Tensor): string;
  /** Whether someone reads the extra output `index` of a node (see the op `extraOutput`). */
  wantsExtra(tensor: Tensor, index: number): boolean;
  /** Says which name holds the extra output `index` of a node. */
  setExtra(tensor: Tensor, index: number, name: string): void;
  getExtra(tensor: Tensor, index: number): string;
}
