/**
 * One case run through the model: loss parts, logits, features and gradients from one program. Knows nothing of
 * what is expected. Shapes: B samples, S sequence, D decoder width, V vocabulary.
 */
import type { ResidentWeights } from '../checkpoint/loadWeights.ts';
import { imageTokenCount } from '../generate/imageFeatures.ts';
import { grad, input, type Program, program, type Tensor } from '../graph/index.ts';
import type { FusionConfig } from '../model/config.ts';
import { f32, type HostFeeds, i32, rotaryFeeds, sequenceFeeds } from '../model/feeds.ts';
import { logitsOf } from '../model/fusion.ts';
import { gradientOf, lossOutputs, traceForward } from '../model/programs.ts';
import { layOutSequences, type SequenceLayout } from '../model/sequence.ts';
import type { Device, Executable, HostTensor, ResidentTensor } from '../runtime/types.ts';
import type { ExpectedCase, FEATURES } from './cases.ts';

/** Stored logits are those of this many last positions of each sample. */
export const LOGIT_POSITIONS = 24;

/** Results of one case; gradients stay on the device and belong to the caller. */
export interface CaseResults {
  readonly lengths: readonly number[];
  /** Scalars and tensors by their output's name. */
  readonly outputs: Readonly<Record<string, HostTensor>>;
  readonly gradients: ReadonlyMap<string, ResidentTensor>;
}

/**
 * The pixels of all cases, which are not stored: f32 [B, 5, 3, S, S], each from its index by 32-bit mixing, rounded
 * to a byte and normalised; samples in `blank` are 0.
 */
export function casePixels(batch: number, side: number, blank: readonly number[]): HostTensor {
  const each = 5 * 3 * side * side;
  const data = new Float32Array(batch * each);
  for (let i = 0; i < data.length; i++) {
    let h = Math.imul(Math.floor(i / 7) + 1, 2654435761);
    h = Math.imul(h ^ (h >>> 15), 2246822519);
    data[i] = ((h >>> 24) / 255 - 0.5) / 0.5;
  }
  for (const b of blank) data.fill(0, b * each, (b + 1) * each);
  return f32(data, [batch, 5, 3, side, side]);
}

/** Where the samples of a case stand in the sequence. */
function caseLayout(config: FusionConfig, { samples, queryLength }: ExpectedCase): SequenceLayout {
  const { maxLength } = config;
  return layOutSequences(samples, { imageTokens: imageTokenCount(config), queryLength, maxLength });
}

/** What the program takes for a case, but for the weights. */
function caseFeeds(config: FusionConfig, expected: ExpectedCase): HostFeeds {
  const layout = caseLayout(config, expected);
  const { instructs, blankImages } = expected;
  return {
    pixels: casePixels(layout.batch, config.vision.imageSize, blankImages),
    instructs: i32(instructs.data, instructs.shape),
    ...sequenceFeeds(layout),
    ...rotaryFeeds(config.decoder, 0, layout.sequence, layout.sequence),
    logit_rows: i32(logitRows(layout)),
  };
}

/** Positions (b·S + s) whose logits are compared, sample after sample. */
function logitRows({ lengths, sequence }: SequenceLayout): Int32Array {
  return Int32Array.from(
    lengths.flatMap((length, b) => {
      const count = Math.min(length, LOGIT_POSITIONS);
      return Array.from({ length: count }, (_, i) => b * sequence + length - count + i);
    }),
  );
}

function caseProgram(config: FusionConfig, queryLength: number, weights: readonly string[]): Program {
  const trace = traceForward(config, queryLength);
  const { output, model } = trace;
  const gradients = grad(
    output.loss,
    weights.map((name) => model.parameters.get(name)),
  );
  const features: Readonly<Record<(typeof FEATURES)[number], Tensor>> = {
    image: output.imageTokens,
    latent0: output.tiles.latents,
    windows: output.tiles.windows,
    vision_rebuilt: output.visionRebuilt,
    text_rebuilt: output.whole.textRebuilt,
  };
  const named = weights.map((name, i) => [gradientOf(name), gradients[i] as Tensor] as const);
  const states = output.statesAt(input('logit_rows', 'i32', ['R']));
  const logits = logitsOf(model.parameters, states, config);
  return program('check', { ...lossOutputs(trace), ...features, logits, ...Object.fromEntries(named) });
}

/** The program of the case run last: cases with as many latents share it, and no two are held at once. */
export class CasePrograms {
  readonly #device: Device;
  readonly #config: FusionConfig;
  #held: { readonly key: string; readonly executable: Executable } | undefined;

  constructor(device: Device, config: FusionConfig) {
    this.#device = device;
    this.#config = config;
  }

  /** A program that stays loaded until the next call. weights: those whose gradients are wanted. */
  async load(queryLength: number, weights: readonly string[]): Promise<Executable> {
    const key = `${queryLength} ${weights.join(' ')}`;
    if (this.#held?.key === key) return this.#held.executable;
    await this.dispose();
    const executable = await this.#device.load(caseProgram(this.#config, queryLength, weights));
    this.#held = { key, executable };
    return executable;
  }

  async dispose(): Promise<void> {
    const held = this.#held;
    this.#held = undefined;
    await held?.executable.dispose();
  }
}

/** Runs a case. weights: those whose gradients are wanted. */
export async function runCase(
  programs: CasePrograms,
  config: FusionConfig,
  resident: ResidentWeights,
  expected: ExpectedCase,
  weights: readonly string[],
): Promise<CaseResults> {
  const executable = await programs.load(expected.queryLength, weights);
  const feeds = { ...resident, ...caseFeeds(config, expected) };
  const { outputs, kept } = await executable.run(feeds, { keep: weights.map(gradientOf) });
  const gradients = weights.map((name) => [name, kept[gradientOf(name)] as ResidentTensor] as const);
  return { lengths: caseLayout(config, expected).lengths, outputs, gradients: new Map(gradients) };
}
