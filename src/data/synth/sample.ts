/**
 * The samples: sample `index` of a category, split and seed, as a scene and a conversation about it.
 *
 * A sample depends on nothing but its name and the options, so samples can be made in any order and in any
 * process, and the two splits are different streams. Knows nothing of pixels or files.
 * Source: the categories of the published synthetic sets (FUSION-Pretrain-10M, FUSION-Finetune-12M).
 */
import { InternalError, UserError } from '../../common/errors.ts';
import { nearestName } from '../../common/nearest.ts';
import { Random } from '../../common/random.ts';
import type { LlavaTurn } from '../conversation.ts';
import * as choice from './askChoice.ts';
import * as contrast from './askContrast.ts';
import * as objects from './askObjects.ts';
import * as places from './askPlaces.ts';
import * as reasoning from './askReasoning.ts';
import * as text from './askText.ts';
import { buildPanel, type Plan, shapesOf } from './build.ts';
import { describeTurn, differenceTurn, type PanelManner } from './captions.ts';
import { between, chance, pick, pickWeighted, some } from './choose.ts';
import type { Kind, Turn } from './kind.ts';
import { buildPair, type Pair, type PairPlan } from './pair.ts';
import { DEFAULT_OPTIONS, type Scene, type SynthOptions } from './scene.ts';

export const CAPTION_CATEGORIES = [
  'SynthColor',
  'SynthCount',
  'SynthSpatial',
  'SynthScene',
  'SynthText',
] as const;
export const QA_CATEGORIES = [
  'MultiChoice',
  'ConvShort',
  'ConvLong',
  'ContrastShort',
  'ContrastLong',
  'Reasoning',
  'TextQA',
] as const;
/** Stage 1's captions, then the questions of Stages 1.5 and 2. */
export const CATEGORIES = [...CAPTION_CATEGORIES, ...QA_CATEGORIES] as const;
export type CaptionCategory = (typeof CAPTION_CATEGORIES)[number];
export type QaCategory = (typeof QA_CATEGORIES)[number];
export type Category = (typeof CATEGORIES)[number];
export type Split = 'train' | 'test';

export interface Sample {
  /** `Reasoning-train-7-000012`. */
  readonly id: string;
  readonly category: Category;
  readonly scene: Scene;
  readonly turns: readonly Turn[];
  /** The turns as in LLaVA's JSON, `<image>` before the first question. */
  readonly conversations: readonly LlavaTurn[];
}

type Weighted<K> = readonly (readonly [K, number])[];

const CAPTION_MANNERS: Readonly<Record<CaptionCategory, readonly PanelManner[]>> = {
  SynthColor: ['colourList', 'colourNames', 'colourNames'],
  SynthCount: ['countKinds', 'countKinds', 'countShapes', 'countColours'],
  SynthSpatial: ['places', 'layout'],
  SynthScene: ['scene'],
  SynthText: ['text'],
};

const SHORT: Weighted<Kind> = [
  [objects.count, 6],
  [objects.exists, 3],
  [objects.colour, 4],
  [objects.shape, 3],
  [objects.size, 1],
  [objects.pattern, 1],
  [objects.place, 2],
  [places.leftOrRight, 1],
  [places.aboveOrBelow, 1],
  [places.beside, 1],
  [objects.front, 1],
];

const LONG: Weighted<Kind> = [...SHORT, [objects.more, 1], [reasoning.notColour, 1]];

const REASONING: Weighted<Kind> = [
  [places.countBeside, 3],
  [places.colourBeside, 2],
  [places.outermost, 2],
  [reasoning.mostColour, 2],
  [reasoning.mostShape, 2],
  [reasoning.sameColourCount, 2],
  [reasoning.sameColour, 1],
  [reasoning.sum, 2],
  [reasoning.notColour, 1],
  [reasoning.colours, 1],
  [objects.more, 1],
];

const MULTI_CHOICE: Weighted<Kind> = [
  [choice.choiceOf(objects.colour), 3],
  [choice.choiceOf(objects.shape), 3],
  [choice.choiceOf(objects.count), 3],
  [choice.choiceOf(objects.place), 2],
  [choice.choiceOf(objects.pattern), 1],
  [choice.choiceOf(reasoning.mostColour), 1],
  [choice.presentChoice, 3],
];

const TEXT: Weighted<Kind> = [
  [text.word, 4],
  [text.number, 2],
  [text.firstLetter, 2],
  [text.lastLetter, 1],
  [text.letters, 1],
  [text.wordColour, 2],
  [text.wordSide, 1],
  [text.isWord, 2],
  [choice.choiceOf(text.word), 1],
];

