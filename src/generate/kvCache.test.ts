import { expect, test } from 'vitest';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import type { DecoderConfig } from '../model/config.ts';
import { f32 } from '../model/feeds.ts';
import { CACHE_BLOCK, type CacheRow, cacheBytesPerPosition, KvCache } from './kvCache.ts';

const config = { layers: 2, kvHeads: 2, headSize: 3 } as DecoderConfig;

/** Writes `count` positions of a value into a row of every tensor. */
async function fill(device: CountingDevice, cache: KvCache, row: CacheRow, count: number, value: number) {
  const data = new Float32Array(2 * count * 3).fill(value);
  const from = f32(data, [1, 2, count, 3]);
  await device.copy(Object.values(cache.writes(row)).map((target) => ({ from, target })));
  cache.advance(row, count);
}

/** The values of a row, one for each slot of a head; all heads and elements must agree. */
async function values(device: CountingDevice, cache: KvCache, { index }: CacheRow): Promise<number[]> {
  const { data, shape } = await device.download(cache.feeds()['past_values.1']!);
  expect(shape).toEqual([cache.rows, 2, cache.capacity, 3]);
  const size = 2 * cache.capacity * 3;
  const row = Array.from(data as Float32Array).slice(index * size, (index + 1) * size);
  const slots = Array.from({ length: cache.capacity }, (_, i) => row[3 * i]!);
  const head = slots.flatMap((value) => [value, value, value]);
  expect(row).toEqual([...head, ...head]);
  return slots;
}

test('a row grows by blocks and keeps what it holds', async () => {
  const device = new CountingDevice();
  const cache = new KvCache(device, config, { block: 4 });
  expect([cache.rows, cache.capacity]).toEqual([0, 0]);
  const row = await cache.open(3);
  await fill(device, cache, row, 3, 1);
  const before = cache.feeds()['past_keys.0'];
  await cache.reserve(4);
  expect(cache.feeds()['past_keys.0']).toBe(before);
  await cache.reserve(5);
  expect([cache.rows, cache.capacity]).toEqual([1, 8]);
  await fill(device, cache, row, 2, 2);
  expect(row.length).toBe(5);
  expect(device.live).toBe(4);
  expect(await values(device, cache, row)).toEqual([1, 1, 1, 2, 2, 0, 0, 0]);
});

test('rows are added by doubling, up to the most there may be', async () => {
  const device = new CountingDevice();
  const cache = new KvCache(device, config, { block: 2, maxRows: 5 });
  const rows: CacheRow[] = [];
  const sizes: number[] = [];
  for (let i = 1; i <= 5; i++) {
    const row = await cache.open(2);
    await fill(device, cache, row, 2, i);
    rows.push(row);
    sizes.push(cache.rows);
  }
  expect(sizes).toEqual([1, 2, 4, 4, 5]);
  for (const [i, row] of rows.entries()) expect(await values(device, cache, row)).toEqual([i + 1, i + 1]);
  await expect(cache.open(2)).rejects.toThrow('all 5 rows');
  cache.close(rows[2]!);
  expect((await cache.open(2)).index).toBe(2);
  expect(() => cache.close(rows[2]!)).toThrow('was given back');
  expect(device.live).toBe(4);
});

test('one new position of several rows goes behind the used slots of each', async () => {
  const device = new CountingDevice();
  const cache = new KvCache(device, config, { block: 4, maxRows: 4 });
  const rows = [await cache.open(4), await cache.open(4), await cache.open(4)];
  for (const [i, row] of rows.entries()) await fill(device, cache, row, i + 1, 1);
  // [1, K, R, E]: each row's keys and values are its index + 5.
  const step = f32(
    Float32Array.from({ length: 2 * 4 * 3 }, (_, i) => 5 + (Math.floor(i / 3) % 4)),
    [1, 2, 4, 3],
  );
  const appended = [rows[0]!, rows[2]!];
  await device.copy(Object.values(cache.appends(appended)).map((target) => ({ from: step, target })));
  for (const row of appended) cache.advance(row, 1);
  expect(await values(device, cache, rows[0]!)).toEqual([1, 5, 0, 0]);
  expect(await values(device, cache, rows[1]!)).toEqual([1, 1, 0, 0]);
  expect(await values(device, cache, rows[2]!)).toEqual([1, 1, 1, 7]);
});

test('shrinks when fewer rows and slots have been enough for a while', async () => {
  const device = new CountingDevice();
  const cache = new KvCache(device, config, { block: 2, maxRows: 8 });
  const rows: CacheRow[] = [];
  for (let i = 0; i < 5; i++) rows.push(await cache.open(i === 0 ? 7 : 2));
  await fill(device, cache, rows[4]!, 2, 9);
  for (const row of rows.slice(0, 4)) cache.close(row);
  const settle = async (steps: number) => {
    for (let i = 0; i < steps; i++) await cache.settle();
  };
  await settle(31);
  expect([cache.rows, cache.capacity, rows[4]!.index]).toEqual([8, 8, 4]);
  await settle(1);
  expect([cache.rows, cache.capacity, rows[4]!.index]).toEqual([1, 4, 0]);
  expect(await values(device, cache, rows[4]!)).toEqual([9, 9, 0, 0]);
  expect(device.live).toBe(4);
});

test('is not shrunk while it is needed now and then', async () => {
  const device = new CountingDevice();
  const cache = new KvCache(device, config, { block: 2, maxRows: 2 });
  await cache.open(2);
  for (let i = 0; i < 4; i++) {
    const guest = await cache.open(2);
    await cache.settle();
    cache.close(guest);
    for (let step = 0; step < 20; step++) await cache.settle();
    expect(cache.rows).toBe(2);
  }
});

test('growing that fails leaves everything as it was', async () => {
  const device = new CountingDevice();
  const cache = new KvCache(device, config, { block: 2, maxRows: 2 });
  const row = await cache.open(2);
  await fill(device, cache, row, 2, 3);
  const zeros = device.zeros.bind(device);
  let left = 2;
  device.zeros = async (...shape) => {
    if (left-- === 0) throw new Error('no memory');
    return zeros(...shape);
  };
  await expect(cache.open(2)).rejects.toThrow('no memory');
  expect([cache.rows, cache.capacity, device.live]).toEqual([1, 2, 4]);
  expect(await values(device, cache, row)).toEqual([3, 3]);
});

test('adding slots that fails leaves everything as it was', async () => {
  const device = new CountingDevice();
  const cache = new KvCache(device, config, { block: 2 });
  const row = await cache.open(2);
  await fill(device, cache, row, 2, 3);
  device.resize = async () => {
    throw new Error('no memory');
  };
  await expect(cache.reserve(3)).rejects.toThrow('no memory');
  expect([cache.rows, cache.capacity, device.live]).toEqual([1, 2, 4]);
  expect(await values(device, cache, row)).toEqual([3, 3]);
});

test('a row is written from the start again after clear, and free leaves nothing', async () => {
  const device = new CountingDevice();
  const cache = new KvCache(device, config);
  const row = await cache.open(1);
  expect(cache.capacity).toBe(CACHE_BLOCK);
  await fill(device, cache, row, 1, 1);
  cache.clear(row);
  expect(cache.writes(row)['keys.0']?.blocks).toEqual([{ at: [0, 0, 0] }]);
  expect(cache.capacity).toBe(CACHE_BLOCK);
  await cache.free();
  await cache.free();
  expect([device.live, cache.capacity, cache.rows]).toEqual([0, 0, 0]);
});

test('counts its bytes', () => {
  expect(cacheBytesPerPosition(config)).toBe(2 * 2 * 2 * 3 * 4);
});
