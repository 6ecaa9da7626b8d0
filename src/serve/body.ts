/**
 * Request bodies: bytes within limits of size and time, then UTF-8, then JSON of bounded depth. Everything is
 * refused while it arrives, not after. Knows nothing of what a body says.
 */
import type { IncomingMessage } from 'node:http';
import { ApiError } from './apiError.ts';

export interface BodyLimits {
  /** The most bytes of one body. */
  readonly maxBytes: number;
  /** Milliseconds from the first look at a body until its end. */
  readonly deadline: number;
}

/** JSON nests at most so deep; a chat request needs six levels. */
const MAX_DEPTH = 32;
/** Objects, arrays and items of them; a chat request needs a dozen for each message. */
const MAX_VALUES = 200_000;
/** All bodies being read may take so many times the limit of one. */
const TOTAL_FACTOR = 8;

/** Reads bodies one by one or together, and keeps what they hold together within bounds. */
export class BodyReader {
  readonly #limits: BodyLimits;
  #held = 0;

  constructor(limits: BodyLimits) {
    this.#limits = limits;
  }

  /** Bytes of all bodies being read. */
  get held(): number {
    return this.#held;
  }

  /**
   * The whole body. A body that is refused is left where it stands, so that the answer can still be sent.
   *
   * @throws ApiError 413 beyond the size, 408 beyond the time, 429 where others fill the memory, 400 where the
   * client stops in the middle.
   */
  async read(incoming: IncomingMessage): Promise<Buffer> {
    const { maxBytes, deadline } = this.#limits;
    if (Number(incoming.headers['content-length'] ?? 0) > maxBytes) throw tooLarge(maxBytes);
    const chunks: Buffer[] = [];
    let size = 0;
    try {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => end(() => reject(tooSlow(deadline))), deadline);
        const onData = (chunk: Buffer) => {
          size += chunk.length;
          this.#held += chunk.length;
          chunks.push(chunk);
          if (size > maxBytes) end(() => reject(tooLarge(maxBytes)));
          else if (this.#held > TOTAL_FACTOR * maxBytes) end(() => reject(tooMany()));
        };
        const onEnd = () => end(resolve);
        const onClose = () =>
          end(() => reject(new ApiError(400, 'body: the connection closed in the middle')));
        const end = (settle: () => void) => {
          clearTimeout(timer);
          incoming.off('data', onData).off('end', onEnd).off('close', onClose).off('error', onClose);
          incoming.on('error', () => {}).pause();
          settle();
        };
        incoming.on('data', onData).on('end', onEnd).on('close', onClose).on('error', onClose);
      });
      return Buffer.concat(chunks, size);
    } finally {
      this.#held -= size;
    }
  }
}

/**
 * The value of a JSON text in UTF-8.
 *
 * @throws ApiError 400 for bytes that are no UTF-8, text that is no JSON, for arrays and objects nested more than
 * 32 deep, and for more than 200,000 values.
 */
export function parseJson(bytes: Buffer): unknown {
  checkStructure(bytes);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new ApiError(400, 'body: expected UTF-8, got other bytes');
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(400, `body: expected JSON, got ${bytes.length} bytes that are none`);
  }
}

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const OPENING: ReadonlySet<number> = new Set([0x5b, 0x7b]);
const CLOSING: ReadonlySet<number> = new Set([0x5d, 0x7d]);

/** Refuses what would take much more memory parsed than as text. Strings are skipped at the speed of a search. */
function checkStructure(bytes: Buffer): void {
  let depth = 0;
  let values = 0;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at] ?? 0;
    if (byte === QUOTE) at = endOfString(bytes, at);
    else if (CLOSING.has(byte)) depth--;
    else if (OPENING.has(byte)) depth++;
    else if (byte !== COMMA) continue;
    if (byte !== QUOTE) values++;
    if (depth > MAX_DEPTH) {
      throw new ApiError(400, `body: expected JSON nested at most ${MAX_DEPTH} deep, got more`);
    }
    if (values > MAX_VALUES) {
      throw new ApiError(400, `body: expected at most ${MAX_VALUES} JSON values, got more`);
    }
  }
}

/** The place of the quote that closes the string opened at `start`; the end where none does. */
function endOfString(bytes: Buffer, start: number): number {
  for (let at = bytes.indexOf(QUOTE, start + 1); at >= 0; at = bytes.indexOf(QUOTE, at + 1)) {
    let slashes = 0;
    while (bytes[at - 1 - slashes] === BACKSLASH) slashes++;
    if (slashes % 2 === 0) return at;
  }
  return bytes.length;
}

const tooLarge = (maxBytes: number) =>
  new ApiError(413, `body: expected at most ${maxBytes} bytes, got more; send a smaller image`, {
    code: 'body_too_large',
  });
const tooSlow = (deadline: number) =>
  new ApiError(408, `body: expected the whole body within ${deadline / 1000} s, got a part of it`);
const tooMany = () =>
  new ApiError(429, 'too many large requests at once; try again shortly', {
    headers: { 'Retry-After': '2' },
  });
