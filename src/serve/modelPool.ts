/**
 * Several models within a limit of memory: loaded when first asked for, the one unused longest unloaded to make
 * room. Requests for models are served in order, so that a model that has to wait for room gets it. Knows nothing
 * of what models do.
 */
import type { ProgressEvent } from '../common/progress.ts';
import type { LoadedModel, ServableModel } from './answerer.ts';
import { ApiError } from './apiError.ts';

/** A model in use; `release` says that it no longer is. broken: it failed and is not to be used again. */
export interface Lease {
  readonly model: LoadedModel;
  release(broken?: boolean): void;
}

export interface ModelState {
  readonly name: string;
  readonly state: 'unloaded' | 'loading' | 'loaded';
  /** While it is loading. */
  readonly progress?: ProgressEvent | undefined;
}

interface Entry {
  readonly loading: Promise<LoadedModel>;
  loaded: boolean;
  progress: ProgressEvent | undefined;
  users: number;
  /** Unloaded as soon as nobody uses it. */
  retired: boolean;
}

interface Waiting {
  readonly model: ServableModel;
  readonly enter: (entry: Entry) => void;
}

export class ModelPool {
  readonly #limit: number;
  readonly #log: (error: unknown) => void;
  /** Least recently used first. */
  readonly #entries = new Map<ServableModel, Entry>();
  readonly #line: Waiting[] = [];
  /** Memory of models that are being unloaded. */
  #leaving = 0;
  readonly #unloading = new Set<Promise<void>>();

  /** limit: bytes of all loaded models. log: is told why a model could not be unloaded. */
  constructor(limit: number, log: (error: unknown) => void) {
    this.#limit = limit;
    this.#log = log;
  }

  stateOf(model: ServableModel): ModelState {
    const entry = this.#entries.get(model);
    if (entry === undefined) return { name: model.name, state: 'unloaded' };
    if (entry.loaded) return { name: model.name, state: 'loaded' };
    return { name: model.name, state: 'loading', progress: entry.progress };
  }

  /**
   * The model, loaded. A load that has begun goes on when the signal is aborted: others will want it.
   *
   * @throws ApiError 503 where it cannot be loaded; the signal's reason where it is aborted.
   */
  async acquire(model: ServableModel, signal: AbortSignal): Promise<Lease> {
    const entry = await this.#entry(model, signal);
    let released = false;
    const release = (broken = false) => {
      if (released) return;
      released = true;
      entry.users -= 1;
      entry.retired ||= broken;
      this.#serve();
    };
    try {
      const loaded = await unlessAborted(entry.loading, signal);
      return { model: loaded, release };
    } catch (cause) {
      release();
      if (signal.aborted) throw signal.reason;
      throw new ApiError(503, `the model ${model.name} could not be loaded`, {
        code: 'model_not_loaded',
        cause,
      });
    }
  }

  /** Unloads everything; to be called when nobody uses a model. */
  async close(): Promise<void> {
    for (const [model, entry] of this.#entries) this.#unload(model, entry);
    await Promise.all(this.#unloading);
  }

  #entry(model: ServableModel, signal: AbortSignal): Promise<Entry> {
    return new Promise((resolve, reject) => {
      const quit = () => {
        this.#line.splice(this.#line.indexOf(waiting), 1);
        reject(signal.reason);
        this.#serve();
      };
      const enter = (entry: Entry) => {
        signal.removeEventListener('abort', quit);
        entry.users += 1;
        resolve(entry);
      };
      const waiting = { model, enter };
      signal.addEventListener('abort', quit, { once: true });
      this.#line.push(waiting);
      this.#serve();
    });
  }

  /** Lets in whoever is first in line, as long as there is room. */
  #serve(): void {
    for (const [model, entry] of this.#entries) {
      if (entry.retired && entry.users === 0) this.#unload(model, entry);
    }
    for (let first = this.#line[0]; first !== undefined; first = this.#line[0]) {
      const entry = this.#usable(first.model) ?? this.#begin(first.model);
      if (entry === undefined) return;
      this.#line.shift();
      this.#touch(first.model, entry);
      first.enter(entry);
    }
  }

  #usable(model: ServableModel): Entry | undefined {
    const entry = this.#entries.get(model);
    return entry?.retired ? undefined : entry;
  }

  /** Starts loading; undefined where models in use or leaving take the room. */
  #begin(model: ServableModel): Entry | undefined {
    if (this.#entries.has(model) || !this.#makeRoom(model.bytes)) return undefined;
    const loading = Promise.resolve().then(() =>
      model.load((event) => {
        entry.progress = event;
      }),
    );
    const entry: Entry = { loading, loaded: false, progress: undefined, users: 0, retired: false };
    loading.then(
      () => {
        entry.loaded = true;
        this.#serve();
      },
      () => {
        this.#entries.delete(model);
        this.#serve();
      },
    );
    return entry;
  }

  /** Unloads what nobody uses, longest unused first, until `bytes` fit; false where they do not fit yet. */
  #makeRoom(bytes: number): boolean {
    const held = () => [...this.#entries.keys()].reduce((sum, model) => sum + model.bytes, 0);
    for (const [model, entry] of this.#entries) {
      if (held() + bytes <= this.#limit) break;
      if (entry.users === 0 && entry.loaded) this.#unload(model, entry);
    }
    return held() + this.#leaving + bytes <= this.#limit;
  }

  #unload(model: ServableModel, { loading }: Entry): void {
    this.#entries.delete(model);
    this.#leaving += model.bytes;
    const gone = loading
      .then((loaded) => loaded.dispose())
      .catch(this.#log)
      .finally(() => {
        this.#leaving -= model.bytes;
        this.#unloading.delete(gone);
        this.#serve();
      });
    this.#unloading.add(gone);
  }

  #touch(model: ServableModel, entry: Entry): void {
    this.#entries.delete(model);
    this.#entries.set(model, entry);
  }
}

function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const quit = () => reject(signal.reason);
    if (signal.aborted) return quit();
    signal.addEventListener('abort', quit, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', quit));
  });
}
