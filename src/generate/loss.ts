/**
 * The training loss of a conversation with its answers, and gradients where wanted: the whole model forward (and
 * backward) on one sample. Source: dual-supervised semantic mapping, arXiv 2504.09925 section 3.3.
 */
import { UserError } from '../common/errors.ts';
import { encodeConversation, type Message } from '../data/conversation.ts';
import { blankCrops } from '../data/image.ts';
import { f32, i32, rotaryFeeds, sequenceFeeds } from '../model/feeds.ts';
import { gradientOf } from '../model/programs.ts';
import { layOutSequences } from '../model/sequence.ts';
import { expectedTensors } from '../model/weights.ts';
import type { HostTensor } from '../runtime/types.ts';
import { imageTokenCount } from './imageFeatures.ts';
import { checkQueryLength } from './limits.ts';
import type { FusionModel } from './model.ts';
import { type ImageOptions, type ImageSource, openImage, pictureOf } from './picture.ts';

/** A conversation to learn from. */
export interface Sample extends ImageOptions {
  /** Questions and answers in turn; with an image, `<image>` stands in one of them, else in front of the first. */
  readonly messages: readonly Message[];
  readonly image?: ImageSource | undefined;
}

export interface ForwardOptions {
  readonly queryLength?: number | undefined;
  /** Weights (by checkpoint name) whose gradients are wanted; none unless given. */
  readonly gradients?: readonly string[] | undefined;
}

/** The loss is `crossEntropy + λ·(textLoss + visionLoss)`, λ = the config's `mapping_loss_weight`. */
export interface Loss {
  readonly loss: number;
  /** Mean over the answers' tokens, in nats. */
  readonly crossEntropy: number;
  readonly textLoss: number;
  readonly visionLoss: number;
  /** Positions of the sequence, after the cut to the config's maximum length. */
  readonly length: number;
  /** Of the named weights, f32, each in its weight's shape. */
  readonly gradients: Readonly<Record<string, HostTensor>>;
}

/**
 * The loss of one sample.
 *
 * @throws UserError for a sample without an answer to learn from (or one whose answers were all cut), an image
 * that cannot be used, an unknown weight, or a query length that is no perfect square.
 */
export async function forward(
  model: FusionModel,
  sample: Sample,
  options: ForwardOptions = {},
): Promise<Loss> {
  const { config, programs } = model;
  const gradients = options.gradients ?? [];
  const unknown = gradients.find((name) => !expectedTensors(config).has(name));
  if (unknown !== undefined) throw new UserError(`gradients: expected names of weights, got ${unknown}`);
  const { queryLength } = checkQueryLength(config, options.queryLength);
  const { feeds, length } = await sampleFeeds(model, sample, queryLength);
  const { outputs } = await (await programs.loss(queryLength, gradients)).run(feeds);
  const scalar = (name: string) => Number(outputs[name]?.data[0]);
  return {
    loss: scalar('loss'),
    crossEntropy: scalar('cross_entropy'),
    textLoss: scalar('text_loss'),
    visionLoss: scalar('vision_loss'),
    length,
    gradients: Object.fromEntries(
      gradients.map((name) => [name, outputs[gradientOf(name)] as HostTensor] as const),
    ),
  };
}

async function sampleFeeds({ config, tokenizer, format }: FusionModel, sample: Sample, queryLength: number) {
  const { vision, decoder, maxLength } = config;
  const { messages, image, ...decoding } = sample;
  const hasImage = image !== undefined;
  const shown = hasImage ? withMarker(messages) : messages;
  const { inputIds, labels, instructs } = encodeConversation(tokenizer, format, shown, { hasImage });
  const sizes = { imageTokens: imageTokenCount(config), queryLength, maxLength };
  const layout = layOutSequences([{ inputIds, labels }], sizes);
  if (layout.targets.length === 0) {
    throw new UserError(
      `sample: expected an answer to learn from within ${maxLength} positions, got none; add one or shorten the text`,
    );
  }
  const crops = hasImage
    ? pictureOf(await openImage(image, decoding), vision).crops
    : blankCrops(vision.imageSize);
  const feeds = {
    pixels: f32(crops, [1, 5, 3, vision.imageSize, vision.imageSize]),
    instructs: i32(instructs, [1, instructs.length]),
    ...sequenceFeeds(layout),
    ...rotaryFeeds(decoder, 0, layout.sequence, layout.sequence),
  };
  return { feeds, length: layout.sequence };
}

/** The image belongs to the first question unless a marker says otherwise. */
function withMarker(messages: readonly Message[]): readonly Message[] {
  if (messages.some(({ text }) => text.includes('<image>'))) return messages;
  const first = messages.findIndex(({ role }) => role === 'user');
  return messages.map((message, i) =>
    i === first ? { ...message, text: `<image>\n${message.text}` } : message,
  );
}
