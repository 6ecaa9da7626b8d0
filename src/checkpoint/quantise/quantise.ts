/**
 * A matrix in 4 or 8 bits: symmetric, one scale for each block of 32 inputs, packed as ONNX Runtime's MatMulNBits
 * takes it. Knows nothing of names, files or models. docs/quantisation.md has the layout.
 */
import { BLOCK, codesShape } from '../../graph/nBits.ts';

export type Bits = 4 | 8;

/** `width` inputs of `out` outputs, rounded. */
export interface QuantisedRows {
  /** [out, ⌈width/32⌉, 4·bits]. Of 4 bits, the even element's are the lower half of a byte. */
  readonly codes: Uint8Array;
  /** [out, ⌈width/32⌉]. */
  readonly scales: Float32Array;
}

/** Where in the weights a number is that is none. */
export interface BadValue {
  readonly row: number;
  readonly column: number;
}

/**
 * Rounds rows of a matrix. values: [out, width], row-major; a last block that is not full is filled with zeros.
 * `value ≈ (code − 2^(bits−1)) · scale`. The scale of 8 bits is the largest magnitude ÷ 127. Of 4 bits it first
 * takes the value of largest magnitude to −8, the end of the range that has one step more; values are rounded half
 * up, and the scale is then the one with the least squared error for these codes.
 */
export function quantiseRows(values: Float32Array, width: number, bits: Bits): QuantisedRows {
  const out = values.length / width;
  const [, blocks, bytes] = codesShape(out, width, bits);
  const codes = new Uint8Array(out * blocks * bytes);
  const scales = new Float32Array(out * blocks);
  const block = new Float32Array(BLOCK);
  const rounded = new Uint8Array(BLOCK);
  for (let row = 0; row < out; row++) {
    for (let b = 0; b < blocks; b++) {
      const from = row * width + b * BLOCK;
      block.fill(0).set(values.subarray(from, Math.min(from + BLOCK, (row + 1) * width)));
      const at = row * blocks + b;
      scales[at] = bits === 4 ? round4(block, rounded) : round8(block, rounded);
      if (bits === 8) codes.set(rounded, at * bytes);
      else packHalves(rounded, codes, at * bytes);
    }
  }
  return { codes, scales };
}

/** The rows that codes and scales stand for: f32 [out, width]. */
export function dequantiseRows({ codes, scales }: QuantisedRows, width: number, bits: Bits): Float32Array {
  const blocks = Math.ceil(width / BLOCK);
  const out = scales.length / blocks;
  const values = new Float32Array(out * width);
  for (let i = 0; i < values.length; i++) {
    const [row, column] = [Math.floor(i / width), i % width];
    const element = (row * blocks + Math.floor(column / BLOCK)) * BLOCK + (column % BLOCK);
    const byte = codes[bits === 4 ? element >> 1 : element] ?? 0;
    const code = bits === 8 ? byte : element % 2 === 0 ? byte & 15 : byte >> 4;
    values[i] = (code - 2 ** (bits - 1)) * (scales[Math.floor(element / BLOCK)] ?? 0);
  }
  return values;
}

/** The first value that is infinite or not a number. values: [out, width]. */
export function findBadValue(values: Float32Array, width: number): BadValue | undefined {
  const at = values.findIndex((value) => !Number.isFinite(value));
  return at < 0 ? undefined : { row: Math.floor(at / width), column: at % width };
}

/** Codes of a block around 8; returns the scale. */
function round4(block: Float32Array, codes: Uint8Array): number {
  let extreme = 0;
  for (const value of block) if (Math.abs(value) > Math.abs(extreme)) extreme = value;
  const first = extreme / -8;
  const inverse = first === 0 ? 0 : 1 / first;
  let [product, square] = [0, 0];
  for (let i = 0; i < BLOCK; i++) {
    const value = block[i] as number;
    const step = Math.min(7, Math.max(-8, Math.floor(value * inverse + 0.5)));
    codes[i] = step + 8;
    product += step * value;
    square += step * step;
  }
  return square === 0 ? 0 : product / square;
}

/** Codes of a block around 128; returns the scale. */
function round8(block: Float32Array, codes: Uint8Array): number {
  let largest = 0;
  for (const value of block) largest = Math.max(largest, Math.abs(value));
  const scale = largest / 127;
  const inverse = scale === 0 ? 0 : 1 / scale;
  for (let i = 0; i < BLOCK; i++) {
    const step = Math.floor((block[i] as number) * inverse + 0.5);
    codes[i] = Math.min(127, Math.max(-127, step)) + 128;
  }
  return scale;
}

function packHalves(values: Uint8Array, target: Uint8Array, at: number): void {
  for (let i = 0; i < BLOCK; i += 2) {
    target[at + i / 2] = (values[i] as number) | ((values[i + 1] as number) << 4);
  }
}
