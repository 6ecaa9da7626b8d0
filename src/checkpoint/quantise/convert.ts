/**
 * A checkpoint → a converted folder: Linears rounded to 4 or 8 bits or kept as F16 or F32, piece by piece, so that
 * memory stays small whatever the sizes of tensors and shards. The folder appears whole or not at all.
 * docs/quantisation.md has the layout. Knows nothing of running models.
 */
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { UserError } from '../../common/errors.ts';
import { DTYPE_BYTES } from '../../common/numberFormats.ts';
import type { OnProgress } from '../../common/progress.ts';
import { codesShape } from '../../graph/nBits.ts';
import { parseFusionConfig } from '../../model/config.ts';
import { validateTensors } from '../../model/weights.ts';
import { type Checkpoint, type CheckpointTensor, openCheckpoint } from '../folder.ts';
import { parseJsonObject } from '../jsonText.ts';
import {
  copyFiles,
  GENERATION_FILE,
  TOKENIZER_FILES,
  writeJson,
  writeNewFolder,
  writeWeights,
} from '../newFolder.ts';
import type { TensorEntry } from '../safetensors.ts';
import { tensorPieces } from '../tensorBytes.ts';
import { type PartFormats, parseQuantization, QUANTIZATION_KEY, quantizationJson } from './formats.ts';
import type { QuantisedRows } from './quantise.ts';
import { RoundingPool } from './roundingPool.ts';
import {
  codesName,
  type PlainTensor,
  type RoundedTensor,
  type StoredTensors,
  scalesName,
  storedTensors,
} from './stored.ts';

export interface ConvertOptions {
  /** Folder of the checkpoint. */
  readonly source: string;
  /** The folder to make; it must not exist, or be empty. */
  readonly out: string;
  readonly formats: PartFormats;
  /** Threads that round; as many as the machine runs at once unless given. */
  readonly threads?: number | undefined;
  readonly maxShardBytes?: number | undefined;
  readonly onProgress?: OnProgress | undefined;
}

/** Elements that are rounded at a time by one thread: 4 MB in f32. */
const PIECE = 2 ** 20;

/**
 * Converts a checkpoint.
 *
 * @throws UserError for a folder that is no checkpoint or was converted already, a weight that is not finite or does
 * not fit F16, an `out` with something in it, and a disk that refuses; then `out` is not made.
 */
export async function convertFolder(options: ConvertOptions): Promise<void> {
  const { source, out, formats, threads = availableParallelism(), maxShardBytes } = options;
  const json = await readConfig(source);
  const where = path.join(source, 'config.json');
  if (parseQuantization(json, where) !== undefined) {
    throw new UserError(
      `${source}: expected a checkpoint as it was trained, got a converted one; convert the original`,
    );
  }
  const config = parseFusionConfig(json, where);
  const checkpoint = await openCheckpoint(source);
  validateTensors(config, checkpoint);
  const stored = storedTensors(config, formats);
  await writeNewFolder(out, async (dir) => {
    const pool = new RoundingPool(threads);
    try {
      const done = counted(stored, checkpoint, options.onProgress);
      await writeWeights(dir, entriesOf(stored, checkpoint, pool, done), { maxShardBytes });
    } finally {
      await pool.close();
    }
    await copyFiles(source, dir, [...TOKENIZER_FILES, GENERATION_FILE]);
    await writeJson(path.join(dir, 'config.json'), {
      ...json,
      [QUANTIZATION_KEY]: quantizationJson({ formats }),
    });
  });
}

async function readConfig(dir: string): Promise<Record<string, unknown>> {
  const file = path.join(dir, 'config.json');
  const bytes = await readFile(file).catch(() => undefined);
  if (bytes !== undefined) return parseJsonObject(bytes, file);
  throw new UserError(`${dir}: expected a checkpoint folder with config.json, got none`);
}

