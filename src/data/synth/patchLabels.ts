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

/** The answers of all patches of all crops of `scenes`, whose rows follow each other. grid: patches a side of a crop. */
export function patchLabels(scenes: readonly Scene[], grid: number): PatchLabels {
  const labels = Object.fromEntries(
    PATCH_QUESTIONS.map((question) => [question, { rows: [], classes: [] } as PatchAnswers]),
  ) as PatchLabels;
  let row = 0;
  for (const scene of scenes) {
    for (const crop of CROPS) {
      for (let patch = 0; patch < grid * grid; patch++) {
        const step = crop.side / grid;
        const x = crop.x + ((patch % grid) + 0.5) * step;
        const y = crop.y + (Math.floor(patch / grid) + 0.5) * step;
        addAnswers(labels, row++, answersAt(scene, x, y, step));
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

type Answers = Readonly<Partial<Record<PatchQuestion, string | undefined>>>;

function addAnswers(labels: PatchLabels, row: number, answers: Answers): void {
  for (const question of PATCH_QUESTIONS) {
    const answer = answers[question];
    if (answer === undefined) continue;
    labels[question].rows.push(row);
    labels[question].classes.push((PATCH_CLASSES[question] as readonly string[]).indexOf(answer));
  }
}

/** What is drawn last at a point of the picture, or within most of a patch of side `step` around it. */
function answersAt({ panels }: Scene, x: number, y: number, step: number): Answers {
  const second = panels.length === 2 && x >= HALF;
  const panel: Panel = (second ? panels[1] : undefined) ?? panels[0];
  const inPanel = second ? x - (SIDE - HALF_WIDTH) : x;
  const { word, objects, background } = panel;
  if (word && covers(word, inPanel, y, step)) {
    const { text, colour, height } = word;
    return { kind: 'word', text, colour, glyph: glyphAt(text, height, inPanel - word.x) };
  }
  const object = objects.findLast((each) => reaches(each, inPanel, y, step));
  if (object === undefined) return { kind: 'background', style: background.style, tone: background.tone };
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
