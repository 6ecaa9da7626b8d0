/**
 * Which maps of an explanation are shown, and what is written under them. Knows nothing of pixels of a drawing.
 */
import { UserError } from '../common/errors.ts';
import { type Maps, mapAt, meanOver } from '../generate/attentionMaps.ts';
import type { Explanation } from '../generate/explain.ts';

/** One map over the picture: [rows, columns]. */
export interface Panel {
  readonly label: string;
  readonly map: Maps;
}

export interface PanelGroup {
  readonly title: string;
  readonly panels: readonly Panel[];
}

/** What is shown of it, counted from 1; the mean over layers, and all tokens, unless given. */
export interface PanelChoice {
  /** Of the vision tower. */
  readonly layer?: number | undefined;
  readonly decoderLayer?: number | undefined;
  /** Of the answer. */
  readonly token?: number | undefined;
}

/** Tokens that are shown at most where none is chosen. */
const MOST_TOKENS = 12;

/** The groups in the order in which the model works: tower, interaction layers, answer. */
export function panelGroups(explanation: Explanation, choice: PanelChoice): readonly PanelGroup[] {
  return [
    ...towerGroups(explanation, choice.layer),
    ...interactionGroups(explanation),
    answerGroup(explanation, choice),
  ];
}

/** @throws UserError unless `value`, where it is given, is between 1 and `most`. */
export function checkChoice(name: string, value: number | undefined, most: number): void {
  if (value === undefined || (value >= 1 && value <= most)) return;
  throw new UserError(`${name}: expected an integer from 1 to ${most}, got ${value}`);
}

function towerGroups({ tower, questionTokens }: Explanation, layer: number | undefined): PanelGroup[] {
  if (tower === undefined) return [];
  const ofLayer = (maps: Maps) => (layer === undefined ? meanOver(maps, 0) : mapAt(maps, layer - 1));
  const [toQuestion, toPatches] = [ofLayer(tower.patchesToQuestion), ofLayer(tower.questionToPatches)];
  const where = `vision tower, ${layerName(layer)}`;
  return [
    {
      title: `Attention between patches and question, ${where}`,
      panels: [
        { label: 'patches to the question', map: sumOfFirst(toQuestion) },
        { label: 'the question to patches', map: meanOver(toPatches, 0) },
      ],
    },
    {
      title: `Attention of patches to each token of the question, ${where}`,
      panels: tokenPanels(toQuestion, questionTokens),
    },
  ];
}

function interactionGroups({ interaction }: Explanation): PanelGroup[] {
  if (interaction === undefined) return [];
  const panels = interaction.after.map((layer, j) => ({
    label: `after decoder layer ${layer + 1}`,
    map: mapAt(interaction.all, j),
  }));
  return [{ title: 'Attention of the latents to their windows, mean over latents', panels }];
}

function answerGroup(
  { answer, answerTokens }: Explanation,
  { decoderLayer, token }: PanelChoice,
): PanelGroup {
  checkChoice("token (of the answer's)", token, answerTokens.length);
  const maps = decoderLayer === undefined ? answer.mean : mapAt(answer.layers, decoderLayer - 1);
  const panels = tokenPanels(maps, answerTokens);
  return {
    title: `Attention of the answer’s tokens to the picture, decoder, ${layerName(decoderLayer)}`,
    panels: token === undefined ? panels : panels.slice(token - 1, token),
  };
}

/** maps: [tokens, rows, columns]. */
function tokenPanels(maps: Maps, tokens: readonly string[]): readonly Panel[] {
  return tokens.map((token, i) => ({ label: shownToken(token), map: mapAt(maps, i) }));
}

/** A group with the first panels only where there are many; its title says so. */
export function shortened({ title, panels }: PanelGroup): PanelGroup {
  if (panels.length <= MOST_TOKENS) return { title, panels };
  return {
    title: `${title} (the first ${MOST_TOKENS} of ${panels.length} tokens)`,
    panels: panels.slice(0, MOST_TOKENS),
  };
}

const layerName = (layer: number | undefined): string =>
  layer === undefined ? 'mean over layers' : `layer ${layer}`;

/** A token's text on one line, its spaces visible where there is nothing else. */
function shownToken(token: string): string {
  const text = JSON.stringify(token.trim()).slice(1, -1);
  return text === '' ? '␣' : text;
}

function sumOfFirst(maps: Maps): Maps {
  const { shape, data } = meanOver(maps, 0);
  return { shape, data: data.map((x) => x * (maps.shape[0] ?? 0)) };
}
