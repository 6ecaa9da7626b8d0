/**
 * The order in which samples are trained on, and batches prepared ahead of their use.
 *
 * The order of an epoch is a pure function of the seed, the epoch and the samples' lengths, so a run resumes
 * anywhere without reading what lies before. Knows nothing of files, formats or programs.
 * Source: spec "Datasets"; LLaVA's `LengthGroupedSampler` (windows, even totals), Hugging Face accelerate's
 * `BatchSamplerShard` (which rank gets which batch).
 */
import { UserError } from '../common/errors.ts';
import { Random } from '../common/random.ts';
import {
  type Dataset,
  type EncodedSample,
  type EncodeOptions,
  encodeSample,
  isSkipped,
  type SkippedSample,
} from './dataset.ts';
import { blankCrops } from './image.ts';

/** What the order depends on; a `Dataset` is one. */
export interface SampleLengths {
  readonly count: number;
  words(i: number): number;
  hasImage(i: number): boolean;
}

export interface OrderOptions {
  /** Samples in a batch (of one rank and one micro-step). */
  readonly batch: number;
  readonly seed: number | string;
  /** Batches hold only image samples or only text samples, but for an epoch's last. */
  readonly groupByModalityLength?: boolean | undefined;
  /** How many ranks train together; 1 unless given. */
  readonly world?: number | undefined;
  /** Which of them this is, from 0. */
  readonly rank?: number | undefined;
  /** Micro-steps of one optimizer step: a window of grouping spans them; 1 unless given. */
  readonly accumulation?: number | undefined;
}

/** Where a run stands; plain JSON. */
export interface OrderState {
  readonly seed: number | string;
  /** Samples in the training set. */
  readonly samples: number;
  readonly epoch: number;
  /** Batches of this rank already used in the epoch. */
  readonly position: number;
}

/** One batch of the order. */
export interface PlannedBatch {
  /** Numbers of samples; empty where the epoch's last batches do not suffice for every rank. */
  readonly indices: Uint32Array;
  readonly epoch: number;
  readonly position: number;
  /** The state once this batch is used. */
  readonly next: OrderState;
}

/** The batches of one epoch, of all ranks: batch `k` is `order[ends[k − 1] … ends[k] − 1]`. */
interface Epoch {
  readonly order: Uint32Array;
  readonly ends: Uint32Array;
}

/** The seeded order of a training set's samples. Holds one epoch's: 4 bytes a sample. */
export class BatchOrder {
  /** Batches of each rank in an epoch. */
  readonly batchesPerEpoch: number;
  readonly #lengths: SampleLengths;
  readonly #options: OrderOptions;
  readonly #world: number;
  readonly #rank: number;
  #epoch: (Epoch & { readonly number: number }) | undefined;

  /** @throws UserError for sizes that are not whole numbers from 1, or an empty set. */
  constructor(lengths: SampleLengths, options: OrderOptions) {
    const { batch, world = 1, rank = 0, accumulation = 1 } = options;
    for (const [name, size] of Object.entries({ batch, world, accumulation, samples: lengths.count })) {
      if (Number.isSafeInteger(size) && size >= 1) continue;
      throw new UserError(`${name}: expected a whole number from 1, got ${size}`);
    }
    if (!(rank >= 0 && rank < world)) throw new UserError(`rank: expected 0 to ${world - 1}, got ${rank}`);
    this.#lengths = lengths;
    this.#options = options;
    this.#world = world;
    this.#rank = rank;
    this.batchesPerEpoch = Math.ceil(Math.ceil(lengths.count / batch) / world);
  }

