/**
 * One stage of training, from beginning or from a saved run to its last step: the loop reads top to bottom as the
 * story of a run. Everything random is a function of the seed and the step, so a resumed run equals an
 * uninterrupted one bit for bit.
 */
import path from 'node:path';
import { UserError } from '../common/errors.ts';
import { Random } from '../common/random.ts';
import type { FusionConfig } from '../model/config.ts';
import { expectedTensors } from '../model/weights.ts';
import type { Device, ResidentTensor } from '../runtime/types.ts';
import { type EncodedSample, makeBatch, type TrainBatch } from './batch.ts';
import { type DataState, loadMoments, removeLeftovers, type SavedRun, saveCheckpoint } from './checkpoint.ts';
import { decays, diffConfigs, isTrainable, learningRateFor, type StageConfig } from './config.ts';
import { dropoutFeeds, factorShapes, type LoraSetup, loraOverlay } from './loraStage.ts';
import { type MetricsLog, type MetricsRow, openMetrics } from './metrics.ts';
import { scheduleFactor } from './schedule.ts';
import type { SampleSource } from './source.ts';
import { type EventFile, openEventFile } from './tensorBoard.ts';
import { DivergedError, type Moments, type StepResult, Trainer, type WeightRule } from './trainer.ts';
import { logEntryOf, type TrainerState } from './trainerState.ts';

export interface TrainOptions {
  readonly device: Device;
  readonly config: FusionConfig;
  /** Every weight of the model, and with LoRA its factors, resident; updated in place. */
  readonly weights: Readonly<Record<string, ResidentTensor>>;
  readonly stage: StageConfig;
  /** What `mode: lora` trains. */
  readonly lora?: LoraSetup | undefined;
  readonly source: SampleSource;
  /** The run's folder. */
  readonly out: string;
  /** Where tokenizer files are copied from into checkpoints. */
  readonly base: string;
  /** A saved run to go on from, whose weights are the ones given. */
  readonly resume?: SavedRun | undefined;
  /** Each logged step. */
  readonly onLog?: ((row: MetricsRow, totalSteps: number) => void) | undefined;
  /** Ends the run after the step under way, with a checkpoint. */
  readonly signal?: AbortSignal | undefined;
  /** The model card of a checkpoint. */
  readonly card?: (() => Promise<string>) | undefined;
}

export interface TrainResult {
  readonly steps: number;
  readonly totalSteps: number;
  /** The last checkpoint written. */
  readonly checkpoint: string;
  readonly rows: readonly MetricsRow[];
}

/** Optimizer steps of a stage: `max_steps`, or what its epochs take. */
export function totalStepsOf(stage: StageConfig, batchesPerEpoch: number): number {
  if (stage.max_steps !== undefined) return stage.max_steps;
  const steps = ((stage.epochs ?? 1) * batchesPerEpoch) / stage.accumulation;
  // Rounding of fractions must not add a step.
  return Math.max(1, Math.ceil(steps - 1e-9));
}

/** How each trained weight is updated, LoRA's factors included; frozen ones are left out. */
export function weightRules(
  config: FusionConfig,
  stage: StageConfig,
  lora?: LoraSetup,
): ReadonlyMap<string, WeightRule> {
  const all = [...expectedTensors(config), ...factorShapes(lora)];
  const trained = all.filter(([name]) => isTrainable(name, stage));
  if (trained.length === 0)
    throw new UserError(`stage ${stage.stage}: expected something to train, got all frozen`);
  return new Map(
    trained.map(([name, shape]) => [
      name,
      {
        learningRate: learningRateFor(name, stage),
        weightDecay: decays(name, shape) ? stage.weight_decay : 0,
      },
    ]),
  );
}

/** The highest learning rates inside and outside of the vision tower; 0 where all is frozen. */
function peakRates(rules: ReadonlyMap<string, WeightRule>) {
  const highest = (inTower: boolean) =>
    Math.max(
      0,
      ...[...rules].flatMap(([name, { learningRate }]) =>
        name.startsWith('model.vision_tower.') === inTower ? [learningRate] : [],
      ),
    );
  return { tower: highest(true), rest: highest(false) };
}

/**
 * Refuses to go on with another configuration than the run was saved with. Throws `UserError` with every change.
 */
export function checkSameConfig(saved: StageConfig, current: StageConfig): void {
  const changes = diffConfigs(saved, current);
  if (changes.length === 0) return;
  throw new UserError(
    `resume: the configuration changed since the run was saved: ${changes.join('; ')}; go on with --allow-changes`,
  );
}

/** Sums over the steps since the last line of the log; part of a checkpoint. */
interface Window extends StepResult {
  readonly steps: number;
}

