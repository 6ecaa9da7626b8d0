/**
 * Rows for tokens the checkpoint does not know: those that were added to the tokenizer after training start as
 * the mean of the others, in the embedding and in lm_head, as when a model is built from base models.
 */
import type { Checkpoint } from '../checkpoint/folder.ts';
import type { ResidentWeights } from '../checkpoint/loadWeights.ts';
import { UserError } from '../common/errors.ts';
import type { FusionConfig } from '../model/config.ts';
import { f32 } from '../model/feeds.ts';
import type { Device, ResidentTensor } from '../runtime/types.ts';

const ROW_TENSORS = ['model.embed_tokens.weight', 'lm_head.weight'];
/** As many as a config.json may name. */
const MAX_ROWS = 2 ** 24;

/** The configuration with one vocabulary row for each of the tokenizer's ids. @throws UserError beyond 2²⁴. */
export function withVocabulary(config: FusionConfig, tokenizerSize: number): FusionConfig {
  const { decoder } = config;
  if (tokenizerSize > MAX_ROWS) {
    throw new UserError(`tokenizer: expected ids below ${MAX_ROWS}, got ${tokenizerSize - 1}`);
  }
  if (tokenizerSize <= decoder.vocabSize) return config;
  return { ...config, decoder: { ...decoder, vocabSize: tokenizerSize } };
}

/** `weights` with embedding and lm_head grown to `rows`; the shorter tensors are freed. */
export async function growVocabulary(
  device: Device,
  weights: ResidentWeights,
  checkpoint: Checkpoint,
  rows: number,
): Promise<ResidentWeights> {
  const grown: Record<string, ResidentTensor> = { ...weights };
  for (const name of ROW_TENSORS) {
    const old = weights[name];
    if (old === undefined) continue;
    const [known = 0, width = 0] = old.shape;
    const mean = meanRow(await checkpoint.readF32(name), width);
    const added = new Float32Array((rows - known) * width);
    for (let at = 0; at < added.length; at += width) added.set(mean, at);
    const tail = f32(added, [rows - known, width]);
    const whole = await device.zeros('f32', [rows, width]);
    await device.copy([{ from: old, target: { to: whole } }]);
    await device.copy([{ from: tail, target: { to: whole, blocks: [{ at: [known] }] }, transfer: true }]);
    await device.free([old]);
    grown[name] = whole;
  }
  return grown;
}

/** The mean of the rows of [N, width], summed in f64. */
function meanRow(rows: Float32Array, width: number): Float32Array {
  const sum = new Float64Array(width);
  for (let at = 0; at < rows.length; at += width) {
    for (let i = 0; i < width; i++) sum[i] = (sum[i] ?? 0) + (rows[at + i] ?? 0);
  }
  return Float32Array.from(sum, (value) => value / (rows.length / width));
}
