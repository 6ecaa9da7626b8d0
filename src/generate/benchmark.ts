/**
 * How fast a loaded model answers, phase by phase, on a picture of random pixels and a prompt of a chosen length: medians
 * after a warm-up. Knows nothing of the machine's limits (`machineSpeed.ts`). Letters: S crop side, V vocabulary.
 */
import { UserError } from '../common/errors.ts';
import { median } from '../common/median.ts';
import type { OnProgress } from '../common/progress.ts';
import { Random } from '../common/random.ts';
import { encodePrompt } from '../data/conversation.ts';
import { BatchDecoder, type PromptIds, promptLength } from './batchDecoder.ts';
import { checkContext, checkQueryLength } from './limits.ts';
import type { FusionModel } from './model.ts';
import { type Picture, pictureOfCrops } from './picture.ts';

export interface BenchmarkOptions {
  /** Positions of the prompt, picture included; what a short question takes unless given. */
  readonly promptTokens?: number | undefined;
  readonly newTokens: number;
  /** Measurements, of which medians are given. */
  readonly repeats: number;
  readonly queryLength?: number | undefined;
  readonly onProgress?: OnProgress | undefined;
}

export interface Benchmark {
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly queryLength: number;
  readonly seconds: {
    readonly load: number;
    /** A picture that was not seen before, with its question. */
    readonly vision: number;
    /** Another question about it. */
    readonly secondVision: number;
    readonly prefill: number;
    /** One token. */
    readonly decode: number;
  };
  /** The process's largest resident set, in bytes. */
  readonly peakMemory: number;
}

const QUESTIONS = ['What is in this picture?', 'Which colours does it have?'] as const;
const CROPS = 5;

/**
 * Measures a model.
 *
 * @throws UserError for a prompt shorter than a picture with a short question, or longer than the context leaves.
 */
export async function benchmark(model: FusionModel, options: BenchmarkOptions): Promise<Benchmark> {
  const { newTokens, repeats } = options;
  const { queryLength } = checkQueryLength(model.config, options.queryLength);
  const prompt = promptOf(model, options.promptTokens, queryLength);
  const promptTokens = promptLength(model.config, prompt.inputIds, queryLength);
  checkContext(model.config, promptTokens, newTokens);
  const rounds: Round[] = [];
  for (let i = 0; i <= repeats; i++) {
    options.onProgress?.({ phase: 'eval', done: i, total: repeats + 1, unit: 'steps' });
    rounds.push(await measure(model, prompt, randomPicture(model, i), { newTokens, queryLength }));
  }
  const counted = rounds.slice(1);
  const middle = (phase: keyof Round) => median(counted.map((round) => round[phase]));
  return {
    promptTokens,
    newTokens,
    queryLength,
    seconds: {
      load: model.loadSeconds,
      vision: middle('vision'),
      secondVision: middle('secondVision'),
      prefill: middle('prefill'),
      decode: middle('decode'),
    },
    peakMemory: process.resourceUsage().maxRSS * 1024,
  };
}

/** Seconds of one round. */
type Round = Omit<Benchmark['seconds'], 'load'>;

interface BenchmarkPrompt extends PromptIds {
  readonly inputIds: readonly number[];
}

async function measure(
  model: FusionModel,
  prompt: BenchmarkPrompt,
  picture: Picture,
  { newTokens, queryLength }: { readonly newTokens: number; readonly queryLength: number },
): Promise<Round> {
  const decoder = new BatchDecoder(model);
  const first = await timed(() => look(model, picture, QUESTIONS[0]));
  try {
    const joined = await timed(() => decoder.join(prompt, first.value.features, queryLength));
    const { sequence } = joined.value;
    const steps: number[] = [];
    for (let i = 0; i < newTokens; i++) {
      const token = (7 * i + 5) % model.config.decoder.vocabSize;
      steps.push((await timed(() => decoder.step([{ sequence, token }]))).seconds);
    }
    const second = await timed(() => look(model, picture, QUESTIONS[1]));
    await second.value.free();
    return {
      vision: first.seconds,
      secondVision: second.seconds,
      prefill: joined.seconds,
      decode: median(steps),
    };
  } finally {
    await decoder.free();
    await first.value.free();
  }
}

/** The picture's features with a question, as `answerInputs.ts` makes them. */
async function look({ images, device, tokenizer, format }: FusionModel, picture: Picture, question: string) {
  const { instructs } = pictured(tokenizer, format, question);
  const held = await images.tiles(picture);
  const imageTokens = await images.whole(picture, instructs);
  const free = async () => {
    await device.free([imageTokens]);
    await held.release();
  };
  return { features: { tiles: held.features, imageTokens }, free };
}

const pictured = (tokenizer: FusionModel['tokenizer'], format: FusionModel['format'], question: string) =>
  encodePrompt(tokenizer, format, [{ role: 'user', text: `<image>\n${question}` }], { hasImage: true });

/** A picture with a short question, and as many more ids as are wanted. */
function promptOf(
  { config, tokenizer, format }: FusionModel,
  wanted: number | undefined,
  queryLength: number,
): BenchmarkPrompt {
  const { inputIds, endsOfQuestion } = pictured(tokenizer, format, QUESTIONS[0]);
  const least = promptLength(config, inputIds, queryLength);
  const more = (wanted ?? least) - least;
  if (more < 0) {
    throw new UserError(
      `prompt tokens: expected at least ${least}, which a picture with a short question takes, got ${wanted}`,
    );
  }
  const filler = Array.from({ length: more }, (_, i) => (11 * i + 3) % config.decoder.vocabSize);
  return { inputIds: [...inputIds, ...filler], endsOfQuestion };
}

function randomPicture({ config }: FusionModel, seed: number): Picture {
  const crops = new Float32Array(CROPS * 3 * config.vision.imageSize ** 2);
  new Random(seed).fillNormal(crops, 0.5);
  return pictureOfCrops(crops);
}

async function timed<T>(work: () => Promise<T>): Promise<{ readonly value: T; readonly seconds: number }> {
  const start = performance.now();
  const value = await work();
  return { value, seconds: (performance.now() - start) / 1e3 };
}
