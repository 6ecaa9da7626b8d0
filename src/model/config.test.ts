import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { describeVariant, parseFusionConfig, readFusionConfig, toConfigJson } from './config.ts';

const GOLDEN = fileURLToPath(new URL('../../test/fixtures/golden/', import.meta.url));
const golden = async (name: string): Promise<Record<string, unknown>> =>
  JSON.parse(await readFile(path.join(GOLDEN, name, 'config.json'), 'utf8'));
const LLAMA = await golden('llama-small');
const PHI = await golden('phi3-siglip2');
const VISION = LLAMA.vision_config as Record<string, unknown>;
const ROPE = PHI.rope_scaling as Record<string, unknown>;

const parse = (json: unknown) => parseFusionConfig(json, 'c.json');
const llama = (changes: object = {}) => parse({ ...LLAMA, ...changes });

/** A config as released, without vision_config. */
const released = (tower: string, decoder: 'llama' | 'phi') => ({
  ...(decoder === 'phi' ? PHI : LLAMA),
  vision_config: undefined,
  mm_hidden_size: undefined,
  mm_vision_tower: tower,
  ...(decoder === 'phi'
    ? { hidden_size: 3072, intermediate_size: 8192, num_attention_heads: 32, num_key_value_heads: 32 }
    : { hidden_size: 4096, intermediate_size: 14336, num_attention_heads: 32, num_key_value_heads: 8 }),
  ...(decoder === 'phi' && {
    rope_scaling: { type: 'longrope', short_factor: Array(48).fill(1), long_factor: Array(48).fill(2) },
  }),
  num_hidden_layers: 32,
  vocab_size: decoder === 'phi' ? 32066 : 128258,
  num_of_vision_sampler_layers: 10,
  start_of_vision_sampler_layers: 0,
  stride_of_vision_sampler_layers: 3,
  query_len: '4,16,36,64,144',
});

