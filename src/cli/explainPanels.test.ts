import { describe, expect, test } from 'vitest';
import { UserError } from '../common/errors.ts';
import type { Maps } from '../generate/attentionMaps.ts';
import type { Explanation } from '../generate/explain.ts';
import { checkChoice, panelGroups, shortened } from './explainPanels.ts';

/** Maps whose n-th number is n. */
const counted = (...shape: number[]): Maps => ({
  shape,
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i),
});
const explanation: Explanation = {
  questionTokens: ['<s>', ' Is', '\n'],
  answerTokens: ['Yes', ' '],
  tower: { patchesToQuestion: counted(2, 3, 2, 2), questionToPatches: counted(2, 3, 2, 2) },
  interaction: {
    after: [0, 3],
    windows: counted(2, 1, 4),
    latents: counted(2, 1, 4, 4),
    all: counted(2, 4, 4),
  },
  answer: { layers: counted(3, 2, 2, 2), mean: counted(2, 2, 2) },
};

describe('panels', () => {
  test('stand in the order in which the model works, labelled', () => {
    const groups = panelGroups(explanation, {});
    expect(groups.map(({ panels }) => panels.map(({ label }) => label))).toEqual([
      ['patches to the question', 'the question to patches'],
      ['<s>', 'Is', '␣'],
      ['after decoder layer 1', 'after decoder layer 4'],
      ['Yes', '␣'],
    ]);
    expect(groups.map(({ title }) => title)).toEqual([
      'Attention between patches and question, vision tower, mean over layers',
      'Attention of patches to each token of the question, vision tower, mean over layers',
      'Attention of the latents to their windows, mean over latents',
      'Attention of the answer’s tokens to the picture, decoder, mean over layers',
    ]);
  });

  test('have the mean over layers, or one of them', () => {
    const [tower, tokens, latents, answer] = panelGroups(explanation, {});
    // Sum over the tokens of a mean over layers: (0 + 12)/2 + (4 + 16)/2 + (8 + 20)/2.
    expect(tower?.panels[0]?.map.data[0]).toBe(30);
    expect(tower?.panels[1]?.map.data[0]).toBe(10);
    expect(tokens?.panels[1]?.map).toEqual({ shape: [2, 2], data: Float32Array.of(10, 11, 12, 13) });
    expect(latents?.panels[1]?.map.data[0]).toBe(16);
    expect(answer?.panels[1]?.map.data[0]).toBe(4);
    const chosen = panelGroups(explanation, { layer: 2, decoderLayer: 3, token: 2 });
    expect(chosen[0]?.panels[0]?.map.data[0]).toBe(12 + 16 + 20);
    expect(chosen[1]?.panels[0]?.map.data[0]).toBe(12);
    expect(chosen[3]?.panels.map(({ label, map }) => [label, map.data[0]])).toEqual([['␣', 20]]);
    expect(chosen[3]?.title).toMatch(/decoder, layer 3$/);
  });

  test('leave out what a model does not have', () => {
    const plain = { ...explanation, tower: undefined, interaction: undefined };
    expect(panelGroups(plain, {}).map(({ panels }) => panels.length)).toEqual([2]);
  });

  test('are shortened to twelve, and it is said', () => {
    const panel = { label: 'x', map: counted(1, 1) };
    const few = { title: 'T', panels: Array.from({ length: 12 }, () => panel) };
    expect(shortened(few)).toEqual(few);
    const many = shortened({ title: 'T', panels: [...few.panels, panel] });
    expect([many.title, many.panels.length]).toEqual(['T (the first 12 of 13 tokens)', 12]);
  });
});

test('a choice out of range is refused', () => {
  expect(() => checkChoice('layer', 7, 6)).toThrow(
    new UserError('layer: expected an integer from 1 to 6, got 7'),
  );
  checkChoice('layer', 6, 6);
  checkChoice('layer', undefined, 6);
  expect(() => panelGroups(explanation, { token: 3 })).toThrow(
    "token (of the answer's): expected an integer",
  );
});
