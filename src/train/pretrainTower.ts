/**
 * Gives the vision tower of a random model eyes: it learns to say of each patch what is there, before any language
 * model looks through it. This stands where FUSION begins with SigLIP's pretrained tower; the questions' Linears are
 * thrown away afterwards.
 *
 * Everything random is a function of the seed and the step. Knows scenes and the tower, not conversations.
 */
import { type CheckpointTensor, openCheckpoint } from '../checkpoint/folder.ts';
import { torchValues } from '../checkpoint/initialValues.ts';
import { loadTensors } from '../checkpoint/loadWeights.ts';
import { copyFiles, TOKENIZER_FILES, writeNewFolder, writeWeights } from '../checkpoint/newFolder.ts';
import type { TensorEntry } from '../checkpoint/safetensors.ts';
import { asWeightDtype, copyTensor } from '../checkpoint/tensorBytes.ts';
import { UserError } from '../common/errors.ts';
import { Random } from '../common/random.ts';
import { type FusionConfig, readFusionConfig } from '../model/config.ts';
import { type Asked, patchProgram, patchTensors, type QuestionWeights } from '../model/patchPrograms.ts';
import { gradientOf } from '../model/programs.ts';
import type { Device, Executable, HostTensor, ResidentTensor } from '../runtime/types.ts';
import { openEncoder } from './openSource.ts';
import { patchFeeds, questionsOf } from './patchFeeds.ts';
import { scheduleFactor } from './schedule.ts';
import { momentsFor, type TrainedState, type UpdateOptions, updateWeights } from './trainer.ts';

export interface PretrainOptions {
  readonly device: Device;
  /** A FUSION checkpoint, whose tower is trained. */
  readonly base: string;
  /** The new checkpoint: `base` with the trained tower. */
  readonly out: string;
  readonly steps: number;
  /** Pictures of a step, of five crops each. */
  readonly batchSize: number;
  readonly learningRate: number;
  readonly seed: number;
  /** What of the model is asked, and so what of it learns. */
  readonly asked: Asked;
  /** One question of each picture instead of a conversation. */
  readonly single: boolean;
  /** Of the questions a patch is asked. */
  readonly weights: QuestionWeights;
  /** The mean loss of each question over the steps since the last report. */
  readonly onLog?: (step: number, losses: Readonly<Record<string, number>>) => void;
  readonly logEvery: number;
}

const SCHEDULE = { schedule: 'cosine', warmup_ratio: 0.03 } as const;
const WEIGHT_DECAY = 0.02;
const CLIP_NORM = 1;
/** Trains the tower of `base` and writes the model with it. @throws UserError where a loss is no number */
export async function pretrainTower(o: PretrainOptions): Promise<void> {
  const { device, base, steps } = o;
  const config = await readFusionConfig(base);
  const { tensors } = await openCheckpoint(base);
  const learner = await openLearner(o, config, tensors);
  const log = lossLog(o);
  const encoder = { ...(await openEncoder(config, base)), ...o };
  let next = patchFeeds(encoder, 1);
  for (let step = 1; step <= steps; step++) {
    const feeds = await next;
    if (step < steps) next = patchFeeds(encoder, step + 1);
    const losses = await learn(device, learner, feeds, {
      step,
      rateFactor: scheduleFactor(SCHEDULE, step - 1, steps),
      clipNorm: CLIP_NORM,
    });
    if (!Number.isFinite(losses.loss)) throw new UserError(`step ${step}: the loss is ${losses.loss}`);
    log(step, losses);
  }
  await learner.program.dispose();
  await writeModel(o, tensors, learner.weights);
}

type Losses = Readonly<Record<string, number>>;

/** What learns: the tower's weights and those of the questions' Linears. */
interface Learner extends TrainedState {
  readonly program: Executable;
  readonly questions: readonly string[];
}

