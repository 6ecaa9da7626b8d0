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
 * A whole random model: matrices and the patch convolution normal with standard deviation 1/√fan-in, embedding
 * tables normal with `embeddingStd`, norms' weights 1, all biases 0.
 */
export function randomValues(random: Random, embeddingStd = 0.02): InitialValues {
  return (name, shapes, dtype) => {
    const fanIn = isBias(name) ? undefined : fanInOf(name, shapes);
    const isTable = /\.(embed_tokens|position_embedding)\.weight$/.test(name);
    const std = isTable ? embeddingStd : 1 / Math.sqrt(fanIn ?? 1);
    const stream = random.fork(name);
    return generateTensor(countOf(name, shapes), dtype, (piece) => {
      if (fanIn === undefined) piece.fill(isBias(name) ? 0 : 1);
      else stream.fillNormal(piece, std);
    });
  };
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
