/**
 * LoRA on the decoder: which Linears, what their low-rank factors are called and start as, the files PEFT reads and
 * writes, and the merged weight `W + (alpha / r)·B·A`.
 *
 * Knows names, shapes and numbers, no graph. Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1, and the files
 * of PEFT's `save_pretrained`.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import type { CheckpointTensor } from '../checkpoint/folder.ts';
import { fillUniform } from '../checkpoint/initialValues.ts';
import { parseJsonObject } from '../checkpoint/jsonText.ts';
import { writeJson } from '../checkpoint/newFolder.ts';
import { openSafetensors, readRange, writeSafetensors } from '../checkpoint/safetensors.ts';
import { asWeightDtype } from '../checkpoint/tensorBytes.ts';
import { InternalError, messageOf, UserError } from '../common/errors.ts';
import { fromF32, toF32 } from '../common/numberFormats.ts';
import { Random } from '../common/random.ts';
import type { FusionConfig } from '../model/config.ts';
import { parseAt } from '../model/configSchema.ts';
import { expectedTensors, type Shape } from '../model/weights.ts';

/** Rank, scale and dropout; the published runs use 64, 16, 0.05. */
export type LoraConfig = {
  readonly r: number;
  readonly alpha: number;
  readonly dropout: number;
  /** The folder or id of the model the adapter belongs to. */
  readonly baseModel?: string | undefined;
};

/** A Linear LoRA is put on. */
export type LoraTarget = {
  /** The module's name, as `model.layers.0.self_attn.q_proj`. */
  readonly module: string;
  /** The name of its weight [out, in]. */
  readonly weight: string;
  readonly out: number;
  readonly in: number;
};

/** An adapter's factors as numbers, by PEFT's names. */
export type LoraFactors = ReadonlyMap<string, Float32Array>;

/** An opened and checked adapter. */
export type LoraAdapter = {
  readonly dir: string;
  readonly lora: LoraConfig;
  /** The Linears it changes: all of `loraTargets`, or some. */
  readonly targets: readonly LoraTarget[];
  /** A factor by `loraName`, row-major. */
  readonly readF32: (name: string) => Promise<Float32Array>;
};

export const LORA_CONFIG_FILE = 'adapter_config.json';
export const LORA_WEIGHTS_FILE = 'adapter_model.safetensors';
const DECODER_LINEAR = /^(model\.layers\.\d+\.(?:self_attn|mlp)\.\w+_proj)\.weight$/;
const LORA_NAME = /^base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight$/;

/** Every Linear of the decoder but lm_head, in the model's order. */
export function loraTargets(config: FusionConfig): readonly LoraTarget[] {
  return [...expectedTensors(config)].flatMap(([weight, [out = 0, width = 0]]) => {
    const module = DECODER_LINEAR.exec(weight)?.[1];
    return module === undefined ? [] : [{ module, weight, out, in: width }];
  });
}

/** PEFT's name of a factor: A is [r, in], B is [out, r]. */
export function loraName(module: string, factor: 'A' | 'B'): string {
  return `base_model.model.${module}.lora_${factor}.weight`;
}

/** Name → shape of all factors of `targets`. */
export function loraShapes(targets: readonly LoraTarget[], r: number): Map<string, Shape> {
  return new Map(
    targets.flatMap(({ module, out, in: width }): [string, Shape][] => [
      [loraName(module, 'A'), [r, width]],
      [loraName(module, 'B'), [out, r]],
    ]),
  );
}

/** Factors that change nothing yet: A as PyTorch initialises a Linear, U(±1/√in), B zero. */
export function initialLora(targets: readonly LoraTarget[], r: number, seed: number): LoraFactors {
  const random = new Random(seed);
  return new Map(
    [...loraShapes(targets, r)].map(([name, [rows = 0, columns = 0]]) => {
      const values = new Float32Array(rows * columns);
      if (name.endsWith('.lora_A.weight')) fillUniform(values, 1 / Math.sqrt(columns), random.fork(name));
      return [name, values];
    }),
  );
}

