import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openSafetensors, type TensorEntry, writeSafetensors } from '../checkpoint/safetensors.ts';
import { InternalError, UserError } from '../common/errors.ts';
import { Random } from '../common/random.ts';
import { type FusionConfig, readFusionConfig } from '../model/config.ts';
import {
  adapterConfigJson,
  initialLora,
  LORA_CONFIG_FILE,
  LORA_WEIGHTS_FILE,
  loraName,
  loraShapes,
  loraTargets,
  mergeLora,
  openLora,
  writeLora,
} from './lora.ts';

const GOLDEN = fileURLToPath(new URL('../../test/fixtures/golden/', import.meta.url));
const LORA = { r: 4, alpha: 16, dropout: 0.05, baseModel: 'base' };

let llama: FusionConfig;
let phi: FusionConfig;
let root = '';
let dir = '';
beforeAll(async () => {
  llama = await readFusionConfig(path.join(GOLDEN, 'llama-small'));
  phi = await readFusionConfig(path.join(GOLDEN, 'phi3-siglip2'));
  root = await mkdtemp(path.join(tmpdir(), 'lora-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));
beforeEach(async () => {
  dir = await mkdtemp(path.join(root, 'a-'));
});

describe('loraTargets', () => {
  it("are the decoder's Linears, not lm_head, the tower's or the interaction layers'", () => {
    const targets = loraTargets(llama);
    expect(targets).toHaveLength(6 * 7);
    expect(targets.find(({ module }) => module === 'model.layers.5.self_attn.k_proj')).toEqual({
      module: 'model.layers.5.self_attn.k_proj',
      weight: 'model.layers.5.self_attn.k_proj.weight',
      out: 32,
      in: 64,
    });
    expect(targets.every(({ module }) => /^model\.layers\.\d/.test(module))).toBe(true);
    const kinds = loraTargets(phi).map(({ module }) => module.split('.').at(-1));
    expect([...new Set(kinds)].sort()).toEqual(['down_proj', 'gate_up_proj', 'o_proj', 'qkv_proj']);
  });

  it("are what PEFT's pattern names, and nothing else is", () => {
    const targets = loraTargets(llama);
    const pattern = new RegExp(`^(?:${adapterConfigJson(targets, LORA).target_modules})$`);
    expect(targets.every(({ module }) => pattern.test(module))).toBe(true);
    for (const other of [
      'model.vision_tower.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj',
      'model.vision_sampler_layers.0.layers.0.cross_attn.o_proj',
      'model.layers.0.self_attn',
      'lm_head',
    ]) {
      expect(pattern.test(other)).toBe(false);
    }
  });
});

describe('initialLora', () => {
  it('is uniform within 1/√in for A and zero for B, equal for equal seeds', () => {
    const targets = loraTargets(llama);
    const factors = initialLora(targets, 8, 3);
    expect([...factors].map(([name, values]) => [name, values.length])).toEqual(
      [...loraShapes(targets, 8)].map(([name, [a, b]]) => [name, a! * b!]),
    );
    const a = factors.get(loraName('model.layers.0.mlp.down_proj', 'A'))!;
    const bound = 1 / Math.sqrt(96);
    const variance = a.reduce((sum, x) => sum + x * x, 0) / a.length;
    expect(Math.max(...a.map(Math.abs))).toBeLessThanOrEqual(bound);
    expect(Math.max(...a)).toBeGreaterThan(0.95 * bound);
    expect(variance / (bound ** 2 / 3)).toBeCloseTo(1, 0.5);
    expect(factors.get(loraName('model.layers.0.mlp.down_proj', 'B'))!.every((x) => x === 0)).toBe(true);
    expect(initialLora(targets, 8, 3)).toEqual(factors);
    expect(initialLora(targets, 8, 4)).not.toEqual(factors);
    expect(a).not.toEqual(factors.get(loraName('model.layers.1.mlp.down_proj', 'A')));
  });
});

describe('mergeLora', () => {
  it('adds (alpha / r)·B·A', () => {
    const weight = Float32Array.of(1, 2, 3, 4, 5, 6);
    const a = Float32Array.of(1, 0, -1, 0, 2, 1);
    const b = Float32Array.of(1, 2, 0, -1);
    mergeLora(weight, a, b, 4, 2);
    expect([...weight]).toEqual([1 + 2 * 1, 2 + 2 * 4, 3 + 2 * 1, 4, 5 - 2 * 2, 6 - 2 * 1]);
  });

  it('refuses factors that do not fit', () => {
    const four = new Float32Array(4);
    expect(() => mergeLora(new Float32Array(6), four, four, 1, 2)).toThrow(InternalError);
  });
});

describe('writeLora and openLora', () => {
  it("keep the factors and PEFT's names", async () => {
    const targets = loraTargets(llama);
    const factors = new Map(initialLora(targets, 4, 1));
    for (const values of factors.values()) new Random(2).fillNormal(values);
    await writeLora(dir, targets, LORA, factors);
    const adapter = await openLora(dir, llama);
    expect(adapter.lora).toEqual(LORA);
    expect(adapter.targets).toEqual(targets);
    for (const [name, values] of factors) expect(await adapter.readF32(name)).toEqual(values);
    const { tensors } = await openSafetensors(path.join(dir, LORA_WEIGHTS_FILE));
    expect(tensors.get('base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight')?.shape).toEqual([
      4, 64,
    ]);
    expect(tensors.get('base_model.model.model.layers.0.mlp.up_proj.lora_B.weight')?.shape).toEqual([96, 4]);
    expect(JSON.parse(await readFile(path.join(dir, LORA_CONFIG_FILE), 'utf8'))).toMatchObject({
      peft_type: 'LORA',
      task_type: 'CAUSAL_LM',
      r: 4,
      lora_alpha: 16,
      lora_dropout: 0.05,
      base_model_name_or_path: 'base',
      bias: 'none',
    });
  });

  const peft = { peft_type: 'LORA', task_type: 'CAUSAL_LM', r: 4, lora_alpha: 8, lora_dropout: 0 };
  const entry = (name: string, shape: readonly number[]): TensorEntry => ({
    name,
    dtype: 'F32',
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)),
  });
  const q = 'base_model.model.model.layers.0.self_attn.q_proj';
  const pair = [entry(`${q}.lora_A.weight`, [4, 64]), entry(`${q}.lora_B.weight`, [64, 4])];
  const folder = async (config: object, entries: readonly TensorEntry[] = pair) => {
    await writeFile(path.join(dir, LORA_CONFIG_FILE), JSON.stringify(config));
    await writeSafetensors(path.join(dir, LORA_WEIGHTS_FILE), entries);
  };

  it('reads an adapter of some Linears, and rsLoRA as a larger alpha', async () => {
    await folder({
      ...peft,
      target_modules: ['q_proj'],
      use_rslora: true,
      rank_pattern: {},
      modules_to_save: null,
    });
    const { targets, lora } = await openLora(dir, llama);
    expect(targets.map(({ module }) => module)).toEqual(['model.layers.0.self_attn.q_proj']);
    expect(lora).toEqual({ r: 4, alpha: 16, dropout: 0, baseModel: undefined });
  });

  it.each<[string, object, readonly TensorEntry[], RegExp]>([
    [
      'DoRA',
      { ...peft, use_dora: true },
      pair,
      /use_dora: expected false \(DoRA is not supported\), got true/,
    ],
    ['several ranks', { ...peft, rank_pattern: { q_proj: 8 } }, pair, /rank_pattern: expected nothing/],
    ['whole modules', { ...peft, modules_to_save: ['lm_head'] }, pair, /modules_to_save: expected null/],
    ['a rank that is none', { ...peft, alpha_pattern: 5 }, pair, /alpha_pattern: expected nothing .*, got 5/],
    ['IA3', { ...peft, peft_type: 'IA3' }, pair, /peft_type: expected "LORA" .*, got "IA3"/],
    ['no rank', { ...peft, r: 0 }, pair, /r: expected an integer from 1, got 0/],
    ['A alone', peft, pair.slice(0, 1), /lora_B\.weight: expected shape \[64, 4\], got none/],
    ['another rank', { ...peft, r: 2 }, pair, /lora_A\.weight: expected shape \[2, 64\], got \[4, 64\]/],
    ['nothing', peft, [], /expected LoRA factors, got none/],
    ['the head', peft, [...pair, entry('base_model.model.lm_head.lora_A.weight', [4, 64])], /got .*lm_head/],
    ['other tensors', peft, [...pair, entry('x', [1])], /expected only LoRA factors of the decoder, got x/],
  ])('refuse %s', async (_, config, entries, message) => {
    await folder(config, entries);
    const error = await openLora(dir, llama).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    expect((error as Error).message).toMatch(message);
  });

  it('refuse an empty folder', async () => {
    await mkdir(path.join(dir, 'empty'));
    await expect(openLora(path.join(dir, 'empty'), llama)).rejects.toThrow(
      /adapter_config\.json: expected a PEFT/,
    );
  });
});
