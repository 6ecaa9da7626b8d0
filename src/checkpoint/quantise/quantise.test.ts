/** Rounding and packing against a plain reference. */
import { describe, expect, it } from 'vitest';
import { Random } from '../../common/random.ts';
import { type Bits, dequantiseRows, findBadValue, quantiseRows } from './quantise.ts';

function matrix(out: number, width: number): Float32Array {
  const values = new Float32Array(out * width);
  new Random(`${out} ${width}`).fillNormal(values, 0.02);
  return values;
}

/** Codes of one block, straight from the definition. */
function referenceCodes(block: readonly number[], bits: Bits): { codes: number[]; scale: number } {
  const magnitude = Math.max(...block.map(Math.abs));
  if (magnitude === 0) return { codes: block.map(() => 2 ** (bits - 1)), scale: 0 };
  const extreme = block.find((value) => Math.abs(value) === magnitude)!;
  const step = bits === 4 ? -extreme / 8 : magnitude / 127;
  const [low, high] = bits === 4 ? [-8, 7] : [-127, 127];
  const steps = block.map((value) => Math.min(high, Math.max(low, Math.floor(value / step + 0.5))));
  const product = steps.reduce((sum, q, i) => sum + q * block[i]!, 0);
  const square = steps.reduce((sum, q) => sum + q * q, 0);
  return { codes: steps.map((q) => q + 2 ** (bits - 1)), scale: bits === 4 ? product / square : step };
}

describe.each([4, 8] as const)('%i bits', (bits) => {
  it.each([
    [3, 64],
    [5, 40],
    [1, 8],
  ])('rounds and packs [%i, %i] as the definition says', (out, width) => {
    const values = matrix(out, width);
    const { codes, scales } = quantiseRows(values, width, bits);
    const blocks = Math.ceil(width / 32);
    expect(codes).toHaveLength(out * blocks * 4 * bits);
    expect(scales).toHaveLength(out * blocks);
    for (let at = 0; at < out * blocks; at++) {
      const [row, first] = [Math.floor(at / blocks), (at % blocks) * 32];
      const block = Array.from({ length: 32 }, (_, i) =>
        first + i < width ? values[row * width + first + i]! : 0,
      );
      const expected = referenceCodes(block, bits);
      const packed = codes.subarray(at * 4 * bits, (at + 1) * 4 * bits);
      const unpacked = bits === 8 ? [...packed] : [...packed].flatMap((byte) => [byte % 16, byte >> 4]);
      expect(unpacked).toEqual(expected.codes);
      expect(scales[at]).toBeCloseTo(expected.scale, 9);
    }
  });

  it('is off by half a step at most, where nothing is cut', () => {
    const values = matrix(8, 96);
    const rows = quantiseRows(values, 96, bits);
    const back = dequantiseRows(rows, 96, bits);
    expect(back).toHaveLength(values.length);
    const steps = bits === 4 ? 7 : 127;
    for (let block = 0; block < values.length; block += 32) {
      const part = values.subarray(block, block + 32);
      const largest = Math.max(...part.map(Math.abs));
      for (const [i, value] of part.entries()) {
        expect(Math.abs(back[block + i]! - value)).toBeLessThan(
          (bits === 4 ? 1.1 : 0.51) * (largest / steps),
        );
      }
    }
  });

  it('keeps zeros, signs and the largest value', () => {
    const values = new Float32Array(64);
    values.set([-4, 2, 1, 0.5, -0.5]);
    const back = dequantiseRows(quantiseRows(values, 64, bits), 64, bits);
    expect([...back.subarray(32)]).toEqual(Array(32).fill(0));
    expect([...back.subarray(0, 5)].map(Math.sign)).toEqual([-1, 1, 1, 1, -1]);
    expect(back[0]).toBeCloseTo(-4, 1);
    expect(back[1]).toBeCloseTo(2, 1);
  });

  it('rounds a half up, away from nothing', () => {
    // Steps of 1: -8 or 127 is the largest value of its block.
    const values = Float32Array.of(bits === 4 ? -8 : 127, 0.5, -0.5, 1.5, -1.5, ...Array(27).fill(0));
    const { codes } = quantiseRows(values, 32, bits);
    const steps = bits === 8 ? [...codes] : [...codes].flatMap((byte) => [byte % 16, byte >> 4]);
    expect(steps.slice(1, 5).map((code) => code - 2 ** (bits - 1))).toEqual([1, 0, 2, -1]);
  });

  it('takes the smallest numbers there are', () => {
    const values = new Float32Array(32).fill(1e-45);
    for (const value of dequantiseRows(quantiseRows(values, 32, bits), 32, bits)) {
      expect(Math.abs(value)).toBeLessThan(3e-45);
    }
  });
});

it('finds values that are no numbers', () => {
  const values = matrix(3, 8);
  expect(findBadValue(values, 8)).toBeUndefined();
  values[13] = Number.NaN;
  values[20] = Number.POSITIVE_INFINITY;
  expect(findBadValue(values, 8)).toEqual({ row: 1, column: 5 });
});
