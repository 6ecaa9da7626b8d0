/**
 * The stages of a run, one after the other: each begins with the last checkpoint of the one before, or goes on from
 * its own newest. Ends with the report. Knows the layout of a run's folder: `stage-LABEL/checkpoint-N`.
 */
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { openCheckpoint } from '../checkpoint/folder.ts';
import { loadWeights } from '../checkpoint/loadWeights.ts';
import { UserError } from '../common/errors.ts';
import { formatFor, formatNamed } from '../data/conversation.ts';
import { CATEGORIES, type Category, type SynthOptions } from '../data/synth/index.ts';
import { loadTokenizer } from '../data/tokenizer.ts';
import { describeVariant, type FusionConfig, readFusionConfig } from '../model/config.ts';
import { expectedTensors } from '../model/weights.ts';
import type { Device } from '../runtime/types.ts';
import { checkpointSteps, readRun, type SavedRun } from './checkpoint.ts';
import { readTrainConfig, type StageConfig, unusedPatterns } from './config.ts';
import type { MetricsRow } from './metrics.ts';
import { readMetrics } from './metrics.ts';
import { modelCard } from './modelCard.ts';
import { type ReportStage, writeReport } from './report.ts';
import { type Encoder, type SampleSource, type SynthRecipe, SynthSource } from './source.ts';
import { checkSameConfig, train } from './train.ts';

export interface StagesOptions {
  readonly device: Device;
  /** The stages' YAML. */
  readonly configFile: string;
  /** Labels of the stages to run; all unless given. */
  readonly labels?: readonly string[] | undefined;
  /** The checkpoint the first stage begins with. */
  readonly base: string;
  readonly out: string;
  /** Go on where the run in `out` stands. */
  readonly resume: boolean;
  /** Go on although the configuration changed since the run was saved. */
  readonly allowChanges?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onStage?: ((stage: StageConfig, totalSteps: number, doneSteps: number) => void) | undefined;
  readonly onLog?: ((row: MetricsRow, totalSteps: number) => void) | undefined;
  /** For the report: machine, versions, command. */
  readonly environment: Readonly<Record<string, string>>;
}

/** Runs the stages; returns the last checkpoint. Throws `UserError` for a run that is there and not to be resumed. */
export async function trainStages(o: StagesOptions): Promise<string> {
  const stages = chooseStages(await readTrainConfig(o.configFile), o.labels, o.configFile);
  let model = o.base;
  for (const stage of stages) {
    model = await trainStage(stage, model, o);
    if (o.signal?.aborted) return model;
  }
  await report(stages, o);
  return model;
}

function chooseStages(all: readonly StageConfig[], labels: readonly string[] | undefined, file: string) {
  if (labels === undefined) return all;
  return labels.map((label) => {
    const stage = all.find((one) => one.stage === label);
    if (stage !== undefined) return stage;
    throw new UserError(
      `${file}: expected a stage ${label}, got stages ${all.map((one) => one.stage).join(', ')}`,
    );
  });
}

const folderOf = (out: string, stage: StageConfig): string => path.join(out, `stage-${stage.stage}`);

async function trainStage(stage: StageConfig, base: string, o: StagesOptions): Promise<string> {
  const out = folderOf(o.out, stage);
  await mkdir(out, { recursive: true });
  const saved = await savedRun(out, stage, o);
  if (saved !== undefined && saved.state.global_step === saved.state.max_steps) return saved.dir;
  const from = saved?.dir ?? base;
  const config = { ...(await readFusionConfig(from)), mappingLossWeight: stage.mapping_loss_weight };
  warnUnused(stage, config);
  const weights = await loadWeights(o.device, config, await openCheckpoint(from));
  const tokenizer = await loadTokenizer(from);
  const format =
    config.conversationFormat === undefined
      ? formatFor(config.modelType)
      : formatNamed(config.conversationFormat);
  const source = openSource(stage, { tokenizer, format, config });
  try {
    const card = cardOf(stage, config, out);
    const options = {
      device: o.device,
      config,
      weights,
      stage,
      source,
      out,
      base: from,
      resume: saved,
      card,
    };
    const { checkpoint } = await train({ ...options, onLog: o.onLog, signal: o.signal });
    return checkpoint;
  } finally {
    await o.device.free(Object.values(weights));
  }
}

