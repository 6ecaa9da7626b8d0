/**
 * Which records of which files a run reads: the dataset YAML, and the strategies that take a part of a file.
 *
 * Knows nothing of what a record holds. `parseStrictYaml` is of use to any YAML with a zod schema: every error
 * says `file:line`, and an unknown key names the known one it resembles.
 * Source: spec "Datasets" (`datasets: [{json_path, sampling_strategy}]`, as in LLaVA-NeXT's data YAML).
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { messageOf, UserError } from '../common/errors.ts';
import { nearestName } from '../common/nearest.ts';
import type { Random } from '../common/random.ts';
import { parseYaml, showPath, worstIssue, type YamlText } from '../common/yaml.ts';

/** How many records: a number, or a share (in percent, `parts / scale`) of those there are. */
export type Amount =
  | { readonly unit: 'records'; readonly count: number }
  | { readonly unit: 'percent'; readonly parts: number; readonly scale: number };

/** A parsed `sampling_strategy`. */
export type Sampling =
  | { readonly kind: 'all' }
  | { readonly kind: 'first' | 'end' | 'random'; readonly amount: Amount };

/** One file of a mixture. */
export interface MixtureEntry {
  /** The path as written, which names the dataset. */
  readonly name: string;
  /** The path, absolute. */
  readonly jsonPath: string;
  readonly sampling: Sampling;
  /** Where the entry stands, for errors: `mixture.yaml:3`. */
  readonly where: string;
}

/** Record numbers in ascending order. */
export interface Selection {
  readonly count: number;
  /** The record that stands at `place`, 0 to `count - 1`. */
  at(place: number): number;
}

const text = z.string({ error: 'text' }).min(1, { error: 'text that is not empty' });
const entrySchema = z.strictObject(
  { json_path: text, sampling_strategy: text.default('all') },
  { error: 'json_path and sampling_strategy' },
);
const mixtureSchema = z.strictObject(
  {
    datasets: z
      .array(entrySchema, { error: 'a list of datasets' })
      .min(1, { error: 'at least one dataset in the list' }),
  },
  { error: 'a mapping with the key datasets' },
);

const STRATEGIES = 'all, first:N, first:P%, end:N, end:P%, random:N or random:P%';

/**
 * The entries of a dataset YAML; a `.json` or `.jsonl` file is a mixture of itself alone.
 *
 * @throws UserError naming file and line, for a file that cannot be read, YAML that is not as the spec says, or
 * another kind of file.
 */
export async function readMixture(file: string): Promise<readonly MixtureEntry[]> {
  const kind = path.extname(file).toLowerCase();
  if (kind === '.json' || kind === '.jsonl') {
    return [{ name: file, jsonPath: path.resolve(file), sampling: { kind: 'all' }, where: file }];
  }
  if (kind !== '.yaml' && kind !== '.yml') {
    throw new UserError(`${file}: expected a dataset as .yaml, .yml, .json or .jsonl, got another kind`);
  }
  let content: string;
  try {
    content = await readFile(file, 'utf8');
  } catch (error) {
    throw new UserError(`${file}: expected a readable file, got: ${messageOf(error)}`);
  }
  return parseMixture(content, file);
}

/**
 * The entries of a dataset YAML's `content`; paths are relative to the folder of `file`.
 *
 * @throws UserError beginning with `file:line`.
 */
export function parseMixture(content: string, file: string): readonly MixtureEntry[] {
  const { value, lineOf } = parseStrictYaml(content, file, mixtureSchema);
  return value.datasets.map(({ json_path, sampling_strategy }, i) => ({
    name: json_path,
    jsonPath: path.resolve(path.dirname(file), json_path),
    sampling: parseSampling(
      sampling_strategy,
      `${file}:${lineOf(['datasets', i, 'sampling_strategy'])}: datasets[${i}].sampling_strategy`,
    ),
    where: `${file}:${lineOf(['datasets', i, 'json_path'])}`,
  }));
}

/**
 * A `sampling_strategy`: `all`, or `first`, `end` or `random` with a number or a percentage.
 *
 * @throws UserError beginning with `where`.
 */
