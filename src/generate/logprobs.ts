/**
 * Log-probabilities of chosen tokens and of their alternatives, with the text of each. Knows nothing of how a token
 * was chosen.
 */
import { UserError } from '../common/errors.ts';
import type { Tokenizer } from '../data/tokenizer.ts';
import { logProbabilities } from './sampling.ts';

/** The most alternatives that may be asked for. */
export const MAX_ALTERNATIVES = 20;

/** A token that was or could have been chosen. */
export interface TokenChance {
  readonly id: number;
  /** Its text on its own; U+FFFD stands where its bytes are no whole characters. */
  readonly token: string;
  readonly bytes: readonly number[];
  /** Natural logarithm of its probability under the model's own logits, before temperature and filters. */
  readonly logprob: number;
}

/** A token of the answer and the likeliest tokens at its place, best first. */
export interface TokenLogprob extends TokenChance {
  readonly top: readonly TokenChance[];
}

/** @throws UserError unless so many alternatives may be asked for. */
export function checkLogprobs(alternatives: number | undefined): void {
  if (alternatives === undefined) return;
  if (Number.isInteger(alternatives) && alternatives >= 0 && alternatives <= MAX_ALTERNATIVES) return;
  throw new UserError(
    `logprobs: expected an integer from 0 to ${MAX_ALTERNATIVES} (alternatives for each token), got ${alternatives}`,
  );
}

/** The log-probability of token `id`, and of the likeliest ones. logits: f32 [V]. */
export function tokenLogprob(
  tokenizer: Tokenizer,
  logits: Float32Array,
  id: number,
  alternatives: number,
): TokenLogprob {
  const ids = logProbabilities(logits, alternatives).map((likely) => likely.id);
  const [chosen, ...top] = logProbabilities(logits, [id, ...ids]).map((each): TokenChance => {
    const bytes = tokenizer.tokenBytes(each.id);
    const token = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
    return { id: each.id, token, bytes: [...bytes], logprob: each.logProbability };
  });
  return { ...(chosen as TokenChance), top };
}
