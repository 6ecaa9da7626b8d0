import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { openRecordIndex, type RecordIndex, type RecordIndexOptions } from './recordIndex.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'records-'));
afterAll(() => rmSync(folder, { recursive: true }));

function fileOf(content: string | Uint8Array, name = 'data.json'): string {
  const file = path.join(folder, name);
  writeFileSync(file, content);
  return file;
}

async function withIndex<T>(
  file: string,
  use: (index: RecordIndex) => T | Promise<T>,
  options: RecordIndexOptions = {},
): Promise<T> {
  const index = await openRecordIndex(file, options);
  try {
    return await use(index);
  } finally {
    await index.close();
  }
}

/** Everything an index says: parsed records, word counts, image flags. */
const contentOf = (file: string, options: RecordIndexOptions = {}) =>
  withIndex(
    file,
    async (index) => {
      const all = Array.from({ length: index.count }, (_, i) => i);
      return {
        records: await Promise.all(all.map((i) => index.record(i))),
        words: all.map((i) => index.words(i)),
        images: all.map((i) => index.hasImage(i)),
      };
    },
    options,
  );

async function errorOf(content: string | Uint8Array, name = 'data.json'): Promise<string> {
  const failure = await openRecordIndex(fileOf(content, name)).then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(failure).toBeInstanceOf(UserError);
  return (failure as Error).message.replace(`${folder}/`, '');
}

interface TestRecord {
  id: unknown;
  image?: string;
  conversations: { from: string; value: string }[];
  extra?: unknown;
}

/** Python's `split` for texts whose only blanks are ASCII's. */
const wordsOf = ({ conversations }: TestRecord) =>
  conversations.reduce((sum, { value }) => sum + value.split(/[ \t\n\r\f]+/).filter(Boolean).length, 0);

const awkward = fc.string({
  unit: fc.constantFrom(
    'a',
    'é',
    '😀',
    '"',
    '\\',
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    ' ',
    '\n',
    '\t',
    '\f',
    'value',
  ),
  maxLength: 20,
});
const anyRecord: fc.Arbitrary<TestRecord> = fc.record(
  {
    id: fc.oneof(awkward, fc.integer()),
    image: awkward,
    conversations: fc.array(fc.record({ from: awkward, value: awkward }), { maxLength: 4 }),
    extra: fc.jsonValue(),
  },
  { requiredKeys: ['id', 'conversations'] },
);

