/** Questions about where objects are, relative to each other. Knows nothing of pixels. */
import type { Random } from '../../common/random.ts';
import { coloursOf, type Draft, type Plan, shapesOf } from './build.ts';
import { between, chance, pick, some } from './choose.ts';
import { CLEAR, objectsBeside, offset, SIDE_NAMES, SIDES, type Side, uniqueIn } from './facts.ts';
import { choose, exactTurn, type Kind, numbers, YES_NO } from './kind.ts';
import { type PhraseName, phrase } from './phrases.ts';
import {
  CELLS,
  type Panel,
  type SceneObject,
  SHAPES,
  type Shape,
  type SynthOptions,
  WHOLE_GRID,
} from './scene.ts';

/** Cells of the whole picture on `side` of the row or column of `anchor`. */
function cellsBeside(side: Side, anchor: number): number[] {
  return CELLS.filter((cell) => offset(side, cellPoint(cell), cellPoint(anchor)) > 0);
}

function cellPoint(cell: number): { x: number; y: number } {
  return { x: cell % WHOLE_GRID.columns, y: Math.floor(cell / WHOLE_GRID.columns) };
}

const OPPOSITE: Readonly<Record<Side, Side>> = {
  left: 'right',
  right: 'left',
  above: 'below',
  below: 'above',
};

/** Two shapes that occur once each, the first on `side` of the second. */
function pairPlan(random: Random, options: SynthOptions, side: Side): Plan {
  const [a = 'circle', b = 'square'] = some(random, shapesOf(options), 2);
  const anchors = CELLS.filter((cell) => cellsBeside(side, cell).length > 0);
  const anchor = pick(random, anchors);
  return {
    objects: [
      { shape: a, cell: pick(random, cellsBeside(side, anchor)) },
      { shape: b, cell: anchor },
    ],
    admit: ({ shape }) => shape !== a && shape !== b,
  };
}

interface ShapePair {
  readonly a: SceneObject;
  readonly b: SceneObject;
}

/** Ordered pairs of shapes that occur once each and are clearly apart along one axis. */
function pairsApart(panel: Panel, axis: 'x' | 'y'): ShapePair[] {
  const unique = uniqueIn(panel, 'shape');
  return unique.flatMap((a) =>
    unique.filter((b) => b !== a && Math.abs(a[axis] - b[axis]) >= CLEAR).map((b) => ({ a, b })),
  );
}

/** `Is the circle left or right of the square?` and the same for above and below. */
function eitherSide(name: PhraseName, axis: 'x' | 'y', sides: readonly [Side, Side]): Kind {
  return {
    name,
    answers: ({ maxObjects }) => (maxObjects > 1 ? sides : []),
    plan: (random, options, wanted) => pairPlan(random, options, wanted as Side),
    ask(random, panel, _options, wanted) {
      const candidates = pairsApart(panel, axis).map(({ a, b }) => ({
        a,
        b,
        answer: a[axis] < b[axis] ? sides[0] : sides[1],
      }));
      const chosen = choose(random, candidates, wanted);
      if (chosen === undefined) return undefined;
      const { a, b, answer } = chosen;
      return exactTurn(name, phrase(random, name, { a: a.shape, b: b.shape }), answer, [a, b]);
    },
  };
}

export const leftOrRight = eitherSide('leftOrRight', 'x', ['left', 'right']);
export const aboveOrBelow = eitherSide('aboveOrBelow', 'y', ['above', 'below']);

/** `Is the circle left of the square?` */
export const beside: Kind = {
  name: 'beside',
  answers: ({ maxObjects }) => (maxObjects > 1 ? YES_NO : []),
  plan: (random, options) => pairPlan(random, options, pick(random, SIDES)),
  ask(random, panel, _options, wanted) {
    const side = pick(random, SIDES);
    const axis = side === 'left' || side === 'right' ? 'x' : 'y';
    const candidates = pairsApart(panel, axis).map(({ a, b }) => ({
      a,
      b,
      answer: offset(side, a, b) > 0 ? 'yes' : 'no',
    }));
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const { a, b, answer } = chosen;
    const slots = { a: a.shape, b: b.shape, side: SIDE_NAMES[side] };
    return exactTurn('beside', phrase(random, 'beside', slots), answer, [a, b]);
  },
};

