/**
 * The model's programs, each traced and compiled when it is first needed, with the weights bound to it. Knows
 * nothing of what is fed to them.
 */
import type { ResidentWeights } from '../checkpoint/loadWeights.ts';
import type { Program } from '../graph/index.ts';
import type { FusionConfig } from '../model/config.ts';
import { explainDecodeProgram, explainWholeProgram } from '../model/explainPrograms.ts';
import {
  decodeProgram,
  lossAndGradientsProgram,
  prefillProgram,
  tileProgram,
  wholeProgram,
} from '../model/programs.ts';
import type { Constants, Device, Executable, Feed, RunOptions, RunResult } from '../runtime/types.ts';

export interface BoundRunOptions extends RunOptions {
  /** Looked at between the parts of a run that has several; rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
  /** Told between these parts how much of the run is done, from 0 to 1. */
  readonly onShare?: ((done: number) => void) | undefined;
}

/** A compiled program that needs only what is not a weight. */
export interface BoundProgram {
  run(feeds: Readonly<Record<string, Feed>>, options?: BoundRunOptions): Promise<RunResult>;
  /**
   * Runs several times; a program in stages takes all through one stage before the next. before: called before each
   * part with the number of runs that are done, which may be in between two.
   */
  runEach(runs: readonly BoundRun[], before: (done: number) => void): Promise<readonly RunResult[]>;
}

export interface BoundRun {
  readonly feeds: Readonly<Record<string, Feed>>;
  readonly options: RunOptions;
}

/** The programs of a loaded model, each compiled when it is first needed. */
export interface ModelPrograms {
  tile(): Promise<BoundProgram>;
  whole(): Promise<BoundProgram>;
  /** queryLength: latents per question, part of the program. */
  prefill(queryLength: number): Promise<BoundProgram>;
  decode(): Promise<BoundProgram>;
  /** The tower's attention between picture and question. */
  explainWhole(): Promise<BoundProgram>;
  /** The attention of interaction layers and decoder. queryLength: as in `prefill`. */
  explainDecode(queryLength: number): Promise<BoundProgram>;
  /** The loss's parts, and gradients of the named weights. */
  loss(queryLength: number, gradients: readonly string[]): Promise<BoundProgram>;
  /** Frees all compiled programs. */
  dispose(): Promise<void>;
}

export class CompiledPrograms implements ModelPrograms {
  readonly #device: Device;
  readonly #config: FusionConfig;
  readonly #weights: ResidentWeights;
  readonly #constants: Constants;
  readonly #executables = new Map<string, Promise<Executable>>();

  /**
   * constants: weights that the programs of answers take from files instead, each program in the order its kernels
   * want: more memory, faster steps.
   */
  constructor(device: Device, config: FusionConfig, weights: ResidentWeights, constants: Constants = {}) {
    this.#device = device;
    this.#config = config;
    this.#weights = weights;
    this.#constants = constants;
  }

  tile(): Promise<BoundProgram> {
    return this.#bound('tile', () => tileProgram(this.#config), this.#constants);
  }

  whole(): Promise<BoundProgram> {
    return this.#bound('whole', () => wholeProgram(this.#config), this.#constants);
  }

  /** queryLength: latents per question, part of the program. */
  prefill(queryLength: number): Promise<BoundProgram> {
    const trace = () => prefillProgram(this.#config, queryLength);
    return this.#bound(`prefill ${queryLength}`, trace, this.#constants);
  }

  decode(): Promise<BoundProgram> {
    return this.#bound('decode', () => decodeProgram(this.#config), this.#constants);
  }

  /** The tower's attention between picture and question. */
  explainWhole(): Promise<BoundProgram> {
    return this.#bound('explain whole', () => explainWholeProgram(this.#config));
  }

  /** The attention of interaction layers and decoder. queryLength: as in `prefill`. */
  explainDecode(queryLength: number): Promise<BoundProgram> {
    return this.#bound(`explain ${queryLength}`, () => explainDecodeProgram(this.#config, queryLength));
  }

  /** The loss's parts, and gradients of the named weights. */
  loss(queryLength: number, gradients: readonly string[]): Promise<BoundProgram> {
    const key = `loss ${queryLength} ${gradients.join(' ')}`;
    return this.#bound(key, () => lossAndGradientsProgram(this.#config, queryLength, gradients));
  }

  /** Frees all compiled programs. */
  async dispose(): Promise<void> {
    const executables = [...this.#executables.values()];
    this.#executables.clear();
    for (const executable of await Promise.allSettled(executables)) {
      if (executable.status === 'fulfilled') await executable.value.dispose();
    }
  }

  async #bound(key: string, trace: () => Program, constants: Constants = {}): Promise<BoundProgram> {
    let loading = this.#executables.get(key);
    if (loading === undefined) {
      loading = this.#device.load(trace(), constants);
      this.#executables.set(key, loading);
      // A program that could not be compiled is tried again when it is next asked for.
      loading.catch(() => this.#executables.delete(key));
    }
    const executable = await loading;
    const needed = executable.program.inputs.flatMap(({ name }) => {
      const weight = this.#weights[name];
      return weight === undefined || name in constants ? [] : [[name, weight] as const];
    });
    const weights = Object.fromEntries(needed);
    // One run is one part.
    return oneByOne((feeds, { signal: _signal, onShare: _onShare, ...options } = {}) =>
      executable.run({ ...weights, ...feeds }, options),
    );
  }
}

/** A program whose runs come one after the other. */
export function oneByOne(run: BoundProgram['run']): BoundProgram {
  const runEach: BoundProgram['runEach'] = async (runs, before) => {
    const results: RunResult[] = [];
    for (const { feeds, options } of runs) {
      before(results.length);
      results.push(await run(feeds, options));
    }
    return results;
  };
  return { run, runEach };
}
