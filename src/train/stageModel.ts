/**
 * The model a stage begins or goes on with: a checkpoint, or one with an adapter-only file laid over it; with LoRA
 * the base and its factors. And the whole model that a stage leaves to the next one.
 *
 * Knows folders and weights, not steps or data.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { mergeAdapters, openAdapter } from '../checkpoint/adapters.ts';
import { openCheckpoint } from '../checkpoint/folder.ts';
import { loadWeights, type ResidentWeights } from '../checkpoint/loadWeights.ts';
import { UserError } from '../common/errors.ts';
import { type FusionConfig, readFusionConfig } from '../model/config.ts';
import { expectedTensors } from '../model/weights.ts';
import type { Device } from '../runtime/types.ts';
import type { StageConfig } from './config.ts';
import { LORA_CONFIG_FILE, openLora } from './lora.ts';
import { factorShapes, type LoraSetup, loadFactors, loraOf } from './loraStage.ts';
import { mergeFolder } from './mergeFolder.ts';

export interface ModelSource {
  /** The checkpoint the stage is trained on. */
  readonly base: string;
  /** An adapter-only file or folder to be laid over it. */
  readonly adapter?: string | undefined;
  /** The newest checkpoint of a run to go on with. */
  readonly saved?: string | undefined;
  /** Go on with LoRA factors that were trained on another base. */
  readonly allowChanges?: boolean | undefined;
}

export interface StageModel {
  readonly config: FusionConfig;
  /** The model's weights, and with LoRA the factors. */
  readonly weights: ResidentWeights;
  readonly lora: LoraSetup | undefined;
  /** The folder with the model's tokenizer. */
  readonly folder: string;
}

/** Reads and checks the model of a stage. Throws `UserError` where a folder does not fit the stage. */
export async function openStageModel(
  device: Device,
  stage: StageConfig,
  source: ModelSource,
): Promise<StageModel> {
  const { base, saved } = source;
  const folder = stage.mode === 'lora' ? base : (saved ?? base);
  checkWhole(folder);
  const config = { ...(await readFusionConfig(folder)), mappingLossWeight: stage.mapping_loss_weight };
  const checkpoint = await openCheckpoint(folder);
  const lora = loraOf(stage, config, path.resolve(base));
  if (lora !== undefined) {
    if (source.adapter !== undefined) throw new UserError(mergeFirst(stage, base, source.adapter));
    const adapter = saved === undefined ? undefined : await openSaved(saved, lora, config, source);
    const weights = await loadWeights(device, config, checkpoint);
    const factors = await loadFactors(device, lora, stage.seed, adapter);
    return { config, lora, folder, weights: { ...weights, ...factors } };
  }
  const over = saved === undefined ? source.adapter : undefined;
  const whole = over === undefined ? checkpoint : mergeAdapters(checkpoint, await openAdapter(over, config));
  return { config, lora, folder, weights: await loadWeights(device, config, whole) };
}

const mergeFirst = (stage: StageConfig, base: string, adapter: string): string =>
  `stage ${stage.stage}: expected no --adapter with mode: lora, whose base is one folder; ` +
  `make one with fusion merge ${base} ${adapter} --out DIR`;

function checkWhole(folder: string): void {
  if (!existsSync(path.join(folder, LORA_CONFIG_FILE)) || existsSync(path.join(folder, 'config.json')))
    return;
  throw new UserError(
    `${folder}: expected a whole model, got a LoRA adapter; make one with fusion merge BASE ${folder} --out DIR`,
  );
}

async function openSaved(dir: string, setup: LoraSetup, config: FusionConfig, source: ModelSource) {
  const adapter = await openLora(dir, config);
  const { baseModel, r } = adapter.lora;
  if (baseModel !== setup.lora.baseModel && !source.allowChanges) {
    throw new UserError(
      `resume: ${dir} was trained on ${baseModel}, got ${setup.lora.baseModel}; go on with --allow-changes`,
    );
  }
  const missing = setup.targets.find(
    ({ module }) => !adapter.targets.some((other) => other.module === module),
  );
  if (missing !== undefined || r !== setup.lora.r) {
    const wanted = `rank ${setup.lora.r} on ${setup.targets.length} Linears`;
    throw new UserError(`resume: ${dir}: expected ${wanted}, got rank ${r} on ${adapter.targets.length}`);
  }
  return adapter;
}

/**
 * What the stage after `stage` begins with: `trained`, or for LoRA the merged model, made beside it unless it is
 * there already.
 */
export async function wholeModel(stage: StageConfig, trained: string, base: string): Promise<string> {
  if (stage.mode !== 'lora') return trained;
  const out = path.join(path.dirname(trained), path.basename(trained).replace(/^checkpoint/, 'merged'));
  if (!existsSync(out)) await mergeFolder({ base, adapter: trained, out, dtype: 'F32' });
  return out;
}

/** Every tensor a stage's patterns may speak of. */
export function tensorNames(config: FusionConfig, lora: LoraSetup | undefined): readonly string[] {
  return [...expectedTensors(config).keys(), ...factorShapes(lora).keys()];
}
