/**
 * The bytes of one tensor to be written: copied from a checkpoint in another dtype, or made by a function, a piece
 * at a time, so that no more than the tensor itself is in memory.
 *
 * Knows nothing of names or of what the numbers are for.
 */
import { UserError } from '../common/errors.ts';
import { DTYPE_BYTES, type Dtype, fromF32, toF32 } from '../common/numberFormats.ts';
import type { CheckpointTensor } from './folder.ts';
import { readRange } from './safetensors.ts';

/** The dtypes weights are written in. */
export type WeightDtype = 'F32' | 'F16' | 'BF16';

/** Elements converted at a time; even, as `Random.fillNormal` draws in pairs. */
const PIECE = 2 ** 20;
const TORCH_NAMES: Readonly<Record<WeightDtype, string>> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
};

/** The value of `torch_dtype` in config.json. */
export function torchDtype(dtype: WeightDtype): string {
  return TORCH_NAMES[dtype];
}

/** `dtype` where it is one weights are written in. Throws `UserError` naming `what` otherwise. */
export function asWeightDtype(dtype: Dtype, what: string): WeightDtype {
  if (Object.hasOwn(TORCH_NAMES, dtype)) return dtype as WeightDtype;
  throw new UserError(`${what}: expected dtype F32, F16 or BF16, got ${dtype}`);
}

/** The elements of `tensor` in `dtype`, little-endian, piece after piece. Throws as `copyTensor`. */
export async function* tensorPieces(
  tensor: CheckpointTensor,
  dtype: WeightDtype,
): AsyncGenerator<Uint8Array, void, undefined> {
  const size = DTYPE_BYTES[tensor.dtype];
  const count = elementsOf(tensor.shape);
  for (let at = 0; at < count; at += PIECE) {
    const raw = await readRange(tensor.file, tensor.begin + at * size, Math.min(PIECE, count - at) * size);
    yield tensor.dtype === dtype ? raw : fromF32(dtype, toF32(tensor.dtype, raw, tensor.file));
  }
}

/** The elements of `tensor` in `dtype`, little-endian. Throws `UserError` for an integer tensor. */
export async function copyTensor(tensor: CheckpointTensor, dtype: WeightDtype): Promise<Uint8Array> {
  const out = new Uint8Array(elementsOf(tensor.shape) * DTYPE_BYTES[dtype]);
  await eachPiece(tensor, PIECE, dtype, (bytes, at) => out.set(bytes, at));
  return out;
}

/**
 * The table `tensor` [R, D] in `dtype` with `rows` ≥ R rows; the rows `newRows` are the mean of the first
 * `meanOf` rows. Throws `UserError` for an integer tensor.
 */
export async function growTable(
  tensor: CheckpointTensor,
  dtype: WeightDtype,
  {
    rows,
    newRows,
    meanOf,
  }: { readonly rows: number; readonly newRows: readonly number[]; readonly meanOf: number },
): Promise<Uint8Array> {
  const width = tensor.shape[1] ?? 0;
  const rowBytes = width * DTYPE_BYTES[dtype];
  const out = new Uint8Array(rows * rowBytes);
  const sums = new Float64Array(width);
  let row = 0;
  await eachPiece(tensor, Math.max(1, Math.floor(PIECE / width)) * width, dtype, (bytes, at, values) => {
    out.set(bytes, at);
    for (let from = 0; from < values.length && row < meanOf; from += width, row++) {
      for (let i = 0; i < width; i++) sums[i] = (sums[i] ?? 0) + (values[from + i] ?? 0);
    }
  });
  const mean = fromF32(
    dtype,
    Float32Array.from(sums, (total) => total / Math.max(1, row)),
  );
  for (const index of newRows) out.set(mean, index * rowBytes);
  return out;
}

/** Calls `use` with each piece's bytes in `dtype`, their place in the whole, and the values as float32. */
async function eachPiece(
  tensor: CheckpointTensor,
  piece: number,
  dtype: WeightDtype,
  use: (bytes: Uint8Array, at: number, values: Float32Array) => void,
): Promise<void> {
  const from = DTYPE_BYTES[tensor.dtype];
  const count = elementsOf(tensor.shape);
  for (let at = 0; at < count; at += piece) {
    const size = Math.min(piece, count - at);
    const raw = await readRange(tensor.file, tensor.begin + at * from, size * from);
    const values = toF32(tensor.dtype, raw, tensor.file);
    use(tensor.dtype === dtype ? raw : fromF32(dtype, values), at * DTYPE_BYTES[dtype], values);
  }
}

/** `count` elements of `dtype` that `fill` makes, piece after piece, each of even size but the last. */
export function generateTensor(
  count: number,
  dtype: WeightDtype,
  fill: (piece: Float32Array, offset: number) => void,
): Uint8Array {
  const out = new Uint8Array(count * DTYPE_BYTES[dtype]);
  const scratch = new Float32Array(Math.min(PIECE, count));
  for (let at = 0; at < count; at += PIECE) {
    const piece = scratch.subarray(0, Math.min(PIECE, count - at));
    fill(piece, at);
    out.set(fromF32(dtype, piece), at * DTYPE_BYTES[dtype]);
  }
  return out;
}

/** The number of elements of `shape`. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}
