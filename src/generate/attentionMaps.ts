/**
 * Arrays of attention maps: their means, their axes, and windows spread over the grid they were pooled from. Knows
 * nothing of models or of what is attended to.
 */
import { InternalError } from '../common/errors.ts';
import { poolingBin } from '../model/connector.ts';
import type { HostTensor } from '../runtime/types.ts';

/** Numbers of a shape, row-major. */
export interface Maps {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** An f32 output of a program. @throws InternalError where there is none. */
export function mapsOf(output: HostTensor | undefined): Maps {
  if (output === undefined || !(output.data instanceof Float32Array)) {
    throw new InternalError('attention: expected an f32 output of the program');
  }
  return { shape: output.shape, data: output.data };
}

const product = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1);

/** The map at the given indices of the first axes. */
export function mapAt({ shape, data }: Maps, ...index: readonly number[]): Maps {
  const inner = shape.slice(index.length);
  const start = index.reduce((sum, i, axis) => sum * (shape[axis] ?? 0) + i, 0) * product(inner);
  return { shape: inner, data: data.subarray(start, start + product(inner)) };
}

/** The mean over one axis, which goes away. */
export function meanOver({ shape, data }: Maps, axis: number): Maps {
  const [count, inner] = [shape[axis] ?? 0, product(shape.slice(axis + 1))];
  const outer = product(shape.slice(0, axis));
  const mean = new Float32Array(outer * inner);
  for (let i = 0; i < outer; i++) {
    for (let j = 0; j < inner; j++) {
      let sum = 0;
      for (let k = 0; k < count; k++) sum += data[(i * count + k) * inner + j] ?? 0;
      mean[i * inner + j] = count === 0 ? 0 : sum / count;
    }
  }
  return { shape: shape.filter((_, i) => i !== axis), data: mean };
}

/** [N, A, B] → [N, B, A]. */
export function transposeRows({ shape, data }: Maps): Maps {
  const [count = 0, rows = 0, columns = 0] = shape;
  const turned = new Float32Array(data.length);
  for (let n = 0; n < count; n++) {
    for (let a = 0; a < rows; a++) {
      for (let b = 0; b < columns; b++) {
        turned[(n * columns + b) * rows + a] = data[(n * rows + a) * columns + b] ?? 0;
      }
    }
  }
  return { shape: [count, columns, rows], data: turned };
}

/** The last `rows` of the second axis: [N, A, …] → [N, rows, …]. */
export function lastRows(maps: Maps, rows: number): Maps {
  const [count = 0, all = 0, ...inner] = maps.shape;
  const size = product(inner);
  const data = new Float32Array(count * rows * size);
  for (let n = 0; n < count; n++) {
    data.set(mapAt(maps, n).data.subarray((all - rows) * size), n * rows * size);
  }
  return { shape: [count, rows, ...inner], data };
}

/**
 * Attention of latents to the w×w cells of their windows → over the grid of `side`×`side` places that the cells were
 * pooled from: the weight of a cell is spread evenly over its bin. windows: [N, q, w²], q a perfect square →
 * [N, q, side, side]; a map sums to what its window sums to.
 */
export function windowMaps({ shape, data }: Maps, side: number): Maps {
  const [layers = 0, latents = 0, cells = 0] = shape;
  const spread = spreadOf(latents, cells, side);
  const maps = new Float32Array(layers * latents * side * side);
  for (let row = 0; row < layers * latents; row++) {
    for (let cell = 0; cell < cells; cell++) {
      const bin = spread[(row % latents) * cells + cell] ?? [];
      const share = (data[row * cells + cell] ?? 0) / bin.length;
      for (const place of bin) {
        const at = row * side * side + place;
        maps[at] = (maps[at] ?? 0) + share;
      }
    }
  }
  return { shape: [layers, latents, side, side], data: maps };
}

/** For each cell of each latent's window the places of the grid that it was pooled from. */
function spreadOf(latents: number, cells: number, side: number): readonly (readonly number[])[] {
  const [across, window] = [Math.sqrt(latents), Math.sqrt(cells)];
  const bins = Array.from({ length: across * window }, (_, i) => poolingBin(i, across * window, side));
  return Array.from({ length: latents * cells }, (_, i) => {
    const [latent, cell] = [Math.floor(i / cells), i % cells];
    const row = Math.floor(latent / across) * window + Math.floor(cell / window);
    const column = (latent % across) * window + (cell % window);
    return (bins[row] ?? []).flatMap((y) => (bins[column] ?? []).map((x) => y * side + x));
  });
}
