/**
 * Adapter-only checkpoints: the projectors and interaction layers alone, trained with the rest frozen, laid over
 * the checkpoint they were trained on.
 *
 * Knows which tensors belong to it, not how they were trained. Source: the reference's `tune_mm_mlp_adapter`, which
 * saves `mm_projector.bin`.
 */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { UserError } from '../common/errors.ts';
import { toF32 } from '../common/numberFormats.ts';
import type { FusionConfig } from '../model/config.ts';
import { expectedTensors, partOf, type Shape, validateTensors } from '../model/weights.ts';
import { type Checkpoint, type CheckpointTensor, openCheckpoint } from './folder.ts';
import { openSafetensors, readRange } from './safetensors.ts';
import { openTorchFile } from './torchFile.ts';

/** An opened and checked adapter: tensors by the names they have in a whole checkpoint. */
export type Adapter = {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, CheckpointTensor>;
};

/** The name of the reference's file, and what to look for in a folder. */
export const ADAPTER_FILE = 'mm_projector.bin';
const PARTS: ReadonlySet<string | undefined> = new Set(['mm_projector', 'aux_projector', 'interaction']);
/** What trainers' wrappers put before the names. */
const WRAPPER =
  /^(?:(?:base_model\.model|module|_orig_mod)\.)*(?:model\.)?(?=(?:mm_projector|aux_projector|vision_sampler_layers)\.)/;

/** Whether tensor `name` belongs to an adapter-only checkpoint. */
export function isAdapterTensor(name: string): boolean {
  return PARTS.has(partOf(name));
}

/** Name → shape of the tensors an adapter-only checkpoint of `config` holds. */
export function adapterTensors(config: FusionConfig): Map<string, Shape> {
  return new Map([...expectedTensors(config)].filter(([name]) => isAdapterTensor(name)));
}

/**
 * Opens the adapter-only checkpoint at `adapterPath`: a PyTorch `.bin`, a `.safetensors` file, or a folder with
 * `mm_projector.bin` or safetensors. Throws `UserError` unless it holds exactly the adapter tensors of `config`.
 */
export async function openAdapter(adapterPath: string, config: FusionConfig): Promise<Adapter> {
  const found = await readTensors(adapterPath);
  const tensors = new Map<string, CheckpointTensor>();
  for (const [saved, tensor] of found) {
    const name = saved.replace(WRAPPER, 'model.');
    if (tensors.has(name)) throw new UserError(`${adapterPath}: expected one tensor ${name}, got two`);
    tensors.set(name, tensor);
  }
  checkTensors(adapterPath, tensors, config);
  return { path: adapterPath, tensors };
}

/**
 * `base` with the adapter's tensors in place of its own; nothing is read or copied. Throws `UserError` for a tensor
 * the base does not have in that shape.
 */
export function mergeAdapters(base: Checkpoint, adapter: Adapter): Checkpoint {
  for (const [name, { shape }] of adapter.tensors) {
    const expected = base.tensors.get(name)?.shape;
    if (expected !== undefined && sameShape(expected, shape)) continue;
    const wanted = expected === undefined ? `only tensors of ${base.dir}` : `shape ${show(expected)}`;
    throw new UserError(`${adapter.path}: tensor ${name}: expected ${wanted}, got ${show(shape)}`);
  }
  const read = async (name: string) => {
    const tensor = adapter.tensors.get(name);
    return tensor === undefined ? base.read(name) : readRange(tensor.file, tensor.begin, tensor.byteLength);
  };
  const readF32 = async (name: string) => {
    const tensor = adapter.tensors.get(name);
    if (tensor === undefined) return base.readF32(name);
    return toF32(tensor.dtype, await read(name), `${adapter.path}: tensor ${name}`);
  };
  return { dir: base.dir, tensors: new Map([...base.tensors, ...adapter.tensors]), read, readF32 };
}

async function readTensors(adapterPath: string): Promise<ReadonlyMap<string, CheckpointTensor>> {
  const found = await stat(adapterPath).catch(() => undefined);
  if (found === undefined)
    throw new UserError(`${adapterPath}: expected an adapter's file or folder, got none`);
  if (!found.isDirectory()) return readFileTensors(adapterPath);
  const file = path.join(adapterPath, ADAPTER_FILE);
  const hasBin = await stat(file).catch(() => undefined);
  return hasBin === undefined ? (await openCheckpoint(adapterPath)).tensors : readFileTensors(file);
}

async function readFileTensors(file: string): Promise<ReadonlyMap<string, CheckpointTensor>> {
  if (file.endsWith('.safetensors')) {
    const { tensors } = await openSafetensors(file);
    return new Map([...tensors].map(([name, tensor]) => [name, { ...tensor, file }]));
  }
  const { tensors } = await openTorchFile(file);
  for (const [name, { contiguous, strides }] of tensors) {
    if (contiguous) continue;
    const got = `strides ${show(strides)}; save it with .contiguous()`;
    throw new UserError(`${file}: tensor ${name}: expected a contiguous tensor, got ${got}`);
  }
  return new Map([...tensors].map(([name, tensor]) => [name, { ...tensor, file }]));
}

function checkTensors(
  adapterPath: string,
  tensors: ReadonlyMap<string, CheckpointTensor>,
  config: FusionConfig,
): void {
  const others = [...tensors.keys()].filter((name) => !isAdapterTensor(name));
  if (others.length > 0) {
    const got = `${others.length} others: ${others.slice(0, 3).join(', ')}${others.length > 3 ? ', …' : ''}`;
    const expected = 'only tensors of mm_projector, aux_projector and vision_sampler_layers';
    throw new UserError(`${adapterPath}: expected ${expected}, got ${got}`);
  }
  // The rest of the model is taken as given, so that the one list of faults serves here too.
  const rest = [...expectedTensors(config)].filter(([name]) => !isAdapterTensor(name));
  const all = new Map<string, { readonly dtype: string; readonly shape: Shape }>(tensors);
  for (const [name, shape] of rest) all.set(name, { dtype: 'F32', shape });
  validateTensors(config, { dir: adapterPath, tensors: all });
}

function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

function show(shape: Shape): string {
  return `[${shape.join(', ')}]`;
}
