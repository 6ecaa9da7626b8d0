/**
 * A process whose memory `npm run bench -- soak` watches: answers questions about pictures with one model, or loads a
 * model, answers and unloads it, again and again. Writes its memory as a line of JSON after each round.
 *
 * usage: tsx bench/soakCase.ts answers|loads OPTIONS, which is the JSON of `SoakOptions`
 */
import { readFileSync } from 'node:fs';
import { ask, type FusionModel, type LoadOptions, load } from '../src/index.ts';

export interface SoakOptions extends Pick<LoadOptions, 'threads' | 'weights'> {
  readonly model: string;
  /** An image file; every fourth question is about it, the others about pictures of random pixels. */
  readonly image: string;
  /** Of each answer. */
  readonly tokens: number;
  readonly rounds: number;
}

/** Memory of a process, in bytes. */
export interface Memory {
  readonly resident: number;
  /** Of the resident set: what belongs to the process alone, and pages of files. */
  readonly anonymous: number;
  readonly files: number;
  /** JavaScript's heap, and memory of typed arrays, in the main thread. */
  readonly heap: number;
  readonly arrays: number;
}

function memory(): Memory {
  const status = readFileSync('/proc/self/status', 'utf8');
  const bytes = (name: string) => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]);
  const { heapUsed: heap, arrayBuffers: arrays } = process.memoryUsage();
  return { resident: bytes('VmRSS'), anonymous: bytes('RssAnon'), files: bytes('RssFile'), heap, arrays };
}

/** Few enough that the features of all are kept: with new ones memory would grow to the limit of what is kept. */
const PICTURES = 4;

function picture(which: number) {
  const side = 64;
  const data = Uint8Array.from({ length: 3 * side * side }, (_, i) => (i * (which + 3)) % 251);
  return { width: side, height: side, data };
}

async function answer(model: FusionModel, { image, tokens }: SoakOptions, round: number): Promise<void> {
  const which = round % PICTURES;
  const options = { maxTokens: tokens, temperature: 1, seed: round };
  const text = `What is in picture ${which}?`;
  await ask(model, { text, image: which === 0 ? image : picture(which) }, options);
}

async function answers(options: SoakOptions): Promise<void> {
  const { threads, weights } = options;
  const model = await load(options.model, { threads, weights });
  for (let round = 0; round < options.rounds; round++) {
    await answer(model, options, round);
    console.log(JSON.stringify(memory()));
  }
  await model.dispose();
}

async function loads(options: SoakOptions): Promise<void> {
  const { threads, weights } = options;
  for (let round = 0; round < options.rounds; round++) {
    const model = await load(options.model, { threads, weights });
    await answer(model, options, 2 * round);
    await answer(model, options, 2 * round + 1);
    await model.dispose();
    console.log(JSON.stringify(memory()));
  }
}

const [kind, json = '{}'] = process.argv.slice(2);
await (kind === 'loads' ? loads : answers)(JSON.parse(json) as SoakOptions);
