/**
 * The configuration of a training run: YAML with one stage, or with `stages:` and defaults they share, strictly
 * checked; and the rules in it, asked tensor by tensor.
 *
 * Every wrong or unknown key is an error with its line. Knows nothing of data, weights or steps, nor whether the
 * model has the tensors that patterns speak of (`unusedPatterns` tells, given the names).
 * The idea of `[pattern, rule]` lists is big_vision's.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { stringify } from 'yaml';
import type { z } from 'zod';
import { isRecord, kindOf } from '../checkpoint/jsonText.ts';
import { messageOf, UserError } from '../common/errors.ts';
import { nearestName } from '../common/nearest.ts';
import { parseYaml, showPath, worstIssue, type YamlPath } from '../common/yaml.ts';
import { knownKeys, loraSchema, type RawRecipe, type RawStage, stageSchema } from './configSchema.ts';

/**
 * One stage, resolved: keys are the file's. `batch_size` samples pass at once and `accumulation` passes make one
 * step. `freeze` holds what `mode` stands for besides the file's own patterns. Without `max_steps`, `epochs` rule;
 * without `query_lens`, the model's configuration; `clip_norm` 0 does not clip; `skip_limit` is the share of
 * samples that may be skipped. `data` is an absolute path, a recipe, or recipes that take turns.
 */
export type StageConfig = RawStage;

export type { RateRule, RawRecipe } from './configSchema.ts';

/** The patterns each mode freezes; a tensor is trained when none is found in its name. */
const MODES: Readonly<Record<StageConfig['mode'], readonly string[]>> = {
  full: [],
  adapters: [String.raw`^(?!model\.(mm_projector|aux_projector|vision_sampler_layers)\.)`],
  frozen_tower: [String.raw`^model\.vision_tower\.`],
  frozen_decoder: [String.raw`^(model\.(embed_tokens|layers|norm)|lm_head)\.`],
  lora: [String.raw`^(?!.*\.lora_[AB]\.)`],
};

/** The stages of the configuration in `file`, in order. Throws `UserError` as `resolveConfig` does. */
export async function readTrainConfig(file: string): Promise<readonly StageConfig[]> {
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    throw new UserError(`${file}: ${messageOf(error)}`);
  });
  return resolveConfig(text, file);
}

/**
 * The stages in `text`, defaults filled in, `mode` expanded, data paths made absolute from `file`'s folder.
 * Throws `UserError` naming `file:line: key` for text that is not YAML and for unknown, missing or wrong keys.
 */
export function resolveConfig(text: string, file: string): readonly StageConfig[] {
  const { value, lineOf } = parseYaml(text, file);
  const fail: Fail = (at, message) => {
    const key = showPath(at);
    throw new UserError(`${file}:${lineOf(at)}: ${key === '' ? '' : `${key}: `}${message}`);
  };
  if (!isRecord(value)) return fail([], `expected the keys of a stage, got ${kindOf(value)}`);
  const { stages, ...shared } = value;
  if (stages === undefined) return [resolveStage(shared, {}, [], file, fail)];
  if (!Array.isArray(stages) || stages.length === 0) {
    return fail(['stages'], `expected a list of stages, got ${kindOf(stages)}`);
  }
  const all = stages.map((own: unknown, i) => {
    if (!isRecord(own)) return fail(['stages', i], `expected the keys of a stage, got ${kindOf(own)}`);
    return resolveStage(own, shared, ['stages', i], file, fail);
  });
  all.forEach(({ stage }, i) => {
    const first = all.findIndex((other) => other.stage === stage);
    if (first < i) fail(['stages', i, 'stage'], `expected a label of its own, got ${stage} again`);
  });
  return all;
}

type Fail = (at: YamlPath, message: string) => never;

/** `own` keys at `prefix` over `shared` ones. */
function resolveStage(
  own: Readonly<Record<string, unknown>>,
  shared: Readonly<Record<string, unknown>>,
  prefix: YamlPath,
  file: string,
  fail: Fail,
): StageConfig {
  const merged = { ...withoutRivals(shared, own), ...own };
  const place = (at: YamlPath): YamlPath => {
    const key = at[0] ?? '';
    return Object.hasOwn(shared, key) && !Object.hasOwn(own, key) ? at : [...prefix, ...at];
  };
  const result = stageSchema.safeParse(merged);
  if (!result.success) return refuse(worstIssue(result.error.issues), merged, place, fail);
  const raw = result.data;
  checkTogether(raw, (at, message) => fail(place(at), message));
  return {
    ...raw,
    data: typeof raw.data === 'string' ? path.resolve(path.dirname(file), raw.data) : raw.data,
    freeze: [...new Set([...MODES[raw.mode], ...raw.freeze])],
    ...(raw.mode === 'lora' ? { lora: raw.lora ?? loraSchema.parse({}) } : {}),
    ...(raw.max_steps === undefined ? { epochs: raw.epochs ?? 1 } : {}),
  };
}

