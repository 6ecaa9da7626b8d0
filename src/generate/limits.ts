/**
 * What is refused before work starts: a query length the model cannot use, an answer that does not fit.
 */
import { UserError } from '../common/errors.ts';
import type { FusionConfig } from '../model/config.ts';
import { imageTokenCount } from './imageFeatures.ts';

/** Tokens an answer may take where nobody says: this, or what the context leaves. */
export const DEFAULT_MAX_TOKENS = 1024;

export interface QueryLength {
  readonly queryLength: number;
  readonly warnings: readonly string[];
}

/**
 * The latents per question to use: `wanted`, or the config's default. Any perfect square up to one latent for
 * each cell of the tiles' grid will run; one the model was not trained with comes with a warning.
 *
 * @throws UserError for another number, with the trained ones.
 */
export function checkQueryLength(config: FusionConfig, wanted: number | undefined): QueryLength {
  const queryLength = wanted ?? config.defaultQueryLen;
  const trained = config.queryLens.join(', ');
  const most = (2 * config.vision.grid) ** 2;
  const side = Math.sqrt(queryLength);
  if (!Number.isInteger(side) || queryLength < 1 || queryLength > most) {
    throw new UserError(
      `query length: expected a perfect square from 1 to ${most}, got ${queryLength}; this model was trained with ${trained}`,
    );
  }
  if (config.queryLens.includes(queryLength)) return { queryLength, warnings: [] };
  return {
    queryLength,
    warnings: [`query length ${queryLength}: the model was trained with ${trained} only`],
  };
}

/**
 * `config` with the whole crop's tokens resized to `wanted`, and a warning where the model was not trained so. Any
 * perfect square up to the tower's patches will run.
 *
 * @throws UserError for another number. Source: FUSION-L, config key `image_tokens_side`.
 */
export function withImageTokens(
  config: FusionConfig,
  wanted: number | undefined,
): { readonly config: FusionConfig; readonly warnings: readonly string[] } {
  const trained = imageTokenCount(config);
  if (wanted === undefined || wanted === trained) return { config, warnings: [] };
  const { grid, patches } = config.vision;
  const side = Math.sqrt(wanted);
  if (!Number.isInteger(side) || wanted < 1 || wanted > patches) {
    throw new UserError(
      `image tokens: expected a perfect square from 1 to ${patches}, got ${wanted}; this model was trained with ${trained}`,
    );
  }
  return {
    config: { ...config, imageTokensSide: side === grid ? undefined : side },
    warnings: [`image tokens ${wanted}: the model was trained with ${trained}`],
  };
}

/** Positions a sequence may have in all. */
export function contextLength({ maxLength, decoder }: FusionConfig): number {
  return Math.min(maxLength, decoder.maxPositions);
}

/** @throws UserError unless an answer may have so many tokens. */
export function checkMaxTokens(wanted: number | undefined): void {
  if (wanted === undefined || (Number.isSafeInteger(wanted) && wanted >= 1)) return;
  throw new UserError(`max tokens: expected an integer from 1, got ${wanted}`);
}

/**
 * The most tokens the answer may have: `wanted`, or 1024 and no more than the context leaves.
 *
 * @throws UserError where prompt and answer together are longer than the context, with both numbers.
 */
export function checkContext(config: FusionConfig, prompt: number, wanted: number | undefined): number {
  checkMaxTokens(wanted);
  const context = contextLength(config);
  const room = context - prompt;
  const answer = wanted ?? Math.min(DEFAULT_MAX_TOKENS, Math.max(room, 1));
  if (answer <= room) return answer;
  const advice = room < 1 ? 'shorten the question' : `ask for at most ${room} answer tokens`;
  throw new UserError(
    `prompt and answer: expected at most ${context} tokens (the model's context), got ${prompt + answer}: ${prompt} of the prompt and ${answer} of the answer; ${advice}`,
  );
}
