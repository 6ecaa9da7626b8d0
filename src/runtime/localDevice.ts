/**
 * A device in this thread: sessions of onnxruntime-node and resident tensors in this thread's memory. `run`
 * blocks the thread, so programs with something else to do use `workerDevice.ts`, which hosts this one.
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
import { FreedBytes } from './garbage.ts';
import { accumulate, copyBlock, norm } from './kernels.ts';
import {
  type AdamWOptions,
  type AdamWTensors,
  type Block,
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
  type WriteTarget,
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

/** All of a tensor, to the start of another. */
const WHOLE: readonly Block[] = [{ at: [] }];

/** Bytes read from a file at once while converting. */
const READ_CHUNK = 16 * 1024 * 1024;

export interface LocalDeviceOptions {
  readonly name?: DeviceName;
  /** Threads of the CPU kernels. */
  readonly threads: number;
  /** Prefix of ONNX Runtime's profile files; no profile unless given. */
  readonly profile?: string;
}

/** How a session is made. */
export interface SessionOptions {
  /** Where the files lie that the model refers to. */
  readonly folder?: string | undefined;
  /** Whether what the largest run took is kept for the next (default): too much where a model is many sessions. */
  readonly keepsArena?: boolean | undefined;
}

export class LocalDevice implements Device {
  readonly name: DeviceName;
  readonly threads: number;
  readonly #profile: string | undefined;
  readonly #tensors = new Map<number, HostTensor>();
  readonly #freed = new FreedBytes();
  readonly #adamW = new AdamWHelper();
  readonly #sessions = new Set<ort.InferenceSession>();
  #next = 0;

  constructor(options: LocalDeviceOptions) {
    this.name = options.name ?? 'cpu';
    this.threads = options.threads;
    this.#profile = options.profile;
  }

  async load(program: Program, constants?: Constants): Promise<Executable> {
    const compiled = modelWithConstants(program, this.name, constants);
    const session = await this.createSession(compiled.model, {
      folder: compiled.folder,
      keepsArena: constants === undefined,
    });
    this.#sessions.add(session);
    const bound = { name: program.name, inputs: compiled.inputs };
    return {
      program,
      run: (feeds, options) => this.runSession(session, bound, feeds, options),
      dispose: () => this.#release(session),
    };
  }

