/** The answers are right and single, the samples reproducible, the answers balanced, the splits apart. */
import { describe, expect, it } from 'vitest';
import { fromLlava } from '../conversation.ts';
import { CATEGORIES, type Category, evalQuestions, QA_CATEGORIES, type Sample, sampleAt } from './sample.ts';
import type { Panel } from './scene.ts';
import { blindBaselines } from './stats.ts';
import { vocabulary } from './vocabulary.ts';
import { wordsOf } from './words.ts';

const each = (category: Category, count: number, make: (sample: Sample) => void, seed = 3) => {
  for (let index = 0; index < count; index++) make(sampleAt(category, 'train', seed, index));
};

describe('sampleAt', () => {
  it('asks a kind more often where it is told to, and refuses kinds that there are not', () => {
    const asked = (kinds: Record<string, number>) => {
      const kindOf = (_: unknown, i: number) =>
        sampleAt('MultiChoice', 'train', 4, i, { kinds, single: true }).turns[0]?.kind;
      return Array.from({ length: 200 }, kindOf).filter((kind) => kind === 'placeChoice').length;
    };
    expect(asked({ placeChoice: 1 })).toBe(asked({}));
    expect(asked({ placeChoice: 8 })).toBeGreaterThan(2 * asked({}));
    expect(() => asked({ placeChoise: 2 })).toThrow('kinds: expected "placeChoice", got "placeChoise"');
    expect(() => asked({ placeChoice: 0.5 })).toThrow(
      'kinds: placeChoice: expected an integer from 1 to 100',
    );
  });

  it('is the same for the same name, in any order, and else different', () => {
    const names = CATEGORIES.flatMap((category) => [0, 1, 7].map((index) => ({ category, index })));
    const make = ({ category, index }: (typeof names)[number]) =>
      JSON.stringify(sampleAt(category, 'train', 9, index));
    const forwards = names.map(make);
    const backwards = [...names].reverse().map(make).reverse();
    expect(backwards).toEqual(forwards);
    expect(new Set(forwards).size).toBe(forwards.length);
    expect(JSON.stringify(sampleAt('ConvShort', 'train', 10, 0).scene)).not.toBe(
      JSON.stringify(sampleAt('ConvShort', 'train', 9, 0).scene),
    );
  });

  it('names the objects that each answer is read from', () => {
    const COUNTS = ['count', 'countIn', 'countBeside', 'sameColourCount', 'sum', 'notColour'];
    const COLOURS = ['colour', 'colourIn', 'colourBeside'];
    const SHAPES = ['shape', 'front', 'mostShape', 'changed'];
    const seen = new Set<string>();
    for (const category of QA_CATEGORIES) {
      each(category, 150, ({ scene, turns }) => {
        const all: readonly unknown[] = scene.panels.flatMap(({ objects }) => objects);
        for (const { kind, answer, about } of turns) {
          seen.add(kind);
          expect(about.every((object) => all.includes(object))).toBe(true);
          if (COUNTS.includes(kind)) expect(String(about.length), kind).toBe(answer);
          if (COLOURS.includes(kind)) expect(about.map(({ colour }) => colour)).toEqual([answer]);
          if (SHAPES.includes(kind)) expect(about[0]?.shape).toBe(answer);
          if (kind === 'exists') expect(about.length > 0).toBe(answer === 'yes');
        }
      });
    }
    for (const kind of [...COUNTS, ...COLOURS, 'shape', 'mostShape', 'changed', 'exists']) {
      expect(seen).toContain(kind);
    }
  });

  it('keeps one of its turns, each at times, where a sample is to be single', () => {
    const kept = Array.from({ length: 120 }, (_, i) => {
      const { scene, turns } = sampleAt('ConvLong', 'train', 5, i);
      const alone = sampleAt('ConvLong', 'train', 5, i, { single: true });
      expect(alone.scene).toEqual(scene);
      expect(alone.turns).toHaveLength(1);
      expect(alone.conversations).toHaveLength(2);
      return turns.findIndex((turn) => turn.question === alone.turns[0]?.question);
    });
    expect(new Set(kept)).toEqual(new Set([0, 1, 2, 3, 4]));
  });

  it('asks each thing once', () => {
    each('ConvLong', 300, ({ turns }) => {
      const asked = turns.map(({ kind, answer }) => `${kind} ${answer}`);
      expect(new Set(asked).size).toBe(asked.length);
    });
  });

  it('has no scene in both splits', () => {
    const scenes = (split: 'train' | 'test') =>
      CATEGORIES.flatMap((category) =>
        Array.from({ length: 400 }, (_, i) => JSON.stringify(sampleAt(category, split, 0, i).scene)),
      );
    const train = new Set(scenes('train'));
    expect(train.size).toBe(400 * CATEGORIES.length);
    expect(scenes('test').filter((scene) => train.has(scene))).toEqual([]);
  });

  it('keeps objects inside the picture and apart, but for the pair that overlaps', () => {
    for (const category of CATEGORIES) {
      each(category, 200, ({ scene }) => {
        for (const panel of scene.panels) expectApart(panel, scene.panels.length === 1 ? 1000 : 490);
      });
    }
  });

  function expectApart({ objects, overlap, word }: Panel, width: number): void {
    objects.forEach((a, i) => {
      expect(a.x - a.radius).toBeGreaterThanOrEqual(0);
      expect(a.x + a.radius).toBeLessThanOrEqual(width);
      expect(a.y - a.radius).toBeGreaterThanOrEqual(0);
      expect(a.y + a.radius).toBeLessThanOrEqual(1000);
      if (word) expect(Math.abs(a.y - word.y)).toBeGreaterThan(a.radius + word.height / 2);
      objects.slice(0, i).forEach((b, j) => {
        const together =
          overlap !== undefined && [i, j].every((k) => k === overlap.front || k === overlap.back);
        const apart = Math.max(Math.abs(a.x - b.x), Math.abs(a.y - b.y)) >= a.radius + b.radius - 60;
        expect(apart).toBe(!together || apart);
      });
    });
  }

  it('makes turns that the conversation reader takes, the image in the first', () => {
    for (const category of CATEGORIES) {
      each(category, 50, ({ conversations }) => {
        const messages = fromLlava(JSON.parse(JSON.stringify(conversations)));
        expect(messages.map(({ role }) => role)).toEqual(
          messages.map((_, i) => (i % 2 ? 'assistant' : 'user')),
        );
        expect(messages.map(({ text }) => text.includes('<image>'))).toEqual(messages.map((_, i) => i === 0));
        expect(messages.every(({ text }) => text.trim() !== '' && !/[{}]|undefined/.test(text))).toBe(true);
      });
    }
  });

  it('tells the word and its colour in a caption about text', () => {
    each('SynthText', 100, ({ scene, turns: [turn] }) => {
      const { text, colour } = scene.panels[0].word!;
      expect(turn!.answer).toContain(` ${text} is written in ${colour} `);
    });
  });

  it('refuses options out of range', () => {
    expect(() => sampleAt('ConvShort', 'train', 0, 0, { maxObjects: 6 })).toThrow(
      /maxObjects: expected an integer from 1 to 5, got 6/,
    );
    expect(() => sampleAt('ConvShort', 'train', 0, 0, { minObjects: 4, maxObjects: 3 })).toThrow(
      /minObjects/,
    );
  });
});

