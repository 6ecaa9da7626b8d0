/**
 * Texts that describe a scene. The request says in which manner, so that one text is right for it.
 * Knows nothing of pixels.
 */
import type { Random } from '../../common/random.ts';
import { textNoun } from './askText.ts';
import { pick } from './choose.ts';
import {
  countOf,
  type Descriptor,
  describe,
  inReadingOrder,
  listed,
  nameOf,
  placeOf,
  pluralOf,
  SIDE_NAMES,
  sideOf,
  tally,
  withArticle,
} from './facts.ts';
import type { Turn } from './kind.ts';
import type { Pair } from './pair.ts';
import { capitalised, caption, REQUESTS } from './phrases.ts';
import { type Panel, ROWS, type SceneObject } from './scene.ts';

export type Manner = keyof typeof REQUESTS;

/** `describe` in the given manner; undefined where the scene has nothing of the sort. */
export function describeTurn(random: Random, panel: Panel, manner: PanelManner): Turn | undefined {
  const text = WRITERS[manner](panel);
  return text === undefined ? undefined : freeTurn(random, manner, text, panel.objects);
}

/** What tells two pictures apart. */
export function differenceTurn(random: Random, pair: Pair): Turn {
  const about = [pair.left, pair.right].filter((object) => object !== undefined);
  return freeTurn(random, 'difference', difference(pair), about);
}

function freeTurn(random: Random, manner: Manner, answer: string, about: readonly SceneObject[]): Turn {
  return { kind: manner, question: pick<string>(random, REQUESTS[manner]), answer, exact: false, about };
}

export type PanelManner = Exclude<Manner, 'difference'>;

const WRITERS: Readonly<Record<PanelManner, (panel: Panel) => string | undefined>> = {
  colourList: (panel) => {
    const colours = [...tally(inReadingOrder(panel), 'colour').keys()];
    return colours.length < 2 ? undefined : caption('colourList', { list: listed(colours) });
  },
  colourNames: (panel) => `${capitalised(listed(inReadingOrder(panel).map(shortName)))}.`,
  countKinds: (panel) => {
    const n = numbered(panel, {});
    return caption('countKinds', { are: verb(n), n, list: counts(panel, 'colour', 'shape') });
  },
  countShapes: (panel) => countSentence(panel, 'shape'),
  countColours: (panel) => countSentence(panel, 'colour'),
  places: (panel) =>
    inReadingOrder(panel)
      .map((object) => caption('place', { place: placeOf(object) ?? '', an: shortName(object) }))
      .join(' '),
  layout,
  scene,
  text,
};

/** `a red circle` */
function shortName({ colour, shape }: SceneObject): string {
  return withArticle(nameOf({ colour, shape }));
}

function countSentence(panel: Panel, key: keyof Descriptor): string {
  const list = counts(panel, key);
  return caption('counts', { are: verb(list), list });
}

/** `2 red circles, 1 blue star`, in the order of first mention. */
function counts(panel: Panel, ...keys: readonly (keyof Descriptor)[]): string {
  const parts = inReadingOrder(panel).map((object) => numbered(panel, describe(object, ...keys)));
  return listed([...new Set(parts)]);
}

/** `2 red circles`, `1 blue star` */
function numbered(panel: Panel, descriptor: Descriptor): string {
  const times = countOf(panel, descriptor);
  return `${times} ${times === 1 ? nameOf(descriptor) : pluralOf(descriptor)}`;
}

function verb(list: string): 'is' | 'are' {
  return list.startsWith('1 ') ? 'is' : 'are';
}

/** How each object lies to the one before it; undefined where no pair is clear, or names recur. */
function layout(panel: Panel): string | undefined {
  const objects = inReadingOrder(panel);
  const names = objects.map(shortName);
  if (new Set(names).size < names.length) return undefined;
  const sentences = objects.slice(1).flatMap((object, i) => {
    const before = objects[i];
    const side = before && sideOf(before, object);
    return before === undefined || side === undefined
      ? []
      : [caption('beside', { an: shortName(before), side: SIDE_NAMES[side], other: shortName(object) })];
  });
  return sentences.length === 0 ? undefined : sentences.join(' ');
}

/** Background, every object with all attributes and its place, what covers what, the word. */
function scene(panel: Panel): string {
  const { background, overlap, objects, word } = panel;
  const parts = inReadingOrder(panel).map((object) => {
    const name = withArticle(nameOf(object));
    const place = placeOf(object);
    return place === undefined ? name : lowered(caption('at', { an: name, place }));
  });
  const { style, tone } = background;
  const sentences = [caption('scene', { style, tone, list: listed(parts) })];
  const [front, back] = overlap ? [objects[overlap.front], objects[overlap.back]] : [];
  if (front && back) {
    const named = (object: SceneObject) => nameOf({ colour: object.colour, shape: object.shape });
    sentences.push(caption('front', { a: named(front), b: named(back) }));
  }
  if (word) {
    sentences.push(caption('write', { text: textNoun(word), word: word.text, row: ROWS[word.row] ?? '' }));
  }
  return sentences.join(' ');
}

function lowered(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}

/** The word, its colour and place, and what is above and below it. */
function text(panel: Panel): string | undefined {
  const { word } = panel;
  if (word === undefined) return undefined;
  const slots = { text: textNoun(word), word: word.text, colour: word.colour, row: ROWS[word.row] ?? '' };
  const around = (['above', 'below'] as const).flatMap((side) => {
    const objects = inReadingOrder(panel).filter(({ y }) => (side === 'above' ? y < word.y : y > word.y));
    return objects.length === 0 ? [] : [caption('around', { side, list: listed(objects.map(shortName)) })];
  });
  return [caption('text', slots), ...around].join(' ');
}

function difference({ change, left, right }: Pair): string {
  const object = left ?? right;
  const other = right ?? left;
  if (object === undefined || other === undefined) return '';
  const a = object.shape;
  switch (change) {
    case 'number':
      return caption('onlyIn', { a, side: left === undefined ? 'right' : 'left' });
    case 'place':
      return caption('moved', { a });
    case 'shape': {
      const named = (version: SceneObject) => withArticle(version.shape);
      return caption('differs', { a: nameOf({ colour: object.colour }), x: named(object), y: named(other) });
    }
    case 'pattern':
      return caption('differs', { a, x: object.texture, y: other.texture });
    default:
      return caption('differs', { a, x: object[change], y: other[change] });
  }
}
