/**
 * `fusion ask`: one question, alone or about an image; the answer is streamed to stdout, or one JSON object with
 * `--json`. What can be refused without the model is refused before it is loaded.
 */
import { statSync } from 'node:fs';
import type { Command } from 'commander';
import { UserError } from '../common/errors.ts';
import type { TerminalProgress } from '../common/progress.ts';
import type { RgbImage } from '../data/image.ts';
import type { Answer } from '../generate/answer.ts';
import type { FusionModel } from '../generate/model.ts';
import {
  type AnswerFlags,
  addAnswerOptions,
  addModelOptions,
  answerOptions,
  loadOptions,
  type ModelFlags,
  modelFolder,
} from './options.ts';
import { note, outputClosed, screenProgress, shown, summary } from './screen.ts';

interface AskFlags extends ModelFlags, AnswerFlags {
  readonly image?: string;
  readonly json?: boolean;
}

const INTERRUPTED = 130;

const HELP = `
Examples:
  fusion ask --model DIR --image photo.jpg "What is in this picture?"
  fusion ask --model DIR photo.jpg "What is in this picture?"
  curl -s https://example.org/photo.jpg | fusion ask --model DIR --image - "What is this?"
  fusion ask --model DIR --temperature 0.7 --seed 1 --json "Write a line about rain."`;

export function registerAsk(program: Command): void {
  const command = program
    .command('ask')
    .description('answer a question, about an image where one is given')
    .argument('<question...>', 'the question in quotes; an image file may stand before it')
    .option('-i, --image <file>', 'the image; - reads it from standard input');
  addAnswerOptions(addModelOptions(command))
    .option('--json', 'one JSON object with text, token counts, times, speed and memory')
    .addHelpText('after', HELP)
    .action(ask);
}

async function ask(words: readonly string[], flags: AskFlags): Promise<void> {
  const { question, image } = readWords(words, flags.image);
  const { checkAnswerOptions } = await import('../generate/answer.ts');
  const { checkFirstQuestion, checkQuestion } = await import('../generate/chat.ts');
  const { loadModel, readModelFiles } = await import('../generate/model.ts');
  checkAnswerOptions(answerOptions(flags));
  checkQuestion(question);
  const picture = image === undefined ? undefined : await openImage(image, flags);
  const files = await readModelFiles(await modelFolder(flags), flags);
  const plan = checkFirstQuestion(files, question, picture !== undefined, answerOptions(flags));
  if (!flags.quiet) files.warnings.forEach(note);
  const progress = screenProgress(flags.quiet ?? false);
  const { promptTokens, maxTokens, queryLength } = plan;
  const use = { promptTokens, positions: promptTokens + maxTokens, queryLength };
  const model = await loadModel(files, loadOptions(flags, progress, use)).finally(() => progress.end());
  try {
    const answer = await answerInterruptibly(model, { text: question, image: picture }, flags, progress);
    report(answer, flags);
  } finally {
    progress.end();
    await model.dispose();
  }
}

/** One word is the question; of two the first may be an image file. */
function readWords(words: readonly string[], image: string | undefined) {
  const [first = '', second] = words;
  if (second === undefined) return { question: first, image };
  if (words.length === 2 && image === undefined && looksLikeFile(first))
    return { question: second, image: first };
  throw new UserError(
    `question: expected one text, or an image file and a text, got ${words.length} words; put the question in quotes`,
  );
}

function looksLikeFile(name: string): boolean {
  return name === '-' || /\.\w{2,5}$/.test(name) || statSync(name, { throwIfNoEntry: false }) !== undefined;
}

async function openImage(name: string, { maxPixels, exifRotation }: AskFlags): Promise<RgbImage> {
  const { openImage: open } = await import('../generate/picture.ts');
  const source = name === '-' ? await readStdin() : name;
  return open(source, { maxPixels, exifRotation, name: name === '-' ? 'standard input' : name });
}

async function readStdin(): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Ctrl-C ends the answer; a second one, while a long computation still runs, the program. */
async function answerInterruptibly(
  model: FusionModel,
  question: { readonly text: string; readonly image: RgbImage | undefined },
  flags: AskFlags,
  progress: TerminalProgress,
): Promise<Answer> {
  const { stream } = await import('../generate/chat.ts');
  const stopper = new AbortController();
  const onInterrupt = () => {
    // The signal's own effect ends the process at once; `process.exit` would crash a runtime that computes.
    if (stopper.signal.aborted) process.off('SIGINT', onInterrupt).kill(process.pid, 'SIGINT');
    stopper.abort();
  };
  process.on('SIGINT', onInterrupt);
  const signal = AbortSignal.any([stopper.signal, outputClosed.signal]);
  const options = { ...answerOptions(flags), signal, onProgress: progress };
  try {
    for await (const event of stream(model, question, options)) {
      progress.end();
      if (event.type === 'done') return event.answer;
      if (!flags.json) process.stdout.write(shown(event.text));
    }
  } finally {
    process.off('SIGINT', onInterrupt);
  }
  throw new Error('internal: an answer ended without its last event');
}

function report(answer: Answer, flags: AskFlags): void {
  process.stdout.write(flags.json ? `${JSON.stringify(answerJson(answer), undefined, 2)}\n` : '\n');
  if (!flags.quiet) answer.warnings.forEach(note);
  if (!flags.quiet && !flags.json && process.stderr.isTTY) note(summary(answer));
  const left = outputClosed.signal.aborted;
  if (answer.finishReason === 'cancelled' && !left) process.exitCode = INTERRUPTED;
}

function answerJson(answer: Answer): Record<string, unknown> {
  return {
    text: answer.text,
    finish_reason: answer.finishReason,
    prompt_tokens: answer.promptTokens,
    answer_tokens: answer.tokens.length,
    query_length: answer.queryLength,
    seed: answer.seed,
    seconds: answer.seconds,
    tokens_per_second: answer.tokensPerSecond,
    peak_memory_bytes: answer.peakMemory,
  };
}
