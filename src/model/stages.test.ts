/** A group of decoder layers: positions read at once, in two steps, and side by side with another sequence's. */
import { expect, it } from 'vitest';
import { GOLDEN } from '../../test/support/checkpoints.ts';
import { device } from '../../test/support/lowered.ts';
import { Random } from '../common/random.ts';
import type { HostTensor } from '../runtime/types.ts';
import { readFusionConfig } from './config.ts';
import { f32, i32, rotaryFeeds, rotaryRowFeeds } from './feeds.ts';
import { layersStage } from './stages.ts';
import { expectedTensors } from './weights.ts';

const config = await readFusionConfig(`${GOLDEN}/llama-small`);
const { hiddenSize: D, kvHeads: K, headSize: E } = config.decoder;
const random = new Random('stages');
const normal = (shape: readonly number[], std: number): HostTensor => {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  random.fillNormal(data, std);
  return f32(data, shape);
};
const group = { first: 0, last: 1, interaction: undefined };
const names = ['keys.0', 'values.0', 'keys.1', 'values.1'];
const weights = new Map(
  [...expectedTensors(config)]
    .filter(([name]) => /^model\.layers\.[01]\./.test(name))
    .map(([name, shape]) => [name, normal(shape, 0.2)] as const),
);
const inputs = new Map([...weights].map(([name, { dtype, shape }]) => [name, { dtype, shape }]));
const stage = await device.load(layersStage({ config, weights: { inputs, rounded: new Map() } }, group));

type Cache = Readonly<Record<string, HostTensor>>;

/** Runs `count` new positions of each sequence. past: [Q, K, C, E] of each name; used: slots used of each row. */
async function run(states: HostTensor, count: number, past: Cache, used: readonly number[], rotary: Cache) {
  const { outputs } = await stage.run({
    ...Object.fromEntries(weights),
    ...rotary,
    ...Object.fromEntries(names.map((name) => [`past_${name}`, past[name]!])),
    states,
    steps: i32(Int32Array.from({ length: count }, (_, i) => i)),
    length: i32(Int32Array.from(used)),
  });
  return outputs;
}

const none = (sequences: number): Cache =>
  Object.fromEntries(names.map((name) => [name, f32(new Float32Array(0), [sequences, K, 0, E])]));

const rowsOf = (states: HostTensor, from: number, to: number): HostTensor =>
  f32((states.data as Float32Array).slice(from * D, to * D), [1, to - from, D]);

/** Keys or values [1, K, S, E] in the first slots of a row of `slots`; the others hold what must not be seen. */
function inSlots(kept: HostTensor, slots: number): Float32Array {
  const row = new Float32Array(K * slots * E).fill(7);
  const positions = kept.shape[2]!;
  for (let k = 0; k < K; k++) {
    row.set((kept.data as Float32Array).subarray(k * positions * E, (k + 1) * positions * E), k * slots * E);
  }
  return row;
}

function expectNear(got: ArrayLike<number>, expected: ArrayLike<number>): void {
  expect(got.length).toBe(expected.length);
  for (let i = 0; i < got.length; i++) expect(got[i]).toBeCloseTo(expected[i]!, 4);
}

it('reads positions in two steps as at once', async () => {
  const states = normal([1, 7, D], 1);
  const all = await run(states, 7, none(1), [0], rotaryFeeds(config.decoder, 0, 7, 7));
  const first = await run(rowsOf(states, 0, 4), 4, none(1), [0], rotaryFeeds(config.decoder, 0, 4, 4));
  const cache = Object.fromEntries(names.map((name) => [name, f32(inSlots(first[name]!, 6), [1, K, 6, E])]));
  const rest = await run(rowsOf(states, 4, 7), 3, cache, [4], rotaryFeeds(config.decoder, 4, 3, 7));
  expectNear(rest.next_states!.data as Float32Array, (all.next_states!.data as Float32Array).slice(4 * D));
  expectNear(
    first.next_states!.data as Float32Array,
    (all.next_states!.data as Float32Array).slice(0, 4 * D),
  );
});

it('keeps sequences side by side apart', async () => {
  const sequences = [normal([1, 5, D], 1), normal([1, 3, D], 1)];
  const [lengths, expected, rows] = [[4, 2], [], []] as [
    number[],
    Float32Array[],
    Record<string, Float32Array>[],
  ];
  for (const [q, states] of sequences.entries()) {
    const length = lengths[q]!;
    const whole = await run(
      states,
      length + 1,
      none(1),
      [0],
      rotaryFeeds(config.decoder, 0, length + 1, length + 1),
    );
    expected.push((whole.next_states!.data as Float32Array).slice(length * D));
    const tables = rotaryFeeds(config.decoder, 0, length, length);
    const before = await run(rowsOf(states, 0, length), length, none(1), [0], tables);
    rows.push(Object.fromEntries(names.map((name) => [name, inSlots(before[name]!, 4)])));
  }
  const joined = (parts: readonly Float32Array[]) => Float32Array.from(parts.flatMap((part) => [...part]));
  const cache = Object.fromEntries(
    names.map((name) => [name, f32(joined(rows.map((row) => row[name]!)), [2, K, 4, E])]),
  );
  const last = joined(sequences.map((states, q) => (states.data as Float32Array).slice(lengths[q]! * D)));
  const tables = rotaryRowFeeds(config.decoder, lengths);
  const step = await run(f32(last, [1, 2, D]), 1, cache, lengths, tables);
  expectNear(step.next_states!.data as Float32Array, joined(expected));
  expect(step['keys.0']!.shape).toEqual([1, K, 2, E]);
});
