/** An explanation as what `jsonPieces` writes: names in snake_case. Knows nothing of who reads it. */
import type { Explanation } from './explain.ts';

/** Every array as `{ shape, data }`, row-major; what a model does not have is null. */
export function explanationJson(explanation: Explanation): Readonly<Record<string, unknown>> {
  const { questionTokens, answerTokens, tower, interaction, answer } = explanation;
  return {
    question_tokens: questionTokens,
    answer_tokens: answerTokens,
    tower: tower
      ? {
          patches_to_question: tower.patchesToQuestion,
          question_to_patches: tower.questionToPatches,
        }
      : null,
    interaction: interaction
      ? {
          after_decoder_layers: interaction.after,
          windows: interaction.windows,
          latents: interaction.latents,
          all: interaction.all,
        }
      : null,
    answer: { layers: answer.layers, mean: answer.mean },
  };
}
