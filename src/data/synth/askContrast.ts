/** Questions about two similar pictures side by side. Knows nothing of pixels. */
import type { Random } from '../../common/random.ts';
import { countables } from './askObjects.ts';
import { coloursOf, shapesOf } from './build.ts';
import { pick, pickWeighted } from './choose.ts';
import {
  countOf,
  type Descriptor,
  describe,
  fitting,
  nameOf,
  pluralOf,
  uniqueIn,
  withArticle,
} from './facts.ts';
import { choose, exactTurn, type Kind, numbers, YES_NO } from './kind.ts';
import { changesOf, MOST_IN_HALF, type Pair, type PairPlan, PICTURES, type Picture } from './pair.ts';
import { phrase } from './phrases.ts';
import type { Colour, Panel, SceneObject, Shape, SynthOptions } from './scene.ts';

type PairKind = Kind<PairPlan, Pair>;

function panelOf({ panels }: Pair, picture: Picture): Panel {
  return picture === 'left' ? panels[0] : panels[1];
}

/** The object that differs, in each picture that has it. */
function changedIn({ left, right }: Pair): SceneObject[] {
  return [left, right].filter((object) => object !== undefined);
}

/** Everything in both pictures that fits. */
function fittingInBoth({ panels }: Pair, wanted: Descriptor): SceneObject[] {
  return panels.flatMap((panel) => fitting(panel, wanted));
}

/** `Which property is different in the two pictures?` */
export const change: PairKind = {
  name: 'change',
  answers: changesOf,
  plan: (_random, options, wanted) => ({
    change: changesOf(options).find((known) => known === wanted) ?? 'colour',
  }),
  ask(random, pair, _options, wanted) {
    if (wanted !== undefined && wanted !== pair.change) return undefined;
    return exactTurn('change', phrase(random, 'change'), pair.change, changedIn(pair));
  },
};

/** `Which shape changes its colour?` */
export const changed: PairKind = {
  name: 'changed',
  answers: shapesOf,
  plan: (random, options, wanted) => ({
    change: pick(
      random,
      changesOf(options).filter((known) => known !== 'shape' && known !== 'number'),
    ),
    focus: { shape: wanted as Shape },
  }),
  ask(random, pair, _options, wanted) {
    const { change: key, left } = pair;
    if (left === undefined || key === 'shape' || key === 'number') return undefined;
    if (wanted !== undefined && wanted !== left.shape) return undefined;
    return exactTurn('changed', phrase(random, 'changed', { key }), left.shape, changedIn(pair));
  },
};

/** `Which picture has a red circle?`, where one only has. */
export const whichPicture: PairKind = {
  name: 'whichPicture',
  answers: () => PICTURES,
  plan: (random, options) => ({
    change: pick(
      random,
      changesOf(options).filter((known) => known !== 'place'),
    ),
  }),
  ask(random, pair, _options, wanted) {
    const { left, right } = pair;
    const candidates = [left, right].flatMap((object) =>
      object === undefined ? [] : onlyInOne(pair, object),
    );
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const an = withArticle(nameOf(chosen.descriptor));
    const about = fittingInBoth(pair, chosen.descriptor);
    return exactTurn('whichPicture', phrase(random, 'whichPicture', { an }), chosen.answer, about);
  },
};

/** Descriptors of the object that fit something in one picture and nothing in the other. */
function onlyInOne(pair: Pair, object: SceneObject): { descriptor: Descriptor; answer: Picture }[] {
  const key = pair.change === 'size' ? 'size' : pair.change === 'pattern' ? 'texture' : 'colour';
  if (key === 'texture' && object.texture === 'plain') return [];
  const descriptor = describe(object, key, 'shape');
  const [inLeft, inRight] = pair.panels.map((panel) => countOf(panel, descriptor) > 0);
  if (inLeft === inRight) return [];
  return [{ descriptor, answer: inLeft ? 'left' : 'right' }];
}

/** `Which picture has more objects?` */
export const morePicture: PairKind = {
  name: 'morePicture',
  answers: ({ maxObjects }) => (maxObjects > 1 ? PICTURES : []),
  plan: () => ({ change: 'number' }),
  ask(random, pair, _options, wanted) {
    const [left, right] = pair.panels;
    if (left.objects.length === right.objects.length) return undefined;
    const answer = left.objects.length > right.objects.length ? 'left' : 'right';
    if (wanted !== undefined && wanted !== answer) return undefined;
    return exactTurn('morePicture', phrase(random, 'morePicture'), answer, fittingInBoth(pair, {}));
  },
};