describe('evalQuestions', () => {
  const questions = evalQuestions('test', 11, 2800);

  it('is even over the categories, single-turn, and a prefix of longer lists', () => {
    for (const category of QA_CATEGORIES) {
      expect(questions.filter((question) => question.category === category)).toHaveLength(400);
    }
    expect(evalQuestions('test', 11, 20)).toEqual(questions.slice(0, 20));
  });

  it('gives a guesser who does not look little', () => {
    for (const [category, { byCategory, byKind }] of blindBaselines(questions)) {
      expect(`${category} ${byCategory < 0.35} ${byKind < 0.45}`).toBe(`${category} true true`);
    }
  });

  it('balances yes and no, left and right, and the letters', () => {
    const shares = (answers: readonly string[]) => {
      const found = questions.filter(({ answer }) => answers.includes(answer));
      return answers.map((wanted) => found.filter(({ answer }) => answer === wanted).length / found.length);
    };
    for (const share of shares(['yes', 'no'])) expect(Math.abs(share - 0.5)).toBeLessThan(0.07);
    for (const share of shares(['left', 'right'])) expect(Math.abs(share - 0.5)).toBeLessThan(0.08);
    const letters = questions
      .filter(({ category }) => category === 'MultiChoice')
      .map(({ answer }) => answer);
    for (const letter of 'ABCD') {
      expect(Math.abs(letters.filter((one) => one === letter).length / letters.length - 0.25)).toBeLessThan(
        0.07,
      );
    }
  });

  it('asks how many of a colour and shape there are, from none to five', () => {
    const counts = questions.filter(({ question }) =>
      /^How many [a-z]+ (?!objects)[a-z]+s are there\?$/.test(question),
    );
    expect(new Set(counts.map(({ answer }) => answer))).toEqual(new Set('012345'));
  });
});

describe('vocabulary', () => {
  it('has every word of every text, and no other', () => {
    const found = new Set<string>();
    const read = ({ turns }: Sample) => {
      for (const { question, answer } of turns) {
        for (const word of [...wordsOf(question), ...wordsOf(answer)]) found.add(word);
      }
    };
    for (const category of CATEGORIES) each(category, 1000, read);
    const known = vocabulary();
    expect([...found].filter((word) => !known.includes(word))).toEqual([]);
    expect(known.filter((word) => !found.has(word) && !/^[A-Z]$/.test(word))).toEqual([]);
    expect(known).toEqual([...new Set(known)].sort());
  });
});
