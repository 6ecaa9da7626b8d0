import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Tokenizer as Library } from '@huggingface/tokenizers';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer.ts';

const folderOf = (name: string) =>
  fileURLToPath(new URL(`../../test/fixtures/golden/tokenizers/${name}`, import.meta.url));
const json = async (path: string) => JSON.parse(await readFile(path, 'utf8'));

describe.each([
  {
    name: 'llama3',
    size: 908,
    bos: 900,
    eos: 905,
    pad: 902,
    addsBos: true,
    special: [900, 901, 902, 903, 904, 905, 906, 907],
  },
  {
    name: 'phi3',
    size: 907,
    bos: 1,
    eos: 900,
    pad: 0,
    addsBos: false,
    special: [0, 1, 2, 900, 901, 902, 903, 904, 905, 906],
  },
])('$name', ({ name, size, bos, eos, pad, addsBos, special }) => {
  let tokenizer: Tokenizer;
  let library: Library;
  beforeAll(async () => {
    const folder = folderOf(name);
    tokenizer = await loadTokenizer(folder);
    library = new Library(
      await json(join(folder, 'tokenizer.json')),
      await json(join(folder, 'tokenizer_config.json')),
    );
  });

  it('knows its size and its special tokens', () => {
    expect(tokenizer).toMatchObject({ vocabularySize: size, bosId: bos, eosId: eos, padId: pad, addsBos });
    expect([...tokenizer.specialIds].sort((a, b) => a - b)).toEqual(special);
    expect(tokenizer.tokenId('<vision_start>')).toBe(special.at(-2));
    expect(tokenizer.tokenId('no such token')).toBeUndefined();
  });

  it('adds a BOS only on request', () => {
    const plain = tokenizer.encode('Hi');
    expect(plain).not.toContain(bos);
    expect(tokenizer.encode('Hi', { addSpecialTokens: true })).toEqual(addsBos ? [bos, ...plain] : plain);
    expect(tokenizer.encode('')).toEqual([]);
  });

  it.each([
    'Hello world',
    ' two  spaces . ',
    "don 't , clean !",
    '图中有什么？ 😀 naïve\n\n\tx',
    '\u0000\u007f\u0085é',
    '\uFEFFmark',
    '',
  ])('decodes what it encoded: %j', (text) => expect(tokenizer.decode(tokenizer.encode(text))).toBe(text));

  it('decodes any text it encoded', () => {
    const text = fc.string({ unit: 'binary' }).filter((s) => !s.includes('▁'));
    fc.assert(fc.property(text, (s) => tokenizer.decode(tokenizer.encode(s)) === s));
  });

  it('decodes any ids as the library does', () => {
    const ids = fc.array(fc.integer({ min: 0, max: size - 1 }), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(ids, fc.boolean(), (some, skip) => {
        const options = { skip_special_tokens: skip, clean_up_tokenization_spaces: false };
        expect(tokenizer.decode(some, { skipSpecialTokens: skip })).toBe(library.decode(some, options));
      }),
      { numRuns: 500 },
    );
  });

  it('skips special tokens on request, and ids that are no token', () => {
    const ids = [special[0]!, ...tokenizer.encode('Hi'), eos, 100_000];
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe('Hi');
    expect(tokenizer.decode(ids)).not.toBe('Hi');
    expect(tokenizer.decode([])).toBe('');
  });
});

describe('loadTokenizer', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tokenizer-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  const load = async (change: (file: Record<string, unknown>) => unknown, config = '{}', name = 'phi3') => {
    const file = await json(join(folderOf(name), 'tokenizer.json'));
    const changed = change(file) ?? file;
    await writeFile(
      join(folder, 'tokenizer.json'),
      typeof changed === 'string' ? changed : JSON.stringify(changed),
    );
    await writeFile(join(folder, 'tokenizer_config.json'), config);
    return loadTokenizer(folder);
  };

  it('reads token names that are strings, objects, absent or unknown', async () => {
    const tokens = {
      eos_token: { content: '</s>', special: true },
      bos_token: '<s>',
      pad_token: '[PAD]',
      unk_token: null,
    };
    const tokenizer = await load(() => undefined, JSON.stringify(tokens));
    expect(tokenizer).toMatchObject({ bosId: 1, eosId: 2 });
    expect('padId' in tokenizer).toBe(false);
    expect(await load(() => undefined)).not.toHaveProperty('eosId');
  });

  it('counts tokens as special that only tokenizer_config.json calls so', async () => {
    const additional = { additional_special_tokens: ['a', { content: 'e' }] };
    const { specialIds, tokenId } = await load(() => undefined, JSON.stringify(additional));
    expect(specialIds).toContain(tokenId('a'));
    expect(specialIds).toContain(tokenId('e'));
  });

  it('takes an added token as it is written, not as bytes', async () => {
    const token = { id: 950, content: 'é!', special: false };
    const change = (file: Record<string, unknown>) => ({ ...file, added_tokens: [token] });
    const tokenizer = await load(change, '{}', 'llama3');
    expect(tokenizer.vocabularySize).toBe(951);
    expect(tokenizer.encode('é!')).toEqual([950]);
    expect(tokenizer.decode([950], { skipSpecialTokens: true })).toBe('é!');
    expect(tokenizer.decode(tokenizer.encode('naïve é'))).toBe('naïve é');
  });

  it.each<[string, (file: Record<string, unknown>) => unknown, string, RegExp]>([
    ['broken JSON', () => '{"model":\n oops', '{}', /tokenizer\.json: not valid JSON/],
    ['broken config', () => undefined, '[1', /tokenizer_config\.json: not valid JSON/],
    ['a config of another shape', () => undefined, '{"eos_token": 3}', /tokenizer_config\.json: eos_token: /],
    ['not a tokenizer', () => [], '{}', /tokenizer\.json: the file: /],
    [
      'another model',
      () => ({ model: { type: 'Unigram' } }),
      '{}',
      /tokenizer\.json: model\.type: expected "BPE", got "Unigram"; use/,
    ],
    [
      'no vocabulary',
      () => ({ model: { type: 'BPE', vocab: {}, merges: [] } }),
      '{}',
      /tokenizer\.json: model: expected "vocab"/,
    ],
    [
      'another decoder',
      (file) => ({ ...file, decoder: { type: 'WordPiece' } }),
      '{}',
      /decoder: expected .* got .*WordPiece/,
    ],
    ['no decoder', (file) => ({ ...file, decoder: null }), '{}', /decoder: expected .* got null/],
    [
      'another normalizer',
      (file) => ({ ...file, normalizer: { type: 'Nope' } }),
      '{}',
      /not a tokenizer this program reads \(.*Nope/,
    ],
  ])('says what is wrong: %s', async (_, change, config, message) => {
    const error = await load(change, config).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    expect(String(error)).toMatch(message);
    expect(String(error)).not.toContain('\n');
  });

  it.each(['', 'nothing here'])('says what to try in a folder without a tokenizer: %j', async (name) => {
    await rm(join(folder, 'tokenizer.json'), { force: true });
    const loading = loadTokenizer(join(folder, name));
    await expect(loading).rejects.toThrow(/no tokenizer\.json in this folder; name a checkpoint's folder/);
    await expect(loading).rejects.toBeInstanceOf(UserError);
  });
});
