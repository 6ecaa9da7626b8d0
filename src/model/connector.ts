/**
 * Between the two feature spaces: the projectors, the image tokens, and the tiles' grid from which latents and
 * context are pooled. Source: paper sections 3.1–3.2; config keys `mm_projector_type`, `image_tokens_side`.
 */
import { constant, type Dim, dimOf, gelu, matMul, reshape, type Tensor } from '../graph/index.ts';
import { maxOverRows } from '../graph/nn.ts';
import type { FusionConfig } from './config.ts';
import type { Parameters } from './parameters.ts';

/** `mm_projector` or `aux_projector`: Linears with erf-GELU between them. x: [..., in] → [..., out]. */
export function projector(p: Parameters, x: Tensor, { projectorType }: FusionConfig): Tensor {
  if (projectorType.kind === 'linear') return p.linear('', x);
  let y = x;
  for (let i = 0; i < projectorType.depth; i++) {
    y = p.linear(`${2 * i}`, i === 0 ? y : gelu(y, 'none'));
  }
  return y;
}

/** FUSION-L: the image tokens resized to n×n, bilinear with half-pixel centres. [B, P, D] → [B, n², D]. */
export function resizeImageTokens(tokens: Tensor, { vision, imageTokensSide }: FusionConfig): Tensor {
  if (imageTokensSide === undefined || imageTokensSide === vision.grid) return tokens;
  const matrix = bilinearMatrix(vision.grid, imageTokensSide);
  return matMul(constant(matrix, 'f32', [imageTokensSide ** 2, vision.patches]), tokens);
}

/** [n², g²]: row (y, x) holds the four weights of its neighbours in the g×g grid. */
function bilinearMatrix(from: number, to: number): Float32Array {
  const matrix = new Float32Array(to ** 2 * from ** 2);
  const weights = Array.from({ length: to }, (_, i) => bilinearWeights(i, from, to));
  for (const [y, rows] of weights.entries()) {
    for (const [x, columns] of weights.entries()) {
      const base = (y * to + x) * from ** 2;
      for (const [i, a] of rows) {
        for (const [j, b] of columns)
          matrix[base + i * from + j] = (matrix[base + i * from + j] ?? 0) + a * b;
      }
    }
  }
  return matrix;
}

function bilinearWeights(index: number, from: number, to: number): readonly (readonly [number, number])[] {
  const centre = Math.max(((index + 0.5) * from) / to - 0.5, 0);
  const low = Math.floor(centre);
  const high = Math.min(low + 1, from - 1);
  return [
    [low, 1 - (centre - low)],
    [high, centre - low],
  ];
}

/** What a question's latents start from and look at. */
export interface TileContext {
  /** Initial latents [B, q, D]. */
  readonly latents: Tensor;
  /** Context cells of each latent [B, q, w², D]. */
  readonly windows: Tensor;
}

/**
 * Pools the tiles' projected features adaptively, to a×a for the latents and (a·w)×(a·w) for the context.
 * features: [B, 4·P, D], tile by tile; queryLength = a².
 */
export function poolTiles(features: Tensor, config: FusionConfig, queryLength: number): TileContext {
  const side = Math.sqrt(queryLength);
  const { window } = config.interaction;
  const { grid } = config.vision;
  const [batch, , width] = features.shape as readonly [Dim, Dim, Dim];
  const latents = maxOverRows(features, poolingGroups(grid, latentOrder(side, 1)));
  const context = maxOverRows(features, poolingGroups(grid, latentOrder(side, window)));
  return { latents, windows: reshape(context, [batch, queryLength, window ** 2, width]) };
}

interface Cells {
  /** Cells along a side of the pooled grid. */
  readonly side: number;
  /** (row, column) of each cell, in the order wanted. */
  readonly order: readonly (readonly [number, number])[];
}

/** The (a·w)² cells, latent by latent, each latent's w×w window row by row. */
function latentOrder(side: number, window: number): Cells {
  const range = (n: number) => Array.from({ length: n }, (_, i) => i);
  const order = range(side).flatMap((y) =>
    range(side).flatMap((x) =>
      range(window).flatMap((i) => range(window).map((j) => [y * window + i, x * window + j] as const)),
    ),
  );
  return { side: side * window, order };
}

/** The cells that adaptive pooling of `size` to `side` cells takes into cell i: floor(i·N/M) … ceil((i+1)·N/M). */
export function poolingBin(i: number, side: number, size: number): readonly number[] {
  const first = Math.floor((i * size) / side);
  const end = Math.ceil(((i + 1) * size) / side);
  return Array.from({ length: end - first }, (_, k) => first + k);
}

/** For each pooled cell the rows of the tile features in its bin; shorter bins repeat their last member. */
function poolingGroups(grid: number, { side, order }: Cells): readonly (readonly number[])[] {
  const size = 2 * grid;
  const bin = (i: number) => poolingBin(i, side, size);
  const longest = Math.max(...Array.from({ length: side }, (_, i) => bin(i).length));
  const filled = (i: number) => {
    const members = bin(i);
    return Array.from({ length: longest }, (_, k) => members[Math.min(k, members.length - 1)] ?? 0);
  };
  return order.map(([row, column]) =>
    filled(row).flatMap((y) => filled(column).map((x) => tileRow(y, x, grid))),
  );
}

/** Where cell (y, x) of the 2g×2g grid stands among the 4·g² rows, which go tile by tile. */
function tileRow(y: number, x: number, grid: number): number {
  const tile = Math.floor(y / grid) * 2 + Math.floor(x / grid);
  return tile * grid ** 2 + (y % grid) * grid + (x % grid);
}

/** [B·4, P, D] → [B, 4·P, D]. */
export function joinTiles(features: Tensor, batch: Dim, patches: number): Tensor {
  return reshape(features, [batch, 4 * patches, dimOf(features, -1)]);
}
