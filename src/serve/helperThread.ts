/**
 * A thread that does one kind of work for the server, both of its sides: requests in, results out, one at a time and
 * in order, so that the server's own thread stays free for everybody else. Knows nothing of the work.
 */
import { once } from 'node:events';
import { parentPort, type Transferable, Worker } from 'node:worker_threads';
import { InternalError, messageOf, UserError } from '../common/errors.ts';

/** Ends the thread after the requests before it. */
const CLOSE = 'close';

interface Numbered {
  readonly id: number;
  readonly request: unknown;
}

/** `refused` is a `UserError`'s message, `failed` anything else's. */
type Reply = { readonly id: number } & (
  | { readonly result: unknown }
  | { readonly refused: string }
  | { readonly failed: string }
);

interface Waiting {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** The server's side. The thread starts with the first request, and starts again should it end. */
export class HelperThread<Request, Result> {
  readonly #module: URL;
  #thread: Worker | undefined;
  #lastId = 0;
  readonly #waiting = new Map<number, Waiting>();

  /** module: one that calls `serveRequests`. */
  constructor(module: URL) {
    this.#module = module;
  }

  /**
   * The result of a request. transfer: memory that moves instead of being copied.
   *
   * @throws UserError where the work throws one, InternalError for all else.
   */
  ask(request: Request, transfer: readonly Transferable[] = []): Promise<Result> {
    const id = ++this.#lastId;
    const thread = this.#running();
    return new Promise((resolve, reject) => {
      // The thread answers a request with its own kind of result.
      this.#waiting.set(id, { resolve: resolve as Waiting['resolve'], reject });
      thread.postMessage({ id, request } satisfies Numbered, transfer);
    });
  }

  /** Ends the thread after the requests under way: native code must not be torn down while it works. */
  async close(): Promise<void> {
    const thread = this.#thread;
    if (thread === undefined) return;
    thread.ref();
    thread.postMessage(CLOSE);
    await once(thread, 'exit');
  }

  #running(): Worker {
    if (this.#thread !== undefined) return this.#thread;
    const thread = new Worker(this.#module, { execArgv: [] });
    thread.on('message', (reply: Reply) => this.#settle(reply));
    thread.on('error', () => {});
    thread.on('exit', () => {
      this.#thread = undefined;
      for (const { reject } of this.#waiting.values()) reject(new InternalError('a helper thread ended'));
      this.#waiting.clear();
    });
    thread.unref();
    this.#thread = thread;
    return thread;
  }

  #settle(reply: Reply): void {
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if ('result' in reply) waiting?.resolve(reply.result);
    else if ('refused' in reply) waiting?.reject(new UserError(reply.refused));
    else waiting?.reject(new InternalError(reply.failed));
  }
}

/**
 * The thread's side: to be called by the module that the thread runs; elsewhere it does nothing. moved: memory of a
 * result that moves instead of being copied.
 */
export function serveRequests<Request, Result>(
  work: (request: Request) => Promise<Result>,
  moved: (result: Result) => readonly Transferable[],
): void {
  if (parentPort === null) return;
  const port = parentPort;
  let last = Promise.resolve();
  const serve = async ({ id, request }: Numbered) => {
    try {
      const result = await work(request as Request);
      port.postMessage({ id, result } satisfies Reply, moved(result));
    } catch (error) {
      const what = error instanceof UserError ? 'refused' : 'failed';
      port.postMessage({ id, [what]: messageOf(error) });
    }
  };
  port.on('message', (message: Numbered | typeof CLOSE) => {
    last = last.then(() => (message === CLOSE ? port.close() : serve(message)));
  });
}
