/** Right answers counted, with how sure the share is. Knows nothing of models or questions' contents. */

/** How many of some questions were answered rightly. */
export interface Score {
  readonly questions: number;
  readonly right: number;
  /** Share of right answers, 0 to 1; so are `low`, `high` and `blind`. */
  readonly accuracy: number;
  /** Ends of the 95 % confidence interval. */
  readonly low: number;
  readonly high: number;
  /** What the best constant answer to each kind of question would reach. */
  readonly blind: number;
}

/** The 97.5 % quantile of the normal distribution. */
const Z = 1.959964;

/**
 * Wilson's interval for a share of `right` in `questions`: 95 % confidence, never outside 0 to 1. `[0, 1]` for no
 * questions. Source: E. B. Wilson, JASA 22 (1927), 209–212.
 */
export function wilsonInterval(right: number, questions: number): readonly [low: number, high: number] {
  if (questions === 0) return [0, 1];
  const share = right / questions;
  const spread = Z ** 2 / questions;
  const centre = (share + spread / 2) / (1 + spread);
  const half = (Z / (1 + spread)) * Math.sqrt((share * (1 - share) + spread / 4) / questions);
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}

/** The score of `right` in `questions`; blind: as in `Score`. */
export function scoreOf(right: number, questions: number, blind: number): Score {
  const [low, high] = wilsonInterval(right, questions);
  return { questions, right, accuracy: questions === 0 ? 0 : right / questions, low, high, blind };
}

/**
 * Whether an answer is the right one: the same text once spaces around it, upper and lower case and one period at
 * the end are set aside. Nothing else is forgiven.
 */
export function isRight(answer: string, expected: string): boolean {
  return normalized(answer) === normalized(expected);
}

function normalized(text: string): string {
  return text.trim().toLowerCase().replace(/\.$/, '').trimEnd();
}
