/** Questions about single objects and how many there are. Knows nothing of pixels. */
import type { Random } from '../../common/random.ts';
import { coloursOf, type Plan, shapesOf } from './build.ts';
import { between, chance, pick, pickWeighted } from './choose.ts';
import {
  countOf,
  type Descriptor,
  describe,
  fitting,
  nameOf,
  placeOf,
  placeOfCell,
  plural,
  pluralOf,
  uniqueIn,
  withArticle,
} from './facts.ts';
import { choose, exactTurn, type Kind, numbers, YES_NO } from './kind.ts';
import { type PhraseName, phrase } from './phrases.ts';
import {
  CELLS,
  type Panel,
  PLACES,
  type SceneObject,
  type Shape,
  SIZES,
  type Size,
  type SynthOptions,
  TEXTURES,
  type Texture,
} from './scene.ts';

/** A shape that occurs once, and what else there may be. */
export function single(random: Random, options: SynthOptions, fixed: Partial<SceneObject>): Plan {
  const shape = pick(random, shapesOf(options));
  return { objects: [{ ...fixed, shape }], admit: (object) => object.shape !== shape };
}

/** A kind that asks one attribute of an object named by its shape, or by the colour with the shape. */
function attributeKind(
  name: PhraseName,
  read: (object: SceneObject) => string | undefined,
  answers: Kind['answers'],
  fixed: (answer: string, random: Random) => Partial<SceneObject>,
  keys: readonly (keyof Descriptor)[] = ['shape'],
): Kind {
  return {
    name,
    answers,
    plan: (random, options, wanted) => single(random, options, fixed(wanted, random)),
    ask(random, panel, _options, wanted) {
      const candidates = uniqueIn(panel, ...keys).flatMap((object) => {
        const answer = read(object);
        return answer === undefined ? [] : [{ answer, object }];
      });
      const chosen = choose(random, candidates, wanted);
      if (chosen === undefined) return undefined;
      const a = nameOf(describe(chosen.object, ...keys));
      return exactTurn(name, phrase(random, name, { a }), chosen.answer, [chosen.object]);
    },
  };
}

export const colour = attributeKind(
  'colour',
  (object) => object.colour,
  coloursOf,
  (answer) => ({ colour: answer as SceneObject['colour'] }),
);

export const size = attributeKind(
  'size',
  (object) => object.size,
  () => SIZES,
  (answer) => ({ size: answer as Size }),
);

export const pattern = attributeKind(
  'pattern',
  (object) => object.texture,
  ({ textures }) => (textures ? TEXTURES : []),
  (answer) => ({ texture: answer as Texture }),
);

export const place = attributeKind(
  'place',
  placeOf,
  () => PLACES,
  (answer, random) => ({
    cell: pick(
      random,
      CELLS.filter((cell) => placeOfCell(cell) === answer),
    ),
  }),
);

/** `What shape is the red object?` */
export const shape: Kind = {
  name: 'shape',
  answers: shapesOf,
  plan(random, options, wanted) {
    const only = pick(random, coloursOf(options));
    return { objects: [{ colour: only, shape: wanted as Shape }], admit: (object) => object.colour !== only };
  },
  ask(random, panel, options, wanted) {
    const level = shapesOf(options);
    const candidates = (['colour', 'size', 'texture'] as const)
      .filter((key) => key !== 'size' || panel.objects.length > 1)
      .flatMap((key) => uniqueIn(panel, key).map((object) => ({ object, key, answer: object.shape })))
      .filter(
        ({ object, key }) =>
          (key !== 'texture' || object.texture !== 'plain') && level.includes(object.shape),
      );
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const a = nameOf(describe(chosen.object, chosen.key));
    return exactTurn('shape', phrase(random, 'shape', { a }), chosen.answer, [chosen.object]);
  },
};

/** All that can be counted: by colour and shape, by one of them, everything. */
export function countables(options: SynthOptions): Descriptor[][] {
  const [colours, shapes] = [coloursOf(options), shapesOf(options)];
  return [
    colours.flatMap((colour) => shapes.map((shape) => ({ colour, shape }))),
    colours.map((colour) => ({ colour })),
    shapes.map((shape) => ({ shape })),
    [{}],
  ];
}

/** `How many red circles are there?` and the like. */
export const count: Kind = {
  name: 'count',
  answers: ({ maxObjects }) => numbers(0, maxObjects),
  plan(random, options, wanted) {
    const focus = pickWeighted<Descriptor>(random, [
      [{ colour: pick(random, coloursOf(options)), shape: pick(random, shapesOf(options)) }, 6],
      [{ colour: pick(random, coloursOf(options)) }, 2],
      [{ shape: pick(random, shapesOf(options)) }, 2],
    ]);
    return countPlan(options, focus, Number(wanted), random);
  },
  ask(random, panel, options, wanted) {
    const classes = countables(options).map((descriptors) =>
      descriptors.map((descriptor) => ({ descriptor, answer: String(countOf(panel, descriptor)) })),
    );
    const weights = [7, 2, 2, 1];
    const feasible = classes
      .map((candidates, i) => [candidates, weights[i] ?? 1] as const)
      .filter(([candidates]) => wanted === undefined || candidates.some(({ answer }) => answer === wanted));
    if (feasible.length === 0) return undefined;
    const chosen = choose(random, nearMisses(random, panel, pickWeighted(random, feasible)), wanted);
    if (chosen === undefined) return undefined;
    const as = pluralOf(chosen.descriptor);
    const about = fitting(panel, chosen.descriptor);
    return exactTurn('count', phrase(random, 'count', { as }), chosen.answer, about);
  },
};

