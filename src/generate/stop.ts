/**
 * Why a generation ended, and stop strings in streamed text.
 *
 * Knows text only: neither tokens nor how the text was made. A stop string may be spread over several pieces
 * of the stream, so the end of the text that could still begin one is held back until the next piece decides.
 */
import { UserError } from '../common/errors.ts';

/** Why a generation ended: an end token, the length limit, the caller, or a stop string. */
export type StopReason = 'stop' | 'length' | 'cancelled' | 'stop_string';

/** What one piece of text led to. */
export interface StopResult {
  /** Text that is certain to stand before any stop string; may be empty. */
  readonly emit: string;
  /** True from the moment a stop string is certain; nothing more is emitted after it. */
  readonly stopped: boolean;
  /** The stop string found. */
  readonly matched?: string;
}

interface Match {
  readonly start: number;
  readonly stop: string;
}

/**
 * Cuts a stream of text at the first stop string, wherever the pieces' borders fall.
 *
 * The match that begins earliest wins; among those that begin together the shortest. A shorter match inside
 * a longer stop string that has begun but not ended therefore waits for it.
 */
export class StopMatcher {
  /** Shortest first, so that the first found at a place is the shortest. */
  readonly #stops: readonly string[];
  #held = '';
  #matched: string | undefined;

  /** @throws UserError when a stop string is empty */
  constructor(stops: readonly string[]) {
    const empty = stops.indexOf('');
    if (empty >= 0) {
      throw new UserError(
        `stop: expected non-empty strings, got '' at position ${empty + 1} of ${stops.length}`,
      );
    }
    this.#stops = [...stops].sort((a, b) => a.length - b.length);
  }

  /** The stop string found so far, by `push` or by `flush`. */
  get matched(): string | undefined {
    return this.#matched;
  }

  /** Takes the next piece of the text and says what of it may be shown. */
  push(text: string): StopResult {
    if (this.#matched !== undefined) return { emit: '', stopped: true, matched: this.#matched };
    const pending = this.#held + text;
    const match = this.#firstMatch(pending);
    const open = this.#firstOpening(pending);
    if (match && match.start <= open) {
      return { emit: this.#cut(pending, match), stopped: true, matched: match.stop };
    }
    this.#held = pending.slice(open);
    return { emit: pending.slice(0, open), stopped: false };
  }

  /**
   * The held-back text when the stream has ended; empty after a stop. If the text ended while a stop string
   * waited for a longer one, the text is cut there and `matched` tells.
   */
  flush(): string {
    const match = this.#firstMatch(this.#held);
    if (match) return this.#cut(this.#held, match);
    const rest = this.#held;
    this.#held = '';
    return rest;
  }

  #cut(text: string, match: Match): string {
    this.#held = '';
    this.#matched = match.stop;
    return text.slice(0, match.start);
  }

  #firstMatch(text: string): Match | undefined {
    let first: Match | undefined;
    for (const stop of this.#stops) {
      const start = text.indexOf(stop);
      if (start >= 0 && (!first || start < first.start)) first = { start, stop };
    }
    return first;
  }

  /** Where the longest suffix that could begin a stop string starts; the text's length if none does. */
  #firstOpening(text: string): number {
    const longest = this.#stops.at(-1)?.length ?? 1;
    for (let start = Math.max(0, text.length - longest + 1); start < text.length; start++) {
      const suffix = text.slice(start);
      if (this.#stops.some((stop) => stop.startsWith(suffix))) return start;
    }
    return text.length;
  }
}
