import { describe, expect, it } from 'vitest';
import { UserError } from './errors.ts';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16, fromF32, toF32 } from './numberFormats.ts';

const ALL = Uint16Array.from({ length: 65536 }, (_, i) => i);
const bitsOf = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);
const fromBits = (bits: readonly number[]) => new Float32Array(Uint32Array.from(bits).buffer);

/** The value of a 16-bit float, written as IEEE 754 defines it, with no regard for speed. */
function ieeeValue(pattern: number, exponentBits: number): number {
  const mantissaBits = 15 - exponentBits;
  const sign = pattern & 0x8000 ? -1 : 1;
  const exponent = (pattern & 0x7fff) >> mantissaBits;
  const fraction = (pattern & (2 ** mantissaBits - 1)) / 2 ** mantissaBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === 2 ** exponentBits - 1) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias));
}

describe.each([
  { name: 'F16', widen: f16ToF32, narrow: f32ToF16, exponentBits: 5, infinity: 0x7c00 },
  { name: 'BF16', widen: bf16ToF32, narrow: f32ToBf16, exponentBits: 8, infinity: 0x7f80 },
])('$name', ({ widen, narrow, exponentBits, infinity }) => {
  const isNan = (pattern: number) => (pattern & 0x7fff) > infinity;

  it('widens all 65536 patterns to the value IEEE 754 gives them', () => {
    const wide = widen(ALL);
    expect(wide.length).toBe(65536);
    const wrong = Array.from(ALL).filter((i) => !Object.is(wide[i], ieeeValue(i, exponentBits)));
    expect(wrong).toEqual([]);
  });

  it('brings every pattern back; NaNs keep sign and payload, made quiet', () => {
    const quiet = exponentBits === 5 ? 0x200 : 0x40;
    const expected = ALL.map((i) => (isNan(i) ? i | quiet : i));
    expect(narrow(widen(ALL))).toEqual(expected);
  });

  it('rounds to nearest, ties to even, between every two neighbours', () => {
    const faults: number[] = [];
    for (let low = 0; low < infinity; low++) {
      // The value beyond the largest finite one stands in for infinity: rounding overflows at the middle.
      const next =
        low + 1 === infinity
          ? 2 * ieeeValue(low, exponentBits) - ieeeValue(low - 1, exponentBits)
          : ieeeValue(low + 1, exponentBits);
      const middle = Math.fround((ieeeValue(low, exponentBits) + next) / 2);
      const at = bitsOf(Float32Array.of(middle))[0]!;
      const around = fromBits([
        at - 1,
        at,
        at + 1,
        (at - 1) | 0x80000000,
        at | 0x80000000,
        (at + 1) | 0x80000000,
      ]);
      const even = low + (low & 1);
      const expected = [low, even, low + 1, low | 0x8000, even | 0x8000, (low + 1) | 0x8000];
      if (narrow(around).some((pattern, i) => pattern !== expected[i])) faults.push(low);
    }
    expect(faults).toEqual([]);
  });

  it('keeps infinities and overflows to them', () => {
    expect(Array.from(narrow(Float32Array.of(Infinity, -Infinity, 3.4028234e38, -3.4028234e38)))).toEqual([
      infinity,
      infinity | 0x8000,
      infinity,
      infinity | 0x8000,
    ]);
  });
});

describe('toF32 and fromF32', () => {
  it('read and write the bytes of each floating dtype', () => {
    const values = Float32Array.of(1, -2.5, 0.375);
    for (const dtype of ['F32', 'F16', 'BF16'] as const) {
      expect(toF32(dtype, fromF32(dtype, values), 't')).toEqual(values);
    }
    expect(toF32('F64', new Uint8Array(Float64Array.of(0.1).buffer), 't')).toEqual(Float32Array.of(0.1));
  });

  it('read unaligned bytes', () => {
    const bytes = new Uint8Array(9);
    bytes.set(fromF32('F32', Float32Array.of(1.5, -3)), 1);
    expect(toF32('F32', bytes.subarray(1), 't')).toEqual(Float32Array.of(1.5, -3));
  });

  it('refuse integers and broken lengths', () => {
    expect(() => toF32('I64', new Uint8Array(8), 'ids')).toThrow(UserError);
    expect(() => toF32('I64', new Uint8Array(8), 'ids')).toThrow(
      /^ids: expected a floating dtype .*, got I64$/,
    );
    expect(() => toF32('F32', new Uint8Array(7), 't')).toThrow(/^internal: t: 7 bytes/);
  });
});
