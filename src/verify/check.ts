/**
 * A checkpoint against the expected values stored beside it: every case forward and backward, a few steps of
 * training, greedy decoding. Says how far each quantity is off and where, in proportion to what is allowed.
 */
import { openCheckpoint } from '../checkpoint/folder.ts';
import { loadWeights, type ResidentWeights } from '../checkpoint/loadWeights.ts';
import { messageOf, UserError } from '../common/errors.ts';
import type { OnProgress } from '../common/progress.ts';
import { type FusionConfig, readFusionConfig } from '../model/config.ts';
import { expectedTensors, optionalTensors } from '../model/weights.ts';
import type { Device, HostTensor } from '../runtime/types.ts';
import { CasePrograms, type CaseResults, LOGIT_POSITIONS, runCase } from './caseRun.ts';
import {
  type ExpectedCase,
  type ExpectedGreedy,
  type ExpectedTraining,
  type ExpectedValues,
  FEATURES,
  LOSSES,
  readExpectedValues,
  type StoredTensor,
} from './cases.ts';
import {
  type Deviation,
  judge,
  type Outcome,
  relativeDeviation,
  scalarDeviation,
  spread,
  TOLERANCES,
} from './compare.ts';
import { runGreedy } from './greedyRun.ts';
import { runTraining } from './trainingRun.ts';

export interface CheckOptions {
  /** Factor on every tolerance; 1 unless given. Lengths and tokens are equal or not. */
  readonly tolerance?: number | undefined;
  /** Called with every outcome as soon as it is known. */
  readonly onOutcome?: ((outcome: Outcome) => void) | undefined;
  readonly onProgress?: OnProgress | undefined;
}

export interface CheckReport {
  /** Whether everything that could be compared is within its tolerance, and nothing failed to run. */
  readonly passed: boolean;
  readonly outcomes: readonly Outcome[];
}

/**
 * Checks the checkpoint in `dir` on a device; nothing stays on it. Throws `UserError` for a checkpoint or expected
 * values that are missing or broken, and a tolerance that is no number above 0.
 */
export async function checkCheckpoint(
  device: Device,
  dir: string,
  options: CheckOptions = {},
): Promise<CheckReport> {
  const { tolerance = 1, onOutcome, onProgress } = options;
  if (!(tolerance > 0 && tolerance < Number.POSITIVE_INFINITY)) {
    throw new UserError(`tolerance: expected a factor above 0, got ${tolerance}`);
  }
  const config = await readFusionConfig(dir);
  const checkpoint = await openCheckpoint(dir);
  const expected = await readExpectedValues(dir, config.decoder.vocabSize);
  const weights = await loadWeights(device, config, checkpoint, onProgress);
  const outcomes: Outcome[] = [];
  const report = (outcome: Outcome) => {
    outcomes.push(outcome);
    onOutcome?.(outcome);
  };
  const programs = new CasePrograms(device, config);
  try {
    const check = new Check({ device, config, weights, programs, expected, tolerance, report });
    const { cases, training, greedy } = expected;
    for (const each of cases) {
      await check.guard(each.name, 'case', () => check.case(each));
      // Now, while the program of its case is loaded.
      if (training?.case === each) await check.guard('adamw', 'training', () => check.training(training));
    }
    await programs.dispose();
    if (greedy !== undefined) await check.guard('greedy', 'tokens', () => check.greedy(greedy));
    for (const name of expected.unknown) {
      report({ case: name, quantity: 'unknown', status: 'unchecked', reason: 'not checked' });
    }
  } finally {
    await programs.dispose();
    await device.free(Object.values(weights));
  }
  const passed = outcomes.every(({ status }) => status === 'ok' || status === 'unchecked');
  return { passed, outcomes };
}

interface CheckContext {
  readonly device: Device;
  readonly config: FusionConfig;
  readonly weights: ResidentWeights;
  readonly programs: CasePrograms;
  readonly expected: ExpectedValues;
  readonly tolerance: number;
  readonly report: (outcome: Outcome) => void;
}

class Check {
  readonly #context: CheckContext;

  constructor(context: CheckContext) {
    this.#context = context;
  }

