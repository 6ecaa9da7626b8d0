/**
 * One answer among several under way: its text so far, and the events that its reader has not taken yet. It ends
 * once, by its last token, an error, its signal or because nobody reads it any more. Knows nothing of the others.
 */
import type { AnswerEvent, AnswerOptions, AnswerPlan, Conversation } from './answer.ts';
import { type AnswerInputs, type Clock, startClock } from './answerInputs.ts';
import { AnswerWriter } from './answerWriter.ts';
import type { DecodeSequence, ReadSequence } from './batchDecoder.ts';
import type { FusionModel } from './model.ts';
import type { Picture } from './picture.ts';

export class AnswerRequest {
  readonly plan: AnswerPlan;
  readonly picture: Picture | undefined;
  readonly clock: Clock;
  /** The caller's, with `signal` aborted also when nobody reads the answer any more. */
  readonly options: AnswerOptions & { readonly signal: AbortSignal };
  inputs: AnswerInputs | undefined;
  /** The prompt, where it was read apart. */
  read: ReadSequence | undefined;
  sequence: DecodeSequence | undefined;
  readonly #writer: AnswerWriter;
  readonly #stopper = new AbortController();
  readonly #events: AnswerEvent[] = [];
  #over = false;
  #error: unknown;
  #wake = () => {};

  constructor(model: FusionModel, plan: AnswerPlan, { picture }: Conversation, options: AnswerOptions) {
    this.plan = plan;
    this.picture = picture;
    this.clock = startClock(model);
    this.#writer = new AnswerWriter(model, plan, options);
    const { signal } = this.#stopper;
    this.options = { ...options, signal };
    const onAbort = () => this.finish();
    options.signal?.addEventListener('abort', onAbort);
    signal.addEventListener('abort', () => options.signal?.removeEventListener('abort', onAbort));
    if (options.signal?.aborted) this.finish();
  }

  /** Whether nothing more will come: what it holds on the device can be given back. */
  get over(): boolean {
    return this.#over;
  }

  /** The token made last. */
  get lastToken(): number {
    const token = this.#writer.tokens.at(-1);
    if (token === undefined) throw new Error('internal: an answer without a token goes on');
    return token;
  }

  /** Tokens of the answer so far. */
  get tokenCount(): number {
    return this.#writer.tokens.length;
  }

  /** Takes the next token's logits: f32 [V]. Logits that no token can be chosen from end this answer alone. */
  take(logits: Float32Array): void {
    if (this.#over) return;
    try {
      this.#push(this.#writer.take(logits));
    } catch (error) {
      this.fail(error);
    }
    if (this.#writer.finishReason !== undefined) this.finish();
  }

  /** Ends the answer, as cancelled where nothing ended it yet. */
  finish(): void {
    if (this.#over) return;
    this.#push(this.#writer.end());
    this.#push({ type: 'done', answer: this.#writer.answer({ ...this.clock }) });
    this.#end();
  }

  /** Ends the answer with an error, which its reader gets. */
  fail(error: unknown): void {
    if (this.#over) return;
    this.#error = error;
    this.#end();
  }

  /** The events as they come. Leaving the loop ends the answer. @throws what `fail` was given. */
  async *events(): AsyncGenerator<AnswerEvent, void, undefined> {
    try {
      for (;;) {
        const event = this.#events.shift();
        if (event !== undefined) yield event;
        else if (this.#error !== undefined) throw this.#error;
        else if (this.#over) return;
        else await this.#change();
      }
    } finally {
      this.#end();
    }
  }

  #push(event: AnswerEvent | undefined): void {
    if (event === undefined) return;
    this.#events.push(event);
    this.#wake();
  }

  #end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#stopper.abort();
    this.#wake();
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}
