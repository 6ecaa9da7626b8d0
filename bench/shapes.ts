/**
 * The three sizes at which speed is compared: `tiny` (64 px crops, the embedded model's size), `mid` (224 px)
 * and `real-layers` (the released widths at 384 px with few layers). Random weights: for speed and memory only.
 */
import { type FusionConfig, parseFusionConfig } from '../src/model/config.ts';

export interface BenchShape {
  readonly config: FusionConfig;
  readonly batch: number;
  readonly queryLength: number;
  /** Text tokens after the image. */
  readonly text: number;
}

const LLAMA = {
  model_type: 'fusion_llama',
  rope_theta: 10000,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
};
const COMMON = {
  mm_vision_tower: 'bench',
  mm_projector_type: 'mlp2x_gelu',
  window_size: 3,
  start_of_vision_sampler_layers: 0,
  tokenizer_model_max_length: 4096,
  tie_word_embeddings: false,
};

const FACTORS = Array.from({ length: 48 }, () => 1);

const CONFIGS = {
  tiny: {
    batch: 16,
    queryLength: 16,
    text: 60,
    config: {
      ...LLAMA,
      ...COMMON,
      vocab_size: 1024,
      hidden_size: 192,
      intermediate_size: 512,
      num_hidden_layers: 6,
      num_attention_heads: 6,
      num_key_value_heads: 2,
      query_len: '16',
      num_of_vision_sampler_layers: 3,
      stride_of_vision_sampler_layers: 2,
      vision_config: tower(128, 512, 4, 7, 64, 8),
    },
  },
  mid: {
    batch: 2,
    queryLength: 16,
    text: 100,
    config: {
      ...LLAMA,
      ...COMMON,
      vocab_size: 8192,
      hidden_size: 512,
      intermediate_size: 1536,
      num_hidden_layers: 8,
      num_attention_heads: 8,
      num_key_value_heads: 4,
      query_len: '16',
      num_of_vision_sampler_layers: 4,
      stride_of_vision_sampler_layers: 2,
      vision_config: tower(384, 1536, 6, 13, 224, 16),
    },
  },
  'real-layers': {
    batch: 1,
    queryLength: 36,
    text: 100,
    config: {
      ...LLAMA,
      ...COMMON,
      model_type: 'fusion_phi',
      vocab_size: 32064,
      hidden_size: 3072,
      intermediate_size: 8192,
      num_hidden_layers: 2,
      num_attention_heads: 32,
      num_key_value_heads: 32,
      query_len: '36',
      num_of_vision_sampler_layers: 1,
      stride_of_vision_sampler_layers: 3,
      original_max_position_embeddings: 4096,
      rope_scaling: { type: 'longrope', short_factor: FACTORS, long_factor: FACTORS },
      vision_config: tower(1152, 4304, 16, 5, 384, 14),
    },
  },
} as const;

function tower(hidden: number, inner: number, heads: number, layers: number, image: number, patch: number) {
  return {
    hidden_size: hidden,
    intermediate_size: inner,
    num_attention_heads: heads,
    num_hidden_layers: layers,
    image_size: image,
    patch_size: patch,
    layer_norm_eps: 1e-6,
  };
}

export type ShapeName = keyof typeof CONFIGS;

export const SHAPE_NAMES = Object.keys(CONFIGS) as readonly ShapeName[];

export function benchShape(name: ShapeName): BenchShape {
  const { config, ...sizes } = CONFIGS[name];
  return { ...sizes, config: parseFusionConfig(config, `bench ${name}`) };
}
