/**
 * Capital letters and digits as strokes, so that a word looks the same on every machine without any font.
 *
 * Each glyph is an SVG path in a box 4 wide and 6 high, drawn with round caps. Knows nothing of scenes.
 */
import { InternalError } from '../../common/errors.ts';

const GLYPHS: Readonly<Record<string, string>> = {
  A: 'M0 6L2 0L4 6M.8 4H3.2',
  B: 'M0 0V6H2.4Q4 6 4 4.5Q4 3 2.4 3H0M2.4 3Q3.7 3 3.7 1.5Q3.7 0 2.2 0H0',
  C: 'M4 1.3Q3.5 0 2.2 0Q0 0 0 3Q0 6 2.2 6Q3.5 6 4 4.7',
  D: 'M0 0V6H1.7Q4 6 4 3Q4 0 1.7 0Z',
  E: 'M3.8 0H0V6H3.8M0 3H3.2',
  F: 'M3.8 0H0V6M0 3H3.2',
  G: 'M4 1.3Q3.5 0 2.2 0Q0 0 0 3Q0 6 2.2 6Q4 6 4 3.4H2.4',
  H: 'M0 0V6M4 0V6M0 3H4',
  I: 'M2 0V6M.8 0H3.2M.8 6H3.2',
  J: 'M3.6 0V4.2Q3.6 6 1.9 6Q.3 6 .2 4.4',
  K: 'M0 0V6M4 0L0 3.4M1.3 2.4L4 6',
  L: 'M0 0V6H3.8',
  M: 'M0 6V0L2 3.4L4 0V6',
  N: 'M0 6V0L4 6V0',
  O: 'M2 0Q4 0 4 3Q4 6 2 6Q0 6 0 3Q0 0 2 0Z',
  P: 'M0 6V0H2.4Q4 0 4 1.7Q4 3.4 2.4 3.4H0',
  Q: 'M2 0Q4 0 4 3Q4 6 2 6Q0 6 0 3Q0 0 2 0ZM2.5 4.3L4.2 6.4',
  R: 'M0 6V0H2.4Q4 0 4 1.7Q4 3.4 2.4 3.4H0M2 3.4L4 6',
  S: 'M3.8 1.1Q3.3 0 2 0Q.2 0 .2 1.5Q.2 2.8 2 3Q3.9 3.2 3.9 4.5Q3.9 6 2 6Q.5 6 0 4.8',
  T: 'M0 0H4M2 0V6',
  U: 'M0 0V4Q0 6 2 6Q4 6 4 4V0',
  V: 'M0 0L2 6L4 0',
  W: 'M-.3 0L.9 6L2 1.8L3.1 6L4.3 0',
  X: 'M0 0L4 6M4 0L0 6',
  Y: 'M0 0L2 3L4 0M2 3V6',
  Z: 'M0 0H4L0 6H4',
  '0': 'M2 0Q3.8 0 3.8 3Q3.8 6 2 6Q.2 6 .2 3Q.2 0 2 0Z',
  '1': 'M.8 1.2L2 0V6M.8 6H3.2',
  '2': 'M.2 1.5Q.4 0 2 0Q3.8 0 3.8 1.6Q3.8 2.6 2.6 3.8L.2 6H4',
  '3': 'M.3 1Q.8 0 2 0Q3.7 0 3.7 1.5Q3.7 2.9 1.8 2.9Q4 2.9 4 4.4Q4 6 2 6Q.6 6 .1 4.9',
  '4': 'M3 6V0L0 4.2H4',
  '5': 'M3.7 0H.5L.3 2.8Q1 2.3 2 2.3Q4 2.3 4 4.1Q4 6 2 6Q.6 6 .1 5',
  '6': 'M3.5 .6Q2.9 0 2.2 0Q0 0 0 3.5Q0 6 2 6Q4 6 4 4.2Q4 2.5 2.1 2.5Q.5 2.5 0 4',
  '7': 'M0 0H4L1.5 6',
  '8': 'M2 2.9Q.3 2.8 .3 1.45Q.3 0 2 0Q3.7 0 3.7 1.45Q3.7 2.8 2 2.9Q0 3 0 4.5Q0 6 2 6Q4 6 4 4.5Q4 3 2 2.9Z',
  '9': 'M.5 5.4Q1.1 6 1.8 6Q4 6 4 2.5Q4 0 2 0Q0 0 0 1.8Q0 3.5 1.9 3.5Q3.5 3.5 4 2',
};

/** All letters and digits. */
export const GLYPH_NAMES: readonly string[] = Object.keys(GLYPHS).sort();

/** Glyphs are 6 units high; a letter and the space to the next one take this many. */
const ADVANCE = 5.6;
const GLYPH_WIDTH = 4;
const GLYPH_HEIGHT = 6;

/** The width of a word whose capitals are `height` high, without the strokes' own thickness. */
export function wordWidth(text: string, height: number): number {
  return ((text.length - 1) * ADVANCE + GLYPH_WIDTH) * (height / GLYPH_HEIGHT);
}

/** Of a word centred on 0, the letter or digit nearest to `x`. */
export function glyphAt(text: string, height: number, x: number): string {
  const unit = height / GLYPH_HEIGHT;
  const index = Math.round(((x + wordWidth(text, height) / 2) / unit - GLYPH_WIDTH / 2) / ADVANCE);
  return text.charAt(Math.max(0, Math.min(text.length - 1, index)));
}

/**
 * A word as SVG: groups of `<path d>` around the origin, to be stroked by what encloses them. The strokes' width
 * is given in glyph units (a capital is 6 high), as the group scales them.
 *
 * @throws InternalError for a character that is not A–Z or 0–9
 */
export function wordPaths(text: string, height: number): string {
  const scale = height / GLYPH_HEIGHT;
  const width = wordWidth(text, height) / scale;
  const glyphs = Array.from(text, (character, i) => {
    const path = GLYPHS[character];
    if (path === undefined) throw new InternalError(`stroke font: no glyph for '${character}'`);
    const x = (i * ADVANCE - width / 2).toFixed(2);
    return `<path transform="translate(${x} ${-GLYPH_HEIGHT / 2})" d="${path}"/>`;
  });
  return `<g transform="scale(${scale.toFixed(3)})">${glyphs.join('')}</g>`;
}
