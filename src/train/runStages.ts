/**
 * The stages of a run, one after the other: each begins with the last checkpoint of the one before, or goes on from
 * its own newest. Ends with the report. Knows the layout of a run's folder: `stage-LABEL/checkpoint-N`.
 */
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { UserError } from '../common/errors.ts';
import { describeVariant, type FusionConfig } from '../model/config.ts';
import type { Device } from '../runtime/types.ts';
import { baseModelsOf, sourceAt } from './baseModels.ts';
import { checkpointSteps, readRun, type SavedRun } from './checkpoint.ts';
import { checkStageData } from './checkStageData.ts';
import { diffConfigs, readTrainConfig, type StageConfig, unusedPatterns } from './config.ts';
import type { MetricsRow } from './metrics.ts';
import { readMetrics } from './metrics.ts';
import { modelCard } from './modelCard.ts';
import { openEncoder, openSource } from './openSource.ts';
import { type ReportStage, writeReport } from './report.ts';
import { openStageModel, tensorNames, wholeModel } from './stageModel.ts';
import { checkSameConfig, train } from './train.ts';

export interface StagesOptions {
  readonly device: Device;
  /** The stages' YAML. */
  readonly configFile: string;
  /** Labels of the stages to run; all unless given. */
  readonly labels?: readonly string[] | undefined;
  /** The checkpoint the first stage begins with. */
  readonly base: string;
  /** An adapter-only file or folder, laid over the first stage's base. */
  readonly adapter?: string | undefined;
  readonly out: string;
  /** Go on where the run in `out` stands. */
  readonly resume: boolean;
  /** Go on although the configuration changed since the run was saved. */
  readonly allowChanges?: boolean | undefined;
  /** Walk the stages' data sets before training; told what was found, line by line. */
  readonly onCheck?: ((line: string) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onStage?: ((stage: StageConfig, totalSteps: number, doneSteps: number) => void) | undefined;
  readonly onLog?: ((row: MetricsRow, totalSteps: number) => void) | undefined;
  /** For the report: machine, versions, command. */
  readonly environment: Readonly<Record<string, string>>;
}

/** Runs the stages; returns the last checkpoint. Throws `UserError` for a run that is there and not to be resumed. */
export async function trainStages(o: StagesOptions): Promise<string> {
  const stages = chooseStages(await readTrainConfig(o.configFile), o.labels, o.configFile);
  if (o.onCheck !== undefined) await checkStageData(stages, o.base, o.onCheck);
  let model = o.base;
  for (const [i, stage] of stages.entries()) {
    const adapter = i === 0 ? o.adapter : undefined;
    const trained = await trainStage(stage, stages.slice(0, i), model, o, adapter);
    if (o.signal?.aborted) return trained;
    model = i === stages.length - 1 ? trained : await wholeModel(stage, trained, model);
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

/** before: the run's earlier stages. */
async function trainStage(
  stage: StageConfig,
  before: readonly StageConfig[],
  base: string,
  o: StagesOptions,
  adapter: string | undefined,
): Promise<string> {
  const out = folderOf(o.out, stage);
  await mkdir(out, { recursive: true });
  const saved = await savedRun(out, stage, o);
  if (saved !== undefined && isFinished(saved, stage)) return saved.dir;
  const { allowChanges } = o;
  const model = await openStageModel(o.device, stage, { base, adapter, saved: saved?.dir, allowChanges });
  const { config, weights, lora, folder } = model;
  warnUnused(stage, tensorNames(config, lora));
  const source = await openSource(stage, await openEncoder(config, folder), out);
  try {
    const card = cardOf([...before, stage], config, o, source.count);
    const options = {
      device: o.device,
      config,
      weights,
      stage,
      source,
      out,
      lora,
      base: folder,
      resume: saved,
      card,
    };
    const { checkpoint } = await train({ ...options, onLog: o.onLog, signal: o.signal });
    return checkpoint;
  } finally {
    await source.close();
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

/** With other settings than it was saved with, such as more steps, a run that had ended may go on. */
function isFinished({ state, stage: before }: SavedRun, stage: StageConfig): boolean {
  return state.global_step === state.max_steps && diffConfigs(before, stage).length === 0;
}

function warnUnused(stage: StageConfig, names: readonly string[]): void {
  const unused = unusedPatterns(stage, names);
  if (unused.length === 0) return;
  throw new UserError(
    `stage ${stage.stage}: expected patterns of tensor names, got ${unused.join(', ')}, which match none`,
  );
}

/** The card of a checkpoint of the last of `stages`, which tells of all of them. samples: what that stage's data has. */
function cardOf(
  stages: readonly StageConfig[],
  config: FusionConfig,
  { out, base, adapter }: StagesOptions,
  samples: number,
) {
  const last = stages.at(-1);
  return async (): Promise<string> => {
    const trained = [];
    for (const stage of stages) {
      const metrics = path.join(folderOf(out, stage), 'metrics.jsonl');
      trained.push({ config: stage, rows: existsSync(metrics) ? await readMetrics(metrics) : [] });
    }
    const baseModels = [...(await baseModelsOf(base)), ...(adapter === undefined ? [] : [sourceAt(adapter)])];
    return modelCard({
      name: last?.name ?? '',
      variant: describeVariant(config),
      license: baseModels.length === 0 ? 'apache-2.0' : undefined,
      languages: ['en'],
      baseModels,
      data: trained.map(({ config: stage, rows }) => ({
        name: `stage ${stage.stage}: ${typeof stage.data === 'string' ? stage.data : 'synthetic scenes'}`,
        samples: stage === last ? samples : (rows.at(-1)?.step ?? 0) * stage.batch_size * stage.accumulation,
      })),
      stages: trained,
      folder: last === undefined ? out : folderOf(out, last),
    });
  };
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
