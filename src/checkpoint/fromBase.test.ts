import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { registerInit } from '../cli/init.ts';
import { registerMerge } from '../cli/merge.ts';
import { UserError } from '../common/errors.ts';
import { describeVariant, parseFusionConfig, readFusionConfig } from '../model/config.ts';
import { expectedTensors, toSiglipName, validateTensors } from '../model/weights.ts';
import { initialLora, loraName, loraTargets, mergeLora, writeLora } from '../train/lora.ts';
import { VARIANTS, variantJson } from './baseConfigs.ts';
import { type Checkpoint, openCheckpoint } from './folder.ts';
import { type BaseOptions, initFromBase, initRandom } from './fromBase.ts';
import { type TensorEntry, writeSafetensors } from './safetensors.ts';

const FIXTURES = fileURLToPath(new URL('../../test/fixtures/', import.meta.url));
const SMALL = path.join(FIXTURES, 'golden/llama-small');
const KEYS = {
  query_len: '4',
  num_of_vision_sampler_layers: 2,
  start_of_vision_sampler_layers: 1,
  stride_of_vision_sampler_layers: 2,
  tokenizer_model_max_length: 120,
};
const IDS = 512;

let root = '';
let golden: Checkpoint;
let config: Record<string, unknown>;
/** A base pair made of the golden checkpoint: what FUSION leaves out has been added again. */
let pair: { decoder: string; tower: string };
let out = '';
let count = 0;
beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'base-'));
  golden = await openCheckpoint(SMALL);
  config = JSON.parse(await readFile(path.join(SMALL, 'config.json'), 'utf8'));
  pair = { decoder: path.join(root, 'decoder'), tower: path.join(root, 'siglip-tiny') };
  await makeDecoder(pair.decoder);
  await makeTower(pair.tower);
});
afterAll(() => rm(root, { recursive: true, force: true }));
beforeEach(() => {
  out = path.join(root, `out${count++}`);
});

const json = (file: string, value: unknown) => writeFile(file, JSON.stringify(value));
const read = async (file: string) => JSON.parse(await readFile(path.join(out, file), 'utf8'));
const token = (id: number, content: string) => ({ id, content, special: true });

function tokenizer(ids = IDS, added: object[] = []) {
  const vocab = Object.fromEntries(Array.from({ length: ids - 1 }, (_, id) => [`t${id}`, id]));
  return { model: { type: 'BPE', vocab, merges: [] }, added_tokens: [token(ids - 1, '<eos>'), ...added] };
}

async function entriesLike(names: readonly (readonly [from: string, to: string])[]): Promise<TensorEntry[]> {
  return Promise.all(
    names.map(async ([from, name]) => {
      const { dtype, shape } = golden.tensors.get(from)!;
      return { name, dtype, shape, data: await golden.read(from) };
    }),
  );
}

const ofDecoder = () =>
  [...golden.tensors.keys()].filter((name) => /^(model\.(embed_tokens|layers|norm)\.|lm_head)/.test(name));

async function makeDecoder(dir: string, change: object = {}, more: TensorEntry[] = []): Promise<void> {
  await mkdir(dir, { recursive: true });
  const keys = Object.entries(config).filter(
    ([key]) => !/^mm_|vision|query_len|window|image_|tokenizer/.test(key),
  );
  const base = { ...Object.fromEntries(keys), model_type: 'llama', auto_map: { AutoConfig: 'x' }, custom: 7 };
  await json(path.join(dir, 'config.json'), { ...base, ...change });
  await json(path.join(dir, 'tokenizer.json'), tokenizer());
  await json(path.join(dir, 'tokenizer_config.json'), {
    eos_token: '<eos>',
    added_tokens_decoder: { 511: {} },
  });
  await json(path.join(dir, 'generation_config.json'), { do_sample: false });
  const entries = await entriesLike(ofDecoder().map((name) => [name, name]));
  await writeSafetensors(path.join(dir, 'model.safetensors'), [...entries, ...more]);
}

