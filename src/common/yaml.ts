/**
 * YAML as people write it by hand: parsed with the line of every part, and what of a schema's complaints to tell
 * first. Knows no schema.
 */
import { type Document, isAlias, isMap, isNode, isScalar, isSeq, LineCounter, parseDocument } from 'yaml';
import type { z } from 'zod';
import { messageOf, UserError } from './errors.ts';

/** Keys and indices from the root. */
export type YamlPath = readonly PropertyKey[];

export interface YamlText {
  /** Plain objects, arrays and scalars. */
  readonly value: unknown;
  /** The line, from 1, of the key or item at a path; of what encloses it where it is left out. */
  lineOf(path: YamlPath): number;
}

/** Parses `text`. @throws UserError `file:line: expected YAML, got: …`, for warnings as well */
export function parseYaml(text: string, file: string): YamlText {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const lineAt = (offset: number) => Math.max(1, lines.linePos(offset).line);
  const fault = document.errors[0] ?? document.warnings[0];
  if (fault !== undefined) {
    throw new UserError(`${file}:${lineAt(fault.pos[0])}: expected YAML, got: ${messageOf(fault)}`);
  }
  try {
    return { value: document.toJS(), lineOf: (path) => lineAt(offsetOf(document, path)) };
  } catch (error) {
    throw new UserError(`${file}: expected YAML, got: ${messageOf(error)}`);
  }
}

/** Where the key or item at the end of `path` is written, or the innermost one above it that is. */
function offsetOf(document: Document, path: YamlPath): number {
  let node: unknown = document.contents;
  let offset = isNode(node) ? (node.range?.[0] ?? 0) : 0;
  for (const key of path) {
    if (isAlias(node)) node = node.resolve(document);
    let next: unknown;
    let name: unknown;
    if (isMap(node)) {
      const pair = node.items.find(
        (item) => String(isScalar(item.key) ? item.key.value : item.key) === String(key),
      );
      [next, name] = [pair?.value, pair?.key];
    } else if (isSeq(node)) {
      next = node.items[Number(key)];
      name = next;
    }
    if (!isNode(name)) break;
    offset = name.range?.[0] ?? offset;
    node = next;
  }
  return offset;
}

/** `['learning_rates', 0, 1]` → `learning_rates[0][1]`. */
export function showPath(path: YamlPath): string {
  return path
    .map((key, i) => (typeof key === 'number' ? `[${key}]` : `${i === 0 ? '' : '.'}${String(key)}`))
    .join('');
}

type Issue = z.core.$ZodIssue;

/** The complaint to tell: an unknown key first, since what is missing was often mistyped. */
export function worstIssue(issues: readonly Issue[]): Issue | undefined {
  const found = issues.map(deepest);
  return found.find((issue) => issue?.code === 'unrecognized_keys') ?? found[0];
}

/** Of a value that fits no member of a union, the complaint of the member that got furthest. */
function deepest(issue: Issue): Issue {
  if (issue.code !== 'invalid_union') return issue;
  const inner = issue.errors
    .map((nested) => worstIssue(nested))
    .find((found) => found !== undefined && (found.path.length > 0 || found.code === 'unrecognized_keys'));
  return inner === undefined ? issue : { ...inner, path: [...issue.path, ...inner.path] };
}
