import { describe, expect, it } from 'vitest';
import type { DecoderConfig, RopeConfig } from './config.ts';
import { rotaryFrequencies, rotaryTables } from './rotary.ts';

const decoder = (rope: RopeConfig): DecoderConfig => ({
  kind: 'llama',
  vocabSize: 8,
  hiddenSize: 8,
  intermediateSize: 8,
  layers: 1,
  heads: 1,
  kvHeads: 1,
  headSize: 8,
  rmsNormEps: 1e-5,
  rope,
  maxPositions: 4096,
  tiedEmbeddings: false,
});

const longrope: RopeConfig = {
  kind: 'longrope',
  theta: 10000,
  shortFactor: [1, 1, 1, 1],
  longFactor: [2, 4, 8, 16],
  originalMaxPositions: 64,
  attentionFactor: 1.5,
};

describe('rotaryTables', () => {
  it('has cos and sin of position · theta^(−2i/E)', () => {
    const { cos, sin } = rotaryTables(decoder({ kind: 'default', theta: 10000 }), 3, 2, 10);
    expect(cos.length).toBe(8);
    expect(cos[5]).toBeCloseTo(Math.cos(4 * 10000 ** (-2 / 8)), 6);
    expect(sin[0]).toBeCloseTo(Math.sin(3), 6);
  });

  it('a stretch of positions is a part of the whole table', () => {
    const c = decoder(longrope);
    const whole = rotaryTables(c, 0, 70, 70);
    const part = rotaryTables(c, 60, 5, 70);
    expect([...part.cos]).toEqual([...whole.cos.subarray(60 * 4, 65 * 4)]);
  });

  it('scales cos and sin by the attention factor of longrope', () => {
    expect(rotaryTables(decoder(longrope), 0, 1, 1).cos[0]).toBeCloseTo(1.5, 6);
  });
});

describe('rotaryFrequencies', () => {
  it('takes the long factors as soon as the whole is longer than the original context', () => {
    const short = rotaryFrequencies(longrope, 8, 64);
    const long = rotaryFrequencies(longrope, 8, 65);
    expect([...long].map((frequency, i) => (short[i] ?? 0) / frequency)).toEqual([2, 4, 8, 16]);
  });

  it('llama3: keeps short wavelengths, divides long ones, blends between', () => {
    const llama3: RopeConfig = {
      kind: 'llama3',
      theta: 500000,
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositions: 8192,
    };
    const plain = rotaryFrequencies({ kind: 'default', theta: 500000 }, 128, 1);
    const scaled = rotaryFrequencies(llama3, 128, 1);
    const ratio = [...plain].map((frequency, i) => frequency / (scaled[i] ?? 0));
    expect(ratio[0]).toBe(1);
    expect(ratio.at(-1)).toBe(8);
    const blended = ratio.filter((r) => r > 1 && r < 8);
    expect(blended.length).toBeGreaterThan(2);
    expect([...blended].sort((a, b) => a - b)).toEqual(blended);
  });
});
