/**
 * The programs of a converted model, each a series of stages (`model/stages.ts`): the same feeds and outputs as the
 * whole programs, with less in memory at a time. A stage is compiled when it first runs; large ones that are needed
 * once an answer go when the next part begins. Knows nothing of where feeds come from.
 */
import { UserError } from '../common/errors.ts';
import type { Program } from '../graph/index.ts';
import type { DecoderConfig, FusionConfig } from '../model/config.ts';
import { f32, i32 } from '../model/feeds.ts';
import { keysOf, pastOf, valuesOf } from '../model/programs.ts';
import {
  beginStage,
  EMBEDDING_ROWS,
  headStage,
  interactionStage,
  type LayerGroup,
  layerGroups,
  layersStage,
  type StagedModel,
  towerGroups,
  visionStage,
} from '../model/stages.ts';
import type { TowerLayers } from '../model/vision.ts';
import type {
  Device,
  Executable,
  Feed,
  HostTensor,
  ResidentTensor,
  RunOptions,
  RunResult,
} from '../runtime/types.ts';
import {
  type BoundProgram,
  type BoundRun,
  type BoundRunOptions,
  type ModelPrograms,
  oneByOne,
} from './compiled.ts';
import { ChunkCaches, runInChunks } from './promptChunks.ts';
import { type Stage, StageCache } from './stageCache.ts';
import type { StagedWeights } from './stagedWeights.ts';

type Feeds = Readonly<Record<string, Feed>>;
type Writes = NonNullable<RunOptions['write']>;

/** Bytes of a part's rounded weights that stay compiled beside the decoder though not every step needs them. */
export const KEPT_BYTES = 256e6;
/** Positions of a prompt that are read at a time, at most. */
export const PROMPT_CHUNK = 128;
const VISION = 'vision';
const HEAD = 'head';

export interface StagedOptions {
  /** Positions of a prompt that are read at a time, at most; `PROMPT_CHUNK` unless given. */
  readonly chunk?: number | undefined;
  /** Larger parts are compiled again whenever they are needed: the tower, the interaction layers. `KEPT_BYTES` unless given. */
  readonly keptBytes?: number | undefined;
}

export class StagedPrograms implements ModelPrograms {
  readonly #device: Device;
  readonly #model: StagedModel;
  readonly #weights: StagedWeights;
  readonly #groups: readonly LayerGroup[];
  readonly #stages = new StageCache();
  readonly #chunk: number;
  readonly #keepsVision: boolean;
  readonly #keepsInteraction: boolean;

  constructor(
    device: Device,
    config: FusionConfig,
    weights: StagedWeights,
    { chunk = PROMPT_CHUNK, keptBytes = KEPT_BYTES }: StagedOptions = {},
  ) {
    this.#device = device;
    this.#chunk = chunk;
    this.#model = { config, weights };
    this.#weights = weights;
    this.#groups = layerGroups(config);
    const bytes = (prefix: string) =>
      Object.entries(weights.constants)
        .filter(([name]) => name.startsWith(prefix))
        .reduce((sum, [, { byteLength }]) => sum + byteLength, 0);
    this.#keepsVision = bytes('model.vision_tower.') <= keptBytes;
    this.#keepsInteraction = bytes('model.vision_sampler_layers.') <= keptBytes;
  }