const EMPTY: Window = { steps: 0, loss: 0, crossEntropy: 0, textLoss: 0, visionLoss: 0, gradientNorm: 0 };

/** Trains one stage. Throws `DivergedError`, after saving, when the loss is no longer a number. */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const run = await Run.open(options);
  try {
    return await run.toEnd();
  } finally {
    await run.close();
  }
}

class Run {
  readonly #o: TrainOptions;
  readonly #trainer: Trainer;
  readonly #metrics: MetricsLog;
  readonly #events: EventFile;
  readonly #rows: MetricsRow[];
  readonly #totalSteps: number;
  readonly #peakRates: { readonly tower: number; readonly rest: number };
  #step: number;
  #window: Window;
  #secondsBefore: number;
  #began = performance.now();
  #windowBegan = performance.now();
  #windowSamples = 0;
  #windowTokens = 0;
  #checkpoint: string;
  #savedStep: number;

  static async open(o: TrainOptions): Promise<Run> {
    const { resume, stage, out } = o;
    await removeLeftovers(out);
    const moments =
      resume === undefined ? new Map<string, Moments>() : await loadMoments(o.device, resume.dir);
    const step = resume?.state.global_step ?? 0;
    const { device, config, weights, lora } = o;
    const rules = weightRules(config, stage, lora);
    const overlay = lora === undefined ? undefined : () => loraOverlay(lora);
    const trainer = await Trainer.create(device, config, weights, rules, moments, {
      overlay,
      recompute: stage.recompute,
    });
    const metrics = await openMetrics(path.join(out, 'metrics.jsonl'), step);
    const events = await openEventFile(path.join(out, 'runs'), { resumedStep: step });
    return new Run(o, trainer, metrics, events, step);
  }

  private constructor(
    o: TrainOptions,
    trainer: Trainer,
    metrics: MetricsLog,
    events: EventFile,
    step: number,
  ) {
    this.#o = o;
    this.#trainer = trainer;
    this.#metrics = metrics;
    this.#events = events;
    this.#step = step;
    this.#totalSteps = totalStepsOf(o.stage, o.source.batchesPerEpoch);
    this.#peakRates = peakRates(weightRules(o.config, o.stage, o.lora));
    this.#rows = [...metrics.kept];
    this.#checkpoint = o.resume?.dir ?? '';
    this.#savedStep = o.resume === undefined ? -1 : step;
    this.#secondsBefore = this.#rows.at(-1)?.seconds ?? 0;
    if (o.resume === undefined) this.#window = EMPTY;
    else {
      this.#window = JSON.parse(String(o.resume.dataState.window)) as Window;
      o.source.restore(o.resume.dataState);
    }
  }

