/**
 * Which devices there are, and opening one by name. `cpu` is everywhere; `webgpu` is tried in a process of its own
 * before it is offered. Knows nothing of FUSION.
 */
import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { messageOf, UserError } from '../common/errors.ts';
import type { Device, DeviceName } from './types.ts';
import type { ProbeOutcome } from './webgpuProbe.ts';
import { WorkerDevice } from './workerDevice.ts';

export const DEVICE_NAMES: readonly DeviceName[] = ['cpu', 'webgpu'];

/** Loading a driver and compiling the first shader take seconds on a slow machine; a hanging driver takes for ever. */
const PROBE_LIMIT_MS = 30_000;
const MAX_THREADS = 1024;

/** One kind of device, and why it cannot be used where it cannot. */
export interface DeviceDescription {
  readonly name: DeviceName;
  readonly available: boolean;
  readonly reason?: string;
}

export interface DeviceOptions {
  /** Threads of the CPU kernels, 1 to 1024; as many as the machine runs at once unless given. */
  readonly threads?: number;
}

/**
 * Opens a device in a worker thread. `auto` is `cpu`: on `webgpu` resident tensors still cross to the GPU at every
 * run, so it is used only where it is asked for. Throws `UserError` for an unknown name, a number of threads
 * that is none, and a device that is not there (with the reason, and which ones are).
 */
export async function openDevice(name: DeviceName | 'auto', options: DeviceOptions = {}): Promise<Device> {
  const known: readonly string[] = [...DEVICE_NAMES, 'auto'];
  if (!known.includes(name)) throw new UserError(`device: expected ${known.join(', ')}, got ${name}`);
  const threads = options.threads ?? availableParallelism();
  if (!Number.isInteger(threads) || threads < 1 || threads > MAX_THREADS) {
    throw new UserError(`threads: expected an integer from 1 to ${MAX_THREADS}, got ${threads}`);
  }
  const chosen = name === 'auto' ? 'cpu' : name;
  if (chosen === 'webgpu') {
    const reason = await webgpuFault();
    if (reason !== undefined) throw new UserError(`webgpu: ${reason}; available: cpu`);
  }
  return new WorkerDevice({ name: chosen, threads });
}

/** Every known device, whether it can be used here, and why not. Takes as long as trying WebGPU does. */
export async function describeDevices(): Promise<readonly DeviceDescription[]> {
  const reason = await webgpuFault();
  const webgpu = { name: 'webgpu', available: reason === undefined } as const;
  return [{ name: 'cpu', available: true }, reason === undefined ? webgpu : { ...webgpu, reason }];
}

let tried: Promise<string | undefined> | undefined;

/** Why WebGPU cannot be used, on one line; undefined where it can. Found out once. */
function webgpuFault(): Promise<string | undefined> {
  tried ??= tryWebgpu();
  return tried;
}

function tryWebgpu(): Promise<string | undefined> {
  const extension = path.extname(fileURLToPath(import.meta.url));
  const file = fileURLToPath(new URL(`./webgpuProbe${extension}`, import.meta.url));
  return new Promise((resolve) => {
    const child = fork(file, {
      execArgv: extension === '.ts' ? ['--import', 'tsx'] : [],
      cwd: path.dirname(file),
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    let notes = '';
    const limit = setTimeout(() => {
      resolve(`no answer from the driver within ${PROBE_LIMIT_MS / 1000} s`);
      child.kill('SIGKILL');
    }, PROBE_LIMIT_MS);
    child.stderr?.on('data', (text) => {
      notes += text;
    });
    let outcome: ProbeOutcome | undefined;
    child.on('message', (message: ProbeOutcome) => {
      outcome = message;
    });
    child.on('error', (error) => resolve(`could not be tried: ${messageOf(error)}`));
    child.on('close', (code, signal) => {
      clearTimeout(limit);
      const ended = { reason: `trying it ended its process (${signal ?? `exit code ${code}`})` };
      resolve(explain((outcome ?? ended).reason, notes));
    });
  });
}

/** ONNX Runtime's message without its source line, with what the driver loader wrote. */
function explain(reason: string | undefined, notes: string): string | undefined {
  if (reason === undefined) return undefined;
  const adapter = /Failed to get a WebGPU adapter: (.*)$/.exec(reason)?.[1];
  const said = adapter === undefined ? reason : `no adapter: ${adapter}`;
  const warning = /^Warning: (.*)$/m.exec(notes)?.[1];
  return warning === undefined ? said : `${said} (${warning})`;
}