describe('parseFusionConfig', () => {
  it('reads llama-small into clear terms', () => {
    expect(llama()).toEqual({
      modelType: 'fusion_llama',
      vision: {
        tower: 'google/siglip-tiny-test-patch8-64',
        imageSize: 64,
        patchSize: 8,
        grid: 8,
        patches: 64,
        hiddenSize: 32,
        intermediateSize: 48,
        heads: 4,
        layers: 6,
        layerNormEps: 1e-6,
      },
      decoder: {
        kind: 'llama',
        vocabSize: 512,
        hiddenSize: 64,
        intermediateSize: 96,
        layers: 6,
        heads: 4,
        kvHeads: 2,
        headSize: 16,
        rmsNormEps: 1e-5,
        rope: {
          kind: 'llama3',
          theta: 500000,
          factor: 8,
          lowFreqFactor: 1,
          highFreqFactor: 4,
          originalMaxPositions: 8192,
        },
        maxPositions: 131072,
        tiedEmbeddings: false,
      },
      projectorType: { kind: 'mlp', depth: 2 },
      interaction: { layers: 2, start: 1, stride: 2, window: 3, heads: 16 },
      queryLens: [4],
      defaultQueryLen: 4,
      maxLength: 120,
      earlyTextRows: 'uniform',
      textGuided: true,
      mappingLossWeight: 0.1,
      bosId: 1,
      eosIds: [2],
      padId: 0,
    });
  });

  it('reads longrope, its factor by the formula', () => {
    const { rope, kind } = parse(PHI).decoder;
    expect(kind).toBe('phi3');
    expect(rope).toMatchObject({ kind: 'longrope', theta: 10000, originalMaxPositions: 4096 });
    expect(rope).toMatchObject({ shortFactor: [1, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35] });
    // ln(131072 / 4096) / ln 4096 = 5 / 12.
    expect(rope.kind === 'longrope' && rope.attentionFactor).toBeCloseTo(Math.sqrt(1 + 5 / 12), 12);
  });

  it('takes floor(S / patch) patches a side', async () => {
    expect((await readFusionConfig(path.join(GOLDEN, 'llama-siglip'))).vision).toMatchObject({
      grid: 27,
      patches: 729,
    });
  });

  it.each([
    [
      'google/siglip-so400m-patch14-384',
      { hiddenSize: 1152, intermediateSize: 4304, heads: 16, layers: 26, patches: 729 },
    ],
    [
      '/models/google_siglip2-giant-opt-patch16-384/',
      { hiddenSize: 1536, intermediateSize: 6144, layers: 39, patches: 576 },
    ],
  ])('takes the sizes from the name %s', (tower, sizes) => {
    expect(parse(released(tower, 'llama')).vision).toMatchObject({
      ...sizes,
      tower,
      imageSize: 384,
      layerNormEps: 1e-6,
    });
  });

  it('fills what vision_config leaves out from the name', () => {
    const json = {
      ...released('siglip-so400m-patch14-384', 'llama'),
      vision_config: { num_hidden_layers: 5 },
    };
    expect(parse(json).vision).toMatchObject({ layers: 4, hiddenSize: 1152 });
  });

  it.each([
    ['4,16,36,64,144', [4, 16, 36, 64, 144], 36],
    ['4, 16', [4, 16], 16],
    [64, [64], 64],
    ['144,49,25', [144, 49, 25], 25],
  ])('query_len %s', (queryLen, queryLens, defaultQueryLen) => {
    expect(llama({ query_len: queryLen })).toMatchObject({ queryLens, defaultQueryLen });
  });

  it('takes absent and null keys as their defaults', () => {
    const bare = llama({
      eos_token_id: [2, 3],
      pad_token_id: null,
      bos_token_id: undefined,
      rope_scaling: null,
      num_key_value_heads: null,
      mm_projector_type: undefined,
      tokenizer_model_max_length: undefined,
    });
    expect(bare).toMatchObject({
      eosIds: [2, 3],
      maxLength: 131072,
      projectorType: { kind: 'linear', depth: 1 },
    });
    expect(bare.decoder).toMatchObject({ kvHeads: 4, rope: { kind: 'default', theta: 500000 } });
    expect([bare.padId, bare.bosId]).toEqual([undefined, undefined]);
  });

  it('reads the keys of this project', () => {
    const ours = {
      image_tokens_side: 4,
      early_text_rows: 'masked',
      text_guided: false,
      mapping_loss_weight: 0,
    };
    expect(llama({ ...ours, conversation_format: 'phi3' })).toMatchObject({
      imageTokensSide: 4,
      earlyTextRows: 'masked',
      textGuided: false,
      mappingLossWeight: 0,
      conversationFormat: 'phi3',
    });
  });

  const vision = (changes: object) => ({ vision_config: { ...VISION, ...changes } });
  const rope = (changes: object) => ({ ...PHI, rope_scaling: { ...ROPE, ...changes } });
  it.each<[object, string]>([
    [{ model_type: 'llava' }, 'model_type: expected "fusion_llama" or "fusion_phi", got "llava"'],
    [{ hidden_size: undefined }, 'hidden_size: expected an integer from 1 to 1048576, got nothing'],
    [{ hidden_size: -64 }, 'hidden_size: expected an integer from 1 to 1048576, got -64'],
    [{ hidden_size: '64' }, 'hidden_size: expected an integer from 1 to 1048576, got "64"'],
    [{ hidden_size: 2 ** 21 }, 'hidden_size: expected an integer from 1 to 1048576, got 2097152'],
    [{ num_attention_heads: 0 }, 'num_attention_heads: expected an integer from 1 to 1048576, got 0'],
    [{ num_attention_heads: 3 }, 'num_attention_heads: expected a divisor of hidden_size 64, got 3'],
    [
      { num_attention_heads: 64 },
      'hidden_size: expected an even number per attention head (64 heads), got 64',
    ],
    [{ num_key_value_heads: 3 }, 'num_key_value_heads: expected a divisor of num_attention_heads 4, got 3'],
    [{ head_dim: 8 }, 'head_dim: expected hidden_size / num_attention_heads = 16, got 8'],
    [{ hidden_size: 72 }, 'hidden_size: expected a multiple of the 16 interaction heads, got 72'],
    [{ num_hidden_layers: 1.5 }, 'num_hidden_layers: expected an integer from 1 to 1024, got 1.5'],
    [{ rms_norm_eps: 0 }, 'rms_norm_eps: expected a finite number above 0, got 0'],
    [{ window_size: 0 }, 'window_size: expected an integer from 1 to 64, got 0'],
    [
      { query_len: '4,15' },
      'query_len: expected perfect squares from 1 to 65536, such as "4,16,36", got "4,15"',
    ],
    [{ query_len: '' }, 'query_len: expected perfect squares from 1 to 65536, such as "4,16,36", got ""'],
    [{ query_len: 0 }, 'query_len: expected perfect squares from 1 to 65536, such as "4,16,36", got 0'],
    [
      { query_len: '1e2' },
      'query_len: expected perfect squares from 1 to 65536, such as "4,16,36", got "1e2"',
    ],
    [{ query_len: null }, 'query_len: expected a list such as "4,16,36" or a number, got null'],
    [
      { num_of_vision_sampler_layers: 4 },
      'num_of_vision_sampler_layers: expected a last interaction layer (start + (count - 1)·stride) at most 5, got 7',
    ],
    [
      { stride_of_vision_sampler_layers: 0 },
      'stride_of_vision_sampler_layers: expected an integer from 1 to 1024, got 0',
    ],
    [
      { mm_vision_select_layer: -1 },
      'mm_vision_select_layer: expected -2 (nothing else is supported), got -1',
    ],
    [
      { image_aspect_ratio: 'pad' },
      'image_aspect_ratio: expected "static_hd" (nothing else is supported), got "pad"',
    ],
    [{ hidden_act: 'gelu' }, 'hidden_act: expected "silu" (nothing else is supported), got "gelu"'],
    [
      { mm_projector_type: 'identity' },
      'mm_projector_type: expected "linear" or "mlpNx_gelu", N from 1 to 99, got "identity"',
    ],
    [
      { mm_projector_type: 'mlp0x_gelu' },
      'mm_projector_type: expected "linear" or "mlpNx_gelu", N from 1 to 99, got "mlp0x_gelu"',
    ],
    [{ mm_hidden_size: 33 }, "mm_hidden_size: expected the tower's width 32, got 33"],
    [{ eos_token_id: [2, 512] }, 'eos_token_id: expected below vocab_size 512, got 512'],
    [{ pad_token_id: -1 }, 'pad_token_id: expected an integer from 0 to 2147483648, got -1'],
    [{ eos_token_id: 'x' }, 'eos_token_id: expected a token id or an array of them, got "x"'],
    [{ image_tokens_side: 9 }, 'image_tokens_side: expected at most the 8 patches of a side, got 9'],
    [{ early_text_rows: 'no' }, 'early_text_rows: expected "uniform" or "masked", got "no"'],
    [{ mapping_loss_weight: -1 }, 'mapping_loss_weight: expected a number, 0 or above, got -1'],
    [
      { vision_config: undefined },
      'mm_vision_tower: expected siglip-so400m-patch14-384 or siglip2-giant-opt-patch16-384, or a vision_config beside it, got "google/siglip-tiny-test-patch8-64"',
    ],
    [vision({ hidden_size: undefined }), 'vision_config.hidden_size: expected an integer, got nothing'],
    [vision({ patch_size: 65 }), 'vision_config.patch_size: expected at most image_size 64, got 65'],
    [
      vision({ num_attention_heads: 5 }),
      'vision_config.num_attention_heads: expected a divisor of hidden_size 32, got 5',
    ],
    [
      vision({ num_hidden_layers: 2 }),
      'vision_config.num_hidden_layers: expected an integer from 3 to 1024, got 2',
    ],
    [
      vision({ num_channels: 1 }),
      'vision_config.num_channels: expected 3 (nothing else is supported), got 1',
    ],
    [
      { rope_scaling: { type: 'yarn' } },
      'rope_scaling.rope_type: expected "default", "llama3" or "longrope", got "yarn"',
    ],
    [{ rope_scaling: 3 }, 'rope_scaling: expected an object or null, got 3'],
    [
      { rope_scaling: { rope_type: 'llama3' } },
      'rope_scaling.factor: expected a finite number above 0, got nothing',
    ],
    [rope({ short_factor: [1] }), 'rope_scaling.short_factor.length: expected headSize / 2 = 8, got 1'],
    [
      rope({ long_factor: Array(9).fill(1) }),
      'rope_scaling.long_factor.length: expected headSize / 2 = 8, got 9',
    ],
    [rope({ long_factor: [1, 0] }), 'rope_scaling.long_factor.1: expected a finite number above 0, got 0'],
    [
      { ...PHI, original_max_position_embeddings: undefined },
      'original_max_position_embeddings: expected an integer from 2 to max_position_embeddings 131072, got nothing',
    ],
    [
      { ...PHI, sliding_window: 2047 },
      'sliding_window: expected at least tokenizer_model_max_length 4096 (no sliding-window attention), got 2047',
    ],
  ])('refuses %j', (changes, message) => {
    expect(() => llama(changes)).toThrow(UserError);
    expect(() => llama(changes)).toThrow(new UserError(`c.json: ${message}`));
  });

  it('lets the last interaction layer follow the last decoder layer, none follow a later one', () => {
    const three = { num_of_vision_sampler_layers: 3 };
    expect(llama({ ...three, start_of_vision_sampler_layers: 1 }).interaction).toMatchObject({
      layers: 3,
      start: 1,
    });
    expect(() => llama({ ...three, start_of_vision_sampler_layers: 2 })).toThrow(/at most 5, got 6$/);
    expect(
      llama({ num_of_vision_sampler_layers: 0, start_of_vision_sampler_layers: 9 }).interaction.layers,
    ).toBe(0);
  });

  it('refuses sizes that are absurd only together', () => {
    const wide = { hidden_size: 2 ** 20, num_hidden_layers: 1024, intermediate_size: 2 ** 20 };
    expect(() => llama(wide)).toThrow(
      /^c.json: sizes together: expected at most 1000000000000 weights, got /,
    );
  });

  it.each([null, [], 'text', 3])('refuses %j as a whole', (json) => {
    expect(() => parse(json)).toThrow(`c.json: expected a JSON object, got ${JSON.stringify(json)}`);
  });
});

