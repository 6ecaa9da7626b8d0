/**
 * The body of a chat request → what is asked of the model. Reads OpenAI's chat completions format; what would
 * change the answer and cannot be done is refused, fields without a meaning here are ignored. Knows nothing of
 * models or images' bytes.
 */
import { z } from 'zod';
import type { AnswerOptions } from '../generate/answer.ts';
import type { Turn } from '../generate/chat.ts';
import { ApiError } from './apiError.ts';
import { refuseUnsupported } from './unsupported.ts';

/** A conversation as a client sent it. */
export interface AskedConversation {
  /** The model's name; the first one where the client names none. */
  readonly model: string | undefined;
  /** The user's turns and the model's, in alternation. */
  readonly turns: readonly Turn[];
  /** `image_url` of the one image. */
  readonly image: string | undefined;
  readonly systemText: string | undefined;
}

export interface ChatRequest {
  readonly conversation: AskedConversation;
  readonly options: AnswerOptions;
  readonly stream: boolean;
  /** Whether a last chunk of a stream tells the token counts. */
  readonly includeUsage: boolean;
}

const textPart = z.object({ type: z.literal('text'), text: z.string() });
const imagePart = z.object({
  type: z.literal('image_url'),
  image_url: z.preprocess(
    (value) => (typeof value === 'string' ? { url: value } : value),
    z.object({ url: z.string() }, 'expected an address or {"url": an address}'),
  ),
});
const part = z.discriminatedUnion('type', [textPart, imagePart], {
  error: 'expected a part of type "text" or "image_url"',
});
const message = z.object({
  role: z.enum(['system', 'developer', 'user', 'assistant'], {
    error: 'expected "system", "developer", "user" or "assistant"',
  }),
  content: z.preprocess(
    (value) => (typeof value === 'string' ? [{ type: 'text', text: value }] : value),
    z.array(part, 'expected a string or an array of parts').max(1000),
  ),
});
type ChatMessage = z.infer<typeof message>;

const MAX_STOP_LENGTH = 256;
const stopText = z.string().min(1, 'expected a text that is not empty').max(MAX_STOP_LENGTH);
const count = z.int('expected an integer').min(1, 'expected an integer from 1');

const optionFields = {
  max_tokens: count.nullish(),
  max_completion_tokens: count.nullish(),
  temperature: z.number().min(0).max(100).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  top_k: z.int().min(0).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().gt(0).max(100).nullish(),
  seed: z.int('expected an integer').nullish(),
  stop: z.union([stopText, z.array(stopText).max(16)]).nullish(),
  query_length: count.nullish(),
  logprobs: z.boolean('expected true or false').nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
};

const chatBody = z.object({
  model: z.string().nullish(),
  messages: z.array(message).min(1, 'expected at least one message').max(2000),
  ...optionFields,
  stream: z.boolean('expected true or false').nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
});
type ChatBody = z.infer<typeof chatBody>;

/** Reads a chat request. @throws ApiError 400 naming the field, what was expected and what to do. */
export function readChatRequest(json: unknown): ChatRequest {
  refuseUnsupported(json);
  const body = readFields(chatBody, json);
  return {
    conversation: conversationOf(body),
    options: optionsOf(body),
    stream: body.stream ?? false,
    includeUsage: body.stream_options?.include_usage ?? false,
  };
}

/** Reads fields; those the schema does not name are ignored. @throws ApiError 400 naming the first wrong one. */
export function readFields<T extends z.ZodType>(schema: T, json: unknown): z.infer<T> {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const path = (issue?.path ?? []).map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`));
  const param = path.join('').slice(1);
  const where = param === '' ? 'body' : param;
  throw new ApiError(400, `${where}: ${issue?.message ?? 'unexpected value'}`, param === '' ? {} : { param });
}

function optionsOf(body: ChatBody): AnswerOptions {
  if (body.top_logprobs != null && body.logprobs !== true) {
    throw invalid('top_logprobs', 'expected logprobs to be true where top_logprobs is given');
  }
  const { temperature, top_p: topP, top_k: topK, min_p: minP, seed } = body;
  const sampling = { temperature, topP, topK, minP, seed, repetitionPenalty: body.repetition_penalty };
  const given = Object.entries(sampling).filter(([, value]) => value != null);
  return {
    ...Object.fromEntries(given),
    maxTokens: body.max_completion_tokens ?? body.max_tokens ?? undefined,
    stop: typeof body.stop === 'string' ? [body.stop] : (body.stop ?? undefined),
    queryLength: body.query_length ?? undefined,
    logprobs: body.logprobs === true ? (body.top_logprobs ?? 0) : undefined,
  };
}

function conversationOf({ model, messages }: ChatBody): AskedConversation {
  const first = messages.findIndex(({ role }) => !isSystem(role));
  const system = messages.slice(0, first < 0 ? messages.length : first);
  const dialogue = messages
    .slice(system.length)
    .map((each, k) => ({ ...each, at: `messages[${system.length + k}]` }));
  const images: string[] = [];
  const turns = dialogue.map((each, k): Turn => {
    checkTurn(each, k, each.at);
    const found = imagesOf(each);
    images.push(...found);
    if (images.length > 1) {
      throw invalid(
        `${each.at}.content`,
        'expected one image a conversation, which is what the model knows, got a second; ask about it in a conversation of its own',
      );
    }
    return { role: k % 2 === 0 ? 'user' : 'assistant', text: textOf(each), showsImage: found.length > 0 };
  });
  if (turns.at(-1)?.role !== 'user') {
    throw invalid('messages', 'expected the last message to be the user’s; add the question to answer');
  }
  const systemText = system.length === 0 ? undefined : system.map(textOf).join('\n\n');
  return { model: model ?? undefined, turns, image: images[0], systemText };
}

const isSystem = (role: ChatMessage['role']): boolean => role === 'system' || role === 'developer';

/** k: the turn's number without system messages. */
function checkTurn(each: ChatMessage, k: number, at: string): void {
  const expected = k % 2 === 0 ? 'user' : 'assistant';
  if (each.role !== expected) {
    throw invalid(
      `${at}.role`,
      `expected "${expected}", got "${each.role}"; system messages come first, then user and assistant take turns`,
    );
  }
  if (expected === 'user' && textOf(each).trim() === '') {
    throw invalid(`${at}.content`, 'expected some text, got none; add the question');
  }
  if (expected === 'assistant' && imagesOf(each).length > 0) {
    throw invalid(`${at}.content`, 'expected text, got an image; only the user shows images');
  }
}

function textOf({ content }: ChatMessage): string {
  return content.flatMap((each) => (each.type === 'text' ? [each.text] : [])).join('\n');
}

function imagesOf({ content }: ChatMessage): readonly string[] {
  return content.flatMap((each) => (each.type === 'image_url' ? [each.image_url.url] : []));
}

const invalid = (param: string, message: string) => new ApiError(400, `${param}: ${message}`, { param });
