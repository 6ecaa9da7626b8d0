/**
 * The model in stages: programs that follow each other, so that each weight is in one of them only and what is not
 * needed yet is not there. Prefill and a decode step are `begin` (or looked-up rows) → groups of decoder layers, in
 * prefill with an interaction layer after some → `head`. The functions traced are those of the whole programs.
 *
 * Token embeddings are an input of U rows, the ones a run needs; ids count these rows. Letters as in `programs.ts`;
 * Q sequences, W windows, N positions of all sequences.
 */
import {
  addDims,
  type DType,
  input,
  iota,
  less,
  multiplyDims,
  type Program,
  program,
  reshape,
  scalar,
  type Tensor,
  where,
} from '../graph/index.ts';
import { LOWEST } from '../graph/nn.ts';
import type { FusionConfig } from './config.ts';
import { poolTiles, resizeImageTokens } from './connector.ts';
import { type Attend, atPositions, continued, decoderLayer, type KeysValues } from './decoder.ts';
import {
  beginCrop,
  continueCrop,
  cropFeatures,
  embedSequence,
  interact,
  interactionAfter,
  logitsOf,
} from './fusion.ts';
import { type Parameters, parameters } from './parameters.ts';
import { keysOf, pastOf, rotaryInputs, sequenceInputs, valuesOf } from './programs.ts';
import { type QuantisedWeight, withQuantised } from './quantisedParameters.ts';
import { type TowerLayers, type TowerStates, towerHalf } from './vision.ts';

