/**
 * FUSION itself, as functions over symbolic tensors: encode the picture with the question in hand, lay the
 * sequence out, decode with interaction layers between the layers, and the dual-supervised loss. Every program
 * (inference, training, export) is traced from these. Source: arXiv 2504.09925.
 *
 * Shapes: B samples, S sequence, P patches, T question tokens, q latents per question, D decoder width,
 * V vision width, N text tokens, L latents over all questions, M supervised positions.
 */
import {
  add,
  cast,
  concat,
  dimOf,
  dimValue,
  divide,
  equal,
  fill,
  gather,
  maximum,
  multiply,
  type RunLayer,
  reshape,
  rmsNorm,
  runDirectly,
  scalar,
  scatterRows,
  sizeOf,
  slice,
  subtract,
  sum,
  type Tensor,
} from '../graph/index.ts';
import { cosineSimilarity, crossEntropy, embedding } from '../graph/nn.ts';
import type { FusionConfig } from './config.ts';
import { joinTiles, poolTiles, projector, resizeImageTokens, type TileContext } from './connector.ts';
import {
  type Attend,
  atPositions,
  causal,
  decoderLayer,
  type KeysValues,
  type RotaryTables,
} from './decoder.ts';
import { interactionLayer } from './interaction.ts';
import type { Parameters } from './parameters.ts';
import {
  beginTower,
  connectTower,
  type ObserveTower,
  type QuestionTokens,
  type TowerLayers,
  type TowerStates,
  towerLayers,
  visionTower,
} from './vision.ts';

const TOWER = 'model.vision_tower.vision_tower.vision_model';

/** Instruct id 0 is padding, whatever the tokenizer's padding id is. */
const INSTRUCT_PADDING = 0;

/** The whole crop, encoded together with the question. */
export interface WholeFeatures {
  /** Image tokens before any FUSION-L resize: [B, P, D]. */
  readonly image: Tensor;
  /** The question as the picture gives it back: [B, T, D]. */
  readonly textRebuilt: Tensor;
  /** Token embeddings of the question: [B, T, D]. */
  readonly textEmbedded: Tensor;
  /** bool [B, T]. */
  readonly textPadding: Tensor;
  /** The patches before the first layer: [B, P, V]. */
  readonly visionEmbedded: Tensor;
}

/**
 * Encodes the whole crop with its question. pixels: [B, 3, S, S]; instructs: i32 [B, T], 0 = padding. observe: sees
 * the tower's attention.
 */
export function encodeWhole(
  p: Parameters,
  pixels: Tensor,
  instructs: Tensor,
  config: FusionConfig,
  run: RunLayer = runDirectly,
  observe?: ObserveTower,
): WholeFeatures {
  const { patches } = config.vision;
  const textEmbedded = embedding(p.get('model.embed_tokens.weight'), instructs, config.padId);
  const textPadding = instructPadding(instructs);
  const text = dimOf(instructs, 1);
  const question = towerQuestion(p, textEmbedded, textPadding, config);
  const { embedded, connected } = visionTower(p.in(TOWER), pixels, config, question, run, observe);
  const projected = projector(p.in('model.mm_projector'), connected, config);
  return {
    image: slice(projected, 1, 0, patches),
    textRebuilt: config.textGuided ? slice(projected, 1, patches, text) : textEmbedded,
    textEmbedded,
    textPadding,
    visionEmbedded: embedded,
  };
}

/** bool [B, T], of instructs i32 [B, T]. */
const instructPadding = (instructs: Tensor): Tensor => equal(instructs, INSTRUCT_PADDING);

/** The question as the tower takes it, where it takes one. embedded: [B, T, D]. */
function towerQuestion(
  p: Parameters,
  embedded: Tensor,
  padding: Tensor,
  config: FusionConfig,
): QuestionTokens | undefined {
  if (!config.textGuided) return undefined;
  return { hiddenStates: projector(p.in('model.aux_projector'), embedded, config), padding };
}

/** The tower's states before its first layer, as in `encodeWhole`. */
export function beginCrop(
  p: Parameters,
  pixels: Tensor,
  instructs: Tensor,
  config: FusionConfig,
): TowerStates {
  const embedded = embedding(p.get('model.embed_tokens.weight'), instructs, config.padId);
  const question = towerQuestion(p, embedded, instructPadding(instructs), config);
  return beginTower(p.in(TOWER), pixels, config, question).states;
}

/** Some of the tower's layers, as in `encodeWhole`. */
export function continueCrop(
  p: Parameters,
  states: TowerStates,
  instructs: Tensor,
  config: FusionConfig,
  layers: TowerLayers,
): TowerStates {
  const padding = config.textGuided ? instructPadding(instructs) : undefined;
  return towerLayers(p.in(TOWER), states, config, { layers, padding });
}

