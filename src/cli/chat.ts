/**
 * `fusion chat`: questions line by line, from a person or from a script on standard input. Answers go to stdout,
 * everything else to stderr. A line that fails is told in one line and the chat goes on.
 */
import { createInterface, type Interface } from 'node:readline';
import type { Command } from 'commander';
import { messageOf, UserError } from '../common/errors.ts';
import type { TerminalProgress } from '../common/progress.ts';
import type { AnswerOptions } from '../generate/answer.ts';
import type { Chat } from '../generate/chat.ts';
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

interface ChatFlags extends ModelFlags, AnswerFlags {
  readonly image?: string;
}

const COMMANDS = `/image FILE  show an image with the next question (one a conversation)
/clear       begin a new conversation
/help        this
/quit        leave; so does the end of input (Ctrl-D)
Ctrl-C stops an answer; twice at the prompt it leaves.
`;

export function registerChat(program: Command): void {
  const command = program
    .command('chat')
    .description('talk with the model, about an image where one is given')
    .option('-i, --image <file>', 'show this image with the first question');
  addAnswerOptions(addModelOptions(command))
    .addHelpText('after', `\nIn the chat:\n${COMMANDS.replace(/^/gm, '  ').trimEnd()}`)
    .action(chat);
}

async function chat(flags: ChatFlags): Promise<void> {
  const quiet = flags.quiet ?? false;
  const { checkAnswerOptions } = await import('../generate/answer.ts');
  const { Chat } = await import('../generate/chat.ts');
  const { loadModel } = await import('../generate/model.ts');
  const options = answerOptions(flags);
  checkAnswerOptions(options);
  const progress = screenProgress(quiet);
  const dir = await modelFolder(flags);
  const use = { queryLength: flags.queryLen, asksAgain: true };
  const model = await loadModel(dir, loadOptions(flags, progress, use)).finally(() => progress.end());
  try {
    if (!quiet) model.warnings.forEach(note);
    const conversation = new Chat(model);
    if (flags.image !== undefined) await conversation.show(flags.image, imageOptions(flags));
    await new ChatLoop(conversation, options, flags, progress).run();
  } finally {
    await model.dispose();
  }
}

const imageOptions = ({ maxPixels, exifRotation }: ChatFlags) => ({ maxPixels, exifRotation });

class ChatLoop {
  readonly #chat: Chat;
  readonly #options: AnswerOptions;
  readonly #flags: ChatFlags;
  readonly #progress: TerminalProgress;
  readonly #lines: Interface;
  readonly #isTerminal = Boolean(process.stdin.isTTY && process.stdout.isTTY);
  /** Of the answer under way. */
  #stopper: AbortController | undefined;
  /** Whether the last thing at the prompt was Ctrl-C. */
  #interrupted = false;

  constructor(chat: Chat, options: AnswerOptions, flags: ChatFlags, progress: TerminalProgress) {
    this.#chat = chat;
    this.#options = options;
    this.#flags = flags;
    this.#progress = progress;
    this.#lines = createInterface({
      input: process.stdin,
      ...(this.#isTerminal ? { output: process.stdout } : {}),
      terminal: this.#isTerminal,
      prompt: '> ',
    });
  }

  async run(): Promise<void> {
    const onInterrupt = () => this.#interrupt();
    this.#lines.on('SIGINT', onInterrupt);
    process.on('SIGINT', onInterrupt);
    try {
      if (this.#isTerminal && !this.#flags.quiet)
        process.stderr.write('Ask something; /help lists commands.\n');
      this.#prompt();
      for await (const line of this.#lines) {
        this.#interrupted = false;
        if ((await this.#handle(line.trim())) || outputClosed.signal.aborted) break;
        this.#prompt();
      }
    } finally {
      process.off('SIGINT', onInterrupt);
      this.#lines.close();
    }
  }

  #prompt(): void {
    if (this.#isTerminal) this.#lines.prompt();
  }

  #interrupt(): void {
    if (this.#stopper !== undefined) {
      this.#stopper.abort();
    } else if (this.#interrupted) {
      this.#lines.close();
    } else {
      this.#interrupted = true;
      note('Ctrl-C again or /quit leaves');
      this.#prompt();
    }
  }

  /** One line; true when it ends the chat. */
  async #handle(line: string): Promise<boolean> {
    if (line === '') return false;
    const [, command, rest = ''] = /^\/(\w+)(?:\s+(.*))?$/.exec(line) ?? [];
    if (command === 'quit' || command === 'exit') return true;
    try {
      await (command === undefined ? this.#ask(line) : this.#command(command, rest));
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      note(messageOf(error));
    } finally {
      this.#progress.end();
    }
    return false;
  }

  async #command(command: string, rest: string): Promise<void> {
    if (command === 'help') process.stderr.write(COMMANDS);
    else if (command === 'clear') this.#chat.clear();
    else if (command === 'image') await this.#show(rest.replace(/^(["'])(.*)\1$/, '$2'));
    else throw new UserError(`/${command}: expected /image FILE, /clear, /help or /quit`);
  }

  async #show(file: string): Promise<void> {
    if (file === '') throw new UserError('/image: expected the name of a file; for example /image photo.jpg');
    await this.#chat.show(file, imageOptions(this.#flags));
    if (!this.#flags.quiet) note(`${file}: the next question shows it`);
  }

  async #ask(question: string): Promise<void> {
    const stopper = new AbortController();
    this.#stopper = stopper;
    const signal = AbortSignal.any([stopper.signal, outputClosed.signal]);
    const options = { ...this.#options, signal, onProgress: this.#progress };
    try {
      for await (const event of this.#chat.stream(question, options)) {
        this.#progress.end();
        if (event.type === 'text') process.stdout.write(shown(event.text));
        if (event.type !== 'done') continue;
        process.stdout.write('\n');
        if (stopper.signal.aborted) note('stopped');
        else if (this.#isTerminal && !this.#flags.quiet) note(summary(event.answer));
      }
    } finally {
      this.#stopper = undefined;
    }
  }
}
