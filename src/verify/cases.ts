/**
 * Expected values stored beside a checkpoint: `cases.json` (numbers) and `cases.safetensors` (inputs and tensors),
 * read and checked. What is in them under a name that is not known here is listed, so that nobody takes it for
 * verified. Knows nothing of how values are computed or compared.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { isRecord, parseJsonObject } from '../checkpoint/jsonText.ts';
import { openSafetensors, readTensor, type SafetensorsFile } from '../checkpoint/safetensors.ts';
import { messageOf, UserError } from '../common/errors.ts';
import { parseAt, wrongKey } from '../model/configSchema.ts';
import { END_OF_QUESTION, IGNORE, IMAGE, LATENT } from '../model/sentinels.ts';
import type { SequenceSample } from '../model/sequence.ts';

export const NUMBERS = 'cases.json';
export const VALUES = 'cases.safetensors';

export const LOSSES = ['loss', 'ce', 'text_loss', 'vision_loss'] as const;
export const FEATURES = ['image', 'latent0', 'windows', 'vision_rebuilt', 'text_rebuilt'] as const;
const INPUTS = ['input_ids', 'labels', 'attention_mask', 'instructs'] as const;

/** A stored tensor, row-major. */
export interface StoredTensor<A> {
  readonly shape: readonly number[];
  readonly data: A;
}

/** One batch, and the numbers expected of it; its tensors are read by `ExpectedValues.read`. */
export interface ExpectedCase {
  readonly name: string;
  /** Latents per question. */
  readonly queryLength: number;
  /** Without the padding. */
  readonly samples: readonly SequenceSample[];
  /** i32 [B, T], 0 = padding. */
  readonly instructs: StoredTensor<Int32Array>;
  /** Samples whose pixels are all 0. */
  readonly blankImages: readonly number[];
  /** Real positions of each sample. */
  readonly lengths: readonly number[];
  readonly losses: Readonly<Record<(typeof LOSSES)[number], number>>;
  /** Euclidean norm of the loss's gradient, by weight. */
  readonly gradientNorms: ReadonlyMap<string, number>;
  /** Weights whose gradients are stored in full. */
  readonly storedGradients: readonly string[];
}

/** A few AdamW steps on one case, all from the checkpoint's weights. */
export interface ExpectedTraining {
  readonly case: ExpectedCase;
  readonly learningRate: number;
  /** Of every tensor with `vision_tower` in its name. */
  readonly visionLearningRate: number;
  /** Global norm that gradients are clipped to. */
  readonly clip: number;
  /** Before each step. */
  readonly losses: readonly number[];
  /** Before clipping. */
  readonly gradientNorms: readonly number[];
}

/** Greedy decoding after the first ids of a case's first sample; the latents ask at the prompt's last token. */
export interface ExpectedGreedy {
  readonly case: ExpectedCase;
  readonly promptLength: number;
  readonly queryLength: number;
  readonly tokens: readonly number[];
}

export interface ExpectedValues {
  readonly cases: readonly ExpectedCase[];
  readonly training: ExpectedTraining | undefined;
  readonly greedy: ExpectedGreedy | undefined;
  /** Entries and tensors whose meaning is not known. */
  readonly unknown: readonly string[];
  /** A stored f32 tensor, or undefined where none has this name. */
  read(name: string): Promise<StoredTensor<Float32Array> | undefined>;
}

const count = (min: number) => {
  const error = `an integer from ${min}`;
  return z.int({ error }).min(min, { error });
};
const finite = z.number({ error: 'a finite number' });
const positive = finite.positive({ error: 'a number above 0' });
const numbers = z.array(finite, { error: 'an array of numbers' }).min(1, { error: 'at least one number' });
const indices = z.array(count(0), { error: 'an array of integers' });
const caseName = z.string({ error: 'the name of a case' });

const caseSchema = z.object({
  query_len: count(1).refine((n) => Number.isInteger(Math.sqrt(n)), { error: 'a perfect square' }),
  blank_images: indices.optional(),
  loss: finite,
  ce: finite,
  text_loss: finite,
  vision_loss: finite,
  lengths: indices.min(1, { error: 'a length for each sample' }),
  grad_norm: z.record(z.string(), finite, { error: 'an object of numbers' }).optional(),
});
const trainingSchema = z.object({
  case: caseName,
  lr: positive,
  vision_lr: positive,
  clip: positive,
  losses: numbers,
  grad_norms: numbers,
});
const greedySchema = z.object({
  case: caseName,
  prompt_length: count(1),
  query_len: caseSchema.shape.query_len,
  steps: count(1),
  tokens: indices.min(1, { error: 'at least one token' }),
});

