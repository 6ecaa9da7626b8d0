/**
 * Conversations as the model reads them: messages → prompt → token ids, labels and the questions' tokens.
 *
 * A format is data (`ConversationFormat`); one function renders all of them and notes, as character offsets, where
 * each answer begins and ends, so labels come from spans and not from searching the ids. Knows nothing of pixels,
 * of lengths (placeholders are expanded and sequences cut later) or of files.
 * Source: spec "Conversation formats" and "Tokenising"; the released templates `llama_3` and `phi_3`.
 */

import { UserError } from '../common/errors.ts';
import { END_OF_QUESTION, IGNORE, IMAGE, LATENT } from '../model/sentinels.ts';
import type { Tokenizer } from './tokenizer.ts';

/** One turn. In a sample with an image, `<image>` in a user's text says which turn shows it. */
export interface Message {
  readonly role: 'user' | 'assistant';
  readonly text: string;
}

/** A turn in the LLaVA data sets' JSON. */
export interface LlavaTurn {
  readonly from: string;
  readonly value: string;
}

/** Everything that distinguishes one format from another. */
export interface ConversationFormat {
  readonly name: string;
  /** The system turn is `systemHeader` + `systemText` + `turnEnd`; an empty text means there is none. */
  readonly systemHeader: string;
  readonly systemText: string;
  readonly userHeader: string;
  readonly assistantHeader: string;
  /** Closes every turn and is supervised after an answer; one token of the tokenizer. */
  readonly turnEnd: string;
  /** Tokens that end an answer, where the tokenizer has them. */
  readonly stopTokens: readonly string[];
}

/** Whether the sample comes with an image. */
export interface ConversationOptions {
  readonly hasImage: boolean;
}

/** A conversation to train on. `inputIds` and `labels` are of equal length; ids may be `IMAGE` or `LATENT`. */
export interface EncodedConversation {
  readonly prompt: string;
  readonly inputIds: Int32Array;
  readonly labels: Int32Array;
  /** The questions' tokens, read by the vision tower; `[0]` without an image. */
  readonly instructs: Int32Array;
}

/** A conversation to answer. */
export interface EncodedPrompt {
  readonly prompt: string;
  readonly inputIds: Int32Array;
  readonly instructs: Int32Array;
  /** For every question so far, the position in `inputIds` of its assistant header's last token; ascending. */
  readonly endsOfQuestion: readonly number[];
}

const IMAGE_MARKER = '<image>';
const IMAGE_SLOT = '<vision_start><image><vision_end>';
const LATENT_SLOT = '<vision_start><latent_image><vision_end>';

const FORMATS = {
  llama_3: {
    name: 'llama_3',
    systemHeader: '<|start_header_id|>system<|end_header_id|>\n\n',
    systemText:
      'You are a helpful, highly intelligent language and vision assistant. You are able to understand the visual content that the user provides, and assist the user with a variety of tasks using natural language. Whenever an image is present in the conversation, very carefully examine it and consider its content when formulating your response.',
    userHeader: '<|start_header_id|>user<|end_header_id|>\n\n',
    assistantHeader: '<|start_header_id|>assistant<|end_header_id|>\n\n',
    turnEnd: '<|eot_id|>',
    stopTokens: ['<|eot_id|>', '<|end_of_text|>'],
  },
  phi_3: {
    name: 'phi_3',
    systemHeader: '<|system|>\n',
    systemText: 'You are a helpful AI assistant.',
    userHeader: '\n<|user|>\n',
    assistantHeader: '\n<|assistant|>\n',
    turnEnd: '<|end|>',
    stopTokens: ['<|end|>', '<|endoftext|>'],
  },
  /** For small models trained from scratch: three markers of one token each, no system turn, no newlines. */
  plain: {
    name: 'plain',
    systemHeader: '',
    systemText: '',
    userHeader: '<|user|>',
    assistantHeader: '<|assistant|>',
    turnEnd: '<|end|>',
    stopTokens: ['<|end|>', '<|endoftext|>'],
  },
} as const satisfies Record<string, ConversationFormat>;

