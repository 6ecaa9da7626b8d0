/** All words that texts of the synthetic data can contain, for a small tokenizer. Knows nothing of scenes. */

import { plural, SIDE_NAMES } from './facts.ts';
import { CHANGES, PICTURES } from './pair.ts';
import { CAPTIONS, capitalised, PHRASES, REQUESTS } from './phrases.ts';
import { BACKDROPS, COLOURS, PLACES, ROWS, SHAPES, SIZES, TEXTURES, TONES } from './scene.ts';
import { WORDS, wordsOf } from './words.ts';

/** Words that templates get in their slots and that no other list names. */
const SLOT_WORDS = [
  ...['a', 'an', 'and', 'is', 'are', 'object', 'objects', 'shape', 'word', 'number', 'yes', 'no'],
  ...['leftmost', 'rightmost', 'highest', 'lowest', 'largest'],
];

/** Texts that stand at the beginning of a sentence and are capitalised there. */
const OPENERS = ['a', 'an', ...PLACES, 'above', 'below'];

/**
 * Every word, digit and punctuation mark that `wordsOf` can find in a sample's texts, sorted, without repetition.
 * Words shown in pictures are in it whole; capital letters and digits singly.
 */
export function vocabulary(): string[] {
  const templates = [
    ...Object.values(PHRASES).flat(),
    ...Object.values(REQUESTS).flat(),
    ...Object.values(CAPTIONS),
  ];
  const texts: readonly string[] = [
    ...templates.map((template) => template.replace(/\{\w+\}/g, ' ')),
    ...SLOT_WORDS,
    ...OPENERS.map(capitalised),
    ...Object.values(SIDE_NAMES),
    ...[COLOURS, SIZES, TEXTURES, TONES, BACKDROPS, PLACES, ROWS, CHANGES, PICTURES, WORDS].flat(),
    ...SHAPES.flatMap((shape) => [shape, plural(shape)]),
    ...'ABCDEFGHIJKLMNOPQRSTUVWXYZ',
    ...'0123456789',
  ];
  return [...new Set(texts.flatMap(wordsOf))].sort();
}
