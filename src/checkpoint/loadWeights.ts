/**
 * A checkpoint's weights → resident tensors of a device, read from the shards in place and widened to f32.
 */
import type { OnProgress } from '../common/progress.ts';
import type { FusionConfig } from '../model/config.ts';
import { expectedTensors, validateTensors } from '../model/weights.ts';
import type { Device, ResidentTensor } from '../runtime/types.ts';
import type { Checkpoint } from './folder.ts';

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
  const names = [...expectedTensors(config).keys()];
  const weights: Record<string, ResidentTensor> = {};
  for (const [done, name] of names.entries()) {
    onProgress({ phase: 'load', done, total: names.length, unit: 'tensors' });
    const tensor = checkpoint.tensors.get(name);
    const dtype = tensor?.dtype;
    if (tensor === undefined || (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16')) {
      throw new Error(`internal: ${name} passed validation as ${dtype}`);
    }
    const { file, begin, byteLength, shape } = tensor;
    weights[name] = await device.readFile({ file, begin, byteLength, dtype, shape });
  }
  onProgress({ phase: 'load', done: names.length, total: names.length, unit: 'tensors' });
  return weights;
}
