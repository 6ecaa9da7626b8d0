/**
 * A device in a worker thread: the same interface as `localDevice.ts`, with the caller's event loop free while a
 * program compiles or runs. Programs are lowered here and cross as ONNX bytes; outputs come back without a copy;
 * resident tensors stay in the worker. Knows nothing of FUSION.
 */
import { type Transferable, Worker } from 'node:worker_threads';
import { InternalError, messageOf, UserError } from '../common/errors.ts';
import { threadModule } from '../common/threadModule.ts';
import type { DType } from '../graph/dtype.ts';
import type { Program } from '../graph/program.ts';
import { type Constants, modelWithConstants } from '../onnx/constants.ts';
import type { LocalDeviceOptions } from './localDevice.ts';
import { sessionOptions } from './sessionOptions.ts';
import {
  type AdamWOptions,
  type AdamWTensors,
  type ChainedRun,
  type Device,
  type DeviceName,
  type Executable,
  type Feed,
  type FileRange,
  type HostTensor,
  isResident,
  type ResidentTensor,
  type RunOptions,
  type RunResult,
  type TensorCopy,
} from './types.ts';
import type { CallName, Calls, RemoteError, Reply, Request } from './worker.ts';

export interface WorkerRunOptions extends RunOptions {
  /**
   * Aborting it before this run has started rejects with the signal's reason, and the run never starts. A run
   * that has started cannot be interrupted: it ends as if there were no signal.
   */
  readonly signal?: AbortSignal;
  /** Feeds whose memory may move into the worker instead of being copied; their arrays are empty afterwards. */
  readonly transfer?: readonly string[];
}

/** A program compiled in the worker. */
export interface WorkerExecutable extends Executable {
  run(feeds: Readonly<Record<string, Feed>>, options?: WorkerRunOptions): Promise<RunResult>;
}