  async tile(): Promise<BoundProgram> {
    return this.#crops(({ tile_pixels: pixels, ...feeds }) => {
      const instructs = i32(new Int32Array(0), [pixels?.shape[0] ?? 0, 0]);
      return { ...feeds, pixels: pixels as Feed, instructs };
    });
  }

  async whole(): Promise<BoundProgram> {
    return this.#crops((feeds) => feeds);
  }

  async prefill(queryLength: number): Promise<BoundProgram> {
    return oneByOne((feeds, options) => this.#runPrefill(feeds, queryLength, options));
  }

  async decode(): Promise<BoundProgram> {
    return oneByOne((feeds, options) => this.#runDecode(feeds, options));
  }

  /** @throws UserError: rounded weights have no gradients. */
  async loss(): Promise<BoundProgram> {
    throw onlyTrained('loss');
  }

  /** @throws UserError: attention inside the stages is not given out. */
  async explainWhole(): Promise<BoundProgram> {
    throw onlyTrained('explain');
  }

  /** @throws UserError as `explainWhole`. */
  async explainDecode(): Promise<BoundProgram> {
    throw onlyTrained('explain');
  }

  async dispose(): Promise<void> {
    await this.#stages.dispose();
    await this.#weights.embeddings.close();
  }

  /** The tower as a program. */
  #crops(feedsOf: (feeds: Feeds) => Feeds): BoundProgram {
    const runEach: BoundProgram['runEach'] = (runs, before) =>
      this.#runVision(
        runs.map(({ feeds, options }) => ({ feeds: feedsOf(feeds), options })),
        before,
      );
    const run: BoundProgram['run'] = async (feeds, { signal, onShare: _onShare, ...options } = {}) => {
      const [result] = await runEach([{ feeds, options }], () => signal?.throwIfAborted());
      return result as RunResult;
    };
    return { run, runEach };
  }

  /** All crops go through one group of the tower's layers before the next, which may need its memory. */
  async #runVision(runs: readonly BoundRun[], before: (done: number) => void): Promise<readonly RunResult[]> {
    const groups = towerGroups(this.#model.config);
    const nameOf = ({ first }: TowerLayers) => `${VISION} ${first}`;
    const feeds: Feeds[] = [];
    for (const run of runs) feeds.push(await this.#lookUp(run.feeds, 'instructs'));
    const states: TowerTensors[] = runs.map(() => ({}));
    const results: RunResult[] = [];
    try {
      for (const [i, group] of groups.entries()) {
        const load = () => this.#load(visionStage(this.#model, group));
        const stage = { name: nameOf(group), load };
        for (const [j, { options }] of runs.entries()) {
          before((i * runs.length + j) / groups.length);
          const own = { ...feeds[j], ...states[j] };
          if (i === groups.length - 1) results.push(await this.#run(stage, own, options));
          else states[j] = await this.#towerStates(stage, own, states[j] ?? {});
        }
        if (!this.#keepsVision) await this.#stages.drop(stage.name);
      }
      return results;
    } finally {
      // One is there where a run failed, or was stopped.
      if (!this.#keepsVision) for (const group of groups) await this.#stages.drop(nameOf(group));
      await this.#device.free(states.flatMap((each) => Object.values(each)));
    }
  }

  /** The states after a stage of the tower; those that it replaces are freed. */
  async #towerStates(stage: Stage, feeds: Feeds, before: TowerTensors): Promise<TowerTensors> {
    const { kept } = await this.#stages.use(stage, (loaded) =>
      loaded.run(this.#needed(loaded, feeds), { keep: [...loaded.program.outputs.keys()] }),
    );
    const next = Object.entries(kept).map(([name, tensor]) => [name.replace(/^next_/, ''), tensor] as const);
    await this.#device.free(next.flatMap(([name]) => before[name] ?? []));
    return { ...before, ...Object.fromEntries(next) };
  }

  async #runPrefill(feeds: Feeds, queryLength: number, options: BoundRunOptions = {}): Promise<RunResult> {
    const looked = await this.#lookUp(feeds, 'text_ids');
    const load = () => this.#load(beginStage(this.#model, queryLength));
    const begin = { name: `begin ${queryLength}`, load };
    const { kept } = await this.#run(begin, looked, { keep: ['states', 'windows'] });
    const { states, windows } = kept as Record<'states' | 'windows', ResidentTensor>;
    const [samples = 0, positions = 0] = feeds.sources?.shape ?? [];
    const own = { ...promptFeeds(this.#model.config.decoder, feeds, samples, positions), windows };
    try {
      return await this.#layers({ ...feeds, ...own }, states, options);
    } finally {
      await this.#device.free([windows]);
    }
  }

  async #runDecode({ token, ...feeds }: Feeds, options: RunOptions = {}): Promise<RunResult> {
    const ids = (token as HostTensor).data as Int32Array;
    const { embeddings } = this.#weights;
    const states = f32(await embeddings.read(ids), [1, ids.length, embeddings.width]);
    const positions = i32(Int32Array.from(ids, (_, i) => i));
    const own = { last_positions: positions, steps: i32(Int32Array.of(0)) };
    const all = { ...feeds, ...own, states };
    // The head first, as in `#layers`.
    const stages = [this.#head(), ...this.#groups.map((group) => this.#layerStage(group))];
    const outputs = await this.#stages.useAll(stages, ([head, ...layers]) =>
      this.#device.runChain([
        ...layers.map((stage, i) => ({
          executable: stage,
          feeds: this.#needed(stage, i === 0 ? all : { ...feeds, ...own }),
          write: writesOf(this.#groups[i] as LayerGroup, options),
          next: { states: 'next_states' },
        })),
        { executable: head as Executable, feeds: this.#needed(head as Executable, own) },
      ]),
    );
    return { outputs, kept: {} };
  }

  #head(): Stage {
    return { name: HEAD, load: () => this.#load(headStage(this.#model)) };
  }

  #layerStage(group: LayerGroup): Stage {
    return { name: `layers ${group.first}`, load: () => this.#load(layersStage(this.#model, group)) };
  }

  /** A prompt's way through the decoder's layers, the interaction layers between them, and the head. */
  async #layers(feeds: Feeds, first: Feed, options: BoundRunOptions): Promise<RunResult> {
    const outputs: Record<string, HostTensor> = {};
    let states = first;
    /** Frees what a stage read, and gives what it made. */
    const step = async (run: (feeds: Feeds) => Promise<RunResult>) => {
      try {
        const result = await run({ ...feeds, states });
        Object.assign(outputs, result.outputs);
        return result.kept.next_states ?? first;
      } finally {
        if ('resident' in states) await this.#device.free([states]);
      }
    };
    // While a stage compiles its weights are there twice: the largest comes when there is least beside it.
    await this.#stages.use(this.#head(), async () => {});
    const caches = new ChunkCaches(this.#device);
    try {
      for (const [i, group] of this.#groups.entries()) {
        const before = (share: number) => reportShare((i + share) / this.#groups.length, options);
        const work = { write: writesOf(group, options), before, caches };
        states = await step((all) => this.#layerGroup(group, all, work));
        const j = group.interaction;
        if (j !== undefined) states = await step((all) => this.#interaction(j, all));
      }
    } finally {
      await caches.free();
    }
    await step((all) => this.#run(this.#head(), all));
    return { outputs, kept: {} };
  }

  async #layerGroup(
    group: LayerGroup,
    feeds: Feeds,
    { write, before, caches }: GroupWork,
  ): Promise<RunResult> {
    const run = (own: Feeds, options: RunOptions) => this.#run(this.#layerStage(group), own, options);
    if (!this.#isLong(feeds)) {
      before(0);
      return run(feeds, { write, keep: ['next_states'] });
    }
    const positions = feeds.states?.shape[1] ?? 1;
    const { kvHeads, headSize, layers } = this.#model.config.decoder;
    const states = await runInChunks(
      this.#device,
      caches,
      {
        feeds,
        write,
        before: (done) => before(done / positions),
        run,
        names: cacheNames(group),
        cacheShape: (slots) => [1, kvHeads, slots, headSize],
        atPositions: group.interaction === undefined && group.last === layers - 1,
      },
      this.#chunk,
    );
    return { outputs: {}, kept: { next_states: states } };
  }

  /** Whether a run is one prompt of more positions than are read at a time. */
  #isLong({ states, sources, last_positions: wanted }: Feeds): boolean {
    const samples = sources?.shape[0];
    const { data } = wanted as HostTensor;
    const ascends = data.every((position, i) => i === 0 || position > (data[i - 1] ?? 0));
    return samples === 1 && ascends && (states?.shape[1] ?? 0) > this.#chunk;
  }

  async #interaction(j: number, feeds: Feeds): Promise<RunResult> {
    const name = `interaction ${j}`;
    const stage = { name, load: () => this.#load(interactionStage(this.#model, j)) };
    const result = await this.#run(stage, feeds, { keep: ['next_states'] });
    if (!this.#keepsInteraction) await this.#stages.drop(name);
    return result;
  }

  /** `feeds` with ids that count the rows of the embeddings which are fed with them. Id 0, padding, keeps its place. */
  async #lookUp(feeds: Feeds, name: 'instructs' | 'text_ids'): Promise<Feeds> {
    const { data, shape } = feeds[name] as HostTensor;
    const { embeddings } = this.#weights;
    const places = new Map<number, number>([[0, 0]]);
    const ids = Int32Array.from(data as Int32Array, (id) => {
      const place = places.get(id) ?? places.size;
      places.set(id, place);
      return place;
    });
    const rows = await embeddings.read([...places.keys()]);
    return {
      ...feeds,
      [name]: i32(ids, shape),
      [EMBEDDING_ROWS]: f32(rows, [places.size, embeddings.width]),
    };
  }

  /** What a stage needs of the feeds and the weights. */
  #needed({ program }: Executable, feeds: Feeds): Feeds {
    const needed = program.inputs.flatMap(({ name }) => {
      const feed = feeds[name] ?? this.#weights.resident[name];
      return feed === undefined ? [] : [[name, feed] as const];
    });
    return Object.fromEntries(needed);
  }

  /** Compiles a stage where it is not there, and runs it. */
  #run(stage: Stage, feeds: Feeds, options?: RunOptions): Promise<RunResult> {
    return this.#stages.use(stage, (loaded) => loaded.run(this.#needed(loaded, feeds), options));
  }

  #load(program: Program): Promise<Executable> {
    return this.#device.load(program, this.#weights.constants);
  }
}

/** A crop's states between stages of the tower, by the names of their inputs. */
type TowerTensors = Readonly<Record<string, ResidentTensor>>;

interface GroupWork {
  /** Where keys and values go. */
  readonly write: Writes;
  /** Called before each part with the share of the group's work that is done. */
  readonly before: (share: number) => void;
  readonly caches: ChunkCaches;
}

/** Says how far a run has come; throws where the caller has had enough. */
function reportShare(done: number, { signal, onShare }: BoundRunOptions): void {
  signal?.throwIfAborted();
  onShare?.(done);
}

/** What prompts have in place of a cache, and every sample's rotary tables. */
function promptFeeds(
  { layers, kvHeads, headSize }: DecoderConfig,
  feeds: Feeds,
  samples: number,
  positions: number,
): Feeds {
  const empty = f32(new Float32Array(0), [samples, kvHeads, 0, headSize]);
  const names = cacheNames({ first: 0, last: layers - 1, interaction: undefined });
  const repeated = ['rotary_cos', 'rotary_sin'].map((name) => {
    const { data, shape } = feeds[name] as HostTensor;
    const all = new Float32Array(samples * data.length);
    for (let sample = 0; sample < samples; sample++) all.set(data as Float32Array, sample * data.length);
    return [name, f32(all, [samples * positions, shape[1] ?? 0])] as const;
  });
  return {
    ...Object.fromEntries([...repeated, ...names.map((name) => [pastOf(name), empty] as const)]),
    length: i32(new Int32Array(samples)),
    steps: i32(Int32Array.from({ length: positions }, (_, i) => i)),
  };
}

/** Names of a group's keys and values. */
function cacheNames({ first, last }: LayerGroup): readonly string[] {
  const layers = Array.from({ length: last - first + 1 }, (_, i) => first + i);
  return layers.flatMap((i) => [keysOf(i), valuesOf(i)]);
}

/** What of a run's writes are a group's keys and values. */
function writesOf(group: LayerGroup, { write = {} }: RunOptions): Writes {
  const names = cacheNames(group);
  return Object.fromEntries(Object.entries(write).filter(([name]) => names.includes(name)));
}

const onlyTrained = (what: string): UserError =>
  new UserError(`${what}: expected a checkpoint as it was trained, got a converted one; load the original`);
