/**
 * Every sentence of the synthetic data, as templates with `{slots}`. Knows nothing of scenes.
 *
 * All English is here, so the vocabulary follows from this table and the names in scene.ts.
 */
import { InternalError } from '../../common/errors.ts';
import type { Random } from '../../common/random.ts';
import { pick } from './choose.ts';

export const PHRASES = {
  colour: ['What colour is the {a}?', 'Which colour does the {a} have?', 'Name the colour of the {a}.'],
  shape: ['What shape is the {a}?', 'Which shape does the {a} have?', 'Name the shape of the {a}.'],
  size: ['What size is the {a}?', 'How big is the {a}?', 'Name the size of the {a}.'],
  pattern: [
    'What pattern does the {a} have?',
    'Which pattern is on the {a}?',
    'Name the pattern of the {a}.',
  ],
  place: ['Where is the {a}?', 'In which part of the picture is the {a}?', 'Name the place of the {a}.'],
  count: ['How many {as} are there?', 'How many {as} do you see?', 'Count the {as}.'],
  exists: ['Is there {an}?', 'Is {an} in the picture?', 'Do you see {an}?'],
  leftOrRight: [
    'Is the {a} left or right of the {b}?',
    'On which side of the {b} is the {a}, left or right?',
  ],
  aboveOrBelow: ['Is the {a} above or below the {b}?', 'Where is the {a}, above or below the {b}?'],
  beside: ['Is the {a} {side} the {b}?', 'Does the {a} lie {side} the {b}?'],
  front: ['Which is in front, the {a} or the {b}?', 'Which covers the other, the {a} or the {b}?'],
  more: ['Are there more {as} than {bs}?', 'Do you see more {as} than {bs}?'],
  countBeside: ['How many objects are {side} the {b}?', 'Count the objects {side} the {b}.'],
  colourBeside: [
    'What colour is the object {side} the {b}?',
    'Which colour does the object {side} the {b} have?',
  ],
  mostColour: ['Which colour appears most often?', 'What is the most frequent colour?'],
  mostShape: ['Which shape appears most often?', 'What is the most frequent shape?'],
  outermost: ['What {key} is the {end} object?', 'Which {key} does the {end} object have?'],
  sameColourCount: [
    'How many other objects have the same colour as the {a}?',
    'Count the other objects with the colour of the {a}.',
  ],
  sameColour: ['Do the {a} and the {b} have the same colour?', 'Are the {a} and the {b} equal in colour?'],
  sum: ['How many {as} and {bs} are there together?', 'Count the {as} and {bs} together.'],
  notColour: ['How many objects are not {colour}?', 'Count the objects that are not {colour}.'],
  colours: ['How many different colours do the objects have?', 'Count the different colours.'],
  word: ['What word is written?', 'Which word is in the picture?', 'Read the word.'],
  number: ['What number is written?', 'Which number is in the picture?', 'Read the number.'],
  firstLetter: ['What is the first letter of the word?', 'With which letter does the word begin?'],
  lastLetter: ['What is the last letter of the word?', 'With which letter does the word end?'],
  letters: ['How many letters does the word have?', 'Count the letters of the word.'],
  wordColour: ['What colour is the {text}?', 'In which colour is the {text} written?'],
  wordSide: ['Is the {text} above or below the {a}?', 'Where is the {text}, above or below the {a}?'],
  isWord: ['Is {word} the word in the picture?', 'Does the word say {word}?'],
  options: ['A. {0} B. {1} C. {2} D. {3}'],
  present: ['Which of these is in the picture?', 'What do you see?'],
  change: [
    'Which property is different in the two pictures?',
    'What changes from one picture to the other?',
    'Name the property that changes.',
  ],
  changed: ['Which shape changes its {key}?', 'Whose {key} is different?'],
  whichPicture: ['Which picture has {an}?', 'In which picture is {an}?'],
  morePicture: ['Which picture has more objects?', 'In which picture are more objects?'],
  colourIn: ['What colour is the {a} in the {side} picture?', 'Name the colour of the {a} on the {side}.'],
  countIn: ['How many {as} are in the {side} picture?', 'Count the {as} on the {side}.'],
  inBoth: ['Is {an} in both pictures?', 'Do both pictures have {an}?'],
  sameNumber: [
    'Do both pictures have the same number of objects?',
    'Are there equally many objects in both?',
  ],
} as const satisfies Record<string, readonly string[]>;

/** Requests for a text, by the manner of the text that answers them. */
export const REQUESTS = {
  colourList: ['Describe the colours.', 'Which colours are there?', 'List the colours.'],
  colourNames: ['Name each object with its colour.', 'List the objects with their colours.'],
  countKinds: ['Count the objects of each kind.', 'How many objects of each kind are there?'],
  countShapes: ['Count each shape.', 'How many of each shape are there?'],
  countColours: ['Count each colour.', 'How many of each colour are there?'],
  places: ['Where is each object?', 'Say where each object is.'],
  layout: ['Describe the layout.', 'How are the objects placed?'],
  scene: ['Describe the picture.', 'Describe the scene.', 'What is in the picture?'],
  text: ['Describe the text.', 'What is written and where?'],
  difference: ['Describe the difference.', 'What is different between the pictures?'],
} as const satisfies Record<string, readonly string[]>;

/** The pieces of the texts that describe a picture. */
export const CAPTIONS = {
  colourList: 'The colours are {list}.',
  countKinds: 'There {are} {n}: {list}.',
  counts: 'There {are} {list}.',
  place: '{place}: {an}.',
  beside: '{an} is {side} {other}.',
  alone: '{an} is in the picture.',
  scene: 'On a {style} {tone} background: {list}.',
  at: '{an} at the {place}',
  front: 'The {a} is in front of the {b}.',
  write: 'The {text} {word} is at the {row}.',
  text: 'The {text} {word} is written in {colour} at the {row}.',
  around: '{side} it: {list}.',
  differs: 'The {a} is {x} in the left picture and {y} in the right picture.',
  moved: 'The {a} is at different places.',
  onlyIn: 'The {a} is only in the {side} picture.',
} as const satisfies Record<string, string>;

export type PhraseName = keyof typeof PHRASES;
export type CaptionName = keyof typeof CAPTIONS;
type Slots = Readonly<Record<string, string>>;

/** One of the phrases of that name, its slots filled. @throws InternalError for a slot without a value */
export function phrase(random: Random, name: PhraseName, slots: Slots = {}): string {
  return fill(pick<string>(random, PHRASES[name]), slots);
}

/** The sentence or part of one, its slots filled. */
export function caption(name: CaptionName, slots: Slots): string {
  return fill(CAPTIONS[name], slots);
}

/** With a capital letter. */
export function capitalised(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function fill(template: string, slots: Slots): string {
  const text = template.replace(/\{(\w+)\}/g, (_, slot: string) => {
    const value = slots[slot];
    if (value === undefined) throw new InternalError(`phrase '${template}': no value for {${slot}}`);
    return value;
  });
  return capitalised(text);
}
