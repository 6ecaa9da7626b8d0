/** Questions about the word or number that a picture shows. Knows nothing of pixels. */
import type { Random } from '../../common/random.ts';
import { coloursOf, shapesOf } from './build.ts';
import { chance, pick } from './choose.ts';
import { CLEAR, uniqueIn } from './facts.ts';
import { choose, exactTurn, type Kind, numbers, YES_NO } from './kind.ts';
import { type PhraseName, phrase } from './phrases.ts';
import type { Panel, SceneWord } from './scene.ts';
import { NUMBERS, WORDS } from './words.ts';

/** Whether the text is a number. */
export function isNumber({ text }: SceneWord): boolean {
  return /^\d+$/.test(text);
}

/** What the text is called. */
export function textNoun(word: SceneWord): 'word' | 'number' {
  return isNumber(word) ? 'number' : 'word';
}

/** A kind whose answer follows from the text alone. */
function textKind(
  name: PhraseName,
  texts: readonly string[],
  answerOf: (text: string) => string,
  answers: readonly string[] = [...new Set(texts.map(answerOf))],
): Kind {
  return {
    name,
    answers: () => answers,
    plan: (random, _options, wanted) => ({
      word: pick(
        random,
        texts.filter((text) => answerOf(text) === wanted),
      ),
    }),
    ask(random, { word }, _options, wanted) {
      if (word === undefined || !texts.includes(word.text)) return undefined;
      const answer = answerOf(word.text);
      if (wanted !== undefined && wanted !== answer) return undefined;
      return exactTurn(name, phrase(random, name), answer, []);
    },
  };
}

export const word = textKind('word', WORDS, (text) => text);
export const number = textKind('number', NUMBERS, (text) => text);
export const firstLetter = textKind('firstLetter', WORDS, (text) => text.slice(0, 1));
export const lastLetter = textKind('lastLetter', WORDS, (text) => text.slice(-1));
export const letters = textKind('letters', WORDS, (text) => String(text.length), numbers(2, 5));

/** `What colour is the word?` */
export const wordColour: Kind = {
  name: 'wordColour',
  answers: coloursOf,
  plan: () => ({ word: true }),
  ask(random, { word: shown }, _options, wanted) {
    if (shown === undefined || (wanted !== undefined && wanted !== shown.colour)) return undefined;
    const slots = { text: textNoun(shown) };
    return exactTurn('wordColour', phrase(random, 'wordColour', slots), shown.colour, []);
  },
};

/** `Is the word above or below the star?` */
export const wordSide: Kind = {
  name: 'wordSide',
  answers: () => ['above', 'below'],
  plan(random, options) {
    const shape = pick(random, shapesOf(options));
    return { word: true, objects: [{ shape }], admit: (o) => o.shape !== shape };
  },
  ask(random, panel, _options, wanted) {
    const { word: shown } = panel;
    if (shown === undefined) return undefined;
    const candidates = uniqueIn(panel, 'shape')
      .filter(({ y }) => Math.abs(y - shown.y) >= CLEAR)
      .map((object) => ({ object, answer: shown.y < object.y ? 'above' : 'below' }));
    const chosen = choose(random, candidates, wanted);
    if (chosen === undefined) return undefined;
    const slots = { text: textNoun(shown), a: chosen.object.shape };
    return exactTurn('wordSide', phrase(random, 'wordSide', slots), chosen.answer, [chosen.object]);
  },
};

/** `Is CAT the word in the picture?` */
export const isWord: Kind = {
  name: 'isWord',
  answers: () => YES_NO,
  plan: (random) => ({ word: pick(random, WORDS) }),
  ask(random, panel, _options, wanted) {
    const { word: shown } = panel;
    if (shown === undefined || isNumber(shown)) return undefined;
    const answer = wanted ?? (chance(random, 0.5) ? 'yes' : 'no');
    const asked = answer === 'yes' ? shown.text : otherWord(random, panel);
    return exactTurn('isWord', phrase(random, 'isWord', { word: asked }), answer, []);
  },
};

/** A word that is not shown; often one as long, so that length does not tell. */
function otherWord(random: Random, { word: shown }: Panel): string {
  const others = WORDS.filter((text) => text !== shown?.text);
  const alike = others.filter((text) => text.length === shown?.text.length);
  return pick(random, chance(random, 0.6) && alike.length > 0 ? alike : others);
}
