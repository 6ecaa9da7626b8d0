/**
 * A device in this thread: sessions of onnxruntime-node and resident tensors in this thread's memory or the GPU's.
 * `run` blocks the thread, so programs with something else to do use `workerDevice.ts`, which hosts this one.
 * Knows nothing of FUSION.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import * as ort from 'onnxruntime-node';
import { UserError } from '../common/errors.ts';
import { bf16ToF32, f16ToF32 } from '../common/numberFormats.ts';
import { DTYPES, type DType, type TypedArray } from '../graph/dtype.ts';
import { bindLetters, checkSizes, type Program } from '../graph/program.ts';
import { type Constants, modelWithConstants } from '../onnx/constants.ts';
import { AdamWHelper } from './adamWHelper.ts';
import type { AdamWArrays } from './adamWThread.ts';
import { runLinks } from './chain.ts';
import { DeviceTensors, type HeldTensor, type HeldWrite, isOnGpu } from './deviceTensors.ts';
import { asInput, GpuTensors } from './gpuTensors.ts';
import { accumulate, sumOfSquares } from './kernels.ts';
import { type SessionOptions, sessionOptions } from './sessionOptions.ts';
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

/** Names of element types in onnxruntime's JavaScript API. */
const ORT_TYPES = {
  f32: 'float32',
  f64: 'float64',
  f16: 'float16',
  i32: 'int32',
  i64: 'int64',
  i8: 'int8',
  u8: 'uint8',
  bool: 'bool',
} as const satisfies Record<DType, ort.Tensor.Type>;

const DTYPE_OF = new Map<string, DType>(
  Object.entries(ORT_TYPES).map(([dtype, name]) => [name, dtype as DType]),
);

/** Bytes read from a file at once while converting. */
const READ_CHUNK = 16 * 1024 * 1024;

export interface LocalDeviceOptions {
  readonly name?: DeviceName;
  /** Threads of the CPU kernels. */
  readonly threads: number;
  /** Prefix of ONNX Runtime's profile files; no profile unless given. */
  readonly profile?: string;
}

export class LocalDevice implements Device {
  readonly name: DeviceName;
  readonly threads: number;
  readonly #profile: string | undefined;
  readonly #tensors: DeviceTensors;
  readonly #adamW = new AdamWHelper();
  readonly #sessions = new Set<ort.InferenceSession>();

  constructor(options: LocalDeviceOptions) {
    this.name = options.name ?? 'cpu';
    this.threads = options.threads;
    this.#profile = options.profile;
    const gpu = new GpuTensors((model, given) => this.createSession(model, given));
    this.#tensors = new DeviceTensors(this.name === 'webgpu' ? gpu : undefined);
  }

  async load(program: Program, constants?: Constants): Promise<Executable> {
    const compiled = modelWithConstants(program, this.name, constants);
    const options = sessionOptions(program, compiled.folder, constants);
    const session = await this.createSession(compiled.model, options);
    this.#sessions.add(session);
    const bound = { name: program.name, inputs: compiled.inputs };
    return {
      program,
      run: (feeds, options) => this.runSession(session, bound, feeds, options),
      dispose: () => this.#release(session),
    };
  }

  runChain(chain: readonly ChainedRun[]): Promise<Readonly<Record<string, HostTensor>>> {
    const links = chain.map(({ executable, ...link }) => ({ ...link, run: executable.run }));
    return runLinks(links, (tensors) => this.free(tensors));
  }

