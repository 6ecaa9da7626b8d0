#!/usr/bin/env node
/**
 * The command `fusion`: reads the arguments and calls one file per command. Commands load the model's code when
 * they run, so that help is quick. Exit codes: 0 done, 1 a check failed, 2 something the user can mend (one
 * line), 70 a bug here (with its stack), 130 stopped by Ctrl-C.
 */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { messageOf, UserError } from '../common/errors.ts';
import { registerAsk } from './ask.ts';
import { registerAverage } from './average.ts';
import { registerBench } from './bench.ts';
import { registerChat } from './chat.ts';
import { registerCheck } from './check.ts';
import { registerCompare } from './compare.ts';
import { registerConvert } from './convert.ts';
import { registerEvalSynth } from './evalSynth.ts';
import { registerExplain } from './explain.ts';
import { registerExport } from './export.ts';
import { registerInit } from './init.ts';
import { registerInspect } from './inspect.ts';
import { registerMerge } from './merge.ts';
import { registerPretrainTower } from './pretrainTower.ts';
import { registerPull } from './pull.ts';
import { watchOutput } from './screen.ts';
import { registerServe } from './serve.ts';
import { registerSynth } from './synth.ts';
import { registerTokenizer } from './tokenizer.ts';
import { registerTrain } from './train.ts';

const FIRST_EXAMPLE = `
Example:
  fusion ask --model DIR --image photo.jpg "What is in this picture?"

DIR is a folder with a FUSION checkpoint: config.json, model.safetensors (or shards and their index) and
tokenizer.json. "fusion help COMMAND" tells more about a command.`;

/** In the order help shows them. */
const COMMANDS = [
  registerAsk,
  registerChat,
  registerExplain,
  registerServe,
  registerPull,
  registerInspect,
  registerCheck,
  registerInit,
  registerTokenizer,
  registerSynth,
  registerPretrainTower,
  registerTrain,
  registerEvalSynth,
  registerMerge,
  registerAverage,
  registerConvert,
  registerExport,
  registerCompare,
  registerBench,
];

const USER_ERROR = 2;
/** EX_SOFTWARE of sysexits.h. */
const INTERNAL_ERROR = 70;

function version(): string {
  const file = new URL('../../package.json', import.meta.url);
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
  return version;
}

function buildProgram(): Command {
  const program = new Command('fusion')
    .description('FUSION, the fully integrated vision-language model: ask, chat, check, train.')
    .version(version())
    .addHelpText('after', FIRST_EXAMPLE)
    .showSuggestionAfterError()
    .configureOutput({ outputError: (text, write) => write(`fusion: ${oneLine(text)}\n`) })
    .exitOverride();
  for (const register of COMMANDS) register(program);
  return program;
}

/** Commander's message without its prefix, its suggestion on the same line. */
function oneLine(text: string): string {
  return messageOf(text.replace(/^error: /, '').replace('(Did you mean', '(did you mean'));
}

async function run(args: readonly string[]): Promise<number> {
  const program = buildProgram();
  if (args.length === 0) {
    program.outputHelp();
    return 0;
  }
  try {
    await program.parseAsync(args, { from: 'user' });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    // Commander has said what is wrong; help and --version end with exit code 0.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USER_ERROR;
    if (error instanceof UserError) {
      process.stderr.write(`fusion: ${messageOf(error)}\n`);
      return USER_ERROR;
    }
    process.stderr.write(`fusion: ${error instanceof Error ? error.stack : String(error)}\n`);
    return INTERNAL_ERROR;
  }
}

watchOutput();
process.exitCode = await run(process.argv.slice(2));
