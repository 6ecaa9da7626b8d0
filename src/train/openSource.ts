/**
 * From a stage's `data:` to its samples: the files of a data set, or recipes of synthetic ones. Knows the
 * configuration's keys, not how samples are made.
 */
import path from 'node:path';
import { UserError } from '../common/errors.ts';
import { formatFor, formatNamed } from '../data/conversation.ts';
import { CATEGORIES, type Category, type SynthOptions } from '../data/synth/index.ts';
import { loadTokenizer } from '../data/tokenizer.ts';
import type { FusionConfig } from '../model/config.ts';
import { type RawRecipe, recipesOf, type StageConfig } from './config.ts';
import { openDatasetSource } from './datasetSource.ts';
import { type Encoder, type SampleSource, type SynthRecipe, SynthSource } from './source.ts';

/** What encodes samples for the model whose tokenizer is in `folder`. */
export async function openEncoder(config: FusionConfig, folder: string): Promise<Encoder> {
  const { conversationFormat: name, modelType } = config;
  const format = name === undefined ? formatFor(modelType) : formatNamed(name);
  return { tokenizer: await loadTokenizer(folder), format, config };
}

/** The samples a stage is trained on. out: the folder for `skipped.jsonl` and the indexes of data files. */
export async function openSource(stage: StageConfig, encoder: Encoder, out: string): Promise<SampleSource> {
  if (typeof stage.data === 'string') {
    const files = { skipped: path.join(out, 'skipped.jsonl'), cache: path.join(out, 'index') };
    return openDatasetSource(stage.data, stage, encoder, files);
  }
  const recipes = recipesOf(stage.data.synth).map((recipe) =>
    recipeOf(recipe, stage.seed, 2 * encoder.config.vision.imageSize),
  );
  return new SynthSource(recipes, encoder, stage.batch_size, stage.group_by_modality_length);
}

/** size: the side of pictures where the recipe gives none; twice a crop's shows its four tiles all there is. */
function recipeOf(raw: RawRecipe, seed: number, size: number): SynthRecipe {
  const named = raw.categories;
  const weights: Record<string, number> = Array.isArray(named)
    ? Object.fromEntries(named.map((name) => [name, 1]))
    : { ...(named as Record<string, number>) };
  const unknown = Object.keys(weights).find((name) => !(CATEGORIES as readonly string[]).includes(name));
  if (unknown !== undefined) {
    throw new UserError(`synth: categories: expected ${CATEGORIES.join(', ')}, got ${unknown}`);
  }
  const set = <K extends keyof SynthOptions>(key: K, value: SynthOptions[K] | undefined) =>
    value === undefined ? {} : { [key]: value };
  return {
    categories: Object.entries(weights) as [Category, number][],
    count: raw.count,
    seed: raw.seed ?? seed,
    imageSize: raw.size ?? size,
    options: {
      ...set('minObjects', raw.min_objects),
      ...set('maxObjects', raw.max_objects),
      ...set('shapes', raw.shapes),
      ...set('colours', raw.colours),
      ...set('words', raw.words),
      ...set('textures', raw.textures),
      ...set('overlaps', raw.overlaps),
      ...set('extraTurns', raw.extra_turns),
      ...set('single', raw.single),
      ...set('kinds', raw.kinds),
    },
  };
}
