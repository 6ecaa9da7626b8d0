/** What a session is told besides its model, found from the program. Knows nothing of ONNX Runtime. */
import { DTYPES } from '../graph/dtype.ts';
import type { Program } from '../graph/program.ts';
import type { Tensor } from '../graph/tensor.ts';
import type { Constants } from './types.ts';

/** How a session is made. */
export interface SessionOptions {
  /** Where the files lie that the model refers to. */
  readonly folder?: string | undefined;
  /** Whether what the largest run took is kept for the next (default): too much where a model is many sessions, or gives gigabytes. */
  readonly keepsArena?: boolean | undefined;
  /** Outputs that stay in the memory of a GPU, where that is what runs: those that can become resident tensors. */
  readonly resident?: readonly string[] | undefined;
}

/** A program that gives more than so many bytes has memory of its own for them at each run, which is freed with them. */
const LARGE_OUTPUTS = 1e9;

/** The options for a program. folder: where the files of its constants lie. */
export function sessionOptions(
  { outputs }: Program,
  folder: string | undefined,
  constants: Constants | undefined,
): SessionOptions {
  const resident = [...outputs].flatMap(([name, { dtype }]) => (dtype === 'f32' ? [name] : []));
  const given = [...outputs.values()].reduce((bytes, output) => bytes + leastBytes(output), 0);
  return { folder, keepsArena: constants === undefined && given <= LARGE_OUTPUTS, resident };
}

/** Bytes of a tensor, of which sizes that are not known yet count as 1. */
function leastBytes({ dtype, shape }: Tensor): number {
  const sizes = shape.map((dim) => (typeof dim === 'number' ? dim : 1));
  return sizes.reduce((a, b) => a * b, DTYPES[dtype].bytes);
}
