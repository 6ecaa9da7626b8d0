/**
 * The one table of tensor names and shapes: what a configuration says a checkpoint holds, whether it does, which
 * part of the model a tensor belongs to, and what the base models call it.
 *
 * Knows nothing of bytes or of computing. Source: the released checkpoints' tensor names.
 */
import { UserError } from '../common/errors.ts';
import type { DecoderConfig, FusionConfig, VisionConfig } from './config.ts';

export type Shape = readonly number[];

/** What `inspect` groups tensors by. */
export type Part =
  | 'vision_tower'
  | 'mm_projector'
  | 'aux_projector'
  | 'interaction'
  | 'decoder'
  | 'embeddings'
  | 'lm_head';

/** What `validateTensors` needs of a checkpoint. */
export type TensorTable = {
  readonly dir: string;
  readonly tensors: ReadonlyMap<string, { readonly dtype: string; readonly shape: Shape }>;
};

type Rows = readonly (readonly [name: string, shape: Shape])[];

const TOWER = 'model.vision_tower.vision_tower.';
const VISION = `${TOWER}vision_model.`;

/** Name → shape of every tensor a checkpoint of `config` must hold, embeddings first, in the model's order. */
export function expectedTensors(config: FusionConfig): Map<string, Shape> {
  const { decoder: d, vision: v, interaction } = config;
  const times = (count: number, rows: (i: number) => Rows) =>
    Array.from({ length: count }, (_, i) => rows(i)).flat();
  return new Map([
    ['model.embed_tokens.weight', [d.vocabSize, d.hiddenSize]],
    ...visionEmbeddings(v),
    ...times(v.layers, (i) => visionLayer(`${VISION}encoder.layers.${i}.`, v)),
    ...projector('model.mm_projector', 3 * v.hiddenSize, d.hiddenSize, config),
    ...projector('model.aux_projector', d.hiddenSize, v.hiddenSize, config),
    ...times(interaction.layers, (j) => interactionLayer(`model.vision_sampler_layers.${j}.layers.0.`, d)),
    ...times(d.layers, (i) => decoderLayer(`model.layers.${i}.`, d)),
    ['model.norm.weight', [d.hiddenSize]],
    ...(d.tiedEmbeddings ? [] : [['lm_head.weight', [d.vocabSize, d.hiddenSize]] as const]),
  ]);
}

/** Name → shape of tensors a checkpoint may hold though nothing uses them. */
export function optionalTensors(config: FusionConfig): Map<string, Shape> {
  return new Map(norm(`${VISION}post_layernorm`, config.vision.hiddenSize));
}

function visionEmbeddings(v: VisionConfig): Rows {
  return [
    [`${VISION}embeddings.patch_embedding.weight`, [v.hiddenSize, 3, v.patchSize, v.patchSize]],
    [`${VISION}embeddings.patch_embedding.bias`, [v.hiddenSize]],
    [`${VISION}embeddings.position_embedding.weight`, [v.patches, v.hiddenSize]],
  ];
}

function visionLayer(prefix: string, { hiddenSize, intermediateSize }: VisionConfig): Rows {
  return [
    ...norm(`${prefix}layer_norm1`, hiddenSize),
    ...['q_proj', 'k_proj', 'v_proj', 'out_proj'].flatMap((name) =>
      linear(`${prefix}self_attn.${name}`, hiddenSize, hiddenSize),
    ),
    ...norm(`${prefix}layer_norm2`, hiddenSize),
    ...linear(`${prefix}mlp.fc1`, hiddenSize, intermediateSize),
    ...linear(`${prefix}mlp.fc2`, intermediateSize, hiddenSize),
  ];
}

/** `linear` is a bare Linear without a number in its name; GELUs take the odd numbers of `mlpNx_gelu`. */
function projector(name: string, width: number, out: number, { projectorType }: FusionConfig): Rows {
  if (projectorType.kind === 'linear') return linear(name, width, out);
  return Array.from({ length: projectorType.depth }, (_, i) =>
    linear(`${name}.${2 * i}`, i === 0 ? width : out, out),
  ).flat();
}

function interactionLayer(prefix: string, { hiddenSize: D }: DecoderConfig): Rows {
  const square = [D, D];
  return [
    [`${prefix}proj_in.weight`, [D, 2 * D]],
    [`${prefix}proj_context.weight`, square],
    ...['q_proj', 'k_proj', 'v_proj'].flatMap(
      (name): Rows => [
        ...norm(`${prefix}cross_attn.${name}.0`, D),
        [`${prefix}cross_attn.${name}.1.weight`, square],
      ],
    ),
    [`${prefix}cross_attn.o_proj.weight`, square],
    ...norm(`${prefix}norm`, D),
    [`${prefix}proj_out.linear_1.weight`, square],
    [`${prefix}proj_out.linear_2.weight`, square],
  ];
}

function decoderLayer(prefix: string, d: DecoderConfig): Rows {
  return [
    [`${prefix}input_layernorm.weight`, [d.hiddenSize]],
    ...(d.kind === 'phi3' ? phi3Projections(prefix, d) : llamaProjections(prefix, d)),
    [`${prefix}self_attn.o_proj.weight`, [d.hiddenSize, d.heads * d.headSize]],
    [`${prefix}post_attention_layernorm.weight`, [d.hiddenSize]],
    [`${prefix}mlp.down_proj.weight`, [d.hiddenSize, d.intermediateSize]],
  ];
}

