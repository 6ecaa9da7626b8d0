/** An explanation as JSON: names in snake_case, numbers with five digits. Knows nothing of who reads it. */
import type { Maps } from './attentionMaps.ts';
import type { Explanation } from './explain.ts';

const DIGITS = 5;

/** Every array as `{ shape, data }`, row-major; what a model does not have is null. */
export function explanationJson(explanation: Explanation): Readonly<Record<string, unknown>> {
  const { questionTokens, answerTokens, tower, interaction, answer } = explanation;
  return {
    question_tokens: questionTokens,
    answer_tokens: answerTokens,
    tower: tower
      ? {
          patches_to_question: mapsJson(tower.patchesToQuestion),
          question_to_patches: mapsJson(tower.questionToPatches),
        }
      : null,
    interaction: interaction
      ? {
          after_decoder_layers: interaction.after,
          windows: mapsJson(interaction.windows),
          latents: mapsJson(interaction.latents),
          all: mapsJson(interaction.all),
        }
      : null,
    answer: { layers: mapsJson(answer.layers), mean: mapsJson(answer.mean) },
  };
}

function mapsJson({ shape, data }: Maps) {
  return { shape, data: Array.from(data, (x) => Number(x.toPrecision(DIGITS))) };
}
