/**
 * `metrics.jsonl`: one line of JSON for each logged step, appended as training goes.
 *
 * A resumed run drops the lines after the step it resumes from, so its log equals an uninterrupted run's byte for
 * byte, but for the fields that measure time (`TIME_FIELDS`), which come last in each line. Knows nothing of how
 * the numbers come about. NaN and infinity, which JSON lacks, are written as the strings Python's `float` reads.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { isRecord, kindOf } from '../checkpoint/jsonText.ts';
import { messageOf, UserError } from '../common/errors.ts';

/** The numbers that depend on data, seed and configuration alone. */
const COMPUTED_FIELDS = [
  'step',
  'epoch',
  'loss',
  'cross_entropy',
  'text_loss',
  'vision_loss',
  'learning_rate',
  'vision_learning_rate',
  'grad_norm',
] as const;

/** The fields that differ between two equal runs: rates of the steps since the line before, and the clock. */
export const TIME_FIELDS = ['samples_per_s', 'tokens_per_s', 'seconds'] as const;

const FIELDS = [...COMPUTED_FIELDS, ...TIME_FIELDS];

/**
 * One logged step. `step` counts optimizer steps from 1 within a stage; `epoch` is how many times the data was
 * seen; losses are means over the steps since the line before; `grad_norm` is the norm before clipping; rates are
 * those used, 0 where frozen; `seconds` is the time trained in this stage so far, sessions before a resume included.
 */
export type MetricsRow = {
  readonly [field in (typeof COMPUTED_FIELDS)[number] | (typeof TIME_FIELDS)[number]]: number;
};

/** An open `metrics.jsonl`; one writer at a time. */
export interface MetricsLog {
  /** The rows that were kept on opening. */
  readonly kept: readonly MetricsRow[];
  /** Appends `row`. Throws `UserError` where the disk refuses. */
  append(row: MetricsRow): Promise<void>;
  /** Makes what was appended last; called before a checkpoint is complete, so that no checkpoint outruns its log. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** `row` as its line, fields in the file's order, without a line break. */
export function metricsLine(row: MetricsRow): string {
  return JSON.stringify(
    Object.fromEntries(
      FIELDS.map((field) => [field, Number.isFinite(row[field]) ? row[field] : String(row[field])]),
    ),
  );
}

/**
 * Opens `file` for appending, made where missing, and cuts it after the last line of a step up to `resumedStep`;
 * 0 begins a new log. A last line that was torn by a crash is cut too.
 * Throws `UserError` where the disk refuses or a line before the cut is not one this module wrote.
 */
export async function openMetrics(file: string, resumedStep = 0): Promise<MetricsLog> {
  // 'a+' would ignore positions on writing but makes the file; reading and truncating work as usual.
  const handle = await onDisk(file, open(file, 'a+'));
  try {
    const bytes = await onDisk(file, handle.readFile());
    const { rows, end } = parseRows(bytes, file, resumedStep);
    await onDisk(file, handle.truncate(end));
    if (end > 0 && bytes[end - 1] !== NEWLINE) await onDisk(file, handle.appendFile('\n'));
    return metricsLog(handle, file, rows);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function metricsLog(handle: FileHandle, file: string, kept: readonly MetricsRow[]): MetricsLog {
  return {
    kept,
    append: (row) => onDisk(file, handle.appendFile(`${metricsLine(row)}\n`)),
    sync: () => onDisk(file, handle.sync()),
    close: () => onDisk(file, handle.close()),
  };
}

/** All rows of `file`, a torn last line left out. Throws `UserError` as `openMetrics` does. */
export async function readMetrics(file: string): Promise<readonly MetricsRow[]> {
  const handle = await onDisk(file, open(file, 'r'));
  try {
    return parseRows(await onDisk(file, handle.readFile()), file, Infinity).rows;
  } finally {
    await handle.close();
  }
}

const NEWLINE = 0x0a;

/** The rows of steps up to `lastStep`, and the byte after the last of them (a line break included). */
function parseRows(bytes: Buffer, file: string, lastStep: number): { rows: MetricsRow[]; end: number } {
  const rows: MetricsRow[] = [];
  let begin = 0;
  for (let line = 1; begin < bytes.length; line++) {
    const breakAt = bytes.indexOf(NEWLINE, begin);
    const isLast = breakAt === -1 || breakAt === bytes.length - 1;
    const end = breakAt === -1 ? bytes.length : breakAt + 1;
    const row = parseRow(bytes.toString('utf8', begin, end), `${file}:${line}`, isLast);
    if (row === undefined || row.step > lastStep) break;
    checkOrder(rows.at(-1), row, `${file}:${line}`);
    rows.push(row);
    begin = end;
  }
  return { rows, end: begin };
}

/** The row of one line; undefined for a last line that is torn. */
function parseRow(text: string, where: string, isLast: boolean): MetricsRow | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    if (isLast) return undefined;
    throw new UserError(`${where}: expected one JSON object, got ${kindOf(text.trim())}; cut the file there`);
  }
  if (!isRecord(value)) throw new UserError(`${where}: expected a JSON object, got ${kindOf(value)}`);
  const numbers = FIELDS.map((field) => [field, numberOf(value[field])] as const);
  const wrong = numbers.find(([, number]) => number === undefined)?.[0];
  if (wrong !== undefined) {
    throw new UserError(`${where}: ${wrong}: expected a number, got ${kindOf(value[wrong])}`);
  }
  return Object.fromEntries(numbers) as MetricsRow;
}

function numberOf(value: unknown): number | undefined {
  if (typeof value === 'number') return value;
  if (value === 'NaN' || value === 'Infinity' || value === '-Infinity') return Number(value);
  return undefined;
}

function checkOrder(before: MetricsRow | undefined, row: MetricsRow, where: string): void {
  const last = before?.step ?? 0;
  if (Number.isSafeInteger(row.step) && row.step > last) return;
  throw new UserError(`${where}: expected a step above ${last}, got ${row.step}; two runs wrote to one log?`);
}

/** A file-system failure as a `UserError` naming the file. */
async function onDisk<T>(file: string, action: Promise<T>): Promise<T> {
  return action.catch((error: unknown) => {
    throw new UserError(`${file}: ${messageOf(error)}`);
  });
}
