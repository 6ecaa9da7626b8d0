/**
 * The `config.json` of a FUSION built from a decoder's and a tower's, and those of the released variants.
 *
 * Knows configurations, not tensors. Source: the released configurations; transformers' Llama, Phi-3 and SigLIP
 * configurations and the defaults of `SiglipVisionConfig`.
 */
import path from 'node:path';
import { UserError } from '../common/errors.ts';
import { isRecord, kindOf } from './jsonText.ts';

export type Json = Record<string, unknown>;

const MODEL_TYPES: Readonly<Record<string, string>> = { llama: 'fusion_llama', phi3: 'fusion_phi' };
const TOWER_TYPES: readonly unknown[] = ['siglip', 'siglip_vision_model', 'siglip2'];
/** What a SigLIP configuration leaves out has these values. */
const SIGLIP_DEFAULTS = {
  hidden_size: 768,
  intermediate_size: 3072,
  num_hidden_layers: 12,
  num_attention_heads: 12,
  image_size: 224,
  patch_size: 16,
  layer_norm_eps: 1e-6,
  hidden_act: 'gelu_pytorch_tanh',
};
/** Keys of a base model that would be wrong in a FUSION's: they lead to code or files that are not there. */
const DROPPED_KEYS: ReadonlySet<string> = new Set(['auto_map', '_name_or_path', 'quantization_config']);
const MAX_LENGTH = 4096;
const INTERACTION_STRIDE = 3;

/** The keys FUSION adds, as released; 10 interaction layers, or as many as a small decoder has room for. */
function fusionKeys(decoder: Json): Json {
  const layers = Number(decoder.num_hidden_layers ?? 0);
  return {
    mm_projector_type: 'mlp2x_gelu',
    mm_vision_select_layer: -2,
    image_aspect_ratio: 'static_hd',
    query_len: '4,16,36,64,144',
    window_size: 3,
    num_of_vision_sampler_layers: Math.min(10, Math.ceil(layers / INTERACTION_STRIDE)),
    start_of_vision_sampler_layers: 0,
    stride_of_vision_sampler_layers: INTERACTION_STRIDE,
    tokenizer_model_max_length: Math.min(MAX_LENGTH, Number(decoder.max_position_embeddings ?? MAX_LENGTH)),
  };
}

/** A base decoder's configuration read as `where`. Throws `UserError` unless it is a Llama's or a Phi-3's. */
export function checkDecoderJson(json: Json, where: string): void {
  if (MODEL_TYPES[String(json.model_type)] !== undefined) return;
  const expected = Object.keys(MODEL_TYPES).join(' or ');
  const hint = String(json.model_type).startsWith('fusion_') ? ' (it is a FUSION already)' : '';
  throw new UserError(`${where}: model_type: expected ${expected}, got ${kindOf(json.model_type)}${hint}`);
}

/** A tower's sizes, whole, in the keys of `vision_config`. Throws `UserError` unless it is a SigLIP's. */
export function towerJson(json: Json, where: string): Json {
  if (!TOWER_TYPES.includes(json.model_type)) {
    throw new UserError(`${where}: model_type: expected siglip, got ${kindOf(json.model_type)}`);
  }
  const sizes = json.vision_config ?? (json.model_type === 'siglip_vision_model' ? json : {});
  if (!isRecord(sizes))
    throw new UserError(`${where}: vision_config: expected an object, got ${kindOf(sizes)}`);
  const keys = Object.entries(SIGLIP_DEFAULTS);
  return Object.fromEntries(keys.map(([key, value]) => [key, sizes[key] ?? value]));
}

/** What the model in a folder is called: its id where that is in a hub's cache, else its folder's name. */
export function modelNameOf(dir: string): string {
  const parts = path.resolve(dir).split(path.sep);
  const cached = parts.findLast((part) => /^models--[^-].*--/.test(part));
  return cached === undefined ? String(parts.at(-1)) : cached.slice('models--'.length).replaceAll('--', '/');
}

