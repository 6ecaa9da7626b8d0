/**
 * What a device is: it compiles programs, keeps tensors and runs. The same interface is served by a device in
 * this thread (`localDevice.ts`) and by one in a worker thread (`workerDevice.ts`).
 */
import type { DType, TypedArray } from '../graph/dtype.ts';
import type { Program } from '../graph/program.ts';
import type { Constants } from '../onnx/constants.ts';
import type { ChainLink } from './chain.ts';

export type { Constants, FileConstant } from '../onnx/constants.ts';

export type DeviceName = 'cpu' | 'webgpu';

/** A tensor in the caller's memory, row-major. */
export interface HostTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TypedArray;
}

/** A tensor that stays on the device: weights, caches, moments. Programs read it in place, without a copy. */
export interface ResidentTensor {
  readonly resident: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

export type Feed = HostTensor | ResidentTensor;

/** Elements of a file, converted to f32 as they are read. */
export interface FileRange {
  readonly file: string;
  /** Absolute byte offset. */
  readonly begin: number;
  readonly byteLength: number;
  readonly dtype: 'F32' | 'F16' | 'BF16';
  readonly shape: readonly number[];
}

/** A box of one tensor that goes to a box of another, of the same size. Indices go axis by axis. */
export interface Block {
  /** Its first index in the tensor that is written; 0 on axes left out. */
  readonly at: readonly number[];
  /** Its first index in the tensor that is read; 0 on axes left out. */
  readonly from?: readonly number[];
  /** Its size; on axes left out all that the read tensor has from there. */
  readonly size?: readonly number[];
}

/** Where an output of a run is written. */
export interface WriteTarget {
  readonly to: ResidentTensor;
  /** What goes where; the whole to the start, unless given. */
  readonly blocks?: readonly Block[];
}

/** A tensor, or blocks of it, and where they go. */
export interface TensorCopy {
  readonly from: Feed;
  readonly target: WriteTarget;
  /** The memory of a host tensor may move to the device instead of being copied: its array is empty afterwards. */
  readonly transfer?: boolean;
}

export interface RunOptions {
  /** Outputs to be copied into resident tensors instead of being returned. */
  readonly write?: Readonly<Record<string, WriteTarget>>;
  /** Outputs that become resident tensors; they are returned by `RunResult.kept`. */
  readonly keep?: readonly string[];
}

export interface RunResult {
  readonly outputs: Readonly<Record<string, HostTensor>>;
  readonly kept: Readonly<Record<string, ResidentTensor>>;
}

/** A program compiled for a device. */
export interface Executable {
  readonly program: Program;
  /** Runs once. Throws when a feed is missing or does not have the program's shape. */
  run(feeds: Readonly<Record<string, Feed>>, options?: RunOptions): Promise<RunResult>;
  dispose(): Promise<void>;
}

/** A program among several that run after each other. */
export interface ChainedRun extends ChainLink {
  readonly executable: Executable;
}

/** One weight and its AdamW state. All four have one size. */
export interface AdamWTensors {
  readonly weight: ResidentTensor;
  readonly gradient: ResidentTensor;
  readonly firstMoment: ResidentTensor;
  readonly secondMoment: ResidentTensor;
  readonly learningRate: number;
  readonly weightDecay: number;
}

export interface AdamWOptions {
  /** Counts from 1. */
  readonly step: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** Factor on every gradient: the clipping of its global norm. */
  readonly gradientScale: number;
}

export interface Device {
  readonly name: DeviceName;
  readonly threads: number;
  /**
   * Compiles a program. constants: inputs that are always the same, used in place in their files; one program has its
   * own copy of those that its kernels want in another order.
   */
  load(program: Program, constants?: Constants): Promise<Executable>;
  /**
   * Runs programs of this device one after the other, without coming back in between. Gives the outputs of all that
   * are neither written nor taken by the next run.
   */
  runChain(chain: readonly ChainedRun[]): Promise<Readonly<Record<string, HostTensor>>>;
  /** A resident copy of `tensor`. */
  upload(tensor: HostTensor): Promise<ResidentTensor>;
  /** A resident f32 tensor read from a file. */
  readFile(range: FileRange): Promise<ResidentTensor>;
  /** A resident tensor of zeros. */
  zeros(dtype: DType, shape: readonly number[]): Promise<ResidentTensor>;
  /**
   * Gives resident f32 tensors of one shape another, which differs in one axis: what fits stays where its indices say, the
   * rest is 0. Done in place where the memory has room, which it has after the first time. What was given is no longer
   * to be used. Where memory runs out, all are as they were.
   */
  resize(tensors: readonly ResidentTensor[], shape: readonly number[]): Promise<readonly ResidentTensor[]>;
  download(tensor: ResidentTensor): Promise<HostTensor>;
  /** Makes all copies at once; each target is written by one of them. */
  copy(copies: readonly TensorCopy[]): Promise<void>;
  free(tensors: readonly ResidentTensor[]): Promise<void>;
  /** Euclidean norm of each tensor. */
  norms(tensors: readonly ResidentTensor[]): Promise<readonly number[]>;
  /** Adds each of `from` to its counterpart of `into`, in place. */
  accumulate(into: readonly ResidentTensor[], from: readonly ResidentTensor[]): Promise<void>;
  /** Updates weights and moments in place. */
  adamW(tensors: readonly AdamWTensors[], options: AdamWOptions): Promise<void>;
  close(): Promise<void>;
}

export function isResident(feed: Feed): feed is ResidentTensor {
  return 'resident' in feed;
}