/** `What colour is the star in the left picture?` */
export const colourIn: PairKind = {
  name: 'colourIn',
  answers: coloursOf,
  plan: (random, _options, wanted) => ({
    focus: { colour: wanted as Colour },
    ...(pick(random, [true, false]) ? { change: 'colour' as const } : {}),
  }),
  ask(random, pair, _options, wanted) {
    const candidates = PICTURES.flatMap((side) =>
      uniqueIn(panelOf(pair, side), 'shape').map((object) => ({ side, object, answer: object.colour })),
    );
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const slots = { a: chosen.object.shape, side: chosen.side };
    return exactTurn('colourIn', phrase(random, 'colourIn', slots), chosen.answer, [chosen.object]);
  },
};

/** `How many red circles are in the right picture?` */
export const countIn: PairKind = {
  name: 'countIn',
  answers: ({ maxObjects }) => numbers(0, Math.min(maxObjects, MOST_IN_HALF)),
  plan: (random, options, wanted) => countInPlan(random, options, Number(wanted)),
  ask(random, pair, options, wanted) {
    const side = pick(random, PICTURES);
    const groups = countables(options).map((descriptors) =>
      descriptors.map((descriptor) => ({
        descriptor,
        answer: String(countOf(panelOf(pair, side), descriptor)),
      })),
    );
    const [pairs = [], colours = [], shapes = [], all = []] = groups;
    const feasible = (
      [
        [pairs, 4],
        [colours, 2],
        [shapes, 2],
        [all, 1],
      ] as const
    ).filter(([group]) => wanted === undefined || group.some(({ answer }) => answer === wanted));
    if (feasible.length === 0) return undefined;
    const chosen = choose(random, pickWeighted(random, feasible), wanted);
    if (chosen === undefined) return undefined;
    const slots = { as: pluralOf(chosen.descriptor), side };
    const about = fitting(panelOf(pair, side), chosen.descriptor);
    return exactTurn('countIn', phrase(random, 'countIn', slots), chosen.answer, about);
  },
};

/** Equal objects beside the one that differs: the count asked for, or one less where that one counts too. */
function countInPlan(random: Random, options: SynthOptions, wanted: number): PairPlan {
  const colour = pick(random, coloursOf(options));
  const most = Math.min(options.maxObjects, MOST_IN_HALF) - 1;
  const others = Math.min(Math.max(0, wanted - random.integer(2)), most);
  const draft = random.integer(2) === 0 ? { colour } : { colour, shape: pick(random, shapesOf(options)) };
  return { focus: { colour }, others: Array.from({ length: others }, () => draft) };
}

/** `Is a red circle in both pictures?` */
export const inBoth: PairKind = {
  name: 'inBoth',
  answers: () => YES_NO,
  plan: (random) => ({ change: pick(random, ['colour', 'shape', 'number'] as const) }),
  ask(random, pair, _options, wanted) {
    const { panels } = pair;
    const [left, right] = panels;
    const candidates = [...left.objects, ...right.objects].map((object) => {
      const descriptor = describe(object, 'colour', 'shape');
      const both = panels.every((panel) => countOf(panel, descriptor) > 0);
      return { descriptor, answer: both ? 'yes' : 'no' };
    });
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const an = withArticle(nameOf(chosen.descriptor));
    const about = fittingInBoth(pair, chosen.descriptor);
    return exactTurn('inBoth', phrase(random, 'inBoth', { an }), chosen.answer, about);
  },
};

/** `Do both pictures have the same number of objects?` */
export const sameNumber: PairKind = {
  name: 'sameNumber',
  answers: ({ maxObjects }) => (maxObjects > 1 ? YES_NO : []),
  plan: (random, options, wanted) => ({
    change:
      wanted === 'no'
        ? 'number'
        : pick(
            random,
            changesOf(options).filter((known) => known !== 'number'),
          ),
  }),
  ask(random, pair, _options, wanted) {
    const [left, right] = pair.panels;
    const answer = left.objects.length === right.objects.length ? 'yes' : 'no';
    if (wanted !== undefined && wanted !== answer) return undefined;
    return exactTurn('sameNumber', phrase(random, 'sameNumber'), answer, fittingInBoth(pair, {}));
  },
};
