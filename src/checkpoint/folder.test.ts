import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { openCheckpoint } from './folder.ts';
import { writeSafetensors } from './safetensors.ts';

const GOLDEN = fileURLToPath(new URL('../../test/fixtures/golden/', import.meta.url));
const INDEX = 'model.safetensors.index.json';

let dir = '';
beforeEach(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'checkpoint-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const shard = (file: string, ...names: string[]) =>
  writeSafetensors(
    path.join(dir, file),
    names.map((name) => ({ name, dtype: 'BF16', shape: [2], data: Uint16Array.of(0x3f80, 0xc000) })),
  );
const index = (map: unknown) => writeFile(path.join(dir, INDEX), JSON.stringify({ weight_map: map }));

async function failure(where = dir): Promise<string> {
  const error = await openCheckpoint(where).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(UserError);
  const { message } = error as UserError;
  expect(message.startsWith(where)).toBe(true);
  expect(message).not.toContain('\n');
  return message.slice(where.length);
}

describe('openCheckpoint', () => {
  it.each([
    ['llama-small', 198],
    ['llama-siglip', 534],
    ['phi3-siglip2', 724],
  ])('opens %s', async (name, count) => {
    const checkpoint = await openCheckpoint(path.join(GOLDEN, name));
    expect(checkpoint.tensors.size).toBe(count);
    const weights = await checkpoint.readF32('model.embed_tokens.weight');
    expect(weights.length).toBe(512 * 64);
    expect(weights.every(Number.isFinite)).toBe(true);
    expect(weights.some((x) => x !== 0)).toBe(true);
  });

  it('joins shards, also through links and in subfolders, and reads as float32', async () => {
    await mkdir(path.join(dir, 'sub'));
    await shard('blob', 'a', 'b');
    await shard('sub/2.safetensors', 'c');
    await symlink('blob', path.join(dir, '1.safetensors'));
    await index({ a: '1.safetensors', c: 'sub/2.safetensors', b: '1.safetensors' });
    const checkpoint = await openCheckpoint(dir);
    expect([...checkpoint.tensors.keys()].sort()).toEqual(['a', 'b', 'c']);
    expect(checkpoint.tensors.get('c')).toMatchObject({
      file: path.join(dir, 'sub/2.safetensors'),
      byteLength: 4,
    });
    expect(await checkpoint.readF32('b')).toEqual(Float32Array.of(1, -2));
    expect(await checkpoint.read('a')).toEqual(Uint8Array.of(0x80, 0x3f, 0, 0xc0));
    await expect(checkpoint.readF32('d')).rejects.toThrow(`${dir}: expected tensor d, got none`);
  });

  it('prefers the single file, and refuses integers as float32', async () => {
    await writeSafetensors(path.join(dir, 'model.safetensors'), [
      { name: 'n', dtype: 'I32', shape: [1], data: Int32Array.of(1) },
    ]);
    await index({ a: 'missing' });
    const checkpoint = await openCheckpoint(dir);
    await expect(checkpoint.readF32('n')).rejects.toThrow(/tensor n: expected a floating dtype .*, got I32/);
  });

  it('says what was expected of a missing, an empty and a strange folder', async () => {
    expect(await failure(path.join(dir, 'none'))).toMatch(
      /config.json and model.safetensors or .*, got no such folder$/,
    );
    expect(await failure()).toMatch(/: expected a checkpoint folder .*, got an empty folder$/);
    for (const name of ['b.bin', 'd', 'c', 'a']) await writeFile(path.join(dir, name), '');
    expect(await failure()).toMatch(/got only a, b.bin, c and 1 more; PyTorch .bin weights are not read$/);
    expect(await failure(path.join(dir, 'a'))).toMatch(/got a file$/);
  });

  it.each<[string, string, RegExp]>([
    ['broken JSON', '{"weight_map":', /expected JSON, got /],
    ['an array', '[]', /expected a JSON object, got \[\]$/],
    ['no map', '{}', /expected weight_map, an object of tensor name → shard, got nothing$/],
    ['a name twice', '{"weight_map":{"a":"s","a":"s"}}', /expected each name once, got "a" twice$/],
    ['a number for a shard', '{"weight_map":{"a":1}}', /: a: expected a file inside the folder, got 1$/],
    [
      'a parent folder',
      '{"weight_map":{"a":"../s"}}',
      /: a: expected a file inside the folder, got "..\/s"$/,
    ],
    ['a hidden way out', '{"weight_map":{"a":"x/../../s"}}', /: a: expected a file inside the folder/],
    ['an absolute path', '{"weight_map":{"a":"/etc/passwd"}}', /: a: expected a file inside the folder/],
    ['the folder itself', '{"weight_map":{"a":"."}}', /: a: expected a file inside the folder/],
    ['a zero byte', '{"weight_map":{"a":"s\\u0000"}}', /: a: expected a file inside the folder/],
    ['missing shards', '{"weight_map":{"a":"s","b":"r","c":"s"}}', /expected 2 shards, got no file s, r$/],
  ])('refuses an index with %s', async (_, text, message) => {
    await writeFile(path.join(dir, INDEX), text);
    expect(await failure()).toMatch(message);
  });

  it('refuses an index that disagrees with its shards', async () => {
    await shard('s', 'a', 'b');
    await index({ a: 's', b: 's', c: 's' });
    expect(await failure()).toMatch(/s: expected the tensors .* places here, got no c$/);
    await index({ a: 's' });
    expect(await failure()).toMatch(/s: expected only tensors .* places here, got also b$/);
    await index({ a: 's', b: 'sub/none' });
    expect(await failure()).toMatch(/got also b$/);
    await index({ a: 's', b: 's', c: 'sub/none' });
    expect(await failure()).toMatch(/sub\/none: ENOENT/);
  });

  it('names the shard that is damaged', async () => {
    await writeFile(path.join(dir, 's'), 'short');
    await index({ a: 's' });
    expect(await failure()).toBe(`${path.sep}s: expected at least 8 bytes, got 5`);
  });
});
