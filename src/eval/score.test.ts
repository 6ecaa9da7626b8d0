import { describe, expect, test } from 'vitest';
import { isRight, scoreOf, wilsonInterval } from './score.ts';

describe('the interval', () => {
  // Reference: statsmodels' proportion_confint(..., method='wilson').
  test.each([
    [0, 10, 0, 0.277533],
    [10, 10, 0.722467, 1],
    [5, 10, 0.236593, 0.763407],
    [850, 1000, 0.826527, 0.870794],
  ])('%d of %d', (right, questions, low, high) => {
    const [from, to] = wilsonInterval(right, questions);
    expect(from).toBeCloseTo(low, 4);
    expect(to).toBeCloseTo(high, 4);
  });

  test('says nothing of no questions', () => {
    expect(scoreOf(0, 0, 0)).toMatchObject({ accuracy: 0, low: 0, high: 1 });
  });
});

test.each([
  ['red', 'red', true],
  [' Red.', 'red', true],
  ['red', 'Red. ', true],
  ['red .', 'red', true],
  ['reddish', 'red', false],
  ['red..', 'red', false],
  ['', 'red', false],
  ['0', '', false],
])('%j for %j: %j', (answer, expected, right) => {
  expect(isRight(answer, expected)).toBe(right);
});
