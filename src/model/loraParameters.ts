/**
 * Low-rank adapters over a model's weights: a `Parameters` that answers `linear` with
 * `W·x + (alpha / r)·B·A·dropout(x)` for the Linears that have factors, and leaves everything else alone.
 *
 * Knows neither file names nor how the factors are trained. Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1;
 * dropout on the adapter's input as in PEFT.
 */
import { add, dimOf, matMul, type Tensor } from '../graph/index.ts';
import { dropout, type RowHashes } from './dropout.ts';
import type { Parameters } from './parameters.ts';

/** The factors of one Linear. */
export interface LowRank {
  /** [r, in]. */
  readonly a: Tensor;
  /** [out, r]. */
  readonly b: Tensor;
  /** Elements of x to be dropped; absent outside of training. */
  readonly dropout?: { readonly rate: number; readonly rows: RowHashes } | undefined;
}

/**
 * `base` with low-rank terms. factors: by the Linear's full name, as `model.layers.0.self_attn.q_proj`; alpha: the
 * product is scaled by alpha / r. The factors' Linears are applied to x [B, S, D].
 */
export function withLora(
  base: Parameters,
  factors: ReadonlyMap<string, LowRank>,
  alpha: number,
  prefix = '',
): Parameters {
  return {
    find: (name) => base.find(name),
    get: (name) => base.get(name),
    linear: (name, x) => {
      const y = base.linear(name, x);
      const found = factors.get(prefix + name);
      return found === undefined ? y : add(y, lowRankProduct(found, x, alpha));
    },
    in: (inner) => withLora(base.in(inner), factors, alpha, `${prefix}${inner}.`),
  };
}

function lowRankProduct({ a, b, dropout: drop }: LowRank, x: Tensor, alpha: number): Tensor {
  const kept = drop === undefined ? x : dropout(x, drop.rows, drop.rate);
  const scale = alpha / Number(dimOf(a, 0));
  return matMul(matMul(kept, a, { transposeB: true, scale }), b, { transposeB: true });
}
