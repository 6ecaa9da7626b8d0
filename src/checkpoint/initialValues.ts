/**
 * Initial values of fresh weights, each tensor from a stream named after it, so that neither the order of writing
 * nor the other tensors change it.
 *
 * Knows tensor names and shapes, not files. Source: PyTorch's `nn.Linear.reset_parameters` (kaiming uniform with
 * a = √5, which is U(±1/√fan-in)) and `nn.LayerNorm`.
 */
import type { Random } from '../common/random.ts';
import type { Shape } from '../model/weights.ts';
import { elementsOf, generateTensor, type WeightDtype } from './tensorBytes.ts';

export type Shapes = ReadonlyMap<string, Shape>;

/** The bytes in `dtype` of tensor `name`, one of `shapes`. */
export type InitialValues = (name: string, shapes: Shapes, dtype: WeightDtype) => Uint8Array;

/**
 * As PyTorch makes a new module: matrices and the biases of Linears U(±1/√fan-in), norms' weights 1, their
 * biases 0.
 */
export function torchValues(random: Random): InitialValues {
  return (name, shapes, dtype) => {
    const fanIn = fanInOf(name, shapes);
    const stream = random.fork(name);
    return generateTensor(countOf(name, shapes), dtype, (piece) => {
      if (fanIn === undefined) piece.fill(isBias(name) ? 0 : 1);
      else fillUniform(piece, 1 / Math.sqrt(fanIn), stream);
    });
  };
}

/**
 * A whole random model: matrices and the patch convolution normal with standard deviation 1/√fan-in, token
 * embeddings normal with `embeddingStd`, norms' weights 1, all biases 0.
 *
 * The vision tower starts with a sense of place, which it would need many pictures to find: its position table holds
 * sines and cosines of row and column (Beyer et al. 2022, arXiv 2205.01580), as large as what it is added to, and its
 * keys' projections begin as the queries', so that patches attend to what is like them and near them (after Trockman
 * & Kolter 2023, arXiv 2305.09828).
 */
export function randomValues(random: Random, embeddingStd = 0.02): InitialValues {
  return (name, shapes, dtype) => {
    const count = countOf(name, shapes);
    if (name.endsWith('.position_embedding.weight')) {
      const table = positionTable(shapes.get(name) ?? []);
      return generateTensor(count, dtype, (piece, offset) => {
        piece.set(table.subarray(offset, offset + piece.length));
      });
    }
    const fanIn = isBias(name) ? undefined : fanInOf(name, shapes);
    const std = name.endsWith('.embed_tokens.weight') ? embeddingStd : 1 / Math.sqrt(fanIn ?? 1);
    const stream = random.fork(isInTower(name) ? name.replace('.k_proj.', '.q_proj.') : name);
    return generateTensor(count, dtype, (piece) => {
      if (fanIn === undefined) piece.fill(isBias(name) ? 0 : 1);
      else stream.fillNormal(piece, std);
    });
  };
}

const isInTower = (name: string): boolean => name.startsWith('model.vision_tower.');

/**
 * Of the patch in row r and column c: sin and cos of c·ω, then of r·ω, for ω from 1 down to 1/√P, [P, V]. Columns
 * beyond a multiple of four stay 0.
 */
function positionTable([patches = 0, width = 0]: Shape): Float32Array {
  const side = Math.round(Math.sqrt(patches));
  const waves = Math.floor(width / 4);
  const table = new Float32Array(patches * width);
  for (let patch = 0; patch < patches; patch++) {
    for (let wave = 0; wave < waves; wave++) {
      const frequency = side ** -(wave / Math.max(1, waves - 1));
      const angles = [(patch % side) * frequency, Math.floor(patch / side) * frequency];
      for (const [axis, angle] of angles.entries()) {
        table[patch * width + 2 * axis * waves + wave] = Math.sin(angle);
        table[patch * width + (2 * axis + 1) * waves + wave] = Math.cos(angle);
      }
    }
  }
  return table;
}

/** Uniform numbers in (-bound, bound), one word drawn for each. */
export function fillUniform(target: Float32Array, bound: number, random: Random): void {
  for (let i = 0; i < target.length; i++) target[i] = bound * ((random.uint32() + 0.5) / 2 ** 31 - 1);
}

/** The inputs of the matrix `name`, or of the matrix the bias `name` belongs to; undefined for norms. */
function fanInOf(name: string, shapes: Shapes): number | undefined {
  const [, ...inputs] = shapes.get(name.replace(/\.bias$/, '.weight')) ?? [];
  return inputs.length === 0 ? undefined : elementsOf(inputs);
}

function isBias(name: string): boolean {
  return name.endsWith('.bias');
}

function countOf(name: string, shapes: Shapes): number {
  return elementsOf(shapes.get(name) ?? []);
}