export function parseSampling(strategy: string, where: string): Sampling {
  if (strategy === 'all') return { kind: 'all' };
  const [, kind, whole = '', fraction = '', percent] =
    /^(first|end|random):(\d{1,12})(?:\.(\d{1,3}))?(%?)$/.exec(strategy) ?? [];
  const scale = 10 ** fraction.length;
  const parts = Number(whole + fraction);
  const isShare = percent === '%';
  const fits = parts > 0 && (isShare ? parts <= 100 * scale : fraction === '');
  if ((kind !== 'first' && kind !== 'end' && kind !== 'random') || !fits) {
    throw new UserError(
      `${where}: expected ${STRATEGIES} (N from 1, P above 0 and up to 100), got ${JSON.stringify(strategy)}`,
    );
  }
  const amount: Amount = isShare ? { unit: 'percent', parts, scale } : { unit: 'records', count: parts };
  return { kind, amount };
}

/**
 * The records a strategy takes of `total`: at most all of them; a percentage rounds up. `random` draws from
 * `random` and keeps the file's order (4 bytes a record of the file meanwhile, of the selection afterwards).
 */
export function selectRecords(sampling: Sampling, total: number, random: Random): Selection {
  if (sampling.kind === 'all') return rangeOf(0, total);
  const count = amountOf(sampling.amount, total);
  if (sampling.kind === 'first') return rangeOf(0, count);
  if (sampling.kind === 'end') return rangeOf(total - count, count);
  const picked = new Uint32Array(total).map((_, i) => i);
  for (let i = 0; i < count; i++) {
    const j = i + random.integer(total - i);
    [picked[i], picked[j]] = [picked[j] ?? 0, picked[i] ?? 0];
  }
  const chosen = picked.slice(0, count).sort();
  return { count, at: (place) => chosen[place] ?? 0 };
}

function rangeOf(first: number, count: number): Selection {
  return { count, at: (place) => first + place };
}

function amountOf(amount: Amount, total: number): number {
  if (amount.unit === 'records') return Math.min(amount.count, total);
  // Integers throughout, so that 7% of 100 is 7 and not 8.
  return Math.ceil((total * amount.parts) / (100 * amount.scale));
}

/** A YAML text as its schema has it, and where its parts stand. */
export type StrictYaml<T> = YamlText & { readonly value: T };

/**
 * YAML `content` checked by `schema`, whose messages say what was expected.
 *
 * @throws UserError `file:line: key: expected …, got …`; an unknown key names the known one nearest to it.
 */
export function parseStrictYaml<S extends z.ZodType>(
  content: string,
  file: string,
  schema: S,
): StrictYaml<z.output<S>> {
  const { value, lineOf } = parseYaml(content, file);
  const result = schema.safeParse(value);
  if (result.success) return { value: result.data, lineOf };
  const issue = worstIssue(result.error.issues);
  const keys = issue?.path ?? [];
  if (issue?.code === 'unrecognized_keys') {
    const unknown = issue.keys[0] ?? '';
    const at = [...keys, unknown];
    const told = unknownKey(unknown, knownKeys(schema, keys));
    throw new UserError(`${file}:${lineOf(at)}: ${showPath(at)}: ${told}`);
  }
  const got = keys.reduce<unknown>((inside, key) => Object(inside)[key], value);
  const key = keys.length === 0 ? '' : `${showPath(keys)}: `;
  throw new UserError(
    `${file}:${lineOf(keys)}: ${key}expected ${issue?.message ?? 'another value'}, got ${shown(got)}`,
  );
}

function unknownKey(key: string, known: readonly string[]): string {
  const nearest = nearestName(key, known);
  const hint = nearest === undefined ? '' : `; did you mean ${nearest}?`;
  return `expected one of the keys ${known.join(', ')}, got ${key}${hint}`;
}

/** The keys a schema allows at `keys`. */
function knownKeys(schema: z.core.$ZodType, keys: readonly PropertyKey[]): readonly string[] {
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodDefault || schema instanceof z.ZodNullable) {
    return knownKeys(schema.unwrap(), keys);
  }
  const [key, ...rest] = keys;
  if (schema instanceof z.ZodArray) return knownKeys(schema.element, rest);
  if (!(schema instanceof z.ZodObject)) return [];
  if (key === undefined) return Object.keys(schema.shape);
  const inner: z.core.$ZodType | undefined = schema.shape[String(key)];
  return inner === undefined ? [] : knownKeys(inner, rest);
}

function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  const json = JSON.stringify(value) ?? String(value);
  return json.length > 80 ? `${json.slice(0, 77)}...` : json;
}
