/**
 * A scene as SVG: paths, gradients and patterns only, no fonts, no filters. Knows nothing of questions.
 */
import { Random } from '../../common/random.ts';
import { between } from './choose.ts';
import {
  type Background,
  type Colour,
  HALF_WIDTH,
  type Panel,
  type Scene,
  type SceneObject,
  type SceneWord,
  type Shape,
  SIDE,
  type Tone,
} from './scene.ts';
import { wordPaths } from './strokeFont.ts';

type Rgb = readonly [number, number, number];

const PAINT: Readonly<Record<Colour, Rgb>> = {
  red: [222, 32, 38],
  green: [28, 150, 62],
  blue: [32, 82, 224],
  yellow: [252, 216, 24],
  purple: [128, 44, 178],
  orange: [250, 128, 14],
  cyan: [36, 202, 222],
  pink: [255, 128, 192],
};

const GROUND: Readonly<Record<Tone, Rgb>> = {
  white: [250, 250, 248],
  grey: [150, 155, 162],
  beige: [232, 214, 184],
  black: [34, 36, 43],
};

const INK: Rgb = [24, 26, 34];
const WHITE: Rgb = [255, 255, 255];
/** Colours on which marks are dark; on the others they are white. */
const LIGHT_COLOURS: ReadonlySet<Colour> = new Set(['yellow', 'orange', 'cyan', 'pink']);

/** Outlines of radius 1 around the origin. */
const OUTLINES: Readonly<Record<Shape, string>> = {
  circle: 'M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0Z',
  square: 'M-.86-.86H.86V.86H-.86Z',
  triangle: 'M0-1L1.02 .8H-1.02Z',
  star: starPath(5, 1.08, 0.46),
  cross: 'M-.34-1H.34V-.34H1V.34H.34V1H-.34V.34H-1V-.34H-.34Z',
  heart:
    'M0 .98C-.5 .55-1.05 .15-1.05-.38C-1.05-.74-.8-.96-.52-.96C-.28-.96-.1-.82 0-.6C.1-.82 .28-.96 .52-.96C.8-.96 1.05-.74 1.05-.38C1.05 .15 .5 .55 0 .98Z',
  ring: 'M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0ZM.54 0A.54 .54 0 1 0-.54 0A.54 .54 0 1 0 .54 0Z',
  moon: 'M.5-.9A1 1 0 1 0 .5 .9A.98 .98 0 0 1 .5-.9Z',
};

function starPath(points: number, outer: number, inner: number): string {
  const corners = Array.from({ length: 2 * points }, (_, i) => {
    const radius = i % 2 === 0 ? outer : inner;
    const angle = (Math.PI * i) / points;
    return `${(radius * Math.sin(angle)).toFixed(3)} ${(-radius * Math.cos(angle)).toFixed(3)}`;
  });
  return `M${corners.join('L')}Z`;
}

/** What is between two pictures: white with a dark line, so that it shows on any ground. */
const GAP = `<path d="M480 0H520V${SIDE}H480Z" fill="#fff"/><path d="M495 0H505V${SIDE}H495Z" fill="${rgb(INK)}"/>`;

/** An SVG document of `size` × `size` pixels. */
export function sceneSvg(scene: Scene, size: number): string {
  const body =
    scene.panels.length === 1
      ? panelSvg(scene.panels[0], SIDE, 'a')
      : GAP + scene.panels.map((panel, i) => halfSvg(panel, i)).join('');
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${size}" height="${size}" viewBox="0 0 ${SIDE} ${SIDE}">${body}</svg>`;
}

/** The `index`th of two pictures, cut off at its edge. */
function halfSvg(panel: Panel, index: number): string {
  const x = index * (SIDE - HALF_WIDTH);
  return `<svg x="${x}" width="${HALF_WIDTH}" height="${SIDE}" overflow="hidden">${panelSvg(panel, HALF_WIDTH, index === 0 ? 'a' : 'b')}</svg>`;
}

/** `prefix` keeps the names of two panels' gradients apart. */
function panelSvg(panel: Panel, width: number, prefix: string): string {
  const { background, objects, word } = panel;
  const parts = objects.map((object, i) => objectSvg(object, background.tone, `${prefix}${i}`));
  return backgroundSvg(background, width, prefix) + parts.join('') + (word ? wordSvg(word) : '');
}

