/**
 * A checkpoint and an adapter → a checkpoint without one: LoRA factors multiplied into their weights, adapter-only
 * tensors put in their places, everything else copied. One tensor is in memory at a time.
 *
 * Knows folders, not training.
 */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { ADAPTER_FILE, mergeAdapters, openAdapter } from '../checkpoint/adapters.ts';
import { type Checkpoint, type CheckpointTensor, openCheckpoint } from '../checkpoint/folder.ts';
import { parseJsonObject } from '../checkpoint/jsonText.ts';
import {
  copyFiles,
  GENERATION_FILE,
  TOKENIZER_FILES,
  writeJson,
  writeNewFolder,
  writeWeights,
} from '../checkpoint/newFolder.ts';
import type { TensorEntry } from '../checkpoint/safetensors.ts';
import { asWeightDtype, copyTensor, torchDtype, type WeightDtype } from '../checkpoint/tensorBytes.ts';
import { fromF32 } from '../common/numberFormats.ts';
import type { OnProgress } from '../common/progress.ts';
import { type FusionConfig, readFusionConfig } from '../model/config.ts';
import { validateTensors } from '../model/weights.ts';
import { LORA_CONFIG_FILE, type LoraAdapter, loraName, mergeLora, openLora } from './lora.ts';

export type MergeOptions = {
  /** Folder of the FUSION checkpoint the adapter was trained on. */
  readonly base: string;
  /** A PEFT folder (with `mm_projector.bin` beside, where both were trained), or an adapter-only file or folder. */
  readonly adapter: string;
  /** The new folder; it must not exist, or be empty. */
  readonly out: string;
  /** `same` (default) keeps each tensor's own. */
  readonly dtype?: WeightDtype | 'same' | undefined;
  readonly maxShardBytes?: number | undefined;
  readonly onProgress?: OnProgress | undefined;
};

/** Writes the merged checkpoint. Throws `UserError` where base and adapter do not fit; then `out` is not made. */
export async function mergeFolder(options: MergeOptions): Promise<void> {
  const { base: baseDir, adapter, out, dtype = 'same' } = options;
  const config = await readFusionConfig(baseDir);
  const base = await openCheckpoint(baseDir);
  validateTensors(config, base);
  const lora = (await exists(path.join(adapter, LORA_CONFIG_FILE)))
    ? await openLora(adapter, config)
    : undefined;
  const merged = await withAdapters(base, config, adapter, lora);
  const entries = [...merged.tensors].map(([name, tensor]) => entryOf(name, tensor, merged, lora, dtype));
  await writeNewFolder(out, async (dir) => {
    await writeWeights(dir, entries, options);
    await copyFiles(baseDir, dir, [...TOKENIZER_FILES, GENERATION_FILE, 'config.json']);
    if (dtype !== 'same') await writeDtype(baseDir, dir, dtype);
  });
}

/** A PEFT folder may hold adapter tensors beside the factors; anything else must. */
async function withAdapters(
  base: Checkpoint,
  config: FusionConfig,
  adapter: string,
  lora: LoraAdapter | undefined,
): Promise<Checkpoint> {
  const beside = path.join(adapter, ADAPTER_FILE);
  if (lora === undefined) return mergeAdapters(base, await openAdapter(adapter, config));
  return (await exists(beside)) ? mergeAdapters(base, await openAdapter(beside, config)) : base;
}

function entryOf(
  name: string,
  tensor: CheckpointTensor,
  merged: Checkpoint,
  lora: LoraAdapter | undefined,
  wanted: WeightDtype | 'same',
): TensorEntry {
  const dtype = wanted === 'same' ? asWeightDtype(tensor.dtype, `${merged.dir}: tensor ${name}`) : wanted;
  const target = lora?.targets.find(({ weight }) => weight === name);
  if (lora === undefined || target === undefined) {
    return { name, dtype, shape: tensor.shape, data: () => copyTensor(tensor, dtype) };
  }
  const data = async () => {
    const weight = await merged.readF32(name);
    const a = await lora.readF32(loraName(target.module, 'A'));
    const b = await lora.readF32(loraName(target.module, 'B'));
    mergeLora(weight, a, b, lora.lora.alpha, lora.lora.r);
    return fromF32(dtype, weight);
  };
  return { name, dtype, shape: tensor.shape, data };
}

async function writeDtype(from: string, to: string, dtype: WeightDtype): Promise<void> {
  const file = path.join(from, 'config.json');
  const json = parseJsonObject(await readFile(file), file);
  await writeJson(path.join(to, 'config.json'), { ...json, torch_dtype: torchDtype(dtype) });
}

async function exists(file: string): Promise<boolean> {
  return (await stat(file).catch(() => undefined)) !== undefined;
}
