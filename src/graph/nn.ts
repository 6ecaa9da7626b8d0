/**
 * What neural networks are made of, composed from the op table: products with weights, attention, pooling,
 * losses. Usable for any model.
 */
import { type Dim, formatShape, multiplyDims, type Shape } from './dims.ts';
import {
  add,
  argMax,
  dimOf,
  dimValue,
  divide,
  equal,
  gather,
  gatherElements,
  iota,
  less,
  logSoftmax,
  matMul,
  max,
  maximum,
  multiply,
  negate,
  reshape,
  scatterAdd,
  scatterElementsAdd,
  softmax,
  sqrt,
  square,
  subtract,
  sum,
  transpose,
  where,
  withGradient,
} from './functions.ts';
import { constant, scalar, type Tensor } from './tensor.ts';

/** The lowest finite f32: added to a score, it leaves no weight after the softmax. */
export const LOWEST = -3.4028234663852886e38;

/** `x @ weightᵀ + bias`. x: [..., in]; weight: [out, in]; bias: [out] → [..., out]. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const product = matMul(x, weight, { transposeB: true });
  return bias === undefined ? product : add(product, bias);
}

/** Rows of `table` [V, D] for `ids` [...]. Rows looked up by `paddingId` give the table no gradient. */
export function embedding(table: Tensor, ids: Tensor, paddingId?: number): Tensor {
  const rows = gather(table, ids);
  if (paddingId === undefined) return rows;
  const rule = (g: Tensor) => {
    const flat = reshape(ids, [-1]);
    const padding = reshape(equal(flat, paddingId), [dimOf(flat, 0), 1]);
    const width = dimOf(table, -1);
    const kept = where(padding, scalar(0, g.dtype), reshape(g, [dimOf(flat, 0), width]));
    return [scatterAdd(kept, flat, dimOf(table, 0))];
  };
  return withGradient(rows, [table], rule);
}

/** Splits the last axis into heads and brings them forward: [B, S, H·E] → [B, H, S, E]. */
export function splitHeads(x: Tensor, heads: number): Tensor {
  const headSize = Number(dimOf(x, -1)) / heads;
  return transpose(reshape(x, [dimOf(x, 0), dimOf(x, 1), heads, headSize]), [0, 2, 1, 3]);
}

/** The way back: [B, H, S, E] → [B, S, H·E]. */
export function mergeHeads(x: Tensor): Tensor {
  const [batch, heads, sequence, size] = x.shape as readonly [Dim, Dim, Dim, Dim];
  return reshape(transpose(x, [0, 2, 1, 3]), [batch, sequence, multiplyDims(heads, size)]);
}

/** Is shown the weights of an attention, whose rows sum to one: [B, H, S, T]. */
export type ObserveAttention = (weights: Tensor) => void;

/**
 * Scaled dot-product attention with grouped keys. q: [B, H, S, E]; k, v: [B, K, T, E] with K dividing H;
 * bias: added to the scores, [B or 1, S or 1, T] → [B, H, S, E]. observe: sees the weights on their way.
 *
 * Its gradient is written out: `Σ_t dP·P` equals `Σ_e dO·O`, which is shorter by T/E.
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  scale: number,
  bias?: Tensor,
  observe?: ObserveAttention,
): Tensor {
  const [batch, heads, sequence, size] = q.shape as readonly [Dim, number, Dim, Dim];
  const kvHeads = k.shape[1] as number;
  if (heads % kvHeads !== 0) {
    throw new Error(`attention: ${heads} heads are no multiple of the ${kvHeads} of ${formatShape(k.shape)}`);
  }
  // The H/K heads that share a key stand one after the other: they are more rows of one product.
  const grouped: Shape = [batch, kvHeads, multiplyDims(heads / kvHeads, sequence), size];
  const rows = reshape(q, grouped);
  const scores = matMul(rows, k, { transposeB: true, scale });
  const weights = softmax(bias === undefined ? scores : addBias(scores, bias, heads / kvHeads, sequence));
  observe?.(reshape(weights, [batch, heads, sequence, dimOf(k, 2)]));
  const output = matMul(weights, v);
  const rule = (g: Tensor) => {
    const gRows = reshape(g, grouped);
    const towardsWeights = matMul(gRows, v, { transposeB: true });
    const inner = sum(multiply(gRows, output), [-1], { keepDims: true });
    const towardsScores = multiply(weights, subtract(towardsWeights, inner));
    return [
      reshape(matMul(towardsScores, k, { scale }), q.shape),
      matMul(towardsScores, rows, { transposeA: true, scale }),
      matMul(weights, gRows, { transposeA: true }),
    ];
  };
  return withGradient(reshape(output, q.shape), [q, k, v], rule);
}

function addBias(scores: Tensor, bias: Tensor, group: number, sequence: Dim): Tensor {
  const [batch, kvHeads, , keys] = scores.shape as readonly [Dim, Dim, Dim, Dim];
  const [biasBatch, biasRows, biasKeys] = bias.shape as readonly [Dim, Dim, Dim];
  if (group === 1) return add(scores, reshape(bias, [biasBatch, 1, biasRows, biasKeys]));
  const split = reshape(scores, [batch, kvHeads, group, sequence, keys]);
  return reshape(add(split, reshape(bias, [biasBatch, 1, 1, biasRows, biasKeys])), scores.shape);
}

/** [1, S, S]: 0 where a row may see a column (itself and before), the lowest value elsewhere. */
export function causalBias(sequence: Dim): Tensor {
  const row = reshape(iota(sequence), [1, sequence, 1]);
  const column = reshape(iota(sequence), [1, 1, sequence]);
  return where(less(row, column), scalar(LOWEST), scalar(0));
}

/**
 * Row r of the result is the elementwise maximum of rows `groups[r]` of x. x: [B, R, D] → [B, M, D].
 * Every group has the same length; a shorter one repeats a member.
 */
export function maxOverRows(x: Tensor, groups: readonly (readonly number[])[]): Tensor {
  const [batch, rows, width] = x.shape as readonly [Dim, Dim, Dim];
  const length = groups[0]?.length ?? 0;
  const members = groups.flat();
  const gathered = reshape(gather(x, constant(Int32Array.from(members), 'i32', [members.length]), 1), [
    batch,
    groups.length,
    length,
    width,
  ]);
  const rule = (g: Tensor) => {
    const offsets = BigInt64Array.from(groups, (_, i) => BigInt(i * length));
    const at = add(argMax(gathered, 2), constant(offsets, 'i64', [1, groups.length, 1]));
    const sources = gather(constant(BigInt64Array.from(members, BigInt), 'i64', [members.length]), at);
    return [scatterElementsAdd(g, sources, 1, rows)];
  };
  return withGradient(max(gathered, 2), [x], rule);
}

/** `a·b / (|a|·|b|)` over the last axis: [..., D], [..., D] → [...]. */
export function cosineSimilarity(a: Tensor, b: Tensor): Tensor {
  const norm = (x: Tensor) => sqrt(maximum(sum(square(x), [-1]), 1e-16));
  return divide(sum(multiply(a, b), [-1]), multiply(norm(a), norm(b)));
}

/** Mean negative log-likelihood. logits: [N, V]; targets: [N] ids → scalar; 0 when N is 0. */
export function crossEntropy(logits: Tensor, targets: Tensor): Tensor {
  const rows = dimOf(logits, 0);
  const likelihood = gatherElements(logSoftmax(logits), reshape(targets, [rows, 1]), -1);
  return divide(negate(sum(likelihood)), maximum(dimValue(rows, logits.dtype), 1));
}
