/**
 * A copy of blocks as a list of runs: elements that lie one after the other on both sides. Many tensors of one shape
 * are copied by one list. Knows nothing of devices.
 */
import type { TypedArray } from '../graph/dtype.ts';
import type { Block } from './types.ts';

/** What of an axis is copied, from index `source` to index `target`, and how long the axis is on either side. */
export interface Axis {
  readonly source: number;
  readonly target: number;
  readonly size: number;
  readonly toDim: number;
  readonly fromDim: number;
}

/** For each run the element it goes to, the one it comes from, and how many there are. */
export interface BlockRuns {
  readonly to: readonly number[];
  readonly from: readonly number[];
  readonly lengths: readonly number[];
}

/** A block axis by axis. Throws where it leaves either shape. */
export function blockAxes(to: readonly number[], from: readonly number[], block: Block): readonly Axis[] {
  const axes = from.map((fromDim, axis): Axis => {
    const [target = 0, source = 0, toDim = 0] = [block.at[axis], block.from?.[axis], to[axis]];
    return { target, source, size: block.size?.[axis] ?? fromDim - source, toDim, fromDim };
  });
  const fits = ({ target, source, size, toDim, fromDim }: Axis) =>
    Math.min(size, target, source) >= 0 && target + size <= toDim && source + size <= fromDim;
  if (to.length === from.length && axes.every(fits)) return axes;
  const [size, source, target] = (['size', 'source', 'target'] as const).map((k) => axes.map((x) => x[k]));
  throw new Error(`copy of [${size}] at [${source}] of [${from}] to [${target}] of [${to}] does not fit`);
}

/** The runs of blocks between tensors of these shapes, of one rank. Throws where a block leaves either. */
export function blockRuns(
  to: readonly number[],
  from: readonly number[],
  blocks: readonly Block[],
): BlockRuns {
  const runs = { to: [], from: [], lengths: [] };
  for (const block of blocks) addRuns(runs, blockAxes(to, from, block), 0, 0);
  return runs;
}

/** A tensor without axes has one element. */
const SINGLE: Axis = { source: 0, target: 0, size: 1, toDim: 1, fromDim: 1 };

/** Goes down the axes to the one from which both sides lie in one run of memory. */
function addRuns(
  runs: { readonly [name in keyof BlockRuns]: number[] },
  [axis = SINGLE, ...inner]: readonly Axis[],
  toIndex: number,
  fromIndex: number,
): void {
  const { target, source, size, toDim, fromDim } = axis;
  const [toStart, fromStart] = [toIndex * toDim + target, fromIndex * fromDim + source];
  if (inner.every(({ size: n, toDim: a, fromDim: b }) => n === a && n === b)) {
    const run = inner.reduce((product, { size: n }) => product * n, 1);
    runs.to.push(toStart * run);
    runs.from.push(fromStart * run);
    runs.lengths.push(size * run);
    return;
  }
  for (let i = 0; i < size; i++) addRuns(runs, inner, toStart + i, fromStart + i);
}

/** Elements from which on a view costs less than copying one by one. */
const LONG = 64;

/** Copies runs between arrays of one dtype. */
export function copyRuns(
  to: TypedArray,
  from: TypedArray,
  { to: ats, from: froms, lengths }: BlockRuns,
): void {
  // Both sides have one dtype, which the caller checked.
  const [target, source] = [to as Float32Array, from as Float32Array];
  for (let run = 0; run < lengths.length; run++) {
    const [at, start, length] = [ats[run] as number, froms[run] as number, lengths[run] as number];
    if (length < LONG) for (let i = 0; i < length; i++) target[at + i] = source[start + i] as number;
    else target.set(source.subarray(start, start + length), at);
  }
}
