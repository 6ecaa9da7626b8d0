/**
 * Memory of freed tensors, given back when it is much. A typed array's memory is freed when the collector finds
 * it, and the collector looks at the small JavaScript heap: gigabytes of dead gradients would wait for it.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Bytes that may be dead before the collector is called: a collection takes about 10 ms. */
const LIMIT = 128 * 1024 * 1024;

let collect: (() => void) | undefined;

function collector(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}

/** Counts bytes that were freed and collects them once they are many. */
export class FreedBytes {
  #bytes = 0;

  add(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes < LIMIT) return;
    this.#bytes = 0;
    collect ??= collector();
    collect();
  }
}
