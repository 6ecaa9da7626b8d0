import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { openTorchFile } from './torchFile.ts';
import { readPickle } from './torchPickle.ts';
import { openZip } from './torchZip.ts';

const FIXTURES = fileURLToPath(new URL('../../test/fixtures/torch/', import.meta.url));
const fixture = (name: string) => path.join(FIXTURES, name);

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'torch-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

describe('openTorchFile', () => {
  it('reads every dtype, stride and offset torch.save wrote', async () => {
    const file = await openTorchFile(fixture('state_dict.bin'));
    const values = async (name: string) => [...(await file.readF32(name))];
    expect([...file.tensors.keys()]).toEqual(
      ['weight', 'bias', 'half', 'brain', 'double', 'whole', 'transposed', 'columns', 'parameter'].concat(
        'count',
        'empty',
      ),
    );
    expect(file.tensors.get('weight')).toMatchObject({ dtype: 'F32', shape: [2, 3], contiguous: true });
    expect(await values('weight')).toEqual([1, -2, 0.5, 4, 8, -0.25]);
    expect(await values('bias')).toEqual([3, -7]);
    expect(file.tensors.get('half')?.dtype).toBe('F16');
    expect(await values('half')).toEqual([1.5, -2, 65504]);
    expect(await values('brain')).toEqual([1, -3, 0.5, 101 * 2 ** 93]);
    expect(file.tensors.get('double')).toMatchObject({ dtype: 'F64', shape: [] });
    expect(await values('double')).toEqual([Math.fround(0.1)]);
    expect(await values('whole')).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect(file.tensors.get('transposed')).toMatchObject({ shape: [4, 3], contiguous: false });
    expect(await values('transposed')).toEqual([0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
    expect(file.tensors.get('columns')).toMatchObject({ shape: [2, 2], strides: [4, 2], byteLength: 28 });
    expect(await values('columns')).toEqual([4, 6, 8, 10]);
    expect(await values('parameter')).toEqual([9, 10]);
    expect(file.tensors.get('empty')?.shape).toEqual([0, 4]);
    expect(await values('empty')).toEqual([]);
    await expect(file.readF32('count')).rejects.toThrow(/tensor count: expected a floating dtype .* got I64/);
    await expect(file.readF32('none')).rejects.toThrow(
      /expected tensor none, got none of that name among 11/,
    );
  });

  it('reads ZIP64', async () => {
    const file = await openTorchFile(fixture('zip64.bin'));
    expect([...(await file.readF32('w'))]).toEqual([0, 1, 2, 3, 4, 5]);
  });

  it('reads an adapter-only checkpoint', async () => {
    const { tensors } = await openTorchFile(fixture('mm_projector.bin'));
    expect(tensors.size).toBe(40);
    expect(tensors.get('model.mm_projector.0.weight')).toMatchObject({ dtype: 'BF16', shape: [64, 96] });
  });

  it.each([
    ['system.bin', /data\.pkl: expected only tensors, got opcode GLOBAL with "(posix|nt)\.system"/],
    ['list.bin', /expected only what a state dict of tensors needs, got opcode EMPTY_LIST \(0x5d\) at byte/],
    ['legacy.bin', /expected a PyTorch file .* got a pickle of the format before PyTorch 1\.6/],
    ['truncated.bin', /expected a ZIP directory at its end, got none/],
    ['bomb.bin', /"small\/data\/0": expected data within the \d+ bytes .* got 3221225472 bytes/],
    ['lying_size.bin', /tensor w: expected 2147483647 elements of F32 in data\/0, got 24 bytes/],
    ['strides.bin', /tensor w: expected elements within the 6 of its storage, got .* strides \[4, 1\]/],
    ['expanded.bin', /tensor e: expected at most the 1 elements of its storage, got shape \[1000, 1000\]/],
    ['deflated.bin', /expected an entry stored uncompressed, got compression method 8/],
    ['tensor.bin', /expected a dict of tensors by name, got a tensor/],
    ['none.bin', /ENOENT/],
  ])('refuses %s', async (name, message) => {
    const error = await openTorchFile(fixture(name)).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message.startsWith(fixture(name))).toBe(true);
    expect((error as Error).message).not.toContain('\n');
  });

  it('says what other files are', async () => {
    const file = path.join(dir, 'other');
    for (const [text, message] of [
      ['version https://git-lfs.github.com/spec/v1', /a Git LFS pointer/],
      ['{"a": "JSON, and not at all a ZIP"}', /got something else$/],
      ['short', /got one of 5 bytes$/],
    ] as const) {
      await writeFile(file, text);
      await expect(openTorchFile(file)).rejects.toThrow(message);
    }
    await expect(openTorchFile(dir)).rejects.toThrow(/got a folder/);
  });

  it.each(['state_dict.bin', 'zip64.bin'])('survives any damage to %s', async (name) => {
    const whole = await readFile(fixture(name));
    const flips = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 })), {
      minLength: 1,
      maxLength: 6,
    });
    const file = path.join(dir, name);
    await fc.assert(
      fc.asyncProperty(flips, fc.integer({ min: 0, max: 40 }), async (places, cut) => {
        const bytes = Buffer.from(whole.subarray(0, whole.length - (cut > 30 ? cut : 0)));
        for (const [at, mask] of places) if (at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ mask;
        await writeFile(file, bytes);
        await onlyUserErrors(async () => {
          const { tensors, readF32 } = await openTorchFile(file);
          for (const key of tensors.keys()) await onlyUserErrors(() => readF32(key));
        });
      }),
      { numRuns: 400, seed: 3 },
    );
  });
});

