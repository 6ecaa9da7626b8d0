/**
 * Programs run one after the other, each with what the one before made for it. Knows nothing of devices: a run and
 * the freeing of tensors are given to it.
 */
import type { Feed, HostTensor, ResidentTensor, RunOptions, RunResult } from './types.ts';

type Feeds = Readonly<Record<string, Feed>>;

/** One run of a chain. */
export interface ChainLink {
  readonly feeds: Feeds;
  readonly write?: RunOptions['write'];
  /** Outputs that the next run takes, by the names of its inputs. */
  readonly next?: Readonly<Record<string, string>>;
}

export interface RunnableLink extends ChainLink {
  run(feeds: Feeds, options: RunOptions): Promise<RunResult>;
}

/** Outputs of all runs but those that were written or taken by the next one, which are freed after it. */
export async function runLinks(
  links: readonly RunnableLink[],
  free: (tensors: readonly ResidentTensor[]) => Promise<void>,
): Promise<Readonly<Record<string, HostTensor>>> {
  const outputs: Record<string, HostTensor> = {};
  let taken: Readonly<Record<string, ResidentTensor>> = {};
  try {
    for (const { feeds, write = {}, next = {}, run } of links) {
      const result = await run({ ...feeds, ...taken }, { write, keep: Object.values(next) });
      Object.assign(outputs, result.outputs);
      const read = Object.values(taken);
      taken = Object.fromEntries(
        Object.entries(next).map(([name, output]) => [name, result.kept[output] as ResidentTensor]),
      );
      await free(read);
    }
    return outputs;
  } finally {
    await free(Object.values(taken));
  }
}
