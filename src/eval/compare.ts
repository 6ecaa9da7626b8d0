/**
 * How far two models are apart: their distributions of the next token at every supervised position of conversations
 * with known answers. Both read the same tokens, so that positions match. Knows nothing of why they differ (rounded
 * weights, training). Shapes: M supervised positions, V vocabulary.
 */
import { UserError } from '../common/errors.ts';
import type { OnProgress } from '../common/progress.ts';
import { isSkipped } from '../data/dataset.ts';
import { imageTokenCount } from '../generate/imageFeatures.ts';
import type { FusionModel } from '../generate/model.ts';
import { pictureOfCrops } from '../generate/picture.ts';
import { i32, rotaryFeeds, sequenceFeeds } from '../model/feeds.ts';
import { layOutSequences } from '../model/sequence.ts';
import type { KnownSample, SampleList } from './compareSamples.ts';

/** What one model says of the answers. */
export interface OwnScore {
  /** Mean negative log-likelihood of the answers' tokens, in nats. */
  readonly crossEntropy: number;
  /** Share of samples whose answers' tokens are each the likeliest: greedy decoding gives just these. */
  readonly exactMatch: number;
}

export interface Comparison {
  readonly samples: number;
  /** Samples that could not be used, and why the first could not. */
  readonly skipped: number;
  readonly firstSkip: string | undefined;
  /** Supervised positions over all samples. */
  readonly positions: number;
  /** Mean over positions of KL(a ‖ b) of the next token, in nats. */
  readonly klDivergence: number;
  /** Share of positions at which both find the same token the likeliest. */
  readonly top1Agreement: number;
  readonly a: OwnScore;
  readonly b: OwnScore;
  /** Samples that a answers exactly and b does not, and the other way round. */
  readonly lost: number;
  readonly gained: number;
}

/** Logits f32 [M, V] at the supervised positions, and the tokens that stand there. */
interface Prediction {
  readonly logits: Float32Array;
  readonly targets: Int32Array;
}

/** Sums over positions. */
interface Tally {
  positions: number;
  divergence: number;
  agreed: number;
  a: { loss: number; exact: number };
  b: { loss: number; exact: number };
  lost: number;
  gained: number;
}

/**
 * Compares two models on all samples.
 *
 * @throws UserError where they have different vocabularies, or no sample can be used.
 */
export async function compareModels(
  a: FusionModel,
  b: FusionModel,
  list: SampleList,
  onProgress?: OnProgress,
): Promise<Comparison> {
  checkVocabularies(a, b);
  const tally: Tally = {
    positions: 0,
    divergence: 0,
    agreed: 0,
    a: { loss: 0, exact: 0 },
    b: { loss: 0, exact: 0 },
    lost: 0,
    gained: 0,
  };
  let firstSkip: string | undefined;
  let skipped = 0;
  for (let i = 0; i < list.count; i++) {
    onProgress?.({ phase: 'eval', done: i, total: list.count, unit: 'questions' });
    const sampleFor = await list.sample(i);
    const [forA, forB] = [await sampleFor(a), await sampleFor(b)];
    const unusable = [forA, forB].find(isSkipped);
    if (isSkipped(forA) || isSkipped(forB)) {
      skipped += 1;
      firstSkip ??= `${unusable?.file}:${unusable?.index}: ${unusable?.reason}`;
      continue;
    }
    addSample(tally, await predict(a, forA), await predict(b, forB), forA.id);
  }
  onProgress?.({ phase: 'eval', done: list.count, total: list.count, unit: 'questions' });
  const samples = list.count - skipped;
  if (samples === 0)
    throw new UserError(`expected at least one sample to compare on, got none: ${firstSkip}`);
  return { samples, skipped, firstSkip, ...shares(tally, samples) };
}

function checkVocabularies(a: FusionModel, b: FusionModel): void {
  const [sizeA, sizeB] = [a, b].map(({ config }) => config.decoder.vocabSize);
  if (sizeA === sizeB) return;
  throw new UserError(
    `${b.dir}: expected the vocabulary of ${a.dir} (${sizeA} tokens), got ${sizeB}; compare models with one tokenizer`,
  );
}