describe('readFusionConfig', () => {
  it('names the file that is missing or broken', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'config-'));
    const file = path.join(dir, 'config.json');
    await expect(readFusionConfig(dir)).rejects.toThrow(
      `${file}: expected a FUSION checkpoint's config.json, got ENOENT`,
    );
    await writeFile(file, '{"hidden_size": ');
    await expect(readFusionConfig(dir)).rejects.toThrow(`${file}: expected JSON, got `);
    await writeFile(file, JSON.stringify({ ...LLAMA, window_size: -1 }));
    await expect(readFusionConfig(dir)).rejects.toThrow(`${file}: window_size: expected`);
    await rm(dir, { recursive: true });
  });
});

describe('toConfigJson', () => {
  it.each<[string, unknown]>([
    ['llama-small', LLAMA],
    ['phi3-siglip2', PHI],
    [
      'a default rope, linear, tied',
      { ...LLAMA, rope_scaling: null, mm_projector_type: 'linear', tie_word_embeddings: true },
    ],
    ['an unusual attention factor', { ...PHI, rope_scaling: { ...ROPE, attention_factor: 1.5 } }],
    ['no special ids', { ...LLAMA, bos_token_id: null, eos_token_id: null, pad_token_id: null }],
    ['several eos', { ...LLAMA, eos_token_id: [2, 5] }],
    ['a released FUSION-X', released('google/siglip2-giant-opt-patch16-384', 'phi')],
    [
      'a released tower of other depth',
      { ...released('siglip-so400m-patch14-384', 'llama'), vision_config: { num_hidden_layers: 9 } },
    ],
    [
      'all keys of this project',
      {
        ...LLAMA,
        image_tokens_side: 4,
        early_text_rows: 'masked',
        text_guided: false,
        mapping_loss_weight: 0.5,
        conversation_format: 'x',
      },
    ],
  ])('round trip: %s', (_, json) => {
    const config = parse(json);
    expect(parse(JSON.parse(JSON.stringify(toConfigJson(config))))).toEqual(config);
  });

  it('writes the released keys with the released values', () => {
    const known = Object.entries(LLAMA).filter(
      ([key]) => key !== 'torch_dtype' && key !== 'unfreeze_mm_vision_tower',
    );
    expect(toConfigJson(llama())).toEqual(Object.fromEntries(known));
    expect(toConfigJson(parse(PHI))).toMatchObject({
      rope_scaling: PHI.rope_scaling,
      original_max_position_embeddings: 4096,
    });
    expect(toConfigJson(parse(released('siglip-so400m-patch14-384', 'llama')))).not.toHaveProperty(
      'vision_config',
    );
  });
});

describe('describeVariant', () => {
  const so400m = 'google/siglip-so400m-patch14-384';
  const giant = 'google/siglip2-giant-opt-patch16-384';
  it.each<[string, object]>([
    ['FUSION LLaMA3.1-8B', released(so400m, 'llama')],
    ['FUSION Phi3.5-3B', released(so400m, 'phi')],
    ['FUSION-X Phi3.5-3B', released(giant, 'phi')],
    ['FUSION-L LLaMA3.1-8B', { ...released(giant, 'llama'), image_tokens_side: 16 }],
    ['FUSION (custom sizes)', LLAMA],
    ['FUSION (custom sizes)', { ...released(giant, 'phi'), num_hidden_layers: 33 }],
  ])('%s', (name, json) => {
    expect(describeVariant(parse(json))).toBe(name);
  });
});
