/**
 * The vision tower: SigLIP's encoder, into which the question's tokens can be appended so that patches and
 * question attend to each other in every layer (text-guided unified vision encoding, paper section 3.1).
 * Shapes: N crops, P patches, T question tokens, V width.
 */
import {
  add,
  addDims,
  broadcastTo,
  concat,
  type Dim,
  dimOf,
  dimValue,
  divide,
  equal,
  fill,
  gatedGelu,
  gelu,
  iota,
  layerNorm,
  multiply,
  type RunLayer,
  recomputedActivation,
  reshape,
  runDirectly,
  scalar,
  slice,
  sum,
  type Tensor,
  transpose,
  where,
} from '../graph/index.ts';
import { attention, LOWEST, linear, mergeHeads, type ObserveAttention, splitHeads } from '../graph/nn.ts';
import type { FusionConfig, VisionConfig } from './config.ts';
import type { Parameters } from './parameters.ts';

/** The question inside the tower. */
export interface QuestionTokens {
  /** [N, T, V], already projected to the tower's width. */
  readonly hiddenStates: Tensor;
  /** bool [N, T]: which tokens are padding. */
  readonly padding: Tensor;
}

/** Is shown the attention of a layer of the tower, from 0: [N, H, P(+T), P(+T)], who attends to whom. */
export type ObserveTower = (layer: number, weights: Tensor) => void;

/** What the connector needs of the tower's hidden states, kept as running sums. */
export interface VisionStates {
  /** The embedding: [N, P, V], without the question. */
  readonly embedded: Tensor;
  /** hidden[n] ∥ mean(hidden[0…h−1]) ∥ mean(hidden[h…2h−1]): [N, P(+T), 3V]. */
  readonly connected: Tensor;
}

/** Where a tower stands after some of its layers. */
export interface TowerStates {
  /** [N, P(+T), V]. */
  readonly hiddenStates: Tensor;
  /** hidden[0] + … + hidden[h−1], as far as they are there. */
  readonly low: Tensor;
  /** hidden[h] + … + hidden[2h−1], as far as they are there. */
  readonly middle: Tensor | undefined;
}

/** Layers `first … last`. */
export interface TowerLayers {
  readonly first: number;
  readonly last: number;
}

/** [N, 3, S, S] → [N, P, V]: a convolution with kernel = stride = patch, as one product. */
export function embedPatches(p: Parameters, pixels: Tensor, c: VisionConfig): Tensor {
  const [crops, side] = [dimOf(pixels, 0), c.grid * c.patchSize];
  const inside = slice(slice(pixels, 2, 0, side), 3, 0, side);
  // One axis moves at a time, for which ONNX Runtime has a faster kernel: first the colours behind the rows of patches.
  const bands = reshape(inside, [crops, 3, c.grid, c.patchSize * side]);
  const lines = reshape(transpose(bands, [0, 2, 1, 3]), [
    crops,
    c.grid,
    3 * c.patchSize,
    c.grid,
    c.patchSize,
  ]);
  const patches = reshape(transpose(lines, [0, 1, 3, 2, 4]), [crops, c.patches, 3 * c.patchSize ** 2]);
  const kernel = reshape(p.get('patch_embedding.weight'), [c.hiddenSize, 3 * c.patchSize ** 2]);
  const embedded = linear(patches, kernel, p.get('patch_embedding.bias'));
  return add(embedded, p.get('position_embedding.weight'));
}

/**
 * Encodes crops, together with a question where one is given, and mixes the layers for the connector. run: applies
 * each layer; observe: sees the attention of each.
 */
export function visionTower(
  p: Parameters,
  pixels: Tensor,
  config: FusionConfig,
  question?: QuestionTokens,
  run: RunLayer = runDirectly,
  observe?: ObserveTower,
): VisionStates {
  const { embedded, states } = beginTower(p, pixels, config, question);
  const layers = { first: 0, last: config.vision.layers - 1 };
  const padding = question?.padding;
  const after = towerLayers(p, states, config, { layers, padding, run, observe });
  return { embedded, connected: connectTower(after, config) };
}

/** The patches before the first layer, and the states they are part of. */
export function beginTower(
  p: Parameters,
  pixels: Tensor,
  config: FusionConfig,
  question?: QuestionTokens,
): { readonly embedded: Tensor; readonly states: TowerStates } {
  const embedded = embedPatches(p.in('embeddings'), pixels, config.vision);
  const all = question === undefined ? embedded : concat([embedded, question.hiddenStates], 1);
  return { embedded, states: { hiddenStates: all, low: all, middle: undefined } };
}

export interface TowerWork {
  readonly layers: TowerLayers;
  /** The question's, where there is one. */
  readonly padding: Tensor | undefined;
  readonly run?: RunLayer;
  readonly observe?: ObserveTower | undefined;
}

/** Some of the tower's layers. */
export function towerLayers(
  p: Parameters,
  { hiddenStates: x, low, middle }: TowerStates,
  config: FusionConfig,
  { layers, padding, run = runDirectly, observe }: TowerWork,
): TowerStates {
  const c = config.vision;
  const half = towerHalf(config);
  for (let i = layers.first; i <= layers.last; i++) {
    const attend = attentionPattern(config, padding, i < half, observe && ((w) => observe(i, w)));
    x = run((y) => encoderLayer(p.in(`encoder.layers.${i}`), y, c, attend), x);
    const state = i + 1;
    if (state < half) low = add(low, x);
    else if (state < 2 * half) middle = middle === undefined ? x : add(middle, x);
  }
  return { hiddenStates: x, low, middle };
}

