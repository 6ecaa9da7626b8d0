/**
 * The keys of a training configuration as zod schemas, each message completing "expected …".
 *
 * Knows nothing of files, defaults shared by stages, or what the keys do.
 */
import { z } from 'zod';

/** A `[pattern, learning rate]` pair; the pattern is a regular expression searched for in tensor names. */
export type RateRule = readonly [pattern: string, rate: number];

const integer = (min: number, max = 2 ** 31 - 1) => {
  const error = `an integer from ${min} to ${max}`;
  return z.int({ error }).min(min, { error }).max(max, { error });
};
const between = (min: number, max: number) => {
  const error = `a number from ${min} to ${max}`;
  return z.number({ error }).min(min, { error }).max(max, { error });
};
const positive = (error = 'a finite number above 0') => z.number({ error }).positive({ error });
const text = (error = 'a text that is not empty') => z.string({ error }).min(1, { error });
const flag = z.boolean({ error: 'true or false' });
const choice = <const T extends readonly string[]>(values: T) =>
  z.enum(values, { error: values.join(' or ') });
const list = <T extends z.ZodType>(item: T, error: string) => z.array(item, { error });
const readonlyList = <T extends z.ZodType>(item: T, error: string) =>
  list(item, error).min(1, { error }).readonly();

const pattern = text('a regular expression on tensor names').refine(isPattern, {
  error: 'a regular expression on tensor names',
});

function isPattern(source: string): boolean {
  try {
    return new RegExp(source, 'u') !== undefined;
  } catch {
    return false;
  }
}

const rule = z.tuple([pattern, between(0, 1)], { error: 'a pair [pattern, learning rate]' }).readonly();

const isSquare = (n: number) => Number.isInteger(Math.sqrt(n));
const SQUARE = 'a perfect square from 1 to 4096 (1, 4, 16, 36, …)';
const square = z
  .int({ error: SQUARE })
  .min(1, { error: SQUARE })
  .max(4096, { error: SQUARE })
  .refine(isSquare, { error: SQUARE });

const weights = z.record(text(), positive('a weight above 0'), {
  error: 'names of categories, or name: weight',
});
const categories = z.union([readonlyList(text('the name of a category'), 'a list of categories'), weights], {
  error: 'a list of categories, or category: weight',
});

/** Synthetic data: categories, samples, seed, side of the pictures, and how hard its scenes are. */
const recipeSchema = z.strictObject(
  {
    categories,
    count: integer(1),
    seed: integer(0).optional(),
    size: integer(16, 4096).optional(),
    min_objects: integer(1, 5).optional(),
    max_objects: integer(1, 5).optional(),
    shapes: integer(2, 8).optional(),
    colours: integer(2, 8).optional(),
    words: flag.optional(),
    textures: flag.optional(),
    overlaps: flag.optional(),
    extra_turns: integer(0, 8).optional(),
    single: flag.optional(),
    kinds: z.record(text(), integer(1, 100), { error: 'kind: how many times as often' }).optional(),
  },
  { error: 'a recipe' },
);

/** One recipe, or a curriculum: the samples of each in turn. */
const synthSchema = z.union([recipeSchema, readonlyList(recipeSchema, 'a list of recipes')], {
  error: 'a recipe, or a list of them',
});

export type RawRecipe = z.infer<typeof recipeSchema>;

const dataSchema = z.union(
  [text(), z.strictObject({ synth: synthSchema }, { error: 'a path, or synth: and a recipe' })],
  { error: "the path of a data set's YAML, or synth: and a recipe" },
);

/** PEFT's three numbers, and which tensors get adapters. */
export const loraSchema = z.strictObject(
  {
    rank: integer(1, 4096).default(64),
    alpha: positive().default(16),
    dropout: between(0, 0.99).default(0.05),
    targets: readonlyList(pattern, 'a list of patterns').default([
      String.raw`^model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight$`,
    ]),
  },
  { error: 'rank, alpha, dropout, targets' },
);

/** `stage` is often written as a number, `1.5`. */
const label = z
  .union([text(), z.number()], { error: "the stage's label, such as 1.5" })
  .transform((value) => String(value));

/** Every key of a stage. Those without a default and not optional must be given. */
export const stageSchema = z.strictObject(
  {
    name: text(),
    stage: label,
    data: dataSchema,
    learning_rates: readonlyList(rule, 'a list of pairs [pattern, learning rate]'),
    mode: choice(['full', 'adapters', 'frozen_tower', 'frozen_decoder', 'lora']).default('full'),
    freeze: list(pattern, 'a list of patterns').readonly().default([]),
    lora: loraSchema.optional(),
    batch_size: integer(1, 65536),
    accumulation: integer(1, 65536).default(1),
    max_length: integer(8),
    query_lens: readonlyList(square, 'a list of latents per question').optional(),
    epochs: positive().optional(),
    max_steps: integer(1).optional(),
    schedule: choice(['cosine', 'constant']).default('cosine'),
    warmup_ratio: between(0, 1).default(0.03),
    weight_decay: between(0, 1).default(0),
    clip_norm: between(0, 1e9).default(1),
    mapping_loss_weight: between(0, 1e6).default(0.1),
    precision: z.literal('f32', { error: 'f32 (nothing else is supported yet)' }).default('f32'),
    recompute: flag.default(false),
    seed: integer(0).default(42),
    save_every: integer(1).default(500),
    save_total_limit: integer(1).optional(),
    log_every: integer(1).default(10),
    group_by_modality_length: flag.default(false),
    skip_limit: between(0, 1).default(0.01),
  },
  { error: 'the keys of a stage' },
);

export type RawStage = z.infer<typeof stageSchema>;

/** The keys that may stand beside the key at `path` of a configuration file. */
export function knownKeys(path: readonly PropertyKey[]): readonly string[] {
  const inner = path[0] === 'stages' && path.length > 2 ? path.slice(2) : path;
  if (inner.length > 1 && inner[0] === 'lora') return Object.keys(loraSchema.shape);
  if (inner.length > 1 && inner[0] === 'data')
    return inner.length > 2 ? Object.keys(recipeSchema.shape) : ['synth'];
  const keys = Object.keys(stageSchema.shape);
  return inner === path ? [...keys, 'stages'] : keys;
}
