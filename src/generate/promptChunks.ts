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

/** Runs the group in equal parts of at most `chunk` positions; its output, resident, is the caller's. */
export async function runInChunks(
  device: Device,
  group: ChunkedGroup,
  chunk: number,
): Promise<ResidentTensor> {
  const states = group.feeds.states as ResidentTensor;
  const [, positions = 0, width = 0] = states.shape;
  const wanted = (group.feeds.last_positions as HostTensor).data as Int32Array;
  const shape = group.atPositions ? [wanted.length, width] : states.shape;
  const held: ResidentTensor[] = [];
  const zeros = async (size: readonly number[]) => {
    const tensor = await device.zeros('f32', size);
    held.push(tensor);
    return tensor;
  };
  const free = async (tensors: readonly ResidentTensor[]) => {
    for (const tensor of tensors) held.splice(held.indexOf(tensor), 1);
    await device.free(tensors);
  };
  const result = await device.zeros('f32', shape);
  try {
    let past = new Map<string, ResidentTensor>();
    const each = Math.ceil(positions / Math.ceil(positions / chunk));
    for (let at = 0; at < positions; at += each) {
      group.before(at);
      const count = Math.min(each, positions - at);
      const isLast = at + count === positions;
      const part = await zeros([1, count, width]);
      const caches = new Map<string, ResidentTensor>();
      for (const name of isLast ? [] : group.names)
        caches.set(name, await zeros(group.cacheShape(at + count)));
      const targets = isLast ? group.write : wholes(caches);
      const blocks = [{ from: [0, at], size: [1, count], at: [] }];
      // A run may ask for some of the keys and values only.
      const kept = Object.entries(targets).flatMap(([name, target]) => {
        const from = past.get(name);
        return from === undefined ? [] : [{ from, target }];
      });
      await device.copy([{ from: states, target: { to: part, blocks } }, ...kept]);
      await runChunk(group, { at, count, part, past, targets, result });
      await free([part, ...past.values()]);
      past = caches;
    }
    return result;
  } catch (error) {
    await device.free([result]);
    throw error;
  } finally {
    await device.free(held);
  }
}

interface Chunk {
  /** Its first position, and how many there are. */
  readonly at: number;
  readonly count: number;
  /** Their states [1, count, D]. */
  readonly part: ResidentTensor;
  /** Keys and values of the positions before, with no slots to spare: what is masked takes as long as the rest. */
  readonly past: ReadonlyMap<string, ResidentTensor>;
  /** Where those of all positions so far go. */
  readonly targets: Writes;
  readonly result: ResidentTensor;
}

const wholes = (caches: ReadonlyMap<string, ResidentTensor>): Writes =>
  Object.fromEntries([...caches].map(([name, to]) => [name, { to, blocks: [{ at: [] }] }]));

/** The same places, `slots` further along the cache's third axis. */
const behind = ({ to, blocks = [{ at: [] }] }: WriteTarget, slots: number): WriteTarget => ({
  to,
  blocks: blocks.map((block) => {
    const [row = 0, head = 0, slot = 0, ...rest] = block.at;
    return { ...block, at: [row, head, slot + slots, ...rest] };
  }),
});

async function runChunk(group: ChunkedGroup, chunk: Chunk): Promise<void> {
  const { at, count, part, past, targets, result } = chunk;
  const all = (group.feeds.last_positions as HostTensor).data as Int32Array;
  const first = all.findIndex((position) => position >= at);
  const row = first < 0 ? all.length : first;
  const wanted = all.slice(row).filter((position) => position < at + count);
  const none = f32(new Float32Array(0), group.cacheShape(0));
  const before = group.names.map((name) => [pastOf(name), past.get(name) ?? none] as const);
  const feeds = {
    ...group.feeds,
    ...Object.fromEntries(before),
    rotary_cos: rowsOf(group.feeds.rotary_cos as HostTensor, at, count),
    rotary_sin: rowsOf(group.feeds.rotary_sin as HostTensor, at, count),
    states: part,
    length: i32(Int32Array.of(at)),
    steps: i32(Int32Array.from({ length: count }, (_, i) => i)),
    last_positions: i32(wanted.map((position) => position - at)),
  };
  const write: Record<string, Writes[string]> = {
    next_states: { to: result, blocks: [{ at: group.atPositions ? [row] : [0, at] }] },
  };
  for (const [name, target] of Object.entries(targets)) write[name] = behind(target, at);
  await group.run(feeds, { write });
}

/** Rows `at … at + count − 1` of [N, E/2]. */
function rowsOf({ data, shape }: HostTensor, at: number, count: number): HostTensor {
  const width = shape[1] ?? 0;
  return f32((data as Float32Array).slice(at * width, (at + count) * width), [count, width]);
}
