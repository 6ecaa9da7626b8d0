import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { UserError } from '../common/errors.ts';
import { add, input, matMul, program, type Tensor } from '../graph/index.ts';
import type { HostTensor, ResidentTensor } from './types.ts';
import { WorkerDevice } from './workerDevice.ts';

const f32 = (shape: readonly number[], ...values: number[]): HostTensor => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from(values),
});

const a = input('a', 'f32', ['B', 2]);
const b = input('b', 'f32', [2, 2]);
const product = program('product', { y: matMul(a, b), z: add(a, 1) });
const identity = f32([2, 2], 1, 0, 0, 1);

const square = input('x', 'f32', ['N', 'N']);
/** `steps` matrix products in a row. */
function slow(steps: number) {
  let x: Tensor = square;
  for (let i = 0; i < steps; i++) x = matMul(x, square);
  return program('slow', { y: x });
}
const large = (n: number): HostTensor => ({ dtype: 'f32', shape: [n, n], data: new Float32Array(n * n) });

let device: WorkerDevice;
beforeAll(() => {
  device = new WorkerDevice({ threads: 1 });
});
afterAll(() => device.close());

const failureOf = (action: Promise<unknown>): Promise<Error> =>
  action.then(
    () => Promise.reject(new Error('expected a rejection')),
    (error: Error) => error,
  );

describe('WorkerDevice runs', () => {
  it('gives outputs, keeps and writes residents, and leaves the feeds alone', async () => {
    const executable = await device.load(product);
    const whole = Float32Array.of(9, 9, 1, 2, 3, 4);
    const view: HostTensor = { dtype: 'f32', shape: [2, 2], data: whole.subarray(2) };
    const weight = await device.upload(f32([2, 2], 2, 0, 0, 2));
    const cache = await device.zeros('f32', [3, 2]);
    const { outputs, kept } = await executable.run(
      { a: view, b: weight },
      { keep: ['z'], write: { y: { to: cache, blocks: [{ at: [1] }] } } },
    );
    expect(outputs).toEqual({});
    expect([...whole]).toEqual([9, 9, 1, 2, 3, 4]);
    expect((await device.download(cache)).data).toEqual(Float32Array.of(0, 0, 2, 4, 6, 8));
    expect(await device.download(kept.z as ResidentTensor)).toEqual(f32([2, 2], 2, 3, 4, 5));
    const again = await executable.run({ a: cache, b: identity });
    expect(again.outputs.y).toEqual(f32([3, 2], 0, 0, 2, 4, 6, 8));
    await device.free([weight]);
    expect((await failureOf(device.download(weight))).message).toMatch(
      /internal: resident tensor \d+ was freed/,
    );
  });

  it('moves the feeds that may be moved', async () => {
    const executable = await device.load(product);
    const moved = f32([1, 2], 5, 6);
    const { outputs } = await executable.run({ a: moved, b: identity }, { transfer: ['a'] });
    expect(outputs.y?.data).toEqual(Float32Array.of(5, 6));
    expect(moved.data.length).toBe(0);
    expect(identity.data.length).toBe(4);
  });

  it('reads files, copies, takes norms and updates weights in the worker', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'device-'));
    const file = path.join(dir, 'weights');
    await writeFile(file, new Uint8Array(Uint16Array.of(0, 0x4040, 0x4080).buffer));
    const weight = await device.readFile({ file, begin: 2, byteLength: 4, dtype: 'BF16', shape: [2] });
    const missing = { file: `${file}x`, begin: 0, byteLength: 4, dtype: 'F32', shape: [1] } as const;
    expect((await failureOf(device.readFile(missing))).message).toContain('ENOENT');
    const short = await failureOf(
      device.readFile({ file, begin: 4, byteLength: 4, dtype: 'BF16', shape: [2] }),
    );
    await rm(dir, { recursive: true });
    expect(short).toBeInstanceOf(UserError);
    expect(short.message).toBe(`${file}: the file ended 2 bytes early`);
    expect(await device.norms([weight])).toEqual([5]);
    const [gradient, firstMoment, secondMoment] = [
      await device.upload(f32([2], 1, -1)),
      await device.zeros('f32', [2]),
      await device.zeros('f32', [2]),
    ];
    const tensors = { weight, gradient, firstMoment, secondMoment, learningRate: 0.5, weightDecay: 0 };
    const options = { step: 1, beta1: 0.9, beta2: 0.999, epsilon: 0, gradientScale: 1 };
    await device.adamW([tensors], options);
    const target = { to: gradient };
    await device.copy([{ from: weight, target }]);
    const { data } = await device.download(gradient);
    expect(data[0]).toBeCloseTo(2.5, 5);
    expect(data[1]).toBeCloseTo(4.5, 5);
  });

  it('copies several tensors at once, and takes the memory of those it may', async () => {
    const [to, other] = [await device.zeros('f32', [2, 2]), await device.zeros('f32', [2])];
    const [kept, given] = [f32([1, 2], 1, 2), f32([2], 3, 4)];
    await device.copy([
      { from: kept, target: { to, blocks: [{ at: [0] }, { at: [1] }] } },
      { from: given, target: { to: other }, transfer: true },
    ]);
    expect((await device.download(to)).data).toEqual(Float32Array.of(1, 2, 1, 2));
    expect((await device.download(other)).data).toEqual(Float32Array.of(3, 4));
    expect([kept.data.length, given.data.length]).toEqual([2, 0]);
  });

  it('answers calls in the order they were made', async () => {
    const executable = await device.load(product);
    const order: number[] = [];
    const cache = await device.zeros('f32', [1, 2]);
    const write = { y: { to: cache } };
    await Promise.all(
      Array.from({ length: 6 }, async (_, i) => {
        if (i % 2 === 0) await executable.run({ a: f32([1, 2], i, i), b: identity }, { write });
        else expect((await device.download(cache)).data).toEqual(Float32Array.of(i - 1, i - 1));
        order.push(i);
      }),
    );
    expect(order).toEqual([0, 1, 2, 3, 4, 5]);
  });

  it('leaves the event loop free', async () => {
    const executable = await device.load(slow(16));
    const feed = large(900);
    let [ticks, longest, last] = [0, 0, performance.now()];
    const timer = setInterval(() => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
      ticks += 1;
    }, 5);
    const start = performance.now();
    await executable.run({ x: feed });
    const took = performance.now() - start;
    clearInterval(timer);
    await executable.dispose();
    expect(took).toBeGreaterThan(50);
    expect(ticks).toBeGreaterThan(3);
    expect(longest).toBeLessThan(took / 2);
  });
});

