import { expect, test } from 'vitest';
import { UserError } from '../common/errors.ts';
import { checkTexts } from './textLimits.ts';

test('texts that may fit pass', () => {
  checkTexts(['why? '.repeat(1000), 'x'.repeat(3000)], 1000);
  checkTexts([], 1);
  checkTexts(['x'.repeat(4096), ' '.repeat(4096)], 5000);
});

test.each([
  ['too long together', ['x y '.repeat(1001), 'x y '.repeat(1000)], /at most 8000 characters .* got 8004/],
  ['a long word', ['why?', `so ${'x'.repeat(4097)} so`], /one of 4097/],
  ['a long gap', [`so${'\n'.repeat(4097)}so`], /one of 4097/],
])('%s is refused', (_, texts, message) => {
  expect(() => checkTexts(texts, 1000)).toThrow(UserError);
  expect(() => checkTexts(texts, 1000)).toThrow(message);
});