/**
 * Reads the expected values in `dir`. vocabSize: ids must lie below it. Throws `UserError` naming the file where
 * one is missing, is broken, or contradicts the other.
 */
export async function readExpectedValues(dir: string, vocabSize: number): Promise<ExpectedValues> {
  const where = path.join(dir, NUMBERS);
  const bytes = await readFile(where).catch((error: unknown) => {
    throw new UserError(`${where}: expected the checkpoint's expected values, got ${messageOf(error)}`);
  });
  const json = parseJsonObject(bytes, where);
  const values = await openSafetensors(path.join(dir, VALUES));
  const { adamw, greedy, ...entries } = json;
  const named = Object.entries(entries).filter(([, entry]) => isRecord(entry) && 'lengths' in entry);
  if (named.length === 0)
    throw wrongKey(where, '', 'at least one case (an entry with lengths)', Object.keys(json));
  const cases: ExpectedCase[] = [];
  for (const [name, entry] of named) cases.push(await readCase(values, where, name, entry, vocabSize));
  const find = (name: string, key: string): ExpectedCase => {
    const found = cases.find((candidate) => candidate.name === name);
    if (found === undefined) throw wrongKey(where, key, cases.map((c) => c.name).join(' or '), name);
    return found;
  };
  return {
    cases,
    training: adamw === undefined ? undefined : readTraining(adamw, where, find),
    greedy: greedy === undefined ? undefined : readGreedy(greedy, where, find),
    unknown: [...unknownEntries(json), ...unknownTensors(values, cases)],
    read: (name) => readFloats(values, name),
  };
}

async function readCase(
  values: SafetensorsFile,
  where: string,
  name: string,
  entry: unknown,
  vocabSize: number,
): Promise<ExpectedCase> {
  const raw = parseAt(caseSchema, entry, where, name);
  const [ids, labels, mask, instructs] = await Promise.all(
    INPUTS.map((input) => readInts(values, `${name}.${input}`)),
  );
  if (ids === undefined || labels === undefined || mask === undefined || instructs === undefined) {
    throw new Error('internal: a case has four inputs');
  }
  const [batch = 0, width = 0] = ids.shape;
  for (const [input, tensor] of [
    ['labels', labels],
    ['attention_mask', mask],
  ] as const) {
    checkShape(values, `${name}.${input}`, tensor.shape, [batch, width]);
  }
  checkShape(values, `${name}.instructs`, instructs.shape, [batch, instructs.shape[1] ?? 0]);
  if (raw.lengths.length !== batch) throw wrongKey(where, `${name}.lengths`, `${batch} of them`, raw.lengths);
  const blank = raw.blank_images ?? [];
  if (blank.some((b) => b >= batch)) throw wrongKey(where, `${name}.blank_images`, `below ${batch}`, blank);
  checkIds(values, `${name}.input_ids`, ids.data, [IMAGE, LATENT], vocabSize);
  checkIds(values, `${name}.labels`, labels.data, [IGNORE, END_OF_QUESTION], vocabSize);
  checkIds(values, `${name}.instructs`, instructs.data, [], vocabSize);
  const samples = Array.from({ length: batch }, (_, b): SequenceSample => {
    const real = realLength(values, `${name}.attention_mask`, mask.data.subarray(b * width, (b + 1) * width));
    const [from, to] = [b * width, b * width + real];
    return { inputIds: ids.data.subarray(from, to), labels: labels.data.subarray(from, to) };
  });
  const prefix = `${name}.grad.`;
  return {
    name,
    queryLength: raw.query_len,
    samples,
    instructs,
    blankImages: blank,
    lengths: raw.lengths,
    losses: raw,
    gradientNorms: new Map(Object.entries(raw.grad_norm ?? {})),
    storedGradients: [...values.tensors.keys()].flatMap((tensor) =>
      tensor.startsWith(prefix) ? [tensor.slice(prefix.length)] : [],
    ),
  };
}

type FindCase = (name: string, key: string) => ExpectedCase;

