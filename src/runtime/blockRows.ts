/**
 * A copy of blocks as a list of rows: which row of one tensor goes to which of another, both seen as matrices
 * [rows, width]. So a program can copy, which takes indices and no boxes. Knows nothing of devices.
 */
import { type Axis, blockAxes } from './blockRuns.ts';
import type { Block } from './types.ts';

export interface BlockRows {
  /** Elements of a row: what the axes hold that every block takes whole. */
  readonly width: number;
  /** Rows that are written, and for each the row that is read: [N]. */
  readonly to: Int32Array;
  readonly from: Int32Array;
}

/** The rows of blocks that are copied between tensors of these shapes. Throws where a block leaves either. */
export function blockRows(
  to: readonly number[],
  from: readonly number[],
  blocks: readonly Block[],
): BlockRows {
  const boxes = blocks.map((block) => blockAxes(to, from, block));
  const isWhole = (axes: readonly Axis[], i: number) =>
    axes[i]?.size === axes[i]?.toDim && axes[i]?.size === axes[i]?.fromDim;
  let outer = to.length;
  while (outer > 0 && boxes.every((axes) => isWhole(axes, outer - 1))) outer -= 1;
  const pairs = boxes.flatMap((axes) => rowPairs(axes.slice(0, outer), 0, 0));
  return {
    width: to.slice(outer).reduce((product, dim) => product * dim, 1),
    to: Int32Array.from(pairs, ([row]) => row),
    from: Int32Array.from(pairs, ([, row]) => row),
  };
}

type Pair = readonly [to: number, from: number];

function rowPairs([axis, ...inner]: readonly Axis[], to: number, from: number): readonly Pair[] {
  if (axis === undefined) return [[to, from]];
  const { target, source, size, toDim, fromDim } = axis;
  const [toStart, fromStart] = [to * toDim + target, from * fromDim + source];
  return Array.from({ length: size }, (_, i) => rowPairs(inner, toStart + i, fromStart + i)).flat();
}
