/**
 * Text to token ids and back, from a checkpoint folder's `tokenizer.json`.
 *
 * Encoding is done by `@huggingface/tokenizers`. Decoding is done here, from each token's bytes, so that a
 * streamed answer and a whole one are the same text: no clean-up of spaces, unknown ids are empty, and bytes
 * that are not UTF-8 become U+FFFD as in the WHATWG decoder. Knows nothing of conversations or placeholders.
 * Supported are the two families FUSION's decoders use: byte-level BPE (Llama 3) and BPE with `▁` for spaces
 * and byte fallback (Phi-3).
 */

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Tokenizer as Library } from '@huggingface/tokenizers';
import { z } from 'zod';
import { messageOf, UserError } from '../common/errors.ts';

/** A loaded tokenizer. Ids are those of the checkpoint's embedding table. */
export interface Tokenizer {
  /** Ids of `text`; with `addSpecialTokens` (default false) also what the tokenizer itself puts around it (BOS). */
  encode(text: string, options?: { readonly addSpecialTokens?: boolean }): number[];
  /** Text of `ids`; `skipSpecialTokens` defaults to false. Ids without a token give no text. */
  decode(ids: Iterable<number>, options?: { readonly skipSpecialTokens?: boolean }): string;
  /** The bytes that token `id` adds to a text, before the text's leading space is dropped. */
  tokenBytes(id: number): Uint8Array;
  /** Whether one space at the very start of a decoded text is the tokenizer's own and is dropped. */
  readonly dropsLeadingSpace: boolean;
  /** The id of one whole token, or undefined. */
  tokenId(token: string): number | undefined;
  /** Highest id + 1 (an embedding table may have more rows). */
  readonly vocabularySize: number;
  /** Ids that `skipSpecialTokens` leaves out. */
  readonly specialIds: ReadonlySet<number>;
  readonly bosId?: number;
  readonly eosId?: number;
  readonly padId?: number;
  /** Whether `addSpecialTokens` puts a BOS in front. */
  readonly addsBos: boolean;
}

const decoderStep = z.looseObject({
  type: z.string(),
  pattern: z.looseObject({ String: z.string().optional() }).optional(),
  content: z.string().optional(),
  start: z.number().optional(),
  stop: z.number().optional(),
  prepend_scheme: z.string().optional(),
  replacement: z.string().optional(),
});

const tokenizerFile = z.looseObject({
  model: z.looseObject({ type: z.string(), vocab: z.unknown().optional(), merges: z.unknown().optional() }),
  added_tokens: z
    .array(
      z.looseObject({ id: z.int().nonnegative(), content: z.string(), special: z.boolean().default(false) }),
    )
    .nullish(),
  decoder: decoderStep.extend({ decoders: z.array(decoderStep).optional() }).nullish(),
});

const namedToken = z.union([z.string(), z.looseObject({ content: z.string() })]).nullish();

const configFile = z.looseObject({
  bos_token: namedToken,
  eos_token: namedToken,
  pad_token: namedToken,
  unk_token: namedToken,
  additional_special_tokens: z.array(namedToken).nullish(),
});

type TokenizerFile = z.infer<typeof tokenizerFile>;
type ConfigFile = z.infer<typeof configFile>;
type DecoderStep = z.infer<typeof decoderStep>;

/**
 * Loads `folder/tokenizer.json` and, where present, `folder/tokenizer_config.json` (names of BOS, EOS and padding).
 *
 * @throws UserError for a folder without `tokenizer.json`, broken JSON, or a kind of tokenizer not supported.
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const path = join(folder, 'tokenizer.json');
  const content = await readJson(path);
  if (content === undefined) {
    throw new UserError(
      `${folder}: no tokenizer.json in this folder; name a checkpoint's folder, or copy tokenizer.json and tokenizer_config.json of its base model into it`,
    );
  }
  const configPath = join(folder, 'tokenizer_config.json');
  const config = parseAs(configFile, configPath, (await readJson(configPath)) ?? {});
  return buildTokenizer(path, parseAs(tokenizerFile, path, content), config);
}

/** The tokenizer of parsed files; `path` is only for messages. */
function buildTokenizer(path: string, file: TokenizerFile, config: ConfigFile): Tokenizer {
  const vocabulary = bpeVocabulary(path, file);
  const rule = decodingRule(path, file);
  const library = openLibrary(path, file, config);
  const added = new Set(file.added_tokens?.map((token) => token.id));
  const tokenId = (token: string) => library.token_to_id(token);
  const { named, specialIds } = specialTokens(file, config, tokenId);
  const utf8 = new TextEncoder();

  const encode: Tokenizer['encode'] = (text, options) =>
    library.encode(text, { add_special_tokens: options?.addSpecialTokens ?? false }).ids;
  const tokenBytes: Tokenizer['tokenBytes'] = (id) => {
    const token = library.id_to_token(id);
    if (token === undefined) return new Uint8Array();
    return added.has(id) ? utf8.encode(token) : rule.bytes(token);
  };
  const decode: Tokenizer['decode'] = (ids, options) => {
    const skip = options?.skipSpecialTokens ?? false;
    const kept = [...ids].filter((id) => !(skip && specialIds.has(id)));
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(concatBytes(kept.map(tokenBytes)));
    return rule.dropsLeadingSpace && text.startsWith(' ') ? text.slice(1) : text;
  };
  return {
    encode,
    decode,
    tokenBytes,
    dropsLeadingSpace: rule.dropsLeadingSpace,
    tokenId,
    vocabularySize: highest([...vocabulary, ...added]) + 1,
    specialIds,
    addsBos: named.bosId !== undefined && encode('', { addSpecialTokens: true })[0] === named.bosId,
    ...named,
  };
}

