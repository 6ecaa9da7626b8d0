/**
 * `fusion-vl`: load a FUSION checkpoint from a folder, ask about images, chat, and differentiate.
 *
 *     const model = await load('models/FUSION-X-Phi3.5-3B');
 *     for await (const event of stream(model, { text: 'What is this?', image: 'photo.jpg' })) {
 *       if (event.type === 'text') process.stdout.write(event.text);
 *     }
 *     await model.dispose();
 *
 * Everything a user can mend is thrown as `UserError`, with a message of one line.
 */
export type { DownloadOptions } from './checkpoint/hub/download.ts';
export { resolveModel } from './checkpoint/hub/resolve.ts';
export { InternalError, UserError } from './common/errors.ts';
export type { OnProgress, ProgressEvent } from './common/progress.ts';
export type { ConversationFormat, Message } from './data/conversation.ts';
export type { RgbImage } from './data/image.ts';
export { decodeImage, readImage } from './data/imageFile.ts';
export type { Tokenizer } from './data/tokenizer.ts';
export type {
  Answer,
  AnswerEvent,
  AnswerOptions,
  Conversation,
  TextEvent,
  Timings,
} from './generate/answer.ts';
export type { Maps } from './generate/attentionMaps.ts';
export { ask, Chat, conversationOf, type Question, stream } from './generate/chat.ts';
export { Engine, type EngineOptions, type EngineStats } from './generate/engine.ts';
export {
  type AnswerAttention,
  type ExplainOptions,
  type Explanation,
  explain,
  explainAnswer,
  type LatentAttention,
  type TowerAttention,
} from './generate/explain.ts';
export type { TokenChance, TokenLogprob } from './generate/logprobs.ts';
export { type ForwardOptions, forward, type Loss, type Sample } from './generate/loss.ts';
export { type FusionModel, type LoadOptions, loadModel as load } from './generate/model.ts';
export type { ImageOptions, ImageSource } from './generate/picture.ts';
export type { SamplingOptions } from './generate/sampling.ts';
export type { StopReason } from './generate/stop.ts';
export { describeVariant, type FusionConfig, readFusionConfig } from './model/config.ts';
export type { Device, DeviceName, HostTensor, ResidentTensor } from './runtime/types.ts';
