/**
 * A conversation → its answer as a stream of text: vision, prefill, then token by token until an end token, a
 * stop string, the limit or the caller ends it. Knows nothing of how a conversation came about (`chat.ts`).
 */
import type { OnProgress } from '../common/progress.ts';
import { Random } from '../common/random.ts';
import { encodePrompt, type Message } from '../data/conversation.ts';
import { TextStream } from '../data/textStream.ts';
import { DecodeSession, type PromptIds, promptLength } from './decodeSession.ts';
import { checkContext, checkMaxTokens, checkQueryLength } from './limits.ts';
import type { FusionModel, ModelFiles } from './model.ts';
import type { Picture } from './picture.ts';
import { type SamplingOptions, sampleToken, validateSampling } from './sampling.ts';
import { StopMatcher, type StopReason } from './stop.ts';

/** How to answer. Everything may be left out. */
export interface AnswerOptions extends SamplingOptions {
  /** The most tokens of the answer; 1024, or what the context leaves, unless given. */
  readonly maxTokens?: number | undefined;
  /** Texts that end the answer; they are not part of it. */
  readonly stop?: readonly string[] | undefined;
  /** Latents per question, a perfect square; the config's default (36 or the nearest) unless given. */
  readonly queryLength?: number | undefined;
  /** Ends the answer early: looked at between crops and between tokens. */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: OnProgress | undefined;
}

/** Seconds of wall time. */
export interface Timings {
  /** Loading the model, and compiling what this answer was the first to need. */
  readonly load: number;
  readonly vision: number;
  readonly prefill: number;
  /** All tokens after the first. */
  readonly decode: number;
}

export interface Answer {
  readonly text: string;
  /** `stop` (an end token), `stop_string`, `length` (maxTokens) or `cancelled`. */
  readonly finishReason: StopReason;
  /** The answer's token ids, without the end token. */
  readonly tokens: readonly number[];
  /** Positions the prompt takes in the context, image included. */
  readonly promptTokens: number;
  readonly queryLength: number;
  /** With it and the same options the answer is the same; drawn at random where sampling was given none. */
  readonly seed: number;
  readonly seconds: Timings;
  /** Decoding speed; 0 for an answer of at most one token. */
  readonly tokensPerSecond: number;
  /** The process's largest resident set so far, in bytes. */
  readonly peakMemory: number;
  readonly warnings: readonly string[];
}

export type AnswerEvent =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'done'; readonly answer: Answer };

/** Messages with `<image>` in the turn that shows the picture, where there is one. */
export interface Conversation {
  readonly messages: readonly Message[];
  readonly picture?: Picture | undefined;
}

/** What a conversation is checked against. */
export type Reader = Pick<ModelFiles, 'config' | 'tokenizer' | 'format'>;

/** Everything decided before work starts. */
export interface AnswerPlan {
  readonly prompt: PromptIds & { readonly instructs: Int32Array };
  readonly promptTokens: number;
  readonly queryLength: number;
  readonly maxTokens: number;
  readonly seed: number;
  readonly stops: StopMatcher;
  readonly warnings: readonly string[];
}

/**
 * Answers a conversation: `text` events as the text becomes certain, then one `done`. An aborted signal ends it
 * with `finishReason: 'cancelled'` and what was said so far; leaving the loop early frees everything too.
 *
 * @throws UserError at the first event for options out of range and for a prompt that, with its answer, does
 * not fit the context; nothing has been computed then.
 */
export async function* streamAnswer(
  model: FusionModel,
  conversation: Conversation,
  options: AnswerOptions = {},
): AsyncGenerator<AnswerEvent, void, undefined> {
  const plan = planAnswer(model, conversation.messages, conversation.picture !== undefined, options);
  const clock = { load: model.loadSeconds, vision: 0, prefill: 0, decode: 0 };
  const generation = new Generation(model, plan, options, clock);
  let text = '';
  try {
    await generation.start(conversation.picture);
    for await (const piece of generation.pieces()) {
      text += piece;
      yield { type: 'text', text: piece };
    }
  } finally {
    await generation.free();
  }
  const { tokens, finishReason } = generation;
  const steps = tokens.length - (finishReason === 'stop' ? 0 : 1);
  yield {
    type: 'done',
    answer: {
      text,
      finishReason,
      tokens,
      promptTokens: plan.promptTokens,
      queryLength: plan.queryLength,
      seed: plan.seed,
      seconds: clock,
      tokensPerSecond: steps > 0 && clock.decode > 0 ? steps / clock.decode : 0,
      peakMemory: process.resourceUsage().maxRSS * 1024,
      warnings: plan.warnings,
    },
  };
}

/** Checks what needs no model. @throws UserError naming the option, its range and the value. */
export function checkAnswerOptions(options: AnswerOptions): StopMatcher {
  validateSampling(options);
  checkMaxTokens(options.maxTokens);
  return new StopMatcher(options.stop ?? []);
}

/**
 * The prompt and the limits of an answer; nothing is computed. hasImage: whether a picture comes with it.
 *
 * @throws UserError for options out of range, a conversation that cannot be asked, and a prompt that does not
 * fit the context with its answer.
 */