/** A crop's features after the last layer, as in `encodeWhole`: [B, P, D]. */
export function cropFeatures(p: Parameters, states: TowerStates, config: FusionConfig): Tensor {
  const projected = projector(p.in('model.mm_projector'), connectTower(states, config), config);
  return slice(projected, 1, 0, config.vision.patches);
}

/** Encodes tiles, without text. pixels: [N, 3, S, S] → projected features [N, P, D]. */
export function encodeTiles(
  p: Parameters,
  pixels: Tensor,
  config: FusionConfig,
  run: RunLayer = runDirectly,
): Tensor {
  const { connected } = visionTower(p.in(TOWER), pixels, config, undefined, run);
  return projector(p.in('model.mm_projector'), connected, config);
}

/** Where things stand in the sequence; made on the host by `sequence.ts`. All i32. */
export interface SequenceIndices {
  /** Ids of all text tokens of the batch, one after the other: [N]. */
  readonly textIds: Tensor;
  /** For each position, its row in text ∥ image tokens ∥ latents ∥ one zero row: [B, S]. */
  readonly sources: Tensor;
  /** Positions (b·S + s) of the latents: [L]. */
  readonly latentPositions: Tensor;
  /** Position of the end of each latent's question: [L]. */
  readonly questionPositions: Tensor;
  /** Row (b·q + i) of each latent's window: [L]. */
  readonly windowIndex: Tensor;
}

/** The decoder's input: [B, S, D]. image: [B, P', D]; latents: [B, q, D]. */
export function embedSequence(
  p: Parameters,
  image: Tensor,
  latents: Tensor,
  indices: SequenceIndices,
  config: FusionConfig,
): Tensor {
  const width = config.decoder.hiddenSize;
  const text = embedding(p.get('model.embed_tokens.weight'), indices.textIds, config.padId);
  const rows = [text, reshape(image, [-1, width]), reshape(latents, [-1, width]), fill(0, [1, width])];
  return gather(concat(rows, 0), indices.sources);
}

/** What stands between the layers during prefill and training. */
export interface Interaction {
  /** [B, q, w², D]. */
  readonly windows: Tensor;
  readonly indices: SequenceIndices;
  /** Sees how the latents attend to their windows in interaction layer j: [L, H, 1, w²]. */
  readonly observe?: ((j: number, weights: Tensor) => void) | undefined;
}

export interface DecoderOutput {
  /** The last layer's output, before the final norm: [B, S, D]. */
  readonly hiddenStates: Tensor;
  /** The same at positions (b·S + s), i32 [M] → [M, D]: the last layer is finished for them alone. */
  readonly statesAt: (positions: Tensor) => Tensor;
  readonly keysValues: readonly KeysValues[];
}

/** How the decoder's layers are run. */
export interface DecodeOptions {
  /** Without it (a decode step) the latents are left alone. */
  readonly interaction?: Interaction | undefined;
  readonly run?: RunLayer | undefined;
  /** Every Linear is applied to whole samples [B, S, D], in the last layer too. */
  readonly wholeSamples?: boolean | undefined;
}

/** Runs the decoder's layers. */
export function decode(
  p: Parameters,
  x: Tensor,
  tables: RotaryTables,
  config: FusionConfig,
  attend: (layer: number) => Attend,
  { interaction, run = runDirectly, wholeSamples = false }: DecodeOptions = {},
): DecoderOutput {
  const layer = (i: number, y: Tensor, rows?: Tensor) =>
    decoderLayer(p.in(`model.layers.${i}`), y, tables, config.decoder, attend(i), rows);
  const last = config.decoder.layers - 1;
  const keysValues: KeysValues[] = [];
  let [hiddenStates, beforeLast] = [x, x];
  for (let i = 0; i <= last; i++) {
    beforeLast = hiddenStates;
    hiddenStates = run((y) => {
      const output = layer(i, y);
      keysValues[i] = output.kv;
      return output.hiddenStates;
    }, hiddenStates);
    const j = interactionAfter(i, config);
    if (interaction !== undefined && j !== undefined) {
      hiddenStates = interact(p, j, hiddenStates, interaction, config);
    }
  }
  const endsWithLayer = interaction === undefined || interactionAfter(last, config) === undefined;
  const statesAt = (positions: Tensor) =>
    wholeSamples || !endsWithLayer
      ? atPositions(hiddenStates, positions)
      : layer(last, beforeLast, positions).hiddenStates;
  return { hiddenStates, statesAt, keysValues };
}

/** Which interaction layer follows decoder layer `i`, if one does. */
export function interactionAfter(i: number, { interaction }: FusionConfig): number | undefined {
  const { layers, start, stride } = interaction;
  const j = (i - start) / stride;
  return Number.isInteger(j) && j >= 0 && j < layers ? j : undefined;
}

