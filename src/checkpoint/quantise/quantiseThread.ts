/**
 * A worker thread of `roundingPool.ts`: reads rows of a weight from its file, rounds them and sends back codes and
 * scales. Knows nothing of models.
 */
import { parentPort } from 'node:worker_threads';
import { messageOf, UserError } from '../../common/errors.ts';
import { type Dtype, toF32 } from '../../common/numberFormats.ts';
import { readRange } from '../safetensors.ts';
import { type Bits, findBadValue, type QuantisedRows, quantiseRows } from './quantise.ts';

/** Whole rows of a matrix in a file. */
export interface RoundingTask {
  /** What to call the matrix in errors. */
  readonly name: string;
  readonly file: string;
  readonly begin: number;
  readonly byteLength: number;
  readonly dtype: Dtype;
  readonly width: number;
  /** The row of the matrix that comes first. */
  readonly firstRow: number;
  readonly bits: Bits;
}

export type RoundingReply = QuantisedRows | { readonly error: string; readonly mendable: boolean };

/** Performs a task. @throws UserError for a value that is infinite or not a number, and a file that cannot be read. */
export async function roundTask(task: RoundingTask): Promise<QuantisedRows> {
  const { name, file, begin, byteLength, dtype, width, firstRow, bits } = task;
  const values = toF32(dtype, await readRange(file, begin, byteLength), `${file}: tensor ${name}`);
  const bad = findBadValue(values, width);
  if (bad === undefined) return quantiseRows(values, width, bits);
  const value = values[bad.row * width + bad.column];
  throw new UserError(
    `${file}: tensor ${name}: expected finite numbers, got ${value} at [${firstRow + bad.row}, ${bad.column}]`,
  );
}

if (parentPort !== null) {
  const port = parentPort;
  port.on('message', async (task: RoundingTask) => {
    const reply: RoundingReply = await roundTask(task).catch((error: unknown) => ({
      error: messageOf(error),
      mendable: error instanceof UserError,
    }));
    const moved = 'codes' in reply ? [reply.codes.buffer, reply.scales.buffer] : [];
    port.postMessage(reply, moved as ArrayBuffer[]);
  });
}
