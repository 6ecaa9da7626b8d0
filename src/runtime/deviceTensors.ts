/**
 * The resident tensors of a device, by number: in this thread's memory, or, where the device is a GPU, f32 in its
 * memory. Other dtypes and tensors without elements are always in this thread's. Knows nothing of programs.
 */
import { type BlockRuns, blockRuns, copyRuns } from './blockRuns.ts';
import { FreedBytes } from './garbage.ts';
import type { GpuTensor, GpuTensors, GpuWrite } from './gpuTensors.ts';
import { elements, resized } from './resized.ts';
import type { Block, HostTensor, ResidentTensor, WriteTarget } from './types.ts';

export type HeldTensor = HostTensor | GpuTensor;

/** All of a tensor, to the start of another. */
const WHOLE: readonly Block[] = [{ at: [] }];

/** What goes where. */
export interface HeldWrite {
  readonly from: HeldTensor;
  readonly target: WriteTarget;
}

export class DeviceTensors {
  readonly #gpu: GpuTensors | undefined;
  readonly #tensors = new Map<number, HeldTensor>();
  readonly #freed = new FreedBytes();
  #next = 0;

  /** gpu: where f32 tensors are held, if not in this thread's memory. */
  constructor(gpu?: GpuTensors) {
    this.#gpu = gpu;
  }

  /** Takes a tensor over. */
  keep(tensor: HeldTensor): ResidentTensor {
    this.#next += 1;
    this.#tensors.set(this.#next, tensor);
    return { resident: this.#next, dtype: tensor.dtype, shape: tensor.shape };
  }

  /** A tensor where tensors of its kind are held. */
  async placed(tensor: HostTensor): Promise<HeldTensor> {
    if (this.#gpu === undefined || tensor.dtype !== 'f32' || tensor.data.length === 0) return tensor;
    const placed = await this.#gpu.upload(tensor);
    this.#freed.add(tensor.data.byteLength);
    return placed;
  }

  /** Takes a tensor over, and places it. */
  async place(tensor: HostTensor): Promise<ResidentTensor> {
    return this.keep(await this.placed(tensor));
  }

  get({ resident }: ResidentTensor): HeldTensor {
    const tensor = this.#tensors.get(resident);
    if (tensor === undefined) throw new Error(`internal: resident tensor ${resident} was freed`);
    return tensor;
  }

  /** A tensor's values in this thread's memory: those that are held, or a copy of the GPU's. */
  async host(tensor: HeldTensor): Promise<HostTensor> {
    return isOnGpu(tensor) ? this.#onGpu().download(tensor) : tensor;
  }

  /** Like `host`, of a resident f32 tensor. What is changed in a copy counts once it is given to `replace`. */
  async floats(tensor: ResidentTensor): Promise<Float32Array> {
    const { data } = await this.host(this.get(tensor));
    if (!(data instanceof Float32Array)) throw new Error('internal: expected a resident f32 tensor');
    return data;
  }

  /** Gives a tensor other values. */
  async replace({ resident, dtype, shape }: ResidentTensor, data: Float32Array): Promise<void> {
    const placed = await this.placed({ dtype, shape, data });
    const held = this.#tensors.get(resident);
    if (held !== undefined && isOnGpu(held)) this.release(held);
    this.#tensors.set(resident, placed);
  }

  /** Copies blocks of tensors into resident ones, each of which is written once; those of one kind together. */
  async write(writes: readonly HeldWrite[]): Promise<void> {
    const together = new Map<string, (GpuWrite & { readonly target: WriteTarget })[]>();
    const runs = new KnownRuns();
    for (const { from, target } of writes) {
      const to = this.get(target.to);
      if (from.dtype !== to.dtype) throw new Error(`internal: ${from.dtype} written into ${to.dtype}`);
      if (isOnGpu(to) && isOnGpu(from)) {
        const kind = JSON.stringify([to.shape, from.shape, target.blocks]);
        together.set(kind, [...(together.get(kind) ?? []), { to, from, target }]);
      } else await this.#writeOnHost(to, { from, target }, runs);
    }
    for (const alike of together.values()) await this.#writeTogether(alike);
  }

  /** A tensor without elements is here though its target may be on the GPU, which then stays as it is. */
  async #writeOnHost(to: HeldTensor, { from, target }: HeldWrite, runs: KnownRuns): Promise<void> {
    const [source, result] = [await this.host(from), await this.host(to)];
    copyRuns(result.data, source.data, runs.of(result.shape, source.shape, target.blocks ?? WHOLE));
  }

  async #writeTogether(writes: readonly (GpuWrite & { readonly target: WriteTarget })[]): Promise<void> {
    const blocks = writes[0]?.target.blocks ?? WHOLE;
    const made = await this.#onGpu().withBlocks(writes, blocks);
    for (const [i, tensor] of made.entries()) {
      const resident = writes[i]?.target.to.resident ?? 0;
      this.#drop(resident);
      this.#tensors.set(resident, tensor);
    }
  }