/** `count` objects on one side of a shape that occurs once, the others opposite, none in between. */
function besidePlan(random: Random, options: SynthOptions, wanted: number): Plan {
  const total = between(random, Math.max(options.minObjects, wanted + 1), options.maxObjects);
  const shape = pick(random, shapesOf(options));
  const others = total - 1 - wanted;
  const room = (cells: readonly number[], needed: number) => cells.length >= needed;
  const choices = SIDES.flatMap((side) =>
    CELLS.map((anchor) => ({
      anchor,
      there: cellsBeside(side, anchor),
      opposite: cellsBeside(OPPOSITE[side], anchor),
    })),
  ).filter(({ there, opposite }) => room(there, wanted) && room(opposite, others));
  const { anchor, there, opposite } = pick(random, choices);
  const cells = [...some(random, there, wanted), ...some(random, opposite, others)];
  const rest = SHAPES.slice(0, options.shapes).filter((other) => other !== shape);
  const drafts: Draft[] = cells.map((cell) => ({ cell, shape: pick(random, rest) }));
  return { objects: [{ shape, cell: anchor }, ...drafts], total };
}

interface Beside {
  readonly side: Side;
  readonly anchor: Shape;
  readonly objects: readonly SceneObject[];
}

/** All that can be said about what is on one side of a shape that occurs once. */
function allBeside(panel: Panel): Beside[] {
  return uniqueIn(panel, 'shape').flatMap((anchor) =>
    SIDES.flatMap((side) => {
      const objects = objectsBeside(panel, side, anchor);
      return objects === undefined ? [] : [{ side, anchor: anchor.shape, objects }];
    }),
  );
}

/** `How many objects are left of the star?` */
export const countBeside: Kind = {
  name: 'countBeside',
  answers: ({ maxObjects }) => numbers(0, maxObjects - 1),
  plan: (random, options, wanted) => besidePlan(random, options, Number(wanted)),
  ask(random, panel, _options, wanted) {
    const candidates = allBeside(panel).map((found) => ({ ...found, answer: String(found.objects.length) }));
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const slots = { side: SIDE_NAMES[chosen.side], b: chosen.anchor };
    return exactTurn('countBeside', phrase(random, 'countBeside', slots), chosen.answer, chosen.objects);
  },
};

/** `What colour is the object left of the star?`, where there is one only. */
export const colourBeside: Kind = {
  name: 'colourBeside',
  answers: (options) => (options.maxObjects > 1 ? coloursOf(options) : []),
  plan(random, options, wanted) {
    const plan = besidePlan(random, options, 1);
    const [anchor, other, ...rest] = plan.objects ?? [];
    return {
      ...plan,
      objects: [{ ...anchor }, { ...other, colour: wanted as SceneObject['colour'] }, ...rest],
    };
  },
  ask(random, panel, _options, wanted) {
    const candidates = allBeside(panel).flatMap(({ side, anchor, objects }) => {
      const [only, another] = objects;
      return only === undefined || another !== undefined ? [] : [{ side, anchor, only, answer: only.colour }];
    });
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const slots = { side: SIDE_NAMES[chosen.side], b: chosen.anchor };
    return exactTurn('colourBeside', phrase(random, 'colourBeside', slots), chosen.answer, [chosen.only]);
  },
};

const ENDS: Readonly<Record<Side, string>> = {
  left: 'leftmost',
  right: 'rightmost',
  above: 'highest',
  below: 'lowest',
};

/** Those that touch a side of the picture. */
const OUTER_CELLS = CELLS.filter((cell) => SIDES.some((side) => cellsBeside(side, cell).length === 0));

/** `What colour is the leftmost object?` and `What shape is the largest object?` */
export const outermost: Kind = {
  name: 'outermost',
  answers: (options) => (options.maxObjects > 1 ? [...coloursOf(options), ...shapesOf(options)] : []),
  plan(random, _options, wanted) {
    const isShape = (SHAPES as readonly string[]).includes(wanted);
    const draft: Draft = isShape ? { shape: wanted as Shape } : { colour: wanted as SceneObject['colour'] };
    if (chance(random, 0.4)) {
      return { objects: [{ ...draft, size: 'large' }], admit: ({ size }) => size !== 'large' };
    }
    return { objects: [{ ...draft, cell: pick(random, OUTER_CELLS) }] };
  },
  ask(random, panel, _options, wanted) {
    if (panel.objects.length < 2) return undefined;
    const candidates = extremes(panel).flatMap(({ end, object }) => [
      { end, object, key: 'colour', answer: object.colour as string },
      { end, object, key: 'shape', answer: object.shape as string },
    ]);
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const slots = { key: chosen.key, end: chosen.end };
    return exactTurn('outermost', phrase(random, 'outermost', slots), chosen.answer, [chosen.object]);
  },
};

/** The object that is clearly the outermost on each side, and the only one of the greatest size. */
function extremes(panel: Panel): { end: string; object: SceneObject }[] {
  const { objects } = panel;
  const outer = SIDES.flatMap((side) => {
    const object = objects.find((a) => objects.every((b) => a === b || offset(side, a, b) >= CLEAR));
    return object === undefined ? [] : [{ end: ENDS[side], object }];
  });
  const largest = objects.find((a) => objects.every((b) => a === b || a.radius > b.radius));
  return largest === undefined ? outer : [...outer, { end: 'largest', object: largest }];
}
