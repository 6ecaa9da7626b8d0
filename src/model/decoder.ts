/**
 * One decoder layer of Llama 3.1 or Phi-3.5: RMSNorm → grouped-query attention with rotary positions →
 * RMSNorm → SwiGLU. Shapes: B batch, S sequence, D width, H heads, K kv heads, E head size.
 */
import {
  add,
  concat,
  type Dim,
  dimOf,
  gather,
  matMul,
  multiply,
  multiplyDims,
  recomputedActivation,
  reshape,
  rmsNorm,
  rotary,
  silu,
  softmax,
  split,
  type Tensor,
  transpose,
} from '../graph/index.ts';
import { attention, causalBias, mergeHeads, type ObserveAttention, splitHeads } from '../graph/nn.ts';
import type { DecoderConfig } from './config.ts';
import type { Parameters } from './parameters.ts';

/** cos and sin of the rotary angles for each position of the sequence: [S, E/2]. */
export interface RotaryTables {
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** Keys (rotated) and values of a layer: [B, K, S, E]. */
export interface KeysValues {
  readonly keys: Tensor;
  readonly values: Tensor;
}

/** How the new rows of a layer attend: given scaled queries [B, H, S, E] and this step's keys and values. */
export type Attend = (q: Tensor, kv: KeysValues) => Tensor;

/** Every row attends to itself and those before it. observe: sees how, [B, H, S, S]. */
export function causal(sequence: Tensor['shape'][number], observe?: ObserveAttention): Attend {
  const bias = causalBias(sequence);
  return (q, { keys, values }) => attention(q, keys, values, 1, bias, observe);
}

/**
 * x: [B, S, D] → the layer's output [B, S, D], and the keys and values it made. rows: the positions (b·S + s) whose
 * output is wanted, i32 [M], all unless given; then the output is [M, D], and what follows the attention is computed
 * for them alone.
 */
export function decoderLayer(
  p: Parameters,
  x: Tensor,
  tables: RotaryTables,
  c: DecoderConfig,
  attend: Attend,
  rows?: Tensor,
): { readonly hiddenStates: Tensor; readonly kv: KeysValues } {
  const normed = rmsNorm(x, p.get('input_layernorm.weight'), c.rmsNormEps);
  const { q, kv } = queryKeysValues(p.in('self_attn'), normed, tables, c);
  const attended = mergeHeads(attend(q, kv));
  const wanted = (y: Tensor) => (rows === undefined ? y : atPositions(y, rows));
  const h = add(wanted(x), p.linear('self_attn.o_proj', wanted(attended)));
  const inner = rmsNorm(h, p.get('post_attention_layernorm.weight'), c.rmsNormEps);
  return { hiddenStates: add(h, swiGlu(p.in('mlp'), inner, c)), kv };
}

/** Rows of x [B, S, D] at positions (b·S + s), i32 [M] → [M, D]. */
export function atPositions(x: Tensor, positions: Tensor): Tensor {
  return gather(reshape(x, [-1, dimOf(x, -1)]), positions);
}

/**
 * Queries are scaled by the tables that turn them: it costs nothing, and ONNX Runtime multiplies one row with the keys
 * of a cache in place only where the product has no factor.
 */
function queryKeysValues(
  p: Parameters,
  x: Tensor,
  { cos, sin }: RotaryTables,
  c: DecoderConfig,
): { readonly q: Tensor; readonly kv: KeysValues } {
  const [own, shared] = [c.heads * c.headSize, c.kvHeads * c.headSize];
  const [q, k, v] =
    c.kind === 'phi3'
      ? split(p.linear('qkv_proj', x), -1, [own, shared, shared])
      : ['q_proj', 'k_proj', 'v_proj'].map((name) => p.linear(name, x));
  const scale = c.headSize ** -0.5;
  return {
    q: rotary(splitHeads(q as Tensor, c.heads), multiply(cos, scale), multiply(sin, scale)),
    kv: {
      keys: rotary(splitHeads(k as Tensor, c.kvHeads), cos, sin),
      values: splitHeads(v as Tensor, c.kvHeads),
    },
  };
}

/** `down(silu(gate(x)) · up(x))`; Phi-3 keeps gate and up in one weight, gate first. */
function swiGlu(p: Parameters, x: Tensor, c: DecoderConfig): Tensor {
  const [gate, up] =
    c.kind === 'phi3'
      ? split(p.linear('gate_up_proj', x), -1, [c.intermediateSize, c.intermediateSize])
      : ['gate_proj', 'up_proj'].map((name) => p.linear(name, x));
  return recomputedActivation(
    (y) => multiply(silu(y), up as Tensor),
    (y) => p.linear('down_proj', y),
    gate as Tensor,
  );
}

/**
 * S new positions of each of Q sequences, which attend to their sequence's row of a cache (of no slots, where there is
 * nothing yet) and causally to each other. They stand side by side, sequence after sequence: q [1, H, Q·S, E], keys and
 * values [1, K, Q·S, E]. past: keys and values [Q, K, C, E]; `hidden` [Q, C] hides the slots that are not used;
 * `later` [S, S] what comes after a position. `cached` is this with one new position, `causal` with no slots.
 */
export function continued(past: KeysValues, hidden: Tensor, later: Tensor): Attend {
  const [sequences, kvHeads, slots, size] = past.keys.shape as readonly [Dim, number, Dim, Dim];
  const positions = dimOf(later, 0);
  const apart = (x: Tensor) => {
    const rows = reshape(transpose(x, [0, 2, 1, 3]), [sequences, positions, dimOf(x, 1), size]);
    return transpose(rows, [0, 2, 1, 3]);
  };
  return (q, now) => {
    const heads = dimOf(q, 1) as number;
    const grouped = multiplyDims(heads / kvHeads, positions);
    const rows = reshape(apart(q), [sequences, kvHeads, grouped, size]);
    const [keys, values] = [apart(now.keys), apart(now.values)];
    const before = add(
      matMul(rows, past.keys, { transposeB: true }),
      reshape(hidden, [sequences, 1, 1, slots]),
    );
    const own = matMul(rows, keys, { transposeB: true });
    const byPosition = reshape(own, [sequences, kvHeads, heads / kvHeads, positions, positions]);
    const seen = reshape(add(byPosition, later), own.shape);
    const weights = softmax(concat([before, seen], -1));
    const [toPast, toOwn] = split(weights, -1, [slots, positions]);
    const output = add(matMul(toPast as Tensor, past.values), matMul(toOwn as Tensor, values));
    const bySequence = transpose(reshape(output, [sequences, heads, positions, size]), [0, 2, 1, 3]);
    const together = reshape(bySequence, [1, multiplyDims(sequences, positions), heads, size]);
    return transpose(together, [0, 2, 1, 3]);
  };
}

/**
 * One new position of each of R sequences, which attends to its sequence's row of a cache and to itself. The new
 * positions stand side by side: q [1, H, R, E], keys and values [1, K, R, E]. past: keys and values [R, K, C, E];
 * `bias` [R, C] hides the slots that are not used. The cache is read in place: scores against it and against the
 * new position are computed apart and joined before the softmax.
 */
export function cached(past: KeysValues, bias: Tensor): Attend {
  return (q, now) => {
    const [heads, sequences, size] = [dimOf(q, 1) as number, dimOf(q, 2), dimOf(q, 3)];
    const [kvHeads, slots] = [dimOf(now.keys, 1) as number, dimOf(past.keys, 2)];
    const bySequence = (x: Tensor) => transpose(x, [2, 1, 0, 3]);
    const rows = reshape(bySequence(q), [sequences, kvHeads, heads / kvHeads, size]);
    const hidden = reshape(bias, [sequences, 1, 1, slots]);
    const before = add(matMul(rows, past.keys, { transposeB: true }), hidden);
    const own = matMul(rows, bySequence(now.keys), { transposeB: true });
    const weights = softmax(concat([before, own], -1));
    const [toPast, toSelf] = split(weights, -1, [slots, 1]);
    const output = add(
      matMul(toPast as Tensor, past.values),
      matMul(toSelf as Tensor, bySequence(now.values)),
    );
    return reshape(bySequence(reshape(output, [sequences, heads, 1, size])), q.shape);
  };
}
