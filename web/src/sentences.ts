/**
 * Cuts a text that grows into pieces to be read aloud: whole sentences, so that a screen reader does not stutter.
 * Knows nothing of how they are announced.
 */

/** The end of the last whole sentence or line of a text. */
const LAST_SENTENCE = /^[\s\S]*(?:[.!?…:;]["'”’)]*\s|\n)/;

/** What can be read aloud beyond the first `said` characters of `text`; all of it when the text is complete. */
export function nextSentences(text: string, said: number, complete: boolean): string {
  const rest = text.slice(said);
  return complete ? rest : (LAST_SENTENCE.exec(rest)?.[0] ?? '');
}
