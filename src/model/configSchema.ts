/**
 * The keys of a released `config.json` that this project reads, as zod schemas, and the one place where a
 * failed check becomes an error: `where: key: expected …, got …`.
 *
 * Knows nothing of what the keys mean together; `config.ts` does. Unknown keys pass: Hugging Face writes many.
 * Source of the keys: the released FUSION checkpoints and transformers' Llama, Phi-3 and SigLIP configurations.
 */
import { z } from 'zod';
import { UserError } from '../common/errors.ts';

/** The largest single size a config may name; larger ones are typing errors, not models. */
const MAX_WIDTH = 2 ** 20;
const MAX_LAYERS = 1024;
const MAX_POSITIONS = 2 ** 31;

const int = (min: number, max: number) => {
  const error = `an integer from ${min} to ${max}`;
  return z.int({ error }).min(min, { error }).max(max, { error });
};

const positive = () => {
  const error = 'a finite number above 0';
  return z.number({ error }).positive({ error });
};

const width = int(1, MAX_WIDTH);
const positions = int(1, MAX_POSITIONS);
const tokenId = int(0, MAX_POSITIONS);
const text = z.string({ error: 'a string' }).min(1, { error: 'a string that is not empty' });
const flag = z.boolean({ error: 'true or false' });
const only = <const T extends string | number | boolean>(value: T) =>
  z.literal(value, { error: `${JSON.stringify(value)} (nothing else is supported)` });
const oneOf = <const T extends readonly string[]>(values: T) =>
  z.enum(values, { error: values.map((value) => JSON.stringify(value)).join(' or ') });

/** `vision_config`, where present; keys it lacks come from the tower's name. */
export const visionSchema = z.object(
  {
    hidden_size: width.nullish(),
    intermediate_size: width.nullish(),
    num_attention_heads: width.nullish(),
    num_hidden_layers: int(3, MAX_LAYERS).nullish(),
    image_size: int(1, 2 ** 14).nullish(),
    patch_size: int(1, 2 ** 14).nullish(),
    layer_norm_eps: positive().nullish(),
    num_channels: only(3).nullish(),
    hidden_act: only('gelu_pytorch_tanh').nullish(),
  },
  { error: 'an object' },
);

/** `rope_scaling` before its kind is known; both `rope_type` and `type` occur. */
export const ropeKindSchema = z.looseObject(
  { rope_type: text.nullish(), type: text.nullish() },
  { error: 'an object or null' },
);

export const llama3RopeSchema = z.object({
  factor: positive(),
  low_freq_factor: positive(),
  high_freq_factor: positive(),
  original_max_position_embeddings: positions,
});

const factors = z.array(positive(), { error: 'an array of numbers' });

export const longRopeSchema = z.object({
  short_factor: factors,
  long_factor: factors,
  original_max_position_embeddings: int(2, MAX_POSITIONS).nullish(),
  attention_factor: positive().nullish(),
});

/** The usual `attention_factor`: `√(1 + ln(max/original) / ln original)`, by which cos and sin are multiplied. */
export function longRopeFactor(maxPositions: number, original: number): number {
  return Math.sqrt(1 + Math.log(maxPositions / original) / Math.log(original));
}

/** All keys read from a FUSION checkpoint's `config.json`. */
export const configSchema = z.object(
  {
    model_type: oneOf(['fusion_llama', 'fusion_phi']),
    vocab_size: int(1, 2 ** 24),
    hidden_size: width,
    intermediate_size: width,
    num_hidden_layers: int(1, MAX_LAYERS),
    num_attention_heads: width,
    num_key_value_heads: width.nullish(),
    head_dim: width.nullish(),
    rms_norm_eps: positive(),
    rope_theta: positive(),
    rope_scaling: z.unknown().optional(),
    max_position_embeddings: positions,
    original_max_position_embeddings: int(2, MAX_POSITIONS).nullish(),
    sliding_window: positions.nullish(),
    partial_rotary_factor: only(1).nullish(),
    hidden_act: only('silu').nullish(),
    attention_bias: only(false).nullish(),
    mlp_bias: only(false).nullish(),
    tie_word_embeddings: flag.nullish(),
    mm_vision_tower: text,
    vision_config: visionSchema.nullish(),
    mm_hidden_size: width.nullish(),
    mm_projector_type: text.nullish(),
    mm_vision_select_layer: only(-2).nullish(),
    image_aspect_ratio: only('static_hd').nullish(),
    query_len: z.union([z.string(), z.number()], { error: 'a list such as "4,16,36" or a number' }),
    window_size: int(1, 64),
    num_of_vision_sampler_layers: int(0, MAX_LAYERS),
    start_of_vision_sampler_layers: int(0, MAX_LAYERS),
    stride_of_vision_sampler_layers: int(1, MAX_LAYERS),
    tokenizer_model_max_length: positions.nullish(),
    bos_token_id: tokenId.nullish(),
    eos_token_id: z.union([tokenId, z.array(tokenId)], { error: 'a token id or an array of them' }).nullish(),
    pad_token_id: tokenId.nullish(),
    image_tokens_side: int(1, 2 ** 14).nullish(),
    early_text_rows: oneOf(['uniform', 'masked']).nullish(),
    text_guided: flag.nullish(),
    mapping_loss_weight: z
      .number({ error: 'a number, 0 or above' })
      .min(0, { error: 'a number, 0 or above' })
      .nullish(),
    conversation_format: text.nullish(),
  },
  { error: 'a JSON object' },
);

export type RawConfig = z.infer<typeof configSchema>;

/** The error for one key: `where: key: expected E, got G`. */
export function wrongKey(where: string, key: string, expected: string, got: unknown): UserError {
  return new UserError(`${where}: ${key === '' ? '' : `${key}: `}expected ${expected}, got ${show(got)}`);
}

/** `value` checked by `schema`, or a `UserError` naming the first wrong key below `prefix`. */
export function parseAt<S extends z.ZodType>(
  schema: S,
  value: unknown,
  where: string,
  prefix = '',
): z.infer<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const path = issue?.path ?? [];
  const got = path.reduce<unknown>((at, key) => Object(at)[key], value);
  const key = [prefix, ...path.map(String)].filter((part) => part !== '').join('.');
  throw wrongKey(where, key, issue?.message ?? 'a valid value', got);
}

function show(value: unknown): string {
  if (value === undefined) return 'nothing';
  const json = JSON.stringify(value) ?? String(value);
  return json.length > 80 ? `${json.slice(0, 77)}...` : json;
}
