/** A run that is killed and resumed equals an uninterrupted one bit for bit. `npm run bench -- resume` does more. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { killAndResume, type Moment, makeResumeRun, trainToEnd } from '../bench/resumeTrial.ts';
import type { TinyRun } from '../bench/tinyRun.ts';

const dir = mkdtempSync(path.join(tmpdir(), 'fusion-resume-test-'));
const reference = path.join(dir, 'reference');
let run: TinyRun;

beforeAll(async () => {
  run = await makeResumeRun(dir, 10);
  await trainToEnd(run, reference);
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

const out = () => mkdtempSync(path.join(dir, 'killed-'));

// The kill comes with the first sign of the save; on a busy machine it may still come after its end.
it.concurrent('is equal after a kill in the middle of a save', { retry: 3 }, async () => {
  const trial = await killAndResume(run, out(), reference, { after: 'save', count: 3, delay: 0 });
  expect(trial).toEqual({ inSave: true, killed: true, resumedFrom: 4, differences: [] });
});

it.concurrent.each<[string, Moment]>([
  ['before the first save', { after: 'save', count: 1, delay: 0 }],
  ['between two saves', { after: 'step', count: 1, delay: 5 }],
])('is equal after a kill %s', async (_, moment) => {
  const { killed, differences } = await killAndResume(run, out(), reference, moment);
  expect({ killed, differences }).toEqual({ killed: true, differences: [] });
});