/**
 * `weight += (alpha / r)·B·A`, in place. `weight` [out, in], `a` [r, in], `b` [out, r]. Products are summed in
 * float64 and added once.
 */
export function mergeLora(
  weight: Float32Array,
  a: Float32Array,
  b: Float32Array,
  alpha: number,
  r: number,
): void {
  const width = a.length / r;
  const out = b.length / r;
  if (!Number.isInteger(width) || !Number.isInteger(out) || weight.length !== out * width) {
    throw new InternalError(
      `LoRA of rank ${r}: ${weight.length} weights do not fit A ${a.length}, B ${b.length}`,
    );
  }
  const scale = alpha / r;
  const delta = new Float64Array(width);
  for (let row = 0; row < out; row++) {
    delta.fill(0);
    for (let k = 0; k < r; k++) addScaled(delta, a, k * width, scale * (b[row * r + k] ?? 0));
    for (let i = 0, at = row * width; i < width; i++, at++) weight[at] = (weight[at] ?? 0) + (delta[i] ?? 0);
  }
}

function addScaled(sum: Float64Array, values: Float32Array, from: number, factor: number): void {
  if (factor === 0) return;
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] ?? 0) + factor * (values[from + i] ?? 0);
}

/**
 * Writes `adapter_model.safetensors` and `adapter_config.json` into the existing folder `dir`. Throws `UserError`
 * where the disk refuses.
 */
export async function writeLora(
  dir: string,
  targets: readonly LoraTarget[],
  lora: LoraConfig,
  factors: LoraFactors,
  dtype: 'F32' | 'F16' | 'BF16' = 'F32',
): Promise<void> {
  const entries = [...loraShapes(targets, lora.r)].map(([name, shape]) => {
    const values = factors.get(name);
    if (values === undefined) throw new InternalError(`LoRA: no factor ${name}`);
    return { name, dtype, shape, data: () => fromF32(dtype, values) };
  });
  await writeSafetensors(path.join(dir, LORA_WEIGHTS_FILE), entries, { format: 'pt' });
  await writeJson(path.join(dir, LORA_CONFIG_FILE), adapterConfigJson(targets, lora));
}

/**
 * `adapter_config.json` as PEFT writes it. `target_modules` is a pattern for whole names and not a list of last
 * parts, for the vision tower and the interaction layers have a `q_proj` too.
 */
export function adapterConfigJson(targets: readonly LoraTarget[], lora: LoraConfig): Record<string, unknown> {
  const kinds = [...new Set(targets.map(({ module }) => module.replace(/^model\.layers\.\d+\./, '')))];
  return {
    base_model_name_or_path: lora.baseModel ?? null,
    bias: 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    lora_alpha: lora.alpha,
    lora_dropout: lora.dropout,
    modules_to_save: null,
    peft_type: 'LORA',
    r: lora.r,
    target_modules: `model\\.layers\\.\\d+\\.(${kinds.map((kind) => kind.replace('.', '\\.')).join('|')})`,
    task_type: 'CAUSAL_LM',
    use_dora: false,
    use_rslora: false,
  };
}

/** Null, and empty lists and objects, ask for nothing. */
const isNothing = (value: unknown) =>
  value === null || value === undefined || (typeof value === 'object' && Object.keys(value).length === 0);
const absent = (error: string) => z.unknown().refine(isNothing, { error });
const rank = z.int({ error: 'an integer from 1' }).min(1, { error: 'an integer from 1' });
const scale = z.number({ error: 'a number above 0' }).positive({ error: 'a number above 0' });
const share = { error: 'a number from 0 to below 1' };

