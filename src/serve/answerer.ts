/**
 * What the server asks of models: to be known before they are loaded, to be loaded, to answer. The server knows
 * nothing else of them, so tests put their own in place.
 */
import type { OnProgress } from '../common/progress.ts';
import type { Message } from '../data/conversation.ts';
import type { AnswerEvent, AnswerOptions, AnswerPlan, Conversation } from '../generate/answer.ts';

/** Answers conversations, several at once. */
export interface Answerer {
  /** `text` events, then one `done`; an aborted signal ends the answer with `finishReason: 'cancelled'`. */
  stream(
    conversation: Conversation,
    options: AnswerOptions,
    plan: AnswerPlan,
  ): AsyncGenerator<AnswerEvent, void, undefined>;
}

/**
 * Answers, and shows what the model looked at while it did. The result is sent as JSON, as `jsonPieces` writes it.
 *
 * @throws UserError for a conversation that cannot be explained.
 */
export type Explain = (
  conversation: Conversation,
  options: AnswerOptions,
  plan: AnswerPlan,
) => Promise<unknown>;

export interface LoadedModel extends Answerer {
  readonly explain?: Explain | undefined;
  /** Frees everything. Called when nobody uses the model. */
  dispose(): Promise<void>;
}

/** A model that can be loaded, and what is known of it before. */
export interface ServableModel {
  /** How requests name it. */
  readonly name: string;
  /** Memory that loading it takes, in bytes. */
  readonly bytes: number;
  /** Side of an image crop, in pixels. */
  readonly imageSize: number;
  /** Whether it can `explain` once it is loaded. */
  readonly explains: boolean;
  /** For people and the page: variant, context, query lengths. */
  readonly facts: Readonly<Record<string, unknown>>;
  /**
   * Tokenises a conversation, for one answer. Not in the server's own thread where it is long.
   *
   * @throws UserError for a conversation or options that it cannot answer.
   */
  plan(messages: readonly Message[], hasImage: boolean, options: AnswerOptions): Promise<AnswerPlan>;
  load(onProgress: OnProgress): Promise<LoadedModel>;
  /** Frees what planning took; to be called when no request is under way. */
  close(): Promise<void>;
}