  /** The state before the first batch. */
  start(): OrderState {
    return { seed: this.#options.seed, samples: this.#lengths.count, epoch: 0, position: 0 };
  }

  /** The samples of this rank's batch at `position` of `epoch`. */
  at(epoch: number, position: number): Uint32Array {
    if (this.#epoch?.number !== epoch) this.#epoch = { number: epoch, ...this.#plan(epoch) };
    const { order, ends } = this.#epoch;
    const k = position * this.#world + this.#rank;
    if (k >= ends.length) return new Uint32Array(0);
    return order.slice(k === 0 ? 0 : ends[k - 1], ends[k]);
  }

  /**
   * Batches from `state` on, up to the end of epoch `epochs − 1` (without end unless given).
   *
   * @throws UserError for a state of another seed or another number of samples.
   */
  from(state: OrderState, epochs = Number.POSITIVE_INFINITY): Generator<PlannedBatch, void> {
    this.#assertState(state);
    return this.#walk(state, epochs);
  }

  *#walk(state: OrderState, epochs: number): Generator<PlannedBatch, void> {
    let { epoch, position } = state;
    while (epoch < epochs) {
      const indices = this.at(epoch, position);
      const isLast = position + 1 === this.batchesPerEpoch;
      const next = { ...state, epoch: isLast ? epoch + 1 : epoch, position: isLast ? 0 : position + 1 };
      yield { indices, epoch, position, next };
      ({ epoch, position } = next);
    }
  }

  #assertState(state: OrderState): void {
    const { seed, samples } = this.start();
    for (const [name, now, then] of [
      ['seed', seed, state.seed],
      ['samples', samples, state.samples],
    ]) {
      if (now === then) continue;
      throw new UserError(`resume: ${name} of the training data: expected ${then} as before, got ${now}`);
    }
    const { epoch, position } = state;
    if (Number.isSafeInteger(epoch) && epoch >= 0 && position >= 0 && position < this.batchesPerEpoch) return;
    throw new UserError(
      `resume: expected a position below ${this.batchesPerEpoch}, got batch ${position} of epoch ${epoch}; was the batch size changed?`,
    );
  }

  #plan(epoch: number): Epoch {
    const { batch, seed, groupByModalityLength, accumulation = 1 } = this.#options;
    const { count } = this.#lengths;
    const random = new Random(seed).fork(`order of epoch ${epoch}`);
    if (groupByModalityLength) return groupedEpoch(this.#lengths, batch, this.#world * accumulation, random);
    const order = random.shuffle<number, Uint32Array>(numbers(count));
    const ends = new Uint32Array(Math.ceil(count / batch)).map((_, k) => Math.min((k + 1) * batch, count));
    return { order, ends };
  }
}

const numbers = (count: number): Uint32Array<ArrayBuffer> => new Uint32Array(count).map((_, i) => i);

/** Windows of `share · batch` samples of one modality in random order, then what fills no window. */
function groupedEpoch(lengths: SampleLengths, batch: number, share: number, random: Random): Epoch {
  const window = share * batch;
  const all = numbers(lengths.count);
  const groups = [all.filter((i) => lengths.hasImage(i)), all.filter((i) => !lengths.hasImage(i))];
  const words = (i: number) => lengths.words(i);
  for (const group of groups) random.shuffle<number, Uint32Array>(group);
  const full = groups.flatMap((group) =>
    Array.from({ length: Math.floor(group.length / window) }, (_, k) =>
      group.subarray(k * window, (k + 1) * window),
    ),
  );
  const rests = groups.map((group) => group.subarray(group.length - (group.length % window)));
  const batches = random
    .shuffle<Uint32Array, Uint32Array[]>(full)
    .flatMap((w) => dealEvenly(w, share, words));
  return joined([...batches, ...lastBatches(rests, batch, words)], lengths.count);
}

/**
 * What is left of each modality: whole batches of it, then the remainders, in one batch where they fit and else
 * each alone, so that the number of batches is `⌈samples / batch⌉` whatever the modalities.
 */
function lastBatches(rests: readonly Uint32Array[], batch: number, words: (i: number) => number) {
  const whole = rests.flatMap((rest) => {
    const count = Math.floor(rest.length / batch);
    return dealEvenly(rest.subarray(0, count * batch), count, words);
  });
  const ends = rests.map((rest) => rest.subarray(rest.length - (rest.length % batch)));
  const together = ends.flatMap((end) => [...end]);
  const last = together.length <= batch ? [Uint32Array.from(together)] : ends;
  return [...whole, ...last.filter((end) => end.length > 0)];
}

/** `samples` in `count` batches of equal size and nearly equal words: the longest first, each to the shortest. */
function dealEvenly(samples: Uint32Array, count: number, words: (i: number) => number): Uint32Array[] {
  const size = samples.length / count;
  const longestFirst = [...samples].sort((a, b) => words(b) - words(a) || a - b);
  const batches = Array.from({ length: count }, () => ({ total: 0, samples: [] as number[] }));
  for (const sample of longestFirst) {
    const open = batches.filter((batch) => batch.samples.length < size);
    const shortest = open.reduce((best, batch) => (batch.total < best.total ? batch : best));
    shortest.samples.push(sample);
    shortest.total += words(sample);
  }
  return batches.map((batch) => Uint32Array.from(batch.samples));
}

