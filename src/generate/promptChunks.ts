/**
 * A group of decoder layers over a long prompt, some positions at a time: what the layers have in hand in between is
 * then a fraction of it. Knows nothing of what the layers are.
 */
import { f32, i32 } from '../model/feeds.ts';
import { pastOf } from '../model/programs.ts';
import type {
  Device,
  Feed,
  HostTensor,
  ResidentTensor,
  RunOptions,
  RunResult,
  WriteTarget,
} from '../runtime/types.ts';

type Feeds = Readonly<Record<string, Feed>>;
type Writes = NonNullable<RunOptions['write']>;

export interface ChunkedGroup {
  /** Feeds for all positions of one sequence; `states` [1, N, D] is resident. */
  readonly feeds: Feeds;
  /** Of keys and values: names, and the shape of a cache with `slots` slots. */
  readonly names: readonly string[];
  cacheShape(slots: number): readonly number[];
  /** Where keys and values go in the end. */
  readonly write: Writes;
  /** Whether the group gives its output at `last_positions` only, which are ascending. */
  readonly atPositions: boolean;
  /** Called before each part with the positions done; what it throws ends the work. */
  readonly before: (done: number) => void;
  run(feeds: Feeds, options: RunOptions): Promise<RunResult>;
}

/** Keys and values of the positions before a part, in memory that groups of one prompt have one after the other. */
export class ChunkCaches {
  readonly #device: Device;
  #tensors: readonly ResidentTensor[] = [];

  /** Nothing is allocated yet; call `free` in the end. */
  constructor(device: Device) {
    this.#device = device;
  }

  /** `count` tensors of a shape; of those that were there before in fewer slots, what they hold stays. */
  async hold(count: number, shape: readonly number[]): Promise<readonly ResidentTensor[]> {
    const more: ResidentTensor[] = [];
    const [old, like] = [this.#tensors, this.#tensors[0]?.shape ?? shape];
    while (old.length + more.length < count) more.push(await this.#device.zeros('f32', like));
    this.#tensors = [...old, ...more];
    this.#tensors = await this.#device.resize(this.#tensors, shape);
    return this.#tensors.slice(0, count);
  }

  async free(): Promise<void> {
    const tensors = this.#tensors;
    this.#tensors = [];
    await this.#device.free(tensors);
  }
}

/** Runs the group in equal parts of at most `chunk` positions; its output, resident, is the caller's. */
export async function runInChunks(
  device: Device,
  caches: ChunkCaches,
  group: ChunkedGroup,
  chunk: number,
): Promise<ResidentTensor> {
  const states = group.feeds.states as ResidentTensor;
  const [, positions = 0, width = 0] = states.shape;
  const shape = group.atPositions ? [wantedOf(group).length, width] : states.shape;
  const result = await device.zeros('f32', shape);
  try {
    const each = Math.ceil(positions / Math.ceil(positions / chunk));
    for (let at = 0; at < positions; at += each) {
      group.before(at);
      const count = Math.min(each, positions - at);
      const part = await device.zeros('f32', [1, count, width]);
      try {
        const blocks = [{ from: [0, at], size: [1, count], at: [] }];
        await device.copy([{ from: states, target: { to: part, blocks } }]);
        await runChunk(device, caches, group, { at, count, part, result, isLast: at + count === positions });
      } finally {
        await device.free([part]);
      }
    }
    return result;
  } catch (error) {
    await device.free([result]);
    throw error;
  }
}

interface Chunk {
  /** Its first position, and how many there are. */
  readonly at: number;
  readonly count: number;
  /** Their states [1, count, D]. */
  readonly part: ResidentTensor;
  readonly result: ResidentTensor;
  readonly isLast: boolean;
}

/** The same places, `slots` further along the cache's third axis. */
const behind = ({ to, blocks = [{ at: [] }] }: WriteTarget, slots: number): WriteTarget => ({
  to,
  blocks: blocks.map((block) => {
    const [row = 0, head = 0, slot = 0, ...rest] = block.at;
    return { ...block, at: [row, head, slot + slots, ...rest] };
  }),
});

/** Keys and values of all positions so far are in `caches` after it, after the last where the group wants them. */
async function runChunk(
  device: Device,
  caches: ChunkCaches,
  group: ChunkedGroup,
  chunk: Chunk,
): Promise<void> {
  const { at, count, isLast } = chunk;
  const { names, write } = group;
  // No slots to spare: what is masked takes as long as the rest.
  const past = new Map<string, Feed>();
  for (const [i, tensor] of (await caches.hold(names.length, group.cacheShape(at))).entries())
    past.set(names[i] as string, tensor);
  const own: Record<string, WriteTarget> = { next_states: outputOf(group, chunk) };
  if (isLast) for (const [name, target] of Object.entries(write)) own[name] = behind(target, at);
  const { kept } = await group.run(chunkFeeds(group, chunk, past), { write: own, keep: isLast ? [] : names });
  if (isLast) {
    // A run may ask for some of the keys and values only.
    const copies = Object.entries(write).map(([name, target]) => ({ from: past.get(name) as Feed, target }));
    await device.copy(copies);
    return;
  }
  try {
    const all = await caches.hold(names.length, group.cacheShape(at + count));
    const blocks = [{ at: [0, 0, at] }];
    await device.copy(
      all.map((to, i) => ({ from: kept[names[i] as string] as Feed, target: { to, blocks } })),
    );
  } finally {
    await device.free(Object.values(kept));
  }
}

/** Where a part's output goes: its rows, or those of the wanted positions in it. */
function outputOf(group: ChunkedGroup, { at, result }: Chunk): WriteTarget {
  const all = wantedOf(group);
  const first = all.findIndex((position) => position >= at);
  return { to: result, blocks: [{ at: group.atPositions ? [first < 0 ? all.length : first] : [0, at] }] };
}

const wantedOf = ({ feeds }: ChunkedGroup): Int32Array =>
  (feeds.last_positions as HostTensor).data as Int32Array;

function chunkFeeds(group: ChunkedGroup, { at, count, part }: Chunk, past: ReadonlyMap<string, Feed>): Feeds {
  const wanted = wantedOf(group).filter((position) => position >= at && position < at + count);
  return {
    ...group.feeds,
    ...Object.fromEntries([...past].map(([name, tensor]) => [pastOf(name), tensor])),
    rotary_cos: rowsOf(group.feeds.rotary_cos as HostTensor, at, count),
    rotary_sin: rowsOf(group.feeds.rotary_sin as HostTensor, at, count),
    states: part,
    length: i32(Int32Array.of(at)),
    steps: i32(Int32Array.from({ length: count }, (_, i) => i)),
    last_positions: i32(wanted.map((position) => position - at)),
  };
}

/** Rows `at … at + count − 1` of [N, E/2]. */
function rowsOf({ data, shape }: HostTensor, at: number, count: number): HostTensor {
  const width = shape[1] ?? 0;
  return f32((data as Float32Array).slice(at * width, (at + count) * width), [count, width]);
}