  async toEnd(): Promise<TrainResult> {
    const { stage, signal } = this.#o;
    while (this.#step < this.#totalSteps && !signal?.aborted) {
      await this.#next();
      if (this.#step % stage.log_every === 0 || this.#step === this.#totalSteps) await this.#log();
      if (this.#step % stage.save_every === 0 && this.#step < this.#totalSteps) await this.#save();
    }
    await this.#save();
    return {
      steps: this.#step,
      totalSteps: this.#totalSteps,
      checkpoint: this.#checkpoint,
      rows: this.#rows,
    };
  }

  async #next(): Promise<void> {
    const { stage } = this.#o;
    const step = this.#step + 1;
    const before = this.#o.source.state();
    const queryLength = this.#queryLength(step);
    const batches = await this.#batches(step, queryLength).catch(async (error: unknown) => {
      // Data that cannot be used says nothing against the steps already taken.
      if (error instanceof UserError && this.#step > 0) await this.#save(before);
      throw error;
    });
    const rateFactor = scheduleFactor(stage, step - 1, this.#totalSteps);
    const options = { step, queryLength, rateFactor, clipNorm: stage.clip_norm };
    const result = await this.#trainer.step(batches, options).catch(async (error: unknown) => {
      throw error instanceof DivergedError ? await this.#diverged(error, before) : error;
    });
    this.#step = step;
    this.#window = added(this.#window, result);
    this.#windowSamples += batches.reduce((sum, { ids }) => sum + ids.length, 0);
    this.#windowTokens += batches.reduce((sum, { tokens }) => sum + tokens, 0);
  }

  /** The passes of one step; more are drawn where none of them has a sample that can be used. */
  async #batches(step: number, queryLength: number): Promise<readonly TrainBatch[]> {
    const { source, stage } = this.#o;
    const batches: TrainBatch[] = [];
    for (let i = 0; i < stage.accumulation || batches.length === 0; i++) {
      const samples = await source.next();
      if (samples.length > 0) batches.push(this.#batch(samples, queryLength, `${step}/${i}`));
    }
    return batches;
  }

  /** Keeps the state before the step that failed, and says where. */
  async #diverged(error: DivergedError, before: DataState): Promise<DivergedError> {
    const dir = await this.#write(before, 'diverged');
    return new DivergedError(`${error.message}; the state before this step is in ${dir}`);
  }

  /** One of the listed lengths for the whole batch, drawn anew at each step. */
  #queryLength(step: number): number {
    const { stage, config } = this.#o;
    const lengths = stage.query_lens ?? config.queryLens;
    const draw = new Random(stage.seed).fork(`query_len/${step}`).integer(lengths.length);
    return lengths[draw] ?? config.defaultQueryLen;
  }

  /** pass: names the pass, for what is random in it. */
  #batch(samples: readonly EncodedSample[], queryLength: number, pass: string): TrainBatch {
    const { stage, config, lora } = this.#o;
    const batch = makeBatch(samples, config, queryLength, stage.max_length);
    if (lora === undefined) return batch;
    const [size = 0, sequence = 0] = batch.feeds.sources?.shape ?? [];
    const random = new Random(stage.seed).fork(`dropout/${pass}`);
    return { ...batch, feeds: { ...batch.feeds, ...dropoutFeeds(lora, size, sequence, random) } };
  }

  async #log(): Promise<void> {
    const { stage, onLog } = this.#o;
    const now = performance.now();
    const seconds = (now - this.#windowBegan) / 1e3;
    const { steps, ...sums } = this.#window;
    const factor = scheduleFactor(stage, this.#step - 1, this.#totalSteps);
    const row: MetricsRow = {
      step: this.#step,
      epoch: this.#epoch(),
      loss: sums.loss / steps,
      cross_entropy: sums.crossEntropy / steps,
      text_loss: sums.textLoss / steps,
      vision_loss: sums.visionLoss / steps,
      learning_rate: this.#peakRates.rest * factor,
      vision_learning_rate: this.#peakRates.tower * factor,
      grad_norm: sums.gradientNorm / steps,
      samples_per_s: this.#windowSamples / seconds,
      tokens_per_s: this.#windowTokens / seconds,
      seconds: this.#secondsBefore + (now - this.#began) / 1e3,
    };
    this.#window = EMPTY;
    this.#windowBegan = now;
    this.#windowSamples = 0;
    this.#windowTokens = 0;
    this.#rows.push(row);
    await this.#metrics.append(row);
    await this.#events.scalars(row.step, scalarsOf(row));
    onLog?.(row, this.#totalSteps);
  }

  /** How many times the data was seen. */
  #epoch(): number {
    return (this.#step * this.#o.stage.accumulation) / this.#o.source.batchesPerEpoch;
  }

  /** dataState: where the data of the steps taken end. */
  async #save(dataState: DataState = this.#o.source.state()): Promise<void> {
    if (this.#savedStep === this.#step) return;
    this.#checkpoint = await this.#write(dataState, 'checkpoint');
    this.#savedStep = this.#step;
  }

  async #write(source: DataState, kind: 'checkpoint' | 'diverged'): Promise<string> {
    const { device, out, stage, config, base, card, lora } = this.#o;
    await this.#metrics.sync();
    const state: TrainerState = {
      epoch: this.#epoch(),
      global_step: this.#step,
      max_steps: this.#totalSteps,
      num_train_epochs: stage.epochs ?? 1,
      log_history: this.#rows.map(logEntryOf),
      best_metric: null,
      best_model_checkpoint: null,
      total_flos: 0,
    };
    const dataState: DataState = { ...source, window: JSON.stringify(this.#window) };
    const readme = (await card?.()) ?? `# Stage ${stage.stage}, step ${this.#step}\n`;
    const saved = { out, kind, stage, config, base, state, dataState, readme, lora };
    return saveCheckpoint(device, this.#trainer, saved);
  }

  async close(): Promise<void> {
    await this.#metrics.close();
    await this.#events.close();
    await this.#trainer.dispose();
  }
}

function added(window: Window, result: StepResult): Window {
  return {
    steps: window.steps + 1,
    loss: window.loss + result.loss,
    crossEntropy: window.crossEntropy + result.crossEntropy,
    textLoss: window.textLoss + result.textLoss,
    visionLoss: window.visionLoss + result.visionLoss,
    gradientNorm: window.gradientNorm + result.gradientNorm,
  };
}

function scalarsOf({ step: _step, ...values }: MetricsRow): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [`train/${name}`, value]));
}
