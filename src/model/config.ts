/**
 * A FUSION checkpoint's `config.json` as one typed record in the field's terms, checked once, here.
 *
 * Knows nothing of tensors or files other than `config.json`; `weights.ts` turns the sizes into tensor shapes.
 * Source: the released configurations and the sizes of the two SigLIP towers (paper, section 3).
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { messageOf, UserError } from '../common/errors.ts';
import {
  configSchema,
  llama3RopeSchema,
  longRopeFactor,
  longRopeSchema,
  parseAt,
  type RawConfig,
  ropeKindSchema,
  wrongKey,
} from './configSchema.ts';
import { KNOWN_TOWERS, type TowerSizes, towerSizes } from './visionTowers.ts';

export { describeVariant, toConfigJson } from './configJson.ts';

/** The vision tower's sizes; `layers` counts the kept ones, one fewer than were pretrained. */
export type VisionConfig = {
  /** The value of `mm_vision_tower`: a model id or a path. */
  readonly tower: string;
  /** S, pixels along a crop's side. */
  readonly imageSize: number;
  readonly patchSize: number;
  /** g = floor(S / patch), patches along a side. */
  readonly grid: number;
  /** P = g². */
  readonly patches: number;
  /** V. */
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly heads: number;
  readonly layers: number;
  readonly layerNormEps: number;
};

/** How rotary frequencies are scaled; `theta` is the base. */
export type RopeConfig =
  | { readonly kind: 'default'; readonly theta: number }
  | {
      readonly kind: 'llama3';
      readonly theta: number;
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    }
  | {
      readonly kind: 'longrope';
      readonly theta: number;
      /** One divisor for each of headSize / 2 frequencies, up to `originalMaxPositions` positions. */
      readonly shortFactor: readonly number[];
      /** The same, beyond. */
      readonly longFactor: readonly number[];
      readonly originalMaxPositions: number;
      /** What cos and sin are multiplied by: `√(1 + ln(max/orig) / ln orig)`. */
      readonly attentionFactor: number;
    };

/** The language model's sizes. `phi3` has fused `qkv_proj` and `gate_up_proj`. */
export type DecoderConfig = {
  readonly kind: 'llama' | 'phi3';
  readonly vocabSize: number;
  /** D. */
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  /** H. */
  readonly heads: number;
  /** K, a divisor of H. */
  readonly kvHeads: number;
  /** E = D / H. */
  readonly headSize: number;
  readonly rmsNormEps: number;
  readonly rope: RopeConfig;
  readonly maxPositions: number;
  readonly tiedEmbeddings: boolean;
};

/** Interaction layer j of `layers` runs after decoder layer `start + j·stride`; 0 layers switch it off. */
export type InteractionConfig = {
  readonly layers: number;
  readonly start: number;
  readonly stride: number;
  /** w, context cells along a window's side. */
  readonly window: number;
  readonly heads: 16;
};

export type FusionConfig = {
  readonly modelType: 'fusion_llama' | 'fusion_phi';
  readonly vision: VisionConfig;
  readonly decoder: DecoderConfig;
  /** `linear` is one bare Linear (depth 1); `mlp` is `mlpNx_gelu`, N Linears with GELU between. */
  readonly projectorType: { readonly kind: 'linear' | 'mlp'; readonly depth: number };
  readonly interaction: InteractionConfig;
  /** Latent tokens per question, perfect squares; training draws one for each batch. */
  readonly queryLens: readonly number[];
  /** 36, or the listed value nearest to it; no two squares are equally near. */
  readonly defaultQueryLen: number;
  /** FUSION-L: the image tokens are resized to this many a side. */
  readonly imageTokensSide?: number | undefined;
  /** Positions a sequence is cut to after expansion. */
  readonly maxLength: number;
  /** What text rows see in the first half of the vision tower; `uniform` is the released behaviour. */
  readonly earlyTextRows: 'uniform' | 'masked';
  /** Whether the whole crop is encoded together with the question. */
  readonly textGuided: boolean;
  readonly mappingLossWeight: number;
  readonly conversationFormat?: string | undefined;
  readonly bosId?: number | undefined;
  readonly eosIds: readonly number[];
  readonly padId?: number | undefined;
};

