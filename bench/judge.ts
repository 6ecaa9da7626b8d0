/** A line of a benchmark's verdict: what was measured beside what is wanted. */

/** Prints the line; gives back whether what is wanted holds. */
export function judge(what: string, got: string, wanted: string, holds: boolean): boolean {
  console.log(`${what.padEnd(34)}${got.padStart(10)}   wanted ${wanted.padEnd(9)} ${holds ? 'yes' : 'NO'}`);
  return holds;
}
