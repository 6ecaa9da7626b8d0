/**
 * Texts that are refused before they are tokenised: tokenising takes a time that grows with the text and with the
 * square of its longest word. Knows nothing of tokens.
 */
import { UserError } from '../common/errors.ts';

/** Texts of people and programs have 1 to 5. */
const CHARACTERS_PER_TOKEN = 8;
/** The longest run of characters without white space, or of white space. */
const LONGEST_RUN = 4096;

/**
 * Checks texts that are to fit `context` tokens together.
 *
 * @throws UserError for more than eight characters a token, and for a word or a gap of more than 4096 characters.
 */
export function checkTexts(texts: readonly string[], context: number): void {
  const characters = texts.reduce((sum, { length }) => sum + length, 0);
  const most = CHARACTERS_PER_TOKEN * context;
  if (characters > most) {
    throw new UserError(
      `messages: expected at most ${most} characters (the context has ${context} tokens), got ${characters}; shorten them`,
    );
  }
  const longest = Math.max(0, ...texts.map(longestRun));
  if (longest > LONGEST_RUN) {
    throw new UserError(
      `messages: expected words and gaps of at most ${LONGEST_RUN} characters, got one of ${longest}; leave it out`,
    );
  }
}

function longestRun(text: string): number {
  let longest = 0;
  for (const { 0: run } of text.matchAll(/\s+|\S+/g)) longest = Math.max(longest, run.length);
  return longest;
}
