/**
 * The vision tower alone, asked what each patch shows: how a tower of random weights is given eyes before it meets
 * a decoder. Every question has a Linear of its own.
 * Shapes: N crops, V the tower's width, D the decoder's, R = N·P rows of patches; a question with C answers has its own
 * number of rows.
 */
import {
  add,
  concat,
  gather,
  grad,
  input,
  multiply,
  type Program,
  program,
  reshape,
  scalar,
  type Tensor,
} from '../graph/index.ts';
import { crossEntropy } from '../graph/nn.ts';
import type { FusionConfig } from './config.ts';
import { projector } from './connector.ts';
import { encodeTiles, encodeWhole, mappingLoss } from './fusion.ts';
import { type Parameters, parameterInputs, parameters } from './parameters.ts';
import { gradientOf } from './programs.ts';
import { visionTower } from './vision.ts';
import { expectedTensors, type Shape } from './weights.ts';

const TOWER = 'model.vision_tower.';
const PROJECTOR = 'model.mm_projector';
const PREFIXES = {
  tower: [TOWER],
  projector: [TOWER, PROJECTOR],
  question: [TOWER, PROJECTOR, 'model.aux_projector', 'model.embed_tokens'],
} as const;
const VISION_MODEL = 'model.vision_tower.vision_tower.vision_model';

/** Which answers each question has. */
export type Questions = Readonly<Record<string, readonly string[]>>;

/** How much questions count, 1 where nothing is said. */
export type QuestionWeights = Readonly<Record<string, number>>;

/**
 * What of a model is asked: the connector's features [R, 3V]; what the projector makes of them [R, D]; or the latter of
 * tiles, and then of whole pictures that are encoded with a question.
 */
export type Asked = 'tower' | 'projector' | 'question';

/** The model's own tensors, and the Linears `answers.QUESTION`: weight [C, 3V] or [C, D], and bias [C]. */
export function patchTensors(config: FusionConfig, questions: Questions, asked: Asked) {
  const prefixes = PREFIXES[asked];
  const own = [...expectedTensors(config)].filter(([name]) => prefixes.some((each) => name.startsWith(each)));
  const width = asked === 'tower' ? 3 * config.vision.hiddenSize : config.decoder.hiddenSize;
  const answers = Object.entries(questions).flatMap(([question, { length }]): [string, Shape][] => [
    [`answers.${question}.weight`, [length, width]],
    [`answers.${question}.bias`, [length]],
  ]);
  return { own: new Map(own), answers: new Map(answers) };
}

/**
 * `pixels` [N, 3, S, S], and for each question `rows.QUESTION` and `classes.QUESTION` i32 → `loss`, the weighted mean
 * over questions of the mean cross-entropy of their rows, each question's own, and the gradients of all tensors. Where
 * questions are read, `whole_pixels` [B, 3, S, S] and `instructs` [B, T] too; then the loss has the mapping loss in it.
 *
 * @param weights of questions that count more or less than the others
 */
export function patchProgram(
  config: FusionConfig,
  questions: Questions,
  asked: Asked,
  weights: QuestionWeights = {},
): Program {
  const { own, answers } = patchTensors(config, questions, asked);
  const inputs = parameterInputs(new Map([...own, ...answers]));
  const p = parameters(inputs);
  const { features, mapping } = featuresOf(p, config, asked);
  const losses = Object.fromEntries(
    Object.keys(questions).map((question) => {
      const count = `${question}_rows`;
      const patches = gather(features, input(`rows.${question}`, 'i32', [count]));
      const logits = p.linear(`answers.${question}`, patches);
      return [question, crossEntropy(logits, input(`classes.${question}`, 'i32', [count]))];
    }),
  );
  const mean = weightedMean(losses, weights);
  const loss = mapping === undefined ? mean : add(mean, multiply(mapping, config.mappingLossWeight));
  const names = [...inputs.keys()];
  const gradients = grad(loss, [...inputs.values()]);
  const named = names.map((name, i) => [gradientOf(name), gradients[i] as Tensor] as const);
  return program('patches', { loss, ...losses, ...Object.fromEntries(named) });
}

function weightedMean(losses: Readonly<Record<string, Tensor>>, weights: QuestionWeights): Tensor {
  const weighted = Object.entries(losses).map(([name, loss]) => ({ loss, weight: weights[name] ?? 1 }));
  const total = weighted.reduce((sum, { weight }) => sum + weight, 0);
  return weighted.reduce(
    (sum: Tensor, { loss, weight }) => add(sum, multiply(loss, weight / total)),
    scalar(0),
  );
}

/** The rows of patches that are asked, and the mapping loss where questions are read. */
function featuresOf(p: Parameters, config: FusionConfig, asked: Asked) {
  const { imageSize: side, hiddenSize } = config.vision;
  const pixels = input('pixels', 'f32', ['N', 3, side, side]);
  if (asked !== 'question') {
    const { connected } = visionTower(p.in(VISION_MODEL), pixels, config);
    const rows = reshape(connected, [-1, 3 * hiddenSize]);
    return { features: asked === 'tower' ? rows : projector(p.in(PROJECTOR), rows, config) };
  }
  const wholePixels = input('whole_pixels', 'f32', ['B', 3, side, side]);
  const whole = encodeWhole(p, wholePixels, input('instructs', 'i32', ['B', 'T']), config);
  const rows = [encodeTiles(p, pixels, config), whole.image].map((each) =>
    reshape(each, [-1, config.decoder.hiddenSize]),
  );
  const { textLoss, visionLoss } = mappingLoss(p, whole, config);
  return { features: concat(rows, 0), mapping: add(textLoss, visionLoss) };
}
