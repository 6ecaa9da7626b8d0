/**
 * From logits to the next token: repetition penalty, temperature, top-k, top-p, min-p, then one draw.
 *
 * Knows nothing of models, text or stop rules; all randomness comes from the `Random` handed in. The order and
 * meaning of the options are those of Hugging Face's `LogitsProcessor`s, with one difference: top-k keeps
 * exactly k tokens (ties: the lowest ids), where theirs keeps every token tied with the k-th.
 */
import { InternalError, UserError } from '../common/errors.ts';
import type { Random } from '../common/random.ts';

/** How to choose the next token. Everything left out is off; with no temperature the choice is greedy. */
export interface SamplingOptions {
  /** Divides the logits; 0 (default) takes the most likely token. */
  readonly temperature?: number;
  /** Keeps the k most likely tokens; 0 (default) keeps all. */
  readonly topK?: number;
  /** Keeps the fewest tokens whose probabilities add up to at least this; 1 (default) keeps all. */
  readonly topP?: number;
  /** Drops tokens less likely than this share of the most likely one; 0 (default) drops none. */
  readonly minP?: number;
  /** Divides positive and multiplies negative logits of tokens seen before; 1 (default) leaves them. */
  readonly repetitionPenalty?: number;
  /** Seed for the caller's `Random`; not read here. */
  readonly seed?: number;
}

/** A token with the natural logarithm of its probability under the model's own logits. */
export interface TokenLogProbability {
  readonly id: number;
  readonly logProbability: number;
}

type Resolved = Required<Omit<SamplingOptions, 'seed'>>;

interface Rule {
  readonly expected: string;
  readonly holds: (value: number) => boolean;
}

const RULES: { readonly [name in keyof SamplingOptions]-?: Rule } = {
  temperature: { expected: 'a number from 0 (greedy)', holds: (x) => x >= 0 && x < Infinity },
  topK: { expected: 'an integer from 0 (keep all)', holds: (x) => Number.isSafeInteger(x) && x >= 0 },
  topP: { expected: 'a number above 0, at most 1 (keep all)', holds: (x) => x > 0 && x <= 1 },
  minP: { expected: 'a number from 0 (drop none) to 1', holds: (x) => x >= 0 && x <= 1 },
  repetitionPenalty: { expected: 'a number above 0 (1 is no penalty)', holds: (x) => x > 0 && x < Infinity },
  seed: { expected: 'an integer between -(2^53 - 1) and 2^53 - 1', holds: Number.isSafeInteger },
};

/**
 * Checks every option that is given.
 * @throws UserError naming the option, its range and the value
 */
export function validateSampling(options: SamplingOptions): void {
  for (const name of Object.keys(RULES) as (keyof SamplingOptions)[]) {
    const value: unknown = options[name];
    const { expected, holds } = RULES[name];
    if (value === undefined || (typeof value === 'number' && holds(value))) continue;
    throw new UserError(
      `${name}: expected ${expected}, got ${typeof value === 'string' ? `'${value}'` : String(value)}`,
    );
  }
}

/**
 * Chooses the next token.
 *
 * @param logits f32 [V], left as they are; -Infinity marks a forbidden token
 * @param previousIds tokens the repetition penalty applies to; ids outside the vocabulary (image
 *   placeholders) are ignored
 * @param random drawn from once (two words) unless the choice is greedy
 * @returns the token and its log-probability under `logits`, before penalty, temperature and filters
 * @throws InternalError when a logit is NaN or +Infinity, or when all are -Infinity
 */
export function sampleToken(
  logits: Float32Array,
  options: SamplingOptions,
  previousIds: Iterable<number>,
  random: Random,
): TokenLogProbability {
  const resolved = resolve(options);
  const scores = penalise(logits, previousIds, resolved.repetitionPenalty);
  const best = argmax(scores);
  const id = resolved.temperature === 0 ? best : draw(candidates(scores, at(scores, best), resolved), random);
  return { id, logProbability: at(logits, id) - logSumExp(logits) };
}