const CONTRAST: Weighted<Kind<PairPlan, Pair>> = [
  [contrast.change, 3],
  [contrast.changed, 2],
  [contrast.whichPicture, 2],
  [contrast.morePicture, 1],
  [contrast.colourIn, 3],
  [contrast.countIn, 3],
  [contrast.inBoth, 1],
  [contrast.sameNumber, 1],
];

/** The names of all kinds of questions. */
const KIND_NAMES: readonly string[] = [
  ...new Set([SHORT, LONG, REASONING, MULTI_CHOICE, TEXT, CONTRAST].flat().map(([kind]) => kind.name)),
];

/** Sample `index` of a category: a pure function of its arguments. @throws UserError for options out of range */
export function sampleAt(
  category: Category,
  split: Split,
  seed: number,
  index: number,
  options: Partial<SynthOptions> = {},
): Sample {
  const level = checkedOptions(options);
  const random = new Random(seed).fork(`synth/${split}/${category}/${index}`);
  const { scene, turns: all } = make(random, category, level);
  const turns = level.single ? [pick(random, all)] : all;
  const id = `${category}-${split}-${seed}-${String(index).padStart(6, '0')}`;
  return { id, category, scene, turns, conversations: toLlava(turns) };
}

interface Made {
  readonly scene: Scene;
  readonly turns: readonly Turn[];
}

function make(random: Random, category: Category, options: SynthOptions): Made {
  const turns = (low: number, high: number) => between(random, low, high + options.extraTurns);
  switch (category) {
    case 'MultiChoice':
      return aboutPanel(random, options, MULTI_CHOICE, turns(1, 2));
    case 'ConvShort':
      return aboutPanel(random, options, SHORT, turns(1, 2));
    case 'ConvLong':
      return aboutPanel(random, options, LONG, turns(3, 4), true);
    case 'Reasoning':
      return aboutPanel(random, options, REASONING, turns(1, 2));
    case 'TextQA':
      return aboutPanel(random, options, TEXT, turns(1, 2));
    case 'ContrastShort':
      return aboutPair(random, options, turns(1, 2), false);
    case 'ContrastLong':
      return aboutPair(random, options, turns(2, 3), true);
    default:
      return captioned(random, options, category);
  }
}

function captioned(random: Random, options: SynthOptions, category: CaptionCategory): Made {
  return until(`${category} caption`, () => {
    const panel = buildPanel(random, options, captionPlan(random, options, category));
    const turn = panel && describeTurn(random, panel, pick(random, CAPTION_MANNERS[category]));
    return panel && turn && { scene: { panels: [panel] }, turns: [turn] };
  });
}

function captionPlan(random: Random, options: SynthOptions, category: CaptionCategory): Plan {
  if (category === 'SynthText') return { word: true };
  if (category !== 'SynthScene') return {};
  const word = options.words && chance(random, 0.25) ? { word: true as const } : {};
  if (!options.overlaps || options.maxObjects < 2 || !chance(random, 0.35)) return word;
  const [back = 'square', front = 'circle'] = some(random, shapesOf(options), 2);
  return { ...objects.overlapPlan(random, options, back, front), ...word };
}

/** Questions about one picture, and at times a description at the end. */
function aboutPanel(
  random: Random,
  options: SynthOptions,
  kinds: Weighted<Kind>,
  turns: number,
  describes = false,
): Made {
  const build = (plan: Plan) => buildPanel(random, options, plan);
  const made = converse(random, options, kinds, turns, build);
  const last = describes && chance(random, 0.5) ? describeTurn(random, made.scene, 'scene') : undefined;
  return { scene: { panels: [made.scene] }, turns: last ? [...made.turns, last] : made.turns };
}

/** Questions about two pictures, and at times what the difference is. */
function aboutPair(random: Random, options: SynthOptions, turns: number, describes: boolean): Made {
  const build = (plan: PairPlan) => buildPair(random, options, plan);
  const made = converse(random, options, CONTRAST, turns, build);
  const last = describes && chance(random, 0.6) ? [differenceTurn(random, made.scene)] : [];
  return { scene: { panels: made.scene.panels }, turns: [...made.turns, ...last] };
}