/** The name of a format. */
export type FormatName = keyof typeof FORMATS;

const FORMAT_OF_MODEL: Readonly<Record<string, FormatName>> = {
  fusion_llama: 'llama_3',
  fusion_phi: 'phi_3',
};

/** The format called `name`. @throws UserError with the known names. */
export function formatNamed(name: string): ConversationFormat {
  const format = Object.values(FORMATS).find((known) => known.name === name);
  if (format) return format;
  const names = Object.keys(FORMATS).join(', ');
  throw new UserError(`conversation format: expected one of ${names}, got ${JSON.stringify(name)}`);
}

/** The format of a checkpoint's `model_type`. @throws UserError for a type that has none. */
export function formatFor(modelType: string): ConversationFormat {
  const entry = Object.entries(FORMAT_OF_MODEL).find(([known]) => known === modelType);
  if (entry) return formatNamed(entry[1]);
  const types = Object.keys(FORMAT_OF_MODEL).join(', ');
  throw new UserError(
    `config.json: model_type: expected one of ${types}, got ${JSON.stringify(modelType)}; name a conversation format yourself`,
  );
}

/**
 * The format with another system text, in which markers are escaped; the format itself where none is given.
 *
 * @throws UserError where the format has no system turn.
 */
export function withSystemText(format: ConversationFormat, text: string | undefined): ConversationFormat {
  if (text === undefined) return format;
  if (format.systemHeader !== '') return { ...format, systemText: escapeMarkers(text) };
  throw new UserError(
    `system text: the conversation format ${format.name} has no system turn; put the instruction into the question`,
  );
}

/**
 * The ids that end an answer: the format's stop tokens the tokenizer has, and the tokenizer's own EOS.
 *
 * @throws UserError where the tokenizer lacks the format's turn end (the two do not belong together).
 */
export function stopIds(format: ConversationFormat, tokenizer: Tokenizer): ReadonlySet<number> {
  assertFits(format, tokenizer);
  const ids = [...format.stopTokens.map((token) => tokenizer.tokenId(token)), tokenizer.eosId];
  return new Set(ids.filter((id) => id !== undefined));
}

/**
 * Messages of a LLaVA sample (`human` → user, `gpt` → assistant).
 *
 * @throws UserError for an empty list, another speaker, or a value that is not text.
 */
export function fromLlava(conversations: readonly LlavaTurn[]): Message[] {
  if (!Array.isArray(conversations) || conversations.length === 0) {
    throw new UserError('conversations: expected at least one turn, got none');
  }
  return conversations.map(({ from, value }: LlavaTurn, index): Message => {
    if (from !== 'human' && from !== 'gpt') {
      throw new UserError(
        `conversations[${index}].from: expected "human" or "gpt", got ${JSON.stringify(from)}`,
      );
    }
    if (typeof value !== 'string') {
      throw new UserError(`conversations[${index}].value: expected text, got ${JSON.stringify(value)}`);
    }
    return { role: from === 'human' ? 'user' : 'assistant', text: value };
  });
}

/**
 * Makes a text typed by a person safe to ask: markers of the image, of latents and of turns get a space after
 * their `<`, so that they read alike but are neither cut out as placeholders nor tokenised as turn boundaries.
 * Use it on questions and quoted answers in a chat, before adding `<image>` yourself; training data are encoded
 * as they are, like in the reference.
 */
export function escapeMarkers(text: string): string {
  return text.replace(/<(?=(?:image|latent_image|vision_start|vision_end)>|\|\w+\|>)/g, '< ');
}

/**
 * The prompt as text. A first turn that is not the user's is dropped. An empty last answer is left open (header
 * only), which is how a prompt for generation ends.
 *
 * @throws UserError without a user turn, or where roles do not alternate.
 */
export function renderConversation(
  format: ConversationFormat,
  messages: readonly Message[],
  options: ConversationOptions,
): string {
  return render(format, turnsOf(messages), options.hasImage).prompt;
}

