/**
 * The few in-place updates that a graph cannot do, because ONNX Runtime never writes its inputs: appending to
 * a cache, norms of gradients, AdamW. Plain loops over typed arrays.
 */
import type { TypedArray } from '../graph/dtype.ts';
import type { AdamWOptions } from './types.ts';

/**
 * Copies `from` (row-major, `fromShape`) into `to` (`toShape`), starting at index `offset` along `axis`.
 * The shapes agree on every other axis.
 */
export function copyInto(
  to: TypedArray,
  toShape: readonly number[],
  from: TypedArray,
  fromShape: readonly number[],
  axis: number,
  offset: number,
): void {
  const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
  const fits = fromShape.every((dim, i) =>
    i === axis ? dim + offset <= (toShape[i] ?? 0) : dim === toShape[i],
  );
  if (!fits || fromShape.length !== toShape.length || offset < 0) {
    throw new Error(`copy of [${fromShape}] into [${toShape}] at ${offset} on axis ${axis} does not fit`);
  }
  const inner = product(toShape.slice(axis + 1));
  const outer = product(toShape.slice(0, axis));
  const chunk = (fromShape[axis] ?? 0) * inner;
  const stride = (toShape[axis] ?? 0) * inner;
  for (let i = 0; i < outer; i++) {
    const piece = from.subarray(i * chunk, (i + 1) * chunk);
    // Both sides have one dtype, which the caller checked.
    (to as Float32Array).set(piece as Float32Array, i * stride + offset * inner);
  }
}

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
