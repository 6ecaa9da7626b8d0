/**
 * The number formats of checkpoints, and conversions between them and float32, little-endian.
 *
 * Knows nothing of files or tensors: bytes in, numbers out.
 * Source: IEEE 754 binary16, bfloat16 as the upper half of binary32, and the dtype names of the safetensors format.
 */
import { InternalError, UserError } from './errors.ts';

/** Bytes of one element. */
export const DTYPE_BYTES = {
  F64: 8,
  I64: 8,
  F32: 4,
  I32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

export type Dtype = keyof typeof DTYPE_BYTES;

/** Whether `name` is a dtype this project reads and writes. */
export function isDtype(name: string): name is Dtype {
  return Object.hasOwn(DTYPE_BYTES, name);
}

/**
 * `bytes` of a floating dtype as float32; F32 is a view of `bytes` where its alignment allows, not a copy.
 * F64 is rounded to nearest. Throws `UserError` naming `what` for an integer dtype.
 */
export function toF32(dtype: Dtype, bytes: Uint8Array, what: string): Float32Array {
  const size = DTYPE_BYTES[dtype];
  if (bytes.byteLength % size !== 0) {
    throw new InternalError(`${what}: ${bytes.byteLength} bytes are no whole number of ${dtype} elements`);
  }
  const { buffer, byteOffset } = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  const count = bytes.byteLength / size;
  switch (dtype) {
    case 'F32':
      return new Float32Array(buffer, byteOffset, count);
    case 'F16':
      return f16ToF32(new Uint16Array(buffer, byteOffset, count));
    case 'BF16':
      return bf16ToF32(new Uint16Array(buffer, byteOffset, count));
    case 'F64':
      return new Float32Array(new Float64Array(buffer, byteOffset, count));
    default:
      throw new UserError(`${what}: expected a floating dtype (F32, F16, BF16 or F64), got ${dtype}`);
  }
}

/** float32 `values` as the bytes of `dtype`, rounded to nearest even; F32 is a view of `values`. */
export function fromF32(dtype: 'F32' | 'F16' | 'BF16', values: Float32Array): Uint8Array {
  const out = dtype === 'F32' ? values : dtype === 'F16' ? f32ToF16(values) : f32ToBf16(values);
  return new Uint8Array(out.buffer, out.byteOffset, out.byteLength);
}

/** bfloat16 bit patterns → float32, exactly (payloads of NaNs too). */
export function bf16ToF32(source: Uint16Array): Float32Array {
  const bits = new Uint32Array(source.length);
  for (let i = 0; i < source.length; i++) bits[i] = (source[i] ?? 0) << 16;
  return new Float32Array(bits.buffer);
}

/** float16 bit patterns → float32, exactly (payloads of NaNs too). */
export function f16ToF32(source: Uint16Array): Float32Array {
  halfTable ??= makeHalfTable();
  const bits = new Uint32Array(source.length);
  for (let i = 0; i < source.length; i++) bits[i] = halfTable[source[i] ?? 0] ?? 0;
  return new Float32Array(bits.buffer);
}

/** float32 → bfloat16 bit patterns, to nearest even; a NaN stays a NaN (made quiet). */
export function f32ToBf16(source: Float32Array): Uint16Array {
  const bits = bitsOf(source);
  const out = new Uint16Array(source.length);
  for (let i = 0; i < out.length; i++) {
    const x = bits[i] ?? 0;
    const isNan = (x & 0x7fffffff) > 0x7f800000;
    out[i] = isNan ? (x >>> 16) | 0x40 : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return out;
}

/** float32 → float16 bit patterns, to nearest even; from 65520 on ±infinity, a NaN stays a NaN (made quiet). */
export function f32ToF16(source: Float32Array): Uint16Array {
  const bits = bitsOf(source);
  const out = new Uint16Array(source.length);
  for (let i = 0; i < out.length; i++) out[i] = halfOf(bits[i] ?? 0);
  return out;
}

/** Float32 bits of every float16 pattern, made at first use (256 KiB). */
let halfTable: Uint32Array | undefined;

function makeHalfTable(): Uint32Array {
  const table = new Uint32Array(65536);
  const values = new Float32Array(table.buffer);
  for (let half = 0; half < 65536; half++) {
    const sign = (half & 0x8000) << 16;
    const exponent = (half >>> 10) & 31;
    const mantissa = half & 0x3ff;
    if (exponent === 31) table[half] = sign | 0x7f800000 | (mantissa << 13);
    else if (exponent > 0) table[half] = sign | ((exponent + 112) << 23) | (mantissa << 13);
    else values[half] = (sign === 0 ? mantissa : -mantissa) * 2 ** -24;
  }
  return table;
}

/** The float16 nearest to a float32, both as bits. 2 ** -14 is 0x38800000, 2 ** -25 is 0x33000000. */
function halfOf(x: number): number {
  const sign = (x >>> 16) & 0x8000;
  const magnitude = x & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
  }
  if (magnitude <= 0x33000000) return sign;
  const shift = 126 - (magnitude >>> 23);
  const mantissa = (magnitude & 0x7fffff) | 0x800000;
  const half = mantissa >>> shift;
  const rest = mantissa & ((1 << shift) - 1);
  const middle = 1 << (shift - 1);
  return sign | (half + (rest > middle || (rest === middle && (half & 1) === 1) ? 1 : 0));
}

function bitsOf(source: Float32Array): Uint32Array {
  return new Uint32Array(source.buffer, source.byteOffset, source.length);
}
