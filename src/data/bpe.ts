/**
 * Makes a small byte-level BPE tokenizer from texts: for models trained from scratch. Merges are learned by
 * counting neighbouring pairs within words. Source: Sennrich et al. 2016; the file is Hugging Face's
 * `tokenizer.json` with Llama-3's splitting rule.
 */

/** Ids 0 … of these come first; 0 is padding, since instruct id 0 is padding to the model. */
const SPECIAL_TOKENS = ['<|pad|>', '<|user|>', '<|assistant|>', '<|end|>', '<vision_start>', '<vision_end>'];

const SPLIT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** The same rule for JavaScript, which has no inline flags in Node 20. */
const SPLIT_JS =
  /'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+/gu;

/** GPT-2's printable stand-in for each byte. */
function byteAlphabet(): readonly string[] {
  const printable = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
}

/** A word (as pieces) and how often it occurs. */
interface Word {
  pieces: string[];
  readonly count: number;
}

function countWords(texts: Iterable<string>, alphabet: readonly string[]): Word[] {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [word] of text.matchAll(SPLIT_JS)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return [...counts].map(([word, count]) => ({
    pieces: [...new TextEncoder().encode(word)].map((byte) => alphabet[byte] ?? ''),
    count,
  }));
}

/** The commonest neighbouring pair; of equally common ones the first in code-point order. */
function commonestPair(words: readonly Word[]): readonly [string, string] | undefined {
  const counts = new Map<string, number>();
  for (const { pieces, count } of words) {
    for (let i = 0; i + 1 < pieces.length; i++) {
      const key = `${pieces[i]}\n${pieces[i + 1]}`;
      counts.set(key, (counts.get(key) ?? 0) + count);
    }
  }
  let best: readonly [key: string, count: number] = ['', 1];
  for (const [key, count] of counts) {
    if (count > best[1] || (count === best[1] && count > 1 && key < best[0])) best = [key, count];
  }
  const [left, right] = best[0].split('\n');
  return left && right ? [left, right] : undefined;
}

function mergePair(word: Word, left: string, right: string): void {
  const merged: string[] = [];
  for (let i = 0; i < word.pieces.length; i++) {
    const piece = word.pieces[i] ?? '';
    if (piece === left && word.pieces[i + 1] === right) {
      merged.push(left + right);
      i += 1;
    } else merged.push(piece);
  }
  word.pieces = merged;
}

function learnMerges(words: readonly Word[], limit: number): (readonly [string, string])[] {
  const merges: (readonly [string, string])[] = [];
  while (merges.length < limit) {
    const pair = commonestPair(words);
    if (pair === undefined) break;
    merges.push(pair);
    for (const word of words) mergePair(word, ...pair);
  }
  return merges;
}

/**
 * `tokenizer.json` and `tokenizer_config.json` for `texts`, with at most `size` ids: special tokens of the `plain`
 * conversation format, 256 bytes, then merges. Deterministic.
 */
export function makeTokenizer(texts: Iterable<string>, size: number): { tokenizer: object; config: object } {
  const alphabet = byteAlphabet();
  const words = countWords(texts, alphabet);
  const merges = learnMerges(words, size - SPECIAL_TOKENS.length - alphabet.length);
  const tokens = [...SPECIAL_TOKENS, ...alphabet, ...merges.map((pair) => pair.join(''))];
  const vocab = Object.fromEntries([...new Set(tokens)].map((token, id) => [token, id]));
  const added = SPECIAL_TOKENS.map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  return {
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: null,
      pre_tokenizer: {
        type: 'Sequence',
        pretokenizers: [
          { type: 'Split', pattern: { Regex: SPLIT }, behavior: 'Isolated', invert: false },
          byteLevel,
        ],
      },
      post_processor: null,
      decoder: byteLevel,
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab,
        merges: merges.map((pair) => pair.join(' ')),
      },
    },
    config: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      eos_token: '<|end|>',
      pad_token: '<|pad|>',
      model_max_length: 1024,
    },
  };
}
