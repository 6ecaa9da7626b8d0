/**
 * Strict reading of JSON text: what `JSON.parse` lets pass without a word (a name given twice) is an error here.
 *
 * Knows nothing of what the text describes. Source: RFC 8259, section 4 ("names … SHOULD be unique").
 */
import { messageOf, UserError } from '../common/errors.ts';

/**
 * UTF-8 `bytes` as a JSON object. Throws `UserError` beginning with `where` for bytes that are not UTF-8, text
 * that is not JSON, a value that is not an object, and a name given twice in any object of it.
 */
export function parseJsonObject(bytes: Uint8Array, where: string): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new UserError(`${where}: expected UTF-8 text, got bytes that are not`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UserError(`${where}: expected JSON, got ${messageOf(error)}`);
  }
  if (!isRecord(value)) throw new UserError(`${where}: expected a JSON object, got ${kindOf(value)}`);
  const twice = duplicateKey(text);
  if (twice !== undefined) throw new UserError(`${where}: expected each name once, got "${twice}" twice`);
  return value;
}

/** Whether `value` is an object with names, neither null nor an array. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What `value` is, for an error's "got". */
export function kindOf(value: unknown): string {
  if (value === undefined) return 'nothing';
  const json = JSON.stringify(value);
  return json.length > 80 ? `${json.slice(0, 77)}...` : json;
}

/** The first name that occurs twice in one object of the valid JSON `text`, if any. */
export function duplicateKey(text: string): string | undefined {
  const seen: Set<string>[] = [];
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === '{') seen.push(new Set());
    else if (char === '}') seen.pop();
    else if (char === '"') {
      const end = endOfString(text, at);
      if (isKey(text, end)) {
        const key = String(JSON.parse(text.slice(at, end)));
        const keys = seen.at(-1);
        if (keys?.has(key)) return key;
        keys?.add(key);
      }
      at = end - 1;
    }
  }
  return undefined;
}

/** The position after the closing quote of the string that opens at `at`. */
function endOfString(text: string, at: number): number {
  let end = at + 1;
  while (end < text.length && text[end] !== '"') end += text[end] === '\\' ? 2 : 1;
  return end + 1;
}

/** Only a name is followed by a colon. */
function isKey(text: string, end: number): boolean {
  let next = end;
  while (' \t\r\n'.includes(text[next] ?? ':')) next++;
  return text[next] === ':';
}
