/**
 * A few optimizer steps on one case, on copies of the weights: AdamW (0.9, 0.999, 1e-8, no decay) with the global
 * gradient norm clipped. Knows nothing of what is expected.
 */
import type { ResidentWeights } from '../checkpoint/loadWeights.ts';
import type { FusionConfig } from '../model/config.ts';
import { expectedTensors } from '../model/weights.ts';
import type { AdamWTensors, Device, ResidentTensor } from '../runtime/types.ts';
import { type CasePrograms, runCase } from './caseRun.ts';
import type { ExpectedTraining } from './cases.ts';

/** Before each step: the loss, and the global norm of the gradients before clipping. */
export interface TrainingResults {
  readonly losses: readonly number[];
  readonly gradientNorms: readonly number[];
}

const ADAMW = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 } as const;
/** PyTorch's `clip_grad_norm_` adds it to the norm it divides by. */
const CLIP_EPSILON = 1e-6;

type Trained = Omit<AdamWTensors, 'gradient'> & { readonly name: string };

/** As many steps as losses are expected; the checkpoint's own weights stay as they are. */
export async function runTraining(
  device: Device,
  programs: CasePrograms,
  config: FusionConfig,
  weights: ResidentWeights,
  recipe: ExpectedTraining,
): Promise<TrainingResults> {
  const held: ResidentTensor[] = [];
  const results = { losses: [] as number[], gradientNorms: [] as number[] };
  try {
    const trained: Trained[] = [];
    for (const name of expectedTensors(config).keys()) {
      trained.push(await copyWeight(device, name, weights, recipe, held));
    }
    const current = Object.fromEntries(trained.map(({ name, weight }) => [name, weight]));
    const names = Object.keys(current);
    for (let step = 1; step <= recipe.losses.length; step++) {
      const { outputs, gradients } = await runCase(programs, config, current, recipe.case, names);
      const norm = await update(device, trained, gradients, { step, clip: recipe.clip });
      results.losses.push(Number(outputs.loss?.data[0]));
      results.gradientNorms.push(norm);
    }
    return results;
  } finally {
    await device.free(held);
  }
}

async function copyWeight(
  device: Device,
  name: string,
  weights: ResidentWeights,
  recipe: ExpectedTraining,
  held: ResidentTensor[],
): Promise<Trained> {
  const source = weights[name];
  if (source === undefined) throw new Error(`internal: ${name} was not loaded`);
  const fresh = async () => {
    const tensor = await device.zeros('f32', source.shape);
    held.push(tensor);
    return tensor;
  };
  const [weight, firstMoment, secondMoment] = [await fresh(), await fresh(), await fresh()];
  await device.copy([{ from: source, target: { to: weight } }]);
  const learningRate = name.includes('vision_tower') ? recipe.visionLearningRate : recipe.learningRate;
  return { name, weight, firstMoment, secondMoment, learningRate, weightDecay: 0 };
}

/** One step of AdamW, after which the gradients are freed; gives their global norm. */
async function update(
  device: Device,
  trained: readonly Trained[],
  gradients: ReadonlyMap<string, ResidentTensor>,
  { step, clip }: { readonly step: number; readonly clip: number },
): Promise<number> {
  const all = [...gradients.values()];
  try {
    const norm = Math.hypot(...(await device.norms(all)));
    const tensors = trained.map(({ name, ...state }): AdamWTensors => {
      const gradient = gradients.get(name);
      if (gradient === undefined) throw new Error(`internal: no gradient of ${name}`);
      return { ...state, gradient };
    });
    const gradientScale = Math.min(1, clip / (norm + CLIP_EPSILON));
    await device.adamW(tensors, { ...ADAMW, step, gradientScale });
    return norm;
  } finally {
    await device.free(all);
  }
}