function joined(batches: readonly Uint32Array[], count: number): Epoch {
  const order = new Uint32Array(count);
  const ends = new Uint32Array(batches.length);
  let end = 0;
  for (const [k, batch] of batches.entries()) {
    order.set(batch, end);
    end += batch.length;
    ends[k] = end;
  }
  return { order, ends };
}

/** The text side of a batch, and its crops. B: samples, T: longest question, S: side of a crop. */
export interface CollatedBatch {
  readonly samples: readonly EncodedSample[];
  /** [B, T], right-padded with 0. */
  readonly instructs: Int32Array;
  /** T. */
  readonly instructLength: number;
  /** Whether a sample has an image, [B]. */
  readonly hasImage: readonly boolean[];
  /** f32 [B, 5, 3, S, S], zeros for a sample without an image; undefined unless `cropSide` was given. */
  readonly crops?: Float32Array;
}

/** Puts encoded samples together; the sequences themselves are laid out later (`layOutSequences`). */
export function collate(samples: readonly EncodedSample[], cropSide?: number): CollatedBatch {
  const instructLength = Math.max(0, ...samples.map(({ instructs }) => instructs.length));
  const instructs = new Int32Array(samples.length * instructLength);
  for (const [b, sample] of samples.entries()) instructs.set(sample.instructs, b * instructLength);
  const hasImage = samples.map((sample) => sample.hasImage);
  const text = { samples, instructs, instructLength, hasImage };
  if (cropSide === undefined) return text;
  const size = blankCrops(cropSide).length;
  const crops = new Float32Array(samples.length * size);
  for (const [b, sample] of samples.entries()) if (sample.crops) crops.set(sample.crops, b * size);
  return { ...text, crops };
}

/** A batch ready for a training step. */
export interface TrainingBatch extends CollatedBatch {
  /** Samples read for it, the skipped ones included. */
  readonly seen: number;
  /** Those left out; where all are, `samples` is empty. */
  readonly skipped: readonly SkippedSample[];
  readonly epoch: number;
  readonly position: number;
  /** The state once this batch is used. */
  readonly next: OrderState;
}

/** Reads, encodes and collates one batch; its images are decoded at the same time. */
export async function loadBatch(
  dataset: Pick<Dataset, 'sample'>,
  planned: PlannedBatch,
  options: EncodeOptions,
): Promise<TrainingBatch> {
  const { indices, epoch, position, next } = planned;
  const all = await Promise.all(
    Array.from(indices, async (i) => {
      const raw = await dataset.sample(i);
      return isSkipped(raw) ? raw : encodeSample(raw, options);
    }),
  );
  const samples = all.filter((sample): sample is EncodedSample => !isSkipped(sample));
  // Crops now stand in the batch; holding each sample's too would double the memory.
  const { cropSide } = options;
  const batch = collate(samples, cropSide);
  const kept = samples.map(({ crops: _, ...sample }) => sample);
  return { ...batch, samples: kept, seen: all.length, skipped: all.filter(isSkipped), epoch, position, next };
}

/**
 * `prepare(item)` for every item, in order, with up to `depth` of them under way or waiting while the consumer
 * works. An error is thrown where its result would have come, and nothing is started after it; leaving early
 * waits for what is under way.
 */
export async function* prefetch<A, B>(
  items: Iterable<A>,
  prepare: (item: A) => Promise<B>,
  depth: number,
): AsyncGenerator<B, void> {
  const iterator = items[Symbol.iterator]();
  const waiting: Promise<B>[] = [];
  let isEnded = false;
  const fill = () => {
    while (!isEnded && waiting.length < Math.max(1, depth)) {
      const { done, value } = iterator.next();
      if (done) {
        isEnded = true;
        return;
      }
      const result = prepare(value);
      // The error is thrown when its turn comes; until then it must not count as unhandled.
      result.catch(() => {
        isEnded = true;
      });
      waiting.push(result);
    }
  };
  try {
    fill();
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const result = await next;
      fill();
      yield result;
    }
  } finally {
    await Promise.allSettled(waiting);
    iterator.return?.();
  }
}