/**
 * Log-probabilities (natural logarithm) under the model's own logits.
 *
 * @param logits f32 [V]
 * @param which token ids, in the order wanted; or a number n, for the n most likely tokens, best first
 * @throws InternalError for an id outside the vocabulary and for unusable logits, as `sampleToken`
 */
export function logProbabilities(
  logits: Float32Array,
  which: readonly number[] | number,
): TokenLogProbability[] {
  const normaliser = logSumExp(logits);
  const ids = typeof which === 'number' ? largest(logits, which) : which;
  return Array.from(ids, (id) => ({ id, logProbability: at(logits, id) - normaliser }));
}

function resolve(options: SamplingOptions): Resolved {
  validateSampling(options);
  const { temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1 } = options;
  return { temperature, topK, topP, minP, repetitionPenalty };
}

function at(values: Float32Array, id: number): number {
  const value = values[id];
  if (value === undefined)
    throw new InternalError(`logits: expected a token id below ${values.length}, got ${id}`);
  return value;
}

/** The logits with each distinct previous id penalised once; a copy only where something changes. */
function penalise(logits: Float32Array, previousIds: Iterable<number>, penalty: number): Float32Array {
  if (penalty === 1) return logits;
  const scores = logits.slice();
  // Each new score comes from the untouched logit, so an id seen twice is penalised once.
  for (const id of previousIds) {
    const score = logits[id];
    if (score !== undefined) scores[id] = score > 0 ? score / penalty : score * penalty;
  }
  return scores;
}

/** The id of the largest score, the lowest of several; refuses scores no token can be chosen from. */
function argmax(scores: Float32Array): number {
  let best = -1;
  let bestScore = -Infinity;
  for (let id = 0; id < scores.length; id++) {
    const score = scores[id] as number;
    if (score > bestScore) {
      best = id;
      bestScore = score;
    } else if (Number.isNaN(score)) {
      throw new InternalError(`logits: expected numbers, got NaN at token ${id} of ${scores.length}`);
    }
  }
  if (best < 0) throw new InternalError(`logits: no token is possible, all ${scores.length} are -Infinity`);
  if (bestScore === Infinity)
    throw new InternalError(`logits: expected finite numbers, got Infinity at token ${best}`);
  return best;
}

/** `ln Σ exp(logit)`, in f64. */
function logSumExp(logits: Float32Array): number {
  const max = at(logits, argmax(logits));
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += Math.exp((logits[id] as number) - max);
  return max + Math.log(sum);
}

/** Tokens that may be drawn: `weights[i]` is the unnormalised probability of `ids[i]`, or of `i` without ids. */
interface Candidates {
  readonly ids?: Uint32Array;
  readonly weights: Float64Array;
}

function candidates(scores: Float32Array, max: number, options: Resolved): Candidates {
  const { temperature, topK, topP, minP } = options;
  const weigh = (score: number) => Math.exp((score - max) / temperature);
  const limited = topK > 0 && topK < scores.length;
  const kept = limited ? nucleus(rank(scores, topK, weigh), topP) : nucleusOfAll(scores, topP, weigh);
  // The most likely token weighs exactly 1, so a weight is its token's share of the largest probability.
  return minP > 0 ? { ...kept, weights: kept.weights.map((w) => (w < minP ? 0 : w)) } : kept;
}

/** The k most likely tokens, best first. */
function rank(scores: Float32Array, k: number, weigh: (score: number) => number): Required<Candidates> {
  const ids = largest(scores, k);
  const weights = new Float64Array(ids.length);
  for (let i = 0; i < ids.length; i++) weights[i] = weigh(at(scores, ids[i] as number));
  return { ids, weights };
}

/**
 * Top-p over the whole vocabulary. Instead of sorting it, looks at the 256 most likely tokens, and at more
 * only where these do not reach p.
 */
function nucleusOfAll(scores: Float32Array, topP: number, weigh: (score: number) => number): Candidates {
  const weights = new Float64Array(scores.length);
  for (let id = 0; id < scores.length; id++) weights[id] = weigh(scores[id] as number);
  if (topP === 1) return { weights };
  const total = sum(weights);
  for (const k of FIRST_LOOKS) {
    const ranked = rank(scores, k, weigh);
    if (sum(ranked.weights) >= topP * total) return nucleus(ranked, topP, total);
  }
  return nucleus(rank(scores, scores.length, weigh), topP, total);
}