/** A scene made for the first question, and further questions that it allows. */
function converse<P, S>(
  random: Random,
  options: SynthOptions,
  kinds: Weighted<Kind<P, S>>,
  count: number,
  build: (plan: P) => S | undefined,
): { scene: S; turns: readonly Turn[] } {
  const possible = kinds
    .filter(([kind]) => kind.answers(options).length > 0)
    .map(([kind, weight]) => [kind, weight * (options.kinds[kind.name] ?? 1)] as const);
  const { scene, turn } = firstTurn(random, options, possible, build);
  const turns = [turn];
  for (let attempt = 0; turns.length < count && attempt < 6 * count; attempt++) {
    const kind = pickWeighted(random, possible);
    const wanted = pick(random, kind.answers(options));
    const next = kind.ask(random, scene, options, wanted) ?? kind.ask(random, scene, options);
    if (next && !turns.some((turn) => repeats(turn, next))) turns.push(next);
  }
  return { scene, turns };
}

/** Counting and existence may be asked again, with another answer: then it is something else. */
function repeats(turn: Turn, next: Turn): boolean {
  if (turn.kind !== next.kind) return false;
  return turn.answer === next.answer || (turn.kind !== 'count' && turn.kind !== 'exists');
}

function firstTurn<P, S>(
  random: Random,
  options: SynthOptions,
  kinds: Weighted<Kind<P, S>>,
  build: (plan: P) => S | undefined,
): { scene: S; turn: Turn } {
  return until('question', () => {
    const kind = pickWeighted(random, kinds);
    const wanted = pick(random, kind.answers(options));
    // A kind and an answer are kept for several scenes: those that are hard to find would else be rare.
    for (let attempt = 0; attempt < 30; attempt++) {
      const scene = build(kind.plan(random, options, wanted));
      const turn = scene && kind.ask(random, scene, options, wanted);
      if (scene && turn) return { scene, turn };
    }
    return undefined;
  });
}

/** The first result of many attempts. */
function until<T>(what: string, attempt: () => T | undefined): T {
  for (let i = 0; i < 200; i++) {
    const result = attempt();
    if (result !== undefined) return result;
  }
  throw new InternalError(`synthetic data: found no ${what} in 200 attempts`);
}

function toLlava(turns: readonly Turn[]): LlavaTurn[] {
  return turns.flatMap(({ question, answer }, i) => [
    { from: 'human', value: i === 0 ? `<image>\n${question}` : question },
    { from: 'gpt', value: answer },
  ]);
}

/** The options with the defaults for what is missing. @throws UserError for one out of its range */
export function checkedOptions(options: Partial<SynthOptions>): SynthOptions {
  const all = { ...DEFAULT_OPTIONS, ...options };
  const ranges = [
    ['maxObjects', 1, 5],
    ['minObjects', 1, all.maxObjects],
    ['shapes', 2, DEFAULT_OPTIONS.shapes],
    ['colours', 2, DEFAULT_OPTIONS.colours],
    ['extraTurns', 0, 8],
  ] as const;
  for (const [name, low, high] of ranges) {
    const value = all[name];
    if (Number.isInteger(value) && value >= low && value <= high) continue;
    throw new UserError(`${name}: expected an integer from ${low} to ${high}, got ${value}`);
  }
  checkKinds(all.kinds);
  return all;
}

function checkKinds(kinds: SynthOptions['kinds']): void {
  for (const [name, times] of Object.entries(kinds)) {
    if (!KIND_NAMES.includes(name)) {
      const near = nearestName(name, KIND_NAMES);
      throw new UserError(
        `kinds: expected ${near === undefined ? KIND_NAMES.join(', ') : `"${near}"`}, got "${name}"`,
      );
    }
    if (!Number.isInteger(times) || times < 1 || times > 100) {
      throw new UserError(`kinds: ${name}: expected an integer from 1 to 100, got ${times}`);
    }
  }
}

/** A question to mark by comparison. */
export interface EvalQuestion {
  readonly id: string;
  readonly category: QaCategory;
  readonly kind: string;
  readonly scene: Scene;
  readonly question: string;
  /** The one right answer. */
  readonly answer: string;
}

/**
 * `count` questions, one a scene, evenly over `QA_CATEGORIES`; the first `n` are the same for every count.
 *
 * @throws UserError for options out of range
 */
export function evalQuestions(
  split: Split,
  seed: number,
  count: number,
  options: Partial<SynthOptions> = {},
): EvalQuestion[] {
  const chooser = new Random(seed).fork(`synth/${split}/eval`);
  return Array.from({ length: count }, (_, i) => {
    const category = QA_CATEGORIES[i % QA_CATEGORIES.length] ?? 'ConvShort';
    const { id, scene, turns } = sampleAt(
      category,
      split,
      seed,
      Math.floor(i / QA_CATEGORIES.length),
      options,
    );
    const exact = turns.filter((turn) => turn.exact);
    const { kind, question, answer } = pick(chooser.fork(String(i)), exact);
    return { id, category, kind, scene, question, answer };
  });
}
