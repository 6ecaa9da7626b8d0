/** Where training began, as a model card names it. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { baseModelsOf, sourceAt } from './baseModels.ts';
import { modelCard } from './modelCard.ts';

it('names a folder, and a model in the hub’s cache by its id', () => {
  expect(sourceAt('/models/mine')).toEqual({ name: 'mine' });
  const id = 'starriver030515/FUSION-X-Phi3.5-3B';
  const cached = '/cache/models--starriver030515--FUSION-X-Phi3.5-3B/snapshots/0123';
  expect(sourceAt(cached)).toEqual({ name: id, id });
});

it('goes on to the bases of a checkpoint that is not trained yet', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'fusion-bases-'));
  const own = [{ name: path.basename(dir) }];
  expect(await baseModelsOf(dir)).toEqual(own);
  const baseModels = [{ name: 'meta/llama', id: 'meta/llama' }, { name: 'tower' }];
  const card = {
    name: 'start',
    variant: 'FUSION',
    languages: [],
    baseModels,
    data: [],
    stages: [],
    folder: dir,
  };
  await writeFile(path.join(dir, 'README.md'), modelCard(card));
  expect(await baseModelsOf(dir)).toEqual(baseModels);
  await writeFile(path.join(dir, 'README.md'), '# another card');
  expect(await baseModelsOf(dir)).toEqual(own);
  await rm(dir, { recursive: true });
});
