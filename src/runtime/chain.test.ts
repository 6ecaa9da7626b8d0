import { afterAll, describe, expect, it } from 'vitest';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { add, input, matMul, program } from '../graph/index.ts';
import type { Device, HostTensor } from './types.ts';
import { WorkerDevice } from './workerDevice.ts';

const f32 = (shape: readonly number[], ...values: number[]): HostTensor => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from(values),
});

const a = input('a', 'f32', ['B', 2]);
const product = program('product', { y: matMul(a, input('b', 'f32', [2, 2])), z: add(a, 1) });

const counting = new CountingDevice();
const devices: readonly (readonly [string, Device])[] = [
  ['in this thread', counting],
  ['in a worker', new WorkerDevice({ threads: 1 })],
];
afterAll(async () => {
  for (const [, device] of devices) await device.close();
});

describe.each(devices)('a chain of programs %s', (_, device) => {
  it('passes outputs on, writes others, and gives the rest', async () => {
    const executable = await device.load(product);
    const doubling = await device.upload(f32([2, 2], 2, 0, 0, 2));
    const cache = await device.zeros('f32', [2, 2]);
    const before = counting.live;
    const first = f32([1, 2], 1, 2);
    const outputs = await device.runChain([
      {
        executable,
        feeds: { a: first, b: doubling },
        write: { z: { to: cache, blocks: [{ at: [1] }] } },
        next: { a: 'y' },
      },
      { executable, feeds: { b: doubling }, next: { a: 'z' } },
      { executable, feeds: { b: doubling } },
    ]);
    // (1, 2) → (2, 4) → with one added (3, 5) → (6, 10); the second run's own product is overwritten by the third's.
    expect(outputs).toEqual({ y: f32([1, 2], 6, 10), z: f32([1, 2], 4, 6) });
    expect((await device.download(cache)).data).toEqual(Float32Array.of(0, 0, 2, 3));
    expect([...first.data]).toEqual([1, 2]);
    expect(counting.live).toBe(before);
    await device.free([doubling, cache]);
  });

  it('fails as the run that failed, and leaves nothing', async () => {
    const executable = await device.load(product);
    const b = f32([2, 2], 1, 0, 0, 1);
    const before = counting.live;
    const chain = device.runChain([
      { executable, feeds: { a: f32([1, 2], 1, 2), b }, next: { a: 'y' } },
      { executable, feeds: {} },
    ]);
    await expect(chain).rejects.toThrow('product: no value for the input b');
    expect(counting.live).toBe(before);
  });
});
