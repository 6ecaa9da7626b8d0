/**
 * Every answer is right and the only one, by a second opinion: a reader that shares no code with the generators,
 * parses the English, recounts and remeasures, and complains where a question has no answer or more than one.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CATEGORIES, type Category, evalQuestions, QA_CATEGORIES, type Sample, sampleAt } from './sample.ts';
import {
  COLOURS,
  type Panel,
  type Scene,
  type SceneObject,
  SHAPES,
  SIZES,
  type SynthOptions,
  TEXTURES,
} from './scene.ts';

const PLACE_NAMES = 'top left,top right,bottom left,bottom right'.split(',');
const FAR = 150;

/** The objects that a phrase such as "large red circles" or "an object" fits. */
function named(panel: Panel, text: string): SceneObject[] {
  const words = text
    .replace(/\b(the|an|a|other)\b/g, ' ')
    .trim()
    .split(/\s+/);
  return panel.objects.filter((object) =>
    words.every((word) => {
      const one = word.replace(/^crosses$/, 'cross').replace(/^(?!cross$)(\w+)s$/, '$1');
      if (one === 'object') return true;
      const lists = { colour: COLOURS, shape: SHAPES, size: SIZES, texture: TEXTURES };
      const found = Object.entries(lists).find(([, list]) => (list as readonly string[]).includes(one));
      if (!found) throw new Error(`oracle: what is '${word}' in '${text}'?`);
      return object[found[0] as keyof SceneObject] === one;
    }),
  );
}

function theOnly<T>(items: readonly T[], what: string): T {
  if (items.length !== 1) throw new Error(`oracle: ${what}: ${items.length} candidates`);
  return items[0] as T;
}

const the = (panel: Panel, text: string) => theOnly(named(panel, text), text);

/** Positive where a is on that side of b; throws where they are about level. */
function isBeside(a: { x: number; y: number }, b: { x: number; y: number }, side: string): boolean {
  const along = /left/.test(side)
    ? b.x - a.x
    : /right/.test(side)
      ? a.x - b.x
      : side === 'above'
        ? b.y - a.y
        : a.y - b.y;
  if (Math.abs(along) < FAR) throw new Error(`oracle: ${side} is unclear (${along})`);
  return along > 0;
}

const yesNo = (value: boolean) => (value ? 'yes' : 'no');
const others = (panel: Panel, object: SceneObject) => panel.objects.filter((other) => other !== object);

function most(panel: Panel, key: 'colour' | 'shape'): string {
  const counts = new Map<string, number>();
  for (const object of panel.objects) counts.set(object[key], (counts.get(object[key]) ?? 0) + 1);
  const top = Math.max(...counts.values());
  return theOnly(
    [...counts].filter(([, n]) => n === top),
    'most frequent',
  )[0];
}

function end(panel: Panel, name: string): SceneObject {
  const rank: Record<string, (o: SceneObject) => number> = {
    leftmost: (o) => -o.x,
    rightmost: (o) => o.x,
    highest: (o) => -o.y,
    lowest: (o) => o.y,
    largest: (o) => o.radius * 5,
  };
  const sorted = [...panel.objects].sort((a, b) => rank[name]!(b) - rank[name]!(a));
  const gap = rank[name]!(sorted[0]!) - rank[name]!(sorted[1]!);
  if (gap < (name === 'largest' ? 100 : FAR)) throw new Error(`oracle: ${name} is unclear (${gap})`);
  return sorted[0]!;
}

type Rule = readonly [RegExp, (panel: Panel, ...parts: string[]) => string];

const SIDE = '(left of|right of|above|below)';
const rule = (pattern: string, answer: Rule[1]): Rule => [new RegExp(`^${pattern}$`), answer];
const wordOf = (panel: Panel) => theOnly(panel.word ? [panel.word] : [], 'word');

