/**
 * Text from token ids as they arrive, never half a character.
 *
 * Every token is turned into its bytes and fed to one incremental UTF-8 decoder, so a token costs only its own
 * length however long the answer is, and the pieces joined are exactly `decode` of all ids. Knows nothing of
 * stop tokens.
 */

import type { Tokenizer } from './tokenizer.ts';

/** Turns one answer's ids into text, piece by piece. */
export class TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #skipSpecialTokens: boolean;
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  #atStart = true;

  /** `skipSpecialTokens` (default true) as in `Tokenizer.decode`. */
  constructor(tokenizer: Tokenizer, options: { readonly skipSpecialTokens?: boolean } = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecialTokens = options.skipSpecialTokens ?? true;
  }

  /** Takes the next id; returns the characters it completes, often one word, `''` while a character is incomplete. */
  push(id: number): string {
    if (this.#skipSpecialTokens && this.#tokenizer.specialIds.has(id)) return '';
    return this.#withoutLeadingSpace(this.#decoder.decode(this.#tokenizer.tokenBytes(id), { stream: true }));
  }

  /** Ends the text: a character left incomplete comes out as U+FFFD. The stream is then ready for another text. */
  flush(): string {
    const rest = this.#withoutLeadingSpace(this.#decoder.decode());
    this.#atStart = true;
    return rest;
  }

  #withoutLeadingSpace(text: string): string {
    if (!this.#atStart || text === '') return text;
    this.#atStart = false;
    return this.#tokenizer.dropsLeadingSpace && text.startsWith(' ') ? text.slice(1) : text;
  }
}
