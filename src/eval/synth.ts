/**
 * How well a model answers questions about generated pictures of the test split, by category and by kind of
 * question. Greedy, exact match, the same questions for the same seed. With blank pictures the model gets the same
 * prompts and image tokens of mid-grey pixels: what it would reach without looking.
 */
import type { OnProgress } from '../common/progress.ts';
import { encodePrompt } from '../data/conversation.ts';
import { blankCrops, staticHdCrops } from '../data/image.ts';
import { blindBaselines, type EvalQuestion, evalQuestions, renderScene } from '../data/synth/index.ts';
import type { FusionModel } from '../generate/model.ts';
import { answerBatch, type PicturedPrompt } from './batchAnswers.ts';
import { isRight, type Score, scoreOf } from './score.ts';

export interface EvalSynthOptions {
  /** Questions, evenly over the categories. */
  readonly count: number;
  readonly seed: number;
  /** Scenes of one to three objects without textures and overlaps, in place of everything there is. */
  readonly plain?: boolean | undefined;
  /** Grey pixels in place of the pictures. */
  readonly blank?: boolean | undefined;
  /** Questions answered at once; 16 unless given. */
  readonly batch?: number | undefined;
  readonly onProgress?: OnProgress | undefined;
}

/** One question as it was answered. */
export interface MarkedAnswer {
  readonly id: string;
  readonly category: string;
  readonly kind: string;
  readonly question: string;
  readonly expected: string;
  readonly answer: string;
  readonly right: boolean;
}

export interface EvalReport {
  readonly count: number;
  readonly seed: number;
  readonly plain: boolean;
  readonly blank: boolean;
  readonly overall: Score;
  readonly categories: Readonly<Record<string, Score>>;
  readonly kinds: Readonly<Record<string, Score>>;
  readonly answers: readonly MarkedAnswer[];
}

/** Every right answer is much shorter; what is longer is wrong. */
const MAX_TOKENS = 8;
const BATCH = 16;
const PLAIN = { minObjects: 1, maxObjects: 3, textures: false, overlaps: false } as const;

/** Asks `count` questions of the test split and marks the answers. */
export async function evalSynth(model: FusionModel, options: EvalSynthOptions): Promise<EvalReport> {
  const { count, seed, plain = false, blank = false, batch = BATCH, onProgress } = options;
  const questions = evalQuestions('test', seed, count, plain ? PLAIN : {});
  const answers: MarkedAnswer[] = [];
  for (let first = 0; first < count; first += batch) {
    onProgress?.({ phase: 'eval', done: first, total: count, unit: 'questions' });
    const asked = questions.slice(first, first + batch);
    const prompts = await Promise.all(asked.map((question) => pictured(model, question, blank)));
    const tokens = await answerBatch(model, prompts, MAX_TOKENS);
    answers.push(...asked.map((question, i) => marked(model, question, tokens[i] ?? [])));
  }
  onProgress?.({ phase: 'eval', done: count, total: count, unit: 'questions' });
  return { count, seed, plain, blank, ...scores(answers), answers };
}

/** The question as `ask` would put it, with the scene drawn at the size of the four tiles. */
async function pictured(model: FusionModel, asked: EvalQuestion, blank: boolean): Promise<PicturedPrompt> {
  const { tokenizer, format, config } = model;
  const text = `<image>\n${asked.question}`;
  const prompt = encodePrompt(tokenizer, format, [{ role: 'user', text }], { hasImage: true });
  const side = config.vision.imageSize;
  if (blank) return { prompt, crops: blankCrops(side) };
  return { prompt, crops: staticHdCrops(await renderScene(asked.scene, 2 * side), side) };
}

function marked(model: FusionModel, asked: EvalQuestion, tokens: readonly number[]): MarkedAnswer {
  const { id, category, kind, question, answer: expected } = asked;
  const answer = model.tokenizer.decode(tokens, { skipSpecialTokens: true });
  return { id, category, kind, question, expected, answer, right: isRight(answer, expected) };
}

/** The scores of all answers, of each category's and of each kind's. */
function scores(answers: readonly MarkedAnswer[]): Pick<EvalReport, 'overall' | 'categories' | 'kinds'> {
  const of = (labelOf: (answer: MarkedAnswer) => string) => {
    const labelled = answers.map((one) => ({
      category: labelOf(one),
      kind: one.kind,
      answer: one.expected,
      right: one.right,
    }));
    const blind = blindBaselines(labelled);
    const names = [...new Set(labelled.map(({ category }) => category))].sort();
    const entries = names.map((name) => {
      const own = labelled.filter(({ category }) => category === name);
      const right = own.filter((one) => one.right).length;
      return [name, scoreOf(right, own.length, blind.get(name)?.byKind ?? 0)] as const;
    });
    return Object.fromEntries(entries);
  };
  const overall = of(() => 'all').all ?? scoreOf(0, 0, 0);
  return { overall, categories: of(({ category }) => category), kinds: of(({ kind }) => kind) };
}
