/**
 * Training samples from a data set's files, in its seeded order. What cannot be used is left out, counted, written
 * to `skipped.jsonl` and bounded; batches are prepared ahead, but a state tells of those used. Knows nothing of
 * weights.
 */
import { z } from 'zod';
import { messageOf, UserError } from '../common/errors.ts';
import {
  BatchOrder,
  loadBatch,
  type OrderOptions,
  type OrderState,
  prefetch,
  type TrainingBatch,
} from '../data/batches.ts';
import { type Dataset, type EncodeOptions, openDataset, SkipLog } from '../data/dataset.ts';
import { blankCrops } from '../data/image.ts';
import type { FusionConfig } from '../model/config.ts';
import type { SequenceSizes } from '../model/sequence.ts';
import type { EncodedSample } from './batch.ts';
import type { DataState } from './checkpoint.ts';
import type { StageConfig } from './config.ts';
import { type Encoder, PREFETCHED, type SampleSource } from './source.ts';

/** A share means little before so many samples were seen. */
const SHARE_COUNTS_FROM = 100;

const count = z.int().min(0);
const stateSchema = z.object({
  source: z.literal('dataset'),
  order: z.object({
    seed: z.union([z.number(), z.string()]),
    samples: count,
    epoch: count,
    position: count,
  }),
  skips: z.object({ seen: count, counts: z.record(z.string(), count), bytes: count }),
});

export interface DatasetFiles {
  /** `skipped.jsonl`. */
  readonly skipped: string;
  /** A folder for the indexes of the data set's files. */
  readonly cache: string;
}

/** The sizes by which a sample of `stage` is measured: with the longest query that may be drawn. */
export function sampleSizes(stage: StageConfig, config: FusionConfig): SequenceSizes {
  const { vision, imageTokensSide } = config;
  return {
    imageTokens: imageTokensSide === undefined ? vision.patches : imageTokensSide ** 2,
    queryLength: Math.max(...(stage.query_lens ?? config.queryLens)),
    maxLength: stage.max_length,
  };
}

/** Samples of the data set at `file`. Throws `UserError` as `openDataset` does. */
export async function openDatasetSource(
  file: string,
  stage: StageConfig,
  encoder: Encoder,
  files: DatasetFiles,
): Promise<DatasetSource> {
  const { tokenizer, format, config } = encoder;
  const dataset = await openDataset(file, { seed: stage.seed, cacheDir: files.cache });
  const sizes = sampleSizes(stage, config);
  return new DatasetSource(dataset, {
    order: {
      batch: stage.batch_size,
      seed: stage.seed,
      groupByModalityLength: stage.group_by_modality_length,
      accumulation: stage.accumulation,
    },
    // The published recipe cuts what is too long.
    encode: { tokenizer, format, sizes, tooLong: 'cut', cropSide: config.vision.imageSize },
    skipped: files.skipped,
    skipLimit: stage.skip_limit,
  });
}

export interface DatasetSourceOptions {
  readonly order: OrderOptions;
  readonly encode: EncodeOptions & { readonly cropSide: number };
  /** Where skipped samples are written down. */
  readonly skipped: string;
  /** The largest share of samples that may be skipped. */
  readonly skipLimit: number;
}

export class DatasetSource implements SampleSource {
  readonly count: number;
  readonly batchesPerEpoch: number;
  readonly #dataset: Dataset;
  readonly #options: DatasetSourceOptions;
  readonly #order: BatchOrder;
  #used: OrderState;
  #skipLog: SkipLog | undefined;
  #batches: AsyncGenerator<TrainingBatch, void> | undefined;
  #emptyInARow = 0;

  constructor(dataset: Dataset, options: DatasetSourceOptions) {
    this.#dataset = dataset;
    this.#options = options;
    this.#order = new BatchOrder(dataset, options.order);
    this.#used = this.#order.start();
    this.count = dataset.count;
    this.batchesPerEpoch = this.#order.batchesPerEpoch;
  }

  async next(): Promise<readonly EncodedSample[]> {
    const { encode } = this.#options;
    const prepare = (planned: Parameters<typeof loadBatch>[1]) => loadBatch(this.#dataset, planned, encode);
    this.#batches ??= prefetch(this.#order.from(this.#used), prepare, PREFETCHED);
    const { value: batch } = await this.#batches.next();
    if (!batch) throw new UserError(`${this.#dataset.file}: expected another batch, got the end`);
    this.#used = batch.next;
    this.#record(batch);
    this.#refuseEmptyEpoch(batch);
    return samplesOf(batch, encode.cropSide);
  }

  #record({ seen, skipped }: TrainingBatch): void {
    try {
      this.#skips().record(seen, skipped);
    } catch (error) {
      if (error instanceof UserError) throw error;
      throw new UserError(`${this.#options.skipped}: ${messageOf(error)}`);
    }
  }

  /** Whatever the limit, a set of nothing but unusable samples must not be walked for ever. */
  #refuseEmptyEpoch({ samples, skipped }: TrainingBatch): void {
    this.#emptyInARow = samples.length === 0 ? this.#emptyInARow + 1 : 0;
    if (this.#emptyInARow < this.batchesPerEpoch) return;
    const last = skipped.at(-1);
    throw new UserError(
      `${this.#dataset.file}: expected samples to train on, got none in a whole epoch` +
        (last === undefined ? '' : `; the last: ${last.file}: record ${last.index}: ${last.reason}`),
    );
  }

  #skips(): SkipLog {
    this.#skipLog ??= this.#openSkips({ seen: 0, counts: {}, bytes: 0 });
    return this.#skipLog;
  }

  #openSkips(state: ReturnType<SkipLog['state']>): SkipLog {
    const { skipped, skipLimit } = this.#options;
    const minimum = Math.min(SHARE_COUNTS_FROM, this.count);
    return new SkipLog({ file: skipped, limit: skipLimit, minimum, state });
  }

  state(): DataState {
    return { source: 'dataset', order: this.#used, skips: this.#skips().state() };
  }

  restore(state: DataState): void {
    const parsed = stateSchema.safeParse(state);
    if (!parsed.success) {
      throw new UserError(`resume: expected a state of a data set, got one of ${state.source ?? 'nothing'}`);
    }
    // Throws where the data set is another.
    this.#order.from(parsed.data.order).return();
    this.#used = parsed.data.order;
    this.#skipLog = this.#openSkips(parsed.data.skips);
  }

  async close(): Promise<void> {
    await this.#batches?.return();
    await this.#dataset.close();
  }
}

/** Each sample with its part of the batch's crops: f32 [5, 3, S, S], S = `side`. */
function samplesOf({ samples, crops }: TrainingBatch, side: number): EncodedSample[] {
  const size = blankCrops(side).length;
  const all = crops ?? new Float32Array(samples.length * size);
  return samples.map(({ id, inputIds, labels, instructs }, i) => ({
    id,
    inputIds,
    labels,
    instructs,
    crops: all.subarray(i * size, (i + 1) * size),
  }));
}
