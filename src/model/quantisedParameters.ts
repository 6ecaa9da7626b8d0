/**
 * Rounded weights as a model's weights: a `Parameters` that answers `linear` by a product with few bits for the
 * Linears that have codes, and leaves everything else alone. Knows neither files nor how the numbers were rounded.
 */
import { add, matMulNBits, type Tensor } from '../graph/index.ts';
import { leafOf, type Parameters } from './parameters.ts';

/** The weight of one Linear in blocks of 32 inputs. */
export interface QuantisedWeight {
  readonly bits: 4 | 8;
  /** u8 [out, ⌈in/32⌉, 4·bits]. */
  readonly codes: Tensor;
  /** f32 [out, ⌈in/32⌉]. */
  readonly scales: Tensor;
}

/** `base` with rounded weights, by their full names: `model.layers.0.self_attn.q_proj.weight`. */
export function withQuantised(
  base: Parameters,
  weights: ReadonlyMap<string, QuantisedWeight>,
  prefix = '',
): Parameters {
  return {
    find: (name) => base.find(name),
    get: (name) => base.get(name),
    linear: (name, x) => {
      const weight = weights.get(prefix + leafOf(name, 'weight'));
      if (weight === undefined) return base.linear(name, x);
      const { bits, codes, scales } = weight;
      const y = matMulNBits(x, codes, scales, { bits, activations: 'int8' });
      const bias = base.find(leafOf(name, 'bias'));
      return bias === undefined ? y : add(y, bias);
    },
    in: (inner) => withQuantised(base.in(inner), weights, `${prefix}${inner}.`),
  };
}