/** Non-ASCII as `\\uXXXX`, as Python's `json.dump` writes it. */
const escaped = (json: string) =>
  json.replace(/[\u0080-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);

describe('any records', () => {
  const layouts: Record<string, (records: TestRecord[]) => string> = {
    compact: (records) => JSON.stringify(records),
    indented: (records) => JSON.stringify(records, null, 2),
    'ASCII only': (records) => escaped(JSON.stringify(records, null, 1)),
    'one a line': (records) => records.map((record) => `${JSON.stringify(record)}\n`).join(''),
    'with a byte-order mark': (records) => `\ufeff \n${JSON.stringify(records)}\r\n`,
  };

  it.each(Object.entries(layouts))('%s: are found again, with words and images', async (_, layout) => {
    await fc.assert(
      fc.asyncProperty(fc.array(anyRecord, { minLength: 1, maxLength: 6 }), async (records) => {
        expect(await contentOf(fileOf(layout(records)))).toEqual({
          records: JSON.parse(JSON.stringify(records)),
          words: records.map(wordsOf),
          images: records.map(({ image }) => (image ?? '') !== ''),
        });
      }),
      { numRuns: 40 },
    );
  });
});

describe('layouts', () => {
  it('takes JSONL without a last newline, with blank lines, and one object alone', async () => {
    expect((await contentOf(fileOf('{"a":1}\n\n{"a":2}', 'x.jsonl'))).records).toEqual([{ a: 1 }, { a: 2 }]);
    expect((await contentOf(fileOf('{\n "a": [\n1]}'))).records).toEqual([{ a: [1] }]);
    expect((await contentOf(fileOf(' [ ] '))).records).toEqual([]);
  });

  it('finds records and escapes that lie across the pieces it reads', async () => {
    const records = ['a', 'b', 'c'].map((id, i) => ({
      id,
      conversations: [{ from: 'gpt', value: `${'\\'.repeat(2 ** 21 + i)}" ]},{`.repeat(i + 1) }],
    }));
    const content = await contentOf(fileOf(JSON.stringify(records)));
    expect(content.words).toEqual([2, 3, 4]);
    expect(content.records).toEqual(records);
  });

  it('does not take another name or place for the image or a value', async () => {
    const records = [
      { image: null, conversations: [] },
      { meta: { image: 'x.png' }, conversations: [{ note: 'not these words', value: 'one two' }] },
      { id: 'image', 'image ': 'x', other: [{ value: 'three four' }], conversations: [{ from: 'value' }] },
      { conversations: [{ value: 'a b' }, { from: 'c', value: ' d\n' }], image: 'y.png' },
    ];
    const { words, images } = await contentOf(fileOf(JSON.stringify(records)));
    expect(words).toEqual([0, 2, 0, 3]);
    expect(images).toEqual([false, false, false, true]);
  });
});

describe('broken files', () => {
  it.each([
    ['', 'data.json:1: expected a JSON array or JSONL, got the end of the file'],
    ['hello', 'data.json:1: expected a record {…}, got "h"'],
    ['[\n{"a": 1},\n{"a": 2}', 'data.json:3: expected "," or "]" after a record, got the end of the file'],
    [
      '[{"a": 1},\n{"a": [2',
      'data.json:2: expected the end of the record begun on line 2, got the end of the file',
    ],
    ['[{"a": 1}\n\n{"a": 2}]', 'data.json:3: expected "," or "]" after a record, got "{"'],
    ['[{"a": 1},\n]', 'data.json:2: expected a record {…}, got "]"'],
    ['[\n{"a": [1}\n}]', 'data.json:2: expected "]", got "}"'],
    ['[{"a": "b\n"}]', 'data.json:1: expected a string to end on its line, got byte 10'],
    ['[1, 2]', 'data.json:1: expected a record {…} or "]", got "1"'],
    ['[{}] {}', 'data.json:1: expected nothing after the array, got "{"'],
    [`[{"a":${'['.repeat(300)}`, 'data.json:1: expected at most 256 brackets in brackets, got more'],
  ])('%j', async (content, message) => expect(await errorOf(content)).toBe(message));

  it('JSONL: names the broken line', async () => {
    expect(await errorOf('{"a": 1}\n{"a": [2}\n{"a": 3}\n', 'x.jsonl')).toBe(
      'x.jsonl:2: expected "]", got "}"',
    );
    expect(await errorOf('{"a": 1}\n{"a": 2\n{"a": 3}\n', 'x.jsonl')).toBe(
      'x.jsonl:2: expected a record on one line, got a new line',
    );
  });

  it('no file, a folder', async () => {
    await expect(openRecordIndex('/nowhere/x.json')).rejects.toThrow(
      /^\/nowhere\/x\.json: expected a readable/,
    );
    await expect(openRecordIndex(folder)).rejects.toThrow(/got a directory/);
  });

  it('a record that is not JSON, or not UTF-8, is named when it is read', async () => {
    await withIndex(fileOf('[{"a": 1},\n {"a" 2}, {"a": 3}]'), async (index) => {
      await expect(index.record(1)).rejects.toThrow(/data\.json: record 1 \(byte 12\): expected JSON, got: /);
      expect(await index.record(2)).toEqual({ a: 3 });
    });
    const bytes = new Uint8Array([
      ...new TextEncoder().encode('[{"a": "'),
      0xff,
      ...new TextEncoder().encode('"}]'),
    ]);
    await withIndex(fileOf(bytes), (index) =>
      expect(index.record(0)).rejects.toThrow(/record 0 \(byte 1\): expected JSON, got: .*utf-8/),
    );
  });

  it('a file that shrank', async () => {
    const file = fileOf('[{"a": 1},{"a": 2}]');
    await withIndex(file, async (index) => {
      truncateSync(file, 12);
      await expect(index.record(1)).rejects.toThrow(/the file has changed/);
    });
  });
});

describe('the cache', () => {
  it('gives the same answers, serves only the same state of the file, and writes nowhere else', async () => {
    const cacheDir = path.join(folder, 'cache');
    const file = fileOf('{"image":"a","conversations":[{"value":"x y z"}]}\n{"id":2}\n', 'kept.jsonl');
    const before = readdirSync(folder);
    const first = await contentOf(file);
    expect(readdirSync(folder)).toEqual(before);
    expect(await contentOf(file, { cacheDir })).toEqual(first);
    let bytes = 0;
    const onProgress = (done: number) => {
      bytes = done;
    };
    expect(await contentOf(file, { cacheDir, onProgress })).toEqual(first);
    expect(bytes).toBe(0);
    expect(readdirSync(cacheDir).length).toBe(1);

    appendFileSync(file, '{"id":3}\n');
    expect((await contentOf(file, { cacheDir, onProgress })).records.length).toBe(3);
    expect(bytes).toBe(statSync(file).size);

    const broken = path.join(cacheDir, readdirSync(cacheDir)[0]!);
    truncateSync(broken, 20);
    expect((await contentOf(file, { cacheDir })).records.length).toBe(3);
  });
});

describe('a large file', () => {
  it('is indexed in little memory', { timeout: 30_000 }, async () => {
    const file = path.join(folder, 'large.json');
    const record = (id: number) =>
      `  {"id": "${id}", "image": "images/${id}.jpg", "conversations": [{"from": "human", "value": "<image>\\nDescribe it."}, {"from": "gpt", "value": "${'A caption of \\"many\\" words, '.repeat(20)}"}]}`;
    const perPiece = 8000;
    const pieces = 10;
    writeFileSync(file, '[\n');
    for (let piece = 0; piece < pieces; piece++) {
      const records = Array.from({ length: perPiece }, (_, i) => record(piece * perPiece + i));
      appendFileSync(file, records.join(',\n') + (piece + 1 < pieces ? ',\n' : '\n]\n'));
    }
    const size = statSync(file).size;
    expect(size).toBeGreaterThan(50e6);

    const before = process.memoryUsage().rss;
    let peak = before;
    const started = performance.now();
    const index = await openRecordIndex(file, {
      onProgress: () => {
        peak = Math.max(peak, process.memoryUsage().rss);
      },
    });
    const seconds = (performance.now() - started) / 1000;
    const growth = (peak - before) / 1e6;
    console.log(
      `indexed ${(size / 1e6).toFixed(0)} MB, ${index.count} records at ${(size / 1e6 / seconds).toFixed(0)} MB/s, RSS +${growth.toFixed(0)} MB`,
    );
    expect(index.count).toBe(perPiece * pieces);
    expect(index.words(77_777)).toBe(3 + 5 * 20);
    expect(await index.record(77_777)).toMatchObject({ id: '77777', image: 'images/77777.jpg' });
    await index.close();
    expect(growth).toBeLessThan(60);
    expect(seconds).toBeLessThan(5);
  });
});