describe('WorkerDevice errors', () => {
  it('tells of wrong feeds and programs, and goes on', async () => {
    const executable = await device.load(product);
    expect((await failureOf(executable.run({ a: identity }))).message).toBe(
      'product: no value for the input b',
    );
    const wrong = await failureOf(executable.run({ a: f32([1, 3], 1, 2, 3), b: identity }));
    expect(wrong.message).toMatch(/product: a is \[1, 3\], expected \[B, 2\]/);
    await executable.dispose();
    await executable.dispose();
    expect((await failureOf(executable.run({ a: identity, b: identity }))).message).toMatch(
      /internal: session/,
    );
    expect((await device.zeros('f32', [1])).shape).toEqual([1]);
  });

  it('takes back a run that waits, and lets one end that has started', async () => {
    const executable = await device.load(product);
    const slowly = await device.load(slow(4));
    const controller = new AbortController();
    const { signal } = controller;
    const cache = await device.zeros('f32', [1, 2]);
    const started = slowly.run({ x: large(256) }, { signal });
    const write = { y: { to: cache } };
    const waiting = failureOf(executable.run({ a: f32([1, 2], 1, 1), b: identity }, { signal, write }));
    const other = executable.run({ a: f32([1, 2], 3, 4), b: identity });
    const reason = new Error('stopped by the user');
    controller.abort(reason);
    expect(await waiting).toBe(reason);
    expect((await started).outputs.y?.shape).toEqual([256, 256]);
    expect((await other).outputs.y?.data).toEqual(Float32Array.of(3, 4));
    expect((await device.download(cache)).data).toEqual(Float32Array.of(0, 0));
    expect(await failureOf(executable.run({ a: identity, b: identity }, { signal }))).toBe(reason);
  });

  it('rejects everything after close, and closes once', async () => {
    const closed = new WorkerDevice({ threads: 1 });
    const executable = await closed.load(slow(8));
    const pending = [executable.run({ x: large(400) }), closed.zeros('f32', [1])].map(failureOf);
    const closing = closed.close();
    expect(closed.close()).toBe(closing);
    for (const error of await Promise.all(pending)) expect(error.message).toBe('cpu: the device was closed');
    await closing;
    const later = await failureOf(closed.zeros('f32', [1]));
    expect(later).toBeInstanceOf(UserError);
    expect((await failureOf(executable.run({ x: large(2) }))).message).toBe('cpu: the device was closed');
    await executable.dispose();
  });

  it('rejects everything when the thread ends by itself', async () => {
    const sent = vi.spyOn(Worker.prototype, 'postMessage');
    const broken = new WorkerDevice({ threads: 1 });
    const pending = [broken.load(product), broken.zeros('f32', [1])].map(failureOf);
    await (sent.mock.contexts[0] as Worker).terminate();
    sent.mockRestore();
    for (const error of [...(await Promise.all(pending)), await failureOf(broken.norms([]))]) {
      expect(error).toBeInstanceOf(UserError);
      expect(error.message).toMatch(/^cpu: the device's thread stopped unexpectedly: exit code \d$/);
    }
    await broken.close();
  });
});

describe('a process with a WorkerDevice', () => {
  const file = new URL('./workerDevice.ts', import.meta.url).href;
  const run = (body: string) => {
    const script = `import { WorkerDevice } from '${file}'; const d = new WorkerDevice({ threads: 1 }); ${body}`;
    const args = ['--import', 'tsx', '--input-type=module', '-e', script];
    return promisify(execFile)(process.execPath, args, { timeout: 30_000 });
  };

  it('ends when the device is closed, and when it is idle', async () => {
    const used = "console.log((await d.zeros('f32', [3])).shape[0]);";
    expect((await run(`${used} await d.close(); console.log('closed')`)).stdout).toBe('3\nclosed\n');
    expect((await run(used)).stdout).toBe('3\n');
  });
});
