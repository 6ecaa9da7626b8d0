import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { copyFiles, writeNewFolder, writeWeights } from './newFolder.ts';
import type { TensorEntry } from './safetensors.ts';

let root = '';
beforeEach(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'folder-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

describe('writeNewFolder', () => {
  it('shows the folder only when it is whole', async () => {
    const out = path.join(root, 'deep/out');
    await writeNewFolder(out, async (dir) => {
      await writeFile(path.join(dir, 'a'), 'x');
      expect(await readdir(path.dirname(out))).not.toContain('out');
    });
    expect(await readFile(path.join(out, 'a'), 'utf8')).toBe('x');
    expect(await readdir(path.dirname(out))).toEqual(['out']);
  });

  it('leaves nothing where filling fails, nor touches what is there', async () => {
    const out = path.join(root, 'out');
    const fill = async (dir: string) => {
      await writeFile(path.join(dir, 'a'), 'x');
      throw new UserError('full');
    };
    await expect(writeNewFolder(out, fill)).rejects.toThrow('full');
    expect(await readdir(root)).toEqual([]);
    await writeFile(out, 'a file');
    await expect(writeNewFolder(out, async () => {})).rejects.toThrow(/expected a new folder, got ENOTDIR/);
    expect(await readFile(out, 'utf8')).toBe('a file');
  });
});

describe('writeWeights', () => {
  it('asks for one tensor after the other, and gives a large one a shard of its own', async () => {
    let busy = 0;
    const asked: string[] = [];
    const entry = (name: string, length: number): TensorEntry => ({
      name,
      dtype: 'F32',
      shape: [length],
      data: async () => {
        expect(++busy).toBe(1);
        await new Promise((resolve) => setTimeout(resolve, 1));
        busy--;
        asked.push(name);
        return new Float32Array(length);
      },
    });
    const events: number[] = [];
    const entries = [entry('a', 2), entry('b', 2), entry('c', 9), entry('d', 1)];
    await writeWeights(root, entries, { maxShardBytes: 16, onProgress: ({ done }) => events.push(done) });
    expect(asked).toEqual(['a', 'b', 'c', 'd']);
    expect(events).toEqual([0, 1, 2, 3, 4]);
    const index = JSON.parse(await readFile(path.join(root, 'model.safetensors.index.json'), 'utf8'));
    const shard = (i: number) => `model-0000${i}-of-00003.safetensors`;
    expect(index).toEqual({
      metadata: { total_size: 56 },
      weight_map: { a: shard(1), b: shard(1), c: shard(2), d: shard(3) },
    });
  });
});

describe('copyFiles', () => {
  it('copies what exists and says what the disk refuses', async () => {
    await writeFile(path.join(root, 'a'), 'x');
    const to = await mkdtemp(path.join(root, 'to-'));
    await copyFiles(root, to, ['a', 'b']);
    expect(await readdir(to)).toEqual(['a']);
    await expect(copyFiles(root, path.join(root, 'a'), ['a'])).rejects.toThrow(UserError);
  });
});