/** What of PEFT's configuration is read, and what would change the mathematics and is refused. */
const adapterConfig = z.object(
  {
    peft_type: z.literal('LORA', { error: '"LORA" (nothing else is supported)' }),
    task_type: z.literal('CAUSAL_LM', { error: '"CAUSAL_LM"' }).nullish(),
    r: rank,
    lora_alpha: scale,
    lora_dropout: z.number(share).min(0, share).lt(1, share).nullish(),
    base_model_name_or_path: z.string({ error: 'a string or null' }).nullish(),
    bias: z.literal('none', { error: '"none" (trained biases are not supported)' }).nullish(),
    fan_in_fan_out: z.literal(false, { error: 'false' }).nullish(),
    use_dora: z.literal(false, { error: 'false (DoRA is not supported)' }).nullish(),
    use_rslora: z.boolean({ error: 'true or false' }).nullish(),
    rank_pattern: absent('nothing (one rank for all)').optional(),
    alpha_pattern: absent('nothing (one alpha for all)').optional(),
    modules_to_save: absent('null (whole modules are not supported)').optional(),
  },
  { error: 'a JSON object' },
);

/**
 * Opens the PEFT adapter in `dir`. Throws `UserError` where a file is missing, the configuration asks for something
 * else than plain LoRA, or a factor is missing, mis-shaped or of a module that is no decoder Linear of `config`.
 */
export async function openLora(dir: string, config: FusionConfig): Promise<LoraAdapter> {
  const lora = await readLoraConfig(path.join(dir, LORA_CONFIG_FILE));
  const file = path.join(dir, LORA_WEIGHTS_FILE);
  const { tensors } = await openSafetensors(file);
  const factors = new Map<string, CheckpointTensor>();
  for (const [saved, tensor] of tensors) {
    const [, module, factor] = LORA_NAME.exec(saved) ?? [];
    if (module === undefined || (factor !== 'A' && factor !== 'B')) {
      throw new UserError(`${file}: expected only LoRA factors of the decoder, got ${saved}`);
    }
    asWeightDtype(tensor.dtype, `${file}: tensor ${saved}`);
    factors.set(loraName(module, factor), { ...tensor, file });
  }
  const touched = (name: string) => factors.has(loraName(name, 'A')) || factors.has(loraName(name, 'B'));
  const targets = loraTargets(config).filter(({ module }) => touched(module));
  checkFactors(file, factors, loraShapes(targets, lora.r));
  const readF32 = async (name: string) => {
    const tensor = factors.get(name);
    if (tensor === undefined) throw new InternalError(`LoRA: no factor ${name}`);
    const bytes = await readRange(file, tensor.begin, tensor.byteLength);
    return toF32(tensor.dtype, bytes, `${file}: tensor ${name}`);
  };
  return { dir, lora, targets, readF32 };
}

async function readLoraConfig(file: string): Promise<LoraConfig> {
  const bytes = await readFile(file).catch((error: unknown) => {
    throw new UserError(`${file}: expected a PEFT adapter's configuration, got ${messageOf(error)}`);
  });
  const raw = parseAt(adapterConfig, parseJsonObject(bytes, file), file);
  // rsLoRA divides by √r; as alpha that is the same model.
  const alpha = raw.use_rslora ? raw.lora_alpha * Math.sqrt(raw.r) : raw.lora_alpha;
  return {
    r: raw.r,
    alpha,
    dropout: raw.lora_dropout ?? 0,
    baseModel: raw.base_model_name_or_path ?? undefined,
  };
}

function checkFactors(
  file: string,
  factors: ReadonlyMap<string, CheckpointTensor>,
  expected: ReadonlyMap<string, Shape>,
): void {
  if (factors.size === 0) throw new UserError(`${file}: expected LoRA factors, got none`);
  for (const name of factors.keys()) {
    if (!expected.has(name)) throw new UserError(`${file}: expected factors of decoder Linears, got ${name}`);
  }
  for (const [name, shape] of expected) {
    const got = factors.get(name)?.shape;
    if (got !== undefined && got.length === 2 && got.every((dim, i) => dim === shape[i])) continue;
    const found = got === undefined ? 'none' : `[${got.join(', ')}]`;
    throw new UserError(`${file}: tensor ${name}: expected shape [${shape.join(', ')}], got ${found}`);
  }
}
