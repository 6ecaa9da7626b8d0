/**
 * What a kind of question is: which answers it has, how a scene is planned for one, how it is asked of a scene.
 *
 * An answer is drawn first, uniformly, and the scene planned for it; so the text alone tells little about the
 * answer. Knows no question in particular.
 */
import type { Random } from '../../common/random.ts';
import type { Plan } from './build.ts';
import { maybePick } from './choose.ts';
import type { Panel, SceneObject, SynthOptions } from './scene.ts';

/** One question and its answer. */
export interface Turn {
  readonly kind: string;
  readonly question: string;
  readonly answer: string;
  /** Whether the answer is short and the only right one, so that it can be marked by comparison. */
  readonly exact: boolean;
  /** The objects that the answer is read from, those of the scene itself. */
  readonly about: readonly SceneObject[];
}

/** A kind of question about an `S`, for which scenes are made by a `P`. */
export interface Kind<P = Plan, S = Panel> {
  readonly name: string;
  /** All answers at the level of the options, each to be as frequent as the others; none: never ask. */
  answers(options: SynthOptions): readonly string[];
  /** A plan under which a question with the answer `wanted` is likely to exist. */
  plan(random: Random, options: SynthOptions, wanted: string): P;
  /** A question about the scene, with the answer `wanted` where that is given; undefined if there is none. */
  ask(random: Random, scene: S, options: SynthOptions, wanted?: string): Turn | undefined;
}

export const YES_NO = ['yes', 'no'] as const;

/** The numbers from `low` to `high` as answers. */
export function numbers(low: number, high: number): string[] {
  return Array.from({ length: Math.max(0, high - low + 1) }, (_, i) => String(low + i));
}

/**
 * One of the candidates with the answer wanted; where nothing is wanted, an answer that has candidates is drawn
 * first, so that frequent ones are not preferred.
 */
export function choose<T extends { readonly answer: string }>(
  random: Random,
  candidates: readonly T[],
  wanted: string | undefined,
): T | undefined {
  const answer = wanted ?? maybePick(random, [...new Set(candidates.map((candidate) => candidate.answer))]);
  return maybePick(
    random,
    candidates.filter((candidate) => candidate.answer === answer),
  );
}

/** A turn whose answer is the only right one. about: the objects that it is read from. */
export function exactTurn(
  kind: string,
  question: string,
  answer: string,
  about: readonly SceneObject[],
): Turn {
  return { kind, question, answer, exact: true, about };
}
