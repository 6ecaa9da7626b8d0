/** Estimates against what was measured (docs/quantisation.md): int4, random weights of the released sizes. */
import { describe, expect, it } from 'vitest';
import { variantJson } from '../checkpoint/baseConfigs.ts';
import { partFormats } from '../checkpoint/quantise/formats.ts';
import { parseFusionConfig } from '../model/config.ts';
import { CACHE_BLOCK } from './kvCache.ts';
import { type MemoryUse, memoryNeeds } from './memoryNeeds.ts';

const configOf = (variant: string) => parseFusionConfig(variantJson(variant), variant);
const int4 = partFormats('int4');
const useOf = (positions: number, more: Partial<MemoryUse> = {}): MemoryUse => ({
  positions,
  queryLength: 36,
  sequences: 1,
  asksAgain: false,
  ...more,
});

const MEASURED = [
  {
    variant: 'fusion-x-phi3.5-3b',
    positions: 652,
    peak: 4.5e9,
    decoder: 2.84e9 + 0.46e9,
    cache: 0.55e9,
    again: 4.65e9,
  },
  {
    variant: 'fusion-llama3.1-8b',
    positions: 942,
    peak: 7.53e9,
    decoder: 5.89e9 + 0.95e9,
    cache: 0.25e9,
    again: 7.6e9,
  },
] as const;

const within = (got: number, expected: number, share: number) =>
  expect(Math.abs(got / expected - 1), `${got} for ${expected}`).toBeLessThan(share);

describe.each(MEASURED)('$variant', ({ variant, positions, peak, decoder, cache, again }) => {
  const config = configOf(variant);
  const needs = memoryNeeds(config, int4, useOf(positions));

  it('peak, weights and cache are those measured', () => {
    within(needs.peak, peak, 0.08);
    within(needs.weights.decoder + needs.weights.lm_head, decoder, 0.02);
    within(needs.cache, cache, 0.02);
    expect(needs.weights.embeddings).toBe(0);
  });

  it('another picture takes a part of the tower on top', () => {
    const more = memoryNeeds(config, int4, useOf(positions, { asksAgain: true })).peak;
    expect(more).toBeGreaterThanOrEqual(needs.peak);
    within(more, again, 0.08);
  });

  it('f32 has all weights in memory, four bytes each, and formats are in order', () => {
    const f32 = memoryNeeds(config, undefined, useOf(positions));
    const sum = Object.values(f32.weights).reduce((a, b) => a + b, 0);
    expect(f32.peak).toBeGreaterThan(sum);
    within(f32.weights.embeddings, 4 * config.decoder.vocabSize * config.decoder.hiddenSize, 1e-9);
    const int8 = memoryNeeds(config, partFormats('int8'), useOf(positions));
    expect(needs.peak).toBeLessThan(int8.peak);
    expect(int8.peak).toBeLessThan(f32.peak / 2);
  });

  it('the cache grows by whole blocks and with the conversations at once', () => {
    const cacheOf = (n: number, sequences = 1) => memoryNeeds(config, int4, useOf(n, { sequences })).cache;
    expect(cacheOf(CACHE_BLOCK)).toBe(cacheOf(1));
    expect(cacheOf(CACHE_BLOCK + 1)).toBe(2 * cacheOf(CACHE_BLOCK));
    expect(cacheOf(CACHE_BLOCK, 8)).toBe(8 * cacheOf(CACHE_BLOCK));
  });
});
