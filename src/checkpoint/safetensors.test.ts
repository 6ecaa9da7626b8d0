import { mkdtemp, open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { InternalError, UserError } from '../common/errors.ts';
import { openSafetensors, readTensor, writeSafetensors } from './safetensors.ts';

let dir = '';
let file = '';
beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'safetensors-'));
  file = path.join(dir, 't.safetensors');
});
afterAll(() => rm(dir, { recursive: true, force: true }));

/** A file of this header (an object or raw text) and this many bytes of data. */
function craft(header: unknown, dataBytes = 0): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, Buffer.alloc(dataBytes)]);
}

const one = (fields: object) => ({ t: { dtype: 'F32', shape: [2], data_offsets: [0, 8], ...fields } });
const lengthOnly = (length: bigint) => {
  const bytes = Buffer.alloc(16);
  bytes.writeBigUInt64LE(length);
  return bytes;
};

async function failure(action: Promise<unknown>): Promise<Error> {
  const error = await action.then(
    () => new Error('nothing was thrown'),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(Error);
  return error as Error;
}

describe('openSafetensors', () => {
  it('gives dtype, shape, absolute range and metadata', async () => {
    const header = {
      __metadata__: { format: 'pt' },
      b: { dtype: 'BF16', shape: [], data_offsets: [8, 10] },
      a: { dtype: 'I64', shape: [1, 1], data_offsets: [0, 8] },
      none: { dtype: 'F32', shape: [0, 7], data_offsets: [8, 8] },
    };
    const bytes = craft(header, 10);
    bytes.set([7, 9], bytes.length - 2);
    await writeFile(file, bytes);
    const opened = await openSafetensors(file);
    const data = bytes.length - 10;
    expect(opened.metadata).toEqual(new Map([['format', 'pt']]));
    expect(opened.tensors.get('b')).toEqual({ dtype: 'BF16', shape: [], begin: data + 8, byteLength: 2 });
    expect(opened.tensors.get('none')).toEqual({
      dtype: 'F32',
      shape: [0, 7],
      begin: data + 8,
      byteLength: 0,
    });
    expect(await readTensor(opened, 'b')).toEqual(Uint8Array.of(7, 9));
    expect((await failure(readTensor(opened, 'c'))).message).toBe(
      `${file}: expected tensor c, got none of that name among 3`,
    );
  });

  it('takes an empty header and a tensor named __proto__', async () => {
    await writeFile(file, craft({}));
    expect((await openSafetensors(file)).tensors.size).toBe(0);
    await writeFile(file, craft('{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1));
    expect([...(await openSafetensors(file)).tensors.keys()]).toEqual(['__proto__']);
  });

  it.each<[string, Buffer, RegExp]>([
    ['an empty file', Buffer.alloc(0), /: expected at least 8 bytes, got 0$/],
    ['7 bytes', Buffer.alloc(7), /: expected at least 8 bytes, got 7$/],
    [
      'a Git LFS pointer',
      Buffer.from('version https://git-lfs.github.com/spec/v1\n'),
      /got a Git LFS pointer/,
    ],
    ['a header beyond the file', lengthOnly(9n), /: expected a header within the 8 bytes .* length of 9$/],
    ['a header over 100 MB', lengthOnly(100_000_001n), /at most 100000000 bytes, got .* 100000001$/],
    [
      'a header of 2^64 - 1',
      lengthOnly(2n ** 64n - 1n),
      /at most 100000000 bytes, got .* 18446744073709551615$/,
    ],
    ['no header', craft(''), /: expected a header that begins with {, got an empty header$/],
    ['padding before the header', craft(' {}'), /begins with {, got byte 0x20$/],
    ['an array', craft('[]'), /begins with {, got byte 0x5b$/],
    ['broken JSON', craft('{"t":'), /: header: expected JSON, got /],
    ['text that is not UTF-8', craft('{"??":1}').fill(0xff, 10, 12), /: header: expected UTF-8 text/],
    [
      'a name twice',
      craft(`{"t":${JSON.stringify(one({}).t)},"t":${JSON.stringify(one({}).t)}}`, 8),
      /"t" twice$/,
    ],
    ['a tensor that is no object', craft({ t: 3 }), /: tensor t: expected an object with .*, got 3$/],
    [
      'float8',
      craft(one({ dtype: 'F8_E4M3' }), 8),
      /tensor t: expected dtype F64.*"F8_E4M3", which is not supp/,
    ],
    [
      'an inherited name as dtype',
      craft(one({ dtype: 'toString' }), 8),
      /got "toString", which is not supported/,
    ],
    [
      'no dtype',
      craft({ t: { shape: [2], data_offsets: [0, 8] } }, 8),
      /got nothing, which is not supported/,
    ],
    ['no shape', craft({ t: { dtype: 'F32', data_offsets: [0, 8] } }, 8), /a shape of .*, got nothing$/],
    ['a negative dimension', craft(one({ shape: [-2] }), 8), /a shape of integers, 0 or above, got \[-2\]$/],
    ['half a dimension', craft(one({ shape: [0.5] }), 8), /a shape of integers, 0 or above, got \[0.5\]$/],
    ['a text dimension', craft(one({ shape: ['2'] }), 8), /a shape of integers, 0 or above, got \["2"\]$/],
    ['a dimension of 2^53', craft(one({ shape: [2 ** 53] }), 8), /a shape of integers/],
    ['a product beyond 2^53', craft(one({ shape: [2 ** 30, 2 ** 30] }), 8), /a shape below 2\^53 bytes, got/],
    [
      'no offsets',
      craft({ t: { dtype: 'F32', shape: [2] } }, 8),
      /data_offsets \[begin, end\].*, got nothing$/,
    ],
    ['three offsets', craft(one({ data_offsets: [0, 4, 8] }), 8), /data_offsets .*, got \[0,4,8\]$/],
    ['negative offsets', craft(one({ data_offsets: [-8, 0] }), 8), /data_offsets .*, got \[-8,0\]$/],
    ['begin after end', craft(one({ data_offsets: [8, 0] }), 8), /with begin <= end, got \[8,0\]$/],
    ['a cut file', craft(one({}), 7), /within the 7 bytes of data in the file, got \[0,8\] \(an incomplete/],
    [
      'bytes unlike the shape',
      craft(one({ shape: [3] }), 8),
      /: tensor t: expected 12 bytes for F32 \[3\], got 8$/,
    ],
    [
      'a hole at the front',
      craft(one({ data_offsets: [4, 12] }), 12),
      /data from byte 0 on, got 4 \(it leaves a hole/,
    ],
    [
      'bytes at the end',
      craft(one({}), 9),
      /: expected \d+ bytes in all, as its header says, got a file of \d+ bytes$/,
    ],
    [
      'an overlap',
      craft({ ...one({}), u: { dtype: 'F32', shape: [2], data_offsets: [4, 12] } }, 12),
      /tensor u: expected data from byte 8 on, got 4 \(it overlaps/,
    ],
    [
      'the same bytes twice',
      craft({ ...one({}), u: { dtype: 'F32', shape: [2], data_offsets: [0, 8] } }, 8),
      /tensor u: expected data from byte 8 on, got 0 \(it overlaps/,
    ],
    [
      'a hole between',
      craft({ ...one({}), u: { dtype: 'U8', shape: [1], data_offsets: [9, 10] } }, 10),
      /tensor u: expected data from byte 8 on, got 9 \(it leaves a hole/,
    ],
    [
      'metadata of numbers',
      craft({ __metadata__: { a: 1 } }),
      /__metadata__: expected an object of strings, got/,
    ],
  ])('refuses %s', async (_, bytes, message) => {
    await writeFile(file, bytes);
    const error = await failure(openSafetensors(file));
    expect(error).toBeInstanceOf(UserError);
    expect(error.message).toMatch(message);
    expect(error.message.startsWith(file)).toBe(true);
    expect(error.message).not.toContain('\n');
  });

  it('names a missing file and a folder', async () => {
    for (const wrong of [path.join(dir, 'missing'), dir]) {
      const error = await failure(openSafetensors(wrong));
      expect(error).toBeInstanceOf(UserError);
      expect(error.message.startsWith(`${wrong}: E`)).toBe(true);
    }
  });

  it('reads beyond 4 GB', async () => {
    const sparse = path.join(dir, 'sparse.safetensors');
    const big = 2 ** 32 + 24;
    const head = craft({
      big: { dtype: 'U8', shape: [big], data_offsets: [0, big] },
      last: { dtype: 'I16', shape: [2], data_offsets: [big, big + 4] },
    });
    await writeFile(sparse, head);
    await truncate(sparse, head.length + big + 4);
    const handle = await open(sparse, 'r+');
    await handle.write(Uint8Array.of(1, 2, 3, 4), 0, 4, head.length + big);
    await handle.close();
    const opened = await openSafetensors(sparse);
    expect(opened.tensors.get('last')?.begin).toBe(head.length + big);
    expect(await readTensor(opened, 'last')).toEqual(Uint8Array.of(1, 2, 3, 4));
    await rm(sparse);
  });

  it('notices a file that shrank after it was opened', async () => {
    await writeFile(file, craft(one({}), 8));
    const opened = await openSafetensors(file);
    await truncate(file, (await readFile(file)).length - 3);
    expect((await failure(readTensor(opened, 't'))).message).toMatch(
      /: expected 8 bytes from byte \d+ on, got 5$/,
    );
  });
});

describe('writeSafetensors', () => {
  it('is read back, aligned, with lazily made data', async () => {
    const f32 = Float32Array.of(1, 2, 3);
    await writeSafetensors(
      file,
      [
        { name: 'bytes', dtype: 'U8', shape: [3], data: Uint8Array.of(1, 2, 3) },
        { name: 'weights', dtype: 'F32', shape: [1, 3], data: () => f32 },
        { name: 'wide', dtype: 'F64', shape: [], data: async () => Float64Array.of(0.5) },
      ],
      { format: 'pt' },
    );
    const opened = await openSafetensors(file);
    expect(opened.metadata.get('format')).toBe('pt');
    expect([...opened.tensors.keys()]).toEqual(['wide', 'weights', 'bytes']);
    expect(opened.tensors.get('wide')!.begin % 8).toBe(0);
    expect(opened.tensors.get('weights')!.begin % 4).toBe(0);
    expect(new Float32Array((await readTensor(opened, 'weights')).buffer as ArrayBuffer)).toEqual(f32);
    expect(await readTensor(opened, 'bytes')).toEqual(Uint8Array.of(1, 2, 3));
  });

  it('keeps the given order where it leaves all aligned, and takes data in pieces', async () => {
    const pieces = async function* () {
      yield Uint8Array.of(1, 2, 3);
      yield Uint8Array.of(4);
    };
    const entries = [
      { name: 'codes', dtype: 'U8', shape: [4], data: pieces },
      { name: 'scale', dtype: 'F32', shape: [1], data: Float32Array.of(0.5) },
    ] as const;
    await writeSafetensors(file, entries);
    const opened = await openSafetensors(file);
    expect([...opened.tensors.keys()]).toEqual(['codes', 'scale']);
    expect([...(await readTensor(opened, 'codes'))]).toEqual([1, 2, 3, 4]);
    await writeSafetensors(file, [{ ...entries[0], shape: [3], data: Uint8Array.of(1, 2, 3) }, entries[1]]);
    expect([...(await openSafetensors(file)).tensors.keys()]).toEqual(['scale', 'codes']);
    const short = { ...entries[0], shape: [5] };
    expect(await failure(writeSafetensors(file, [short]))).toBeInstanceOf(InternalError);
  });

  it('writes a view, not its whole buffer', async () => {
    const view = Uint8Array.of(9, 1, 2, 9).subarray(1, 3);
    await writeSafetensors(file, [{ name: 'a', dtype: 'U8', shape: [2], data: view }]);
    expect(await readTensor(await openSafetensors(file), 'a')).toEqual(Uint8Array.of(1, 2));
  });

  it('leaves the old file and no temporary one when it fails', async () => {
    await writeFile(file, 'old');
    const bad = { name: 'a', dtype: 'F32', shape: [2], data: new Uint8Array(7) } as const;
    expect(await failure(writeSafetensors(file, [bad]))).toBeInstanceOf(InternalError);
    const twice = { name: 'a', dtype: 'U8', shape: [0], data: new Uint8Array(0) } as const;
    expect(await failure(writeSafetensors(file, [twice, twice]))).toBeInstanceOf(InternalError);
    const reserved = { ...twice, name: '__metadata__' };
    expect(await failure(writeSafetensors(file, [reserved]))).toBeInstanceOf(InternalError);
    expect(await readFile(file, 'utf8')).toBe('old');
    expect((await readdir(dir)).filter((name) => name.endsWith('.tmp'))).toEqual([]);
    const nowhere = path.join(dir, 'no', 'such.safetensors');
    const error = await failure(writeSafetensors(nowhere, [twice]));
    expect(error).toBeInstanceOf(UserError);
    expect(error.message.startsWith(`${nowhere}: ENOENT`)).toBe(true);
  });
});