const ONE: readonly Rule[] = [
  rule('Count the different colours\\.|How many different colours do the objects have\\?', (p) =>
    String(new Set(p.objects.map((o) => o.colour)).size),
  ),
  rule('(?:Count the|How many) letters (?:of|does) the word(?: have)?[.?]', (p) =>
    String(wordOf(p).text.length),
  ),
  rule(
    'With which letter does the word begin\\?|What is the first letter of the word\\?',
    (p) => wordOf(p).text[0]!,
  ),
  rule(
    'What is the last letter of the word\\?|With which letter does the word end\\?',
    (p) => wordOf(p).text.at(-1)!,
  ),
  rule(
    'What (?:word|number) is written\\?|Which (?:word|number) is in the picture\\?|Read the (?:word|number)\\.',
    (p) => wordOf(p).text,
  ),
  rule(
    '(?:What colour is the (?:word|number)|In which colour is the (?:word|number) written)\\?',
    (p) => wordOf(p).colour,
  ),
  rule('(?:Is|Does the word say) ([A-Z]+)(?: the word in the picture)?\\?', (p, w) =>
    yesNo(w === wordOf(p).text),
  ),
  rule('(?:Is the (?:word|number)|Where is the (?:word|number),) above or below the (.+)\\?', (p, b) =>
    isBeside(wordOf(p), the(p, b), 'above') ? 'above' : 'below',
  ),
  rule('(?:Which colour appears most often|What is the most frequent colour)\\?', (p) => most(p, 'colour')),
  rule('(?:Which shape appears most often|What is the most frequent shape)\\?', (p) => most(p, 'shape')),
  rule(
    '(?:What|Which) (colour|shape) (?:is|does) the (\\w+(?:st|most)) object(?: have)?\\?',
    (p, key, name) => String(end(p, name)[key as 'colour']),
  ),
  rule(`(?:What|Which) colour (?:is|does) the object ${SIDE} the (.+?)(?: have)?\\?`, (p, side, b) => {
    const anchor = the(p, b);
    return theOnly(
      others(p, anchor).filter((o) => isBeside(o, anchor, side)),
      side,
    ).colour;
  }),
  rule(`(?:How many|Count the) objects (?:are )?${SIDE} the (.+)[?.]`, (p, side, b) => {
    const anchor = the(p, b);
    return String(others(p, anchor).filter((o) => isBeside(o, anchor, side)).length);
  }),
  rule(
    '(?:How many other objects have the same colour as|Count the other objects with the colour of) the (.+)[?.]',
    (p, a) => {
      const object = the(p, a);
      return String(others(p, object).filter((o) => o.colour === object.colour).length);
    },
  ),
  rule('(?:How many objects are not|Count the objects that are not) (\\w+)[?.]', (p, c) =>
    String(p.objects.length - named(p, `${c} object`).length),
  ),
  rule('(?:Do|Are) the (.+) and the (.+) (?:have the same colour|equal in colour)\\?', (p, a, b) =>
    yesNo(the(p, a).colour === the(p, b).colour),
  ),
  rule('(?:How many|Count the) (.+) and (.+?) (?:are there )?together[?.]', (p, a, b) =>
    String(named(p, a).length + named(p, b).length),
  ),
  rule('(?:Are there|Do you see) more (.+) than (.+)\\?', (p, a, b) =>
    yesNo(named(p, a).length > named(p, b).length),
  ),
  rule('Which (?:is in front|covers the other), the (.+) or the (.+)\\?', (p, a, b) => {
    const [first, second] = [the(p, a), the(p, b)];
    const distance = Math.hypot(first.x - second.x, first.y - second.y);
    if (distance > first.radius + second.radius) throw new Error('oracle: they do not overlap');
    return p.objects.indexOf(first) > p.objects.indexOf(second) ? first.shape : second.shape;
  }),
  rule('Is the (.+) left or right of the (.+)\\?', (p, a, b) =>
    isBeside(the(p, a), the(p, b), 'left') ? 'left' : 'right',
  ),
  rule('On which side of the (.+) is the (.+), left or right\\?', (p, b, a) =>
    isBeside(the(p, a), the(p, b), 'left') ? 'left' : 'right',
  ),
  rule('(?:Is|Where is) the (.+?),? above or below the (.+)\\?', (p, a, b) =>
    isBeside(the(p, a), the(p, b), 'above') ? 'above' : 'below',
  ),
  rule(`(?:Is|Does) the (\\w+) (?:lie )?${SIDE} the (.+)\\?`, (p, a, side, b) =>
    yesNo(isBeside(the(p, a), the(p, b), side)),
  ),
  rule('(?:Is there|Do you see) (an? .+)\\?', (p, a) => yesNo(named(p, a).length > 0)),
  rule('Is (an? .+) in the picture\\?', (p, a) => yesNo(named(p, a).length > 0)),
  rule(
    '(?:What colour is|Which colour does|Name the colour of) the (.+?)(?: have)?[?.]',
    (p, a) => the(p, a).colour,
  ),
  rule(
    '(?:What shape is|Which shape does|Name the shape of) the (.+?)(?: have)?[?.]',
    (p, a) => the(p, a).shape,
  ),
  rule('(?:What size is|How big is|Name the size of) the (.+)[?.]', (p, a) => the(p, a).size),
  rule(
    '(?:What pattern does|Which pattern is on|Name the pattern of) the (.+?)(?: have)?[?.]',
    (p, a) => the(p, a).texture,
  ),
  rule('(?:Where is|In which part of the picture is|Name the place of) the (.+)[?.]', (p, a) => {
    const { x, y } = the(p, a);
    const [column, row] = [Math.floor((2 * x) / 1000), Math.floor((2 * y) / 1000)];
    return PLACE_NAMES[2 * row + column]!;
  }),
  rule('How many (.+) (?:are there|do you see)\\?', (p, a) => String(named(p, a).length)),
  rule('Count the (.+)\\.', (p, a) => String(named(p, a).length)),
];