const INTERACTION_HEADS = 16;
const PREFERRED_QUERY_LEN = 36;
/** More weights than any model has; a config beyond is a mistake that would exhaust memory. */
const MAX_WEIGHTS = 1e12;

/**
 * The configuration in `dir/config.json`. Throws `UserError` where the file is missing, is not JSON, or names
 * an impossible or unsupported model.
 */
export async function readFusionConfig(dir: string): Promise<FusionConfig> {
  const where = path.join(dir, 'config.json');
  const text = await readFile(where, 'utf8').catch((error: unknown) => {
    throw new UserError(`${where}: expected a FUSION checkpoint's config.json, got ${messageOf(error)}`);
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new UserError(`${where}: expected JSON, got ${messageOf(error)}`);
  }
  return parseFusionConfig(json, where);
}

/** A parsed `config.json` as a checked record; `where` names the file in errors. Throws `UserError`. */
export function parseFusionConfig(json: unknown, where: string): FusionConfig {
  const raw = parseAt(configSchema, json, where);
  const queryLens = parseQueryLens(raw.query_len, where);
  const vision = parseVision(raw, where);
  const decoder = parseDecoder(raw, where);
  const config: FusionConfig = {
    modelType: raw.model_type,
    vision,
    decoder,
    projectorType: parseProjectorType(raw.mm_projector_type ?? 'linear', where),
    interaction: parseInteraction(raw, decoder, where),
    queryLens,
    defaultQueryLen: nearest(queryLens, PREFERRED_QUERY_LEN),
    imageTokensSide: raw.image_tokens_side ?? undefined,
    maxLength: raw.tokenizer_model_max_length ?? decoder.maxPositions,
    earlyTextRows: raw.early_text_rows ?? 'uniform',
    textGuided: raw.text_guided ?? true,
    mappingLossWeight: raw.mapping_loss_weight ?? 0.1,
    conversationFormat: raw.conversation_format ?? undefined,
    bosId: raw.bos_token_id ?? undefined,
    eosIds: [raw.eos_token_id ?? []].flat(),
    padId: raw.pad_token_id ?? undefined,
  };
  checkTogether(raw, config, where);
  return config;
}

function parseVision(raw: RawConfig, where: string): VisionConfig {
  const sizes = visionSizes(raw, where);
  const { image_size: imageSize, patch_size: patchSize, hidden_size: hiddenSize } = sizes;
  if (patchSize > imageSize) {
    throw wrongKey(where, 'vision_config.patch_size', `at most image_size ${imageSize}`, patchSize);
  }
  const heads = sizes.num_attention_heads;
  if (hiddenSize % heads !== 0) {
    throw wrongKey(
      where,
      'vision_config.num_attention_heads',
      `a divisor of hidden_size ${hiddenSize}`,
      heads,
    );
  }
  const grid = Math.floor(imageSize / patchSize);
  return {
    tower: raw.mm_vision_tower,
    imageSize,
    patchSize,
    grid,
    patches: grid * grid,
    hiddenSize,
    intermediateSize: sizes.intermediate_size,
    heads,
    layers: sizes.num_hidden_layers - 1,
    layerNormEps: sizes.layer_norm_eps,
  };
}

/** `vision_config` where present, what it lacks from the tower's name. */
function visionSizes(raw: RawConfig, where: string): TowerSizes {
  const named = towerSizes(raw.mm_vision_tower);
  const given = raw.vision_config ?? undefined;
  if (given === undefined && named === undefined) {
    throw wrongKey(
      where,
      'mm_vision_tower',
      `${KNOWN_TOWERS.join(' or ')}, or a vision_config beside it`,
      raw.mm_vision_tower,
    );
  }
  const size = (key: keyof TowerSizes): number => {
    const found = given?.[key] ?? named?.[key];
    if (found === undefined) throw wrongKey(where, `vision_config.${key}`, 'an integer', undefined);
    return found;
  };
  return {
    hidden_size: size('hidden_size'),
    intermediate_size: size('intermediate_size'),
    num_attention_heads: size('num_attention_heads'),
    num_hidden_layers: size('num_hidden_layers'),
    image_size: size('image_size'),
    patch_size: size('patch_size'),
    layer_norm_eps: given?.layer_norm_eps ?? named?.layer_norm_eps ?? 1e-6,
  };
}

function parseDecoder(raw: RawConfig, where: string): DecoderConfig {
  const { hidden_size: hiddenSize, num_attention_heads: heads } = raw;
  if (hiddenSize % heads !== 0) {
    throw wrongKey(where, 'num_attention_heads', `a divisor of hidden_size ${hiddenSize}`, heads);
  }
  const kvHeads = raw.num_key_value_heads ?? heads;
  if (heads % kvHeads !== 0) {
    throw wrongKey(where, 'num_key_value_heads', `a divisor of num_attention_heads ${heads}`, kvHeads);
  }
  const headSize = hiddenSize / heads;
  if (headSize % 2 !== 0) {
    throw wrongKey(where, 'hidden_size', `an even number per attention head (${heads} heads)`, hiddenSize);
  }
  if ((raw.head_dim ?? headSize) !== headSize) {
    throw wrongKey(where, 'head_dim', `hidden_size / num_attention_heads = ${headSize}`, raw.head_dim);
  }
  return {
    kind: raw.model_type === 'fusion_phi' ? 'phi3' : 'llama',
    vocabSize: raw.vocab_size,
    hiddenSize,
    intermediateSize: raw.intermediate_size,
    layers: raw.num_hidden_layers,
    heads,
    kvHeads,
    headSize,
    rmsNormEps: raw.rms_norm_eps,
    rope: parseRope(raw, headSize, where),
    maxPositions: raw.max_position_embeddings,
    tiedEmbeddings: raw.tie_word_embeddings ?? false,
  };
}

function parseRope(raw: RawConfig, headSize: number, where: string): RopeConfig {
  const theta = raw.rope_theta;
  if (raw.rope_scaling === null || raw.rope_scaling === undefined) return { kind: 'default', theta };
  const scaling = parseAt(ropeKindSchema, raw.rope_scaling, where, 'rope_scaling');
  const kind = scaling.rope_type ?? scaling.type;
  if (kind === 'default') return { kind, theta };
  if (kind === 'llama3') {
    const llama3 = parseAt(llama3RopeSchema, scaling, where, 'rope_scaling');
    if (llama3.high_freq_factor <= llama3.low_freq_factor) {
      const expected = `more than low_freq_factor ${llama3.low_freq_factor}`;
      throw wrongKey(where, 'rope_scaling.high_freq_factor', expected, llama3.high_freq_factor);
    }
    return {
      kind,
      theta,
      factor: llama3.factor,
      lowFreqFactor: llama3.low_freq_factor,
      highFreqFactor: llama3.high_freq_factor,
      originalMaxPositions: llama3.original_max_position_embeddings,
    };
  }
  if (kind === 'longrope') return parseLongRope(raw, headSize, where);
  throw wrongKey(where, 'rope_scaling.rope_type', '"default", "llama3" or "longrope"', kind);
}

function parseLongRope(raw: RawConfig, headSize: number, where: string): RopeConfig {
  const long = parseAt(longRopeSchema, raw.rope_scaling, where, 'rope_scaling');
  for (const key of ['short_factor', 'long_factor'] as const) {
    if (long[key].length === headSize / 2) continue;
    throw wrongKey(where, `rope_scaling.${key}.length`, `headSize / 2 = ${headSize / 2}`, long[key].length);
  }
  const original = long.original_max_position_embeddings ?? raw.original_max_position_embeddings ?? undefined;
  if (original === undefined || original > raw.max_position_embeddings) {
    const expected = `an integer from 2 to max_position_embeddings ${raw.max_position_embeddings}`;
    throw wrongKey(where, 'original_max_position_embeddings', expected, original);
  }
  return {
    kind: 'longrope',
    theta: raw.rope_theta,
    shortFactor: long.short_factor,
    longFactor: long.long_factor,
    originalMaxPositions: original,
    attentionFactor: long.attention_factor ?? longRopeFactor(raw.max_position_embeddings, original),
  };
}

function parseProjectorType(type: string, where: string): FusionConfig['projectorType'] {
  if (type === 'linear') return { kind: 'linear', depth: 1 };
  const depth = Number(/^mlp(\d{1,2})x_gelu$/.exec(type)?.[1] ?? 0);
  if (depth < 1) throw wrongKey(where, 'mm_projector_type', '"linear" or "mlpNx_gelu", N from 1 to 99', type);
  return { kind: 'mlp', depth };
}

function parseInteraction(raw: RawConfig, decoder: DecoderConfig, where: string): InteractionConfig {
  const layers = raw.num_of_vision_sampler_layers;
  const start = raw.start_of_vision_sampler_layers;
  const stride = raw.stride_of_vision_sampler_layers;
  const last = start + (layers - 1) * stride;
  if (layers > 0 && last >= decoder.layers) {
    const expected = `a last interaction layer (start + (count - 1)·stride) at most ${decoder.layers - 1}`;
    throw wrongKey(where, 'num_of_vision_sampler_layers', expected, last);
  }
  if (layers > 0 && decoder.hiddenSize % INTERACTION_HEADS !== 0) {
    const expected = `a multiple of the ${INTERACTION_HEADS} interaction heads`;
    throw wrongKey(where, 'hidden_size', expected, decoder.hiddenSize);
  }
  return { layers, start, stride, window: raw.window_size, heads: INTERACTION_HEADS };
}

function parseQueryLens(value: string | number, where: string): readonly number[] {
  const lens = String(value)
    .split(',')
    .map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : Number.NaN));
  const isSquare = (n: number) => n >= 1 && n <= 2 ** 16 && Number.isInteger(Math.sqrt(n));
  if (lens.every(isSquare)) return lens;
  throw wrongKey(where, 'query_len', 'perfect squares from 1 to 65536, such as "4,16,36"', value);
}

