import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { makeTokenizer } from './bpe.ts';
import { encodePrompt, formatNamed } from './conversation.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer.ts';

const TEXTS = [
  'How many red circles are there?',
  'How many blue squares are there?',
  'There are 3 red circles.',
];

let dir = '';
let tokenizer: Tokenizer;

beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'bpe-'));
  const made = makeTokenizer(TEXTS, 400);
  await writeFile(path.join(dir, 'tokenizer.json'), JSON.stringify(made.tokenizer));
  await writeFile(path.join(dir, 'tokenizer_config.json'), JSON.stringify(made.config));
  tokenizer = await loadTokenizer(dir);
});
afterAll(() => rm(dir, { recursive: true }));

it('reads back every text, and any other', () => {
  for (const text of [...TEXTS, 'Größe 🙂\n\tzwölf'])
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
});

it('makes one token of a word that occurs often, and bytes of one that never does', () => {
  expect(tokenizer.encode(' are').length).toBe(1);
  expect(tokenizer.encode(' there').length).toBe(1);
  expect(tokenizer.encode('zq').length).toBe(2);
});

it('keeps to its size and gives id 0 to padding', () => {
  expect(tokenizer.vocabularySize).toBeLessThanOrEqual(400);
  expect(tokenizer.tokenId('<|pad|>')).toBe(0);
});

it('is the same for the same texts', () => {
  expect(makeTokenizer(TEXTS, 300)).toEqual(makeTokenizer(TEXTS, 300));
});

it('knows the markers of the plain conversation format', () => {
  const { inputIds, prompt } = encodePrompt(
    tokenizer,
    formatNamed('plain'),
    [{ role: 'user', text: '<image>\nHow many?' }],
    {
      hasImage: true,
    },
  );
  expect(prompt).toContain('<|user|>');
  expect([...inputIds].filter((id) => id < 0).length).toBe(2);
  expect(inputIds[0]).toBe(tokenizer.tokenId('<|user|>'));
});