/** One call that waits for its turn or for its answer. */
interface Pending {
  readonly request: Request;
  readonly transfer: readonly Transferable[];
  readonly resolve: (value: Calls[CallName][1]) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Calls are performed one after the other, in the order they were made. An open device does not keep the process
 * alive unless a call is under way.
 */
export class WorkerDevice implements Device {
  readonly name: DeviceName;
  readonly threads: number;
  readonly #worker: Worker;
  readonly #exited: Promise<void>;
  readonly #waiting: Pending[] = [];
  /** The worker's numbers of the programs that were loaded. */
  readonly #sessions = new WeakMap<Executable, number>();
  #current: Pending | undefined;
  /** Why calls are refused; undefined while the device is open. */
  #ended: Error | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: LocalDeviceOptions) {
    this.name = options.name ?? 'cpu';
    this.threads = options.threads;
    this.#worker = new Worker(threadModule(import.meta.url, 'worker'), { workerData: options, execArgv: [] });
    this.#worker.on('message', (reply: Reply) => this.#settle(reply));
    this.#worker.on('error', (error) => this.#fail(this.#stopped(messageOf(error))));
    this.#exited = new Promise((resolve) => {
      this.#worker.on('exit', (code) => {
        this.#fail(this.#stopped(`exit code ${code}`));
        resolve();
      });
    });
    this.#worker.unref();
  }

  async load(program: Program, constants?: Constants): Promise<WorkerExecutable> {
    const { model, folder, inputs } = modelWithConstants(program, this.name, constants);
    const { name } = program;
    const owned = model.byteLength === model.buffer.byteLength ? [model.buffer as ArrayBuffer] : [];
    const options = sessionOptions(program, folder, constants);
    const session = await this.#call('load', { model, program: { name, inputs }, options }, owned);
    let disposed: Promise<undefined> | undefined;
    const executable: WorkerExecutable = {
      program,
      run: async (feeds, options = {}) => this.#run(session, pick(feeds, inputs), options),
      dispose: async () => {
        // A closed device has released its sessions.
        if (this.#ended !== undefined) return;
        disposed ??= this.#call('dispose', session);
        await disposed;
      },
    };
    this.#sessions.set(executable, session);
    return executable;
  }

  async runChain(chain: readonly ChainedRun[]): Promise<Readonly<Record<string, HostTensor>>> {
    const moved = new MovedTensors();
    const links = chain.map(({ executable, feeds, ...link }) => {
      const session = this.#sessions.get(executable);
      if (session === undefined) throw new Error('internal: a program of another device');
      const needed = Object.entries(pick(feeds, executable.program.inputs));
      const entries = needed.map(([name, feed]) => [name, moved.add(feed, false)] as const);
      return { ...link, session, feeds: Object.fromEntries(entries) };
    });
    const { outputs } = await this.#call('runChain', links, moved.memory);
    return outputs;
  }

  async #run(
    session: number,
    feeds: Readonly<Record<string, Feed>>,
    { signal, transfer = [], ...options }: WorkerRunOptions,
  ): Promise<RunResult> {
    signal?.throwIfAborted();
    const moved = new MovedTensors();
    const entries = Object.entries(feeds).map(
      ([name, feed]) => [name, moved.add(feed, transfer.includes(name))] as const,
    );
    const argument = { session, feeds: Object.fromEntries(entries), options };
    return this.#call('run', argument, moved.memory, signal);
  }

  async upload(tensor: HostTensor): Promise<ResidentTensor> {
    const copy = copyOf(tensor);
    return this.#call('upload', copy, [copy.data.buffer as ArrayBuffer]);
  }

  async readFile(range: FileRange): Promise<ResidentTensor> {
    return this.#call('readFile', range);
  }

  async zeros(dtype: DType, shape: readonly number[]): Promise<ResidentTensor> {
    return this.#call('zeros', { dtype, shape });
  }

  async resize(
    tensors: readonly ResidentTensor[],
    shape: readonly number[],
  ): Promise<readonly ResidentTensor[]> {
    return this.#call('resize', { tensors, shape });
  }

  async download(tensor: ResidentTensor): Promise<HostTensor> {
    return this.#call('download', tensor);
  }

  async copy(copies: readonly TensorCopy[]): Promise<void> {
    const moved = new MovedTensors();
    const argument = copies.map(({ from, target, transfer = false }) => ({
      from: moved.add(from, transfer),
      target,
    }));
    await this.#call('copy', argument, moved.memory);
  }

  async free(tensors: readonly ResidentTensor[]): Promise<void> {
    await this.#call('free', tensors);
  }

  async norms(tensors: readonly ResidentTensor[]): Promise<readonly number[]> {
    return this.#call('norms', tensors);
  }

  async accumulate(into: readonly ResidentTensor[], from: readonly ResidentTensor[]): Promise<void> {
    await this.#call('accumulate', { into, from });
  }

  async adamW(tensors: readonly AdamWTensors[], options: AdamWOptions): Promise<void> {
    await this.#call('adamW', { tensors, options });
  }

  /**
   * Ends the worker: every call that waits or is under way rejects at once, and so does every later one. Resolves
   * when the thread is gone, which is after the run under way, if there is one.
   */
  close(): Promise<void> {
    if (this.#closing !== undefined) return this.#closing;
    if (this.#ended === undefined) {
      this.#worker.ref();
      this.#worker.postMessage({ call: 'close', argument: undefined } satisfies Request);
    }
    this.#fail(new UserError(`${this.name}: the device was closed`));
    this.#closing = this.#exited;
    return this.#closing;
  }

  #call<K extends CallName>(
    call: K,
    argument: Calls[K][0],
    transfer: readonly Transferable[] = [],
    signal?: AbortSignal,
  ): Promise<Calls[K][1]> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    let withdraw = () => {};
    const answer = new Promise<Calls[K][1]>((resolve, reject) => {
      const pending: Pending = {
        request: { call, argument } as Request,
        transfer,
        // The worker answers a call with its own kind of value.
        resolve: resolve as Pending['resolve'],
        reject,
      };
      withdraw = () => this.#withdraw(pending, signal?.reason);
      signal?.addEventListener('abort', withdraw);
      this.#waiting.push(pending);
      this.#next();
    });
    return answer.finally(() => signal?.removeEventListener('abort', withdraw));
  }

  /** Takes back a call that has not been sent yet. */
  #withdraw(pending: Pending, reason: unknown): void {
    const at = this.#waiting.indexOf(pending);
    if (at < 0) return;
    this.#waiting.splice(at, 1);
    pending.reject(reason);
  }

  #next(): void {
    if (this.#current !== undefined || this.#ended !== undefined) return;
    this.#current = this.#waiting.shift();
    if (this.#current === undefined) {
      this.#worker.unref();
      return;
    }
    this.#worker.ref();
    const { request, transfer } = this.#current;
    try {
      this.#worker.postMessage(request, transfer);
    } catch (error) {
      this.#current.reject(error);
      this.#current = undefined;
      this.#next();
    }
  }

  #settle(reply: Reply): void {
    const done = this.#current;
    this.#current = undefined;
    if (done !== undefined) {
      if ('error' in reply) done.reject(rebuildError(reply.error));
      else done.resolve(reply.value);
    }
    this.#next();
  }

  #stopped(why: string): UserError {
    return new UserError(`${this.name}: the device's thread stopped unexpectedly: ${why}`);
  }

  #fail(error: Error): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    const all = this.#current === undefined ? this.#waiting : [this.#current, ...this.#waiting];
    for (const { reject } of all.splice(0)) reject(error);
    this.#waiting.length = 0;
    this.#current = undefined;
  }
}

/** The feeds that the program reads: others need not cross. */
function pick(
  feeds: Readonly<Record<string, Feed>>,
  inputs: Program['inputs'],
): Readonly<Record<string, Feed>> {
  const given = inputs.flatMap(({ name }) => {
    const feed = feeds[name];
    return feed === undefined ? [] : [[name, feed] as const];
  });
  return Object.fromEntries(given);
}

/** Tensors on their way to the worker. */
class MovedTensors {
  readonly #memory = new Set<ArrayBuffer>();
  readonly #moved = new Map<HostTensor, HostTensor>();

  /** What crosses: a host tensor itself where its memory may move, else a copy, one however often it is added. */
  add(feed: Feed, own: boolean): Feed {
    if (isResident(feed)) return feed;
    const known = this.#moved.get(feed);
    if (known !== undefined) return known;
    const moved = own && feed.data.buffer instanceof ArrayBuffer ? feed : copyOf(feed);
    this.#moved.set(feed, moved);
    this.#memory.add(moved.data.buffer as ArrayBuffer);
    return moved;
  }

  get memory(): readonly Transferable[] {
    return [...this.#memory];
  }
}

/** A copy of exactly the tensor's elements: a view would take the whole of its buffer along. */
function copyOf(tensor: HostTensor): HostTensor {
  return { ...tensor, data: tensor.data.slice() };
}

function rebuildError({ kind, message, stack }: RemoteError): Error {
  if (kind === 'UserError') return new UserError(message);
  const error =
    kind === 'InternalError' ? new InternalError(message.replace(/^internal: /, '')) : new Error(message);
  if (stack !== undefined) error.stack = stack;
  return error;
}
