/** Random choices among things. Knows nothing of scenes. */
import { InternalError } from '../../common/errors.ts';
import type { Random } from '../../common/random.ts';

/** One of `items`, each equally likely; undefined where there are none. */
export function maybePick<T>(random: Random, items: readonly T[]): T | undefined {
  return items.length === 0 ? undefined : items[random.integer(items.length)];
}

/** One of `items`, each equally likely. @throws InternalError where there are none. */
export function pick<T>(random: Random, items: readonly T[]): T {
  const item = maybePick(random, items);
  if (item === undefined) throw new InternalError('pick: expected at least one item, got none');
  return item;
}

/** One of `items`, as likely as its weight (a positive integer). */
export function pickWeighted<T>(random: Random, items: readonly (readonly [T, number])[]): T {
  let at = random.integer(items.reduce((sum, [, weight]) => sum + weight, 0));
  for (const [item, weight] of items) {
    if (at < weight) return item;
    at -= weight;
  }
  throw new InternalError('pickWeighted: weights do not add up');
}

/** True with the given probability. */
export function chance(random: Random, probability: number): boolean {
  return random.uniform() < probability;
}

/** An integer from `low` to `high`, both included. */
export function between(random: Random, low: number, high: number): number {
  return low + random.integer(high - low + 1);
}

/** `count` different items, in random order; all of them where there are fewer. */
export function some<T>(random: Random, items: readonly T[], count: number): T[] {
  return random.shuffle<T, T[]>([...items]).slice(0, count);
}
