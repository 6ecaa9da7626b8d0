/** What a session is told besides its model, found from the program. Knows nothing of ONNX Runtime. */
import type { Program } from '../graph/program.ts';
import type { Constants } from './types.ts';

/** How a session is made. */
export interface SessionOptions {
  /** Where the files lie that the model refers to. */
  readonly folder?: string | undefined;
  /** Whether what the largest run took is kept for the next (default): too much where a model is many sessions. */
  readonly keepsArena?: boolean | undefined;
  /** Outputs that stay in the memory of a GPU, where that is what runs: those that can become resident tensors. */
  readonly resident?: readonly string[] | undefined;
}

/** The options for a program. folder: where the files of its constants lie. */
export function sessionOptions(
  { outputs }: Program,
  folder: string | undefined,
  constants: Constants | undefined,
): SessionOptions {
  const resident = [...outputs].flatMap(([name, { dtype }]) => (dtype === 'f32' ? [name] : []));
  return { folder, keepsArena: constants === undefined, resident };
}
