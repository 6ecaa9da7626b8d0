/**
 * The programs that are traced from the model: what goes in under which name, what comes out. Weights go in
 * under their checkpoint names; everything else is named in the field's terms. Shapes are in the glossary of
 * `graph/dims.ts`; letters are bound at run time.
 */
import {
  checkpointed,
  type Dim,
  gather,
  grad,
  input,
  iota,
  less,
  type Program,
  program,
  reshape,
  runDirectly,
  scalar,
  type Tensor,
  where,
} from '../graph/index.ts';
import { LOWEST } from '../graph/nn.ts';
import type { FusionConfig } from './config.ts';
import { poolTiles, resizeImageTokens } from './connector.ts';
import { type Attend, cached, causal, type KeysValues, type RotaryTables } from './decoder.ts';
import { withFoldedNorms } from './foldedNorms.ts';
import {
  decode,
  embedSequence,
  encodeTiles,
  encodeWhole,
  type ForwardOutput,
  forward,
  type Interaction,
  logitsOf,
  type SequenceIndices,
} from './fusion.ts';
import { type Parameters, parameterInputs, parameters } from './parameters.ts';
import { expectedTensors } from './weights.ts';

/** The model's weights as inputs of a program. */
export interface ModelInputs {
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly parameters: Parameters;
}

/** Tensors beside the checkpoint's own, and the weights as they are with them: LoRA, rounded weights. */
export interface Overlay {
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** The model's weights with the overlay's in effect. */
  wrap(base: Parameters): Parameters;
}

/** How the loss is traced. */
export interface TraceOptions {
  readonly overlay?: Overlay | undefined;
  /** Compute each layer again in the backward pass instead of keeping what it computed. */
  readonly recompute?: boolean | undefined;
}

/** Fresh inputs for all weights of a model. */
export function modelInputs(config: FusionConfig, overlay?: Overlay): ModelInputs {
  const own = parameterInputs(expectedTensors(config));
  if (overlay === undefined) return { tensors: own, parameters: parameters(own) };
  return {
    tensors: new Map([...own, ...overlay.tensors]),
    parameters: overlay.wrap(parameters(own)),
  };
}

export function rotaryInputs(config: FusionConfig, sequence: Dim): RotaryTables {
  const shape = [sequence, config.decoder.headSize / 2];
  return { cos: input('rotary_cos', 'f32', shape), sin: input('rotary_sin', 'f32', shape) };
}

export function sequenceInputs(batch: Dim, sequence: Dim): SequenceIndices {
  return {
    textIds: input('text_ids', 'i32', ['N']),
    sources: input('sources', 'i32', [batch, sequence]),
    latentPositions: input('latent_positions', 'i32', ['L']),
    questionPositions: input('question_positions', 'i32', ['L']),
    windowIndex: input('window_index', 'i32', ['L']),
  };
}

/** The loss and what leads to it; letters B, S, T, N, L, M unless `batch` is given. */
export interface ForwardTrace {
  readonly model: ModelInputs;
  readonly output: ForwardOutput;
  readonly config: FusionConfig;
}

/** Traces the whole model on a batch of inputs. queryLength: latents per question. */
export function traceForward(
  config: FusionConfig,
  queryLength: number,
  { overlay, recompute = false }: TraceOptions = {},
): ForwardTrace {
  const model = modelInputs(config, overlay);
  const folded = overlay === undefined ? withFoldedNorms(model.parameters) : model.parameters;
  const side = config.vision.imageSize;
  const batch = {
    pixels: input('pixels', 'f32', ['B', 5, 3, side, side]),
    instructs: input('instructs', 'i32', ['B', 'T']),
    tables: rotaryInputs(config, 'S'),
    indices: sequenceInputs('B', 'S'),
    supervisedPositions: input('supervised_positions', 'i32', ['M']),
    targets: input('targets', 'i32', ['M']),
  };
  // Dropout of adapters counts on the rows of whole samples.
  const options = { run: recompute ? checkpointed : runDirectly, wholeSamples: overlay !== undefined };
  return { model, output: forward(folded, batch, config, queryLength, options), config };
}

/** The loss and its parts, as outputs of a program. */
export function lossOutputs({ output }: ForwardTrace): Readonly<Record<string, Tensor>> {
  return {
    loss: output.loss,
    cross_entropy: output.crossEntropy,
    text_loss: output.textLoss,
    vision_loss: output.visionLoss,
  };
}

/** Name of the output that holds the gradient of a weight. */
export const gradientOf = (weight: string): string => `grad.${weight}`;

/** The loss's parts and the gradients of the named tensors, the model's or the overlay's. */
export function lossAndGradientsProgram(
  config: FusionConfig,
  queryLength: number,
  trainable: readonly string[],
  options: TraceOptions = {},
): Program {
  const trace = traceForward(config, queryLength, options);
  const { tensors } = trace.model;
  const weights = trainable.map((name) => parameters(tensors).get(name));
  const gradients = grad(trace.output.loss, weights);
  const named = trainable.map((name, i) => [gradientOf(name), gradients[i] as Tensor] as const);
  return program('loss_and_gradients', { ...lossOutputs(trace), ...Object.fromEntries(named) });
}

