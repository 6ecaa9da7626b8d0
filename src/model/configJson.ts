/**
 * A configuration written back as a released `config.json`, and its name for people.
 *
 * Knows nothing of reading; `parseFusionConfig(toConfigJson(c))` equals `c`.
 * Source: the keys of the released configurations and the variants of the model cards.
 */
import type { FusionConfig, RopeConfig, VisionConfig } from './config.ts';
import { longRopeFactor } from './configSchema.ts';
import { towerSizes } from './visionTowers.ts';

/**
 * The released keys of `config`, ready for `JSON.stringify`. `vision_config` is written only where the tower's
 * name does not say its sizes, as in the released files; keys of this project's own only where not the default.
 */
export function toConfigJson(config: FusionConfig): Record<string, unknown> {
  const { vision, decoder, interaction, projectorType } = config;
  const phi = decoder.kind === 'phi3';
  return withoutUndefined({
    architectures: [phi ? 'FusionPhiForCausalLM' : 'FusionLlamaForCausalLM'],
    model_type: config.modelType,
    vocab_size: decoder.vocabSize,
    hidden_size: decoder.hiddenSize,
    intermediate_size: decoder.intermediateSize,
    num_hidden_layers: decoder.layers,
    num_attention_heads: decoder.heads,
    num_key_value_heads: decoder.kvHeads,
    rms_norm_eps: decoder.rmsNormEps,
    rope_theta: decoder.rope.theta,
    ...ropeJson(decoder.rope, decoder.maxPositions),
    max_position_embeddings: decoder.maxPositions,
    hidden_act: 'silu',
    tie_word_embeddings: decoder.tiedEmbeddings,
    mm_vision_tower: vision.tower,
    vision_config: sameAsNamed(vision) ? undefined : visionJson(vision),
    mm_projector_type: projectorType.kind === 'linear' ? 'linear' : `mlp${projectorType.depth}x_gelu`,
    mm_hidden_size: vision.hiddenSize,
    mm_vision_select_layer: -2,
    mm_use_im_start_end: true,
    mm_use_im_patch_token: false,
    query_len: config.queryLens.join(','),
    window_size: interaction.window,
    num_of_vision_sampler_layers: interaction.layers,
    start_of_vision_sampler_layers: interaction.start,
    stride_of_vision_sampler_layers: interaction.stride,
    image_aspect_ratio: 'static_hd',
    tokenizer_model_max_length: config.maxLength,
    tokenizer_padding_side: 'right',
    bos_token_id: config.bosId,
    eos_token_id: config.eosIds.length === 1 ? config.eosIds[0] : config.eosIds,
    pad_token_id: config.padId,
    image_tokens_side: config.imageTokensSide,
    early_text_rows: config.earlyTextRows === 'uniform' ? undefined : config.earlyTextRows,
    text_guided: config.textGuided ? undefined : false,
    mapping_loss_weight: config.mappingLossWeight === 0.1 ? undefined : config.mappingLossWeight,
    conversation_format: config.conversationFormat,
  });
}

function ropeJson(rope: RopeConfig, maxPositions: number): Record<string, unknown> {
  if (rope.kind === 'default') return { rope_scaling: null };
  if (rope.kind === 'llama3') {
    return {
      rope_scaling: {
        rope_type: 'llama3',
        factor: rope.factor,
        low_freq_factor: rope.lowFreqFactor,
        high_freq_factor: rope.highFreqFactor,
        original_max_position_embeddings: rope.originalMaxPositions,
      },
    };
  }
  const usual = longRopeFactor(maxPositions, rope.originalMaxPositions);
  return {
    // Phi-3's own code accepts exactly three keys here, so the factor is written only where it is unusual.
    rope_scaling: withoutUndefined({
      type: 'longrope',
      short_factor: rope.shortFactor,
      long_factor: rope.longFactor,
      attention_factor: rope.attentionFactor === usual ? undefined : rope.attentionFactor,
    }),
    original_max_position_embeddings: rope.originalMaxPositions,
  };
}

function visionJson(vision: VisionConfig): Record<string, unknown> {
  return {
    hidden_size: vision.hiddenSize,
    intermediate_size: vision.intermediateSize,
    num_attention_heads: vision.heads,
    num_hidden_layers: vision.layers + 1,
    image_size: vision.imageSize,
    patch_size: vision.patchSize,
    layer_norm_eps: vision.layerNormEps,
    hidden_act: 'gelu_pytorch_tanh',
  };
}

function sameAsNamed(vision: VisionConfig): boolean {
  const named = towerSizes(vision.tower);
  const json = visionJson(vision);
  return named !== undefined && Object.entries(named).every(([key, value]) => json[key] === value);
}

function withoutUndefined(record: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined));
}

/** The released variant `config` has the sizes of, as `FUSION-X Phi3.5-3B`, or `FUSION (custom sizes)`. */
export function describeVariant(config: FusionConfig): string {
  const { vision: v, decoder: d } = config;
  const tower = [v.hiddenSize, v.intermediateSize, v.heads, v.layers + 1, v.patchSize, v.imageSize].join('/');
  const decoder = [d.kind, d.hiddenSize, d.intermediateSize, d.layers, d.heads, d.kvHeads].join('/');
  const family = TOWER_FAMILIES[tower];
  const decoderName = DECODER_NAMES[decoder];
  if (family === undefined || decoderName === undefined) return 'FUSION (custom sizes)';
  return `${config.imageTokensSide === undefined ? family : 'FUSION-L'} ${decoderName}`;
}

const TOWER_FAMILIES: Readonly<Record<string, string>> = {
  '1152/4304/16/27/14/384': 'FUSION',
  '1536/6144/16/40/16/384': 'FUSION-X',
};

const DECODER_NAMES: Readonly<Record<string, string>> = {
  'llama/4096/14336/32/32/8': 'LLaMA3.1-8B',
  'phi3/3072/8192/32/32/32': 'Phi3.5-3B',
};
