/**
 * What is true of a scene, and what its objects are called. Knows nothing of questions or of pixels.
 */
import {
  COLOURS,
  type Colour,
  type Panel,
  PLACES,
  type SceneObject,
  SHAPES,
  type Shape,
  type Size,
  type Texture,
  WHOLE_GRID,
} from './scene.ts';

/** Some attributes; an object fits where it has all of them. */
export interface Descriptor {
  readonly size?: Size | undefined;
  readonly texture?: Texture | undefined;
  readonly colour?: Colour | undefined;
  readonly shape?: Shape | undefined;
}

/** The least distance of two centres along an axis at which one is said to be left of, or above, the other. */
export const CLEAR = 170;

export type Side = 'left' | 'right' | 'above' | 'below';
export const SIDES: readonly Side[] = ['left', 'right', 'above', 'below'];

/** "left of", "above" and so on. */
export const SIDE_NAMES: Readonly<Record<Side, string>> = {
  left: 'left of',
  right: 'right of',
  above: 'above',
  below: 'below',
};

export function matches(object: SceneObject, wanted: Descriptor): boolean {
  return (
    (wanted.size === undefined || wanted.size === object.size) &&
    (wanted.texture === undefined || wanted.texture === object.texture) &&
    (wanted.colour === undefined || wanted.colour === object.colour) &&
    (wanted.shape === undefined || wanted.shape === object.shape)
  );
}

/** The objects of the panel that fit. */
export function fitting({ objects }: Panel, wanted: Descriptor): SceneObject[] {
  return objects.filter((object) => matches(object, wanted));
}

/** How many objects of the panel fit. */
export function countOf(panel: Panel, wanted: Descriptor): number {
  return fitting(panel, wanted).length;
}

/** The objects that no other object of the panel equals in all of `keys`. */
export function uniqueIn(panel: Panel, ...keys: readonly (keyof Descriptor)[]): SceneObject[] {
  return panel.objects.filter((object) => countOf(panel, describe(object, ...keys)) === 1);
}

/** The object's attributes named by `keys`. */
export function describe(object: SceneObject, ...keys: readonly (keyof Descriptor)[]): Descriptor {
  return Object.fromEntries(keys.map((key) => [key, object[key]]));
}

/** All pairs of a colour and a shape. */
export const COLOUR_SHAPES: readonly Descriptor[] = COLOURS.flatMap((colour) =>
  SHAPES.map((shape) => ({ colour, shape })),
);

/** `large striped red circle`, `red object`. Being plain is not mentioned. */
export function nameOf({ size, texture, colour, shape }: Descriptor): string {
  const pattern = texture === 'plain' ? undefined : texture;
  return [size, pattern, colour, shape ?? 'object'].filter((word) => word !== undefined).join(' ');
}

/** `large red circles`, `crosses`. */
export function pluralOf(wanted: Descriptor): string {
  return plural(nameOf(wanted));
}

export function plural(name: string): string {
  return name.endsWith('s') ? `${name}es` : `${name}s`;
}

/** `a red circle`, `an orange circle`. */
export function withArticle(name: string): string {
  return `${/^[aeiou]/.test(name) ? 'an' : 'a'} ${name}`;
}

/** `a, b and c`. */
export function listed(parts: readonly string[]): string {
  const last = parts.at(-1) ?? '';
  return parts.length < 2 ? last : `${parts.slice(0, -1).join(', ')} and ${last}`;
}

/** What lies how far to `side` of what; positive where it does. */
export function offset(side: Side, a: Point, b: Point): number {
  if (side === 'left') return b.x - a.x;
  if (side === 'right') return a.x - b.x;
  return side === 'above' ? b.y - a.y : a.y - b.y;
}

interface Point {
  readonly x: number;
  readonly y: number;
}

/** The objects on `side` of `anchor`; undefined where one is neither clearly there nor clearly opposite. */
export function objectsBeside(panel: Panel, side: Side, anchor: SceneObject): SceneObject[] | undefined {
  const others = panel.objects.filter((object) => object !== anchor);
  if (others.some((object) => Math.abs(offset(side, object, anchor)) < CLEAR)) return undefined;
  return others.filter((object) => offset(side, object, anchor) > 0);
}

/** On which side of `b` `a` is, where one direction prevails: at least twice as far as across it. */
export function sideOf(a: Point, b: Point): Side | undefined {
  return SIDES.find((side) => {
    const along = offset(side, a, b);
    const across = side === 'left' || side === 'right' ? Math.abs(a.y - b.y) : Math.abs(a.x - b.x);
    return along >= CLEAR && along >= 2 * across;
  });
}

/** The name of the quarter of a whole picture in which a cell is. */
export function placeOfCell(cell: number): string | undefined {
  const { columns, rows } = WHOLE_GRID;
  const below = Math.floor(cell / columns) >= rows / 2;
  return PLACES[(below ? 2 : 0) + (cell % columns >= columns / 2 ? 1 : 0)];
}

/** The name of the quarter of a whole picture in which an object is; none where it stands between cells. */
export function placeOf({ cell }: SceneObject): string | undefined {
  return cell === undefined ? undefined : placeOfCell(cell);
}

/** Objects row by row, each row from the left; those between cells last. */
export function inReadingOrder(panel: Panel): SceneObject[] {
  const rank = ({ cell }: SceneObject) => cell ?? Number.MAX_SAFE_INTEGER;
  return [...panel.objects].sort((a, b) => rank(a) - rank(b));
}

/** How many objects have each value of `key`, in the order of first mention. */
export function tally<K extends 'colour' | 'shape'>(
  objects: readonly SceneObject[],
  key: K,
): Map<SceneObject[K], number> {
  const counts = new Map<SceneObject[K], number>();
  for (const object of objects) counts.set(object[key], (counts.get(object[key]) ?? 0) + 1);
  return counts;
}