/** Tiles → their projected features: `tile_pixels` [B, 3, S, S] → `features` [B, P, D]. */
export function tileProgram(config: FusionConfig, overlay?: Overlay): Program {
  const { parameters: p } = modelInputs(config, overlay);
  const side = config.vision.imageSize;
  const pixels = input('tile_pixels', 'f32', ['B', 3, side, side]);
  return program('encode_tile', { features: encodeTiles(p, pixels, config) });
}

/** The whole crop with its question: `pixels` [B, 3, S, S], `instructs` [B, T] → `image_tokens` [B, P', D]. */
export function wholeProgram(config: FusionConfig, overlay?: Overlay): Program {
  const { parameters: p } = modelInputs(config, overlay);
  const side = config.vision.imageSize;
  const pixels = input('pixels', 'f32', ['B', 3, side, side]);
  const instructs = input('instructs', 'i32', ['B', 'T']);
  const { image } = encodeWhole(p, pixels, instructs, config);
  return program('encode_whole', { image_tokens: resizeImageTokens(image, config) });
}

export const keysOf = (layer: number): string => `keys.${layer}`;
export const valuesOf = (layer: number): string => `values.${layer}`;
/** Name of the input that holds the cache of an output of earlier steps. */
export const pastOf = (name: string): string => `past_${name}`;

/**
 * Prompts → logits after chosen positions, and every layer's keys and values. `tile_features` [B, 4P, D],
 * `image_tokens` [B, P', D], the sequence's indices, `last_positions` [R] → `logits` [R, V], `keys.i` and
 * `values.i` [B, K, S, E]. queryLength: latents per question.
 */
export function prefillProgram(config: FusionConfig, queryLength: number, overlay?: Overlay): Program {
  const { parameters: p } = modelInputs(config, overlay);
  const { x, interaction } = promptInputs(p, config, 'B', queryLength);
  const attend = causal('S');
  const tables = rotaryInputs(config, 'S');
  const { statesAt, keysValues } = decode(p, x, tables, config, () => attend, { interaction });
  const logits = logitsOf(p, statesAt(input('last_positions', 'i32', ['R'])), config);
  return program('prefill', { logits, ...cacheOutputs(keysValues) });
}

/** What a prefill's decoder starts from: `image_tokens`, `tile_features` and the sequence's indices are inputs. */
export function promptInputs(
  p: Parameters,
  config: FusionConfig,
  batch: Dim,
  queryLength: number,
): { readonly x: Tensor; readonly interaction: Interaction } {
  const { decoder, vision, imageTokensSide } = config;
  const imageTokens = imageTokensSide === undefined ? vision.patches : imageTokensSide ** 2;
  const image = input('image_tokens', 'f32', [batch, imageTokens, decoder.hiddenSize]);
  const features = input('tile_features', 'f32', [batch, 4 * vision.patches, decoder.hiddenSize]);
  const indices = sequenceInputs(batch, 'S');
  const { latents, windows } = poolTiles(features, config, queryLength);
  return { x: embedSequence(p, image, latents, indices, config), interaction: { windows, indices } };
}

function cacheOutputs(layers: readonly KeysValues[]): Readonly<Record<string, Tensor>> {
  return Object.fromEntries(
    layers.flatMap(({ keys, values }, i) => [
      [keysOf(i), keys],
      [valuesOf(i), values],
    ]),
  );
}

/**
 * One more token of each of several sequences, which stand side by side as one sample of R positions. `token` [R],
 * `length` [R] (used slots of each row of the cache), rotary tables [R, E/2], `past_keys.i` and `past_values.i`
 * [R, K, C, E] → `logits` [R, V], `keys.i` and `values.i` [1, K, R, E].
 */
export function decodeProgram(config: FusionConfig, overlay?: Overlay): Program {
  const { parameters: p } = modelInputs(config, overlay);
  const { decoder } = config;
  const token = input('token', 'i32', ['R']);
  const x = reshape(gather(p.get('model.embed_tokens.weight'), token), [1, 'R', decoder.hiddenSize]);
  const { hiddenStates, keysValues } = decode(p, x, rotaryInputs(config, 'R'), config, cacheInputs(config));
  const logits = logitsOf(p, reshape(hiddenStates, ['R', decoder.hiddenSize]), config);
  return program('decode', { logits, ...cacheOutputs(keysValues) });
}

/** How each layer attends to its rows of the cache, which are inputs: see `decodeProgram`. */
export function cacheInputs({ decoder }: FusionConfig): (layer: number) => Attend {
  const used = less(iota('C'), reshape(input('length', 'i32', ['R']), ['R', 1]));
  const bias = where(used, scalar(0), scalar(LOWEST));
  const shape = ['R', decoder.kvHeads, 'C', decoder.headSize];
  return (layer) =>
    cached(
      {
        keys: input(pastOf(keysOf(layer)), 'f32', shape),
        values: input(pastOf(valuesOf(layer)), 'f32', shape),
      },
      bias,
    );
}