  /** Reports what goes wrong and lets the next case have its turn. */
  async guard(name: string, quantity: string, action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      const reason = `could not be run: ${messageOf(error)}`;
      this.#context.report({ case: name, quantity, status: 'failed', reason });
    }
  }

  async case(each: ExpectedCase): Promise<void> {
    const { device, config, weights, programs, report } = this.#context;
    const known = expectedTensors(config);
    const wanted = new Set([...each.gradientNorms.keys(), ...each.storedGradients]);
    const gradients = [...known.keys()].filter((name) => wanted.has(name));
    const results = await runCase(programs, config, weights, each, gradients);
    try {
      report(equalLists(each.name, 'lengths', results.lengths, each.lengths, 'sample'));
      report(judge(each.name, 'losses', this.#losses(each, results)));
      await this.guard(each.name, 'logits', () => this.#logits(each, results));
      await this.guard(each.name, 'features', () => this.#features(each, results));
      await this.guard(each.name, 'gradient norms', () => this.#gradientNorms(each, results));
      await this.guard(each.name, 'gradients', () => this.#gradients(each, results));
    } finally {
      await device.free([...results.gradients.values()]);
    }
  }

  #losses({ losses }: ExpectedCase, { outputs }: CaseResults): readonly Deviation[] {
    const names = { loss: 'loss', ce: 'cross_entropy', text_loss: 'text_loss', vision_loss: 'vision_loss' };
    const allowed = TOLERANCES.loss * this.#context.tolerance;
    return LOSSES.map((name) => {
      const got = Number(outputs[names[name]]?.data[0]);
      return scalarDeviation(got, losses[name], allowed, name);
    });
  }

  async #logits({ name }: ExpectedCase, { outputs, lengths }: CaseResults): Promise<void> {
    const { expected, tolerance, report } = this.#context;
    const logits = output(outputs, 'logits');
    const vocabulary = logits.shape[1] ?? 0;
    const deviations: Deviation[] = [];
    let first = 0;
    for (const [b, length] of lengths.entries()) {
      const rows = Math.min(length, LOGIT_POSITIONS);
      const stored = await expected.read(`${name}.logits.${b}`);
      const part = logits.data.subarray(first * vocabulary, (first + rows) * vocabulary) as Float32Array;
      first += rows;
      if (stored === undefined) continue;
      checkShape(`logits.${b}`, stored.shape, [rows, vocabulary]);
      const allowed = TOLERANCES.logits * tolerance;
      deviations.push(relativeDeviation(part, stored.data, allowed, `sample ${b}`));
    }
    report(judge(name, 'logits', deviations));
  }

  async #features({ name }: ExpectedCase, { outputs }: CaseResults): Promise<void> {
    const { expected, tolerance, report } = this.#context;
    const deviations: Deviation[] = [];
    for (const feature of FEATURES) {
      const stored = await expected.read(`${name}.${feature}`);
      if (stored === undefined) continue;
      const got = firstRows(output(outputs, feature));
      checkShape(feature, stored.shape, got.shape);
      deviations.push(relativeDeviation(got.data, stored.data, TOLERANCES.features * tolerance, feature));
    }
    report(judge(name, 'features', deviations));
  }

  async #gradientNorms({ name, gradientNorms }: ExpectedCase, { gradients }: CaseResults): Promise<void> {
    const { device, config, tolerance, report } = this.#context;
    const { relative, absolute } = TOLERANCES.gradientNorm;
    const names = [...gradients.keys()];
    const norms = await device.norms([...gradients.values()]);
    const got = new Map(names.map((weight, i) => [weight, norms[i] ?? Number.NaN]));
    // A tensor that the loss does not depend on has no gradient.
    for (const unused of optionalTensors(config).keys()) got.set(unused, 0);
    const deviations = [...gradientNorms].map(([weight, norm]) => {
      const value = got.get(weight);
      if (value === undefined) throw new UserError(`the model has no tensor ${weight}`);
      return scalarDeviation(value, norm, (relative * norm + absolute) * tolerance, weight);
    });
    report(judge(name, 'gradient norms', deviations));
  }

  async #gradients({ name, storedGradients }: ExpectedCase, { gradients }: CaseResults): Promise<void> {
    if (storedGradients.length === 0) return;
    const { device, config, expected, tolerance, report } = this.#context;
    const { relative, absolute } = TOLERANCES.gradient;
    const deviations: Deviation[] = [];
    let note: string | undefined;
    for (const weight of storedGradients) {
      const resident = gradients.get(weight);
      const stored = await expected.read(`${name}.grad.${weight}`);
      if (resident === undefined || stored === undefined) {
        throw new UserError(`the model has no tensor ${weight}`);
      }
      checkShape(`grad.${weight}`, stored.shape, resident.shape);
      const data = (await device.download(resident)).data as Float32Array;
      if (weight === EMBEDDINGS) note = allowPaddingRow(data, stored, config.padId);
      const { worst, largest } = spread(data, stored.data);
      deviations.push({ deviation: worst, allowed: (relative * largest + absolute) * tolerance, at: weight });
    }
    const outcome = judge(name, 'gradients', deviations);
    report(note === undefined ? outcome : { ...outcome, reason: note });
  }

  async training(recipe: ExpectedTraining): Promise<void> {
    const { device, programs, config, weights, tolerance, report } = this.#context;
    const { losses, gradientNorms } = await runTraining(device, programs, config, weights, recipe);
    const lossDeviations = recipe.losses.map((loss, i) =>
      scalarDeviation(losses[i] ?? Number.NaN, loss, TOLERANCES.trainingLoss * tolerance, `step ${i + 1}`),
    );
    report(judge('adamw', 'losses', lossDeviations));
    const normDeviations = recipe.gradientNorms.map((norm, i) => {
      const allowed = TOLERANCES.trainingNorm * norm * tolerance;
      return scalarDeviation(gradientNorms[i] ?? Number.NaN, norm, allowed, `step ${i + 1}`);
    });
    report(judge('adamw', 'gradient norms', normDeviations));
  }

  async greedy(expected: ExpectedGreedy): Promise<void> {
    const { device, config, weights, report } = this.#context;
    const { cached, recomputed } = await runGreedy(device, config, weights, expected);
    report(equalLists('greedy', 'cached', cached, expected.tokens, 'token'));
    report(equalLists('greedy', 'recomputed', recomputed, expected.tokens, 'token'));
  }
}

