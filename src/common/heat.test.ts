import { expect, test } from 'vitest';
import { heatColour, percent, rangeOf } from './heat.ts';

test('colours go from the first colour to the last, evenly lighter', () => {
  const lightness = Array.from({ length: 41 }, (_, i) => {
    const [r, g, b] = heatColour(i / 40).map((c) => (c / 255) ** 2.2);
    return 116 * Math.cbrt(0.2126 * r! + 0.7152 * g! + 0.0722 * b!) - 16;
  });
  const steps = lightness.slice(1).map((each, i) => each - lightness[i]!);
  expect(Math.min(...steps)).toBeGreaterThan(0.8);
  expect(Math.max(...steps)).toBeLessThan(3.5);
  expect([heatColour(-1), heatColour(0), heatColour(1), heatColour(2)]).toEqual([
    [68, 1, 84],
    [68, 1, 84],
    [253, 231, 37],
    [253, 231, 37],
  ]);
});

test('a range is the least and the largest value', () => {
  expect(rangeOf(Float32Array.of(0.5, -1, 2, 0))).toEqual({ least: -1, largest: 2 });
});

test('shares are percentages of two digits', () => {
  expect([0, 1e-7, 0.01234, 1].map(percent)).toEqual(['0 %', '< 0.001 %', '1.2 %', '100 %']);
});
