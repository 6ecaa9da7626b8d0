/**
 * Two programs that do the same work, timed in turn: ours, theirs, ours, theirs, so that a machine whose speed
 * drifts slows both. Each is a process that says `ready`, perhaps with the bytes that are resident, runs once for each
 * line it reads and answers with seconds; when its input ends it answers with its peak memory in bytes.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';

export interface Measured {
  readonly seconds: readonly number[];
  readonly peakBytes: number;
  /** Before the first run, of programs that tell. */
  readonly residentBytes: number;
}

class Peer {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  #errors = '';

  constructor(command: string, args: readonly string[]) {
    this.#child = spawn(command, args);
    this.#child.stderr.on('data', (chunk: Buffer) => {
      this.#errors += chunk.toString();
    });
    this.#child.on('error', (error) => {
      this.#errors += error.message;
    });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async answer(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`the benchmark process ended: ${this.#errors.trim().split('\n').at(-1) ?? ''}`);
    return value;
  }

  async run(): Promise<number> {
    this.#child.stdin.write('\n');
    return Number(await this.answer());
  }

  async finish(): Promise<number> {
    this.#child.stdin.end();
    const peak = Number(await this.answer());
    if (this.#child.exitCode === null) await once(this.#child, 'exit');
    return peak;
  }
}

/** Between turns: threads of the one that had its turn wait actively for a while, on a core that the other one wants. */
const PAUSE_MS = 250;

export type Command = readonly [command: string, args: readonly string[]];

/** Times two commands `runs` times each, alternating, after each has run once to warm up. */
export async function alternate(
  commands: readonly [Command, Command],
  runs: number,
): Promise<[Measured, Measured]> {
  const peers = commands.map(([command, args]) => new Peer(command, args)) as [Peer, Peer];
  const resident: number[] = [];
  for (const peer of peers) resident.push(Number((await peer.answer()).split(' ')[1]));
  const seconds: [number[], number[]] = [[], []];
  for (let i = 0; i < runs; i++) {
    for (const side of [0, 1] as const) {
      await setTimeout(PAUSE_MS);
      seconds[side].push(await peers[side].run());
    }
  }
  const measured = async (side: 0 | 1): Promise<Measured> => ({
    seconds: seconds[side],
    peakBytes: await peers[side].finish(),
    residentBytes: resident[side] ?? Number.NaN,
  });
  return [await measured(0), await measured(1)];
}

/** The same for commands that do not fit into memory together: each time one is started, runs twice, and ends. */
export async function alternateAlone(
  commands: readonly [Command, Command],
  runs: number,
): Promise<[Measured, Measured]> {
  const measured = commands.map(() => ({ seconds: [] as number[], peakBytes: 0, residentBytes: 0 }));
  for (let i = 0; i < runs; i++) {
    for (const [side, command] of commands.entries()) {
      const peer = new Peer(...command);
      const own = measured[side] as (typeof measured)[number];
      own.residentBytes = Number((await peer.answer()).split(' ')[1]);
      own.seconds.push(await peer.run());
      own.peakBytes = Math.max(own.peakBytes, await peer.finish());
    }
  }
  const [ours, theirs] = measured;
  return [ours as Measured, theirs as Measured];
}