  async #release(session: ort.InferenceSession): Promise<void> {
    if (!this.#sessions.delete(session)) return;
    if (this.#profile !== undefined) session.endProfiling();
    await session.release();
  }

  /** Compiles the bytes of an ONNX model. */
  createSession(
    model: Uint8Array,
    { folder, keepsArena = true }: SessionOptions = {},
  ): Promise<ort.InferenceSession> {
    const outside = { model_external_initializers_file_folder_path: folder };
    return ort.InferenceSession.create(model, {
      executionProviders: [this.name],
      intraOpNumThreads: this.threads,
      interOpNumThreads: 1,
      graphOptimizationLevel: 'all',
      // The pattern allocator keeps its one block beside the arena of the first run: twice the memory.
      enableMemPattern: false,
      enableCpuMemArena: keepsArena,
      logSeverityLevel: 3,
      ...(folder === undefined ? {} : { extra: { session: outside } }),
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
      values[spec.name] = toOrt(isResident(feed) ? this.#get(feed) : feed);
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

  #collect(results: ort.InferenceSession.OnnxValueMapType, options: RunOptions): RunResult {
    const outputs: Record<string, HostTensor> = {};
    const kept: Record<string, ResidentTensor> = {};
    for (const [name, value] of Object.entries(results)) {
      const tensor = fromOrt(value as ort.Tensor);
      const target = options.write?.[name];
      if (target !== undefined) {
        this.#write(tensor, target);
        this.#freed.add(tensor.data.byteLength);
      } else if (options.keep?.includes(name)) kept[name] = this.#keep(tensor);
      else outputs[name] = tensor;
    }
    return { outputs, kept };
  }

  async upload(tensor: HostTensor): Promise<ResidentTensor> {
    return this.#keep({ ...tensor, data: tensor.data.slice() });
  }

  async zeros(dtype: DType, shape: readonly number[]): Promise<ResidentTensor> {
    const size = shape.reduce((a, b) => a * b, 1);
    return this.#keep({ dtype, shape, data: new DTYPES[dtype].array(size) });
  }

  async readFile(range: FileRange): Promise<ResidentTensor> {
    return this.#keep({ dtype: 'f32', shape: range.shape, data: readFloats(range) });
  }

  async download(tensor: ResidentTensor): Promise<HostTensor> {
    const held = this.#get(tensor);
    return { ...held, data: held.data.slice() };
  }

  async copy(from: ResidentTensor, target: WriteTarget): Promise<void> {
    this.#write(this.#get(from), target);
  }

  async free(tensors: readonly ResidentTensor[]): Promise<void> {
    let bytes = 0;
    for (const { resident } of tensors) {
      bytes += this.#tensors.get(resident)?.data.byteLength ?? 0;
      this.#tensors.delete(resident);
    }
    this.#freed.add(bytes);
  }

  async norms(tensors: readonly ResidentTensor[]): Promise<readonly number[]> {
    return tensors.map((tensor) => norm(this.#floats(tensor)));
  }

  async accumulate(into: readonly ResidentTensor[], from: readonly ResidentTensor[]): Promise<void> {
    for (const [i, tensor] of into.entries()) {
      const other = from[i];
      if (other !== undefined) accumulate(this.#floats(tensor), this.#floats(other));
    }
  }

  async adamW(tensors: readonly AdamWTensors[], options: AdamWOptions): Promise<void> {
    const arrays = tensors.map(({ weight, gradient, firstMoment, secondMoment, ...rates }) => ({
      weight: this.#floats(weight),
      gradient: this.#floats(gradient),
      first: this.#floats(firstMoment),
      second: this.#floats(secondMoment),
      ...rates,
    }));
    const updated = await this.#adamW.update(arrays, options);
    for (const [i, { weight, gradient, first, second }] of updated.entries()) {
      const tensor = tensors[i];
      if (tensor === undefined || weight === arrays[i]?.weight) continue;
      this.#replace(tensor.weight, weight);
      this.#replace(tensor.gradient, gradient);
      this.#replace(tensor.firstMoment, first);
      this.#replace(tensor.secondMoment, second);
    }
  }

  #replace({ resident, dtype, shape }: ResidentTensor, data: Float32Array): void {
    this.#tensors.set(resident, { dtype, shape, data });
  }

  async close(): Promise<void> {
    for (const session of [...this.#sessions]) await this.#release(session);
    this.#tensors.clear();
    await this.#adamW.close();
  }

  #keep(tensor: HostTensor): ResidentTensor {
    this.#next += 1;
    this.#tensors.set(this.#next, tensor);
    return { resident: this.#next, dtype: tensor.dtype, shape: tensor.shape };
  }

  #get({ resident }: ResidentTensor): HostTensor {
    const tensor = this.#tensors.get(resident);
    if (tensor === undefined) throw new Error(`internal: resident tensor ${resident} was freed`);
    return tensor;
  }

  #floats(tensor: ResidentTensor): Float32Array {
    const { data } = this.#get(tensor);
    if (!(data instanceof Float32Array)) throw new Error('internal: expected a resident f32 tensor');
    return data;
  }

  #write(from: HostTensor, { to, blocks = WHOLE }: WriteTarget): void {
    const target = this.#get(to);
    if (from.dtype !== target.dtype) throw new Error(`internal: ${from.dtype} written into ${target.dtype}`);
    for (const block of blocks) copyBlock(target, from, block);
  }
}

function toOrt({ dtype, shape, data }: HostTensor): ort.Tensor {
  return new ort.Tensor(ORT_TYPES[dtype], data as Float32Array, shape);
}

function fromOrt(value: ort.Tensor): HostTensor {
  const dtype = DTYPE_OF.get(value.type);
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
