/** Multiple choice: another kind's question with four options, or which of four things is there. */
import type { Random } from '../../common/random.ts';
import { coloursOf, shapesOf } from './build.ts';
import { maybePick, pick, some } from './choose.ts';
import { COLOUR_SHAPES, countOf, fitting, nameOf, withArticle } from './facts.ts';
import { exactTurn, type Kind } from './kind.ts';
import { phrase } from './phrases.ts';
import type { Panel, SynthOptions } from './scene.ts';

export const LETTERS = ['A', 'B', 'C', 'D'] as const;

/** The question with the right option under `letter` and three others under the rest. */
function withOptions(
  random: Random,
  question: string,
  right: string,
  wrong: readonly string[],
  letter: string | undefined,
): { question: string; letter: string } {
  const chosen = letter ?? pick(random, LETTERS);
  const others = [...wrong];
  const slots = LETTERS.map((name, i) => [String(i), name === chosen ? right : (others.pop() ?? '')]);
  return {
    question: `${question} ${phrase(random, 'options', Object.fromEntries(slots))}`,
    letter: chosen,
  };
}

/** `kind`'s questions with four options; the answer is a letter. */
export function choiceOf(kind: Kind): Kind {
  const name = `${kind.name}Choice`;
  return {
    name,
    answers: (options) => (kind.answers(options).length < LETTERS.length ? [] : LETTERS),
    plan: (random, options) => kind.plan(random, options, pick(random, kind.answers(options))),
    ask(random, panel, options, wanted) {
      const inner = kind.ask(random, panel, options);
      if (inner === undefined) return undefined;
      const wrong = kind.answers(options).filter((answer) => answer !== inner.answer);
      if (wrong.length < LETTERS.length - 1) return undefined;
      const { question, letter } = withOptions(
        random,
        inner.question,
        inner.answer,
        some(random, wrong, LETTERS.length - 1),
        wanted,
      );
      return exactTurn(name, question, letter, inner.about);
    },
  };
}

/** `Which of these is in the picture? A. a red circle …` */
export const presentChoice: Kind = {
  name: 'presentChoice',
  answers: ({ shapes, colours }) => (shapes * colours < 9 ? [] : LETTERS),
  plan: () => ({}),
  ask(random, panel, options, wanted) {
    const object = maybePick(random, panel.objects);
    if (object === undefined) return undefined;
    const { colour, shape } = object;
    const wrong = absent(random, panel, options);
    if (wrong.length < LETTERS.length - 1) return undefined;
    const right = withArticle(nameOf({ colour, shape }));
    const stem = phrase(random, 'present');
    const { question, letter } = withOptions(random, stem, right, wrong, wanted);
    return exactTurn('presentChoice', question, letter, fitting(panel, { colour, shape }));
  },
};

/** Three objects that are not there: where possible, of colours and of shapes that are. */
function absent(random: Random, panel: Panel, options: SynthOptions): string[] {
  const [levelColours, levelShapes] = [coloursOf(options), shapesOf(options)];
  const missing = COLOUR_SHAPES.filter(
    ({ colour, shape }) =>
      colour !== undefined &&
      shape !== undefined &&
      levelColours.includes(colour) &&
      levelShapes.includes(shape) &&
      countOf(panel, { colour, shape }) === 0,
  );
  const near = missing.filter(
    ({ colour, shape }) => countOf(panel, { colour }) + countOf(panel, { shape }) > 0,
  );
  const chosen = some(random, near, 3);
  const rest = missing.filter((descriptor) => !chosen.includes(descriptor));
  chosen.push(...some(random, rest, 3 - chosen.length));
  return chosen.map((descriptor) => withArticle(nameOf(descriptor)));
}
