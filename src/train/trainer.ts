/**
 * One optimisation step: gradients of the micro-batches, their mean clipped by its global norm, AdamW in place.
 * Weights and moments are resident on the device. Knows nothing of data sets, files or schedules.
 */
import { InternalError, UserError } from '../common/errors.ts';
import type { FusionConfig } from '../model/config.ts';
import { gradientOf, lossAndGradientsProgram, type Overlay } from '../model/programs.ts';
import type { Device, Executable, ResidentTensor, RunResult } from '../runtime/types.ts';
import type { TrainBatch } from './batch.ts';

/** AdamW's constants (spec "Stages"). */
const BETA1 = 0.9;
const BETA2 = 0.999;
const EPSILON = 1e-8;
/** As PyTorch's `clip_grad_norm_`. */
const NORM_EPSILON = 1e-6;

export interface Moments {
  readonly first: ResidentTensor;
  readonly second: ResidentTensor;
}

/** How one weight is updated. */
export interface WeightRule {
  /** Peak learning rate; the schedule's factor comes on top. */
  readonly learningRate: number;
  readonly weightDecay: number;
}

export interface UpdateOptions {
  /** Counts from 1. */
  readonly step: number;
  /** The schedule's factor on every learning rate. */
  readonly rateFactor: number;
  /** Largest global norm of the gradients; 0: any. */
  readonly clipNorm: number;
}

export interface StepOptions extends UpdateOptions {
  /** Latents per question. */
  readonly queryLength: number;
}

export interface StepResult {
  readonly loss: number;
  readonly crossEntropy: number;
  readonly textLoss: number;
  readonly visionLoss: number;
  /** Before clipping. */
  readonly gradientNorm: number;
}

/** How the loss program is traced. */
export interface TraceOptions {
  /** Fresh inputs for what is trained beside the model's own weights. */
  readonly overlay?: (() => Overlay) | undefined;
  /** Compute each layer again in the backward pass, for less memory. */
  readonly recompute?: boolean | undefined;
}

/** A loss that is no number: training cannot go on from here. */
export class DivergedError extends UserError {
  override readonly name = 'DivergedError';
}

export class Trainer {
  readonly weights: Readonly<Record<string, ResidentTensor>>;
  readonly moments: ReadonlyMap<string, Moments>;
  readonly #device: Device;
  readonly #config: FusionConfig;
  readonly #rules: ReadonlyMap<string, WeightRule>;
  readonly #trace: TraceOptions;
  readonly #programs = new Map<number, Executable>();

  private constructor(
    device: Device,
    config: FusionConfig,
    weights: Readonly<Record<string, ResidentTensor>>,
    rules: ReadonlyMap<string, WeightRule>,
    moments: ReadonlyMap<string, Moments>,
    trace: TraceOptions,
  ) {
    this.#device = device;
    this.#config = config;
    this.weights = weights;
    this.#rules = rules;
    this.moments = moments;
    this.#trace = trace;
  }

  /**
   * weights: every tensor of the model and of the overlay, by checkpoint name; rules: those to be trained. Moments
   * are zeros unless given (a resumed run).
   */
  static async create(
    device: Device,
    config: FusionConfig,
    weights: Readonly<Record<string, ResidentTensor>>,
    rules: ReadonlyMap<string, WeightRule>,
    moments: ReadonlyMap<string, Moments> = new Map(),
    trace: TraceOptions = {},
  ): Promise<Trainer> {
    const all = await momentsFor(device, weights, rules, moments);
    return new Trainer(device, config, weights, rules, all, trace);
  }

