/**
 * Tensors in the memory of a GPU. onnxruntime-node leaves an output of a run there where a session is told to, and
 * reads it as an input of any other session; it can neither fill such a buffer, nor read it back, nor write into it.
 * So small programs do: one that copies its input (into the GPU's memory, or out of it), and one that gives a tensor
 * with some of its rows replaced. Knows nothing of what the tensors are. Source: onnxruntime-node's `tensor_helper.cc`.
 */
import * as ort from 'onnxruntime-node';
import { gather, input, type Program, program, scatterRows, type Tensor } from '../graph/index.ts';
import { toOnnx } from '../onnx/model.ts';
import { blockRows } from './blockRows.ts';
import type { SessionOptions } from './sessionOptions.ts';
import type { Block, HostTensor } from './types.ts';

/** f32, with one element at least. */
export interface GpuTensor {
  readonly dtype: 'f32';
  readonly shape: readonly number[];
  /** Owns the memory; its own dimensions may be others. */
  readonly buffer: ort.Tensor;
}

/** Rows of a tensor that replace rows of another. */
export interface GpuWrite {
  readonly to: GpuTensor;
  readonly from: GpuTensor;
}

type CreateSession = (model: Uint8Array, options: SessionOptions) => Promise<ort.InferenceSession>;

export class GpuTensors {
  readonly #create: CreateSession;
  readonly #sessions = new Map<string, Promise<ort.InferenceSession>>();

  /** create: makes sessions on the GPU. */
  constructor(create: CreateSession) {
    this.#create = create;
  }

  /** A copy of `tensor` on the GPU. */
  async upload({ shape, data }: HostTensor): Promise<GpuTensor> {
    const session = await this.#session('upload', identity, true);
    const x = new ort.Tensor('float32', data as Float32Array, [data.length]);
    const { y } = await session.run({ x });
    return { dtype: 'f32', shape, buffer: y as ort.Tensor };
  }

  /** A copy of `tensor` in this thread's memory. */
  async download(tensor: GpuTensor): Promise<HostTensor> {
    const session = await this.#session('download', identity, false);
    const size = tensor.shape.reduce((a, b) => a * b, 1);
    const { y } = await session.run({ x: asInput(tensor, [size]) });
    return { dtype: 'f32', shape: tensor.shape, data: (y as ort.Tensor).data as Float32Array };
  }

  /**
   * The tensors `to` with blocks of `from` in them, in the order of `writes`, whose shapes are all alike; none where
   * the blocks are empty. The old ones stay as they are. Throws where a block leaves either shape.
   */
  async withBlocks(writes: readonly GpuWrite[], blocks: readonly Block[]): Promise<readonly GpuTensor[]> {
    const [first] = writes;
    if (first === undefined) return [];
    const { width, ...rows } = blockRows(first.to.shape, first.from.shape, blocks);
    if (rows.to.length === 0) return [];
    const feeds: Record<string, ort.Tensor> = {
      to_rows: new ort.Tensor('int32', rows.to),
      from_rows: new ort.Tensor('int32', rows.from),
    };
    for (const [i, { to, from }] of writes.entries()) {
      feeds[`to.${i}`] = asMatrix(to, width);
      feeds[`from.${i}`] = asMatrix(from, width);
    }
    const { length } = writes;
    const session = await this.#session(`write ${length}`, () => replacement(length), true);
    const results = await session.run(feeds);
    return writes.map(({ to: { dtype, shape } }, i) => {
      return { dtype, shape, buffer: results[outputName(i)] as ort.Tensor };
    });
  }

  /** Ends the sessions. All tensors are to be freed before. */
  async close(): Promise<void> {
    const sessions = await Promise.allSettled(this.#sessions.values());
    this.#sessions.clear();
    for (const session of sessions) if (session.status === 'fulfilled') await session.value.release();
  }

  #session(name: string, trace: () => Program, staysThere: boolean): Promise<ort.InferenceSession> {
    const known = this.#sessions.get(name);
    if (known !== undefined) return known;
    const traced = trace();
    const resident = staysThere ? [...traced.outputs.keys()] : [];
    const made = this.#create(toOnnx(traced, 'webgpu'), { resident });
    this.#sessions.set(name, made);
    return made;
  }
}

/** The tensor as an input of `shape`, of as many elements; its own shape unless given. */
export function asInput({ buffer, shape: own }: GpuTensor, shape: readonly number[] = own): ort.Tensor {
  return ort.Tensor.fromGpuBuffer(buffer.gpuBuffer, { dataType: 'float32', dims: shape });
}

function asMatrix(tensor: GpuTensor, width: number): ort.Tensor {
  return asInput(tensor, [tensor.shape.reduce((a, b) => a * b, 1) / width, width]);
}

/** `x` [N] → `y`, the same. */
function identity(): Program {
  return program('identity', { y: input('x', 'f32', ['N']) });
}

const outputName = (i: number): string => `written.${i}`;

/** `to.i` [N, E] with rows `from_rows` [K] of `from.i` [M, E] in place of its rows `to_rows` [K] → `written.i`. */
function replacement(count: number): Program {
  const [toRows, fromRows] = [input('to_rows', 'i32', ['K']), input('from_rows', 'i32', ['K'])];
  const outputs = Array.from({ length: count }, (_, i): readonly [string, Tensor] => {
    const [to, from] = [input(`to.${i}`, 'f32', ['N', 'E']), input(`from.${i}`, 'f32', ['M', 'E'])];
    return [outputName(i), scatterRows(to, toRows, gather(from, fromRows))];
  });
  return program('replace rows', Object.fromEntries(outputs));
}
