/**
 * `trainer_state.json`, where a run stands, in the shape other tools plot from.
 *
 * Holds no times, so equal runs write equal files. Knows nothing of weights, moments or random states, which lie
 * in files of their own. Source: transformers' `TrainerState`, of whose keys this is a subset.
 */
import { open, readFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { parseJsonObject } from '../checkpoint/jsonText.ts';
import { messageOf, UserError } from '../common/errors.ts';
import { parseAt } from '../model/configSchema.ts';
import type { MetricsRow } from './metrics.ts';

export const TRAINER_STATE_FILE = 'trainer_state.json';

const count = z.int({ error: 'an integer from 0' }).min(0, { error: 'an integer from 0' });
const number = z.number({ error: 'a number' });
/** JSON has no NaN; transformers' readers take null as a missing value. */
const measured = z.number({ error: 'a number or null' }).nullable();

const logEntry = z.looseObject({ step: count, epoch: number }, { error: 'an object with step and epoch' });

const schema = z.looseObject({
  epoch: number,
  global_step: count,
  max_steps: count,
  num_train_epochs: number,
  log_history: z.array(logEntry, { error: 'an array of logged steps' }),
  best_metric: measured,
  best_model_checkpoint: z.string({ error: 'a path or null' }).nullable(),
  total_flos: number,
});

/** One entry of `log_history`. */
export type LogEntry = Readonly<Record<string, number | null>> & {
  readonly step: number;
  readonly epoch: number;
};

/** Where a run stands; `global_step` and `max_steps` count optimizer steps of the stage. */
export interface TrainerState {
  readonly epoch: number;
  readonly global_step: number;
  readonly max_steps: number;
  readonly num_train_epochs: number;
  readonly log_history: readonly LogEntry[];
  readonly best_metric: number | null;
  readonly best_model_checkpoint: string | null;
  /** Floating-point operations of the run so far; 0 where they were not counted. */
  readonly total_flos: number;
}

/** A logged step as an entry of `log_history`: the computed numbers, without the times. */
export function logEntryOf(row: MetricsRow): LogEntry {
  const { samples_per_s: _s, tokens_per_s: _t, seconds: _n, ...computed } = row;
  const finite = Object.entries(computed).map(([key, value]) => [key, Number.isFinite(value) ? value : null]);
  return { ...Object.fromEntries(finite), step: row.step, epoch: row.epoch };
}

/** Writes `state` to `trainer_state.json` in `dir`, flushed to disk. Throws `UserError` where the disk refuses. */
export async function writeTrainerState(dir: string, state: TrainerState): Promise<void> {
  const file = path.join(dir, TRAINER_STATE_FILE);
  const sorted = (record: object) => Object.fromEntries(Object.entries(record).toSorted(byKey));
  const json = sorted({ ...state, log_history: state.log_history.map(sorted) });
  try {
    const handle = await open(file, 'w');
    try {
      await handle.writeFile(`${JSON.stringify(json, undefined, 2)}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw new UserError(`${file}: ${messageOf(error)}`);
  }
}

function byKey([a]: [string, unknown], [b]: [string, unknown]): number {
  return a < b ? -1 : 1;
}

/**
 * The state in `dir`. Throws `UserError` where the file is missing (then the folder holds a model but no run to
 * resume), is not JSON, or lacks a key; keys of transformers that mean nothing here are left out.
 */
export async function readTrainerState(dir: string): Promise<TrainerState> {
  const file = path.join(dir, TRAINER_STATE_FILE);
  const bytes = await readFile(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw new UserError(`${file}: ${messageOf(error)}`);
    throw new UserError(
      `${dir}: expected a checkpoint with ${TRAINER_STATE_FILE}, got none, so there is no run to resume; ` +
        'its weights can still begin a new one',
    );
  });
  const raw = parseAt(schema, parseJsonObject(bytes, file), file);
  if (raw.global_step > raw.max_steps) {
    throw new UserError(
      `${file}: global_step: expected at most max_steps ${raw.max_steps}, got ${raw.global_step}`,
    );
  }
  return {
    epoch: raw.epoch,
    global_step: raw.global_step,
    max_steps: raw.max_steps,
    num_train_epochs: raw.num_train_epochs,
    log_history: raw.log_history.map(numbersOf),
    best_metric: raw.best_metric,
    best_model_checkpoint: raw.best_model_checkpoint,
    total_flos: raw.total_flos,
  };
}

function numbersOf(entry: z.infer<typeof logEntry>): LogEntry {
  const numbers = Object.entries(entry).filter(
    (pair): pair is [string, number | null] => pair[1] === null || typeof pair[1] === 'number',
  );
  return { ...Object.fromEntries(numbers), step: entry.step, epoch: entry.epoch };
}