  /**
   * Updates the weights once from the mean of the micro-batches' losses. Throws `DivergedError` before any update
   * when a loss or the gradients' norm is not finite.
   */
  async step(batches: readonly TrainBatch[], options: StepOptions): Promise<StepResult> {
    const names = [...this.#rules.keys()];
    const { losses, gradients } = await this.#gradients(batches, names, options);
    const { weights, moments } = this;
    const state = { weights, moments, rules: this.#rules };
    const gradientNorm = await updateWeights(this.#device, state, gradients, batches.length, options);
    if (!Number.isFinite(gradientNorm)) {
      throw new DivergedError(
        `step ${options.step}: the gradients' norm is ${gradientNorm} (${idsOf(batches)})`,
      );
    }
    await this.#device.free(gradients);
    return { ...losses, gradientNorm };
  }

  /** Sums the micro-batches' gradients; the losses are their mean. */
  async #gradients(batches: readonly TrainBatch[], names: readonly string[], options: StepOptions) {
    const program = await this.#program(options.queryLength);
    let sum: readonly ResidentTensor[] | undefined;
    const losses = { loss: 0, crossEntropy: 0, textLoss: 0, visionLoss: 0 };
    for (const batch of batches) {
      const result = await program.run({ ...this.weights, ...batch.feeds }, { keep: names.map(gradientOf) });
      addLosses(losses, result, batches.length);
      if (!Number.isFinite(losses.loss)) {
        throw new DivergedError(
          `step ${options.step}: the loss is ${losses.loss} (samples ${batch.ids.join(', ')})`,
        );
      }
      const gradients = names.map((name) => result.kept[gradientOf(name)] as ResidentTensor);
      if (sum === undefined) sum = gradients;
      else {
        await this.#device.accumulate(sum, gradients);
        await this.#device.free(gradients);
      }
    }
    return { losses, gradients: sum ?? [] };
  }

  async #program(queryLength: number): Promise<Executable> {
    const known = this.#programs.get(queryLength);
    if (known !== undefined) return known;
    const names = [...this.#rules.keys()];
    const traced = lossAndGradientsProgram(this.#config, queryLength, names, {
      overlay: this.#trace.overlay?.(),
      recompute: this.#trace.recompute,
    });
    const program = await this.#device.load(traced);
    this.#programs.set(queryLength, program);
    return program;
  }

  async dispose(): Promise<void> {
    for (const program of this.#programs.values()) await program.dispose();
    this.#programs.clear();
    await this.#device.free([...this.moments.values()].flatMap(({ first, second }) => [first, second]));
  }
}

/** What AdamW updates: the weights of `rules`, by name. */
export interface TrainedState {
  readonly weights: Readonly<Record<string, ResidentTensor>>;
  readonly moments: ReadonlyMap<string, Moments>;
  readonly rules: ReadonlyMap<string, WeightRule>;
}

/**
 * Clips the mean of `passes` summed gradients, in the order of `rules`, by its global norm and applies AdamW in place.
 * Returns the norm before clipping; where it is not finite nothing is updated.
 */
export async function updateWeights(
  device: Device,
  { weights, moments, rules }: TrainedState,
  gradients: readonly ResidentTensor[],
  passes: number,
  { step, rateFactor, clipNorm }: UpdateOptions,
): Promise<number> {
  const norms = await device.norms(gradients);
  const gradientNorm = Math.sqrt(norms.reduce((sum, norm) => sum + norm * norm, 0)) / passes;
  if (!Number.isFinite(gradientNorm)) return gradientNorm;
  const tensors = [...rules].map(([name, { learningRate, weightDecay }], i) => {
    const [weight, state, gradient] = [weights[name], moments.get(name), gradients[i]];
    if (!weight || !state || !gradient) throw new InternalError(`${name} has no state`);
    return {
      weight,
      gradient,
      firstMoment: state.first,
      secondMoment: state.second,
      learningRate: learningRate * rateFactor,
      weightDecay,
    };
  });
  const clip = clipNorm === 0 ? 1 : Math.min(1, clipNorm / (gradientNorm + NORM_EPSILON));
  const gradientScale = clip / passes;
  await device.adamW(tensors, { step, beta1: BETA1, beta2: BETA2, epsilon: EPSILON, gradientScale });
  return gradientNorm;
}

/** Moments of zeros for the weights of `rules` that have none in `given`. */
export async function momentsFor(
  device: Device,
  weights: Readonly<Record<string, ResidentTensor>>,
  rules: ReadonlyMap<string, WeightRule>,
  given: ReadonlyMap<string, Moments> = new Map(),
): Promise<ReadonlyMap<string, Moments>> {
  const all = new Map<string, Moments>();
  for (const name of rules.keys()) {
    const shape = weights[name]?.shape;
    if (shape === undefined)
      throw new InternalError(`${name} is to be trained, but the model has no such weight`);
    const zeros = async () => ({
      first: await device.zeros('f32', shape),
      second: await device.zeros('f32', shape),
    });
    all.set(name, given.get(name) ?? (await zeros()));
  }
  return all;
}

function addLosses(
  losses: Record<keyof Omit<StepResult, 'gradientNorm'>, number>,
  { outputs }: RunResult,
  count: number,
) {
  const value = (name: string) => Number(outputs[name]?.data[0]) / count;
  losses.loss += value('loss');
  losses.crossEntropy += value('cross_entropy');
  losses.textLoss += value('text_loss');
  losses.visionLoss += value('vision_loss');
}

const idsOf = (batches: readonly TrainBatch[]): string =>
  `samples ${batches.flatMap(({ ids }) => ids).join(', ')}`;
