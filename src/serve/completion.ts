/**
 * Answers in OpenAI's chat completions format: whole, or as the chunks of a stream. Knows nothing of HTTP or of
 * how answers are made.
 */
import { randomUUID } from 'node:crypto';
import type { Answer, TextEvent } from '../generate/answer.ts';
import type { TokenChance, TokenLogprob } from '../generate/logprobs.ts';

/** What all chunks of one completion share. */
export interface CompletionHead {
  readonly id: string;
  readonly created: number;
  /** The model's name. */
  readonly model: string;
}

export function newCompletion(model: string): CompletionHead {
  return { id: `chatcmpl-${randomUUID()}`, created: Math.floor(Date.now() / 1000), model };
}

/** Milliseconds that the server spent before the model began. */
export interface WaitTimes {
  readonly queue: number;
  /** Fetching and decoding the image. */
  readonly image: number;
}

/** The whole answer. logprobs: of all its tokens, where they were asked for. */
export function completion(
  head: CompletionHead,
  answer: Answer,
  logprobs: readonly TokenLogprob[] | undefined,
  waited: WaitTimes,
) {
  const choice = {
    index: 0,
    message: { role: 'assistant', content: answer.text, refusal: null },
    logprobs: logprobs === undefined ? null : logprobsOf(logprobs),
    finish_reason: finishReason(answer),
  };
  return {
    ...head,
    object: 'chat.completion',
    choices: [choice],
    usage: usage(answer),
    ...extras(answer, waited),
  };
}

/** The chunk that opens a stream. */
export const openingChunk = (head: CompletionHead) => chunk(head, { role: 'assistant', content: '' });

/** A piece of text. */
export function textChunk(head: CompletionHead, { text, logprobs }: TextEvent) {
  return chunk(head, { content: text }, logprobs);
}

/** The chunk that tells why the answer ended. */
export function finishChunk(head: CompletionHead, answer: Answer, waited: WaitTimes) {
  return { ...chunk(head, {}, undefined, finishReason(answer)), ...extras(answer, waited) };
}

/** The last chunk of a stream whose client wants token counts. */
export function usageChunk(head: CompletionHead, answer: Answer, waited: WaitTimes) {
  return { ...chunk(head, {}), choices: [], usage: usage(answer), ...extras(answer, waited) };
}

function chunk(
  head: CompletionHead,
  delta: Readonly<Record<string, string>>,
  logprobs?: readonly TokenLogprob[],
  finish: string | null = null,
) {
  const choice = {
    index: 0,
    delta,
    logprobs: logprobs === undefined ? null : logprobsOf(logprobs),
    finish_reason: finish,
  };
  return { ...head, object: 'chat.completion.chunk', choices: [choice] };
}

function finishReason({ finishReason }: Answer): 'stop' | 'length' {
  return finishReason === 'length' ? 'length' : 'stop';
}

function usage({ promptTokens, tokens }: Answer) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: tokens.length,
    total_tokens: promptTokens + tokens.length,
  };
}

/** What OpenAI's format has no place for: times in milliseconds (names as llama.cpp's), seed, latents, warnings. */
function extras(answer: Answer, waited: WaitTimes) {
  const { seconds, tokens, promptTokens, tokensPerSecond, seed, queryLength, warnings } = answer;
  const timings = {
    queue_ms: round(waited.queue),
    image_ms: round(waited.image),
    vision_ms: round(1000 * seconds.vision),
    prompt_n: promptTokens,
    prompt_ms: round(1000 * seconds.prefill),
    predicted_n: tokens.length,
    predicted_ms: round(1000 * seconds.decode),
    predicted_per_second: round(tokensPerSecond),
  };
  return { timings, fusion: { seed, query_length: queryLength, warnings } };
}

const round = (value: number) => Math.round(100 * value) / 100;

function logprobsOf(logprobs: readonly TokenLogprob[]) {
  const content = logprobs.map((each) => ({ ...chance(each), top_logprobs: each.top.map(chance) }));
  return { content, refusal: null };
}

const chance = ({ token, bytes, logprob }: TokenChance) => ({ token, logprob, bytes });
