import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { type FusionConfig, readFusionConfig } from '../model/config.ts';
import { validateTensors } from '../model/weights.ts';
import { adapterTensors, isAdapterTensor, mergeAdapters, openAdapter } from './adapters.ts';
import { openCheckpoint } from './folder.ts';
import { type TensorEntry, writeSafetensors } from './safetensors.ts';
import { openTorchFile } from './torchFile.ts';

const FIXTURES = fileURLToPath(new URL('../../test/fixtures/', import.meta.url));
const SMALL = path.join(FIXTURES, 'golden/llama-small');
const BIN = path.join(FIXTURES, 'torch/mm_projector.bin');

const W = 'model.mm_projector.0.weight';

let dir = '';
let config: FusionConfig;
beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'adapters-'));
  config = await readFusionConfig(SMALL);
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const zeros = (prefix = ''): TensorEntry[] =>
  [...adapterTensors(config)].map(([name, shape]) => ({
    name: `${prefix}${name}`,
    dtype: 'F32',
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)),
  }));

async function written(entries: readonly TensorEntry[]): Promise<string> {
  const file = path.join(dir, 'a.safetensors');
  await writeSafetensors(file, entries);
  return file;
}

describe('openAdapter', () => {
  it('opens the file torch saved, and its folder', async () => {
    const adapter = await openAdapter(BIN, config);
    expect([...adapter.tensors.keys()].sort()).toEqual([...adapterTensors(config).keys()].sort());
    expect((await openAdapter(path.join(FIXTURES, 'torch'), config)).tensors.size).toBe(40);
  });

  it("takes off what trainers' wrappers put before names", async () => {
    const adapter = await openAdapter(await written(zeros('base_model.model.')), config);
    expect(adapter.tensors.has('model.mm_projector.0.weight')).toBe(true);
    const bare = zeros().map((entry) => ({ ...entry, name: entry.name.slice('model.'.length) }));
    expect((await openAdapter(await written(bare), config)).tensors.size).toBe(40);
  });

  it('refuses other tensors, missing ones, other shapes and dtypes', async () => {
    const all = zeros();
    const strange: TensorEntry = {
      name: 'lm_head.weight',
      dtype: 'F32',
      shape: [1],
      data: Float32Array.of(0),
    };
    const fault = async (entries: readonly TensorEntry[]) => {
      const error = await openAdapter(await written(entries), config).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(UserError);
      return (error as Error).message;
    };
    expect(await fault([...all, strange])).toMatch(
      /expected only tensors of .*, got 1 others: lm_head\.weight$/,
    );
    expect(await fault(all.slice(1))).toMatch(/1 missing \(model\.mm_projector\.0\.weight \[64, 96\]\)/);
    const flipped = all.map((entry, i) => (i === 0 ? { ...entry, shape: entry.shape.toReversed() } : entry));
    expect(await fault(flipped)).toMatch(/1 of another shape .*expected \[64, 96\], got \[96, 64\]/);
    expect(await fault([...all, { ...all[0]!, name: 'mm_projector.0.weight' }])).toMatch(/got two$/);
    const integers = all.map((entry, i) => (i === 0 ? { ...entry, dtype: 'I32' as const } : entry));
    expect(await fault(integers)).toMatch(/1 of another dtype/);
    await expect(openAdapter(path.join(dir, 'none'), config)).rejects.toThrow(/got none$/);
    await expect(openAdapter(path.join(FIXTURES, 'torch/state_dict.bin'), config)).rejects.toThrow(
      /tensor transposed: expected a contiguous tensor, got strides \[1, 4\]/,
    );
  });
});

describe('mergeAdapters', () => {
  it('puts the adapter over the base', async () => {
    const base = await openCheckpoint(SMALL);
    const merged = mergeAdapters(base, await openAdapter(BIN, config));
    validateTensors(config, merged);
    expect(merged.tensors.get(W)).toMatchObject({ file: BIN, dtype: 'BF16' });
    const saved = await openTorchFile(BIN);
    for (const name of base.tensors.keys()) {
      const expected = isAdapterTensor(name) ? await saved.readF32(name) : await base.readF32(name);
      expect(await merged.readF32(name)).toEqual(expected);
    }
    expect(await merged.readF32(W)).not.toEqual(await base.readF32(W));
  });

  it('refuses a base of another size', async () => {
    const base = await openCheckpoint(path.join(FIXTURES, 'golden/llama-siglip'));
    const adapter = await openAdapter(BIN, config);
    const strange = { path: BIN, tensors: new Map([['x', adapter.tensors.get(W)!]]) };
    expect(() => mergeAdapters(base, strange)).toThrow(
      /tensor x: expected only tensors of .*, got \[64, 96\]/,
    );
    const wrong = { path: BIN, tensors: new Map([['lm_head.weight', adapter.tensors.get(W)!]]) };
    expect(() => mergeAdapters(base, wrong)).toThrow(/expected shape \[512, 64\], got \[64, 96\]/);
  });
});
