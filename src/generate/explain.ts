/**
 * How an answer looked at its picture: the model's own attention, read while it sees prompt and answer again. In the
 * vision tower between picture and question, in the interaction layers between latents and their windows, in the
 * decoder from each answer token to the image tokens. All are means over heads. Knows nothing of how it is shown.
 *
 * The decoder sees the answer at once, not token by token: the same numbers but for rounding, and but for a longrope
 * model whose answer crosses its original context (what was said before is then seen with the long factors).
 *
 * Shapes: g patches along a side of a crop, T question tokens, q latents, M answer tokens, n image tokens along a side.
 */
import { UserError } from '../common/errors.ts';
import type { FusionConfig } from '../model/config.ts';
import { f32, i32, rotaryFeeds, sequenceFeeds } from '../model/feeds.ts';
import { interactionAfter } from '../model/fusion.ts';
import type { SequenceLayout } from '../model/sequence.ts';
import {
  type Answer,
  type AnswerOptions,
  type AnswerPlan,
  type Conversation,
  planAnswer,
  streamAnswer,
} from './answer.ts';
import { type AnswerInputs, prepareInputs, startClock } from './answerInputs.ts';
import { lastRows, type Maps, mapsOf, meanOver, transposeRows, windowMaps } from './attentionMaps.ts';
import { sequenceLayout } from './batchDecoder.ts';
import { imageTokenCount } from './imageFeatures.ts';
import type { FusionModel } from './model.ts';
import type { Picture } from './picture.ts';

/** Attention inside the vision tower while it read the whole picture with the question. */
export interface TowerAttention {
  /** How each patch attends to each question token: [layers, T, g, g]. */
  readonly patchesToQuestion: Maps;
  /** How each question token attends to each patch: [layers, T, g, g]. */
  readonly questionToPatches: Maps;
}

/** Attention of the last question's latents to their windows, in the grid of the four tiles. */
export interface LatentAttention {
  /** The decoder layers, from 0, that the interaction layers follow. */
  readonly after: readonly number[];
  /** Each latent's attention to the cells of its window, row by row: [interaction layers, q, w²]; rows sum to one. */
  readonly windows: Maps;
  /** The same, each cell spread over the places it was pooled from: [interaction layers, q, 2g, 2g]; sum to one. */
  readonly latents: Maps;
  /** The mean over latents: [interaction layers, 2g, 2g]; each sums to one. */
  readonly all: Maps;
}

/** Attention of the decoder, at the position that chose each answer token, to the image tokens. */
export interface AnswerAttention {
  /** [layers, M, n, n]; a map sums to the share of its attention that the image gets. */
  readonly layers: Maps;
  /** The mean over layers: [M, n, n]. */
  readonly mean: Maps;
}

export interface Explanation {
  /** Texts of the tokens that the tower read: all questions of the conversation. */
  readonly questionTokens: readonly string[];
  readonly answerTokens: readonly string[];
  /** Undefined for a model whose tower does not read the question. */
  readonly tower: TowerAttention | undefined;
  /** Undefined for a model without interaction layers. */
  readonly interaction: LatentAttention | undefined;
  readonly answer: AnswerAttention;
}

/** Which answer is explained. */
export interface ExplainOptions
  extends Pick<AnswerOptions, 'queryLength' | 'systemText' | 'signal' | 'onProgress'> {
  /** The answer's tokens, as `Answer.tokens` has them. */
  readonly tokens: readonly number[];
}

/**
 * Answers a conversation as `streamAnswer` does, and explains the answer. plan: as for `streamAnswer`.
 *
 * @throws UserError as `streamAnswer` and `explainAnswer`.
 */
export async function explain(
  model: FusionModel,
  conversation: Conversation,
  options: AnswerOptions = {},
  plan?: AnswerPlan,
): Promise<{ readonly answer: Answer; readonly explanation: Explanation }> {
  pictureOf(conversation);
  const planned = plan ?? planAnswer(model, conversation.messages, true, options);
  for await (const event of streamAnswer(model, conversation, options, planned)) {
    if (event.type !== 'done') continue;
    const { answer } = event;
    const { tokens, queryLength } = answer;
    const { systemText, signal, onProgress } = options;
    const given = { tokens, queryLength, systemText, signal, onProgress };
    return { answer, explanation: await explainPlanned(model, conversation, given, planned) };
  }
  throw new Error('internal: an answer ended without its last event');
}

/**
 * Explains an answer that was given to a conversation.
 *
 * @throws UserError for a conversation without a picture, as `streamAnswer` for one that cannot be asked; the
 * signal's reason where it is aborted.
 */
