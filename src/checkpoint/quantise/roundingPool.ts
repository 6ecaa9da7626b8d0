/**
 * Worker threads that round weights. Each holds one piece of a matrix at a time, so memory is bounded by their
 * number whatever the matrices' sizes. Knows nothing of models.
 */
import { Worker } from 'node:worker_threads';
import { messageOf, UserError } from '../../common/errors.ts';
import { threadModule } from '../../common/threadModule.ts';
import type { QuantisedRows } from './quantise.ts';
import type { RoundingReply, RoundingTask } from './quantiseThread.ts';

interface Waiting {
  readonly task: RoundingTask;
  readonly resolve: (rows: QuantisedRows) => void;
  readonly reject: (error: Error) => void;
}

export class RoundingPool {
  /** The most threads; they are started when there is work for them. */
  readonly threads: number;
  readonly #workers: Worker[] = [];
  readonly #idle: Worker[] = [];
  readonly #waiting: Waiting[] = [];
  readonly #busy = new Map<Worker, Waiting>();
  #failure: Error | undefined;

  /** `close` ends the threads. */
  constructor(threads: number) {
    this.threads = threads;
  }

  /** Rounds rows in the next free thread. @throws as `roundTask`. */
  round(task: RoundingTask): Promise<QuantisedRows> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ task, resolve, reject });
      this.#next();
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }

  #next(): void {
    const worker = this.#idle.pop() ?? (this.#workers.length < this.threads ? this.#start() : undefined);
    if (worker === undefined) return;
    const waiting = this.#waiting.shift();
    if (waiting === undefined) {
      this.#idle.push(worker);
      return;
    }
    this.#busy.set(worker, waiting);
    worker.postMessage(waiting.task);
  }

  #start(): Worker {
    const worker = new Worker(threadModule(import.meta.url, 'quantiseThread'), { execArgv: [] });
    worker.on('message', (reply: RoundingReply) => this.#settle(worker, reply));
    worker.on('error', (error) => this.#fail(new UserError(`a rounding thread ended: ${messageOf(error)}`)));
    this.#workers.push(worker);
    return worker;
  }

  #settle(worker: Worker, reply: RoundingReply): void {
    const done = this.#busy.get(worker);
    this.#busy.delete(worker);
    this.#idle.push(worker);
    if ('codes' in reply) done?.resolve(reply);
    else done?.reject(reply.mendable ? new UserError(reply.error) : new Error(reply.error));
    if (this.#waiting.length > 0) this.#next();
  }

  #fail(error: Error): void {
    this.#failure = error;
    for (const { reject } of [...this.#busy.values(), ...this.#waiting.splice(0)]) reject(error);
  }
}