describe('readPickle', () => {
  it('survives any damage', async () => {
    const file = await readFile(fixture('state_dict.bin'));
    const entry = (await openZip(fixture('state_dict.bin'), file.length)).get('state_dict/data.pkl')!;
    const whole = file.subarray(entry.begin, entry.begin + entry.size);
    const flip = fc.tuple(fc.nat(whole.length - 1), fc.nat(255));
    let refused = 0;
    fc.assert(
      fc.property(fc.array(flip, { minLength: 1, maxLength: 4 }), (places) => {
        const bytes = Uint8Array.from(whole);
        for (const [at, value] of places) bytes[at] = value;
        try {
          readPickle(bytes, 'f');
        } catch (error) {
          expect(error).toBeInstanceOf(UserError);
          refused++;
        }
      }),
      { numRuns: 5000, seed: 5 },
    );
    expect(refused).toBeGreaterThan(1000);
  });

  it.each<[string, string, RegExp]>([
    ['eval', '\x80\x02c__builtin__\neval\nX\x01\0\0\0a\x85R.', /opcode GLOBAL with "__builtin__\.eval"/],
    ['a global with dots', '\x80\x02ctorch\n_utils._rebuild_tensor_v2\n.', /^read$/],
    [
      'a call of a storage type',
      '\x80\x02ctorch\nFloatStorage\n)R.',
      /opcode REDUCE .* got torch\.FloatStorage/,
    ],
    [
      'an attribute of a global',
      '\x80\x02ccollections\nOrderedDict\n}b.',
      /opcode BUILD on a dict, got coll/,
    ],
    [
      'an object of a class',
      '\x80\x02ccollections\nOrderedDict\n)\x81.',
      /opcode NEWOBJ \(0x81\) at byte 28/,
    ],
    ['protocol 4', '\x80\x04}.', /expected pickle protocol 2, .* got 4/],
    ['an empty stack', '\x80\x02.', /expected 1 values on the stack, got fewer/],
    ['a value below the mark', '\x80\x02}(X\x01\0\0\0au.', /expected a value for each key/],
    ['a mark never used', '\x80\x02}(.', /expected 1 values on the stack/],
    ['no end', '\x80\x02}', /expected a whole pickle, got one that ends at byte 3/],
    ['a name twice', '\x80\x02}(X\x01\0\0\0aNX\x01\0\0\0aNu.', /expected one entry "a", got two/],
    ['an unknown memo', '\x80\x02h\x07.', /expected a value remembered as 7, got none/],
    ['a huge integer', `\x80\x02\x8a\xff${'\x01'.repeat(255)}.`, /expected integers below 2\^53/],
    ['a long string', '\x80\x02X\xff\xff\xff\xffa.', /expected a whole pickle/],
    ['a bare storage', '\x80\x02NQ.', /opcode BINPERSID with .* got None/],
  ])('%s', (_, pickle, message) => {
    const read = () => {
      readPickle(Buffer.from(pickle, 'latin1'), 'f');
      return 'read';
    };
    if (message.test('read')) expect(read()).toBe('read');
    else expect(read).toThrow(message);
  });
});

async function onlyUserErrors(action: () => Promise<unknown>): Promise<void> {
  await action().catch((error: unknown) => expect(error).toBeInstanceOf(UserError));
}
