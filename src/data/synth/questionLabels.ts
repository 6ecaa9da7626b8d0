/**
 * What the patches of a whole picture are to a question that is asked of it: whether what they show is named in the
 * question, where it stands, what tells it from its counterpart in a second picture. So the vision tower can learn to
 * look with the question in hand before any language model answers.
 *
 * Knows scenes and the words of questions, not pixels. Rows are the patches of the whole crop, scene by scene.
 */
import { plural } from './facts.ts';
import type { Turn } from './kind.ts';
import { CHANGES, type Change, PICTURES } from './pair.ts';
import {
  addAnswers,
  noAnswers,
  type PatchAnswers,
  patchesOf,
  type Shown,
  shownAt,
  WHOLE_CROP,
} from './patchLabels.ts';
import { COLOURS, type Scene, type SceneObject, SHAPES, SIDE, SIZES, TEXTURES } from './scene.ts';

const NO_YES = ['no', 'yes'] as const;
const FOURTHS = ['0', '1', '2', '3'] as const;

/** Every such question about a patch that shows an object, with its answers. */
export const QUESTION_CLASSES = {
  /** Where the object's centre is, in fourths of the picture's side. */
  row: FOURTHS,
  column: FOURTHS,
  /** Whether the patch holds the object's centre: one patch of each object does. */
  centre: NO_YES,
  shapeNamed: NO_YES,
  colourNamed: NO_YES,
  /** Whether the question is about this object, as far as its words tell. */
  meant: NO_YES,
  /** Whether the answer is read from this object. */
  read: NO_YES,
  /** In two pictures: what tells the object from its counterpart. */
  difference: ['none', ...CHANGES],
} as const satisfies Readonly<Record<string, readonly string[]>>;

type Question = keyof typeof QUESTION_CLASSES;

/** A scene and what is asked of it. */
export interface AskedScene {
  readonly scene: Scene;
  readonly turns: readonly Pick<Turn, 'question' | 'about'>[];
}

/** The answers of the patches of the whole pictures. firstRow: that of the first patch of the first picture. */
export function questionLabels(
  asked: readonly AskedScene[],
  grid: number,
  firstRow = 0,
): Readonly<Record<Question, PatchAnswers>> {
  const labels = noAnswers(Object.keys(QUESTION_CLASSES) as Question[]);
  let row = firstRow;
  for (const { scene, turns } of asked) {
    const phrases = turns.map(({ question }) => phrasesOf(question));
    const read = new Set(turns.flatMap(({ about }) => about));
    for (const { x, y, step } of patchesOf(WHOLE_CROP, grid)) {
      const shown = shownAt(scene, x, y, step);
      const { object } = shown;
      if (object !== undefined) {
        const answers = {
          ...placed(shown, object, x, y, step),
          ...named(scene, shown, object, phrases),
          read: yesNo(read.has(object)),
        };
        addAnswers(labels, QUESTION_CLASSES, row, answers);
      }
      row++;
    }
  }
  return labels;
}

function placed({ left }: Shown, object: SceneObject, x: number, y: number, step: number) {
  const centreX = object.x + left;
  const holds = Math.abs(centreX - x) <= step / 2 && Math.abs(object.y - y) <= step / 2;
  return { row: fourth(object.y), column: fourth(centreX), centre: yesNo(holds) };
}

function named(scene: Scene, { panel, left }: Shown, object: SceneObject, phrases: readonly Phrases[]) {
  const all = phrases.flatMap(({ named: each }) => each);
  const picture = PICTURES[left > 0 ? 1 : 0];
  const other = scene.panels.find((each) => each !== panel);
  return {
    shapeNamed: yesNo(all.some(({ shape }) => shape.includes(object.shape))),
    colourNamed: yesNo(all.some(({ colour }) => colour.includes(object.colour))),
    meant: yesNo(phrases.some((each) => isMeant(object, picture, each, other !== undefined))),
    difference: other && differenceOf(object, panel.objects, other.objects),
  };
}

const yesNo = (yes: boolean): (typeof NO_YES)[number] => (yes ? 'yes' : 'no');

const fourth = (at: number): string => String(Math.max(0, Math.min(3, Math.floor((at / SIDE) * 4))));

type Attribute = 'shape' | 'colour' | 'size' | 'texture';
const VALUES: Readonly<Record<Attribute, readonly string[]>> = {
  shape: SHAPES,
  colour: COLOURS,
  size: SIZES,
  texture: TEXTURES,
};

/** The values of each attribute that a phrase names. */
type Named = Readonly<Record<Attribute, readonly string[]>>;

/** What a question says of the objects it is about. */
interface Phrases {
  /** An object is meant where it has what one of these names; none: every object is. */
  readonly named: readonly Named[];
  /** The one of two pictures that is asked about. */
  readonly picture: string | undefined;
}

/** The question itself where it names something, else those of its options that do. */
function phrasesOf(question: string): Phrases {
  const [stem = '', ...options] = question.split(/ [A-D]\. /);
  const all = [stem, ...options].map(namedIn);
  const names = (each: Named) => Object.values(each).some(({ length }) => length > 0);
  const first = all.slice(0, 1).filter(names);
  const match = /\b(left|right) picture|on the (left|right)\./.exec(stem);
  return { named: first.length > 0 ? first : all.slice(1).filter(names), picture: match?.[1] ?? match?.[2] };
}

function namedIn(text: string): Named {
  const words: readonly string[] = text.match(/[a-z]+/g) ?? [];
  const occurs = (value: string) => words.includes(value) || words.includes(plural(value));
  const of = (attribute: Attribute) => VALUES[attribute].filter(occurs);
  return { shape: of('shape'), colour: of('colour'), size: of('size'), texture: of('texture') };
}

function isMeant(object: SceneObject, own: string | undefined, phrases: Phrases, isPair: boolean): boolean {
  const { named: all, picture } = phrases;
  if (isPair && picture !== undefined && picture !== own) return false;
  const has = (phrase: Named) =>
    Object.entries(phrase).every(
      ([attribute, values]) => values.length === 0 || values.includes(object[attribute as Attribute]),
    );
  return all.length === 0 || all.some(has);
}

/** What tells an object of one picture from the one that stands for it in the other. */
function differenceOf(
  object: SceneObject,
  own: readonly SceneObject[],
  others: readonly SceneObject[],
): Change | 'none' {
  if (others.some((other) => isSame(object, other))) return 'none';
  const counterpart = others.find((other) => !own.some((each) => isSame(each, other)));
  if (counterpart === undefined) return 'number';
  const key = (['colour', 'shape', 'size', 'texture'] as const).find((k) => object[k] !== counterpart[k]);
  return key === undefined ? 'place' : key === 'texture' ? 'pattern' : key;
}

function isSame(a: SceneObject, b: SceneObject): boolean {
  const keys = ['x', 'y', 'shape', 'colour', 'size', 'texture'] as const;
  return keys.every((key) => a[key] === b[key]);
}