function llamaProjections(prefix: string, d: DecoderConfig): Rows {
  return [
    [`${prefix}self_attn.q_proj.weight`, [d.heads * d.headSize, d.hiddenSize]],
    [`${prefix}self_attn.k_proj.weight`, [d.kvHeads * d.headSize, d.hiddenSize]],
    [`${prefix}self_attn.v_proj.weight`, [d.kvHeads * d.headSize, d.hiddenSize]],
    [`${prefix}mlp.gate_proj.weight`, [d.intermediateSize, d.hiddenSize]],
    [`${prefix}mlp.up_proj.weight`, [d.intermediateSize, d.hiddenSize]],
  ];
}

/** Rows of `qkv_proj`: queries, keys, values; of `gate_up_proj`: gate, up. */
function phi3Projections(prefix: string, d: DecoderConfig): Rows {
  return [
    [`${prefix}self_attn.qkv_proj.weight`, [(d.heads + 2 * d.kvHeads) * d.headSize, d.hiddenSize]],
    [`${prefix}mlp.gate_up_proj.weight`, [2 * d.intermediateSize, d.hiddenSize]],
  ];
}

function linear(name: string, width: number, out: number): Rows {
  return [
    [`${name}.weight`, [out, width]],
    [`${name}.bias`, [out]],
  ];
}

function norm(name: string, width: number): Rows {
  return [
    [`${name}.weight`, [width]],
    [`${name}.bias`, [width]],
  ];
}

/**
 * Throws `UserError` unless `checkpoint` holds exactly the tensors of `config`, each of its shape and F32, F16 or
 * BF16; the unused `post_layernorm` may be there. One line names the first of each kind of fault and their count.
 */
export function validateTensors(config: FusionConfig, checkpoint: TensorTable): void {
  const required = expectedTensors(config);
  const known = new Map([...required, ...optionalTensors(config)]);
  const { tensors } = checkpoint;
  const missing = [...required].filter(([name]) => !tensors.has(name));
  const extra = [...tensors.keys()].filter((name) => !known.has(name));
  if (extra.some((name) => ROUNDED.test(name))) {
    throw new UserError(
      `${checkpoint.dir}: expected a checkpoint as it was trained, got a converted one; take the original`,
    );
  }
  const reshaped: string[] = [];
  const retyped: string[] = [];
  for (const [name, { dtype, shape }] of tensors) {
    const expected = known.get(name);
    if (expected === undefined) continue;
    const same = expected.length === shape.length && expected.every((dim, i) => dim === shape[i]);
    if (!same) reshaped.push(`${name} expected ${showShape(expected)}, got ${showShape(shape)}`);
    if (!WEIGHT_DTYPES.has(dtype)) retyped.push(`${name} expected F32, F16 or BF16, got ${dtype}`);
  }
  const faults = [
    group(
      'missing',
      missing.map(([name, shape]) => `${name} ${showShape(shape)}`),
    ),
    group('not of this model', extra),
    group('of another shape', reshaped),
    group('of another dtype', retyped),
  ].filter((fault) => fault !== '');
  if (faults.length === 0) return;
  throw new UserError(
    `${checkpoint.dir}: expected the ${required.size} tensors config.json describes, got ${tensors.size}: ${faults.join('; ')}`,
  );
}

/** What "fusion convert" calls a weight of few bits. */
const ROUNDED = /\.weight\.q[48]$/;

const WEIGHT_DTYPES: ReadonlySet<string> = new Set(['F32', 'F16', 'BF16']);

function group(title: string, items: readonly string[]): string {
  if (items.length === 0) return '';
  const rest = items.length > 3 ? `, …` : '';
  return `${items.length} ${title} (${items.slice(0, 3).join(', ')}${rest})`;
}

function showShape(shape: Shape): string {
  return `[${shape.join(', ')}]`;
}

const PART_PREFIXES: readonly (readonly [prefix: string, part: Part])[] = [
  ['model.embed_tokens.', 'embeddings'],
  ['model.vision_tower.', 'vision_tower'],
  ['model.mm_projector.', 'mm_projector'],
  ['model.aux_projector.', 'aux_projector'],
  ['model.vision_sampler_layers.', 'interaction'],
  ['model.layers.', 'decoder'],
  ['model.norm.', 'decoder'],
  ['lm_head.', 'lm_head'],
];

/** The part of the model tensor `name` belongs to, or undefined for a name that is none of the model's. */
export function partOf(name: string): Part | undefined {
  return PART_PREFIXES.find(([prefix]) => name.startsWith(prefix))?.[1];
}

/**
 * FUSION's name of a SigLIP checkpoint's tensor, or undefined for what FUSION leaves out: layers from `keptLayers`
 * on, the pooling head, the text model, the loss's scale. Decoder tensors keep their names and need no mapping.
 */
export function fromSiglipName(name: string, keptLayers: number): string | undefined {
  const kept = /^vision_model\.(embeddings|encoder|post_layernorm)\./.test(name);
  const layer = /^vision_model\.encoder\.layers\.(\d+)\./.exec(name)?.[1];
  return kept && Number(layer ?? 0) < keptLayers ? `${TOWER}${name}` : undefined;
}

/** The SigLIP checkpoint's name of a FUSION tensor, or undefined for one outside the vision tower. */
export function toSiglipName(name: string): string | undefined {
  return name.startsWith(VISION) ? name.slice(TOWER.length) : undefined;
}