function readTraining(entry: unknown, where: string, find: FindCase): ExpectedTraining {
  const raw = parseAt(trainingSchema, entry, where, 'adamw');
  if (raw.grad_norms.length !== raw.losses.length) {
    throw wrongKey(where, 'adamw.grad_norms', `${raw.losses.length} numbers, as losses`, raw.grad_norms);
  }
  return {
    case: find(raw.case, 'adamw.case'),
    learningRate: raw.lr,
    visionLearningRate: raw.vision_lr,
    clip: raw.clip,
    losses: raw.losses,
    gradientNorms: raw.grad_norms,
  };
}

function readGreedy(entry: unknown, where: string, find: FindCase): ExpectedGreedy {
  const raw = parseAt(greedySchema, entry, where, 'greedy');
  const found = find(raw.case, 'greedy.case');
  const available = found.samples[0]?.inputIds.length ?? 0;
  if (raw.prompt_length > available) {
    throw wrongKey(
      where,
      'greedy.prompt_length',
      `at most the ${available} ids of ${raw.case}`,
      raw.prompt_length,
    );
  }
  if (raw.tokens.length !== raw.steps) {
    throw wrongKey(where, 'greedy.tokens', `${raw.steps} tokens, as steps says`, raw.tokens);
  }
  return { case: found, promptLength: raw.prompt_length, queryLength: raw.query_len, tokens: raw.tokens };
}

/** Entries, and keys of known entries, that nothing here reads. */
function unknownEntries(json: Readonly<Record<string, unknown>>): readonly string[] {
  return Object.entries(json).flatMap(([name, entry]) => {
    if (!isRecord(entry)) return [name];
    const schema = name === 'adamw' ? trainingSchema : name === 'greedy' ? greedySchema : caseSchema;
    if (schema === caseSchema && !('lengths' in entry)) return [name];
    return Object.keys(entry).flatMap((key) => (key in schema.shape ? [] : [`${name}.${key}`]));
  });
}

function unknownTensors(values: SafetensorsFile, cases: readonly ExpectedCase[]): readonly string[] {
  const known = new Set(
    cases.flatMap(({ name, samples, storedGradients }) => [
      ...[...INPUTS, ...FEATURES].map((part) => `${name}.${part}`),
      ...samples.map((_, b) => `${name}.logits.${b}`),
      ...storedGradients.map((weight) => `${name}.grad.${weight}`),
    ]),
  );
  return [...values.tensors.keys()].filter((name) => !known.has(name));
}

async function readInts(values: SafetensorsFile, name: string): Promise<StoredTensor<Int32Array>> {
  const bytes = await readTensor(values, name);
  const info = values.tensors.get(name);
  const { dtype, shape } = info ?? { dtype: 'none', shape: [] };
  if (dtype !== 'I32' || shape.length !== 2) {
    throw new UserError(`${values.path}: ${name}: expected I32 of two dimensions, got ${dtype} [${shape}]`);
  }
  return { shape, data: new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4) };
}

async function readFloats(
  values: SafetensorsFile,
  name: string,
): Promise<StoredTensor<Float32Array> | undefined> {
  const info = values.tensors.get(name);
  if (info === undefined) return undefined;
  if (info.dtype !== 'F32') throw new UserError(`${values.path}: ${name}: expected F32, got ${info.dtype}`);
  const bytes = await readTensor(values, name);
  return { shape: info.shape, data: new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4) };
}

function checkShape(
  { path: file }: SafetensorsFile,
  name: string,
  got: readonly number[],
  expected: readonly number[],
): void {
  if (String(got) === String(expected)) return;
  throw new UserError(`${file}: ${name}: expected [${expected.join(', ')}], got [${got.join(', ')}]`);
}

function checkIds(
  { path: file }: SafetensorsFile,
  name: string,
  ids: Int32Array,
  sentinels: readonly number[],
  vocabSize: number,
): void {
  const wrong = ids.find((id) => !(id >= 0 && id < vocabSize) && !sentinels.includes(id));
  if (wrong === undefined) return;
  const also = sentinels.length > 0 ? ` or ${sentinels.join(' or ')}` : '';
  throw new UserError(`${file}: ${name}: expected ids below vocab_size ${vocabSize}${also}, got ${wrong}`);
}

/** Ones, then zeros: how many ones. */
function realLength({ path: file }: SafetensorsFile, name: string, mask: Int32Array): number {
  const real = mask.indexOf(0) < 0 ? mask.length : mask.indexOf(0);
  if (real > 0 && mask.every((value, i) => value === (i < real ? 1 : 0))) return real;
  throw new UserError(`${file}: ${name}: expected ones, then zeros as padding, got [${mask.join(', ')}]`);
}