/** The shared keys, less the one of `epochs` and `max_steps` that `own` replaces by the other. */
function withoutRivals(
  shared: Readonly<Record<string, unknown>>,
  own: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> {
  const { epochs, max_steps, ...rest } = shared;
  const ownSays = Object.hasOwn(own, 'epochs') || Object.hasOwn(own, 'max_steps');
  return ownSays ? rest : shared;
}

function checkTogether(raw: RawStage, fail: Fail): void {
  if (raw.epochs !== undefined && raw.max_steps !== undefined) {
    fail(['max_steps'], 'expected epochs or max_steps, got both');
  }
  if (raw.lora !== undefined && raw.mode !== 'lora') {
    fail(['lora'], `expected lora only with mode: lora, got mode: ${raw.mode}`);
  }
  if (typeof raw.data === 'string') return;
  const { synth } = raw.data;
  const alone = !Array.isArray(synth);
  for (const [i, { min_objects: min = 1, max_objects: max = 5 }] of recipesOf(synth).entries()) {
    if (min <= max) continue;
    const at = ['data', 'synth', ...(alone ? [] : [i]), 'max_objects'];
    fail(at, `expected at least min_objects ${min}, got ${max}`);
  }
}

/** The recipes of `data.synth`, in their order. */
export function recipesOf(synth: Exclude<StageConfig['data'], string>['synth']): readonly RawRecipe[] {
  return 'categories' in synth ? [synth] : synth;
}

function refuse(
  issue: z.core.$ZodIssue | undefined,
  value: unknown,
  place: (at: YamlPath) => YamlPath,
  fail: Fail,
): never {
  const at = issue?.path ?? [];
  if (issue?.code === 'unrecognized_keys') {
    const key = issue.keys[0] ?? '';
    const full = place([...at, key]);
    const known = knownKeys(full);
    const near = nearestName(key, known);
    const hint = near === undefined ? `known are ${known.join(', ')}` : `did you mean ${near}?`;
    return fail(full, `unknown key; ${hint}`);
  }
  const got = at.reduce<unknown>((inner, key) => Object(inner)[key], value);
  return fail(place(at), `expected ${issue?.message ?? 'a valid value'}, got ${kindOf(got)}`);
}

/** The stages as YAML that `resolveConfig` reads back as they are: `training_config.yaml`. */
export function showConfig(stages: readonly StageConfig[]): string {
  const only = stages.length === 1 ? stages[0] : undefined;
  return stringify(only ?? { stages }, { lineWidth: 110 });
}

/**
 * What differs between the configuration a run was saved with and the one it is to go on with: a line
 * `key: was A, is B` for each leaf, none when they are the same.
 */
export function diffConfigs(saved: StageConfig, current: StageConfig): string[] {
  return diffValues(saved, current, []);
}

function diffValues(was: unknown, is: unknown, at: YamlPath): string[] {
  const inside = (value: unknown) => isRecord(value) || Array.isArray(value);
  if (inside(was) && inside(is) && Array.isArray(was) === Array.isArray(is)) {
    const keys = new Set([...Object.keys(Object(was)), ...Object.keys(Object(is))]);
    return [...keys].flatMap((key) => {
      const step = Array.isArray(was) ? Number(key) : key;
      return diffValues(Object(was)[key], Object(is)[key], [...at, step]);
    });
  }
  return Object.is(was, is) ? [] : [`${showPath(at)}: was ${kindOf(was)}, is ${kindOf(is)}`];
}

/** Whether the stage trains tensor `name`. */
export function isTrainable(name: string, stage: StageConfig): boolean {
  return !stage.freeze.some((pattern) => found(pattern, name));
}

/**
 * The peak learning rate of tensor `name`: the first pair of `learning_rates` whose pattern is found in it, 0 for
 * a frozen one. Throws `UserError` where the tensor is trained and no pattern is found.
 */
export function learningRateFor(name: string, stage: StageConfig): number {
  if (!isTrainable(name, stage)) return 0;
  const rule = stage.learning_rates.find(([pattern]) => found(pattern, name));
  if (rule !== undefined) return rule[1];
  throw new UserError(
    `stage ${stage.stage}: learning_rates: expected a pattern for ${name}, got none that matches; ` +
      "end the list with ['.*', rate]",
  );
}

/** Whether weight decay applies to tensor `name`: to matrices and kernels, not to biases and norm weights. */
export function decays(name: string, shape: readonly number[]): boolean {
  return shape.length >= 2 && !name.endsWith('.bias');
}

/** Patterns of `learning_rates`, `freeze` and `lora.targets` found in none of `names`: mistyped ones, most likely. */
export function unusedPatterns(stage: StageConfig, names: readonly string[]): string[] {
  const patterns = [
    ...stage.learning_rates.map(([pattern]) => pattern),
    ...stage.freeze,
    ...(stage.lora?.targets ?? []),
  ];
  return patterns.filter((pattern) => !names.some((name) => found(pattern, name)));
}

function found(pattern: string, name: string): boolean {
  return new RegExp(pattern, 'u').test(name);
}