/** How many tokens top-p looks at before it looks at all. */
const FIRST_LOOKS = [256, 2047] as const;

/** The shortest head of ranked tokens whose weights reach `topP` of the total; at least one. */
function nucleus(ranked: Required<Candidates>, topP: number, total = sum(ranked.weights)): Candidates {
  let count = 0;
  for (let reached = 0; count < ranked.ids.length && reached < topP * total; count++) {
    reached += ranked.weights[count] as number;
  }
  return { ids: ranked.ids.subarray(0, count), weights: ranked.weights.subarray(0, count) };
}

function sum(values: Float64Array): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i] as number;
  return total;
}

/** One token in proportion to the weights; never one of weight 0. */
function draw({ ids, weights }: Candidates, random: Random): number {
  const target = random.uniform() * sum(weights);
  let chosen = 0;
  for (let i = 0, reached = 0; i < weights.length && reached <= target; i++) {
    const weight = weights[i] as number;
    reached += weight;
    if (weight > 0) chosen = i;
  }
  return ids ? (ids[chosen] as number) : chosen;
}

/** From so many on, sorting all scores is quicker than a heap. */
const MANY = 2048;

/** The ids of the k largest scores, best first, ties by lowest id. */
function largest(scores: Float32Array, k: number): Uint32Array {
  const count = Math.min(k, scores.length);
  return count < MANY ? largestByHeap(scores, count) : largestBySort(scores, count);
}

/**
 * A score and its id as one f64, in the order wanted: the score's bits, which order like integers when those of
 * negative scores are turned, above the id's; 32 + 21 bits are what an f64 holds.
 */
function largestBySort(scores: Float32Array, k: number): Uint32Array {
  const bits = new Int32Array(scores.slice().buffer);
  const keys = new Float64Array(scores.length);
  for (let id = 0; id < keys.length; id++) {
    const word = bits[id] as number;
    const order = word < 0 ? -(word & 0x7fffffff) : word;
    keys[id] = id - order * ID_SPAN;
  }
  keys.sort();
  const ids = new Uint32Array(k);
  // ID_SPAN is 2^21, and bitwise operators take a number modulo 2^32.
  for (let i = 0; i < k; i++) ids[i] = (keys[i] as number) & (ID_SPAN - 1);
  return ids;
}

/** Ids lie below it. */
const ID_SPAN = 2 ** 21;

/** One scan with a heap of k ids whose root is the worst kept: almost every score fails one comparison. */
function largestByHeap(scores: Float32Array, k: number): Uint32Array {
  const heap = Uint32Array.from({ length: k }, (_, id) => id);
  if (heap.length === 0) return heap;
  for (let root = (heap.length >> 1) - 1; root >= 0; root--) sink(heap, root, scores);
  let worst = scores[heap[0] as number] as number;
  for (let id = heap.length; id < scores.length; id++) {
    if ((scores[id] as number) <= worst) continue;
    heap[0] = id;
    sink(heap, 0, scores);
    worst = scores[heap[0] as number] as number;
  }
  return heap.sort((a, b) => (isWorse(a, b, scores) ? 1 : -1));
}

function isWorse(a: number, b: number, scores: Float32Array): boolean {
  const scoreA = scores[a] as number;
  const scoreB = scores[b] as number;
  return scoreA < scoreB || (scoreA === scoreB && a > b);
}

/** Moves the id at `place` down until both of its children are better. */
function sink(heap: Uint32Array, place: number, scores: Float32Array): void {
  const id = heap[place] as number;
  for (;;) {
    let child = 2 * place + 1;
    if (child >= heap.length) break;
    const sibling = child + 1;
    if (sibling < heap.length && isWorse(heap[sibling] as number, heap[child] as number, scores))
      child = sibling;
    if (!isWorse(heap[child] as number, id, scores)) break;
    heap[place] = heap[child] as number;
    place = child;
  }
  heap[place] = id;
}
