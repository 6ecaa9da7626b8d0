/**
 * How far computed values are from expected ones, and how far they may be. Knows nothing of where either come
 * from.
 */

/**
 * Agreement asked for in float32, before the user's factor. Those of the golden values' description; it leaves
 * features, elements of gradients and norms during training open: they get what logits and norms get, and
 * training's norms more, because weights have drifted apart by then.
 */
export const TOLERANCES = {
  /** Absolute. */
  loss: 1e-4,
  /** Of the largest |logit| of the sample. */
  logits: 1e-3,
  /** Of the largest |value| of the tensor. */
  features: 1e-3,
  /** Of the expected norm, and absolute, together. */
  gradientNorm: { relative: 1e-3, absolute: 1e-6 },
  /** Of the largest |element| of the gradient, and absolute, together. */
  gradient: { relative: 1e-3, absolute: 1e-6 },
  /** Absolute. */
  trainingLoss: 2e-3,
  /** Of the expected norm. */
  trainingNorm: 1e-2,
} as const;

/** One measured distance in the unit of its tolerance. */
export interface Deviation {
  readonly deviation: number;
  readonly allowed: number;
  /** Which value it is, such as `sample 1`. */
  readonly at: string;
}

/**
 * `ok`: within the tolerance; `over`: not, or not a number; `failed`: could not be compared; `unchecked`: nothing
 * to compare with, or a quantity that is not known.
 */
export type Status = 'ok' | 'over' | 'failed' | 'unchecked';

/** What came of one group of quantities of one case. */
export interface Outcome {
  /** Empty for something that belongs to no case. */
  readonly case: string;
  readonly quantity: string;
  readonly status: Status;
  /** The deviation that is largest in proportion to what is allowed. */
  readonly worst?: Deviation;
  /** Why there is no deviation, what was found instead, or what else is to be known. */
  readonly reason?: string;
}

/** How much of what is allowed is used: above 1 is too much; infinite for what is not a number. */
function ratio({ deviation, allowed }: Deviation): number {
  const used = deviation / allowed;
  return Number.isNaN(used) ? Number.POSITIVE_INFINITY : used;
}

/** The outcome of a group of deviations; nothing stored leaves it unchecked. */
export function judge(name: string, quantity: string, deviations: readonly Deviation[]): Outcome {
  const [first, ...rest] = deviations;
  if (first === undefined) return { case: name, quantity, status: 'unchecked', reason: 'not stored' };
  const worst = rest.reduce((a, b) => (ratio(b) > ratio(a) ? b : a), first);
  return { case: name, quantity, status: ratio(worst) <= 1 ? 'ok' : 'over', worst };
}

/** |got − expected| of two numbers. */
export function scalarDeviation(got: number, expected: number, allowed: number, at: string): Deviation {
  return { deviation: Math.abs(got - expected), allowed, at };
}

/** The largest |expected − got|, and the largest |expected|; NaN where any value of either is not a number. */
export function spread(
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
): { worst: number; largest: number } {
  let [worst, largest] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [got[i] ?? Number.NaN, expected[i] ?? Number.NaN];
    worst = Math.max(worst, a === b ? 0 : Math.abs(a - b));
    largest = Math.max(largest, Math.abs(b));
  }
  return { worst, largest };
}

/** The largest distance in proportion to the largest expected value. */
export function relativeDeviation(
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  allowed: number,
  at: string,
): Deviation {
  const { worst, largest } = spread(got, expected);
  return { deviation: largest === 0 ? worst : worst / largest, allowed, at };
}

const exponential = (x: number) => x.toExponential(1);

/** An outcome as a line; the columns are as wide as `nameWidth` and the longest quantity. */
export function describeOutcome(
  { case: name, quantity, status, worst, reason }: Outcome,
  nameWidth = 0,
): string {
  const head = `${STATUS_WORDS[status]}  ${name.padEnd(nameWidth)}  ${quantity.padEnd(QUANTITY_WIDTH)}  `;
  if (worst === undefined) return `${head}${reason ?? ''}`.trimEnd();
  const allowed = Number(worst.allowed.toPrecision(2)).toExponential();
  const what = `worst ${exponential(worst.deviation)} of ${allowed} (${worst.at})`;
  return `${head}${what}${reason === undefined ? '' : `; ${reason}`}`;
}

const QUANTITY_WIDTH = 'gradient norms'.length;
const STATUS_WORDS: Readonly<Record<Status, string>> = {
  ok: 'ok  ',
  over: 'OVER',
  failed: 'FAIL',
  unchecked: '--  ',
};