/** `wanted` objects that fit the focus, and others that share at most a part of it. */
export function countPlan(options: SynthOptions, focus: Descriptor, wanted: number, random: Random): Plan {
  const { colour, shape } = focus;
  const draft = { ...(colour && { colour }), ...(shape && { shape }) };
  return {
    objects: Array.from({ length: wanted }, () => draft),
    total: between(random, Math.max(options.minObjects, wanted), options.maxObjects),
    admit: (object) =>
      (colour !== undefined && object.colour !== colour) || (shape !== undefined && object.shape !== shape),
  };
}

/** Of what is absent, mostly that of which the colour or the shape is there. */
function nearMisses<T extends { readonly descriptor: Descriptor; readonly answer: string }>(
  random: Random,
  panel: Panel,
  candidates: readonly T[],
): readonly T[] {
  if (chance(random, 0.25)) return candidates;
  const { objects } = panel;
  const close = candidates.filter(
    ({ answer, descriptor: { colour, shape } }) =>
      answer !== '0' || objects.some((object) => object.colour === colour || object.shape === shape),
  );
  return close.some(({ answer }) => answer === '0') ? close : candidates;
}

/** `Is there a red circle?` */
export const exists: Kind = {
  name: 'exists',
  answers: () => YES_NO,
  plan: () => ({}),
  ask(random, panel, options, wanted) {
    const groups = countables(options).slice(0, 3);
    const [pairs = [], colours = [], shapes = []] = groups;
    const group = pickWeighted(random, [
      [pairs, 5],
      [colours, 1],
      [shapes, 2],
    ]);
    const candidates = group.map((descriptor) => {
      const present = countOf(panel, descriptor) > 0;
      return { descriptor, answer: present ? 'yes' : 'no', present };
    });
    const misses = nearMisses(
      random,
      panel,
      candidates.map((candidate) => ({ ...candidate, answer: candidate.present ? '1' : '0' })),
    );
    const close = misses.map((candidate) => ({ ...candidate, answer: candidate.present ? 'yes' : 'no' }));
    const chosen = choose(random, close, wanted);
    if (chosen === undefined) return undefined;
    const an = withArticle(nameOf(chosen.descriptor));
    const about = fitting(panel, chosen.descriptor);
    return exactTurn('exists', phrase(random, 'exists', { an }), chosen.answer, about);
  },
};

/** `Are there more circles than squares?` */
export const more: Kind = {
  name: 'more',
  answers: () => YES_NO,
  plan: (_random, options) => ({ total: options.maxObjects }),
  ask(random, panel, _options, wanted) {
    const key = pick(random, ['shape', 'colour'] as const);
    const values = [...new Set(panel.objects.map((object) => object[key]))];
    const tally = new Map(values.map((value) => [value, countOf(panel, { [key]: value })]));
    const candidates = values.flatMap((a) =>
      values
        .filter((b) => b !== a)
        .map((b) => ({ a, b, answer: (tally.get(a) ?? 0) > (tally.get(b) ?? 0) ? 'yes' : 'no' })),
    );
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const named = (value: string) => plural(key === 'shape' ? value : `${value} object`);
    const question = phrase(random, 'more', { as: named(chosen.a), bs: named(chosen.b) });
    const about = [chosen.a, chosen.b].flatMap((value) => fitting(panel, { [key]: value }));
    return exactTurn('more', question, chosen.answer, about);
  },
};

/** `Which is in front, the circle or the square?` */
export const front: Kind = {
  name: 'front',
  answers: (options) => (options.overlaps && options.maxObjects > 1 ? shapesOf(options) : []),
  plan(random, options, wanted) {
    const back = pick(
      random,
      shapesOf(options).filter((shape) => shape !== wanted),
    );
    return overlapPlan(random, options, back, wanted as Shape);
  },
  ask(random, panel, _options, wanted) {
    const { overlap, objects } = panel;
    const [a, b] = overlap ? [objects[overlap.front], objects[overlap.back]] : [];
    const unique = uniqueIn(panel, 'shape');
    if (a === undefined || b === undefined || !unique.includes(a) || !unique.includes(b)) return undefined;
    if (wanted !== undefined && wanted !== a.shape) return undefined;
    const [first, second] = chance(random, 0.5) ? [a, b] : [b, a];
    const slots = { a: first.shape, b: second.shape };
    return exactTurn('front', phrase(random, 'front', slots), a.shape, [a]);
  },
};

/** Two unlike shapes of unlike colours, the second smaller and in front. */
export function overlapPlan(random: Random, options: SynthOptions, back: Shape, front: Shape): Plan {
  const colours = random.shuffle<SceneObject['colour'], SceneObject['colour'][]>([...coloursOf(options)]);
  const [one = 'red', other = 'green'] = colours;
  const [big, small] = pick(random, [
    ['large', 'medium'],
    ['large', 'small'],
    ['medium', 'small'],
  ] as const);
  return {
    overlap: true,
    objects: [
      { shape: back, colour: one, size: big },
      { shape: front, colour: other, size: small },
    ],
    total: between(random, Math.min(options.minObjects, 4), Math.min(options.maxObjects, 4)),
    admit: ({ shape }) => shape !== back && shape !== front,
  };
}
