/**
 * Initial values of fresh weights, each tensor from a stream named after it, so that neither the order of writing
 * nor the other tensors change it.
 *
 * Knows tensor names and shapes, not files. Source: PyTorch's `nn.Linear.reset_parameters` (kaiming uniform with
 * a = √5, which is U(±1/√fan-in)) and `nn.LayerNorm`.
 */
import type { Random } from '../common/random.ts';
import type { FusionConfig } from '../model/config.ts';
import type { Shape } from '../model/weights.ts';
import { elementsOf, generateTensor, type WeightDtype } from './tensorBytes.ts';
import { placedValues } from './towerStart.ts';

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
 * embeddings normal with `embeddingStd`, norms' weights 1, all biases 0. The vision tower starts with a sense of
 * place, which it would need many pictures to find (`towerStart.ts`), and a patch convolution `PATCH_GAIN` as large:
 * what a patch shows should outweigh where it is.
 */
export function randomValues(config: FusionConfig, random: Random, embeddingStd = 0.02): InitialValues {
  return (name, shapes, dtype) => {
    const count = countOf(name, shapes);
    const placed = placedValues(config.vision, name);
    if (placed !== undefined) {
      return generateTensor(count, dtype, (piece, offset) => {
        piece.set(placed.subarray(offset, offset + piece.length));
      });
    }
    const fanIn = isBias(name) ? undefined : fanInOf(name, shapes);
    const gain = name.endsWith('.patch_embedding.weight') ? PATCH_GAIN : 1;
    const std = name.endsWith('.embed_tokens.weight') ? embeddingStd : gain / Math.sqrt(fanIn ?? 1);
    const stream = random.fork(isInTower(name) ? name.replace('.k_proj.', '.q_proj.') : name);
    return generateTensor(count, dtype, (piece) => {
      if (fanIn === undefined) piece.fill(isBias(name) ? 0 : 1);
      else stream.fillNormal(piece, std);
    });
  };
}

const PATCH_GAIN = 3;

/** A tower's keys begin as its queries, so that patches attend to what is like them (after arXiv 2305.09828). */
const isInTower = (name: string): boolean => name.startsWith('model.vision_tower.');

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
