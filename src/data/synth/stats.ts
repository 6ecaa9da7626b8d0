/** What can be had without looking: how well the best constant answers do. Knows nothing of models. */

/** Shares of right answers, 0 to 1. */
export interface BlindBaseline {
  readonly questions: number;
  /** The one answer that is right most often, for all questions of the category. */
  readonly byCategory: number;
  /** The answer that is right most often for each kind of question. */
  readonly byKind: number;
}

/** What is known of a question; questions may be grouped by another label than the generator's category. */
interface Asked {
  readonly category: string;
  readonly kind: string;
  readonly answer: string;
}

/** The blind baselines of each category and, under `all`, of all questions. */
export function blindBaselines(questions: readonly Asked[]): Map<string, BlindBaseline> {
  const groups = groupBy(questions, ({ category }) => category);
  const found = [...groups].map(([category, group]) => [category, baselineOf(group)] as const);
  const share = (part: (baseline: BlindBaseline) => number) =>
    found.reduce((sum, [, baseline]) => sum + baseline.questions * part(baseline), 0) / questions.length;
  const all = {
    questions: questions.length,
    byCategory: share(({ byCategory }) => byCategory),
    byKind: share(({ byKind }) => byKind),
  };
  return new Map<string, BlindBaseline>([...found, ['all', all]]);
}

function baselineOf(questions: readonly Asked[]): BlindBaseline {
  const kinds = [...groupBy(questions, ({ kind }) => kind).values()];
  return {
    questions: questions.length,
    byCategory: majority(questions) / questions.length,
    byKind: kinds.reduce((sum, kind) => sum + majority(kind), 0) / questions.length,
  };
}

/** How often the most frequent answer occurs. */
function majority(questions: readonly Asked[]): number {
  return Math.max(...[...groupBy(questions, ({ answer }) => answer).values()].map(({ length }) => length));
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group) group.push(item);
    else groups.set(key, [item]);
  }
  return groups;
}
