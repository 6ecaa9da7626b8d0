/**
 * A stage trained by LoRA: which factors it has, where they come from, how the loss program sees them, and the
 * random numbers of its dropout. Saved factors are read by PEFT's names. Knows nothing of steps or checkpoints.
 */

import { UserError } from '../common/errors.ts';
import type { Random } from '../common/random.ts';
import { type DType, input, reshape, slice, type Tensor } from '../graph/index.ts';
import type { FusionConfig } from '../model/config.ts';
import { drawHashes, isOff } from '../model/dropout.ts';
import { f32, type HostFeeds } from '../model/feeds.ts';
import { type LowRank, withLora } from '../model/loraParameters.ts';
import { parameterInputs } from '../model/parameters.ts';
import type { Overlay } from '../model/programs.ts';
import type { Shape } from '../model/weights.ts';
import type { Device, ResidentTensor } from '../runtime/types.ts';
import type { StageConfig } from './config.ts';
import {
  initialLora,
  type LoraAdapter,
  type LoraConfig,
  type LoraFactors,
  type LoraTarget,
  loraName,
  loraShapes,
  loraTargets,
} from './lora.ts';

/** The random numbers of all masks of a step, [K, 2, B, S]: u and v for each target's rows. */
const DROPOUT_INPUT = 'lora_dropout';

/** What a stage's `lora:` says of a model. */
export interface LoraSetup {
  readonly targets: readonly LoraTarget[];
  readonly lora: LoraConfig;
}

/**
 * The LoRA of a stage, or `undefined` in another mode. base: the checkpoint it is trained on. Throws `UserError`
 * where `lora.targets` name no Linear of the decoder.
 */
export function loraOf(stage: StageConfig, config: FusionConfig, base: string): LoraSetup | undefined {
  if (stage.mode !== 'lora' || stage.lora === undefined) return undefined;
  const { rank: r, alpha, dropout, targets: patterns } = stage.lora;
  const wanted = patterns.map((pattern) => new RegExp(pattern, 'u'));
  const targets = loraTargets(config).filter(({ weight }) => wanted.some((pattern) => pattern.test(weight)));
  if (targets.length === 0) {
    throw new UserError(
      `stage ${stage.stage}: lora: targets: expected patterns of the decoder's Linears, got ${patterns.join(', ')}`,
    );
  }
  return { targets, lora: { r, alpha, dropout, baseModel: base } };
}

/** Name → shape of the factors; none without LoRA. */
export function factorShapes(setup: LoraSetup | undefined): ReadonlyMap<string, Shape> {
  return setup === undefined ? new Map() : loraShapes(setup.targets, setup.lora.r);
}

/** The factors, resident: those of `saved`, or fresh ones that change nothing yet. */
export async function loadFactors(
  device: Device,
  setup: LoraSetup,
  seed: number,
  saved?: LoraAdapter,
): Promise<Readonly<Record<string, ResidentTensor>>> {
  const fresh: LoraFactors = saved === undefined ? initialLora(setup.targets, setup.lora.r, seed) : new Map();
  const factors: Record<string, ResidentTensor> = {};
  for (const [name, shape] of factorShapes(setup)) {
    const values = fresh.get(name) ?? (await saved?.readF32(name));
    if (values === undefined) throw new Error(`internal: LoRA has no factor ${name}`);
    factors[name] = await device.upload(f32(values, shape));
  }
  return factors;
}

/** The factors as they are now. */
export async function downloadFactors(
  device: Device,
  setup: LoraSetup,
  weights: Readonly<Record<string, ResidentTensor>>,
): Promise<LoraFactors> {
  const factors = new Map<string, Float32Array>();
  for (const name of factorShapes(setup).keys()) {
    const tensor = weights[name];
    const data = tensor === undefined ? undefined : (await device.download(tensor)).data;
    if (!(data instanceof Float32Array)) throw new Error(`internal: LoRA has no f32 factor ${name}`);
    factors.set(name, data);
  }
  return factors;
}

/** The factors as inputs of a loss program, with dropout where the rate is above 0. */
export function loraOverlay({ targets, lora }: LoraSetup, dtype: DType = 'f32'): Overlay {
  const tensors = parameterInputs(loraShapes(targets, lora.r), dtype);
  const hashes = isOff(lora.dropout) ? undefined : input(DROPOUT_INPUT, 'f32', [targets.length, 2, 'B', 'S']);
  const factor = (module: string, side: 'A' | 'B'): Tensor => {
    const tensor = tensors.get(loraName(module, side));
    if (tensor === undefined) throw new Error(`internal: LoRA has no factor ${side} of ${module}`);
    return tensor;
  };
  const factors = new Map(
    targets.map(({ module }, k): [string, LowRank] => [
      module,
      {
        a: factor(module, 'A'),
        b: factor(module, 'B'),
        dropout: hashes === undefined ? undefined : { rate: lora.dropout, rows: rowsOf(hashes, k) },
      },
    ]),
  );
  return { tensors, wrap: (base) => withLora(base, factors, lora.alpha) };
}

function rowsOf(hashes: Tensor, k: number): { readonly u: Tensor; readonly v: Tensor } {
  const own = slice(hashes, 0, k, 1);
  const row = (i: number) => reshape(slice(own, 1, i, 1), ['B', 'S', 1]);
  return { u: row(0), v: row(1) };
}

/** Random numbers for the masks of one pass over a batch [B, S]; none at rate 0. */
export function dropoutFeeds(
  { targets, lora }: LoraSetup,
  batch: number,
  sequence: number,
  random: Random,
): HostFeeds {
  if (isOff(lora.dropout)) return {};
  const shape = [targets.length, 2, batch, sequence];
  return { [DROPOUT_INPUT]: f32(drawHashes(random, targets.length * 2 * batch * sequence), shape) };
}
