import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { TextStream } from './textStream.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer.ts';

const folderOf = (name: string) =>
  fileURLToPath(new URL(`../../test/fixtures/golden/tokenizers/${name}`, import.meta.url));

describe.each(['llama3', 'phi3'])('TextStream with %s', (name) => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(folderOf(name));
  });

  /** The pieces of `ids`; the last is what `flush` gave. */
  const pieces = (ids: readonly number[], skipSpecialTokens = true) => {
    const stream = new TextStream(tokenizer, { skipSpecialTokens });
    return [...ids.map((id) => stream.push(id)), stream.flush()];
  };

  it('gives decode of the whole for any ids', () => {
    const ids = fc.array(fc.integer({ min: 0, max: 920 }), { maxLength: 30 });
    fc.assert(
      fc.property(ids, fc.boolean(), (some, skipSpecialTokens) => {
        expect(pieces(some, skipSpecialTokens).join('')).toBe(tokenizer.decode(some, { skipSpecialTokens }));
      }),
      { numRuns: 500 },
    );
  });

  it('gives decode of the whole for ids that are mostly single bytes', () => {
    const bytes = Array.from({ length: 907 }, (_, id) => id).filter(
      (id) => tokenizer.tokenBytes(id).length === 1,
    );
    const ids = fc.array(fc.constantFrom(...bytes), { maxLength: 30 });
    fc.assert(
      fc.property(ids, (some) => {
        expect(pieces(some).join('')).toBe(tokenizer.decode(some, { skipSpecialTokens: true }));
      }),
      { numRuns: 500 },
    );
  });

  it('never gives a part of a character', () => {
    const text = fc.string({ unit: 'binary' }).filter((s) => !/[▁\uFFFD]/.test(s));
    fc.assert(
      fc.property(text, (s) => {
        const parts = pieces(tokenizer.encode(s));
        expect(parts.join('')).toBe(s);
        expect(parts.at(-1)).toBe('');
        for (const part of parts) expect(part).not.toMatch(/\p{Surrogate}|\uFFFD/u);
      }),
      { numRuns: 500 },
    );
  });

  it('gives a character with its last byte, not later', () => {
    const ids = tokenizer.encode('x🦤');
    const parts = pieces(ids);
    expect(ids.length).toBeGreaterThan(3);
    expect(parts.slice(-3)).toEqual(['', '🦤', '']);
  });

  it('keeps a byte-order mark, and drops a leading space behind an id without text', () => {
    expect(pieces(tokenizer.encode('\uFEFFa\uFEFF')).join('')).toBe('\uFEFFa\uFEFF');
    expect(pieces([100_000, ...tokenizer.encode('a')]).join('')).toBe('a');
  });

  it('gives a replacement character for what stays incomplete, only at the end, and starts afresh', () => {
    const ids = tokenizer.encode('x🦤').slice(0, -1);
    const stream = new TextStream(tokenizer);
    expect(ids.map((id) => stream.push(id)).join('')).toBe('x');
    expect(stream.flush()).toBe('\uFFFD');
    expect(
      tokenizer
        .encode('again')
        .map((id) => stream.push(id))
        .join('') + stream.flush(),
    ).toBe('again');
  });

  it('drops only the leading space that decode drops, also behind special tokens', () => {
    const ids = [tokenizer.eosId!, ...tokenizer.encode('  a'), tokenizer.eosId!, ...tokenizer.encode(' b')];
    expect(pieces(ids).join('')).toBe(tokenizer.decode(ids, { skipSpecialTokens: true }));
    expect(pieces(ids).join('').startsWith('  a')).toBe(true);
    expect(pieces(ids, false).join('')).toBe(tokenizer.decode(ids));
  });
});

describe('TextStream', () => {
  it('looks at each token once', async () => {
    const tokenizer = await loadTokenizer(folderOf('phi3'));
    let looks = 0;
    const counting: Tokenizer = {
      ...tokenizer,
      tokenBytes: (id) => {
        looks++;
        return tokenizer.tokenBytes(id);
      },
    };
    const stream = new TextStream(counting);
    for (let step = 0; step < 1000; step++) stream.push(300 + (step % 400));
    expect(looks).toBe(1000);
  });
});