/** An input that a weight comes in by. */
export interface WeightInput {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** A weight that is kept rounded: the names of its inputs. */
export interface RoundedInput {
  readonly bits: 4 | 8;
  readonly codes: string;
  readonly scales: string;
}

/** How a model's weights come into its stages. */
export interface StageWeights {
  /** By the names of inputs; the token embeddings are not among them. */
  readonly inputs: ReadonlyMap<string, WeightInput>;
  /** By the names of weights. */
  readonly rounded: ReadonlyMap<string, RoundedInput>;
}

/** The model that is traced. */
export interface StagedModel {
  readonly config: FusionConfig;
  readonly weights: StageWeights;
}

/** The rows of the token embeddings: f32 [U, D]. */
export const EMBEDDING_ROWS = 'model.embed_tokens.weight';
/** Decoder layers in a group at most: while it compiles, its weights are in memory twice. */
const GROUP = 3;
const ROWS = multiplyDims('Q', 'S');

/** Decoder layers `first … last`, and the interaction layer that follows them. */
export interface LayerGroup {
  readonly first: number;
  readonly last: number;
  readonly interaction: number | undefined;
}

/** The decoder's layers in groups that end where an interaction layer stands. */
export function layerGroups(config: FusionConfig): readonly LayerGroup[] {
  const groups: LayerGroup[] = [];
  let first = 0;
  for (let last = 0; last < config.decoder.layers; last++) {
    const interaction = interactionAfter(last, config);
    const ends =
      interaction !== undefined || last - first + 1 === GROUP || last === config.decoder.layers - 1;
    if (!ends) continue;
    groups.push({ first, last, interaction });
    first = last + 1;
  }
  return groups;
}

/** Fresh inputs for all weights. */
function stageParameters({ config, weights }: StagedModel): Parameters {
  const tensors = new Map<string, Tensor>(
    [...weights.inputs].map(([name, { dtype, shape }]) => [name, input(name, dtype, shape)]),
  );
  tensors.set(EMBEDDING_ROWS, input(EMBEDDING_ROWS, 'f32', ['U', config.decoder.hiddenSize]));
  const rounded = [...weights.rounded].map(([name, { bits, codes, scales }]) => {
    const weight = { bits, codes: tensors.get(codes) as Tensor, scales: tensors.get(scales) as Tensor };
    return [name, weight satisfies QuantisedWeight] as const;
  });
  return withQuantised(parameters(tensors), new Map(rounded));
}

/** Layers of the tower in a group at most: its weights are in memory while the group runs. */
const TOWER_GROUP = 10;

/** The tower's layers in groups. */
export function towerGroups({ vision }: FusionConfig): readonly TowerLayers[] {
  const groups: TowerLayers[] = [];
  for (let first = 0; first < vision.layers; first += TOWER_GROUP) {
    groups.push({ first, last: Math.min(first + TOWER_GROUP, vision.layers) - 1 });
  }
  return groups;
}

/**
 * Layers of the tower over crops with a question or without (T = 0), R rows of which are P patches and, where the
 * config has text guide the tower, T tokens. The first group takes `pixels` [B, 3, S, S], others `hidden_states`, `low`
 * and `middle` [B, R, V] of the one before (`TowerStates`); all take `instructs` [B, T]. The last gives `features`
 * [B, P, D], and as the decoder gets them `image_tokens` [B, P', D]; others those of their states that are new.
 */
export function visionStage(model: StagedModel, layers: TowerLayers): Program {
  const { config } = model;
  const p = stageParameters(model);
  const instructs = input('instructs', 'i32', ['B', 'T']);
  const before = layers.first === 0 ? firstStates(p, instructs, config) : givenStates(layers, config);
  const after = continueCrop(p, before, instructs, config, layers);
  const name = `vision ${layers.first} to ${layers.last}`;
  if (layers.last === config.vision.layers - 1) {
    const image = cropFeatures(p, after, config);
    return program(name, { features: image, image_tokens: resizeImageTokens(image, config) });
  }
  const states = [
    ['hidden_states', after.hiddenStates],
    ['low', after.low === before.low && layers.first > 0 ? undefined : after.low],
    ['middle', after.middle === before.middle ? undefined : after.middle],
  ] as const;
  return program(name, Object.fromEntries(states.flatMap(([to, x]) => (x ? [[`next_${to}`, x]] : []))));
}

function firstStates(p: Parameters, instructs: Tensor, config: FusionConfig): TowerStates {
  const { imageSize } = config.vision;
  return beginCrop(p, input('pixels', 'f32', ['B', 3, imageSize, imageSize]), instructs, config);
}

function givenStates({ first }: TowerLayers, config: FusionConfig): TowerStates {
  const { patches, hiddenSize } = config.vision;
  const rows = config.textGuided ? addDims(patches, 'T') : patches;
  const given = (name: string) => input(name, 'f32', ['B', rows, hiddenSize]);
  return {
    hiddenStates: given('hidden_states'),
    low: given('low'),
    middle: first >= towerHalf(config) ? given('middle') : undefined,
  };
}

/**
 * What prefill starts from: `image_tokens` [B, P', D], `tile_features` [B, 4P, D] and the sequence's indices →
 * `states` [1, B·S, D], `windows` [B·q, w², D]. queryLength: latents per question.
 */
export function beginStage(model: StagedModel, queryLength: number): Program {
  const { config } = model;
  const { decoder, vision, imageTokensSide, interaction } = config;
  const imageTokens = imageTokensSide === undefined ? vision.patches : imageTokensSide ** 2;
  const image = input('image_tokens', 'f32', ['B', imageTokens, decoder.hiddenSize]);
  const features = input('tile_features', 'f32', ['B', 4 * vision.patches, decoder.hiddenSize]);
  const tiles = poolTiles(features, config, queryLength);
  const states = embedSequence(
    stageParameters(model),
    image,
    tiles.latents,
    sequenceInputs('B', 'S'),
    config,
  );
  const windows = reshape(tiles.windows, [-1, interaction.window ** 2, decoder.hiddenSize]);
  const together = reshape(states, [1, multiplyDims('B', 'S'), decoder.hiddenSize]);
  return program('begin', { states: together, windows });
}

/**
 * Decoder layers over S new positions of each of Q sequences, side by side: `states` [1, Q·S, D], rotary tables
 * [Q·S, E/2], `steps` [S] (0, 1, …), `length` [Q] (used slots of each row of the cache), `past_keys.i` and
 * `past_values.i` [Q, K, C, E] → `next_states`, `keys.i` and `values.i` [1, K, Q·S, E]. A prompt has a cache of no
 * slots, a decode step one position of each sequence. Of the model's last layer only the rows at `last_positions` [R]
 * are made, `next_states` [R, D], unless an interaction layer follows it.
 */
export function layersStage(model: StagedModel, { first, last }: LayerGroup): Program {
  const { config } = model;
  const { decoder } = config;
  const p = stageParameters(model);
  const tables = rotaryInputs(config, ROWS);
  const attend = continuedInputs(config);
  const caches: [string, Tensor][] = [];
  let x: Tensor = input('states', 'f32', [1, ROWS, decoder.hiddenSize]);
  for (let i = first; i <= last; i++) {
    const rows = i === decoder.layers - 1 && endsWithLayer(config) ? lastPositions() : undefined;
    const layer = p.in(`model.layers.${i}`);
    const { hiddenStates, kv } = decoderLayer(layer, x, tables, decoder, attend(i), rows);
    x = hiddenStates;
    caches.push(...cacheOutput(i, kv));
  }
  return program(`layers ${first} to ${last}`, { next_states: x, ...Object.fromEntries(caches) });
}

/** How each layer attends to its rows of the cache and to the new positions. */
function continuedInputs({ decoder }: FusionConfig): (layer: number) => Attend {
  const steps = input('steps', 'i32', ['S']);
  const isLater = less(reshape(steps, ['S', 1]), reshape(steps, [1, 'S']));
  const later = where(isLater, scalar(LOWEST), scalar(0));
  const used = less(iota('C'), reshape(input('length', 'i32', ['Q']), ['Q', 1]));
  const hidden = where(used, scalar(0), scalar(LOWEST));
  const shape = ['Q', decoder.kvHeads, 'C', decoder.headSize];
  return (layer) => {
    const keys = input(pastOf(keysOf(layer)), 'f32', shape);
    const values = input(pastOf(valuesOf(layer)), 'f32', shape);
    return continued({ keys, values }, hidden, later);
  };
}

const cacheOutput = (layer: number, { keys, values }: KeysValues): [string, Tensor][] => [
  [keysOf(layer), keys],
  [valuesOf(layer), values],
];

const lastPositions = (): Tensor => input('last_positions', 'i32', ['R']);

const endsWithLayer = (config: FusionConfig): boolean =>
  interactionAfter(config.decoder.layers - 1, config) === undefined;

/** Interaction layer `j`: `states` [1, N, D], `windows` [W, w², D] and the latents' indices → `next_states`. */
export function interactionStage(model: StagedModel, j: number): Program {
  const { config } = model;
  const width = config.decoder.hiddenSize;
  const states = input('states', 'f32', [1, 'N', width]);
  const windows = input('windows', 'f32', ['W', config.interaction.window ** 2, width]);
  const interaction = { windows, indices: sequenceInputs('B', 'S') };
  return program(`interaction ${j}`, {
    next_states: interact(stageParameters(model), j, states, interaction, config),
  });
}

/** The next token's logits: what the last stage before it made, `states`, → `logits` [R, V]. */
export function headStage(model: StagedModel): Program {
  const { config } = model;
  const width = config.decoder.hiddenSize;
  const rows = endsWithLayer(config)
    ? input('states', 'f32', ['R', width])
    : atPositions(input('states', 'f32', [1, 'N', width]), lastPositions());
  return program('head', { logits: logitsOf(stageParameters(model), rows, config) });
}