/** The hidden states x [B, S, D] once interaction layer `j` has renewed the latents. */
export function interact(
  p: Parameters,
  j: number,
  x: Tensor,
  { windows, indices, observe }: Interaction,
  config: FusionConfig,
): Tensor {
  const width = config.decoder.hiddenSize;
  const rows = reshape(x, [-1, width]);
  const updated = interactionLayer(
    p.in(`model.vision_sampler_layers.${j}.layers.0`),
    {
      latents: gather(rows, indices.latentPositions),
      questions: gather(rows, indices.questionPositions),
      windows: reshape(windows, [-1, config.interaction.window ** 2, width]),
      windowIndex: indices.windowIndex,
    },
    config.interaction,
    observe && ((weights) => observe(j, weights)),
  );
  return reshape(scatterRows(rows, indices.latentPositions, updated), x.shape);
}

/** The next token's logits. states: the last layer's output at some positions, [M, D] → [M, vocabulary]. */
export function logitsOf(p: Parameters, states: Tensor, { decoder }: FusionConfig): Tensor {
  const normed = rmsNorm(states, p.get('model.norm.weight'), decoder.rmsNormEps);
  return p.linear(decoder.tiedEmbeddings ? 'model.embed_tokens' : 'lm_head', normed);
}

/** A batch for training or checking, as graph inputs. */
export interface Batch {
  /** f32 [B, 5, 3, S, S]: four tiles, then the whole. */
  readonly pixels: Tensor;
  /** i32 [B, T], 0 = padding. */
  readonly instructs: Tensor;
  readonly tables: RotaryTables;
  readonly indices: SequenceIndices;
  /** Positions (b·S + s) whose next token is supervised: i32 [M]. */
  readonly supervisedPositions: Tensor;
  /** Those next tokens: i32 [M]. */
  readonly targets: Tensor;
}

export interface ForwardOutput {
  readonly loss: Tensor;
  readonly crossEntropy: Tensor;
  readonly textLoss: Tensor;
  readonly visionLoss: Tensor;
  /** The last layer's output at positions (b·S + s), i32 [M] → [M, D]. */
  readonly statesAt: (positions: Tensor) => Tensor;
  readonly whole: WholeFeatures;
  /** Image tokens as the decoder gets them: [B, P', D]. */
  readonly imageTokens: Tensor;
  readonly visionRebuilt: Tensor;
  readonly tiles: TileContext;
}

/**
 * The whole model with its loss: `CE + λ·(L_text + L_vision)`, λ = `mapping_loss_weight`. Nothing is detached.
 * queryLength: latents per question, a perfect square; options: how layers are run, vision's as well.
 */
export function forward(
  p: Parameters,
  batch: Batch,
  config: FusionConfig,
  queryLength: number,
  options: Omit<DecodeOptions, 'interaction'> = {},
): ForwardOutput {
  const { run } = options;
  const { pixels, indices } = batch;
  const [size, side] = [dimOf(pixels, 0), config.vision.imageSize];
  const tilePixels = reshape(slice(pixels, 1, 0, 4), [-1, 3, side, side]);
  const wholePixels = reshape(slice(pixels, 1, 4, 1), [size, 3, side, side]);
  const tiles = poolTiles(
    joinTiles(encodeTiles(p, tilePixels, config, run), size, config.vision.patches),
    config,
    queryLength,
  );
  const whole = encodeWhole(p, wholePixels, batch.instructs, config, run);
  const imageTokens = resizeImageTokens(whole.image, config);
  const x = embedSequence(p, imageTokens, tiles.latents, indices, config);
  const attend = causal(dimOf(indices.sources, 1));
  const interaction = { windows: tiles.windows, indices };
  const { statesAt } = decode(p, x, batch.tables, config, () => attend, { ...options, interaction });
  const ce = crossEntropy(logitsOf(p, statesAt(batch.supervisedPositions), config), batch.targets);
  const mapping = mappingLoss(p, whole, config);
  const loss = add(ce, multiply(add(mapping.textLoss, mapping.visionLoss), config.mappingLossWeight));
  return { loss, crossEntropy: ce, ...mapping, statesAt, whole, imageTokens, tiles };
}

/** Dual-supervised semantic mapping: each space, taken through the other and back, should be itself. */
export function mappingLoss(p: Parameters, whole: WholeFeatures, config: FusionConfig) {
  const visionRebuilt = projector(p.in('model.aux_projector'), whole.image, config);
  const similarity = cosineSimilarity(whole.visionEmbedded, visionRebuilt);
  const visionLoss = subtract(1, divide(sum(similarity), dimValue(sizeOf(similarity.shape))));
  if (!config.textGuided) return { textLoss: scalar(0), visionLoss, visionRebuilt };
  const distance = subtract(1, cosineSimilarity(whole.textEmbedded, whole.textRebuilt));
  const counted = subtract(1, cast(whole.textPadding, 'f32'));
  const textLoss = divide(sum(multiply(distance, counted)), maximum(sum(counted), 1));
  return { textLoss, visionLoss, visionRebuilt };
}
