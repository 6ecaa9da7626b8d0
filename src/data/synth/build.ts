/**
 * Builds one picture's scene: what a plan asks for, the rest at random.
 *
 * Knows nothing of questions: a plan says which objects must be there and which may be, and whoever asks plans.
 */
import type { Random } from '../../common/random.ts';
import { between, chance, maybePick, pick, some } from './choose.ts';
import {
  type Attributes,
  BACKDROPS,
  type Background,
  COLOURS,
  type Colour,
  type Grid,
  HALF_GRID,
  type Panel,
  type SceneObject,
  type SceneWord,
  SHAPES,
  type Shape,
  SIDE,
  SIZES,
  type Size,
  type SynthOptions,
  TEXTURES,
  TONES,
  WHOLE_GRID,
} from './scene.ts';
import { wordWidth } from './strokeFont.ts';
import { NUMBERS, WORDS } from './words.ts';

/** An object of which some attributes, and perhaps the cell, are given. */
export interface Draft extends Partial<Attributes> {
  readonly cell?: number;
}

/** What a scene must hold; everything left out is free. */
export interface Plan {
  readonly objects?: readonly Draft[];
  /** How many objects in all; raised to the number of `objects`. */
  readonly total?: number;
  /** Which objects may stand beside those asked for. */
  readonly admit?: (object: Attributes) => boolean;
  /** A word to show, or `true` for any; none where left out. */
  readonly word?: string | true;
  /** The second object covers part of the first. */
  readonly overlap?: boolean;
  /** True: the narrow grid of two pictures side by side. */
  readonly half?: boolean;
}

/** The radius of an object, as a share of its cell's shorter side. */
const RADII = { small: 0.25, medium: 0.335, large: 0.45 } as const;
/** How far a centre may be from its cell's, in thousandths of the side. */
const JITTER = 40;
const MARGIN = 8;
const TRIES = 40;

/** The shapes and colours of the options' level. */
export function shapesOf({ shapes }: SynthOptions): readonly Shape[] {
  return SHAPES.slice(0, shapes);
}

export function coloursOf({ colours }: SynthOptions): readonly Colour[] {
  return COLOURS.slice(0, colours);
}

/** A picture that fulfils the plan; undefined where this attempt did not succeed. */
export function buildPanel(random: Random, options: SynthOptions, plan: Plan): Panel | undefined {
  const attributes = chooseObjects(random, options, plan);
  if (attributes === undefined) return undefined;
  const grid = plan.half ? HALF_GRID : WHOLE_GRID;
  const background = chooseBackground(random);
  const word = plan.word === undefined ? undefined : chooseWord(random, options, plan.word);
  const objects = placeObjects(random, grid, attributes, plan.objects ?? [], word?.row);
  if (objects === undefined) return undefined;
  const panel: Panel = { background, objects, ...(word ? { word } : {}) };
  return plan.overlap ? overlapped(random, panel) : panel;
}

/** The attributes of all objects, those asked for first. */
function chooseObjects(random: Random, options: SynthOptions, plan: Plan): Attributes[] | undefined {
  const asked = plan.objects ?? [];
  const total = Math.max(plan.total ?? between(random, options.minObjects, options.maxObjects), asked.length);
  const palette = choosePalette(random, options);
  const free = { shapes: shapesOf(options), colours: coloursOf(options) };
  const objects: Attributes[] = asked.map((draft) => complete(random, options, free, draft));
  while (objects.length < total) {
    const object = firstAdmitted(plan, (attempt) =>
      complete(random, options, attempt < TRIES / 2 ? palette : free, near(random, asked)),
    );
    if (object === undefined) return undefined;
    objects.push(object);
  }
  return objects;
}

function firstAdmitted({ admit }: Plan, draw: (attempt: number) => Attributes): Attributes | undefined {
  for (let attempt = 0; attempt < TRIES; attempt++) {
    const object = draw(attempt);
    if (admit === undefined || admit(object)) return object;
  }
  return undefined;
}

/** Often something that shares one attribute with an object asked for, so that both have to be looked at. */
function near(random: Random, asked: readonly Draft[]): Draft {
  const model = maybePick(random, asked);
  if (model === undefined || chance(random, 0.5)) return {};
  const { colour, shape } = model;
  if (chance(random, 0.5)) return colour === undefined ? {} : { colour };
  return shape === undefined ? {} : { shape };
}

interface Palette {
  readonly shapes: readonly Shape[];
  readonly colours: readonly Colour[];
}

/** A few shapes and colours, so that things recur within a picture. */
function choosePalette(random: Random, options: SynthOptions): Palette {
  return {
    shapes: some(random, shapesOf(options), between(random, 1, options.shapes)),
    colours: some(random, coloursOf(options), between(random, 1, options.colours)),
  };
}

function complete(random: Random, options: SynthOptions, palette: Palette, draft: Draft): Attributes {
  const anyTexture = options.textures && chance(random, 0.5) ? pick(random, TEXTURES) : 'plain';
  const object = {
    shape: draft.shape ?? pick(random, palette.shapes),
    colour: draft.colour ?? pick(random, palette.colours),
    size: draft.size ?? pick(random, SIZES),
    texture: draft.texture ?? anyTexture,
  };
  if (!isIllegible(object)) return object;
  return draft.size === undefined ? { ...object, size: 'medium' } : { ...object, texture: 'plain' };
}