  /** As `Device.resize`. */
  async resize(
    tensors: readonly ResidentTensor[],
    shape: readonly number[],
  ): Promise<readonly ResidentTensor[]> {
    const done: ResidentTensor[] = [];
    try {
      for (const tensor of tensors) {
        await this.#resizeOne(tensor, shape);
        done.push({ ...tensor, shape });
      }
      return done;
    } catch (error) {
      for (const [i, tensor] of done.entries()) await this.#resizeOne(tensor, tensors[i]?.shape ?? shape);
      throw error;
    }
  }

  async #resizeOne(tensor: ResidentTensor, shape: readonly number[]): Promise<void> {
    const held = this.get(tensor);
    if (isOnGpu(held)) {
      this.#tensors.set(tensor.resident, await this.#resizedOnGpu(held, shape));
      this.release(held);
      return;
    }
    const old = await this.floats(tensor);
    const data = resized(old, held.shape, shape);
    if (data.buffer !== old.buffer) this.release(held);
    this.#tensors.set(tensor.resident, await this.placed({ dtype: 'f32', shape, data }));
  }

  async #resizedOnGpu(from: GpuTensor, shape: readonly number[]): Promise<HeldTensor> {
    const to = await this.placed({ dtype: 'f32', shape, data: new Float32Array(elements(shape)) });
    if (!isOnGpu(to)) return to;
    const size = shape.map((dim, axis) => Math.min(dim, from.shape[axis] ?? 0));
    const [made] = await this.#onGpu().withBlocks([{ to, from }], [{ at: [], size }]);
    if (made === undefined) return to;
    this.release(to);
    return made;
  }

  /** Frees resident tensors; the collector is called once for all of them. */
  free(tensors: readonly ResidentTensor[]): void {
    let bytes = 0;
    for (const { resident } of tensors) {
      const held = this.#tensors.get(resident);
      if (held === undefined || isOnGpu(held)) this.#drop(resident);
      else {
        this.#tensors.delete(resident);
        bytes += held.data.byteLength;
      }
    }
    this.#freed.add(bytes);
  }

  /** Frees a tensor that is not resident. */
  release(tensor: HeldTensor): void {
    if (isOnGpu(tensor)) tensor.buffer.dispose();
    else this.#freed.add(tensor.data.byteLength);
  }

  /** Frees everything. */
  async close(): Promise<void> {
    for (const resident of [...this.#tensors.keys()]) this.#drop(resident);
    await this.#gpu?.close();
  }

  #drop(resident: number): void {
    const held = this.#tensors.get(resident);
    this.#tensors.delete(resident);
    if (held !== undefined) this.release(held);
  }

  #onGpu(): GpuTensors {
    if (this.#gpu === undefined) throw new Error('internal: a tensor on a GPU that is not there');
    return this.#gpu;
  }
}

/** The runs of the write before: a cache is written tensor after tensor, each with the same list of blocks. */
class KnownRuns {
  #last: Readonly<Record<'to' | 'from', readonly number[]>> & {
    readonly blocks: readonly Block[];
    readonly runs: BlockRuns;
  } = { to: [], from: [], blocks: [], runs: { to: [], from: [], lengths: [] } };

  of(to: readonly number[], from: readonly number[], blocks: readonly Block[]): BlockRuns {
    const { to: lastTo, from: lastFrom, blocks: lastBlocks } = this.#last;
    if (blocks !== lastBlocks || !isSame(to, lastTo) || !isSame(from, lastFrom)) {
      this.#last = { to, from, blocks, runs: blockRuns(to, from, blocks) };
    }
    return this.#last.runs;
  }
}

const isSame = (a: readonly number[], b: readonly number[]) =>
  a.length === b.length && a.every((value, i) => value === b[i]);

export function isOnGpu(tensor: HeldTensor): tensor is GpuTensor {
  return 'buffer' in tensor;
}
