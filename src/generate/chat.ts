/**
 * Questions and chats as people ask them: text, and one image a conversation. Knows how turns become messages,
 * not how they are answered (`answer.ts`).
 */
import { UserError } from '../common/errors.ts';
import { escapeMarkers, type Message } from '../data/conversation.ts';
import {
  type Answer,
  type AnswerEvent,
  type AnswerOptions,
  type AnswerPlan,
  type Conversation,
  planAnswer,
  type Reader,
  streamAnswer,
} from './answer.ts';
import type { FusionModel } from './model.ts';
import { type ImageOptions, type ImageSource, openImage, type Picture, pictureOf } from './picture.ts';

/** A question, alone or with an image. */
export interface Question extends ImageOptions {
  readonly text: string;
  /** A path, a file's bytes, or decoded pixels. */
  readonly image?: ImageSource | undefined;
}

/**
 * Asks one question and streams the answer: `{type: 'text', text}` events, then `{type: 'done', answer}`.
 *
 * @throws UserError for an empty question, an image that cannot be used, options out of range, and a prompt
 * that does not fit the context with its answer.
 */
export async function* stream(
  model: FusionModel,
  question: Question | string,
  options: AnswerOptions = {},
): AsyncGenerator<AnswerEvent, void, undefined> {
  const { text, image, ...decoding } = typeof question === 'string' ? { text: question } : question;
  const chat = new Chat(model);
  checkQuestion(text);
  if (image !== undefined) await chat.show(image, decoding);
  yield* chat.stream(text, options);
}

/** Asks one question and waits for the whole answer. Throws as `stream`. */
export async function ask(
  model: FusionModel,
  question: Question | string,
  options: AnswerOptions = {},
): Promise<Answer> {
  return wholeAnswer(stream(model, question, options));
}

/**
 * A question as a conversation of one turn, for `Engine` and `explain`.
 *
 * @throws UserError for an empty question and an image that cannot be used.
 */
export async function conversationOf({ config }: Reader, question: Question): Promise<Conversation> {
  const { text, image, ...decoding } = question;
  checkQuestion(text);
  const message = messageOf({ role: 'user', text, showsImage: image !== undefined });
  if (image === undefined) return { messages: [message] };
  return { messages: [message], picture: pictureOf(await openImage(image, decoding), config.vision) };
}

/** A text worth asking. @throws UserError for one without a visible character. */
export function checkQuestion(text: string): void {
  if (text.trim() !== '') return;
  throw new UserError('question: expected some text, got an empty one; put the question in quotes');
}

/**
 * How a first question is answered, found out without the weights.
 *
 * @throws UserError as `stream`, images apart.
 */
export function checkFirstQuestion(
  reader: Reader,
  text: string,
  showsImage: boolean,
  options: AnswerOptions,
): AnswerPlan {
  checkQuestion(text);
  return planAnswer(reader, [messageOf({ role: 'user', text, showsImage })], showsImage, options);
}

async function wholeAnswer(events: AsyncIterable<AnswerEvent>): Promise<Answer> {
  for await (const event of events) if (event.type === 'done') return event.answer;
  throw new Error('internal: an answer ended without its last event');
}

/** A turn as it was typed or answered. */
export interface Turn extends Message {
  /** Whether the image arrived with this turn. */
  readonly showsImage: boolean;
}

/**
 * A conversation of several turns about at most one image, which may arrive at any turn. Every turn is answered
 * from the whole conversation: the whole crop is read again with all questions so far, the tiles' features are
 * reused. A turn that fails leaves the conversation as it was; one that is cancelled keeps what was said.
 */
export class Chat {
  readonly #model: FusionModel;
  #turns: Turn[] = [];
  #picture: Picture | undefined;

  constructor(model: FusionModel) {
    this.#model = model;
  }

  /** The turns so far, as they were typed and answered. */
  get messages(): readonly Message[] {
    return this.#turns.map(({ role, text }) => ({ role, text }));
  }

  /** Whether an image belongs to the conversation, asked about or not. */
  get hasImage(): boolean {
    return this.#picture !== undefined;
  }

  /**
   * The image that the next question shows; it replaces one that nothing was asked about yet.
   *
   * @throws UserError where it cannot be read, and where the conversation has its image: the model was trained
   * on one image a conversation.
   */
  async show(source: ImageSource, options: ImageOptions = {}): Promise<void> {
    if (this.#turns.some(({ showsImage }) => showsImage)) {
      throw new UserError(
        'image: expected one a conversation, got a second; clear the conversation to begin with another',
      );
    }
    this.#picture = pictureOf(await openImage(source, options), this.#model.config.vision);
  }

  /** Forgets turns and image. */
  clear(): void {
    this.#turns = [];
    this.#picture = undefined;
  }

  /** Asks and streams the answer; when the `done` event comes, both turns belong to the conversation. */
  async *stream(text: string, options: AnswerOptions = {}): AsyncGenerator<AnswerEvent, void, undefined> {
    checkQuestion(text);
    const shown = this.#turns.some(({ showsImage }) => showsImage);
    const asked: Turn = { role: 'user', text, showsImage: this.#picture !== undefined && !shown };
    const turns = [...this.#turns, asked];
    const picture = this.#picture;
    for await (const event of streamAnswer(
      this.#model,
      { messages: turns.map(messageOf), picture },
      options,
    )) {
      if (event.type === 'done') this.#remember(turns, event.answer);
      yield event;
    }
  }

  /** Asks and waits for the whole answer. */
  ask(text: string, options: AnswerOptions = {}): Promise<Answer> {
    return wholeAnswer(this.stream(text, options));
  }

  #remember(turns: readonly Turn[], { text, finishReason }: Answer): void {
    if (finishReason === 'cancelled' && text === '') return;
    this.#turns = [...turns, { role: 'assistant', text, showsImage: false }];
  }
}

/** The message of a turn: what people and the model wrote must not read as markers. */
export function messageOf({ role, text, showsImage }: Turn): Message {
  const safe = escapeMarkers(text);
  return { role, text: showsImage ? `<image>\n${safe}` : safe };
}
