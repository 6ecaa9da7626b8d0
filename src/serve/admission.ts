/**
 * Who is answered now, who waits and who is sent away: first come, first served, with a bound on those who wait.
 * Knows nothing of models.
 */
import { ApiError } from './apiError.ts';

export interface AdmissionLimits {
  /** Answers under way at once. */
  readonly slots: number;
  /** Requests that may wait for one. */
  readonly queue: number;
}

/** A request's place, from its arrival to its end. */
export interface Place {
  /** Resolves when it is this request's turn. Throws the signal's reason where it is aborted before. */
  turn(signal: AbortSignal): Promise<void>;
  /** Requests that are before this one; 0 when it has its turn. */
  ahead(): number;
  /** Gives the place back; may be called again. */
  leave(): void;
}

/** A place as the line sees it. */
interface Seat {
  /** When its turn began, on the process's clock; undefined before. */
  began: number | undefined;
  left: boolean;
  /** Tells who waits that the turn has begun. */
  call: () => void;
}

/** Seconds that an answer is taken to last while none has ended yet. */
const FIRST_GUESS = 5;
const MAX_RETRY_SECONDS = 60;

export class Admission {
  readonly #limits: AdmissionLimits;
  #present = 0;
  #running = 0;
  /** Those who wait for their turn, in order. */
  readonly #line: Seat[] = [];
  /** Moving average of how long a turn lasts, in seconds. */
  #turnSeconds = FIRST_GUESS;

  constructor(limits: AdmissionLimits) {
    this.#limits = limits;
  }

  /** Requests that have their turn. */
  get running(): number {
    return this.#running;
  }

  /** Requests that are here and do not have their turn yet. */
  get waiting(): number {
    return this.#present - this.#running;
  }

  /** @throws ApiError 429 with `Retry-After` where as many wait as may. */
  enter(): Place {
    const { slots, queue } = this.#limits;
    if (this.#present >= slots + queue) throw this.#full();
    this.#present += 1;
    const seat: Seat = { began: undefined, left: false, call: () => {} };
    return {
      turn: (signal) => this.#turn(seat, signal),
      ahead: () => Math.max(0, this.#line.indexOf(seat) + 1),
      leave: () => this.#leave(seat),
    };
  }

  #turn(seat: Seat, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const quit = () => {
        this.#stepOut(seat);
        reject(signal.reason);
      };
      signal.addEventListener('abort', quit, { once: true });
      seat.call = () => {
        signal.removeEventListener('abort', quit);
        resolve();
      };
      this.#line.push(seat);
      this.#callNext();
    });
  }

  #leave(seat: Seat): void {
    if (seat.left) return;
    seat.left = true;
    this.#present -= 1;
    this.#stepOut(seat);
    if (seat.began === undefined) return;
    this.#running -= 1;
    const seconds = (performance.now() - seat.began) / 1e3;
    this.#turnSeconds += 0.2 * (seconds - this.#turnSeconds);
    this.#callNext();
  }

  #stepOut(seat: Seat): void {
    const at = this.#line.indexOf(seat);
    if (at >= 0) this.#line.splice(at, 1);
  }

  /** The line alone decides who is next, so that nobody overtakes. */
  #callNext(): void {
    while (this.#running < this.#limits.slots) {
      const seat = this.#line.shift();
      if (seat === undefined) return;
      seat.began = performance.now();
      this.#running += 1;
      seat.call();
    }
  }

  #full(): ApiError {
    const { slots, queue } = this.#limits;
    const wait = (this.#turnSeconds * (queue + 1)) / slots;
    const seconds = Math.min(Math.max(1, Math.ceil(wait)), MAX_RETRY_SECONDS);
    return new ApiError(429, `the server is busy: ${this.waiting} requests wait already; try again later`, {
      code: 'queue_full',
      headers: { 'Retry-After': String(seconds) },
    });
  }
}