/**
 * A conversation to train on: each answer and the turn end after it are supervised, each assistant header's last
 * token is labelled `END_OF_QUESTION`, all else `IGNORE`. With an empty last answer nothing is supervised.
 *
 * @throws UserError for a conversation that cannot be rendered, whose `<image>` marker and image do not agree, or
 * whose format does not fit the tokenizer.
 */
export function encodeConversation(
  tokenizer: Tokenizer,
  format: ConversationFormat,
  messages: readonly Message[],
  options: ConversationOptions,
): EncodedConversation {
  const { prompt, ids, answers, instructs } = encode(tokenizer, format, messages, options);
  const labels = new Int32Array(ids.length).fill(IGNORE);
  const isOpen = messages.at(-1)?.role === 'assistant' && messages.at(-1)?.text === '';
  for (const { start, end } of isOpen ? [] : answers) {
    labels[start - 1] = END_OF_QUESTION;
    for (let at = start; at < end; at++) {
      const id = ids[at] ?? IGNORE;
      labels[at] = id < 0 ? IGNORE : id;
    }
  }
  return { prompt, inputIds: Int32Array.from(ids), labels, instructs };
}

/**
 * A conversation to answer: it ends with the user's turn, and the prompt with the assistant header.
 *
 * @throws UserError as `encodeConversation`, and where the last turn is not the user's or a text holds
 * `<latent_image>` (see `escapeMarkers`).
 */
export function encodePrompt(
  tokenizer: Tokenizer,
  format: ConversationFormat,
  messages: readonly Message[],
  options: ConversationOptions,
): EncodedPrompt {
  if (messages.at(-1)?.role !== 'user') {
    throw new UserError('messages: expected the last turn to be the user’s; add the question to answer');
  }
  const open: Message = { role: 'assistant', text: '' };
  const { prompt, ids, answers, instructs } = encode(tokenizer, format, [...messages, open], options);
  const endsOfQuestion = answers.map(({ start }) => start - 1);
  const latents = ids.filter((id) => id === LATENT).length;
  if (latents !== endsOfQuestion.length) {
    throw new UserError(
      `messages: expected ${endsOfQuestion.length} <latent_image> markers, one a question, got ${latents}; escape the markers in what people type`,
    );
  }
  return { prompt, inputIds: Int32Array.from(ids), instructs, endsOfQuestion };
}

/** From the first item of an answer to behind its last; in characters or in tokens. */
interface Span {
  readonly start: number;
  readonly end: number;
}

function encode(
  tokenizer: Tokenizer,
  format: ConversationFormat,
  messages: readonly Message[],
  { hasImage }: ConversationOptions,
): { prompt: string; ids: number[]; answers: Span[]; instructs: Int32Array } {
  assertFits(format, tokenizer);
  const turns = turnsOf(messages);
  const { prompt, answers } = render(format, turns, hasImage);
  assertImage(prompt, hasImage);
  const { ids, counts } = tokenise(
    tokenizer,
    prompt,
    answers.flatMap(({ start, end }) => [start, end]),
  );
  const spans = answers.map((_, k) => ({ start: counts[2 * k] ?? 0, end: counts[2 * k + 1] ?? 0 }));
  return { prompt, ids, answers: spans, instructs: instructIds(tokenizer, turns, hasImage) };
}

/** The turns that count, checked: user first, then in alternation. */
function turnsOf(messages: readonly Message[]): readonly Message[] {
  const turns = messages[0]?.role === 'user' ? messages : messages.slice(1);
  if (turns.length === 0) throw new UserError('messages: expected at least one turn of the user, got none');
  const dropped = messages.length - turns.length;
  turns.forEach(({ role }, k) => {
    const expected = k % 2 === 0 ? 'user' : 'assistant';
    if (role !== expected) {
      throw new UserError(
        `messages[${k + dropped}].role: expected "${expected}", got "${role}"; user and assistant take turns`,
      );
    }
  });
  return turns;
}