  async #release(session: ort.InferenceSession): Promise<void> {
    if (!this.#sessions.delete(session)) return;
    if (this.#profile !== undefined) session.endProfiling();
    await session.release();
  }

  /** Compiles the bytes of an ONNX model. */
  createSession(
    model: Uint8Array,
    { folder, keepsArena = true, resident = [] }: SessionOptions = {},
  ): Promise<ort.InferenceSession> {
    const onGpu = Object.fromEntries(resident.map((name) => [name, 'gpu-buffer' as const]));
    const session = {
      // Else the threads of a stage go on spinning for a while after its run, on the cores that the next stage wants.
      force_spinning_stop: '1',
      // Softmax leaves 4e-39 where a mask hides, and products with such numbers are many times slower.
      set_denormal_as_zero: '1',
      ...(folder === undefined ? {} : { model_external_initializers_file_folder_path: folder }),
    };
    // A bias and GELU apart, both in vector code, take a third of the time of ONNX Runtime's kernel for the two.
    const optimization = { disable_specified_optimizers: 'BiasGeluFusion' };
    return ort.InferenceSession.create(model, {
      executionProviders: [this.name],
      intraOpNumThreads: this.threads,
      interOpNumThreads: 1,
      graphOptimizationLevel: 'all',
      // The pattern allocator keeps its one block beside the arena of the first run: twice the memory.
      enableMemPattern: false,
      enableCpuMemArena: keepsArena,
      logSeverityLevel: 3,
      ...(this.name === 'webgpu' ? { preferredOutputLocation: onGpu } : {}),
      extra: { session, optimization },
      ...(this.#profile === undefined ? {} : { enableProfiling: true, profileFilePrefix: this.#profile }),
    });
  }

  async runSession(
    session: ort.InferenceSession,
    program: Pick<Program, 'name' | 'inputs'>,
    feeds: Readonly<Record<string, Feed>>,
    options: RunOptions = {},
  ): Promise<RunResult> {
    const letters = new Map<string, number>();
    const values: Record<string, ort.Tensor> = {};
    for (const spec of program.inputs) {
      const feed = feeds[spec.name];
      if (feed === undefined) throw new Error(`${program.name}: no value for the input ${spec.name}`);
      if (feed.dtype !== spec.dtype) {
        throw new Error(`${program.name}: ${spec.name} is ${feed.dtype}, expected ${spec.dtype}`);
      }
      bindLetters(spec, feed.shape, letters, program.name);
      values[spec.name] = toOrt(isResident(feed) ? this.#tensors.get(feed) : feed);
    }
    for (const spec of program.inputs) {
      checkSizes(spec, values[spec.name]?.dims ?? [], letters, program.name);
    }
    const unknown = [...Object.keys(options.write ?? {}), ...(options.keep ?? [])].find(
      (name) => !session.outputNames.includes(name),
    );
    if (unknown !== undefined) throw new Error(`${program.name}: there is no output ${unknown}`);
    return this.#collect(await session.run(values), options);
  }

  async #collect(results: ort.InferenceSession.OnnxValueMapType, options: RunOptions): Promise<RunResult> {
    const outputs: Record<string, HostTensor> = {};
    const kept: Record<string, ResidentTensor> = {};
    const writes: HeldWrite[] = [];
    for (const [name, value] of Object.entries(results)) {
      const tensor = fromOrt(value as ort.Tensor);
      const target = options.write?.[name];
      if (target !== undefined) writes.push({ from: tensor, target });
      else if (options.keep?.includes(name)) kept[name] = this.#tensors.keep(tensor);
      else {
        outputs[name] = await this.#tensors.host(tensor);
        if (isOnGpu(tensor)) this.#tensors.release(tensor);
      }
    }
    try {
      await this.#tensors.write(writes);
    } finally {
      for (const { from } of writes) this.#tensors.release(from);
    }
    return { outputs, kept };
  }

  async upload(tensor: HostTensor): Promise<ResidentTensor> {
    return this.#tensors.place({ ...tensor, data: tensor.data.slice() });
  }

  async zeros(dtype: DType, shape: readonly number[]): Promise<ResidentTensor> {
    const size = shape.reduce((a, b) => a * b, 1);
    return this.#tensors.place({ dtype, shape, data: new DTYPES[dtype].array(size) });
  }

  async readFile(range: FileRange): Promise<ResidentTensor> {
    return this.#tensors.place({ dtype: 'f32', shape: range.shape, data: readFloats(range) });
  }

  resize(tensors: readonly ResidentTensor[], shape: readonly number[]): Promise<readonly ResidentTensor[]> {
    return this.#tensors.resize(tensors, shape);
  }

  async download(tensor: ResidentTensor): Promise<HostTensor> {
    const held = this.#tensors.get(tensor);
    return isOnGpu(held) ? this.#tensors.host(held) : { ...held, data: held.data.slice() };
  }

  async copy(copies: readonly TensorCopy[]): Promise<void> {
    const placed: HeldTensor[] = [];
    const held = async (from: Feed) => {
      if (isResident(from)) return this.#tensors.get(from);
      const tensor = await this.#tensors.placed(from);
      placed.push(tensor);
      return tensor;
    };
    try {
      const writes: HeldWrite[] = [];
      for (const { from, target } of copies) writes.push({ from: await held(from), target });
      await this.#tensors.write(writes);
    } finally {
      for (const tensor of placed) this.#tensors.release(tensor);
    }
  }

  async free(tensors: readonly ResidentTensor[]): Promise<void> {
    this.#tensors.free(tensors);
  }

  async norms(tensors: readonly ResidentTensor[]): Promise<readonly number[]> {
    const all: number[] = [];
    for (const tensor of tensors) all.push(Math.sqrt(sumOfSquares(await this.#tensors.floats(tensor))));
    return all;
  }

  async accumulate(into: readonly ResidentTensor[], from: readonly ResidentTensor[]): Promise<void> {
    for (const [i, tensor] of into.entries()) {
      const other = from[i];
      if (other === undefined) continue;
      const sum = await this.#tensors.floats(tensor);
      accumulate(sum, await this.#tensors.floats(other));
      await this.#tensors.replace(tensor, sum);
    }
  }

  async adamW(tensors: readonly AdamWTensors[], options: AdamWOptions): Promise<void> {
    const floats = (tensor: ResidentTensor) => this.#tensors.floats(tensor);
    const arrays: AdamWArrays[] = [];
    for (const { weight, gradient, firstMoment, secondMoment, ...rates } of tensors) {
      arrays.push({
        weight: await floats(weight),
        gradient: await floats(gradient),
        first: await floats(firstMoment),
        second: await floats(secondMoment),
        ...rates,
      });
    }
    const updated = await this.#adamW.update(arrays, options);
    for (const [i, { weight, gradient, first, second }] of updated.entries()) {
      const tensor = tensors[i];
      if (tensor === undefined) continue;
      await this.#tensors.replace(tensor.weight, weight);
      await this.#tensors.replace(tensor.gradient, gradient);
      await this.#tensors.replace(tensor.firstMoment, first);
      await this.#tensors.replace(tensor.secondMoment, second);
    }
  }

  async close(): Promise<void> {
    for (const session of [...this.#sessions]) await this.#release(session);
    await this.#tensors.close();
    await this.#adamW.close();
  }
}

function toOrt(tensor: HeldTensor): ort.Tensor {
  if (isOnGpu(tensor)) return asInput(tensor);
  return new ort.Tensor(ORT_TYPES[tensor.dtype], tensor.data as Float32Array, tensor.shape);
}

function fromOrt(value: ort.Tensor): HeldTensor {
  const dtype = DTYPE_OF.get(value.type);
  if (value.location === 'gpu-buffer' && dtype === 'f32') return { dtype, shape: value.dims, buffer: value };
  if (dtype === undefined) throw new Error(`internal: a program gave a ${value.type} tensor`);
  return { dtype, shape: value.dims, data: value.data as TypedArray };
}

/** Reads a range of a file as f32, in pieces, so that a converted tensor needs no second copy of itself. */
function readFloats({ file, begin, byteLength, dtype }: FileRange): Float32Array {
  const bytesEach = dtype === 'F32' ? 4 : 2;
  const floats = new Float32Array(byteLength / bytesEach);
  const fd = openSync(file, 'r');
  try {
    if (dtype === 'F32') {
      readFully(fd, new Uint8Array(floats.buffer), begin, file);
      return floats;
    }
    const convert = dtype === 'BF16' ? bf16ToF32 : f16ToF32;
    const piece = new Uint16Array(Math.min(READ_CHUNK, byteLength) / 2);
    for (let done = 0; done < floats.length; done += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, floats.length - done));
      readFully(fd, new Uint8Array(part.buffer, 0, part.byteLength), begin + done * 2, file);
      floats.set(convert(part), done);
    }
    return floats;
  } finally {
    closeSync(fd);
  }
}

function readFully(fd: number, target: Uint8Array, position: number, file: string): void {
  for (let done = 0; done < target.length; ) {
    const length = Math.min(target.length - done, 1 << 30);
    const count = readSync(fd, target, done, length, position + done);
    if (count === 0) throw new UserError(`${file}: the file ended ${target.length - done} bytes early`);
    done += count;
  }
}
