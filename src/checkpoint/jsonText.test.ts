import { describe, expect, it } from 'vitest';
import { duplicateKey, parseJsonObject } from './jsonText.ts';

describe('duplicateKey', () => {
  it.each([
    ['{"a":1,"a":2}', 'a'],
    ['{"a":1,"\\u0061":2}', 'a'],
    ['{"a" : {"b":1}, "c":{"d":[{"x":1 , "x" :2}]}}', 'x'],
    ['{"a":"","a":""}', 'a'],
    ['{"q\\"":1,"q\\"":1}', 'q"'],
  ])('finds the name given twice in %s', (text, key) => {
    expect(duplicateKey(text)).toBe(key);
  });

  it.each(['{}', '{"a":"a","b":"a"}', '{"a":{"a":1},"b":{"a":1}}', '["a","a"]', '{"a":":","b":"\\"a\\":"}'])(
    'finds none in %s',
    (text) => {
      expect(duplicateKey(text)).toBeUndefined();
    },
  );
});

describe('parseJsonObject', () => {
  const parse = (text: string | Uint8Array) => parseJsonObject(Buffer.from(text), 'f');

  it('returns the object', () => {
    expect(parse('{"a":[1]}')).toEqual({ a: [1] });
  });

  it.each([
    [new Uint8Array([0x7b, 0xff, 0x7d]), /^f: expected UTF-8 text, got bytes that are not$/],
    ['{"a":', /^f: expected JSON, got /],
    ['[1]', /^f: expected a JSON object, got \[1\]$/],
    ['null', /^f: expected a JSON object, got null$/],
    ['{"a":1,"a":1}', /^f: expected each name once, got "a" twice$/],
  ])('refuses %s', (text, message) => {
    expect(() => parse(text)).toThrow(message);
  });
});
