/**
 * What a vision tower of random weights knows of place from the start: its position table holds sines and cosines of
 * row and column (Beyer et al. 2022, arXiv 2205.01580), and each head of its first layers looks at one neighbour, as a
 * convolution does (Cordonnier et al. 2019, arXiv 1911.03584; Zheng et al. 2024, arXiv 2401.12511).
 *
 * Knows tensor names and the tower's sizes: V width, P patches.
 */
import type { VisionConfig } from '../model/config.ts';

/** Layers whose heads begin with a neighbour each. */
const NEIGHBOUR_LAYERS = 4;
/** How large the rows of queries and keys are: the larger, the less a head sees beside its neighbour. */
const SHARPNESS = 2;

const NAME =
  /^model\.vision_tower\..*(?:(?<table>\.position_embedding)|\.layers\.(?<layer>\d+)\.self_attn\.(?<side>[qk])_proj)\.weight$/;

/** The values of a tensor that is about place; undefined for all others. */
export function placedValues(vision: VisionConfig, name: string): Float32Array | undefined {
  const { table, layer, side } = NAME.exec(name)?.groups ?? {};
  if (table !== undefined) return positionTable(vision);
  if (layer === undefined || Number(layer) >= NEIGHBOUR_LAYERS) return undefined;
  return neighbourProjection(vision, Number(layer), side === 'q');
}

/**
 * Of the patch in row r and column c: sin and cos of c·ω, then of r·ω, for ω from 1 down to 1/√P, [P, V]. Columns
 * beyond a multiple of four stay 0.
 */
function positionTable({ patches, hiddenSize: width, grid }: VisionConfig): Float32Array {
  const waves = Math.floor(width / 4);
  const table = new Float32Array(patches * width);
  for (let patch = 0; patch < patches; patch++) {
    for (let wave = 0; wave < waves; wave++) {
      const angles = [patch % grid, Math.floor(patch / grid)].map(
        (at) => at * frequencyOf(wave, waves, grid),
      );
      for (const [axis, angle] of angles.entries()) {
        const { sin, cos } = columnsOf(axis, wave, waves);
        table[patch * width + sin] = Math.sin(angle);
        table[patch * width + cos] = Math.cos(angle);
      }
    }
  }
  return table;
}

/**
 * The projection [V, V] of queries or keys with which each head looks at one neighbour: to the right, below, …, in odd
 * layers across the corners. A query is the position's waves turned by the step to the neighbour, a key the waves as
 * they are, so that their product is largest a step away. A head has room for its share of the waves, the shortest.
 */
function neighbourProjection(
  { hiddenSize: width, heads, grid }: VisionConfig,
  layer: number,
  isQuery: boolean,
): Float32Array {
  const matrix = new Float32Array(width * width);
  const waves = Math.floor(width / 4);
  const room = Math.floor(width / heads / 4);
  for (let head = 0; head < heads; head++) {
    for (const [axis, distance] of neighbourStep(head, heads, layer).entries()) {
      for (let wave = 0; wave < room; wave++) {
        const turn = isQuery ? distance * frequencyOf(wave, waves, grid) : 0;
        const { sin, cos } = columnsOf(axis, wave, waves);
        const row = (head * (width / heads) + 2 * (axis * room + wave)) * width;
        matrix[row + sin] = SHARPNESS * Math.cos(turn);
        matrix[row + cos] = SHARPNESS * Math.sin(turn);
        matrix[row + width + sin] = -SHARPNESS * Math.sin(turn);
        matrix[row + width + cos] = SHARPNESS * Math.cos(turn);
      }
    }
  }
  return matrix;
}

/** From a patch to the neighbour a head looks at: columns, rows. */
function neighbourStep(head: number, heads: number, layer: number): readonly [number, number] {
  const radius = layer % 2 === 0 ? 1 : Math.SQRT2;
  const angle = (2 * Math.PI * (head + (layer % 2) / 2)) / heads;
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}

/** Radians a patch, of wave 0 … waves − 1. */
const frequencyOf = (wave: number, waves: number, grid: number): number =>
  grid ** -(wave / Math.max(1, waves - 1));

/** Where in an embedding a wave along an axis (0 columns, 1 rows) is. */
const columnsOf = (axis: number, wave: number, waves: number) => ({
  sin: 2 * axis * waves + wave,
  cos: (2 * axis + 1) * waves + wave,
});