export function planAnswer(
  { config, tokenizer, format }: Reader,
  messages: readonly Message[],
  hasImage: boolean,
  options: AnswerOptions,
): AnswerPlan {
  const stops = checkAnswerOptions(options);
  const { queryLength, warnings } = checkQueryLength(config, options.queryLength);
  const prompt = encodePrompt(tokenizer, format, messages, { hasImage });
  const promptTokens = promptLength(config, prompt.inputIds, queryLength);
  const maxTokens = checkContext(config, promptTokens, options.maxTokens);
  const drawn = options.temperature ? Math.floor(Math.random() * 2 ** 32) : 0;
  return { prompt, promptTokens, queryLength, maxTokens, seed: options.seed ?? drawn, stops, warnings };
}

type Clock = { -readonly [name in keyof Timings]: number };

/** One answer under way. */
class Generation {
  readonly tokens: number[] = [];
  finishReason: StopReason = 'cancelled';
  readonly #model: FusionModel;
  readonly #plan: AnswerPlan;
  readonly #options: AnswerOptions;
  readonly #clock: Clock;
  /** What `free` undoes, in order. */
  readonly #cleanUp: (() => Promise<void>)[] = [];
  #session: DecodeSession | undefined;

  constructor(model: FusionModel, plan: AnswerPlan, options: AnswerOptions, clock: Clock) {
    this.#model = model;
    this.#plan = plan;
    this.#options = options;
    this.#clock = clock;
  }

  get #cancelled(): boolean {
    return this.#options.signal?.aborted ?? false;
  }

  /** Compiles, and encodes the picture. */
  async start(picture: Picture | undefined): Promise<void> {
    const { programs } = this.#model;
    const { queryLength } = this.#plan;
    if (this.#cancelled) return;
    await this.#timed('load', async () => {
      await programs.tile();
      if (picture !== undefined) await programs.whole();
      await programs.prefill(queryLength);
      await programs.decode();
    });
    const features = await this.#timed('vision', () => this.#encode(picture)).catch((error: unknown) => {
      if (this.#cancelled) return undefined;
      throw error;
    });
    if (features === undefined) return;
    const session = new DecodeSession(this.#model, this.#plan.prompt, features, queryLength);
    this.#session = session;
    this.#cleanUp.push(() => session.free());
  }

  async #encode(picture: Picture | undefined) {
    const { images, device } = this.#model;
    const { signal, onProgress } = this.#options;
    const held = await images.tiles(picture, { signal, onProgress });
    this.#cleanUp.push(() => held.release());
    signal?.throwIfAborted();
    onProgress?.({ phase: 'vision', done: 4, total: 5, unit: 'tiles' });
    const imageTokens = await images.whole(picture, this.#plan.prompt.instructs);
    this.#cleanUp.push(() => device.free([imageTokens]));
    onProgress?.({ phase: 'vision', done: 5, total: 5, unit: 'tiles' });
    return { tiles: held.features, imageTokens };
  }

  /** The answer's text, piece by piece; sets `finishReason`. */
  async *pieces(): AsyncGenerator<string, void, undefined> {
    const { stops } = this.#plan;
    const text = new TextStream(this.#model.tokenizer);
    for await (const token of this.#generate()) {
      const { emit, stopped } = stops.push(text.push(token));
      if (emit !== '') yield emit;
      if (stopped) break;
    }
    const rest = stops.push(text.flush()).emit + stops.flush();
    if (stops.matched !== undefined) this.finishReason = 'stop_string';
    if (rest !== '') yield rest;
  }

  async *#generate(): AsyncGenerator<number, void, undefined> {
    const session = this.#session;
    if (session === undefined || this.#cancelled) return;
    const random = new Random(this.#plan.seed);
    const seen = Array.from(this.#plan.prompt.inputIds);
    let logits = await this.#prefill(session);
    while (!this.#cancelled) {
      const { id } = sampleToken(logits, this.#options, seen, random);
      if (this.#model.stopIds.has(id)) {
        this.finishReason = 'stop';
        return;
      }
      this.tokens.push(id);
      seen.push(id);
      yield id;
      if (this.tokens.length === this.#plan.maxTokens) {
        this.finishReason = 'length';
        return;
      }
      if (this.#cancelled) return;
      logits = await this.#timed('decode', () => session.append(id));
    }
  }

  async #prefill(session: DecodeSession): Promise<Float32Array> {
    const total = this.#plan.promptTokens;
    const report = (done: number) =>
      this.#options.onProgress?.({ phase: 'prefill', done, total, unit: 'tokens' });
    report(0);
    const logits = await this.#timed('prefill', () => session.prefill());
    report(total);
    return logits;
  }

  /** Frees in reverse order; may be called again. */
  async free(): Promise<void> {
    for (let undo = this.#cleanUp.pop(); undo !== undefined; undo = this.#cleanUp.pop()) await undo();
  }

  async #timed<T>(phase: keyof Timings, work: () => Promise<T>): Promise<T> {
    const start = performance.now();
    try {
      return await work();
    } finally {
      this.#clock[phase] += (performance.now() - start) / 1e3;
    }
  }
}
