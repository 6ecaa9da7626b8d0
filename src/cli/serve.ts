/**
 * `fusion serve`: answers over HTTP in OpenAI's format, with a web page. Tells its address on stdout; the first
 * Ctrl-C finishes what runs, the second ends it.
 */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Command, InvalidArgumentError } from 'commander';
import { InternalError, messageOf, UserError } from '../common/errors.ts';
import { machineMemory } from '../common/machineMemory.ts';
import type { ModelFiles } from '../generate/model.ts';
import type { ServableModel } from '../serve/answerer.ts';
import type { RunningServer, ServerSettings } from '../serve/server.ts';
import { embeddedModel, findModel } from './modelName.ts';
import {
  addDeviceOptions,
  addWeightOptions,
  collect,
  integer,
  loadOptions,
  type ModelFlags,
  positive,
} from './options.ts';
import { note, screenProgress } from './screen.ts';

interface ServeFlags extends Omit<ModelFlags, 'model'> {
  readonly model?: readonly string[];
  readonly queryLen?: number;
  readonly memoryLimit?: number;
  readonly host: string;
  readonly port: number;
  readonly apiKey?: readonly string[];
  readonly cors?: readonly string[];
  readonly maxSequences: number;
  readonly maxQueue: number;
  readonly timeout: number;
  readonly maxBody: number;
  readonly maxPixels: number;
  readonly allowRemoteImages?: boolean;
  readonly votes?: string;
}

/** The package, which holds the page. */
const PACKAGE = fileURLToPath(new URL('../..', import.meta.url));
/** Share of the machine's memory that models may take unless told otherwise. */
const MEMORY_SHARE = 0.8;
const PING_EVERY = 5000;
const BODY_DEADLINE = 30_000;

const HELP = `
Examples:
  fusion serve --model DIR
  fusion serve --model small=DIR1 --model large=DIR2 --memory-limit 20GB
  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "Hello"}]}'

Ctrl-C finishes the answers under way and leaves; a second one ends them.`;

export function registerServe(program: Command): void {
  const command = program
    .command('serve')
    .description('answer over HTTP, in the format of OpenAI’s API, with a web page')
    .option(
      '-m, --model <[name=]dir>',
      'folder of a checkpoint (may be repeated; default: FUSION_MODEL)',
      collect,
    )
    .option('--tokenizer <dir>', 'folder with tokenizer.json, where a model has none')
    .option('--query-len <n>', 'latent tokens per question where a request does not say', integer)
    .option('--memory-limit <size>', 'memory for models, as 20GB (default: 80% of the machine’s)', byteSize);
  addDeviceOptions(addWeightOptions(addLimits(addDoors(command))))
    .option('--votes <file>', 'add likes, dislikes and flags to this JSONL file')
    .addHelpText('after', HELP)
    .action(serve);
}

function addDoors(command: Command): Command {
  return command
    .option('--host <address>', 'where to listen; 0.0.0.0 is everywhere', '127.0.0.1')
    .option('--port <n>', '0 picks a free one', wholeNumber, 8080)
    .option('--api-key <key>', 'ask for this key (may be repeated; or FUSION_API_KEYS, with commas)', collect)
    .option('--cors <origin>', 'let web pages of this origin ask (may be repeated)', collect)
    .option('--allow-remote-images', 'fetch images from public web addresses');
}

function addLimits(command: Command): Command {
  return command
    .option('--max-sequences <n>', 'answers under way at once', positive, 8)
    .option('--max-queue <n>', 'requests that may wait', wholeNumber, 64)
    .option('--timeout <seconds>', 'the most time of one request', positive, 600)
    .option('--max-body <size>', 'the largest request', byteSize, 20e6)
    .option('--max-pixels <n>', 'the largest image, in pixels', positive, 50e6);
}

async function serve(flags: ServeFlags, command: Command): Promise<void> {
  const { startServer } = await import('../serve/server.ts');
  const server = await startServer(await settingsOf(flags, command.parent?.version() ?? ''));
  const code = onSignals(server, flags.quiet ?? false);
  process.stdout.write(`${server.url}\n`);
  if (!flags.quiet) await warnOfOpenDoors(flags);
  try {
    await server.loaded;
  } catch (error) {
    await server.stop();
    throw error instanceof Error && error.cause instanceof UserError ? error.cause : error;
  }
  process.exitCode = await code;
}

async function settingsOf(flags: ServeFlags, version: string): Promise<ServerSettings> {
  const { openPage } = await import('../serve/pageBuild.ts');
  const { publicRules } = await import('../serve/remoteImage.ts');
  const memoryLimit = flags.memoryLimit ?? MEMORY_SHARE * machineMemory().total;
  const maxBytes = flags.maxBody;
  return {
    models: await readModels(flags, memoryLimit),
    memoryLimit,
    host: flags.host,
    port: flags.port,
    apiKeys: apiKeys(flags),
    origins: flags.cors ?? [],
    admission: { slots: flags.maxSequences, queue: flags.maxQueue },
    timeout: 1000 * flags.timeout,
    maxBody: flags.maxBody,
    bodyDeadline: BODY_DEADLINE,
    maxPixels: flags.maxPixels,
    images: { maxBytes, remote: flags.allowRemoteImages ? publicRules(maxBytes) : undefined },
    votes: flags.votes,
    // Not awaited: it may have to be built, and that can go on while the model is loaded.
    page: openPage(PACKAGE),
    pingEvery: PING_EVERY,
    version,
    log: (error) =>
      note(error instanceof Error && !(error instanceof UserError) ? `${error.stack}` : messageOf(error)),
  };
}

