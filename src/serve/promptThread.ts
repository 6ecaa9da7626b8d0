/**
 * The thread in which the server tokenises long conversations: a text as long as the context takes a tenth of a
 * second. Has tokenizers of its own, read when they are first needed. Knows nothing of requests.
 */
import {
  type ConversationFormat,
  type EncodedPrompt,
  encodePrompt,
  type Message,
  withSystemText,
} from '../data/conversation.ts';
import { loadTokenizer, type Tokenizer } from '../data/tokenizer.ts';
import { serveRequests } from './helperThread.ts';

export interface PromptRequest {
  /** Folder of the tokenizer. */
  readonly tokenizerDir: string;
  readonly format: ConversationFormat;
  readonly systemText: string | undefined;
  readonly messages: readonly Message[];
  readonly hasImage: boolean;
}

const tokenizers = new Map<string, Promise<Tokenizer>>();

function tokenizerOf(dir: string): Promise<Tokenizer> {
  const known = tokenizers.get(dir) ?? loadTokenizer(dir);
  tokenizers.set(dir, known);
  known.catch(() => tokenizers.delete(dir));
  return known;
}

async function encode(request: PromptRequest): Promise<EncodedPrompt> {
  const { tokenizerDir, format, systemText, messages, hasImage } = request;
  const tokenizer = await tokenizerOf(tokenizerDir);
  return encodePrompt(tokenizer, withSystemText(format, systemText), messages, { hasImage });
}

serveRequests(encode, () => []);