/** The FUSION configuration's keys before they are checked; `keys` replace the defaults. */
export function fusionJson(decoder: Json, tower: Json, name: string, vocabSize: number, keys: Json): Json {
  return {
    ...withoutDropped(decoder),
    ...fusionKeys(decoder),
    model_type: MODEL_TYPES[String(decoder.model_type)],
    vocab_size: vocabSize,
    mm_vision_tower: name,
    vision_config: tower,
    ...keys,
  };
}

function withoutDropped(json: Json): Json {
  return Object.fromEntries(Object.entries(json).filter(([key]) => !DROPPED_KEYS.has(key)));
}

const LLAMA: Json = {
  model_type: 'llama',
  vocab_size: 128256,
  hidden_size: 4096,
  intermediate_size: 14336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  rope_scaling: {
    rope_type: 'llama3',
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  },
  max_position_embeddings: 131072,
  tie_word_embeddings: false,
  bos_token_id: 128000,
  eos_token_id: [128001, 128008, 128009],
};

/** To two decimals. */
const PHI_SHORT = `1 1.02 1.03 1.03 1.05 1.05 1.05 1.05 1.05 1.07 1.1 1.11 1.16 1.16 1.17 1.29 1.34 1.68 1.79 1.82
  1.85 1.88 1.91 1.94 1.99 2.02 2.02 2.02 2.02 2.02 2.02 2.03 2.03 2.03 2.03 2.03 2.03 2.03 2.03 2.03 2.08 2.09
  2.19 2.22 2.59 2.73 2.75 2.84`;
const PHI_LONG = `1.08 1.11 1.14 1.34 1.59 1.6 1.62 2.62 3.23 3.23 4.79 7.4 7.7 9.09 12.2 17.67 24.46 28.57 30.42
  30.84 32.59 32.93 42.32 44.96 50.34 50.45 57.55 57.93 58.21 60.14 62.61 62.62 62.71 63.14 63.14 63.77 63.93
  63.96 63.97 64.03 64.07 64.08 64.12 64.41 64.48 64.51 64.53 64.84`;

const PHI: Json = {
  model_type: 'phi3',
  vocab_size: 32064,
  hidden_size: 3072,
  intermediate_size: 8192,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 32,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  rope_scaling: { type: 'longrope', short_factor: numbers(PHI_SHORT), long_factor: numbers(PHI_LONG) },
  max_position_embeddings: 131072,
  original_max_position_embeddings: 4096,
  tie_word_embeddings: false,
  bos_token_id: 1,
  eos_token_id: 32000,
  pad_token_id: 32000,
};

function numbers(text: string): readonly number[] {
  return text.split(/\s+/).map(Number);
}

const DECODERS: Readonly<Record<string, readonly [json: Json, rows: number]>> = {
  'llama3.1-8b': [LLAMA, 128258],
  'phi3.5-3b': [PHI, 32064],
};
const FAMILIES: Readonly<Record<string, readonly [tower: string, keys: Json]>> = {
  fusion: ['google/siglip-so400m-patch14-384', {}],
  'fusion-x': ['google/siglip2-giant-opt-patch16-384', {}],
  'fusion-l': ['google/siglip2-giant-opt-patch16-384', { image_tokens_side: 16 }],
};

/** The names `variantJson` knows. */
export const VARIANTS: readonly string[] = Object.keys(FAMILIES).flatMap((family) =>
  Object.keys(DECODERS).map((decoder) => `${family}-${decoder}`),
);

/** The configuration of a released variant, as `fusion-x-phi3.5-3b`. Throws `UserError` for another name. */
export function variantJson(name: string): Json {
  const decoderName = Object.keys(DECODERS).find((decoder) => name.endsWith(`-${decoder}`)) ?? '';
  const [decoder, rows] = DECODERS[decoderName] ?? [];
  const [tower, keys] = FAMILIES[name.slice(0, -decoderName.length - 1)] ?? [];
  if (decoder === undefined || rows === undefined || tower === undefined || keys === undefined) {
    throw new UserError(`variant: expected one of ${VARIANTS.join(', ')}, got ${name}`);
  }
  const json = fusionJson(decoder, {}, tower, rows, keys);
  // The towers' names say their sizes, as in the released files.
  return Object.fromEntries(Object.entries(json).filter(([key]) => key !== 'vision_config'));
}
