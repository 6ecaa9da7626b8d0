/**
 * The worker thread's side of `workerDevice.ts`: hosts a LocalDevice, performs one call at a time and answers it.
 * Knows nothing of FUSION, of queues or of who calls; resident tensors and sessions live here, named by number.
 */
import { type MessagePort, parentPort, type Transferable, workerData } from 'node:worker_threads';
import type { Program } from '../graph/program.ts';
import { type ChainLink, runLinks } from './chain.ts';
import { LocalDevice, type LocalDeviceOptions } from './localDevice.ts';
import type { SessionOptions } from './sessionOptions.ts';
import type {
  AdamWOptions,
  AdamWTensors,
  Feed,
  FileRange,
  HostTensor,
  ResidentTensor,
  RunOptions,
  RunResult,
  TensorCopy,
} from './types.ts';

/** The inputs of a compiled program, which a run's feeds are checked against. */
export type ProgramInputs = Pick<Program, 'name' | 'inputs'>;

type Zeros = Pick<HostTensor, 'dtype' | 'shape'>;

/** What can be asked of the worker: for each call its argument and its answer. */
export interface Calls {
  readonly load: [
    argument: {
      readonly model: Uint8Array;
      readonly program: ProgramInputs;
      readonly options: SessionOptions;
    },
    answer: number,
  ];
  readonly run: [
    argument: {
      readonly session: number;
      readonly feeds: Readonly<Record<string, Feed>>;
      readonly options: RunOptions;
    },
    answer: RunResult,
  ];
  readonly runChain: [
    argument: readonly (ChainLink & { readonly session: number })[],
    answer: { readonly outputs: Readonly<Record<string, HostTensor>> },
  ];
  readonly dispose: [session: number, answer: undefined];
  readonly upload: [HostTensor, ResidentTensor];
  readonly readFile: [FileRange, ResidentTensor];
  readonly zeros: [Zeros, ResidentTensor];
  readonly resize: [
    argument: { readonly tensors: readonly ResidentTensor[]; readonly shape: readonly number[] },
    answer: readonly ResidentTensor[],
  ];
  readonly download: [ResidentTensor, HostTensor];
  readonly copy: [readonly TensorCopy[], undefined];
  readonly free: [readonly ResidentTensor[], undefined];
  readonly norms: [readonly ResidentTensor[], readonly number[]];
  readonly accumulate: [
    argument: { readonly into: readonly ResidentTensor[]; readonly from: readonly ResidentTensor[] },
    answer: undefined,
  ];
  readonly adamW: [
    argument: { readonly tensors: readonly AdamWTensors[]; readonly options: AdamWOptions },
    answer: undefined,
  ];
  readonly close: [argument: undefined, answer: undefined];
}

export type CallName = keyof Calls;

export type Request = {
  readonly [K in CallName]: { readonly call: K; readonly argument: Calls[K][0] };
}[CallName];

/** An error as it crosses the border: its class by name, since `instanceof` does not cross. */
export interface RemoteError {
  readonly kind: string;
  readonly message: string;
  readonly stack: string | undefined;
}

export type Reply = { readonly value: Calls[CallName][1] } | { readonly error: RemoteError };

type Handlers = { readonly [K in CallName]: (argument: Calls[K][0]) => Promise<Calls[K][1]> };

function handlers(device: LocalDevice, port: MessagePort, profiled: boolean): Handlers {
  type Session = Awaited<ReturnType<LocalDevice['createSession']>>;
  const sessions = new Map<number, { readonly session: Session; readonly program: ProgramInputs }>();
  let last = 0;
  const dispose = async (id: number) => {
    const held = sessions.get(id);
    sessions.delete(id);
    if (profiled) held?.session.endProfiling();
    await held?.session.release();
    return undefined;
  };
  const runOf = (id: number) => {
    const held = sessions.get(id);
    if (held === undefined) throw new Error(`internal: session ${id} was disposed of`);
    return (feeds: Readonly<Record<string, Feed>>, options: RunOptions) =>
      device.runSession(held.session, held.program, feeds, options);
  };
  return {
    load: async ({ model, program, options }) => {
      const session = await device.createSession(model, options);
      last += 1;
      sessions.set(last, { session, program });
      return last;
    },
    run: async ({ session, feeds, options }) => runOf(session)(feeds, options),
    runChain: async (links) => {
      const runnable = links.map(({ session, ...link }) => ({ ...link, run: runOf(session) }));
      return { outputs: await runLinks(runnable, (tensors) => device.free(tensors)) };
    },
    dispose,
    upload: (tensor) => device.upload(tensor),
    readFile: (range) => device.readFile(range),
    zeros: ({ dtype, shape }) => device.zeros(dtype, shape),
    resize: ({ tensors, shape }) => device.resize(tensors, shape),
    download: (tensor) => device.download(tensor),
    copy: async (copies) => void (await device.copy(copies)),
    free: async (tensors) => void (await device.free(tensors)),
    norms: (tensors) => device.norms(tensors),
    accumulate: async ({ into, from }) => void (await device.accumulate(into, from)),
    adamW: async ({ tensors, options }) => void (await device.adamW(tensors, options)),
    close: async () => {
      for (const id of sessions.keys()) await dispose(id);
      await device.close();
      port.close();
      return undefined;
    },
  };
}

/** The memory of tensors on their way out, which moves instead of being copied. */
function transferable(value: Calls[CallName][1]): Transferable[] {
  if (typeof value !== 'object' || value === null) return [];
  const tensors =
    'outputs' in value ? Object.values(value.outputs) : 'data' in value ? [value as HostTensor] : [];
  return [...new Set(tensors.map(({ data }) => data.buffer as ArrayBuffer))];
}

function describeError(error: unknown): RemoteError {
  if (!(error instanceof Error)) return { kind: 'Error', message: String(error), stack: undefined };
  return { kind: error.name, message: error.message, stack: error.stack };
}

async function answer(table: Handlers, port: MessagePort, { call, argument }: Request): Promise<void> {
  try {
    const handle = table[call] as (argument: unknown) => Promise<Calls[CallName][1]>;
    const value = await handle(argument);
    port.postMessage({ value } satisfies Reply, transferable(value));
  } catch (error) {
    port.postMessage({ error: describeError(error) } satisfies Reply);
  }
}

if (parentPort !== null) {
  const port = parentPort;
  const options = workerData as LocalDeviceOptions;
  const table = handlers(new LocalDevice(options), port, options.profile !== undefined);
  port.on('message', (request: Request) => void answer(table, port, request));
}
