/**
 * Compiled stages by name: compiled when they are first used, disposed of when nobody uses them. Knows nothing of
 * what they compute.
 */
import type { Executable } from '../runtime/types.ts';

/** A stage's name, and how it is compiled. */
export interface Stage {
  readonly name: string;
  readonly load: () => Promise<Executable>;
}

interface Entry {
  readonly loading: Promise<Executable>;
  users: number;
}

export class StageCache {
  readonly #entries = new Map<string, Entry>();

  /** Works with a stage, which is compiled where it is not there. One that fails is forgotten. */
  async use<T>({ name, load }: Stage, work: (stage: Executable) => Promise<T>): Promise<T> {
    const entry = this.#entries.get(name) ?? { loading: load(), users: 0 };
    this.#entries.set(name, entry);
    entry.users += 1;
    try {
      const stage = await entry.loading.catch((error: unknown) => {
        this.#entries.delete(name);
        throw error;
      });
      return await work(stage);
    } finally {
      entry.users -= 1;
    }
  }

  /** Works with several stages, compiled one after the other. */
  async useAll<T>(
    [first, ...others]: readonly Stage[],
    work: (stages: readonly Executable[]) => Promise<T>,
  ): Promise<T> {
    if (first === undefined) return work([]);
    return this.use(first, (stage) => this.useAll(others, (stages) => work([stage, ...stages])));
  }

  /** Disposes of the stage `name` unless someone works with it. */
  async drop(name: string): Promise<void> {
    const entry = this.#entries.get(name);
    if (entry === undefined || entry.users > 0) return;
    this.#entries.delete(name);
    await (await entry.loading).dispose();
  }

  /** Disposes of everything. */
  async dispose(): Promise<void> {
    const entries = [...this.#entries.values()];
    this.#entries.clear();
    for (const stage of await Promise.allSettled(entries.map(({ loading }) => loading))) {
      if (stage.status === 'fulfilled') await stage.value.dispose();
    }
  }
}
