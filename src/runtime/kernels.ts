/**
 * The few in-place updates of weights that a graph cannot do, because ONNX Runtime never writes its inputs: norms of
 * gradients, AdamW. Plain loops over typed arrays.
 */
import type { AdamWArrays } from './adamWThread.ts';
import type { AdamWOptions } from './types.ts';

/** `√Σx²`, summed in f64. */
export function norm(x: Float32Array): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  const whole = x.length - (x.length % 4);
  for (let i = 0; i < whole; i += 4) {
    a += (x[i] as number) ** 2;
    b += (x[i + 1] as number) ** 2;
    c += (x[i + 2] as number) ** 2;
    d += (x[i + 3] as number) ** 2;
  }
  for (let i = whole; i < x.length; i++) a += (x[i] as number) ** 2;
  return Math.sqrt(a + b + c + d);
}

/** `into += from`, in place. */
export function accumulate(into: Float32Array, from: Float32Array): void {
  if (into.length !== from.length) throw new Error(`internal: ${from.length} values added to ${into.length}`);
  for (let i = 0; i < into.length; i++) into[i] = (into[i] as number) + (from[i] as number);
}

/** One AdamW step (decoupled weight decay) on one tensor, in place. Source: arXiv 1711.05101. */
export function adamW(
  weight: Float32Array,
  gradient: Float32Array,
  first: Float32Array,
  second: Float32Array,
  rates: { readonly learningRate: number; readonly weightDecay: number },
  options: AdamWOptions,
): void {
  const { beta1, beta2, epsilon, gradientScale, step } = options;
  const decay = 1 - rates.learningRate * rates.weightDecay;
  const stepSize = rates.learningRate / (1 - beta1 ** step);
  const correction = 1 / Math.sqrt(1 - beta2 ** step);
  for (let i = 0; i < weight.length; i++) {
    const g = (gradient[i] as number) * gradientScale;
    const m = beta1 * (first[i] as number) + (1 - beta1) * g;
    const v = beta2 * (second[i] as number) + (1 - beta2) * g * g;
    first[i] = m;
    second[i] = v;
    weight[i] = decay * (weight[i] as number) - (stepSize * m) / (Math.sqrt(v) * correction + epsilon);
  }
}

/** The memory of all arrays, to be moved with a message. */
export function buffersOf(arrays: readonly AdamWArrays[]): ArrayBuffer[] {
  return arrays.flatMap(({ weight, gradient, first, second }) =>
    [weight, gradient, first, second].map(({ buffer }) => buffer as ArrayBuffer),
  );
}
