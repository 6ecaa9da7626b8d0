/** What a random tower sees before it has seen anything: the products of queries and keys over positions alone. */
import { expect, it } from 'vitest';
import type { VisionConfig } from '../model/config.ts';
import { placedValues } from './towerStart.ts';

const vision: VisionConfig = {
  tower: 'test',
  imageSize: 64,
  patchSize: 8,
  grid: 8,
  patches: 64,
  hiddenSize: 128,
  intermediateSize: 512,
  heads: 4,
  layers: 7,
  layerNormEps: 1e-6,
};
const PREFIX = 'model.vision_tower.vision_tower.vision_model.';
const table = placedValues(vision, `${PREFIX}embeddings.position_embedding.weight`)!;

/** Of a patch, the patch that head `head` of a layer looks at most, as [columns, rows] away. */
function looksAt(layer: number, head: number, patch: number): readonly number[] {
  const { hiddenSize: width, heads, grid, patches } = vision;
  const project = (side: string, at: number) => {
    const matrix = placedValues(vision, `${PREFIX}encoder.layers.${layer}.self_attn.${side}_proj.weight`)!;
    return Array.from({ length: width / heads }, (_, i) => {
      const row = matrix.subarray(
        ((head * width) / heads + i) * width,
        ((head * width) / heads + i + 1) * width,
      );
      return row.reduce((sum, value, k) => sum + value * table[at * width + k]!, 0);
    });
  };
  const query = project('q', patch);
  const scores = Array.from({ length: patches }, (_, other) =>
    project('k', other).reduce((sum, value, i) => sum + value * query[i]!, 0),
  );
  const best = scores.indexOf(Math.max(...scores));
  return [(best % grid) - (patch % grid), Math.floor(best / grid) - Math.floor(patch / grid)];
}

it('heads of the first layers look at a neighbour each: beside, above, below, across the corners', () => {
  for (const patch of [9, 27, 50]) {
    expect([0, 1, 2, 3].map((head) => looksAt(0, head, patch))).toEqual([
      [1, 0],
      [0, 1],
      [-1, 0],
      [0, -1],
    ]);
    expect([0, 1, 2, 3].map((head) => looksAt(3, head, patch))).toEqual([
      [1, 1],
      [-1, 1],
      [-1, -1],
      [1, -1],
    ]);
  }
});

it('no two patches have one position, and neighbours are alike', () => {
  const { patches, hiddenSize } = vision;
  const rowOf = (patch: number) => [...table.subarray(patch * hiddenSize, (patch + 1) * hiddenSize)];
  const likeness = (a: number, b: number) => rowOf(a).reduce((sum, x, i) => sum + x * rowOf(b)[i]!, 0) / 64;
  for (let patch = 1; patch < patches; patch++) expect(likeness(0, patch)).toBeLessThan(0.99);
  expect(likeness(27, 28)).toBeCloseTo(likeness(27, 35), 6);
  expect(likeness(27, 28)).toBeGreaterThan(likeness(27, 30));
});

it('is about nothing else', () => {
  for (const name of [
    'layers.4.self_attn.q_proj.weight',
    'layers.0.self_attn.q_proj.bias',
    'layers.0.mlp.fc1.weight',
  ]) {
    expect(placedValues(vision, `${PREFIX}encoder.${name}`)).toBeUndefined();
  }
  expect(placedValues(vision, 'model.layers.0.self_attn.q_proj.weight')).toBeUndefined();
});
