import { expect, test } from 'vitest';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import type { DecoderConfig } from '../model/config.ts';
import { f32 } from '../model/feeds.ts';
import { CACHE_BLOCK, cacheBytesPerPosition, KvCache } from './kvCache.ts';

const config = { layers: 2, kvHeads: 2, headSize: 3 } as DecoderConfig;

/** Writes `rows` positions into every tensor of the cache; the n-th element of a row's head is known. */
async function fill(device: CountingDevice, cache: KvCache, rows: number, value: number): Promise<void> {
  const data = new Float32Array(2 * rows * 3).fill(value);
  for (const target of Object.values(cache.writes())) {
    const from = await device.upload(f32(data, [1, 2, rows, 3]));
    await device.copy(from, target);
    await device.free([from]);
  }
  cache.advance(rows);
}

test('grows by blocks and keeps what it holds', async () => {
  const device = new CountingDevice();
  const cache = new KvCache(device, config, 4);
  expect(cache.capacity).toBe(0);
  await cache.reserve(3);
  await fill(device, cache, 3, 1);
  const before = cache.feeds()['past_keys.0'];
  await cache.reserve(4);
  expect(cache.feeds()['past_keys.0']).toBe(before);
  await cache.reserve(5);
  expect(cache.capacity).toBe(8);
  await fill(device, cache, 2, 2);
  expect(cache.length).toBe(5);
  expect(device.live).toBe(4);
  const { data, shape } = await device.download(cache.feeds()['past_values.1']!);
  expect(shape).toEqual([1, 2, 8, 3]);
  const head = [1, 1, 1, 2, 2, 0, 0, 0].flatMap((value) => [value, value, value]);
  expect(Array.from(data as Float32Array)).toEqual([...head, ...head]);
});

test('is written from the start again after clear, and free leaves nothing', async () => {
  const device = new CountingDevice();
  const cache = new KvCache(device, config);
  await cache.reserve(1);
  expect(cache.capacity).toBe(CACHE_BLOCK);
  await fill(device, cache, 1, 1);
  cache.clear();
  expect(cache.writes()['keys.0']?.offset).toBe(0);
  expect(cache.capacity).toBe(CACHE_BLOCK);
  await cache.free();
  await cache.free();
  expect([device.live, cache.capacity, cache.length]).toEqual([0, 0, 0]);
});

test('counts its bytes', () => {
  expect(cacheBytesPerPosition(config)).toBe(2 * 2 * 2 * 3 * 4);
});
