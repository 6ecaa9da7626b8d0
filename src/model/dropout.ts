/**
 * Dropout whose masks are computed where they are used: each row of a tensor has its own random affine function,
 * and element (row, column) is dropped where that function of the column falls below a threshold. The host draws
 * two numbers a row instead of a mask, and the same numbers give the same mask in every run.
 *
 * Knows nothing of seeds or of what is dropped. Source of the hash: Carter & Wegman 1979,
 * `h(column) = (u·column + v) mod p`, under which the columns of a row are pairwise independent.
 */
import type { Random } from '../common/random.ts';
import {
  add,
  cast,
  type Dim,
  dimOf,
  divide,
  iota,
  less,
  multiply,
  scalar,
  subtract,
  type Tensor,
  where,
} from '../graph/index.ts';

/** The largest prime whose hashes are exact in f32, for up to 6 blocks of columns: `p² + 6p < 2²⁴`. */
const PRIME = 4093;
const MOST_COLUMNS = 6 * PRIME;

/** The random function of each row: u and v are whole numbers of 0 … p − 1, f32 [B, S, 1]. */
export interface RowHashes {
  readonly u: Tensor;
  readonly v: Tensor;
}

/**
 * `x` with elements dropped at `rate` and the others scaled so that the mean stays. x: f32 or f64 [B, S, D], D up to
 * 24,558. The rate is rounded to a multiple of 1/4093; at 0 the result is `x` itself.
 */
export function dropout(x: Tensor, { u, v }: RowHashes, rate: number): Tensor {
  if (isOff(rate)) return x;
  const dropped = Math.round(rate * PRIME);
  const { column, block } = columnsOf(dimOf(x, -1));
  const sum = add(multiply(u, column), multiply(v, add(block, 1)));
  const hash = subtract(sum, multiply(floor(divide(sum, PRIME)), PRIME));
  const scale = scalar(PRIME / (PRIME - dropped), x.dtype);
  const factor = where(less(hash, dropped), scalar(0, x.dtype), scale);
  return multiply(x, factor);
}

/** Whether `rate` drops nothing. */
export const isOff = (rate: number): boolean => Math.round(rate * PRIME) === 0;

/** Numbers for u or v of `count` rows. */
export function drawHashes(random: Random, count: number): Float32Array {
  return Float32Array.from({ length: count }, () => random.integer(PRIME));
}

/** Column numbers [D] below p, and the block each is counted in; v's factor tells blocks apart. */
function columnsOf(width: Dim): { readonly column: Tensor; readonly block: Tensor } {
  if (typeof width === 'number' && width > MOST_COLUMNS) {
    throw new Error(`dropout: expected at most ${MOST_COLUMNS} columns, got ${width}`);
  }
  const index = cast(iota(width), 'f32');
  const block = floor(divide(index, PRIME));
  return { column: subtract(index, multiply(block, PRIME)), block };
}

/** Towards zero, which for these numbers is down. */
const floor = (x: Tensor): Tensor => cast(cast(x, 'i32'), 'f32');