function nearest(values: readonly number[], wanted: number): number {
  const sorted = values.toSorted((a, b) => Math.abs(a - wanted) - Math.abs(b - wanted));
  return sorted[0] ?? wanted;
}

function checkTogether(raw: RawConfig, config: FusionConfig, where: string): void {
  const { vision, decoder, imageTokensSide: side = 1 } = config;
  if ((raw.mm_hidden_size ?? vision.hiddenSize) !== vision.hiddenSize) {
    throw wrongKey(where, 'mm_hidden_size', `the tower's width ${vision.hiddenSize}`, raw.mm_hidden_size);
  }
  if (side > vision.grid) {
    throw wrongKey(where, 'image_tokens_side', `at most the ${vision.grid} patches of a side`, side);
  }
  const window = raw.sliding_window ?? undefined;
  if (decoder.kind === 'phi3' && window !== undefined && window < config.maxLength) {
    const expected = `at least tokenizer_model_max_length ${config.maxLength} (no sliding-window attention)`;
    throw wrongKey(where, 'sliding_window', expected, window);
  }
  const ids = { bos_token_id: config.bosId ?? 0, pad_token_id: config.padId ?? 0 };
  const eos = config.eosIds.map((id) => ['eos_token_id', id] as const);
  for (const [key, id] of [...Object.entries(ids), ...eos]) {
    if (id >= decoder.vocabSize) throw wrongKey(where, key, `below vocab_size ${decoder.vocabSize}`, id);
  }
  const weights = roughWeights(config);
  if (weights > MAX_WEIGHTS) {
    throw wrongKey(where, 'sizes together', `at most ${MAX_WEIGHTS} weights`, weights);
  }
}

/** The number of weights to within a few per cent, for refusing absurd sizes before anything is allocated. */
function roughWeights({ vision: v, decoder: d, interaction, projectorType }: FusionConfig): number {
  const tower = v.layers * (4 * v.hiddenSize ** 2 + 2 * v.hiddenSize * v.intermediateSize);
  const embeddings = v.hiddenSize * (v.patches + 3 * v.patchSize ** 2) + 2 * d.vocabSize * d.hiddenSize;
  const decoder = d.layers * (4 * d.hiddenSize ** 2 + 3 * d.hiddenSize * d.intermediateSize);
  const projectors = projectorType.depth * (d.hiddenSize ** 2 + v.hiddenSize ** 2);
  return tower + embeddings + decoder + projectors + interaction.layers * 9 * d.hiddenSize ** 2;
}
