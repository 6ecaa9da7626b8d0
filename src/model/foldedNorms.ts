/**
 * Norms folded into the Linears behind them, for training: `Linear(x̂·w + b) = x̂·(W∘w)ᵀ + (W·b + bias)` with x̂ the
 * norm without weights. The products with w and b then are of the size of the weights, not of the hidden states, and
 * Linears behind norms of the same x share one x̂: fewer passes over memory where weights are the smaller of the two.
 */
import {
  add,
  dimOf,
  fill,
  layerNorm,
  matMul,
  multiply,
  reshape,
  rmsNorm,
  sizeOf,
  type Tensor,
} from '../graph/index.ts';
import { linear } from '../graph/nn.ts';
import { leafOf, type Parameters } from './parameters.ts';

/** Elements of the largest weight into which a norm is folded. */
const SMALL = 131_072;

type Norm = Tensor<'layerNorm'> | Tensor<'rmsNorm'>;

/** `base`, whose small Linears take over the weights of the norm that makes their x, if one does. */
export function withFoldedNorms(base: Parameters): Parameters {
  return scoped(base, { bare: new WeakMap(), linears: new WeakMap() });
}

/** What is folded once, however often it is used. */
interface Known {
  /** The norm without weights, by what it is a norm of. */
  readonly bare: WeakMap<Tensor, Tensor>;
  /** By the Linear's weight and the norm's. */
  readonly linears: WeakMap<Tensor, WeakMap<Tensor, FoldedLinear>>;
}

interface FoldedLinear {
  readonly weight: Tensor;
  readonly bias: Tensor | undefined;
}

function scoped(base: Parameters, known: Known): Parameters {
  return {
    find: (name) => base.find(name),
    get: (name) => base.get(name),
    linear: (name, x) => {
      const weight = base.get(leafOf(name, 'weight'));
      if (!isNorm(x) || Number(sizeOf(weight.shape)) > SMALL) return base.linear(name, x);
      const folded = foldedLinear(x, weight, base.find(leafOf(name, 'bias')), known);
      return linear(bareNorm(x, known), folded.weight, folded.bias);
    },
    in: (inner) => scoped(base.in(inner), known),
  };
}

const isNorm = (x: Tensor): x is Norm => x.op === 'layerNorm' || x.op === 'rmsNorm';

function bareNorm(norm: Norm, { bare }: Known): Tensor {
  const [x, weight] = norm.inputs as readonly [Tensor, Tensor];
  const made = bare.get(x);
  if (made?.op === norm.op && (made as Norm).attributes.epsilon === norm.attributes.epsilon) return made;
  const { epsilon } = norm.attributes;
  const ones = fill(1, weight.shape, weight.dtype);
  const result =
    norm.op === 'rmsNorm'
      ? rmsNorm(x, ones, epsilon)
      : layerNorm(x, ones, fill(0, weight.shape, weight.dtype), epsilon);
  bare.set(x, result);
  return result;
}

function foldedLinear(
  norm: Norm,
  weight: Tensor,
  bias: Tensor | undefined,
  { linears }: Known,
): FoldedLinear {
  const [, normWeight, normBias] = norm.inputs as readonly [Tensor, Tensor, Tensor?];
  const ofWeight = linears.get(weight) ?? new WeakMap<Tensor, FoldedLinear>();
  linears.set(weight, ofWeight);
  const made = ofWeight.get(normWeight);
  if (made !== undefined) return made;
  const result = { weight: multiply(weight, normWeight), bias: foldedBias(weight, normBias, bias) };
  ofWeight.set(normWeight, result);
  return result;
}

function foldedBias(weight: Tensor, normBias: Tensor | undefined, bias: Tensor | undefined) {
  if (normBias === undefined) return bias;
  const column = matMul(weight, reshape(normBias, [dimOf(normBias, 0), 1]));
  const moved = reshape(column, [dimOf(weight, 0)]);
  return bias === undefined ? moved : add(moved, bias);
}
