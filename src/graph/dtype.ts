/** Element types of tensors: their size, their ONNX number and the typed array that carries them. */

interface DTypeRow {
  readonly bytes: number;
  /** `TensorProto.DataType` of ONNX. */
  readonly onnx: number;
  readonly array:
    | Float32ArrayConstructor
    | Float64ArrayConstructor
    | Uint16ArrayConstructor
    | Int32ArrayConstructor
    | BigInt64ArrayConstructor
    | Uint8ArrayConstructor
    | Int8ArrayConstructor;
}

/** `f16` is carried as its bits in a `Uint16Array`: Node 20 has no `Float16Array`. */
export const DTYPES = {
  f32: { bytes: 4, onnx: 1, array: Float32Array },
  f64: { bytes: 8, onnx: 11, array: Float64Array },
  f16: { bytes: 2, onnx: 10, array: Uint16Array },
  i32: { bytes: 4, onnx: 6, array: Int32Array },
  i64: { bytes: 8, onnx: 7, array: BigInt64Array },
  i8: { bytes: 1, onnx: 3, array: Int8Array },
  u8: { bytes: 1, onnx: 2, array: Uint8Array },
  bool: { bytes: 1, onnx: 9, array: Uint8Array },
} as const satisfies Record<string, DTypeRow>;

export type DType = keyof typeof DTYPES;
export type FloatType = 'f32' | 'f64' | 'f16';

export type TypedArray =
  | Float32Array
  | Float64Array
  | Uint16Array
  | Int32Array
  | BigInt64Array
  | Int8Array
  | Uint8Array;

export function isFloat(dtype: DType): dtype is FloatType {
  return dtype === 'f32' || dtype === 'f64' || dtype === 'f16';
}
