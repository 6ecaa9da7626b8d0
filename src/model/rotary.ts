/**
 * Rotary angles as tables, in f64 until the last step. Source: `rope_theta` and `rope_scaling` of config.json;
 * llama3 scaling as in Llama 3.1, longrope as in Phi-3.5.
 */
import type { DecoderConfig, RopeConfig } from './config.ts';

/** cos and sin for positions `first … first + count − 1`: f32 [count, E/2], row-major. */
export interface RotaryValues {
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/**
 * Tables for a stretch of positions of a sequence that is `total` long in all. Longrope takes its long factors
 * when the whole is longer than the original context, so keys made for a shorter one no longer fit then.
 */
export function rotaryTables(c: DecoderConfig, first: number, count: number, total: number): RotaryValues {
  const half = c.headSize / 2;
  const frequencies = rotaryFrequencies(c.rope, c.headSize, total);
  const factor = c.rope.kind === 'longrope' ? c.rope.attentionFactor : 1;
  const cos = new Float32Array(count * half);
  const sin = new Float32Array(count * half);
  for (let s = 0; s < count; s++) {
    for (let i = 0; i < half; i++) {
      // The reference multiplies position and frequency in f32.
      const angle = Math.fround((first + s) * (frequencies[i] ?? 0));
      cos[s * half + i] = Math.cos(angle) * factor;
      sin[s * half + i] = Math.sin(angle) * factor;
    }
  }
  return { cos, sin };
}

/** The E/2 frequencies, as f32 values. */
export function rotaryFrequencies(rope: RopeConfig, headSize: number, total: number): Float32Array {
  const plain = Float32Array.from({ length: headSize / 2 }, (_, i) => rope.theta ** ((-2 * i) / headSize));
  if (rope.kind === 'llama3') return plain.map((frequency) => llama3Frequency(frequency, rope));
  if (rope.kind === 'longrope') {
    const factors = usesLongFactors(rope, total) ? rope.longFactor : rope.shortFactor;
    return plain.map((frequency, i) => frequency / Math.fround(factors[i] ?? 1));
  }
  return plain;
}

/** Whether a sequence this long takes the long factors. */
export function usesLongFactors(rope: RopeConfig, total: number): boolean {
  return rope.kind === 'longrope' && total > rope.originalMaxPositions;
}

function llama3Frequency(frequency: number, rope: Extract<RopeConfig, { kind: 'llama3' }>): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = rope;
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength > originalMaxPositions / lowFreqFactor) return frequency / factor;
  if (wavelength < originalMaxPositions / highFreqFactor) return frequency;
  const smooth = (originalMaxPositions / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
}