async function makeTower(dir: string, change: object = {}): Promise<void> {
  await mkdir(dir, { recursive: true });
  const { layer_norm_eps: _, hidden_act: __, ...sizes } = config.vision_config as Record<string, unknown>;
  await json(path.join(dir, 'config.json'), { model_type: 'siglip', vision_config: { ...sizes, ...change } });
  const kept = [...golden.tensors.keys()].flatMap((name) => {
    const siglip = toSiglipName(name);
    return siglip === undefined ? [] : [[name, siglip] as const];
  });
  const last = kept.flatMap(([name, siglip]) =>
    siglip.includes('.layers.5.') ? [[name, siglip.replace('.layers.5.', '.layers.6.')] as const] : [],
  );
  const left = ['vision_model.head.probe', 'text_model.embeddings.token_embedding.weight', 'logit_scale'];
  const extra = left.map(
    (name): TensorEntry => ({ name, dtype: 'F32', shape: [1], data: Float32Array.of(1) }),
  );
  await writeSafetensors(path.join(dir, 'model.safetensors'), [
    ...(await entriesLike([...kept, ...last])),
    ...extra,
  ]);
}

const init = (options: Partial<BaseOptions> = {}) =>
  initFromBase({ ...pair, out, dtype: 'same', keys: KEYS, ...options });

async function fault(options: Partial<BaseOptions>): Promise<string> {
  const error = await init(options).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(UserError);
  expect((await readdir(root)).filter((file) => file.startsWith(path.basename(out)))).toEqual([]);
  return (error as Error).message;
}