/** Counts bytes read of the source. */
function counted({ plain, rounded }: StoredTensors, { tensors }: Checkpoint, onProgress?: OnProgress) {
  const total = [...plain, ...rounded].reduce(
    (sum, { name }) => sum + (tensors.get(name)?.byteLength ?? 0),
    0,
  );
  let done = 0;
  return (bytes: number): void => {
    done += bytes;
    onProgress?.({ phase: 'convert', done, total, unit: 'bytes' });
  };
}

/** F32 first, each weight's codes before its scales, F16 last: so all are aligned. */
function entriesOf(
  { plain, rounded }: StoredTensors,
  { tensors }: Checkpoint,
  pool: RoundingPool,
  done: (bytes: number) => void,
): readonly TensorEntry[] {
  const source = (name: string) => tensors.get(name) as CheckpointTensor;
  const copied = (dtype: PlainTensor['dtype']): TensorEntry[] =>
    plain
      .filter((tensor) => tensor.dtype === dtype)
      .map((tensor) => ({ ...tensor, data: () => copiedPieces(source(tensor.name), tensor, done) }));
  const codes = rounded.flatMap((tensor) => roundedEntries(tensor, source(tensor.name), pool, done));
  return [...copied('F32'), ...codes, ...copied('F16')];
}

async function* copiedPieces(
  source: CheckpointTensor,
  { name, dtype }: PlainTensor,
  done: (bytes: number) => void,
) {
  for await (const piece of tensorPieces(source, dtype)) {
    if (dtype === 'F16') checkHalves(piece, name);
    yield piece;
    done((piece.byteLength / DTYPE_BYTES[dtype]) * DTYPE_BYTES[source.dtype]);
  }
}

/** Exponent of F16's infinities and of what is not a number. */
const NOT_FINITE = 0x7c00;

function checkHalves(bytes: Uint8Array, name: string): void {
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  if (!halves.some((half) => (half & NOT_FINITE) === NOT_FINITE)) return;
  throw new UserError(
    `tensor ${name}: expected finite numbers below 65504 for f16, got larger ones; take f32 for it`,
  );
}

/** The codes, which are made, and the scales, which are there when the codes have been written. */
function roundedEntries(
  tensor: RoundedTensor,
  source: CheckpointTensor,
  pool: RoundingPool,
  done: (bytes: number) => void,
): readonly TensorEntry[] {
  const shape = codesShape(tensor.out, tensor.width, tensor.bits);
  let scales: Float32Array[] = [];
  const data = async function* () {
    scales = [];
    for await (const rows of roundedPieces(tensor, source, pool)) {
      scales.push(rows.scales);
      yield rows.codes;
      done((rows.scales.length / shape[1]) * tensor.width * DTYPE_BYTES[source.dtype]);
    }
  };
  const collected = async function* () {
    yield* scales.splice(0);
  };
  return [
    { name: codesName(tensor), dtype: 'U8', shape, data },
    { name: scalesName(tensor), dtype: 'F32', shape: shape.slice(0, 2), data: collected },
  ];
}

/** A weight's rows in order, with one piece more under way than there are threads. */
async function* roundedPieces(
  { name, width, out, bits }: RoundedTensor,
  { file, begin, dtype }: CheckpointTensor,
  pool: RoundingPool,
): AsyncGenerator<QuantisedRows, void, undefined> {
  const rows = Math.max(1, Math.floor(PIECE / width));
  const rowBytes = width * DTYPE_BYTES[dtype];
  const pending: Promise<QuantisedRows>[] = [];
  try {
    for (let firstRow = 0; firstRow < out; firstRow += rows) {
      const byteLength = Math.min(rows, out - firstRow) * rowBytes;
      const piece = {
        name,
        file,
        begin: begin + firstRow * rowBytes,
        byteLength,
        dtype,
        width,
        firstRow,
        bits,
      };
      pending.push(pool.round(piece));
      if (pending.length > pool.threads) yield await (pending.shift() as Promise<QuantisedRows>);
    }
    while (pending.length > 0) yield await (pending.shift() as Promise<QuantisedRows>);
  } finally {
    // Those not taken after a failure end without being heard.
    await Promise.allSettled(pending);
  }
}
