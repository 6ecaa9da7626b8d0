/**
 * Programs that give what the model attends to instead of what comes of it: the tower's attention between picture and
 * question, the interaction layers' attention to their windows, the decoder's attention to the image tokens. They are
 * traced from the same functions as the programs of `programs.ts`, so that the values are the model's own; those
 * programs are not changed by them. All are means over heads.
 */
import {
  concat,
  gather,
  input,
  mean,
  type Program,
  program,
  reshape,
  slice,
  type Tensor,
} from '../graph/index.ts';
import type { FusionConfig } from './config.ts';
import { causal } from './decoder.ts';
import { decode, encodeWhole } from './fusion.ts';
import { modelInputs, promptInputs, rotaryInputs } from './programs.ts';

/**
 * A whole crop with its question: `pixels` [1, 3, S, S], `instructs` [1, T] → for each layer of the tower
 * `patches_to_question` [layers, P, T], how each patch attends to each question token, and `question_to_patches`
 * [layers, T, P], the other way round. Only for a tower that reads the question.
 */
export function explainWholeProgram(config: FusionConfig): Program {
  const { parameters: p } = modelInputs(config);
  const { imageSize: side, patches } = config.vision;
  const pixels = input('pixels', 'f32', [1, 3, side, side]);
  const instructs = input('instructs', 'i32', [1, 'T']);
  const layers: Tensor[] = [];
  encodeWhole(
    p,
    pixels,
    instructs,
    config,
    undefined,
    (_, weights) => void layers.push(mean(weights, [0, 1])),
  );
  const between = (axis: 0 | 1) =>
    layers.map((weights) => slice(slice(weights, axis, 0, patches), 1 - axis, patches, 'T'));
  return program('explain_whole', {
    patches_to_question: stack(between(0)),
    question_to_patches: stack(between(1)),
  });
}

/**
 * A prompt with its answer, fed as to the prefill program, and `query_positions` [M], `image_positions` [I] →
 * `latents_to_windows` [interaction layers, L, w²], how each latent attends to the cells of its window, and
 * `tokens_to_image` [layers, M, I], how the chosen positions attend to those of the image. The first is left out of a
 * model without interaction layers. queryLength: latents per question.
 */
export function explainDecodeProgram(config: FusionConfig, queryLength: number): Program {
  const { parameters: p } = modelInputs(config);
  const { x, interaction } = promptInputs(p, config, 1, queryLength);
  const queries = input('query_positions', 'i32', ['M']);
  const columns = input('image_positions', 'i32', ['I']);
  const [toImage, toWindows]: [Tensor[], Tensor[]] = [[], []];
  const seeImage = causal('S', (weights) => {
    const rows = gather(gather(weights, queries, 2), columns, 3);
    toImage.push(mean(rows, [0, 1]));
  });
  decode(p, x, rotaryInputs(config, 'S'), config, () => seeImage, {
    interaction: { ...interaction, observe: (_, weights) => void toWindows.push(mean(weights, [1, 2])) },
  });
  return program('explain_decode', {
    ...(toWindows.length === 0 ? {} : { latents_to_windows: stack(toWindows) }),
    tokens_to_image: stack(toImage),
  });
}

/** Tensors of one shape under each other, with a new first axis. */
function stack(tensors: readonly Tensor[]): Tensor {
  return concat(
    tensors.map((x) => reshape(x, [1, ...x.shape])),
    0,
  );
}
