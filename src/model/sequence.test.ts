import { describe, expect, it } from 'vitest';
import { END_OF_QUESTION, IGNORE, IMAGE, LATENT } from './sentinels.ts';
import { expandedLength, layOutSequences } from './sequence.ts';

const SIZES = { imageTokens: 3, queryLength: 4, maxLength: 100 };
const sample = (inputIds: number[], labels: number[]) => ({ inputIds, labels });
const _ = IGNORE;

describe('layOutSequences', () => {
  const withImage = sample([10, LATENT, 11, IMAGE, 12, 13], [_, _, _, _, END_OF_QUESTION, 13]);

  it('gives the image to the first placeholder, whichever it is, and latents to the others', () => {
    const layout = layOutSequences([withImage], SIZES);
    expect([...layout.textIds]).toEqual([10, 11, 12, 13]);
    // Rows 0–3 are text, 4–6 the image, 7–10 the latents, 11 is zero.
    expect([...layout.sources]).toEqual([0, 4, 5, 6, 1, 7, 8, 9, 10, 2, 3]);
    expect([...layout.latentPositions]).toEqual([5, 6, 7, 8]);
    expect([...layout.questionPositions]).toEqual([9, 9, 9, 9]);
    expect([...layout.windowIndex]).toEqual([0, 1, 2, 3]);
    expect(layout.lengths).toEqual([11]);
  });

  it('supervises a position by the label that follows it; an end of question is no target', () => {
    const layout = layOutSequences([withImage], SIZES);
    expect([...layout.supervisedPositions]).toEqual([9]);
    expect([...layout.targets]).toEqual([13]);
  });

  it('gives zero rows to every placeholder of a sample without an image', () => {
    const layout = layOutSequences([sample([5, LATENT, 6], [_, _, END_OF_QUESTION])], SIZES);
    const zero = 2 + SIZES.imageTokens + SIZES.queryLength;
    expect([...layout.sources]).toEqual([0, zero, zero, zero, zero, 1]);
    expect([...layout.latentPositions]).toEqual([1, 2, 3, 4]);
    expect([...layout.questionPositions]).toEqual([5, 5, 5, 5]);
  });

  it('pads on the right, counts positions through the batch and keeps rows apart', () => {
    const layout = layOutSequences([sample([5, 6], [_, 6]), withImage], SIZES);
    expect(layout.sequence).toBe(11);
    const zero = 6 + 2 * SIZES.imageTokens + 2 * SIZES.queryLength;
    expect([...layout.sources.subarray(0, 4)]).toEqual([0, 1, zero, zero]);
    expect([...layout.sources.subarray(11, 16)]).toEqual([2, 9, 10, 11, 3]);
    expect([...layout.latentPositions]).toEqual([16, 17, 18, 19]);
    expect([...layout.windowIndex]).toEqual([4, 5, 6, 7]);
    expect([...layout.supervisedPositions]).toEqual([0, 20]);
  });

  it('asks each turn’s question with its own latents', () => {
    const ids = [LATENT, IMAGE, 7, 8, LATENT, 9];
    const layout = layOutSequences([sample(ids, [_, _, END_OF_QUESTION, 8, _, END_OF_QUESTION])], SIZES);
    expect([...layout.questionPositions]).toEqual([7, 7, 7, 7, 13, 13, 13, 13]);
    expect([...layout.windowIndex]).toEqual([0, 1, 2, 3, 0, 1, 2, 3]);
  });

  it('cuts after expansion and drops questions whose end was cut, with as many latents', () => {
    const ids = [LATENT, IMAGE, 7, 8, LATENT, 9, 6];
    const sampleOfTwo = sample(ids, [_, _, END_OF_QUESTION, 8, _, END_OF_QUESTION, 6]);
    const layout = layOutSequences([sampleOfTwo], { ...SIZES, maxLength: 13 });
    expect(layout.lengths).toEqual([13]);
    expect([...layout.latentPositions]).toEqual([3, 4, 5, 6]);
    expect([...layout.targets]).toEqual([8]);
  });
});

describe('expandedLength', () => {
  it.each([
    [[1, 2, 3], 3],
    [[LATENT, 1], 5],
    [[LATENT, 1, IMAGE], 8],
    [[], 0],
  ])('%j takes %i positions', (ids, length) => {
    expect(expandedLength(ids, SIZES)).toBe(length);
  });
});
