/** What patches are said to be to a question follows from the scene and the question's words. */
import { describe, expect, it } from 'vitest';
import { QUESTION_CLASSES, questionLabels } from './questionLabels.ts';
import type { Scene, SceneObject } from './scene.ts';

const GRID = 8;
const background = { style: 'plain', tone: 'white', grain: 0 } as const;
const star: SceneObject = {
  shape: 'star',
  colour: 'blue',
  size: 'small',
  texture: 'plain',
  x: 190,
  y: 310,
  radius: 130,
  tilt: 0,
};
const cross: SceneObject = { ...star, shape: 'cross', texture: 'striped', x: 810, y: 690 };
const scene: Scene = { panels: [{ background, objects: [star, cross] }] };

type Question = keyof typeof QUESTION_CLASSES;

/** The answer of the patch in whose middle a point of the whole picture lies. */
function answer(shown: Scene, asked: string, question: Question, column: number, row: number) {
  const { rows, classes } = questionLabels([{ scene: shown, turns: [{ question: asked, about: [] }] }], GRID)[
    question
  ];
  const at = rows.indexOf(row * GRID + column);
  return at < 0 ? undefined : (QUESTION_CLASSES[question] as readonly string[])[classes[at]!];
}
/** Patches that hold the centres of the star and of the cross. */
const atStar = (asked: string, question: Question) => answer(scene, asked, question, 1, 2);
const atCross = (asked: string, question: Question) => answer(scene, asked, question, 6, 5);

describe('questionLabels', () => {
  it('says where an object stands and which patch is its centre, of patches that show one', () => {
    expect([atStar('', 'column'), atStar('', 'row')]).toEqual(['0', '1']);
    expect([atCross('', 'column'), atCross('', 'row')]).toEqual(['3', '2']);
    expect(atStar('', 'centre')).toBe('yes');
    expect(answer(scene, '', 'centre', 1, 1)).toBe('no');
    expect(answer(scene, '', 'column', 4, 1)).toBeUndefined();
    const { rows, classes } = questionLabels([{ scene, turns: [] }], GRID).centre;
    expect(rows.filter((_, i) => classes[i] === 1)).toHaveLength(2);
  });

  it.each([
    ['What colour is the star?', 'yes', 'no'],
    ['How many crosses are there?', 'no', 'yes'],
    ['How many blue objects are there?', 'yes', 'yes'],
    ['Is there a blue cross?', 'no', 'yes'],
    ['Is there a red cross?', 'no', 'no'],
    ['Is the star left of the cross?', 'yes', 'yes'],
    ['What shape is the striped object?', 'no', 'yes'],
    ['How many objects are there?', 'yes', 'yes'],
    ['What colour is the star? A. red B. blue C. pink D. cyan', 'yes', 'no'],
    ['What do you see? A. a red cross B. a red star C. a blue moon D. a blue star', 'yes', 'no'],
    ['Is STAR the word in the picture?', 'yes', 'yes'],
  ])('%s means the star: %s, the cross: %s', (asked, ofStar, ofCross) => {
    expect([atStar(asked, 'meant'), atCross(asked, 'meant')]).toEqual([ofStar, ofCross]);
  });

  it('notes which objects the answer is read from', () => {
    const turns = [{ question: 'What shape is the rightmost object?', about: [cross] }];
    const { rows, classes } = questionLabels([{ scene, turns }], GRID).read;
    const yes = rows.filter((_, i) => classes[i] === 1);
    expect(yes).toContain(5 * GRID + 6);
    expect(yes).not.toContain(2 * GRID + 1);
    expect(yes.length).toBeLessThan(rows.length);
  });

  it('notes what is named even where the whole is not meant', () => {
    const asked = 'Is there a red cross?';
    expect([atStar(asked, 'shapeNamed'), atCross(asked, 'shapeNamed')]).toEqual(['no', 'yes']);
    expect([atStar(asked, 'colourNamed'), atCross(asked, 'colourNamed')]).toEqual(['no', 'no']);
  });

  const pair = (other: Partial<SceneObject>): Scene => {
    const one = { ...star, x: 100 };
    return {
      panels: [
        { background, objects: [one, { ...one, shape: 'moon', y: 700 }] },
        {
          background,
          objects: [
            { ...one, ...other },
            { ...one, shape: 'moon', y: 700 },
          ],
        },
      ],
    };
  };

  it.each([
    ['colour', { colour: 'red' }],
    ['shape', { shape: 'heart' }],
    ['size', { size: 'large', radius: 110 }],
    ['pattern', { texture: 'dotted' }],
    ['place', { y: 320 }],
    ['none', {}],
  ] as const)('sees that the %s changes from one picture to the other', (change, other) => {
    const shown = pair(other);
    expect(answer(shown, '', 'difference', 0, 2)).toBe(change);
    expect(answer(shown, '', 'difference', 4, 2)).toBe(change);
    expect(answer(shown, '', 'difference', 0, 5)).toBe('none');
    expect(answer(scene, '', 'difference', 1, 2)).toBeUndefined();
  });

  it('means the objects of the picture that is named', () => {
    const shown = pair({});
    for (const asked of ['How many stars are in the right picture?', 'Count the stars on the right.']) {
      expect(answer(shown, asked, 'meant', 0, 2)).toBe('no');
      expect(answer(shown, asked, 'meant', 4, 2)).toBe('yes');
    }
  });
});