async function openLearner(
  { device, seed, learningRate, asked, weights: questionWeights }: PretrainOptions,
  config: FusionConfig,
  tensors: ReadonlyMap<string, CheckpointTensor>,
): Promise<Learner> {
  const questions = questionsOf(asked);
  checkWeights(questionWeights, Object.keys(questions));
  const weights = await initialWeights(device, patchTensors(config, questions, asked), tensors, seed);
  const rules = new Map(
    Object.entries(weights).map(([name, { shape }]) => [
      name,
      { learningRate, weightDecay: shape.length > 1 ? WEIGHT_DECAY : 0 },
    ]),
  );
  const moments = await momentsFor(device, weights, rules);
  const program = await device.load(patchProgram(config, questions, asked, questionWeights));
  return { program, questions: Object.keys(questions), weights, rules, moments };
}

/** @throws UserError for a weight of a question that is not asked */
function checkWeights(weights: QuestionWeights, questions: readonly string[]): void {
  const unknown = Object.keys(weights).find((name) => !questions.includes(name));
  if (unknown === undefined) return;
  throw new UserError(`no question of patches is called "${unknown}"; there are ${questions.join(', ')}`);
}

/** One step; the losses before it. */
async function learn(
  device: Device,
  learner: Learner,
  feeds: Readonly<Record<string, HostTensor>>,
  options: UpdateOptions,
): Promise<Losses> {
  const names = Object.keys(learner.weights);
  const keep = names.map(gradientOf);
  const { outputs, kept } = await learner.program.run({ ...learner.weights, ...feeds }, { keep });
  const gradients = keep.map((name) => kept[name] as ResidentTensor);
  await updateWeights(device, learner, gradients, 1, options);
  await device.free(gradients);
  const value = (name: string) => [name, Number(outputs[name]?.data[0])] as const;
  return Object.fromEntries(['loss', ...learner.questions].map(value));
}

/** Reports the means of some steps' losses. */
function lossLog({ steps, logEvery, onLog }: PretrainOptions): (step: number, losses: Losses) => void {
  let since: Losses[] = [];
  return (step, losses) => {
    since.push(losses);
    if (step % logEvery !== 0 && step !== steps) return;
    const mean = (name: string) => since.reduce((sum, each) => sum + (each[name] ?? 0), 0) / since.length;
    onLog?.(step, Object.fromEntries(Object.keys(losses).map((name) => [name, mean(name)])));
    since = [];
  };
}

async function initialWeights(
  device: Device,
  { own, answers }: ReturnType<typeof patchTensors>,
  tensors: ReadonlyMap<string, CheckpointTensor>,
  seed: number,
): Promise<Readonly<Record<string, ResidentTensor>>> {
  const stored = [...own.keys()].flatMap((name): [string, CheckpointTensor][] => {
    const tensor = tensors.get(name);
    return tensor === undefined ? [] : [[name, tensor]];
  });
  const weights: Record<string, ResidentTensor> = { ...(await loadTensors(device, stored)) };
  const fresh = torchValues(new Random(seed));
  for (const [name, shape] of answers) {
    const bytes = fresh(name, answers, 'F32');
    const data = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    weights[name] = await device.upload({ dtype: 'f32', shape: [...shape], data });
  }
  return weights;
}

/** `base` again, with the trained tower. */
async function writeModel(
  { device, base, out }: PretrainOptions,
  tensors: ReadonlyMap<string, CheckpointTensor>,
  weights: Readonly<Record<string, ResidentTensor>>,
): Promise<void> {
  const entries: TensorEntry[] = [];
  for (const [name, tensor] of tensors) {
    const dtype = asWeightDtype(tensor.dtype, name);
    const trained = weights[name];
    if (trained === undefined) {
      entries.push({ name, dtype, shape: tensor.shape, data: () => copyTensor(tensor, dtype) });
      continue;
    }
    const { data } = await device.download(trained);
    entries.push({
      name,
      dtype: 'F32',
      shape: tensor.shape,
      data: () => new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    });
  }
  await writeNewFolder(out, async (dir) => {
    await writeWeights(dir, entries, {});
    await copyFiles(base, dir, ['config.json', ...TOKENIZER_FILES]);
  });
}
