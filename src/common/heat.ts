/**
 * What drawn heat maps of attention share, in the page and in files: colours, ranges and how shares are written. Knows
 * nothing of models or of where a map is drawn. Colours: viridis (CC0), which is uniform to the eye.
 */

/** Viridis at equal steps, as red, green and blue. */
export const HEAT_COLOURS = [
  [68, 1, 84],
  [72, 40, 120],
  [62, 73, 137],
  [49, 104, 142],
  [38, 130, 142],
  [31, 158, 137],
  [53, 183, 121],
  [110, 206, 88],
  [181, 222, 43],
  [253, 231, 37],
] as const;

/** The colour of a value from 0 to 1: red, green and blue, 0 to 255. */
export function heatColour(value: number): readonly [number, number, number] {
  const place = Math.min(Math.max(value, 0), 1) * (HEAT_COLOURS.length - 1);
  const low = Math.min(Math.floor(place), HEAT_COLOURS.length - 2);
  const [from, to] = [HEAT_COLOURS[low] ?? HEAT_COLOURS[0], HEAT_COLOURS[low + 1] ?? HEAT_COLOURS[0]];
  const mix = (i: 0 | 1 | 2) => Math.round(from[i] + (place - low) * (to[i] - from[i]));
  return [mix(0), mix(1), mix(2)];
}

export interface Range {
  readonly least: number;
  readonly largest: number;
}

/** The least and the largest of some values. */
export function rangeOf(values: Float32Array): Range {
  let [least, largest] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < least) least = value;
    if (value > largest) largest = value;
  }
  return { least, largest };
}

/** A share of attention: `0.31 %`. */
export function percent(share: number): string {
  if (share > 0 && share < 1e-5) return '< 0.001 %';
  return `${Number((100 * share).toPrecision(2))} %`;
}