/** What differs, found by comparing the pictures object by object. */
function difference(left: Panel, right: Panel): { change: string; shape?: string } {
  if (left.objects.length !== right.objects.length) return { change: 'number' };
  const changes = left.objects.flatMap((a, i) => {
    const b = right.objects[i]!;
    const size = a.size !== b.size;
    const found = [
      ...(a.colour === b.colour ? [] : ['colour']),
      ...(a.shape === b.shape ? [] : ['shape']),
      ...(size ? ['size'] : []),
      ...(a.texture === b.texture ? [] : ['pattern']),
      ...(Math.hypot(a.x - b.x, a.y - b.y) > 100 ? ['place'] : []),
    ];
    return found.map((change) => ({ change, shape: a.shape }));
  });
  return theOnly(changes, 'change');
}

type PairRule = readonly [RegExp, (left: Panel, right: Panel, ...parts: string[]) => string];
const pairRule = (pattern: string, answer: PairRule[1]): PairRule => [new RegExp(`^${pattern}$`), answer];

const TWO: readonly PairRule[] = [
  pairRule(
    '(?:Which property is different in the two pictures|What changes from one picture to the other|Name the property that changes)[?.]',
    (l, r) => difference(l, r).change,
  ),
  pairRule('(?:Which shape changes its|Whose) (\\w+)(?: is different)?\\?', (l, r, key) => {
    const found = difference(l, r);
    if (found.change !== key) throw new Error(`oracle: ${found.change}, not ${key}`);
    the(l, found.shape!);
    return found.shape!;
  }),
  pairRule('(?:Which picture has|In which picture are) more objects\\?', (l, r) =>
    l.objects.length > r.objects.length ? 'left' : 'right',
  ),
  pairRule(
    '(?:Which picture has|In which picture is) (an? .+)\\?',
    (l, r, a) =>
      theOnly(
        [['left', l] as const, ['right', r] as const].filter(([, p]) => named(p, a).length > 0),
        a,
      )[0],
  ),
  pairRule(
    '(?:What colour is|Name the colour of) the (.+) (?:in|on) the (left|right)(?: picture)?[?.]',
    (l, r, a, side) => the(side === 'left' ? l : r, a).colour,
  ),
  pairRule('(?:How many|Count the) (.+?) (?:are in|on) the (left|right)(?: picture)?[?.]', (l, r, a, side) =>
    String(named(side === 'left' ? l : r, a).length),
  ),
  pairRule('(?:Is|Do both pictures have) (an? .+?)(?: in both pictures)?\\?', (l, r, a) =>
    yesNo([l, r].every((p) => named(p, a).length > 0)),
  ),
  pairRule(
    'Do both pictures have the same number of objects\\?|Are there equally many objects in both\\?',
    (l, r) => yesNo(l.objects.length === r.objects.length),
  ),
];

/** The one right answer. @throws where the text is not understood or has no single answer */
function oracle(scene: Scene, question: string): string {
  const choice = /^(.*) A\. (.+) B\. (.+) C\. (.+) D\. (.+)$/.exec(question);
  if (choice) return letterOf(scene, choice[1]!, choice.slice(2));
  const [left, right] = scene.panels;
  if (right) {
    for (const [pattern, answer] of TWO) {
      const match = pattern.exec(question);
      if (match) return answer(left, right, ...match.slice(1));
    }
  } else {
    for (const [pattern, answer] of ONE) {
      const match = pattern.exec(question);
      if (match) return answer(left, ...match.slice(1));
    }
  }
  throw new Error(`oracle: cannot read '${question}'`);
}

function letterOf(scene: Scene, stem: string, options: readonly string[]): string {
  const [panel] = scene.panels;
  if (new Set(options).size < 4) throw new Error(`oracle: options recur: ${options.join(', ')}`);
  const isPresence = /^(Which of these is in the picture|What do you see)\?$/.test(stem);
  const right = isPresence
    ? theOnly(
        options.filter((option) => named(panel, option).length > 0),
        stem,
      )
    : oracle(scene, stem);
  return 'ABCD'[options.indexOf(right)]!;
}

