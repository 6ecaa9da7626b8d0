/**
 * Plain arrays → the values that programs take. Knows names and shapes of inputs (`model/programs.ts`), not
 * where the arrays come from.
 */

import type { HostTensor } from '../runtime/types.ts';
import type { DecoderConfig } from './config.ts';
import { rotaryTables } from './rotary.ts';
import type { SequenceLayout } from './sequence.ts';

export type HostFeeds = Readonly<Record<string, HostTensor>>;

export const f32 = (data: Float32Array, shape: readonly number[]): HostTensor => ({
  dtype: 'f32',
  data,
  shape,
});

/** i32, by default of one dimension. */
export const i32 = (data: Int32Array, shape: readonly number[] = [data.length]): HostTensor => ({
  dtype: 'i32',
  data,
  shape,
});

/** Rows of tokens, padded with 0 to the longest: i32 [B, T]. */
export function paddedRows(rows: readonly Int32Array[]): HostTensor {
  const longest = Math.max(...rows.map(({ length }) => length));
  const padded = new Int32Array(rows.length * longest);
  for (const [i, row] of rows.entries()) padded.set(row, i * longest);
  return i32(padded, [rows.length, longest]);
}

/** A batch's sequence: ids, sources, latents, and for the loss supervised positions and targets; all i32. */
export function sequenceFeeds(layout: SequenceLayout): HostFeeds {
  return {
    text_ids: i32(layout.textIds),
    sources: i32(layout.sources, [layout.batch, layout.sequence]),
    latent_positions: i32(layout.latentPositions),
    question_positions: i32(layout.questionPositions),
    window_index: i32(layout.windowIndex),
    supervised_positions: i32(layout.supervisedPositions),
    targets: i32(layout.targets),
  };
}

/** cos and sin of positions `first … first + count − 1` of a sequence `total` long: f32 [count, E/2]. */
export function rotaryFeeds(decoder: DecoderConfig, first: number, count: number, total: number): HostFeeds {
  const { cos, sin } = rotaryTables(decoder, first, count, total);
  const shape = [count, decoder.headSize / 2];
  return { rotary_cos: f32(cos, shape), rotary_sin: f32(sin, shape) };
}

/** cos and sin of one position of each of several sequences, `pasts[r]` long so far: f32 [R, E/2]. */
export function rotaryRowFeeds(decoder: DecoderConfig, pasts: ArrayLike<number>): HostFeeds {
  const half = decoder.headSize / 2;
  const [cos, sin] = [new Float32Array(pasts.length * half), new Float32Array(pasts.length * half)];
  for (const [row, past] of Array.from(pasts).entries()) {
    const tables = rotaryTables(decoder, past, 1, past + 1);
    cos.set(tables.cos, row * half);
    sin.set(tables.sin, row * half);
  }
  const shape = [pasts.length, half];
  return { rotary_cos: f32(cos, shape), rotary_sin: f32(sin, shape) };
}
