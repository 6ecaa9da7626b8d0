/**
 * The known name a mistyped one most likely stands for.
 *
 * Knows nothing of what is named. Source: the Damerau–Levenshtein distance in its optimal string alignment form
 * (insert, delete, replace, swap neighbours, each costing 1).
 */

/**
 * How many characters to insert, delete, replace or swap with their neighbour turn `a` into `b` (no part is
 * edited twice).
 */
export function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (last[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      const cheapest = Math.min(replaced, (last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1);
      const swaps = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      row.push(swaps ? Math.min(cheapest, (beforeLast[j - 2] ?? 0) + 1) : cheapest);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length] ?? 0;
}

/**
 * The one of `known` nearest to `name`, ignoring case; of several equally near the first. Undefined where even
 * that one differs in more than a third of the characters of the longer (but two are always allowed, unless that
 * is all there is).
 */
export function nearestName(name: string, known: Iterable<string>): string | undefined {
  const wanted = name.toLowerCase();
  let nearest: string | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const length = Math.max(name.length, candidate.length);
    const allowed = Math.min(Math.max(2, Math.floor(length / 3)), length - 1);
    const distance = editDistance(wanted, candidate.toLowerCase());
    if (distance > allowed || distance >= least) continue;
    nearest = candidate;
    least = distance;
  }
  return nearest;
}