/** Every level a curriculum may use. */
const levels = fc
  .record({
    maxObjects: fc.integer({ min: 2, max: 5 }),
    shapes: fc.integer({ min: 2, max: 8 }),
    colours: fc.integer({ min: 2, max: 8 }),
    words: fc.boolean(),
    textures: fc.boolean(),
    overlaps: fc.boolean(),
    extraTurns: fc.integer({ min: 0, max: 4 }),
    single: fc.boolean(),
    kinds: fc.constantFrom({}, { beside: 9, placeChoice: 5, change: 3 }),
  })
  .chain((options) =>
    fc
      .integer({ min: 1, max: options.maxObjects })
      .map((minObjects): SynthOptions => ({ ...options, minObjects })),
  );

const anySample = fc.record({
  category: fc.constantFrom(...CATEGORIES),
  seed: fc.integer(),
  index: fc.nat(),
  options: levels,
});

const each = (category: Category, count: number, make: (sample: Sample) => void, seed = 3) => {
  for (let index = 0; index < count; index++) make(sampleAt(category, 'train', seed, index));
};

describe('the answers', () => {
  it('are those of an independent reader of question and scene', () => {
    for (const category of QA_CATEGORIES) {
      each(category, 700, ({ id, scene, turns }) => {
        for (const { question, answer, exact } of turns) {
          if (exact)
            expect(`${id} ${question} ${oracle(scene, question)}`).toBe(`${id} ${question} ${answer}`);
        }
      });
    }
  });

  it('are single at any level, and the scenes keep to the level', () => {
    fc.assert(
      fc.property(anySample, ({ category, seed, index, options }) => {
        const { scene, turns } = sampleAt(category, 'test', seed, index, options);
        expect(turns.length).toBeGreaterThan(0);
        for (const { question, answer, exact } of turns) {
          if (exact) expect(oracle(scene, question)).toBe(answer);
        }
        for (const panel of scene.panels) expectLevel(panel, options);
      }),
      { numRuns: 3000 },
    );
  });

  function expectLevel({ objects, overlap }: Panel, options: SynthOptions): void {
    expect(objects.length).toBeLessThanOrEqual(options.maxObjects);
    expect(objects.length).toBeGreaterThanOrEqual(Math.min(options.minObjects, 4) - 1);
    if (!options.overlaps) expect(overlap).toBeUndefined();
    for (const { shape, colour, texture, radius } of objects) {
      expect(
        ['circle', 'square', 'triangle', 'star', 'cross', 'heart', 'ring', 'moon'].indexOf(shape),
      ).toBeLessThan(options.shapes);
      expect(
        ['red', 'green', 'blue', 'yellow', 'purple', 'orange', 'cyan', 'pink'].indexOf(colour),
      ).toBeLessThan(options.colours);
      if (!options.textures) expect(texture).toBe('plain');
      expect(2 * radius).toBeGreaterThanOrEqual(100);
    }
  }

  it('are single in evaluations too', () => {
    for (const { scene, question, answer } of evalQuestions('test', 12, 1400)) {
      expect(oracle(scene, question)).toBe(answer);
    }
  });

  it('agree with the captions', () => {
    each('SynthCount', 300, ({ scene, turns: [turn] }) => {
      const parts = turn!.answer
        .replace(/^There (?:is|are) (?:\d objects?: )?/, '')
        .match(/\d [a-z ]+?(?=,| and|\.)/g)!;
      const total = parts.reduce((sum, part) => {
        const [, n, name] = /^(\d) (.+)$/.exec(part)!;
        expect(oracle(scene, `Count the ${name}.`)).toBe(n);
        return sum + Number(n);
      }, 0);
      expect(total).toBe(scene.panels[0].objects.length);
    });
    each('SynthSpatial', 300, ({ scene, turns: [turn] }) => {
      for (const [, a, side, b] of turn!.answer.matchAll(
        /An? ([a-z ]+) is (left of|right of|above|below) an? ([a-z ]+)\./g,
      )) {
        expect(oracle(scene, `How many ${a} are there?`)).toBe('1');
        const [first, second] = [a, b].map((name) => find(scene, name!));
        const along =
          side === 'left of'
            ? second!.x - first!.x
            : side === 'right of'
              ? first!.x - second!.x
              : side === 'above'
                ? second!.y - first!.y
                : first!.y - second!.y;
        expect(along).toBeGreaterThan(150);
      }
    });
  });

  function find(scene: Scene, name: string) {
    return scene.panels[0].objects.find(({ colour, shape }) => name === `${colour} ${shape}`);
  }

  it('are refused by the reader where a question has none or several', () => {
    const { scene } = sampleAt('SynthColor', 'train', 0, 0, { shapes: 2, minObjects: 4 });
    expect(() => oracle(scene, 'What colour is the object?')).toThrow(/4 candidates|5 candidates/);
    expect(() => oracle(scene, 'Why is the circle red?')).toThrow(/cannot read/);
  });
});
