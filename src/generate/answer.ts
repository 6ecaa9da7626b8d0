/**
 * A conversation → its answer as a stream of text: vision, prefill, then token by token until an end token, a
 * stop string, the limit or the caller ends it. Knows nothing of how a conversation came about (`chat.ts`).
 */
import type { OnProgress } from '../common/progress.ts';
import { type EncodedPrompt, encodePrompt, type Message, withSystemText } from '../data/conversation.ts';
import type { FusionConfig } from '../model/config.ts';
import { type AnswerInputs, type Clock, prepareInputs, startClock, timed } from './answerInputs.ts';
import { AnswerWriter } from './answerWriter.ts';
import { type PrefillOptions, type PromptIds, promptLength } from './batchDecoder.ts';
import { DecodeSession } from './decodeSession.ts';
import { checkContext, checkMaxTokens, checkQueryLength } from './limits.ts';
import { checkLogprobs, type TokenLogprob } from './logprobs.ts';
import type { FusionModel, ModelFiles } from './model.ts';
import type { Picture } from './picture.ts';
import { type SamplingOptions, validateSampling } from './sampling.ts';
import { StopMatcher, type StopReason } from './stop.ts';

/** How to answer. Everything may be left out. */
export interface AnswerOptions extends SamplingOptions {
  /** The most tokens of the answer; 1024, or what the context leaves, unless given. */
  readonly maxTokens?: number | undefined;
  /** Texts that end the answer; they are not part of it. */
  readonly stop?: readonly string[] | undefined;
  /** Stands in place of the conversation format's system text, where the format has a system turn. */
  readonly systemText?: string | undefined;
  /** Latents per question, a perfect square; the config's default (36 or the nearest) unless given. */
  readonly queryLength?: number | undefined;
  /** How many alternatives each token's log-probability comes with, 0 to 20; no log-probabilities unless given. */
  readonly logprobs?: number | undefined;
  /** Ends the answer early: looked at between crops, between the parts of a long prompt, and between tokens. */
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

/** More of the answer's text. */
export interface TextEvent {
  readonly type: 'text';
  readonly text: string;
  /**
   * Where `AnswerOptions.logprobs` asks for them: the tokens whose text begins here, in order. A last event may
   * have tokens and no text.
   */
  readonly logprobs?: readonly TokenLogprob[];
}

export type AnswerEvent = TextEvent | { readonly type: 'done'; readonly answer: Answer };

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
 * with `finishReason: 'cancelled'` and what was said so far; leaving the loop early frees everything too. given: the
 * plan of this conversation and these options, where it was made before; a plan serves one answer.
 *
 * @throws UserError at the first event for options out of range and for a prompt that, with its answer, does
 * not fit the context; nothing has been computed then.
 */
export async function* streamAnswer(
  model: FusionModel,
  conversation: Conversation,
  options: AnswerOptions = {},
  given?: AnswerPlan,
): AsyncGenerator<AnswerEvent, void, undefined> {
  const { messages, picture } = conversation;
  const plan = given ?? planAnswer(model, messages, picture !== undefined, options);
  const clock = startClock(model);
  const writer = new AnswerWriter(model, plan, options);
  const inputs = await prepareInputs(model, plan, picture, options, clock);
  if (inputs !== undefined) {
    try {
      for await (const event of decodeAnswer(model, plan, inputs, writer, options, clock)) yield event;
    } finally {
      await inputs.free();
    }
  }
  const rest = writer.end();
  if (rest !== undefined) yield rest;
  yield { type: 'done', answer: writer.answer(clock) };
}

/** Reads the prompt and writes token by token. */
async function* decodeAnswer(
  model: FusionModel,
  plan: AnswerPlan,
  { features }: AnswerInputs,
  writer: AnswerWriter,
  options: AnswerOptions,
  clock: Clock,
): AsyncGenerator<TextEvent, void, undefined> {
  const cancelled = () => options.signal?.aborted ?? false;
  if (cancelled()) return;
  const session = new DecodeSession(model, plan.prompt, features, plan.queryLength);
  try {
    let logits = await timed(clock, 'prefill', () =>
      readPrompt((run) => session.prefill(run), plan, options),
    );
    while (!cancelled()) {
      const event = writer.take(logits);
      if (event !== undefined) yield event;
      if (writer.finishReason !== undefined || cancelled()) return;
      logits = await timed(clock, 'decode', () => session.append(writer.tokens.at(-1) as number));
    }
  } catch (error) {
    if (!cancelled()) throw error;
  } finally {
    await session.free();
  }
}

/** Prefills, with what `prefill` is to be stopped and to report by. */
export async function readPrompt<T>(
  prefill: (run: PrefillOptions) => Promise<T>,
  { promptTokens: total }: AnswerPlan,
  { onProgress, signal }: AnswerOptions,
): Promise<T> {
  const report = (done: number) => onProgress?.({ phase: 'prefill', done, total, unit: 'tokens' });
  report(0);
  const result = await prefill({ signal, onShare: (share) => report(Math.floor(share * total)) });
  report(total);
  return result;
}

/** Checks what needs no model. @throws UserError naming the option, its range and the value. */
export function checkAnswerOptions(options: AnswerOptions): StopMatcher {
  validateSampling(options);
  checkMaxTokens(options.maxTokens);
  checkLogprobs(options.logprobs);
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
  checkAnswerOptions(options);
  checkQueryLength(config, options.queryLength);
  const withText = withSystemText(format, options.systemText);
  return planPrompt(config, encodePrompt(tokenizer, withText, messages, { hasImage }), options);
}

/** The limits of an answer to a prompt. @throws UserError as `planAnswer`. */
export function planPrompt(config: FusionConfig, prompt: EncodedPrompt, options: AnswerOptions): AnswerPlan {
  const stops = checkAnswerOptions(options);
  const { queryLength, warnings } = checkQueryLength(config, options.queryLength);
  const promptTokens = promptLength(config, prompt.inputIds, queryLength);
  const maxTokens = checkContext(config, promptTokens, options.maxTokens);
  const drawn = options.temperature ? Math.floor(Math.random() * 2 ** 32) : 0;
  return { prompt, promptTokens, queryLength, maxTokens, seed: options.seed ?? drawn, stops, warnings };
}
