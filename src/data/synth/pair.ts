/**
 * Two similar pictures that differ in one property of one object. Knows nothing of questions.
 * Source: the contrast categories of the FUSION paper's synthetic data.
 */
import type { Random } from '../../common/random.ts';
import {
  buildPanel,
  coloursOf,
  type Draft,
  isIllegible,
  placeObject,
  resizeObject,
  shapesOf,
} from './build.ts';
import { between, chance, maybePick, pick, some } from './choose.ts';
import {
  type Attributes,
  HALF_GRID,
  type Panel,
  type SceneObject,
  SIZES,
  type SynthOptions,
  TEXTURES,
} from './scene.ts';

export const CHANGES = ['colour', 'shape', 'size', 'pattern', 'place', 'number'] as const;
export type Change = (typeof CHANGES)[number];

export const PICTURES = ['left', 'right'] as const;
export type Picture = (typeof PICTURES)[number];

/** Two pictures and what tells them apart. */
export interface Pair {
  readonly panels: readonly [Panel, Panel];
  readonly change: Change;
  /** The object that differs, as in each picture; absent where the picture lacks it. */
  readonly left?: SceneObject;
  readonly right?: SceneObject;
}

/** What a pair must hold. */
export interface PairPlan {
  readonly change?: Change;
  /** Attributes of the object that differs, in one of the pictures. */
  readonly focus?: Draft;
  /** Further objects, equal in both. */
  readonly others?: readonly Draft[];
  /** Which other objects there may be. */
  readonly admit?: (object: Attributes) => boolean;
}

/** The most objects in each of two pictures. */
export const MOST_IN_HALF = 4;

/** The changes at the level of the options. */
export function changesOf({ textures, maxObjects }: SynthOptions): readonly Change[] {
  return CHANGES.filter(
    (change) => (change !== 'pattern' || textures) && (change !== 'number' || maxObjects > 1),
  );
}

/** A pair that fulfils the plan; undefined where this attempt did not succeed. */
export function buildPair(random: Random, options: SynthOptions, plan: PairPlan): Pair | undefined {
  const change = plan.change ?? pick(random, changesOf(options));
  const [shape = 'circle', otherShape = 'square'] = some(random, shapesOf(options), 2);
  const [colour = 'red', otherColour = 'green'] = some(random, coloursOf(options), 2);
  const focus = { shape, colour, ...plan.focus };
  const replaced: Attributes = {
    shape: focus.shape === otherShape ? shape : otherShape,
    colour: focus.colour === otherColour ? colour : otherColour,
    size: pick(random, SIZES),
    texture: pick(random, TEXTURES),
  };
  const panel = buildPanel(random, options, {
    half: true,
    objects: [focus, ...(plan.others ?? [])],
    total: between(
      random,
      Math.min(options.minObjects, MOST_IN_HALF),
      Math.min(options.maxObjects, MOST_IN_HALF),
    ),
    admit: (object) => isUnlike(object, focus, replaced, change) && (plan.admit?.(object) ?? true),
  });
  if (panel === undefined || !panel.objects.slice(1).every((o) => isUnlike(o, focus, replaced, change))) {
    return undefined;
  }
  return changed(random, panel, change, replaced);
}

/** What stands beside the object that differs shares neither its shape nor, where the shape changes, its colour. */
function isUnlike(object: Attributes, focus: Draft, replaced: Attributes, change: Change): boolean {
  if (object.shape === focus.shape) return false;
  return change !== 'shape' || (object.shape !== replaced.shape && object.colour !== focus.colour);
}

/** The panel and its copy in which the first object differs, in random order. */
function changed(random: Random, panel: Panel, change: Change, replaced: Attributes): Pair | undefined {
  const [first, ...others] = panel.objects;
  if (first === undefined) return undefined;
  const versions = versionsOf(random, panel, first, change, replaced);
  if (versions === undefined || versions.some((object) => object && isIllegible(object))) return undefined;
  const [one, two] = chance(random, 0.5) ? versions : [versions[1], versions[0]];
  const withObject = (object: SceneObject | undefined): Panel => ({
    ...panel,
    objects: object === undefined ? others : [object, ...others],
  });
  return {
    panels: [withObject(one), withObject(two)],
    change,
    ...(one ? { left: one } : {}),
    ...(two ? { right: two } : {}),
  };
}

type Versions = readonly [SceneObject | undefined, SceneObject | undefined];

/** The object before and after the change; undefined where nothing can change. */
function versionsOf(
  random: Random,
  panel: Panel,
  object: SceneObject,
  change: Change,
  { shape, colour, size, texture }: Attributes,
): Versions | undefined {
  switch (change) {
    case 'number':
      return panel.objects.length < 2 ? undefined : [object, undefined];
    case 'colour':
      return [object, { ...object, colour }];
    case 'shape':
      return [object, { ...object, shape }];
    case 'pattern':
      return texture === object.texture ? undefined : [object, { ...object, texture }];
    case 'size': {
      if (size === object.size) return undefined;
      const after = resizeObject(HALF_GRID, object, size);
      return [resizeObject(HALF_GRID, after, object.size), after];
    }
    case 'place': {
      const taken = new Set(panel.objects.map(({ cell }) => cell));
      const cells = Array.from({ length: HALF_GRID.columns * HALF_GRID.rows }, (_, cell) => cell);
      const cell = maybePick(
        random,
        cells.filter((free) => !taken.has(free)),
      );
      return cell === undefined ? undefined : [object, placeObject(random, HALF_GRID, object, cell)];
    }
  }
}
