/**
 * The two kinds of error in this project.
 *
 * `UserError`: something outside the program is wrong (a file, an option, a question). It is shown as one
 * line, without a stack, and the command exits with code 2. `InternalError`: a bug here; its message begins
 * with `internal:` and the stack is kept.
 */

/** A mistake the user can mend: shown as one line `where: expected, got; what to try`. */
export class UserError extends Error {
  override readonly name: string = 'UserError';
}

/** A broken assumption of our own code. */
export class InternalError extends Error {
  override readonly name = 'InternalError';

  constructor(message: string, options?: ErrorOptions) {
    super(`internal: ${message}`, options);
  }
}

/** The message of anything thrown, on one line. */
export function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\s*\n\s*/g, ' ').trim();
}
