/**
 * What commands write for people: progress and notes on stderr, answers on stdout. Knows nothing of models.
 */
import { type TerminalProgress, terminalProgress } from '../common/progress.ts';
import type { Answer } from '../generate/answer.ts';

/** A progress line on stderr where that is a terminal and nobody asked for silence. */
export function screenProgress(quiet: boolean): TerminalProgress {
  return terminalProgress(process.stderr, { enabled: !quiet });
}

/** One line on stderr. */
export function note(text: string): void {
  process.stderr.write(`fusion: ${text}\n`);
}

/**
 * A model's words, ready for stdout: control characters, which could command a terminal, are left out of what
 * is shown on one; a file or a pipe gets the text as it is.
 */
export function shown(text: string): string {
  return process.stdout.isTTY ? text.replace(/[^\P{Cc}\n\t]/gu, '') : text;
}

/** `245 prompt + 24 answer tokens, 285.1 tokens/s, peak memory 0.18 GB`. */
export function summary(answer: Answer): string {
  const speed = answer.tokensPerSecond > 0 ? `, ${answer.tokensPerSecond.toFixed(1)} tokens/s` : '';
  const memory = `peak memory ${(answer.peakMemory / 1e9).toFixed(2)} GB`;
  return `${answer.promptTokens} prompt + ${answer.tokens.length} answer tokens${speed}, ${memory}`;
}
