import { expect, it } from 'vitest';
import { fill, program } from '../graph/index.ts';
import { sessionOptions } from './sessionOptions.ts';

it('keeps what a run took for the next, unless a program gives gigabytes or its weights are constants', () => {
  const giving = (...shape: number[]) => program('p', { a: fill(0, shape), b: fill(0, ['N', ...shape]) });
  expect(sessionOptions(giving(1000, 1000), undefined, undefined).keepsArena).toBe(true);
  expect(sessionOptions(giving(1000, 1000), undefined, {}).keepsArena).toBe(false);
  expect(sessionOptions(giving(16_000, 8000), undefined, undefined).keepsArena).toBe(false);
});