describe('initFromBase', () => {
  it('keeps both models, adds the two tokens as the mean of the others, and validates', async () => {
    const made = await init();
    const checkpoint = await openCheckpoint(out);
    expect(await readFusionConfig(out)).toEqual(made);
    expect(made).toMatchObject({ decoder: { vocabSize: 514 }, vision: { layers: 6, tower: 'siglip-tiny' } });
    validateTensors(made, checkpoint);
    for (const name of golden.tensors.keys()) {
      if (/projector|vision_sampler/.test(name)) continue;
      const [old, fresh] = [await golden.readF32(name), await checkpoint.readF32(name)];
      expect(fresh.subarray(0, old.length)).toEqual(old);
      if (!/embed_tokens|lm_head/.test(name)) continue;
      const width = 64;
      expect(fresh.length - old.length).toBe(2 * width);
      for (let i = 0; i < width; i++) {
        let sum = 0;
        for (let row = 0; row < IDS; row++) sum += old[row * width + i]!;
        expect(fresh[512 * width + i]).toBeCloseTo(sum / IDS, 6);
        expect(fresh[513 * width + i]).toBe(fresh[512 * width + i]);
      }
    }
  });

  it("writes the released keys over the base's, and the tokenizer with both tokens", async () => {
    await init();
    const written = await read('config.json');
    expect(written).toMatchObject({ model_type: 'fusion_llama', custom: 7, vocab_size: 514, query_len: '4' });
    expect(written).toMatchObject({ torch_dtype: 'float32', vision_config: { num_hidden_layers: 7 } });
    expect(written).not.toHaveProperty('auto_map');
    const { added_tokens } = await read('tokenizer.json');
    expect(added_tokens.map((t: { content: string }) => t.content)).toEqual([
      '<eos>',
      '<vision_start>',
      '<vision_end>',
    ]);
    expect(added_tokens[2]).toMatchObject({ id: 513, special: true, normalized: false });
    const { added_tokens_decoder } = await read('tokenizer_config.json');
    expect(added_tokens_decoder).toMatchObject({ 512: { content: '<vision_start>', special: true } });
    expect(await read('generation_config.json')).toEqual({ do_sample: false });
  });

  it('initialises the rest as PyTorch does, by seed', async () => {
    await init({ seed: 1 });
    const checkpoint = await openCheckpoint(out);
    const range = async (name: string) => {
      const values = await checkpoint.readF32(name);
      return [
        Math.min(...values),
        Math.max(...values),
        values.reduce((a, x) => a + x * x, 0) / values.length,
      ] as const;
    };
    for (const [name, fanIn] of [
      ['model.mm_projector.0.weight', 96],
      ['model.mm_projector.0.bias', 96],
      ['model.vision_sampler_layers.0.layers.0.proj_in.weight', 128],
    ] as const) {
      const [least, most, variance] = await range(name);
      const bound = 1 / Math.sqrt(fanIn);
      expect(most).toBeLessThanOrEqual(bound);
      expect(most).toBeGreaterThan(0.9 * bound);
      expect(least).toBeLessThan(-0.9 * bound);
      expect(variance / (bound ** 2 / 3)).toBeCloseTo(1, 0);
    }
    const norm = 'model.vision_sampler_layers.1.layers.0.cross_attn.k_proj.0';
    expect(await range(`${norm}.weight`)).toEqual([1, 1, 1]);
    expect(await range(`${norm}.bias`)).toEqual([0, 0, 0]);
    const first = await readFile(path.join(out, 'model.safetensors'));
    await rm(out, { recursive: true });
    await init({ seed: 1 });
    expect(first.equals(await readFile(path.join(out, 'model.safetensors')))).toBe(true);
    await rm(out, { recursive: true });
    await init({ seed: 2 });
    expect(first.equals(await readFile(path.join(out, 'model.safetensors')))).toBe(false);
  });

  it('writes shards with an index, and other dtypes', async () => {
    const made = await init({ dtype: 'BF16', maxShardBytes: 100_000 });
    const files = (await readdir(out)).filter((file) => file.endsWith('.safetensors'));
    expect(files.length).toBeGreaterThan(3);
    expect(files[0]).toBe(`model-00001-of-0000${files.length}.safetensors`);
    const checkpoint = await openCheckpoint(out);
    validateTensors(made, checkpoint);
    expect([...checkpoint.tensors.values()].every(({ dtype }) => dtype === 'BF16')).toBe(true);
    const bytes = [...checkpoint.tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
    expect((await read('model.safetensors.index.json')).metadata.total_size).toBe(bytes);
    expect((await read('config.json')).torch_dtype).toBe('bfloat16');
    const [a, b] = [await checkpoint.readF32('model.norm.weight'), await golden.readF32('model.norm.weight')];
    expect(Math.abs(a[0]! - b[0]!)).toBeLessThan(0.004 * Math.abs(b[0]!));
  });

  it('adds no token that is there, and grows no table with rows to spare', async () => {
    const dir = path.join(root, 'tokens');
    await mkdir(dir);
    const name = 'model.embed_tokens.weight';
    await json(
      path.join(dir, 'tokenizer.json'),
      tokenizer(510, [token(510, '<vision_start>'), token(511, '<vision_end>')]),
    );
    await init({ tokenizer: dir });
    expect(await (await openCheckpoint(out)).readF32(name)).toEqual(await golden.readF32(name));
    expect(await readFile(path.join(out, 'tokenizer.json'), 'utf8')).toBe(
      await readFile(path.join(dir, 'tokenizer.json'), 'utf8'),
    );
    await rm(out, { recursive: true });
    await json(path.join(dir, 'tokenizer.json'), tokenizer(500));
    expect((await init({ tokenizer: dir })).decoder.vocabSize).toBe(512);
    const [old, fresh] = [await golden.readF32(name), await (await openCheckpoint(out)).readF32(name)];
    expect(fresh.subarray(0, 500 * 64)).toEqual(old.subarray(0, 500 * 64));
    expect(fresh.subarray(502 * 64)).toEqual(old.subarray(502 * 64));
    expect(fresh.subarray(500 * 64, 501 * 64)).toEqual(fresh.subarray(501 * 64, 502 * 64));
    let sum = 0;
    for (let row = 0; row < 500; row++) sum += old[row * 64]!;
    expect(fresh[500 * 64]).toBeCloseTo(sum / 500, 6);
  });

  it('says what is wrong and leaves nothing behind', async () => {
    expect(await fault({ decoder: pair.tower })).toMatch(/model_type: expected llama or phi3, got "siglip"/);
    expect(await fault({ decoder: SMALL })).toMatch(/got "fusion_llama" \(it is a FUSION already\)/);
    expect(await fault({ tower: pair.decoder })).toMatch(/model_type: expected siglip, got "llama"/);
    expect(await fault({ decoder: root })).toMatch(/expected a model's config\.json, got ENOENT/);
    expect(await fault({ tokenizer: pair.tower })).toMatch(
      /tokenizer\.json: expected a tokenizer, got no such file/,
    );
    expect(await fault({ keys: { query_len: '5' } })).toMatch(/query_len: expected perfect squares/);
    const odd = path.join(root, 'odd');
    await makeTower(odd, { num_hidden_layers: 9 });
    expect(await fault({ tower: odd })).toMatch(/layers\.7\.\S+: expected shape \[32\], got none/);
    await makeTower(odd, { intermediate_size: 40 });
    expect(await fault({ tower: odd })).toMatch(
      /mlp\.fc1\.weight: expected shape \[40, 32\], got \[48, 32\]/,
    );
    await makeDecoder(odd, { num_hidden_layers: 5 });
    expect(await fault({ decoder: odd })).toMatch(
      /expected only tensors its config\.json describes, got also 9:/,
    );
    await json(path.join(odd, 'tokenizer.json'), tokenizer(600));
    expect(await fault({ decoder: odd })).toMatch(/expected a tokenizer of at most 512 ids, got one of 600/);
    await mkdir(out);
    await writeFile(path.join(out, 'mine'), '');
    await expect(init()).rejects.toThrow(/expected a new or an empty folder, got one with 1 files/);
    expect(await readdir(out)).toEqual(['mine']);
  });
});

describe('initRandom', () => {
  it('makes a checkpoint of the right shapes and scales, equal for equal seeds', async () => {
    const made = await initRandom({ json: config, where: 'c', out, dtype: 'F32', embeddingStd: 0.1 });
    const checkpoint = await openCheckpoint(out);
    validateTensors(made, checkpoint);
    const std = async (name: string) => {
      const values = await checkpoint.readF32(name);
      return Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
    };
    expect((await std('model.embed_tokens.weight')) / 0.1).toBeCloseTo(1, 1);
    expect((await std('lm_head.weight')) * Math.sqrt(64)).toBeCloseTo(1, 1);
    expect((await std('model.layers.0.mlp.down_proj.weight')) * Math.sqrt(96)).toBeCloseTo(1, 1);
    const tower = 'model.vision_tower.vision_tower.vision_model.embeddings.';
    expect(((await std(`${tower}patch_embedding.weight`)) * Math.sqrt(3 * 64)) / 3).toBeCloseTo(1, 1);
    expect(await std(`${tower}patch_embedding.bias`)).toBe(0);
    expect(await std('model.norm.weight')).toBe(1);
    const first = await readFile(path.join(out, 'model.safetensors'));
    await rm(out, { recursive: true });
    await initRandom({ json: config, where: 'c', out, dtype: 'F32', embeddingStd: 0.1 });
    expect(first.equals(await readFile(path.join(out, 'model.safetensors')))).toBe(true);
  });

  it('takes tower, projectors and token embeddings of another checkpoint', async () => {
    const tower = path.join(root, 'seeing');
    await initRandom({ json: config, where: 'c', out: tower, dtype: 'F32', seed: 5 });
    const made = await initRandom({ json: config, where: 'c', out, dtype: 'F32', seed: 6, tower });
    const [from, to] = [await openCheckpoint(tower), await openCheckpoint(out)];
    const equal = new Map<string, boolean>();
    for (const [name, shape] of expectedTensors(made)) {
      // Norms and biases are the same in all.
      if (shape.length === 1) continue;
      const [a, b] = [await from.readF32(name), await to.readF32(name)];
      equal.set(
        name,
        a.every((value, i) => value === b[i]),
      );
    }
    const taken = /^model\.(vision_tower|mm_projector|aux_projector|embed_tokens)\./;
    for (const [name, same] of equal) expect([name, same]).toEqual([name, taken.test(name)]);
    expect(new Set(equal.values()).size).toBe(2);
    const wider = { ...config, vocab_size: 2 * IDS };
    await rm(out, { recursive: true });
    await expect(initRandom({ json: wider, where: 'c', out, tower })).rejects.toThrow(
      /seeing: tensor model.embed_tokens.weight: expected shape \[1024, 64\], got \[512, 64\]$/,
    );
    await expect(readdir(out)).rejects.toThrow('ENOENT');
  });

  it('refuses a tokenizer with more ids than rows', async () => {
    const options = { json: config, where: 'c', out, tokenizer: pair.decoder };
    await expect(initRandom(options)).rejects.toThrow(/at most vocab_size 512 ids, got .* up to 513$/);
  });
});

describe('variants', () => {
  it.each(VARIANTS)('%s is a released one', (name) => {
    const variant = parseFusionConfig(variantJson(name), name);
    expect(describeVariant(variant).toLowerCase().replace(' ', '-')).toBe(name);
    expect(variant.interaction).toMatchObject({ layers: 10, start: 0, stride: 3, window: 3 });
    const weights = [...expectedTensors(variant).values()].reduce(
      (sum, shape) => sum + shape.reduce((a, b) => a * b),
      0,
    );
    expect(weights).toBeGreaterThan(4e9);
  });

  it('refuses another name', () => {
    expect(() => variantJson('fusion-z-phi3.5-3b')).toThrow(
      /expected one of fusion-llama3\.1-8b, .*got fusion-z/,
    );
  });
});

describe('the commands', () => {
  async function run(...args: string[]): Promise<void> {
    const program = new Command().exitOverride().configureOutput({ writeErr() {} });
    registerInit(program);
    registerMerge(program);
    await program.parseAsync(args, { from: 'user' });
  }

  it('init builds from bases and from random weights', async () => {
    const bases = ['--decoder', pair.decoder, '--tower', pair.tower];
    await run(
      'init',
      ...bases,
      '--out',
      out,
      '--dtype',
      'f16',
      '--query-len',
      '4,16',
      '--interaction-layers',
      '1',
    );
    expect(await readFusionConfig(out)).toMatchObject({ queryLens: [4, 16], interaction: { layers: 1 } });
    expect((await openCheckpoint(out)).tensors.get('lm_head.weight')?.dtype).toBe('F16');
    await rm(out, { recursive: true });
    await run('init', '--random', '--config', path.join(SMALL, 'config.json'), '--out', out, '--seed', '7');
    validateTensors(await readFusionConfig(out), await openCheckpoint(out));
    await expect(run('init', '--out', `${out}x`)).rejects.toThrow(
      /expected --decoder DIR and --tower DIR, or --random/,
    );
    await expect(run('init', '--out', `${out}x`, '--random')).rejects.toThrow(
      /expected --variant NAME or --config/,
    );
    await expect(run('init', '--out', `${out}x`, '--random', ...bases)).rejects.toThrow(
      /no --decoder with --random/,
    );
    await expect(run('init', '--out', `${out}x`, '--variant', 'a')).rejects.toThrow(
      /no --variant without --random/,
    );
  });

  it('merge multiplies LoRA factors in and puts adapter tensors in place', async () => {
    const fusion = await readFusionConfig(SMALL);
    const targets = loraTargets(fusion);
    const lora = { r: 2, alpha: 4, dropout: 0 };
    const factors = new Map(initialLora(targets, 2, 1));
    for (const values of factors.values()) values.fill(0.25);
    const adapter = await mkdtemp(path.join(root, 'peft-'));
    await writeLora(adapter, targets, lora, factors);
    await copyFile(path.join(FIXTURES, 'torch/mm_projector.bin'), path.join(adapter, 'mm_projector.bin'));
    await run('merge', SMALL, adapter, '--out', out, '--quiet');
    const merged = await openCheckpoint(out);
    validateTensors(await readFusionConfig(out), merged);
    for (const { module, weight } of targets) {
      const expected = await golden.readF32(weight);
      const [a, b] = [factors.get(loraName(module, 'A'))!, factors.get(loraName(module, 'B'))!];
      mergeLora(expected, a, b, 4, 2);
      expect(await merged.readF32(weight)).toEqual(expected);
      expect(expected).not.toEqual(await golden.readF32(weight));
    }
    expect(await merged.read('lm_head.weight')).toEqual(await golden.read('lm_head.weight'));
    expect(merged.tensors.get('model.aux_projector.0.weight')?.dtype).toBe('BF16');
    await rm(out, { recursive: true });
    await run('merge', SMALL, path.join(FIXTURES, 'torch/mm_projector.bin'), '--out', out, '--dtype', 'f32');
    expect((await openCheckpoint(out)).tensors.get('model.aux_projector.0.weight')?.dtype).toBe('F32');
    await expect(run('merge', SMALL, root, '--out', `${out}x`)).rejects.toThrow(UserError);
  });
});
