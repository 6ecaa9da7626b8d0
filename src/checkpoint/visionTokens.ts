/**
 * A base model's tokenizer with the two tokens FUSION puts around images, ids continuing after the last one.
 *
 * Knows the files of a Hugging Face tokenizer, not how text is tokenised.
 * Source: what transformers' `add_tokens(…, special_tokens=True)` writes.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { messageOf, UserError } from '../common/errors.ts';
import { isRecord, kindOf, parseJsonObject } from './jsonText.ts';
import { copyFiles, TOKENIZER_FILES, writeJson } from './newFolder.ts';

const VISION_TOKENS = ['<vision_start>', '<vision_end>'] as const;

export type TokenizerPlan = {
  /** Tokens before anything is added: one more than the highest id. */
  readonly size: number;
  /** Ids of the tokens that are added; none where the tokenizer has both. */
  readonly newIds: readonly number[];
  /** Writes the tokenizer's files into a folder, with the tokens added. */
  readonly write: (dir: string) => Promise<void>;
};

type Json = Record<string, unknown>;
type Added = { readonly token: string; readonly id: number };

/** Reads the tokenizer in `dir`. Throws `UserError` where it has no `tokenizer.json` or a broken one. */
export async function planTokenizer(dir: string): Promise<TokenizerPlan> {
  const file = path.join(dir, 'tokenizer.json');
  const json = await readJson(file);
  if (json === undefined) throw new UserError(`${file}: expected a tokenizer, got no such file`);
  const ids = tokenIds(json, file);
  const size = [...ids.values()].reduce((most, id) => Math.max(most, id), -1) + 1;
  const missing = VISION_TOKENS.filter((token) => !ids.has(token));
  const added = missing.map((token, i): Added => ({ token, id: size + i }));
  const write = async (out: string) => {
    await copyFiles(dir, out, TOKENIZER_FILES);
    if (added.length > 0) await writeAdded(dir, out, json, added);
  };
  return { size, newIds: added.map(({ id }) => id), write };
}

/** Token → id, of the vocabulary (an object, or a list in id order) and of the added tokens. */
function tokenIds(json: Json, file: string): Map<string, number> {
  const vocab = isRecord(json.model) ? json.model.vocab : undefined;
  const listed: readonly [unknown, unknown][] = Array.isArray(vocab)
    ? vocab.map((entry, id) => [Array.isArray(entry) ? entry[0] : entry, id])
    : isRecord(vocab)
      ? Object.entries(vocab)
      : [];
  if (listed.length === 0)
    throw new UserError(`${file}: expected model.vocab with tokens, got ${kindOf(vocab)}`);
  const ids = new Map<string, number>();
  for (const [token, id] of [...listed, ...addedTokens(json).map((t) => [t.content, t.id] as const)]) {
    if (typeof token !== 'string' || typeof id !== 'number' || !Number.isSafeInteger(id) || id < 0) {
      throw new UserError(`${file}: expected tokens with ids, got ${kindOf([token, id])}`);
    }
    ids.set(token, id);
  }
  return ids;
}

function addedTokens(json: Json): readonly Json[] {
  return Array.isArray(json.added_tokens) ? json.added_tokens.filter(isRecord) : [];
}

/** The files that list added tokens; only `tokenizer.json` must exist. */
async function writeAdded(dir: string, out: string, json: Json, added: readonly Added[]): Promise<void> {
  const entries = added.map(({ token, id }) => ({ id, ...flags(token) }));
  await writeJson(path.join(out, 'tokenizer.json'), {
    ...json,
    added_tokens: [...addedTokens(json), ...entries],
  });
  const configFile = path.join(dir, 'tokenizer_config.json');
  const config = await readJson(configFile);
  if (isRecord(config?.added_tokens_decoder)) {
    const decoder = Object.fromEntries(added.map(({ token, id }) => [String(id), flags(token)]));
    const merged = { ...config, added_tokens_decoder: { ...config.added_tokens_decoder, ...decoder } };
    await writeJson(path.join(out, 'tokenizer_config.json'), merged);
  }
  const listed = await readJson(path.join(dir, 'added_tokens.json'));
  if (listed !== undefined) {
    const more = Object.fromEntries(added.map(({ token, id }) => [token, id]));
    await writeJson(path.join(out, 'added_tokens.json'), { ...listed, ...more });
  }
}

function flags(content: string) {
  return { content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
}

/** The object in `file`, or undefined where there is no such file. */
async function readJson(file: string): Promise<Json | undefined> {
  const bytes = await readFile(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw new UserError(`${file}: ${messageOf(error)}`);
  });
  return bytes && parseJsonObject(bytes, file);
}
