/** Questions that take two steps: find, then compare or count. Knows nothing of pixels. */
import { coloursOf, type Draft, type Plan, shapesOf } from './build.ts';
import { between, chance, pick, some } from './choose.ts';
import { countOf, fitting, plural, tally, uniqueIn } from './facts.ts';
import { choose, exactTurn, type Kind, numbers, YES_NO } from './kind.ts';
import { phrase } from './phrases.ts';
import type { Colour, Shape, SynthOptions } from './scene.ts';

/** `Which colour appears most often?`, `Which shape appears most often?` */
function most(key: 'colour' | 'shape'): Kind {
  const name = key === 'colour' ? 'mostColour' : 'mostShape';
  return {
    name,
    answers: (options) =>
      options.maxObjects < 3 ? [] : key === 'colour' ? coloursOf(options) : shapesOf(options),
    plan(random, options, wanted) {
      const total = between(random, Math.max(options.minObjects, 3), options.maxObjects);
      const draft: Draft = key === 'colour' ? { colour: wanted as Colour } : { shape: wanted as Shape };
      const times = between(random, 2, total - 1);
      return { objects: Array.from({ length: times }, () => draft), total, admit: (o) => o[key] !== wanted };
    },
    ask(random, panel, _options, wanted) {
      const [first, second] = [...tally(panel.objects, key)].sort(([, a], [, b]) => b - a);
      if (first === undefined || second === undefined || first[1] === second[1]) return undefined;
      if (wanted !== undefined && wanted !== first[0]) return undefined;
      return exactTurn(name, phrase(random, name), first[0], fitting(panel, { [key]: first[0] }));
    },
  };
}

export const mostColour = most('colour');
export const mostShape = most('shape');

/** `How many other objects have the same colour as the star?` */
export const sameColourCount: Kind = {
  name: 'sameColourCount',
  answers: ({ maxObjects }) => numbers(0, maxObjects - 1),
  plan(random, options, wanted) {
    const shape = pick(random, shapesOf(options));
    const colour = pick(random, coloursOf(options));
    const rest = shapesOf(options).filter((other) => other !== shape);
    const same = Array.from({ length: Number(wanted) }, () => ({ colour, shape: pick(random, rest) }));
    return {
      objects: [{ shape, colour }, ...same],
      total: between(random, Math.max(options.minObjects, same.length + 1), options.maxObjects),
      admit: (o) => o.shape !== shape && o.colour !== colour,
    };
  },
  ask(random, panel, _options, wanted) {
    const candidates = uniqueIn(panel, 'shape').map((object) => {
      const others = fitting(panel, { colour: object.colour }).filter((other) => other !== object);
      return { a: object.shape, others, answer: String(others.length) };
    });
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const slots = { a: chosen.a };
    return exactTurn(
      'sameColourCount',
      phrase(random, 'sameColourCount', slots),
      chosen.answer,
      chosen.others,
    );
  },
};

/** `Do the star and the circle have the same colour?` */
export const sameColour: Kind = {
  name: 'sameColour',
  answers: ({ maxObjects }) => (maxObjects > 1 ? YES_NO : []),
  plan(random, options, wanted) {
    const [a = 'circle', b = 'square'] = some(random, shapesOf(options), 2);
    const [one = 'red', two = 'green'] = some(random, coloursOf(options), 2);
    return {
      objects: [
        { shape: a, colour: one },
        { shape: b, colour: wanted === 'yes' ? one : two },
      ],
      admit: ({ shape }) => shape !== a && shape !== b,
    };
  },
  ask(random, panel, _options, wanted) {
    const unique = uniqueIn(panel, 'shape');
    const candidates = unique.flatMap((a) =>
      unique.filter((b) => b !== a).map((b) => ({ a, b, answer: a.colour === b.colour ? 'yes' : 'no' })),
    );
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const { a, b, answer } = chosen;
    const slots = { a: a.shape, b: b.shape };
    return exactTurn('sameColour', phrase(random, 'sameColour', slots), answer, [a, b]);
  },
};

/** `How many circles and squares are there together?` */
export const sum: Kind = {
  name: 'sum',
  answers: ({ maxObjects }) => numbers(1, maxObjects),
  plan(random, options, wanted) {
    const [a = 'circle', b = 'square'] = some(random, shapesOf(options), 2);
    return {
      objects: Array.from({ length: Number(wanted) }, () => ({ shape: chance(random, 0.5) ? a : b })),
      total: between(random, Math.max(options.minObjects, Number(wanted)), options.maxObjects),
      admit: ({ shape }) => shape !== a && shape !== b,
    };
  },
  ask(random, panel, options, wanted) {
    const present = [...new Set(panel.objects.map(({ shape }) => shape))];
    const candidates = present.flatMap((a) =>
      shapesOf(options)
        .filter((b) => b !== a)
        .map((b) => ({
          pair: chance(random, 0.5) ? [a, b] : [b, a],
          answer: String(countOf(panel, { shape: a }) + countOf(panel, { shape: b })),
        })),
    );
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const [as = '', bs = ''] = chosen.pair.map(plural);
    const about = panel.objects.filter(({ shape }) => chosen.pair.includes(shape));
    return exactTurn('sum', phrase(random, 'sum', { as, bs }), chosen.answer, about);
  },
};

/** `How many objects are not red?`, where at least one is. */
export const notColour: Kind = {
  name: 'notColour',
  answers: ({ maxObjects }) => numbers(0, maxObjects - 1),
  plan(random, options, wanted) {
    const colour = pick(random, coloursOf(options));
    const total = between(random, Math.max(options.minObjects, Number(wanted) + 1), options.maxObjects);
    const same = Array.from({ length: total - Number(wanted) }, () => ({ colour }));
    return { objects: same, total, admit: (o) => o.colour !== colour };
  },
  ask(random, panel, _options, wanted) {
    const candidates = [...tally(panel.objects, 'colour')].map(([colour, times]) => ({
      colour,
      answer: String(panel.objects.length - times),
    }));
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const slots = { colour: chosen.colour };
    const about = panel.objects.filter(({ colour }) => colour !== chosen.colour);
    return exactTurn('notColour', phrase(random, 'notColour', slots), chosen.answer, about);
  },
};

/** `How many different colours do the objects have?` */
export const colours: Kind = {
  name: 'colours',
  answers: ({ maxObjects, colours: level }) => numbers(1, Math.min(maxObjects, level)),
  plan: (random, options, wanted) => coloursPlan(some(random, coloursOf(options), Number(wanted)), options),
  ask(random, panel, _options, wanted) {
    const answer = String(tally(panel.objects, 'colour').size);
    if (panel.word !== undefined || (wanted !== undefined && wanted !== answer)) return undefined;
    return exactTurn('colours', phrase(random, 'colours'), answer, panel.objects);
  },
};

function coloursPlan(chosen: readonly Colour[], { minObjects, maxObjects }: SynthOptions): Plan {
  const least = Math.max(minObjects, chosen.length);
  return {
    objects: chosen.map((colour) => ({ colour })),
    total: Math.max(least, Math.min(maxObjects, least + 1)),
    admit: ({ colour }) => chosen.includes(colour),
  };
}