/** Whether marks would hide what the object is: small rings and moons have no room for them. */
export function isIllegible({ shape, size, texture }: Attributes): boolean {
  const isThin = shape === 'ring' || shape === 'moon';
  return isThin && size === 'small' && (texture === 'striped' || texture === 'dotted');
}

function chooseBackground(random: Random): Background {
  return { style: pick(random, BACKDROPS), tone: pick(random, TONES), grain: random.integer(1000) };
}

/** Every object in a cell of its own, in random drawing order; undefined if the cells do not suffice. */
function placeObjects(
  random: Random,
  grid: Grid,
  objects: readonly Attributes[],
  drafts: readonly Draft[],
  wordRow: number | undefined,
): SceneObject[] | undefined {
  const taken = new Set(drafts.map(({ cell }) => cell));
  const cells = Array.from({ length: grid.columns * grid.rows }, (_, cell) => cell);
  const free = cells.filter((cell) => !taken.has(cell) && Math.floor(cell / grid.columns) !== wordRow);
  random.shuffle<number, number[]>(free);
  const placed: SceneObject[] = [];
  for (const [i, object] of objects.entries()) {
    const cell = drafts[i]?.cell ?? free.pop();
    if (cell === undefined) return undefined;
    placed.push(placeObject(random, grid, object, cell));
  }
  return placed;
}

/** An object in the given cell, a little off its centre and tilted. */
export function placeObject(random: Random, grid: Grid, object: Attributes, cell: number): SceneObject {
  const radius = radiusOf(grid, object.size);
  const slack = slackOf(grid, radius);
  const centre = centreOf(grid, cell);
  return {
    ...object,
    x: centre.x + between(random, -slack.x, slack.x),
    y: centre.y + between(random, -slack.y, slack.y),
    radius,
    tilt: between(random, -14, 14),
    cell,
  };
}

/** The object at another size, and moved if it would else leave its cell. */
export function resizeObject(grid: Grid, object: SceneObject, size: Size): SceneObject {
  const radius = radiusOf(grid, size);
  const slack = slackOf(grid, radius);
  const centre = centreOf(grid, object.cell ?? 0);
  const near = (at: number, middle: number, most: number) =>
    Math.max(middle - most, Math.min(middle + most, at));
  return {
    ...object,
    size,
    radius,
    x: near(object.x, centre.x, slack.x),
    y: near(object.y, centre.y, slack.y),
  };
}

function radiusOf(grid: Grid, size: Size): number {
  return Math.round(RADII[size] * Math.min(grid.cellWidth, grid.cellHeight));
}

function centreOf(grid: Grid, cell: number): { x: number; y: number } {
  return {
    x: Math.round(((cell % grid.columns) + 0.5) * grid.cellWidth),
    y: Math.round((Math.floor(cell / grid.columns) + 0.5) * grid.cellHeight),
  };
}

/** How far the centre of an object may be from that of its cell. */
function slackOf({ cellWidth, cellHeight }: Grid, radius: number): { x: number; y: number } {
  const along = (extent: number) =>
    Math.max(0, Math.min(JITTER, Math.floor(extent / 2 - 1.06 * radius - MARGIN)));
  return { x: along(cellWidth), y: along(cellHeight) };
}

/** The panel with its second object moved onto the edge of its first; undefined where there is no room. */
function overlapped(random: Random, panel: Panel): Panel | undefined {
  const [back, front, ...others] = panel.objects;
  if (back === undefined || front === undefined) return undefined;
  const distance = back.radius + 0.35 * front.radius;
  for (let attempt = 0; attempt < 12; attempt++) {
    const angle = (random.integer(360) * Math.PI) / 180;
    const x = Math.round(back.x + distance * Math.cos(angle));
    const y = Math.round(back.y + distance * Math.sin(angle));
    const { cell: _, ...attributes } = front;
    const moved: SceneObject = { ...attributes, x, y };
    const objects = [back, moved, ...others];
    if (fits({ ...panel, objects }, moved, back)) {
      return { ...panel, objects, overlap: { front: 1, back: 0 } };
    }
  }
  return undefined;
}

/** Whether `moved` is within the picture and touches nothing but `back`. */
function fits({ objects, word }: Panel, moved: SceneObject, back: SceneObject): boolean {
  const reach = 1.08 * moved.radius + MARGIN;
  const inside = [moved.x, moved.y].every((at) => at >= reach && at <= SIDE - reach);
  const apart = objects.every(
    (other) =>
      other === moved ||
      other === back ||
      Math.hypot(other.x - moved.x, other.y - moved.y) >= reach + 1.08 * other.radius,
  );
  return inside && apart && (word === undefined || Math.abs(word.y - moved.y) > reach + word.height);
}

function chooseWord(random: Random, options: SynthOptions, wanted: string | true): SceneWord {
  const text = wanted === true ? pick(random, chance(random, 0.75) ? WORDS : NUMBERS) : wanted;
  const height = between(random, 150, 190);
  const row = random.integer(WHOLE_GRID.rows);
  const slack = Math.floor((SIDE - wordWidth(text, height)) / 2 - height / 4 - MARGIN);
  return {
    text,
    colour: pick(random, coloursOf(options)),
    x: SIDE / 2 + between(random, -slack, slack),
    y: Math.round((row + 0.5) * WHOLE_GRID.cellHeight) + between(random, -25, 25),
    height,
    row,
  };
}
