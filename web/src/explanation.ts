/**
 * What `/v1/fusion/explain` gives, and the map over the picture that a choice in it means. Knows nothing of how it
 * is asked for or shown.
 *
 * Shapes: g patches along a side, T question tokens, q latents, M answer tokens, n image tokens along a side.
 */
import { at, chosen, type Grid, gridOf, type Maps, mean, sum } from './heat.ts';

export interface Explanation {
  /** All questions of the conversation, which the vision tower reads. */
  readonly questionTokens: readonly string[];
  readonly answerTokens: readonly string[];
  /** [layers, T, g, g]; undefined for a model whose tower does not read the question. */
  readonly tower: { readonly patchesToQuestion: Maps; readonly questionToPatches: Maps } | undefined;
  /** [interaction layers, q, 2g, 2g]; `after`: the decoder layers, from 0, that they follow. */
  readonly interaction: { readonly after: readonly number[]; readonly latents: Maps } | undefined;
  /** [layers, M, n, n]. */
  readonly answer: Maps;
}

/** Which part of the model is shown. */
export type View = 'patches' | 'question' | 'latents' | 'answer';

export interface Choice {
  readonly view: View;
  /** From 0; all of them where it is undefined. */
  readonly layer: number | undefined;
  /** A token or a latent, from 0; all of them where it is undefined. */
  readonly item: number | undefined;
}

type Json = Readonly<Record<string, unknown>>;

/** Reads the JSON of an explanation. @throws Error where it is none. */
export function readExplanation(json: unknown): Explanation {
  const { question_tokens, answer_tokens, tower, interaction, answer } = record(json);
  return {
    questionTokens: list(question_tokens, String),
    answerTokens: list(answer_tokens, String),
    tower: tower == null ? undefined : readTower(record(tower)),
    interaction: interaction == null ? undefined : readInteraction(record(interaction)),
    answer: readMaps(record(answer).layers),
  };
}

const readTower = (tower: Json) => ({
  patchesToQuestion: readMaps(tower.patches_to_question),
  questionToPatches: readMaps(tower.question_to_patches),
});

const readInteraction = (interaction: Json) => ({
  after: list(interaction.after_decoder_layers, Number),
  latents: readMaps(interaction.latents),
});

function readMaps(json: unknown): Maps {
  const { shape, data } = record(json);
  return { shape: list(shape, Number), data: Float32Array.from(list(data, Number)) };
}

function record(json: unknown): Json {
  if (typeof json === 'object' && json !== null) return json as Json;
  throw new Error('The server sent no explanation that this page understands.');
}

function list<T>(json: unknown, of: (value: unknown) => T): readonly T[] {
  if (Array.isArray(json)) return json.map(of);
  throw new Error('The server sent no explanation that this page understands.');
}

/** The views that a model has, in the order in which it works. */
export function viewsOf({ tower, interaction, answerTokens }: Explanation): readonly View[] {
  return [
    ...(tower ? (['patches', 'question'] as const) : []),
    ...(interaction ? (['latents'] as const) : []),
    ...(answerTokens.length > 0 ? (['answer'] as const) : []),
  ];
}

/** The arrays of a view: [layers, items, rows, columns]. */
export function mapsOf({ tower, interaction, answer }: Explanation, view: View): Maps {
  const maps = {
    patches: tower?.patchesToQuestion,
    question: tower?.questionToPatches,
    latents: interaction?.latents,
    answer,
  }[view];
  if (maps === undefined) throw new Error(`internal: this model has no ${view}`);
  return maps;
}

/** Names of the layers that can be chosen. */
export function layerNames(explanation: Explanation, view: View): readonly string[] {
  if (view === 'latents') {
    return (explanation.interaction?.after ?? []).map((layer) => `after decoder layer ${layer + 1}`);
  }
  const count = mapsOf(explanation, view).shape[0] ?? 0;
  return Array.from({ length: count }, (_, layer) => `layer ${layer + 1} of ${count}`);
}

/** Names of the tokens or latents that can be chosen. */
export function itemNames(explanation: Explanation, view: View): readonly string[] {
  if (view === 'answer') return explanation.answerTokens.map(shownToken);
  if (view !== 'latents') return explanation.questionTokens.map(shownToken);
  const count = explanation.interaction?.latents.shape[1] ?? 0;
  return Array.from({ length: count }, (_, latent) => `${latent + 1}`);
}

/** A token's text, visible where it is only space. */
function shownToken(token: string): string {
  const text = token.trim();
  if (text !== '') return text;
  return token.includes('\n') ? '↵' : '␣';
}

/**
 * The map of a choice. All tokens of the question together: what patches give them is added up, everything else is
 * the mean.
 */
export function mapOf(explanation: Explanation, { view, layer, item }: Choice): Grid {
  const ofLayer = chosen(mapsOf(explanation, view), layer);
  if (item !== undefined) return gridOf(at(ofLayer, item));
  return gridOf(view === 'patches' ? sum(ofLayer) : mean(ofLayer));
}
