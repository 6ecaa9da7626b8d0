import { existsSync } from 'node:fs';
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type RandomModel, randomModel } from '../../test/support/randomModel.ts';
import { averageFolder } from './averageFolder.ts';
import { openCheckpoint } from './folder.ts';
import { writeWeights } from './newFolder.ts';

let made: RandomModel;
let other: string;
beforeAll(async () => {
  made = await randomModel();
  other = join(made.root, 'other');
  await cp(made.dir, other, { recursive: true });
  const { tensors, readF32 } = await openCheckpoint(made.dir);
  const entries = [...tensors].map(([name, { shape }]) => ({
    name,
    dtype: 'F32' as const,
    shape,
    data: async () => (await readF32(name)).map((x) => 3 * x + 1),
  }));
  await writeWeights(other, entries);
});
afterAll(() => made.remove());

describe('averageFolder', () => {
  it('lies between two checkpoints by the share of the second', async () => {
    const out = join(made.root, 'mean');
    await averageFolder({ first: made.dir, second: other, share: 0.25, out });
    const [first, mean] = [await openCheckpoint(made.dir), await openCheckpoint(out)];
    expect([...mean.tensors.keys()]).toEqual([...first.tensors.keys()]);
    for (const name of ['lm_head.weight', 'model.norm.weight']) {
      const [before, after] = [await first.readF32(name), await mean.readF32(name)];
      const expected = before.map((x) => x + 0.25 * (2 * x + 1));
      expect(Math.max(...after.map((x, i) => Math.abs(x - expected[i]!)))).toBeLessThan(1e-6);
    }
    for (const file of ['config.json', 'tokenizer.json']) expect(existsSync(join(out, file))).toBe(true);
  });

  it('refuses other sizes and shares, and makes nothing', async () => {
    const wide = await randomModel({ intermediate_size: 160 });
    const out = join(made.root, 'none');
    const mean = (second: string, share: number) => averageFolder({ first: made.dir, second, share, out });
    await expect(mean(wide.dir, 0.5)).rejects.toThrow(
      /mlp\.\w+_proj\.weight: expected \[.*\] as in .*, got \[/,
    );
    await expect(mean(other, 1.5)).rejects.toThrow('share: expected a number from 0 to 1, got 1.5');
    expect(existsSync(out)).toBe(false);
    await wide.remove();
  });
});
