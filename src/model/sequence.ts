/**
 * The sequence on the host: from token ids with sentinels to the index tensors that the graph gathers with.
 * Rules: in a sample with an image the first placeholder takes the image tokens and every later one the q
 * initial latents; without an image every placeholder takes q zero rows. Knows nothing of weights.
 */
import { END_OF_QUESTION, IGNORE, IMAGE, LATENT } from './sentinels.ts';

/** One sample's ids with sentinels, and for each id its label, IGNORE or END_OF_QUESTION. */
export interface SequenceSample {
  readonly inputIds: ArrayLike<number>;
  readonly labels: ArrayLike<number>;
}

export interface SequenceSizes {
  /** Image tokens of a sample, P or n². */
  readonly imageTokens: number;
  /** q, latents per question. */
  readonly queryLength: number;
  /** `tokenizer_model_max_length`: the sequence is cut to it after expansion. */
  readonly maxLength: number;
}

/** The index tensors of `SequenceIndices` and `Batch`, as plain arrays. */
export interface SequenceLayout {
  readonly batch: number;
  /** S: the longest sample. */
  readonly sequence: number;
  /** Real positions of each sample. */
  readonly lengths: readonly number[];
  readonly textIds: Int32Array;
  readonly sources: Int32Array;
  readonly latentPositions: Int32Array;
  readonly questionPositions: Int32Array;
  readonly windowIndex: Int32Array;
  readonly supervisedPositions: Int32Array;
  readonly targets: Int32Array;
}

const isPlaceholder = (id: number): boolean => id === IMAGE || id === LATENT;

/** How many positions a sample takes, before any cut. */
export function expandedLength(inputIds: ArrayLike<number>, sizes: SequenceSizes): number {
  let image = Array.prototype.includes.call(inputIds, IMAGE);
  let length = 0;
  for (const id of Array.from(inputIds)) {
    if (!isPlaceholder(id)) length += 1;
    else {
      length += image ? sizes.imageTokens : sizes.queryLength;
      image = false;
    }
  }
  return length;
}

/** Where a position's row comes from. */
type Source = { readonly kind: 'text' | 'image' | 'latent' | 'zero'; readonly index: number };

interface ExpandedSample {
  readonly rows: readonly Source[];
  readonly labels: readonly number[];
  readonly latents: readonly number[];
  readonly questions: readonly number[];
}

function expandSample({ inputIds, labels }: SequenceSample, sizes: SequenceSizes): ExpandedSample {
  const { queryLength, imageTokens, maxLength } = sizes;
  const hasImage = Array.prototype.includes.call(inputIds, IMAGE);
  let imagePending = hasImage;
  const rows: Source[] = [];
  const rowLabels: number[] = [];
  const latents: number[] = [];
  for (let i = 0; i < inputIds.length; i++) {
    const id = inputIds[i] ?? 0;
    if (!isPlaceholder(id)) {
      rows.push({ kind: 'text', index: id });
      rowLabels.push(labels[i] ?? IGNORE);
      continue;
    }
    const kind = imagePending ? 'image' : hasImage ? 'latent' : 'zero';
    const count = imagePending ? imageTokens : queryLength;
    for (let k = 0; k < count; k++) {
      if (!imagePending) latents.push(rows.length);
      rows.push({ kind, index: k });
      rowLabels.push(IGNORE);
    }
    imagePending = false;
  }
  const questions = rowLabels.flatMap((label, at) =>
    label === END_OF_QUESTION && at < maxLength ? [at] : [],
  );
  return {
    rows: rows.slice(0, maxLength),
    labels: rowLabels.slice(0, maxLength).map((label) => (label === END_OF_QUESTION ? IGNORE : label)),
    // Questions whose end was cut are dropped together with their latents.
    latents: latents.slice(0, queryLength * questions.length),
    questions,
  };
}

/** Lays a batch out: samples right-padded to the longest, positions counted through the batch. */
export function layOutSequences(samples: readonly SequenceSample[], sizes: SequenceSizes): SequenceLayout {
  const expanded = samples.map((sample) => expandSample(sample, sizes));
  const lengths = expanded.map(({ rows }) => rows.length);
  const sequence = Math.max(...lengths);
  const textIds = expanded.flatMap(({ rows }) => rows.flatMap((r) => (r.kind === 'text' ? [r.index] : [])));
  const firstImage = textIds.length;
  const firstLatent = firstImage + samples.length * sizes.imageTokens;
  const zero = firstLatent + samples.length * sizes.queryLength;
  const sources = new Int32Array(samples.length * sequence).fill(zero);
  let text = 0;
  for (const [b, { rows }] of expanded.entries()) {
    for (const [s, { kind, index }] of rows.entries()) {
      sources[b * sequence + s] =
        kind === 'text'
          ? text++
          : kind === 'image'
            ? firstImage + b * sizes.imageTokens + index
            : kind === 'latent'
              ? firstLatent + b * sizes.queryLength + index
              : zero;
    }
  }
  return {
    batch: samples.length,
    sequence,
    lengths,
    textIds: Int32Array.from(textIds),
    sources,
    ...layOutLatents(expanded, sequence, sizes.queryLength),
    ...layOutTargets(expanded, sequence),
  };
}

function layOutLatents(samples: readonly ExpandedSample[], sequence: number, queryLength: number) {
  const [positions, questions, windows]: [number[], number[], number[]] = [[], [], []];
  for (const [b, sample] of samples.entries()) {
    for (const [i, at] of sample.latents.entries()) {
      positions.push(b * sequence + at);
      questions.push(b * sequence + (sample.questions[Math.floor(i / queryLength)] ?? 0));
      windows.push(b * queryLength + (i % queryLength));
    }
  }
  return {
    latentPositions: Int32Array.from(positions),
    questionPositions: Int32Array.from(questions),
    windowIndex: Int32Array.from(windows),
  };
}

/** A position is supervised by the label of the next one. */
function layOutTargets(samples: readonly ExpandedSample[], sequence: number) {
  const [positions, targets]: [number[], number[]] = [[], []];
  for (const [b, { labels }] of samples.entries()) {
    for (const [s, label] of labels.entries()) {
      if (s === 0 || label === IGNORE) continue;
      positions.push(b * sequence + s - 1);
      targets.push(label);
    }
  }
  return { supervisedPositions: Int32Array.from(positions), targets: Int32Array.from(targets) };
}
