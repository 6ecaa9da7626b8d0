import fc from 'fast-check';
import { expect, test } from 'vitest';
import { jsonPieces } from './jsonPieces.ts';

const written = (value: unknown) => [...jsonPieces(value)].join('');

test('plain values are written as JSON.stringify writes them', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      expect(written(value)).toBe(JSON.stringify(value));
    }),
  );
  const odd = { a: undefined, 'b"': [undefined, 1, 'é\n'], c: { d: undefined }, e: Number.NaN };
  expect(written(odd)).toBe(JSON.stringify(odd));
});

test('floats are numbers with five digits, however many there are', () => {
  const data = Float32Array.from({ length: 3001 }, (_, i) => i / 7);
  const read = JSON.parse(written({ maps: [{ shape: [3001], data }], none: new Float32Array(0) }));
  expect(read.none).toEqual([]);
  expect(read.maps[0].data).toHaveLength(3001);
  expect(read.maps[0].data.slice(0, 3)).toEqual([0, 0.14286, 0.28571]);
  expect(read.maps[0].data[3000]).toBe(428.57);
});

test('no piece is long, so that little is done at a time', () => {
  const tokens = Array.from({ length: 5000 }, (_, id) => ({ id, top: [{ id, bytes: [1, 2] }] }));
  const pieces = [...jsonPieces({ data: new Float32Array(100_000).fill(1 / 3), tokens })];
  expect(pieces.length).toBeGreaterThan(10);
  expect(Math.max(...pieces.map(({ length }) => length))).toBeLessThan(64_000);
  expect(JSON.parse(pieces.join('')).tokens).toEqual(tokens);
});