/** Layers of each half of the tower. */
export const towerHalf = ({ vision }: FusionConfig): number => Math.floor(vision.layers / 2);

/** What the connector needs, after the last layer: `VisionStates.connected`. */
export function connectTower({ hiddenStates, low, middle }: TowerStates, config: FusionConfig): Tensor {
  const share = 1 / Math.max(towerHalf(config), 1);
  return concat([hiddenStates, multiply(low, share), multiply(middle ?? hiddenStates, share)], -1);
}

type Attend = (q: Tensor, k: Tensor, v: Tensor, scale: number) => Tensor;

/** One pre-norm encoder block. x: [N, S, V] → [N, S, V]. */
function encoderLayer(p: Parameters, x: Tensor, c: VisionConfig, attend: Attend): Tensor {
  const norm = (name: string, y: Tensor) =>
    layerNorm(y, p.get(`${name}.weight`), p.get(`${name}.bias`), c.layerNormEps);
  const h = add(x, selfAttention(p.in('self_attn'), norm('layer_norm1', x), c, attend));
  return add(h, mlp(p.in('mlp'), norm('layer_norm2', h)));
}

function selfAttention(p: Parameters, x: Tensor, c: VisionConfig, attend: Attend): Tensor {
  const [q, k, v] = ['q_proj', 'k_proj', 'v_proj'].map((name) => splitHeads(p.linear(name, x), c.heads));
  const merged = mergeHeads(attend(q as Tensor, k as Tensor, v as Tensor, (c.hiddenSize / c.heads) ** -0.5));
  return p.linear('out_proj', merged);
}

function mlp(p: Parameters, x: Tensor): Tensor {
  return recomputedActivation(
    (y) => gelu(y, 'tanh'),
    (y) => p.linear('fc2', y),
    p.linear('fc1', x),
    gatedGelu,
  );
}

/**
 * Who attends to whom in a layer. Without a question: everyone to everyone. With one, padded text is hidden
 * from all; in the first half of the layers text rows are `uniform` (the released code sets all their scores
 * to one value, so that they average every token, padding included) or `masked` (they see only themselves and
 * unpadded text: the paper's description).
 */
function attentionPattern(
  config: FusionConfig,
  padding: Tensor | undefined,
  early: boolean,
  observe: ObserveAttention | undefined,
): Attend {
  if (padding === undefined) return (q, k, v, scale) => attention(q, k, v, scale, undefined, observe);
  const { patches } = config.vision;
  const hidden = keyBias(padding, patches);
  if (!early) return (q, k, v, scale) => attention(q, k, v, scale, hidden, observe);
  return (q, k, v, scale) => {
    const text = dimOf(padding, 1);
    const weights: Tensor[] = [];
    const note = observe && ((w: Tensor) => void weights.push(w));
    const patchRows = attention(slice(q, 2, 0, patches), k, v, scale, hidden, note);
    const textRows =
      config.earlyTextRows === 'uniform'
        ? averageRows(v, text, note)
        : attendAmongText(q, k, v, scale, padding, patches, note);
    observe?.(concat(weights, 2));
    return concat([patchRows, textRows], 2);
  };
}

/** [N, 1, P + T]: the lowest value at padded text, 0 elsewhere. */
function keyBias(padding: Tensor, patches: number): Tensor {
  const [crops, text] = padding.shape as readonly [Dim, Dim];
  const textBias = where(padding, scalar(LOWEST), scalar(0));
  return reshape(concat([fill(0, [crops, patches]), textBias], 1), [crops, 1, addDims(patches, text)]);
}

/** The mean of all tokens' values, for each of `text` rows: [N, H, S, E] → [N, H, T, E]. */
function averageRows(v: Tensor, text: Dim, observe: ObserveAttention | undefined): Tensor {
  const [crops, heads, rows, size] = v.shape as readonly [Dim, Dim, Dim, Dim];
  observe?.(broadcastTo(divide(1, dimValue(rows)), [crops, heads, text, rows]));
  const average = divide(sum(v, [2], { keepDims: true }), dimValue(rows));
  return broadcastTo(average, [crops, heads, text, size]);
}

function attendAmongText(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  scale: number,
  padding: Tensor,
  patches: number,
  observe: ObserveAttention | undefined,
): Tensor {
  const [crops, text] = padding.shape as readonly [Dim, Dim];
  const textOf = (x: Tensor) => slice(x, 2, patches, text);
  const self = equal(reshape(iota(text), [1, text, 1]), reshape(iota(text), [1, 1, text]));
  const others = where(reshape(padding, [crops, 1, text]), scalar(LOWEST), scalar(0));
  const bias = where(self, scalar(0), others);
  const unseen = fill(0, [crops, dimOf(q, 1), text, patches]);
  const note = observe && ((weights: Tensor) => observe(concat([unseen, weights], 3)));
  return attention(textOf(q), textOf(k), textOf(v), scale, bias, note);
}