/** The prompt, and where in it each answer (with its turn end) stands. */
function render(
  format: ConversationFormat,
  turns: readonly Message[],
  hasImage: boolean,
): { prompt: string; answers: Span[] } {
  const { systemHeader, systemText, userHeader, assistantHeader, turnEnd } = format;
  const answers: Span[] = [];
  let prompt = systemText === '' ? '' : systemHeader + systemText + turnEnd;
  turns.forEach((turn, k) => {
    const text = hasImage ? imageFirst(turn.text) : turn.text;
    if (turn.role === 'user') {
      prompt += userHeader + LATENT_SLOT + text + turnEnd;
      return;
    }
    prompt += assistantHeader;
    const start = prompt.length;
    const isOpen = text === '' && k === turns.length - 1;
    prompt += isOpen ? '' : text + turnEnd;
    answers.push({ start, end: prompt.length });
  });
  return { prompt, answers };
}

/** A text with its `<image>` moved to the front. */
function imageFirst(text: string): string {
  if (!text.includes(IMAGE_MARKER)) return text;
  return strip(`${IMAGE_SLOT}\n${strip(text.replaceAll(IMAGE_MARKER, ''))}`);
}

/** Ids of the whole prompt, and for each character offset in `cuts` (ascending) the tokens up to it. */
function tokenise(
  tokenizer: Tokenizer,
  prompt: string,
  cuts: readonly number[],
): { ids: number[]; counts: number[] } {
  const ids: number[] = tokenizer.addsBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : [];
  const counts: number[] = [];
  const addPiece = (from: number, to: number) => {
    // A cut may fall inside a token of the whole piece, so what precedes it is counted on its own.
    for (let cut = cuts[counts.length]; cut !== undefined && cut <= to; cut = cuts[counts.length]) {
      counts.push(ids.length + tokenizer.encode(prompt.slice(from, cut)).length);
    }
    for (const id of tokenizer.encode(prompt.slice(from, to))) ids.push(id);
  };
  let from = 0;
  for (const match of prompt.matchAll(/<image>|<latent_image>/g)) {
    addPiece(from, match.index);
    ids.push(match[0] === IMAGE_MARKER ? IMAGE : LATENT);
    from = match.index + match[0].length;
  }
  addPiece(from, prompt.length);
  return { ids, counts };
}

/** Tokens of all questions joined, without image markers; `[0]`, i.e. padding only, where there is nothing to read. */
function instructIds(tokenizer: Tokenizer, turns: readonly Message[], hasImage: boolean): Int32Array {
  if (!hasImage) return Int32Array.of(0);
  const questions = turns
    .filter(({ role }) => role === 'user')
    .map(({ text }) => strip(text.replace(/<image>|<vision_start>|<vision_end>/g, '')));
  const ids = tokenizer.encode(questions.join(''), { addSpecialTokens: true });
  return ids.length === 0 ? Int32Array.of(0) : Int32Array.from(ids);
}

function assertFits(format: ConversationFormat, tokenizer: Tokenizer): void {
  if (tokenizer.tokenId(format.turnEnd) !== undefined) return;
  throw new UserError(
    `conversation format ${format.name}: expected the token ${format.turnEnd} in the tokenizer, got none; choose the format of this tokenizer`,
  );
}

/** An image nobody refers to would leave a question without latents; a marker without an image, one too many. */
function assertImage(prompt: string, hasImage: boolean): void {
  if (prompt.includes(IMAGE_MARKER) === hasImage) return;
  throw new UserError(
    hasImage
      ? 'messages: expected <image> in a turn of a sample with an image, got none; put it before the question'
      : 'messages: expected no <image> in a sample without an image, got one; add the image or escape the marker',
  );
}

/** Python's `str.strip`, which differs from `trim` in a few separators and the byte-order mark. */
function strip(text: string): string {
  const isBlank = (at: number) => PYTHON_BLANKS.has(text.charAt(at));
  let [start, end] = [0, text.length];
  while (start < end && isBlank(start)) start++;
  while (end > start && isBlank(end - 1)) end--;
  return text.slice(start, end);
}

const PYTHON_BLANKS: ReadonlySet<string> = new Set(
  '\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000',
);
