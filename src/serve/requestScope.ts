/**
 * One signal for all that may end a request early: the client left, its time is up, the server stops. Not
 * `AbortSignal.any`, which would keep something of every request for as long as the server lives.
 */
import { ApiError } from './apiError.ts';

export interface RequestScope {
  /** Its reason is what the client is told. */
  readonly signal: AbortSignal;
  /** To be called when the request is over. */
  close(): void;
}

/** The client closed the connection; nobody will read an answer. The status is nginx's, for the metrics. */
export const clientLeft = (): ApiError => new ApiError(499, 'the client closed the connection');

export class RequestScopes {
  readonly #open = new Set<AbortController>();

  /** Requests that are not over. */
  get size(): number {
    return this.#open.size;
  }

  /** client: aborted when the client leaves. limit: milliseconds. */
  open(client: AbortSignal, limit: number): RequestScope {
    const controller = new AbortController();
    const leave = () => controller.abort(clientLeft());
    const timer = setTimeout(() => controller.abort(timeIsUp(limit)), limit);
    if (client.aborted) leave();
    client.addEventListener('abort', leave, { once: true });
    this.#open.add(controller);
    const close = () => {
      clearTimeout(timer);
      client.removeEventListener('abort', leave);
      this.#open.delete(controller);
    };
    return { signal: controller.signal, close };
  }

  /** Ends all that is under way. */
  abort(): void {
    for (const controller of this.#open) controller.abort(new ApiError(503, 'the server is stopping'));
  }
}

const timeIsUp = (limit: number) =>
  new ApiError(504, `expected the answer within ${limit / 1000} s, which have passed; ask for fewer tokens`, {
    code: 'timeout',
  });