async function savedRun(out: string, stage: StageConfig, o: StagesOptions): Promise<SavedRun | undefined> {
  if ((await checkpointSteps(out)).length === 0) return undefined;
  if (!o.resume) {
    throw new UserError(`${out}: expected a new run, got one with checkpoints; go on with --resume last`);
  }
  const saved = await readRun(out);
  if (!o.allowChanges) checkSameConfig(saved.stage, stage);
  return saved;
}

function warnUnused(stage: StageConfig, config: FusionConfig): void {
  const unused = unusedPatterns(stage, [...expectedTensors(config).keys()]);
  if (unused.length === 0) return;
  throw new UserError(
    `stage ${stage.stage}: expected patterns of tensor names, got ${unused.join(', ')}, which match none`,
  );
}

/** The samples a stage is trained on. */
export function openSource(stage: StageConfig, encoder: Encoder): SampleSource {
  if (typeof stage.data === 'string')
    throw new UserError(`stage ${stage.stage}: data: expected synth: and a recipe`);
  return new SynthSource(recipeOf(stage.data.synth, stage.seed), encoder);
}

type RawRecipe = Exclude<StageConfig['data'], string>['synth'];

function recipeOf(raw: RawRecipe, seed: number): SynthRecipe {
  const named = raw.categories;
  const weights: Record<string, number> = Array.isArray(named)
    ? Object.fromEntries(named.map((name) => [name, 1]))
    : { ...(named as Record<string, number>) };
  const unknown = Object.keys(weights).find((name) => !(CATEGORIES as readonly string[]).includes(name));
  if (unknown !== undefined) {
    throw new UserError(`synth: categories: expected ${CATEGORIES.join(', ')}, got ${unknown}`);
  }
  const set = <K extends keyof SynthOptions>(key: K, value: SynthOptions[K] | undefined) =>
    value === undefined ? {} : { [key]: value };
  return {
    categories: Object.entries(weights) as [Category, number][],
    count: raw.count,
    seed: raw.seed ?? seed,
    imageSize: raw.size ?? 128,
    options: {
      ...set('minObjects', raw.min_objects),
      ...set('maxObjects', raw.max_objects),
      ...set('shapes', raw.shapes),
      ...set('colours', raw.colours),
      ...set('words', raw.words),
      ...set('textures', raw.textures),
      ...set('overlaps', raw.overlaps),
    },
  };
}

function cardOf(stage: StageConfig, config: FusionConfig, out: string) {
  const metrics = path.join(out, 'metrics.jsonl');
  const data = typeof stage.data === 'string' ? stage.data : 'synthetic scenes';
  return async (): Promise<string> =>
    modelCard({
      name: stage.name,
      variant: describeVariant(config),
      license: 'apache-2.0',
      languages: ['en'],
      baseModels: [],
      data: [{ name: data, samples: typeof stage.data === 'string' ? 0 : stage.data.synth.count }],
      stages: [{ config: stage, rows: existsSync(metrics) ? await readMetrics(metrics) : [] }],
      folder: out,
    });
}

async function report(stages: readonly StageConfig[], o: StagesOptions): Promise<void> {
  const shown: ReportStage[] = [];
  for (const config of stages) {
    shown.push({ config, rows: await readMetrics(path.join(folderOf(o.out, config), 'metrics.jsonl')) });
  }
  const rows = stages.map(({ stage, data }) => [
    stage,
    typeof data === 'string' ? data : JSON.stringify(data.synth),
  ]);
  await writeReport(path.join(o.out, 'report.html'), {
    title: stages[0]?.name ?? 'training',
    finished: new Date().toISOString().slice(0, 16).replace('T', ' '),
    stages: shown,
    environment: o.environment,
    data: { columns: ['stage', 'data'], rows },
  });
}
