/** The device in this thread: what it checks, what it keeps, and the updates it makes in place. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { f32ToBf16, f32ToF16 } from '../common/numberFormats.ts';
import { Random } from '../common/random.ts';
import * as f from '../graph/functions.ts';
import { program } from '../graph/program.ts';
import { input } from '../graph/tensor.ts';
import { LocalDevice } from './localDevice.ts';
import type { Executable, HostTensor } from './types.ts';

const device = new LocalDevice({ threads: 1 });

const f32 = (shape: readonly number[], ...values: number[]): HostTensor => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from(values),
});

const a = input('a', 'f32', ['N', 2]);
const b = input('b', 'f32', ['N', 1]);
const traced = program('sums', { sum: f.add(a, b), product: f.multiply(a, b) });

const A = f32([2, 2], 1, 2, 3, 4);
const B = f32([2, 1], 10, 20);

describe('run', () => {
  let loaded: Executable;
  beforeAll(async () => {
    loaded = await device.load(traced);
  });

  it('returns every output', async () => {
    const { outputs, kept } = await loaded.run({ a: A, b: B });
    expect(outputs).toEqual({ sum: f32([2, 2], 11, 12, 23, 24), product: f32([2, 2], 10, 20, 60, 80) });
    expect(kept).toEqual({});
    expect((await loaded.run({ a: f32([0, 2]), b: f32([0, 1]) })).outputs.sum).toEqual(f32([0, 2]));
  });

  it('names the feed that is missing or of another dtype', async () => {
    await expect(loaded.run({ a: A })).rejects.toThrow('sums: no value for the input b');
    const wrong: HostTensor = { dtype: 'i32', shape: [2, 1], data: Int32Array.of(1, 2) };
    await expect(loaded.run({ a: A, b: wrong })).rejects.toThrow('sums: b is i32, expected f32');
  });

  it('names the feed whose shape does not fit, with both shapes', async () => {
    const run = (shape: readonly number[], ...values: number[]) =>
      loaded.run({ a: A, b: f32(shape, ...values) });
    await expect(run([2, 2], 1, 2, 3, 4)).rejects.toThrow('sums: b is [2, 2], expected [N, 1]');
    await expect(run([2], 1, 2)).rejects.toThrow('sums: b is [2], expected [N, 1]');
    await expect(run([3, 1], 1, 2, 3)).rejects.toThrow('sums: b is [3, 1], expected [N, 1] with N = 2');
  });

  it('checks dimensions that are sums of letters', async () => {
    const y = f.add(f.slice(input('joined', 'f32', ['2+S']), 0, 2, 'S'), input('tail', 'f32', ['S']));
    const summing = await device.load(program('joins', { y }));
    const run = (joined: HostTensor) => summing.run({ joined, tail: f32([1], 10) });
    expect((await run(f32([3], 1, 2, 3))).outputs.y).toEqual(f32([1], 13));
    await expect(run(f32([4], 1, 2, 3, 4))).rejects.toThrow(
      'joins: joined is [4], expected [2+S] with S = 1',
    );
    await summing.dispose();
  });

  it('reads resident tensors in place of host ones', async () => {
    const resident = await device.upload(B);
    expect(resident).toMatchObject({ dtype: 'f32', shape: [2, 1] });
    const { outputs } = await loaded.run({ a: A, b: resident });
    expect(outputs.sum).toEqual(f32([2, 2], 11, 12, 23, 24));
    await device.free([resident]);
    await expect(loaded.run({ a: A, b: resident })).rejects.toThrow('was freed');
    await expect(device.download(resident)).rejects.toThrow('was freed');
  });

  it('keeps an output as a resident tensor', async () => {
    const { outputs, kept } = await loaded.run({ a: A, b: B }, { keep: ['sum'] });
    expect(Object.keys(outputs)).toEqual(['product']);
    expect(await device.download(kept.sum!)).toEqual(f32([2, 2], 11, 12, 23, 24));
    const again = await loaded.run({ a: kept.sum!, b: B });
    expect(again.outputs.sum).toEqual(f32([2, 2], 21, 22, 43, 44));
  });

  it('writes an output into a resident tensor', async () => {
    const cache = await device.zeros('f32', [3, 2]);
    const write = { product: { to: cache, blocks: [{ at: [1] }] } };
    const { outputs } = await loaded.run({ a: A, b: B }, { write });
    expect(Object.keys(outputs)).toEqual(['sum']);
    expect(await device.download(cache)).toEqual(f32([3, 2], 0, 0, 10, 20, 60, 80));
    const beyond = { product: { to: cache, blocks: [{ at: [2] }] } };
    await expect(loaded.run({ a: A, b: B }, { write: beyond })).rejects.toThrow(
      'copy of [2,2] at [0,0] of [2,2] to [2,0] of [3,2] does not fit',
    );
  });
});

describe('resident tensors', () => {
  it('are copies, both ways', async () => {
    const mine = f32([2], 1, 2);
    const resident = await device.upload(mine);
    mine.data[0] = 9;
    const down = await device.download(resident);
    expect(down).toEqual(f32([2], 1, 2));
    down.data[1] = 9;
    expect(await device.download(resident)).toEqual(f32([2], 1, 2));
  });

  it('start as zeros of any dtype', async () => {
    const zeros = await device.download(await device.zeros('i64', [2, 1]));
    expect(zeros).toEqual({ dtype: 'i64', shape: [2, 1], data: new BigInt64Array(2) });
    expect((await device.download(await device.zeros('f32', []))).data.length).toBe(1);
  });

  it('are copied into each other where the dtype agrees', async () => {
    const [to, from] = [await device.zeros('f32', [2, 3]), await device.upload(f32([2, 1], 1, 2))];
    await device.copy([{ from, target: { to, blocks: [{ at: [0, 2] }] } }]);
    expect((await device.download(to)).data).toEqual(Float32Array.of(0, 0, 1, 0, 0, 2));
    const integers = await device.zeros('i32', [2, 1]);
    await expect(device.copy([{ from: integers, target: { to } }])).rejects.toThrow('i32 written into f32');
  });

  it('are given another size together, under their numbers', async () => {
    const before = [await device.upload(f32([2, 1], 1, 2)), await device.upload(f32([2, 1], 3, 4))];
    const after = await device.resize(before, [2, 2]);
    expect(after).toEqual(before.map((tensor) => ({ ...tensor, shape: [2, 2] })));
    expect(await device.download(after[0]!)).toEqual(f32([2, 2], 1, 0, 2, 0));
    expect(await device.download(after[1]!)).toEqual(f32([2, 2], 3, 0, 4, 0));
  });

  it('are as they were where one cannot be given another size', async () => {
    const [one, other] = [await device.upload(f32([2, 1], 1, 2)), await device.upload(f32([3], 1, 2, 3))];
    await expect(device.resize([one, other], [2, 2])).rejects.toThrow('one axis');
    expect(await device.download(one)).toEqual(f32([2, 1], 1, 2));
    expect(await device.download(other)).toEqual(f32([3], 1, 2, 3));
  });

  it('are gone after close', async () => {
    const own = new LocalDevice({ threads: 1 });
    const resident = await own.upload(A);
    await own.close();
    await expect(own.download(resident)).rejects.toThrow('was freed');
  });
});

describe('norms', () => {
  it('are Euclidean, summed in f64, whatever the length', async () => {
    for (const length of [0, 1, 2, 3, 4, 5, 7, 8, 9, 16_384, 16_391]) {
      const values = Array.from({ length }, (_, i) => (i % 1000) + 1);
      const expected = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));
      const [got] = await device.norms([await device.upload(f32([length], ...values))]);
      expect(got! / (expected || 1)).toBeCloseTo(Math.sign(expected), 12);
    }
    const [large] = await device.norms([await device.upload(f32([5], ...Array(5).fill(1e30)))]);
    expect(large! / Math.fround(1e30)).toBeCloseTo(Math.sqrt(5), 12);
  });

  it('need f32', async () => {
    await expect(device.norms([await device.zeros('i32', [2])])).rejects.toThrow('expected a resident f32');
  });
});

describe('adamW', () => {
  const OPTIONS = { beta1: 0.9, beta2: 0.99, epsilon: 1e-6, gradientScale: 0.5 };
  const RATES = { learningRate: 0.01, weightDecay: 0.1 };

  it('follows the published rule over several steps', async () => {
    const random = new Random(3);
    const drawn = () => Array.from({ length: 5 }, () => random.normal());
    const weights = drawn().map(Math.fround);
    const weight = await device.upload(f32([5], ...weights));
    const [firstMoment, secondMoment] = [await device.zeros('f32', [5]), await device.zeros('f32', [5])];
    const [m, v] = [new Array<number>(5).fill(0), new Array<number>(5).fill(0)];
    for (let step = 1; step <= 3; step++) {
      const gradients = drawn().map(Math.fround);
      const gradient = await device.upload(f32([5], ...gradients));
      await device.adamW([{ weight, gradient, firstMoment, secondMoment, ...RATES }], { ...OPTIONS, step });
      for (const [i, raw] of gradients.entries()) {
        const g = raw * OPTIONS.gradientScale;
        m[i] = 0.9 * m[i]! + 0.1 * g;
        v[i] = 0.99 * v[i]! + 0.01 * g * g;
        const [mHat, vHat] = [m[i]! / (1 - 0.9 ** step), v[i]! / (1 - 0.99 ** step)];
        weights[i] = weights[i]! - 0.01 * (mHat / (Math.sqrt(vHat) + 1e-6) + 0.1 * weights[i]!);
      }
    }
    const close = async (tensor: typeof weight, expected: readonly number[]) => {
      const { data } = await device.download(tensor);
      for (const [i, x] of expected.entries()) expect(Number(data[i])).toBeCloseTo(x, 6);
    };
    await close(weight, weights);
    await close(firstMoment, m);
    await close(secondMoment, v);
  });
});

describe('readFile', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'fusion-device-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  const VALUES = Float32Array.of(1, -2.5, 0.125, 3, 65504, -0);

  /** Writes `data` after 3 other bytes, so that ranges are not aligned. */
  function file(name: string, data: Float32Array | Uint16Array): string {
    const path = join(folder, name);
    const content = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    writeFileSync(path, Buffer.concat([Uint8Array.of(1, 2, 3), content, Uint8Array.of(4)]));
    return path;
  }

  it.each([
    ['F32', VALUES],
    ['F16', f32ToF16(VALUES)],
    ['BF16', f32ToBf16(VALUES)],
  ] as const)('reads a range of %s as f32', async (dtype, data) => {
    const bytes = data.BYTES_PER_ELEMENT;
    const range = { file: file(dtype, data), begin: 3 + bytes, byteLength: 4 * bytes, dtype, shape: [2, 2] };
    const read = await device.download(await device.readFile(range));
    const expected = dtype === 'BF16' ? [-2.5, 0.125, 3, 65536] : [-2.5, 0.125, 3, 65504];
    expect(read).toEqual(f32([2, 2], ...expected));
    const empty = await device.readFile({ ...range, byteLength: 0, shape: [0] });
    expect((await device.download(empty)).data).toEqual(new Float32Array(0));
  });

  it('reads a tensor larger than one piece', async () => {
    const length = 8 * 1024 * 1024 + 5;
    const bits = Uint16Array.from({ length }, (_, i) => 0x3f80 + (i % 97));
    const path = file('large', bits);
    const range = { file: path, begin: 3, byteLength: length * 2, dtype: 'BF16', shape: [length] } as const;
    const { data } = await device.download(await device.readFile(range));
    for (const i of [0, 1, length - 6, length - 5, length - 4, length - 1]) {
      expect(data[i]).toBe(1 + (i % 97) / 128);
    }
    expect(data.length).toBe(length);
  });

  it('says when a file ends early', async () => {
    const range = {
      file: file('short', VALUES),
      begin: 23,
      byteLength: 8,
      dtype: 'F32',
      shape: [2],
    } as const;
    await expect(device.readFile(range)).rejects.toThrow('the file ended 3 bytes early');
  });
});