function backgroundSvg({ style, tone, grain }: Background, width: number, prefix: string): string {
  const ground = GROUND[tone];
  const other = tone === 'black' ? mix(ground, WHITE, 0.13) : mix(ground, INK, 0.1);
  const cover = (fill: string) => `<rect width="${width}" height="${SIDE}" fill="${fill}"/>`;
  const id = `${prefix}g`;
  if (style === 'gradient') {
    const far = tone === 'black' ? mix(ground, WHITE, 0.25) : mix(ground, INK, 0.24);
    const direction = ['x2="0" y2="1"', 'x2="1" y2="0"', 'x2="1" y2="1"'][grain % 3];
    return `<linearGradient id="${id}" x1="0" y1="0" ${direction}>${stops(ground, far)}</linearGradient>${cover(`url(#${id})`)}`;
  }
  if (style === 'checkered') {
    const step = [80, 100, 125][grain % 3] ?? 100;
    const tile = `<path d="M0 0H${step}V${2 * step}H${2 * step}V${step}H0Z" fill="${rgb(other)}"/>`;
    return cover(rgb(ground)) + pattern(id, 2 * step, '', tile) + cover(`url(#${id})`);
  }
  if (style === 'speckled') {
    return cover(rgb(ground)) + pattern(id, 250, '', speckles(grain, other)) + cover(`url(#${id})`);
  }
  return cover(rgb(ground));
}

/** Soft dots in a tile of 250 units. */
function speckles(grain: number, color: Rgb): string {
  const random = new Random(grain);
  const dots = Array.from({ length: 26 }, () => {
    const radius = between(random, 4, 10);
    const [x, y] = [between(random, radius, 250 - radius), between(random, radius, 250 - radius)];
    return `<circle cx="${x}" cy="${y}" r="${radius}"/>`;
  });
  return `<g fill="${rgb(color)}">${dots.join('')}</g>`;
}

function objectSvg(object: SceneObject, tone: Tone, id: string): string {
  const { shape, colour, texture, radius, x, y, tilt } = object;
  const paint = PAINT[colour];
  const path = (attributes: string) => `<path d="${OUTLINES[shape]}" fill-rule="evenodd" ${attributes}/>`;
  const shades = stops(mix(paint, WHITE, 0.12), mix(paint, INK, 0.1));
  const gradient = `<linearGradient id="${id}" x1="0" y1="0" x2=".6" y2="1">${shades}</linearGradient>`;
  const outline = texture === 'outlined' ? rgb(tone === 'black' ? WHITE : INK) : rgb(mix(paint, INK, 0.3));
  const width = texture === 'outlined' ? 0.2 : 0.05;
  const shadow = `<g transform="translate(${x + 7} ${y + 11}) rotate(${tilt}) scale(${radius})" opacity=".22">${path('fill="#000"')}</g>`;
  const marks = texture === 'striped' || texture === 'dotted' ? marksSvg(object, `${id}m`, path) : '';
  const edge = path(`fill="none" stroke="${outline}" stroke-width="${width}" stroke-linejoin="round"`);
  return `${gradient}${shadow}<g transform="translate(${x} ${y}) rotate(${tilt}) scale(${radius})">${path(`fill="url(#${id})"`)}${marks}${edge}</g>`;
}

/** Stripes or dots; on small objects coarser ones, which survive a small picture. */
function marksSvg(
  { colour, texture, size }: SceneObject,
  id: string,
  path: (attributes: string) => string,
): string {
  const mark = rgb(LIGHT_COLOURS.has(colour) ? INK : WHITE);
  const step = size === 'small' ? 0.72 : 0.55;
  const tile =
    texture === 'striped'
      ? pattern(id, step, 'rotate(35)', `<rect width="${0.4 * step}" height="${step}" fill="${mark}"/>`)
      : pattern(id, step, 'rotate(20)', dot(step / 2, 0.27 * step, mark));
  return tile + path(`fill="url(#${id})"`);
}

function dot(at: number, radius: number, fill: string): string {
  return `<circle cx="${at}" cy="${at}" r="${radius}" fill="${fill}"/>`;
}

/** Coloured strokes on wider ones, which keep them legible on any ground. */
function wordSvg({ text, colour, x, y, height }: SceneWord): string {
  const halo = rgb(LIGHT_COLOURS.has(colour) ? INK : WHITE);
  const stroke = (color: string, width: number) =>
    `<g stroke="${color}" stroke-width="${width}">${wordPaths(text, height)}</g>`;
  const style = 'fill="none" stroke-linecap="round" stroke-linejoin="round"';
  return `<g transform="translate(${x} ${y})" ${style}>${stroke(halo, 1.75)}${stroke(rgb(PAINT[colour]), 1.05)}</g>`;
}

function pattern(id: string, step: number, transform: string, tile: string): string {
  const turned = transform === '' ? '' : ` patternTransform="${transform}"`;
  return `<pattern id="${id}" width="${step}" height="${step}" patternUnits="userSpaceOnUse"${turned}>${tile}</pattern>`;
}

function stops(from: Rgb, to: Rgb): string {
  return `<stop offset="0" stop-color="${rgb(from)}"/><stop offset="1" stop-color="${rgb(to)}"/>`;
}

/** `(1 - share) * a + share * b`, channel by channel. */
function mix(a: Rgb, b: Rgb, share: number): Rgb {
  const channel = (x: number, y: number) => Math.round((1 - share) * x + share * y);
  return [channel(a[0], b[0]), channel(a[1], b[1]), channel(a[2], b[2])];
}

function rgb(color: Rgb): string {
  return `rgb(${color.join(',')})`;
}
