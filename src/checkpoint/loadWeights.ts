/**
 * A checkpoint's weights → resident tensors of a device, read from the shards in place and widened to f32.
 */
import type { OnProgress } from '../common/progress.ts';
import type { FusionConfig } from '../model/config.ts';
import { expectedTensors, validateTensors } from '../model/weights.ts';
import type { Device, ResidentTensor } from '../runtime/types.ts';
import type { Checkpoint, CheckpointTensor } from './folder.ts';

/** Weights by their checkpoint names. */
export type ResidentWeights = Readonly<Record<string, ResidentTensor>>;

/**
 * Validates the checkpoint against the configuration and loads every tensor the model uses. Throws `UserError`
 * where a tensor is missing, extra or mis-shaped.
 */
export async function loadWeights(
  device: Device,
  config: FusionConfig,
  checkpoint: Checkpoint,
  onProgress: OnProgress = () => {},
): Promise<ResidentWeights> {
  validateTensors(config, checkpoint);
  const used = [...expectedTensors(config).keys()].map(
    (name) => [name, checkpoint.tensors.get(name)] as const,
  );
  return loadTensors(device, used as readonly (readonly [string, CheckpointTensor])[], onProgress);
}

/** Loads named tensors that are F32, F16 or BF16. */
export async function loadTensors(
  device: Device,
  tensors: readonly (readonly [name: string, tensor: CheckpointTensor])[],
  onProgress: OnProgress = () => {},
): Promise<ResidentWeights> {
  const weights: Record<string, ResidentTensor> = {};
  for (const [done, [name, { file, begin, byteLength, dtype, shape }]] of tensors.entries()) {
    onProgress({ phase: 'load', done, total: tensors.length, unit: 'tensors' });
    if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') {
      throw new Error(`internal: ${name} passed validation as ${dtype}`);
    }
    weights[name] = await device.readFile({ file, begin, byteLength, dtype, shape });
  }
  onProgress({ phase: 'load', done: tensors.length, total: tensors.length, unit: 'tensors' });
  return weights;
}
