/**
 * What commands write for people: progress and notes on stderr, answers on stdout. Knows nothing of models.
 */
import { type TerminalProgress, terminalProgress } from '../common/progress.ts';
import type { Answer } from '../generate/answer.ts';

/** Aborted when the reader of stdout has left (`| head`): what is under way ends, and that is no error. */
export const outputClosed = new AbortController();

/**
 * Lets a closed stdout or stderr pass. The process is not ended here: leaving while the device's thread computes
 * would crash inside the runtime.
 */
export function watchOutput(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    outputClosed.abort();
  });
  process.stderr.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
}

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
