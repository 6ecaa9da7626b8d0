/** The words and numbers that pictures show, and how text is cut into words. Knows nothing of scenes. */

/** Short words in capitals; none is the name of a shape or a colour. */
export const WORDS: readonly string[] = (
  'ANT APPLE BIRD BOOK BOX BUS CAKE CAT CUP DOG DOOR DUCK EGG EXIT FISH FOX FROG GO HAT HOME HOUSE ICE IDEA INK ' +
  'JAM JUMP KEY KITE LAMP LEAF LIGHT MAP MUSIC NEST NUT OPEN OWL PARK PEN PIZZA QUEEN QUIZ RAIN ROAD ROBOT RUG ' +
  'SHIP SNOW STOP SUN TEA TENT TIGER TREE UNIT UP VAN VASE WATER WEB WIND WOLF YAK YARD ZERO ZOO'
).split(' ');

/** Numbers of two digits. */
export const NUMBERS: readonly string[] = Array.from({ length: 90 }, (_, i) => String(i + 10));

/** A text's words, digits and punctuation marks, one by one: the units that `vocabulary` lists. */
export function wordsOf(text: string): string[] {
  return text.match(/[A-Za-z]+|\d|[^\sA-Za-z\d]/g) ?? [];
}
