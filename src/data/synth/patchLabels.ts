/**
 * What the patches of a scene's five crops show, as classes: answers to "what is here?" that need no language.
 *
 * Knows places and attributes, not pixels. Shapes: g patches a side of a crop, P = g²; rows run over the crops as
 * `staticHdCrops` orders them (four tiles, then the whole), then over a crop's patches, row by row.
 */
import {
  BACKDROPS,
  COLOURS,
  HALF_WIDTH,
  type Panel,
  type Scene,
  type SceneObject,
  type SceneWord,
  SHAPES,
  SIDE,
  TEXTURES,
  TONES,
} from './scene.ts';
import { GLYPH_NAMES, glyphAt, wordWidth } from './strokeFont.ts';
import { NUMBERS, WORDS } from './words.ts';

const TEXTS: readonly string[] = [...WORDS, ...NUMBERS];

/**
 * How large an object looks, as its radius in patches: classes grow by √2. A crop does not show whether it is a tile
 * or the whole, so it cannot show an object's size.
 */
const EXTENTS: readonly string[] = ['0.42', '0.59', '0.84', '1.19', '1.68', '2.38'];

/** Every question that a patch can be asked, with its answers. */
export const PATCH_CLASSES = {
  kind: ['background', 'object', 'word'],
  shape: SHAPES,
  colour: COLOURS,
  extent: EXTENTS,
  texture: TEXTURES,
  glyph: GLYPH_NAMES,
  text: TEXTS,
  style: BACKDROPS,
  tone: TONES,
} as const satisfies Readonly<Record<string, readonly string[]>>;

export type PatchQuestion = keyof typeof PATCH_CLASSES;
export const PATCH_QUESTIONS = Object.keys(PATCH_CLASSES) as readonly PatchQuestion[];

/** Rows that have an answer to a question, and which. */
export interface PatchAnswers {
  readonly rows: number[];
  readonly classes: number[];
}

export type PatchLabels = Readonly<Record<PatchQuestion, PatchAnswers>>;

/**
 * The answers of the patches of crops of `scenes`, whose rows follow each other. grid: patches a side of a crop;
 * cropsOf: which crops of the scene at an index there are, tiles 0 to 3 and the whole 4; all unless given.
 */
export function patchLabels(
  scenes: readonly Scene[],
  grid: number,
  cropsOf: (index: number) => readonly number[] = () => ALL_CROPS,
): PatchLabels {
  const labels = noAnswers(PATCH_QUESTIONS);
  let row = 0;
  for (const [i, scene] of scenes.entries()) {
    for (const crop of cropsOf(i)) {
      for (const { x, y, step } of patchesOf(crop, grid)) {
        addAnswers(labels, PATCH_CLASSES, row++, answersAt(scene, x, y, step));
      }
    }
  }
  return labels;
}

const HALF = SIDE / 2;
const CROPS = [
  { x: 0, y: 0, side: HALF },
  { x: HALF, y: 0, side: HALF },
  { x: 0, y: HALF, side: HALF },
  { x: HALF, y: HALF, side: HALF },
  { x: 0, y: 0, side: SIDE },
] as const;
const ALL_CROPS = CROPS.map((_, i) => i);
/** The whole picture's place among its crops. */
export const WHOLE_CROP = ALL_CROPS.length - 1;

/** The centres of a crop's patches, row by row, and their side. */
export function patchesOf(crop: number, grid: number): { x: number; y: number; step: number }[] {
  const { x, y, side } = CROPS[crop] as (typeof CROPS)[number];
  const step = side / grid;
  return Array.from({ length: grid * grid }, (_, patch) => ({
    x: x + ((patch % grid) + 0.5) * step,
    y: y + (Math.floor(patch / grid) + 0.5) * step,
    step,
  }));
}

type Classes = Readonly<Record<string, readonly string[]>>;

/** A place for the answers to each question. */
export function noAnswers<Q extends string>(questions: readonly Q[]): Readonly<Record<Q, PatchAnswers>> {
  const none = questions.map((question): [Q, PatchAnswers] => [question, { rows: [], classes: [] }]);
  return Object.fromEntries(none) as Record<Q, PatchAnswers>;
}

/** Notes a row's answers; a question without one is not asked of it. */
export function addAnswers<Q extends string>(
  labels: Readonly<Record<Q, PatchAnswers>>,
  classes: Classes,
  row: number,
  answers: Readonly<Partial<Record<Q, string | undefined>>>,
): void {
  for (const [question, answer] of Object.entries<string | undefined>(answers)) {
    if (answer === undefined) continue;
    const { rows, classes: known } = labels[question as Q];
    rows.push(row);
    known.push((classes[question] as readonly string[]).indexOf(answer));
  }
}

/** What is drawn last at a point of the picture, or within most of a patch of side `step` around it. */
export interface Shown {
  readonly panel: Panel;
  /** Where the panel begins in the picture. */
  readonly left: number;
  readonly word?: SceneWord | undefined;
  readonly object?: SceneObject | undefined;
}

export function shownAt({ panels }: Scene, x: number, y: number, step: number): Shown {
  const second = panels.length === 2 && x >= HALF;
  const panel: Panel = (second ? panels[1] : undefined) ?? panels[0];
  const left = second ? SIDE - HALF_WIDTH : 0;
  const { word, objects } = panel;
  if (word && covers(word, x - left, y, step)) return { panel, left, word };
  return { panel, left, object: objects.findLast((each) => reaches(each, x - left, y, step)) };
}

type Answers = Readonly<Partial<Record<PatchQuestion, string | undefined>>>;

function answersAt(scene: Scene, x: number, y: number, step: number): Answers {
  const { panel, left, word, object } = shownAt(scene, x, y, step);
  if (word !== undefined) {
    const { text, colour, height } = word;
    return { kind: 'word', text, colour, glyph: glyphAt(text, height, x - left - word.x) };
  }
  const { style, tone } = panel.background;
  if (object === undefined) return { kind: 'background', style, tone };
  const { shape, colour, texture, radius } = object;
  return { kind: 'object', shape, colour, texture, extent: extentOf(radius / step) };
}

function extentOf(patches: number): string | undefined {
  const step = Math.round(2 * Math.log2(patches / Number(EXTENTS[0])));
  return EXTENTS[Math.max(0, Math.min(EXTENTS.length - 1, step))];
}

/** Small objects reach the centre of no patch of the whole; then the nearest ones count. */
function reaches(object: SceneObject, x: number, y: number, step: number): boolean {
  return Math.hypot(x - object.x, y - object.y) <= Math.max(object.radius, 0.7 * step);
}

function covers(word: SceneWord, x: number, y: number, step: number): boolean {
  const width = wordWidth(word.text, word.height) + word.height / 3;
  return Math.abs(x - word.x) <= width / 2 && Math.abs(y - word.y) <= Math.max(word.height * 0.6, step / 2);
}
