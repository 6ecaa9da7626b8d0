/**
 * What a synthetic picture shows, as data: objects, their attributes and places, a background, a word.
 *
 * Knows nothing of pixels or of sentences: both are derived from the record, so neither can contradict the other.
 * Source: the language-driven data of the FUSION paper, where text comes first and the picture is made from it.
 */

/** Shapes, colours and so on come in the order in which a curriculum introduces them. */
export const SHAPES = ['circle', 'square', 'triangle', 'star', 'cross', 'heart', 'ring', 'moon'] as const;
export const COLOURS = ['red', 'green', 'blue', 'yellow', 'purple', 'orange', 'cyan', 'pink'] as const;
export const SIZES = ['small', 'medium', 'large'] as const;
export const TEXTURES = ['plain', 'striped', 'dotted', 'outlined'] as const;
export const TONES = ['white', 'grey', 'beige', 'black'] as const;
export const BACKDROPS = ['plain', 'gradient', 'checkered', 'speckled'] as const;

export type Shape = (typeof SHAPES)[number];
export type Colour = (typeof COLOURS)[number];
export type Size = (typeof SIZES)[number];
export type Texture = (typeof TEXTURES)[number];
export type Tone = (typeof TONES)[number];
export type Backdrop = (typeof BACKDROPS)[number];

/** Lengths are in thousandths of the picture's side; x grows to the right, y downwards. */
export const SIDE = 1000;
/** The width of each of two panels side by side; the rest is the gap between them. */
export const HALF_WIDTH = 490;

/** What a question can ask of an object. */
export interface Attributes {
  readonly shape: Shape;
  readonly colour: Colour;
  readonly size: Size;
  readonly texture: Texture;
}

export interface SceneObject extends Attributes {
  /** The centre, in the panel's coordinates. */
  readonly x: number;
  readonly y: number;
  /** About half of the extent. */
  readonly radius: number;
  /** Degrees clockwise. */
  readonly tilt: number;
  /** The cell of the panel's grid, row by row; absent where the object stands between cells. */
  readonly cell?: number;
}

export interface SceneWord {
  /** A–Z or 0–9 only. */
  readonly text: string;
  readonly colour: Colour;
  /** The centre. */
  readonly x: number;
  readonly y: number;
  /** Of its capital letters. */
  readonly height: number;
  /** The row of the grid it fills. */
  readonly row: number;
}

export interface Background {
  readonly style: Backdrop;
  readonly tone: Tone;
  /** Chooses among the speckles, checks and directions of a style. */
  readonly grain: number;
}

/** One picture. */
export interface Panel {
  readonly background: Background;
  /** In drawing order: a later object covers an earlier one. */
  readonly objects: readonly SceneObject[];
  /** Indices of the one pair of objects that overlap. */
  readonly overlap?: { readonly front: number; readonly back: number };
  readonly word?: SceneWord;
}

/** One picture, or two side by side in one image. */
export type Scene = { readonly panels: readonly [Panel] | readonly [Panel, Panel] };

/** The grid of cells in which a panel's objects stand. */
export interface Grid {
  readonly columns: number;
  readonly rows: number;
  readonly cellWidth: number;
  readonly cellHeight: number;
}

/** For one picture. */
export const WHOLE_GRID: Grid = { columns: 4, rows: 4, cellWidth: SIDE / 4, cellHeight: SIDE / 4 };
/** The cells of one picture, row by row. */
export const CELLS: readonly number[] = Array.from(
  { length: WHOLE_GRID.columns * WHOLE_GRID.rows },
  (_, cell) => cell,
);
/** For each of two pictures side by side. */
export const HALF_GRID: Grid = { columns: 2, rows: 4, cellWidth: HALF_WIDTH / 2, cellHeight: SIDE / 4 };

/** What the quarters of the whole picture are called, row by row. */
export const PLACES = ['top left', 'top right', 'bottom left', 'bottom right'] as const;

/** What the rows of the whole picture are called, where a word stands in one. */
export const ROWS = ['top', 'centre', 'centre', 'bottom'] as const;

/** How hard the scenes are and how much is asked about each; what a curriculum turns. */
export interface SynthOptions {
  /** The fewest and the most objects of a picture, 1 to 5. */
  readonly minObjects: number;
  readonly maxObjects: number;
  /** How many of `SHAPES` and `COLOURS` occur, 2 to 8. */
  readonly shapes: number;
  readonly colours: number;
  /** False: no words but in the categories that are about words. */
  readonly words: boolean;
  /** False: every object is plain. */
  readonly textures: boolean;
  /** False: no object covers another. */
  readonly overlaps: boolean;
  /** Up to so many questions more about each picture than its category has, 0 to 8. */
  readonly extraTurns: number;
  /** True: one of a sample's turns alone, whichever; as people ask. */
  readonly single: boolean;
  /** By the name of a kind of question, how many times as often as usual it is asked, 1 to 100. */
  readonly kinds: Readonly<Record<string, number>>;
}

export const DEFAULT_OPTIONS: SynthOptions = {
  minObjects: 2,
  maxObjects: 5,
  shapes: SHAPES.length,
  colours: COLOURS.length,
  words: true,
  textures: true,
  overlaps: true,
  extraTurns: 0,
  single: false,
  kinds: {},
};
