/** What patches are said to show is what the scene has there, in every crop. */
import { describe, expect, it } from 'vitest';
import { PATCH_CLASSES, type PatchQuestion, patchLabels } from './patchLabels.ts';
import type { Scene, SceneObject } from './scene.ts';

const GRID = 8;
const object: SceneObject = {
  shape: 'star',
  colour: 'blue',
  size: 'small',
  texture: 'dotted',
  x: 720,
  y: 280,
  radius: 73,
  tilt: 0,
};
const background = { style: 'gradient', tone: 'beige', grain: 0 } as const;
const scene: Scene = { panels: [{ background, objects: [object] }] };

/** The answer of the patch that holds a point of crop `crop` (4: the whole), given in eighths of the crop's side. */
function answer(
  scenes: readonly Scene[],
  question: PatchQuestion,
  crop: number,
  column: number,
  row: number,
) {
  const { rows, classes } = patchLabels(scenes, GRID)[question];
  const at = rows.indexOf(crop * GRID * GRID + row * GRID + column);
  return at < 0 ? undefined : (PATCH_CLASSES[question] as readonly string[])[classes[at]!];
}

describe('patchLabels', () => {
  it('finds an object in its tile and in the whole, larger in the tile', () => {
    // (720, 280) is (220, 280) of the upper right tile of side 500, in patches of 62.5.
    expect(answer([scene], 'kind', 1, 3, 4)).toBe('object');
    expect(answer([scene], 'shape', 1, 3, 4)).toBe('star');
    expect(answer([scene], 'colour', 1, 3, 4)).toBe('blue');
    expect(answer([scene], 'texture', 1, 3, 4)).toBe('dotted');
    expect(answer([scene], 'extent', 1, 3, 4)).toBe('1.19');
    expect(answer([scene], 'kind', 4, 5, 2)).toBe('object');
    expect(answer([scene], 'extent', 4, 5, 2)).toBe('0.59');
    expect(answer([scene], 'shape', 4, 0, 0)).toBeUndefined();
  });

  it('says what is behind where nothing stands', () => {
    for (const crop of [0, 2, 3]) {
      expect(answer([scene], 'kind', crop, 4, 4)).toBe('background');
      expect(answer([scene], 'style', crop, 4, 4)).toBe('gradient');
      expect(answer([scene], 'tone', crop, 4, 4)).toBe('beige');
    }
  });

  it('reads a word and its letters, which cover what is behind', () => {
    const word = { text: 'FOX', colour: 'red', x: 500, y: 280, height: 180, row: 0 } as const;
    const read: Scene = { panels: [{ background, objects: [object], word }] };
    expect(answer([read], 'text', 4, 4, 2)).toBe('FOX');
    expect(answer([read], 'colour', 4, 4, 2)).toBe('red');
    const letters = [3, 4, 5].map((column) => answer([read], 'glyph', 4, column, 2));
    expect(letters[0]).toBe('O');
    expect(letters[2]).toBe('X');
    expect(answer([read], 'glyph', 4, 2, 2)).toBe('F');
  });

  it('counts patches through the crops of one picture, then the next; the second panel is another picture', () => {
    const right = { background: { ...background, tone: 'black' as const }, objects: [] };
    const pair: Scene = { panels: [{ background, objects: [] }, right] };
    const labels = patchLabels([scene, pair], GRID);
    expect(labels.kind.rows).toEqual(Array.from({ length: 2 * 5 * 64 }, (_, i) => i));
    expect(answer([scene, pair], 'tone', 5 + 4, 1, 1)).toBe('beige');
    expect(answer([scene, pair], 'tone', 5 + 4, 6, 1)).toBe('black');
    expect(answer([scene, pair], 'tone', 5 + 1, 0, 0)).toBe('black');
  });
});