function output(outputs: CaseResults['outputs'], name: string): HostTensor {
  const found = outputs[name];
  if (found === undefined) throw new Error(`internal: the program has no output ${name}`);
  return found;
}

/** Stored features are cut to this many rows of dimension 1. */
const FEATURE_ROWS = 64;

function firstRows({ shape, data }: HostTensor): { shape: readonly number[]; data: Float32Array } {
  const [batch = 0, rows = 0, ...rest] = shape;
  const inner = rest.reduce((a, b) => a * b, 1);
  const kept = Math.min(rows, FEATURE_ROWS);
  const cut = new Float32Array(batch * kept * inner);
  for (let b = 0; b < batch; b++) {
    const from = b * rows * inner;
    cut.set((data as Float32Array).subarray(from, from + kept * inner), b * kept * inner);
  }
  return { shape: [batch, kept, ...rest], data: cut };
}

function checkShape(name: string, expected: readonly number[], got: readonly number[]): void {
  if (String(expected) === String(got)) return;
  throw new UserError(`${name}: expected [${expected.join(', ')}], got [${got.join(', ')}]`);
}

const EMBEDDINGS = 'model.embed_tokens.weight';

/**
 * The released implementation gives the padding id's row no gradient (`padding_idx`); expected values made by plain
 * indexing have one there. Where the row is 0, the stored one is taken as 0, and what was passed over is returned.
 */
function allowPaddingRow(
  got: Float32Array,
  { shape, data }: StoredTensor<Float32Array>,
  padId: number | undefined,
): string | undefined {
  if (padId === undefined) return undefined;
  const width = shape[1] ?? 0;
  const [from, to] = [padId * width, (padId + 1) * width];
  const { worst } = spread(got.subarray(from, to), data.subarray(from, to));
  const isZero = got.subarray(from, to).every((x) => x === 0);
  if (!isZero || !(worst > 0)) return undefined;
  data.fill(0, from, to);
  return `padding row ${padId} of ${EMBEDDINGS} has no gradient, stored up to ${worst.toExponential(1)}`;
}

function equalLists(
  name: string,
  quantity: string,
  got: readonly number[],
  expected: readonly number[],
  what: string,
): Outcome {
  const at = expected.findIndex((value, i) => got[i] !== value);
  if (at < 0) return { case: name, quantity, status: 'ok', reason: `${expected.length} equal` };
  const reason = `${what} ${at}: expected ${expected[at]}, got ${got[at] ?? 'nothing'}`;
  return { case: name, quantity, status: 'over', reason };
}
