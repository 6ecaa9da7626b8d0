import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { editDistance, nearestName } from './nearest.ts';

describe('editDistance', () => {
  it.each([
    ['', '', 0],
    ['', 'abc', 3],
    ['kitten', 'sitting', 3],
    ['json_path', 'json_paht', 1],
    ['abcd', 'badc', 2],
    ['ca', 'abc', 3],
  ])('%j to %j is %i', (a, b, expected) => expect(editDistance(a, b)).toBe(expected));

  it('is symmetric, zero only for equal texts, and at most the longer length', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 8 });
    fc.assert(
      fc.property(text, text, (a, b) => {
        const distance = editDistance(a, b);
        expect(distance).toBe(editDistance(b, a));
        expect(distance === 0).toBe(a === b);
        expect(distance).toBeLessThanOrEqual(Math.max(a.length, b.length));
        expect(distance).toBeGreaterThanOrEqual(Math.abs(a.length - b.length));
      }),
    );
  });
});

describe('nearestName', () => {
  const keys = ['json_path', 'sampling_strategy', 'lr'];

  it.each([
    ['json_paht', 'json_path'],
    ['jsonPath', 'json_path'],
    ['JSON_PATH', 'json_path'],
    ['sampling_stategy', 'sampling_strategy'],
    ['samplng', undefined],
    ['lt', 'lr'],
    ['xy', undefined],
    ['image_folder', undefined],
  ])('%s → %s', (name, expected) => expect(nearestName(name, keys)).toBe(expected));

  it('takes the nearer, and the first of equals', () => {
    expect(nearestName('seeds', ['speed', 'seed'])).toBe('seed');
    expect(nearestName('aaab', ['aaac', 'aaad'])).toBe('aaac');
    expect(nearestName('a', [])).toBeUndefined();
  });
});