export async function explainAnswer(
  model: FusionModel,
  conversation: Conversation,
  options: ExplainOptions,
): Promise<Explanation> {
  const { tokens, queryLength, systemText } = options;
  pictureOf(conversation);
  const limits = { queryLength, systemText, maxTokens: Math.max(tokens.length, 1) };
  const plan = planAnswer(model, conversation.messages, true, limits);
  return explainPlanned(model, conversation, options, plan);
}

async function explainPlanned(
  model: FusionModel,
  conversation: Conversation,
  options: ExplainOptions,
  plan: AnswerPlan,
): Promise<Explanation> {
  const { tokens, signal } = options;
  const picture = pictureOf(conversation);
  const inputs = await prepareInputs(model, plan, picture, options, startClock(model));
  if (inputs === undefined) throw signal?.reason;
  try {
    signal?.throwIfAborted();
    const tower = await explainTower(model, plan, picture);
    signal?.throwIfAborted();
    const decoder = await explainDecoder(model, plan, inputs, tokens);
    const textOf = (id: number) => new TextDecoder().decode(model.tokenizer.tokenBytes(id));
    return {
      questionTokens: Array.from(plan.prompt.instructs, textOf),
      answerTokens: tokens.map(textOf),
      tower,
      ...decoder,
    };
  } finally {
    await inputs.free();
  }
}

function pictureOf({ picture }: Conversation): Picture {
  if (picture !== undefined) return picture;
  throw new UserError('explain: expected a conversation with an image, got one without; add the image');
}

async function explainTower(
  { config, programs }: FusionModel,
  { prompt: { instructs } }: AnswerPlan,
  { crops }: Picture,
): Promise<TowerAttention | undefined> {
  if (!config.textGuided) return undefined;
  const { imageSize, grid } = config.vision;
  const size = 3 * imageSize ** 2;
  const { outputs } = await (await programs.explainWhole()).run({
    pixels: f32(crops.slice(4 * size), [1, 3, imageSize, imageSize]),
    instructs: i32(instructs, [1, instructs.length]),
  });
  const patchesToQuestion = transposeRows(mapsOf(outputs.patches_to_question));
  const questionToPatches = mapsOf(outputs.question_to_patches);
  const shape = [...questionToPatches.shape.slice(0, 2), grid, grid];
  return {
    patchesToQuestion: { ...patchesToQuestion, shape },
    questionToPatches: { ...questionToPatches, shape },
  };
}

/** Reads prompt and answer once more; the position before each token is the one that chose it. */
async function explainDecoder(
  { config, programs }: FusionModel,
  { prompt, promptTokens, queryLength }: AnswerPlan,
  { features }: AnswerInputs,
  tokens: readonly number[],
): Promise<Pick<Explanation, 'interaction' | 'answer'>> {
  const layout = sequenceLayout(config, {
    ids: [...Array.from(prompt.inputIds), ...tokens.slice(0, -1)],
    endsOfQuestion: prompt.endsOfQuestion,
    queryLength,
  });
  const count = imageTokenCount(config);
  const { outputs } = await (await programs.explainDecode(queryLength)).run({
    ...sequenceFeeds(layout),
    ...rotaryFeeds(config.decoder, 0, layout.sequence, layout.sequence),
    image_tokens: features.imageTokens,
    tile_features: features.tiles,
    query_positions: i32(Int32Array.from(tokens, (_, i) => promptTokens - 1 + i)),
    image_positions: i32(imagePositions(layout, count)),
  });
  const toImage = mapsOf(outputs.tokens_to_image);
  const side = Math.sqrt(count);
  const layers = { ...toImage, shape: [...toImage.shape.slice(0, 2), side, side] };
  const windows = outputs.latents_to_windows && mapsOf(outputs.latents_to_windows);
  return {
    interaction: windows && latentAttention(config, windows, queryLength),
    answer: { layers, mean: meanOver(layers, 0) },
  };
}

/** Where the image tokens stand in a sequence of one sample: their rows follow those of the text. */
function imagePositions({ sources, textIds }: SequenceLayout, count: number): Int32Array {
  const first = textIds.length;
  return Int32Array.from(sources.keys()).filter((at) => {
    const source = sources[at] ?? 0;
    return source >= first && source < first + count;
  });
}

/** windows: [interaction layers, latents of all questions, w²]. */
function latentAttention(config: FusionConfig, windows: Maps, queryLength: number): LatentAttention {
  const last = lastRows(windows, queryLength);
  const latents = windowMaps(last, 2 * config.vision.grid);
  const after = Array.from({ length: config.decoder.layers }, (_, i) => i).filter(
    (i) => interactionAfter(i, config) !== undefined,
  );
  return { after, windows: last, latents, all: meanOver(latents, 1) };
}