async function readModels(
  flags: ServeFlags,
  memoryLimit: number,
): Promise<readonly [ServableModel, ...ServableModel[]]> {
  const { fusionModel } = await import('../serve/fusionModel.ts');
  const { device, threads, maxSequences, queryLen: queryLength } = flags;
  const models = new Map<string, ServableModel>();
  for (const { name, dir } of modelFolders(flags.model)) {
    if (models.has(name)) {
      throw new UserError(`model: expected a name for each, got ${name} twice; write --model NAME=${dir}`);
    }
    const files = await readModel(dir, flags);
    const served = fusionModel(name, files, { device, threads, maxSequences, queryLength });
    if (served.bytes > memoryLimit) {
      const [needs, limit] = [served.bytes, memoryLimit].map((bytes) => `${(bytes / 1e9).toFixed(2)} GB`);
      throw new UserError(`${dir}: expected weights of at most ${limit}, got ${needs}; raise --memory-limit`);
    }
    models.set(name, served);
  }
  const [first, ...others] = models.values();
  if (first === undefined) throw new InternalError('serve: no model');
  return [first, ...others];
}

/** The files of one model, in the format that is asked for; it fits the memory that is free now. */
async function readModel(dir: string, flags: ServeFlags): Promise<ModelFiles> {
  const { checkMemory } = await import('../generate/fitCheck.ts');
  const { checkQueryLength } = await import('../generate/limits.ts');
  const { inFormat, readModelFiles } = await import('../generate/model.ts');
  const { maxSequences: sequences, queryLen: queryLength, weights, quiet = false } = flags;
  const files = await readModelFiles(await findModel(dir, quiet), flags);
  const { warnings } = checkQueryLength(files.config, queryLength);
  const use = { sequences, queryLength, asksAgain: true };
  const tight = flags.memoryCheck === false ? [] : checkMemory(files, weights, use);
  if (!quiet) [...files.warnings, ...warnings, ...tight].forEach(note);
  const progress = screenProgress(quiet);
  const { model: _models, ...options } = flags;
  return inFormat(files, loadOptions(options, progress)).finally(() => progress.end());
}

/** Names and folders; a name is the folder's own unless `NAME=` stands before it. */
function modelFolders(given: readonly string[] | undefined): readonly { name: string; dir: string }[] {
  return (given ?? [process.env.FUSION_MODEL ?? embeddedModel()]).map((text) => {
    const [, name, dir] = /^([\w.-]+)=(.+)$/.exec(text) ?? [];
    if (name === undefined || dir === undefined)
      return { name: path.basename(path.resolve(text)), dir: text };
    return { name, dir };
  });
}

function apiKeys({ apiKey = [] }: ServeFlags): readonly string[] {
  const keys = [...apiKey, ...(process.env.FUSION_API_KEYS ?? '').split(',')].map((key) => key.trim());
  return keys.filter((key) => key !== '');
}

/** Resolves with the exit code when the server has ended: 0, or a shell's number for a second signal. */
function onSignals(server: RunningServer, quiet: boolean): Promise<number> {
  return new Promise((resolve, reject) => {
    let code = 0;
    let signals = 0;
    const handlers = (['SIGINT', 'SIGTERM'] as const).map((name) => {
      const onSignal = () => {
        signals += 1;
        if (signals === 1 && !quiet) note('finishing what runs; once more ends it');
        if (signals > 1) {
          code = name === 'SIGINT' ? 130 : 143;
          server.abort();
        }
        server.stop().then(end, reject);
      };
      process.on(name, onSignal);
      return [name, onSignal] as const;
    });
    const end = () => {
      for (const [name, onSignal] of handlers) process.off(name, onSignal);
      resolve(code);
    };
  });
}

async function warnOfOpenDoors(flags: ServeFlags): Promise<void> {
  const { isLoopback } = await import('../serve/security.ts');
  if (isLoopback(flags.host) || apiKeys(flags).length > 0) return;
  note(`everyone who can reach ${flags.host} may ask; --api-key KEY asks for a key`);
}

function wholeNumber(text: string): number {
  if (integer(text) >= 0) return Number(text);
  throw new InvalidArgumentError('Expected an integer from 0.');
}

const UNITS: Readonly<Record<string, number>> = { '': 1, kb: 1e3, mb: 1e6, gb: 1e9 };

function byteSize(text: string): number {
  const [, amount, unit = ''] = /^(\d+(?:\.\d+)?) *([kmg]b)?$/i.exec(text) ?? [];
  const bytes = Math.floor(Number(amount) * (UNITS[unit.toLowerCase()] ?? Number.NaN));
  if (bytes >= 1) return bytes;
  throw new InvalidArgumentError('Expected a size, as 20MB or 1.5GB.');
}
