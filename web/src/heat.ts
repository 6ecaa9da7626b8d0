/**
 * Heat maps: slices and means of attention arrays, their pixels, and words for where they are strongest. Knows nothing
 * of models or of how a map is drawn.
 */
import { heatColour, percent, rangeOf } from '../../src/common/heat.ts';

/** Numbers of a shape, row-major. */
export interface Maps {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** A map over a picture, shares of attention row by row. */
export interface Grid {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float32Array;
}

const product = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1);

/** The part of an array at an index of its first axis. */
export function at({ shape, data }: Maps, index: number): Maps {
  const inner = shape.slice(1);
  const size = product(inner);
  return { shape: inner, data: data.subarray(index * size, (index + 1) * size) };
}

/** The sum over the first axis. */
export function sum({ shape, data }: Maps): Maps {
  const inner = shape.slice(1);
  const size = product(inner);
  const total = new Float32Array(size);
  data.forEach((value, i) => {
    total[i % size] = (total[i % size] ?? 0) + value;
  });
  return { shape: inner, data: total };
}

/** The mean over the first axis. */
export function mean(maps: Maps): Maps {
  const total = sum(maps);
  const count = Math.max(maps.shape[0] ?? 1, 1);
  return { shape: total.shape, data: total.data.map((value) => value / count) };
}

/** The whole where `index` is undefined (its mean), else the part at it. */
export const chosen = (maps: Maps, index: number | undefined): Maps =>
  index === undefined ? mean(maps) : at(maps, index);

/** An array [rows, columns] as a map. */
export function gridOf({ shape: [rows = 0, columns = 0], data }: Maps): Grid {
  return { rows, columns, values: data };
}

/** Bytes of red, green, blue and alpha for each cell: the least value in the first colour, the largest in the last. */
export function heatPixels(grid: Grid): Uint8ClampedArray<ArrayBuffer> {
  const { least, largest } = rangeOf(grid.values);
  const spread = largest - least || 1;
  const pixels = new Uint8ClampedArray(4 * grid.values.length);
  grid.values.forEach((value, i) => {
    pixels.set([...heatColour((value - least) / spread), 255], 4 * i);
  });
  return pixels;
}

/** Where a map is strongest: row and column from 0, and the value there. */
export function peakOf({ columns, values }: Grid): { row: number; column: number; value: number } {
  let best = 0;
  values.forEach((value, i) => {
    if (value > (values[best] ?? 0)) best = i;
  });
  return { row: Math.floor(best / columns), column: best % columns, value: values[best] ?? 0 };
}

const VERTICAL = ['upper', 'middle', 'lower'] as const;
const HORIZONTAL = ['left', 'centre', 'right'] as const;

/** `strongest in the upper left, 4.2 %`: for those who do not see the map. */
export function describePeak(grid: Grid): string {
  const { row, column, value } = peakOf(grid);
  const third = (place: number, count: number) => Math.min(Math.floor((3 * (place + 0.5)) / count), 2);
  const vertical = VERTICAL[third(row, grid.rows)] ?? 'middle';
  const horizontal = HORIZONTAL[third(column, grid.columns)] ?? 'centre';
  const where = vertical === 'middle' && horizontal === 'centre' ? 'centre' : `${vertical} ${horizontal}`;
  return `strongest in the ${where}, ${percent(value)}`;
}
