/** Sizes of matrices of few bits, as `matMulNBits` takes them. */

/** Inputs that share a scale. */
export const BLOCK = 32;

/** Sizes [out, blocks, bytes of a block] of the codes of a matrix [out, width] in `bits` bits. */
export function codesShape(out: number, width: number, bits: 4 | 8): readonly [number, number, number] {
  return [out, Math.ceil(width / BLOCK), (BLOCK * bits) / 8];
}