/** The ids of the tokens with a role, and of all tokens that are not text. */
function specialTokens(file: TokenizerFile, config: ConfigFile, tokenId: Tokenizer['tokenId']) {
  const idOf = (token: z.infer<typeof namedToken>) => {
    const name = typeof token === 'string' ? token : token?.content;
    return name === undefined ? undefined : tokenId(name);
  };
  const roles = { bosId: config.bos_token, eosId: config.eos_token, padId: config.pad_token };
  const known = Object.entries(roles).flatMap(([role, token]) => {
    const id = idOf(token);
    return id === undefined ? [] : [[role, id] as const];
  });
  const others = [config.unk_token, ...(config.additional_special_tokens ?? [])].map(idOf).filter(isDefined);
  const marked = file.added_tokens?.filter((token) => token.special).map((token) => token.id) ?? [];
  const named: Partial<Record<keyof typeof roles, number>> = Object.fromEntries(known);
  return { named, specialIds: new Set([...known.map(([, id]) => id), ...others, ...marked]) };
}

/** The ids of the model's own vocabulary; throws where the model is not BPE. */
function bpeVocabulary(path: string, { model }: TokenizerFile): number[] {
  if (model.type !== 'BPE') {
    throw new UserError(
      `${path}: model.type: expected "BPE", got ${JSON.stringify(model.type)}; use the tokenizer of a Llama-3 or Phi-3 checkpoint`,
    );
  }
  const { vocab } = model;
  const ids: unknown[] = typeof vocab === 'object' && vocab !== null ? Object.values(vocab) : [];
  if (ids.length === 0 || !ids.every(isId) || !Array.isArray(model.merges)) {
    throw new UserError(`${path}: model: expected "vocab" (token → id) and "merges"; fetch the file again`);
  }
  return ids;
}

function openLibrary(path: string, file: TokenizerFile, config: ConfigFile): Library {
  const absent = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
  try {
    return new Library({ ...absent, ...file, added_tokens: file.added_tokens ?? [] }, config);
  } catch (error) {
    throw new UserError(
      `${path}: not a tokenizer this program reads (${messageOf(error)}); use the tokenizer of a Llama-3 or Phi-3 checkpoint`,
    );
  }
}

/** How a token of the vocabulary becomes bytes. */
interface DecodingRule {
  bytes(token: string): Uint8Array;
  readonly dropsLeadingSpace: boolean;
}

/** Reads the decoder's steps; throws for one that is not of the two families. */
function decodingRule(path: string, { decoder }: TokenizerFile): DecodingRule {
  const steps: readonly DecoderStep[] = decoder?.decoders ?? (decoder ? [decoder] : []);
  if (steps.length === 1 && steps[0]?.type === 'ByteLevel') {
    return { bytes: byteLevelBytes, dropsLeadingSpace: false };
  }
  const unknown = steps.find((step) => !isSpaceStep(step));
  if (steps.length === 0 || unknown) {
    throw new UserError(
      `${path}: decoder: expected "ByteLevel" or the steps of a Phi-3 tokenizer, got ${JSON.stringify(unknown ?? decoder ?? null)}; use the tokenizer of a Llama-3 or Phi-3 checkpoint`,
    );
  }
  const utf8 = new TextEncoder();
  const hasBytes = steps.some((step) => step.type === 'ByteFallback');
  const dropsLeadingSpace = steps.some(
    (step) => step.type === 'Strip' || (step.type === 'Metaspace' && step.prepend_scheme !== 'never'),
  );
  const bytes = (token: string) => {
    const byte = hasBytes ? /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1] : undefined;
    return byte === undefined
      ? utf8.encode(token.replaceAll('▁', ' '))
      : Uint8Array.of(Number.parseInt(byte, 16));
  };
  return { bytes, dropsLeadingSpace };
}

/** Whether a decoder step is one of those of a tokenizer that writes spaces as `▁`. */
function isSpaceStep(step: DecoderStep): boolean {
  switch (step.type) {
    case 'ByteFallback':
    case 'Fuse':
      return true;
    case 'Replace':
      return step.pattern?.String === '▁' && step.content === ' ';
    case 'Strip':
      return step.content === ' ' && step.start === 1 && step.stop === 0;
    case 'Metaspace':
      return (step.replacement ?? '▁') === '▁';
    default:
      return false;
  }
}

/** Byte-level BPE writes every byte as a printable character (GPT-2's table); others stand for themselves. */
function byteLevelBytes(token: string): Uint8Array {
  const bytes = Array.from(token, (character) => BYTE_OF.get(character));
  return bytes.every(isDefined) ? Uint8Array.from(bytes) : new TextEncoder().encode(token);
}

const BYTE_OF: ReadonlyMap<string, number> = byteTable();

function byteTable(): Map<string, number> {
  const isPrintable = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  const table = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    table.set(String.fromCodePoint(isPrintable(byte) ? byte : next++), byte);
  }
  return table;
}

/** The parsed content of a JSON file; undefined where there is no such file. */
async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new UserError(`${path}: cannot be read (${messageOf(error)})`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`${path}: not valid JSON (${messageOf(error)}); fetch the file again`);
  }
}

function parseAs<T extends z.ZodType>(schema: T, path: string, content: unknown): z.infer<T> {
  const result = schema.safeParse(content);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new UserError(
    `${path}: ${issue?.path.join('.') || 'the file'}: ${issue?.message}; fetch the file again`,
  );
}

function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const isDefined = <T>(value: T | undefined): value is T => value !== undefined;
const isId = (value: unknown): value is number => Number.isInteger(value) && Number(value) >= 0;
const highest = (ids: readonly number[]) => ids.reduce((most, id) => Math.max(most, id), -1);