function shares(tally: Tally, samples: number) {
  const { positions, divergence, agreed, lost, gained } = tally;
  const own = ({ loss, exact }: Tally['a']): OwnScore => ({
    crossEntropy: loss / positions,
    exactMatch: exact / samples,
  });
  return {
    positions,
    klDivergence: divergence / positions,
    top1Agreement: agreed / positions,
    a: own(tally.a),
    b: own(tally.b),
    lost,
    gained,
  };
}

/** The model's predictions at a sample's supervised positions. */
async function predict(model: FusionModel, sample: KnownSample): Promise<Prediction> {
  const { config, programs, images, device } = model;
  const { maxLength, defaultQueryLen: queryLength, decoder } = config;
  const sizes = { imageTokens: imageTokenCount(config), queryLength, maxLength };
  const layout = layOutSequences([sample], sizes);
  const picture = sample.crops === undefined ? undefined : pictureOfCrops(sample.crops);
  const tiles = await images.tiles(picture);
  const imageTokens = await images.whole(picture, sample.instructs);
  try {
    const { outputs } = await (await programs.prefill(queryLength)).run({
      ...sequenceFeeds(layout),
      ...rotaryFeeds(decoder, 0, layout.sequence, layout.sequence),
      image_tokens: imageTokens,
      tile_features: tiles.features,
      last_positions: i32(layout.supervisedPositions),
    });
    return { logits: outputs.logits?.data as Float32Array, targets: layout.targets };
  } finally {
    await device.free([imageTokens]);
    await tiles.release();
  }
}

function addSample(tally: Tally, a: Prediction, b: Prediction, id: string): void {
  if (a.targets.join() !== b.targets.join()) {
    throw new UserError(
      `${id}: expected one tokenizer and one conversation format for both models, got different tokens`,
    );
  }
  const width = a.logits.length / a.targets.length;
  let [exactA, exactB] = [true, true];
  for (const [m, target] of a.targets.entries()) {
    const [rowA, rowB] = [a, b].map(({ logits }) => logits.subarray(m * width, (m + 1) * width)) as [
      Float32Array,
      Float32Array,
    ];
    const { divergence, lossA, lossB } = compareRows(rowA, rowB, target);
    const [topA, topB] = [largestOf(rowA), largestOf(rowB)];
    tally.divergence += divergence;
    tally.agreed += Number(topA === topB);
    tally.a.loss += lossA;
    tally.b.loss += lossB;
    exactA &&= topA === target;
    exactB &&= topB === target;
  }
  tally.positions += a.targets.length;
  tally.a.exact += Number(exactA);
  tally.b.exact += Number(exactB);
  tally.lost += Number(exactA && !exactB);
  tally.gained += Number(!exactA && exactB);
}

/** KL(a ‖ b) of the softmaxes of two rows of logits, and each one's −log p(target); in f64. */
export function compareRows(a: Float32Array, b: Float32Array, target: number) {
  const [normA, normB] = [logSumExp(a), logSumExp(b)];
  let divergence = 0;
  for (let i = 0; i < a.length; i++) {
    const logA = (a[i] as number) - normA;
    divergence += Math.exp(logA) * (logA - ((b[i] as number) - normB));
  }
  const lossOf = (row: Float32Array, norm: number) => norm - (row[target] ?? Number.NaN);
  return { divergence, lossA: lossOf(a, normA), lossB: lossOf(b, normB) };
}

function logSumExp(row: Float32Array): number {
  const largest = row[largestOf(row)] ?? 0;
  let sum = 0;
  for (const value of row) sum += Math.exp(value - largest);
  return largest + Math.log(sum);
}

/** The index of the largest value, the lowest of equal ones. */
function largestOf(row: Float32Array): number {
  let at = 0;
  for (let i = 1; i < row.length; i++) if ((row[i] as number) > (row[at] as number)) at = i;
  return at;
}
