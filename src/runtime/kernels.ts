/**
 * The few in-place updates that a graph cannot do, because ONNX Runtime never writes its inputs: appending to
 * a cache, norms of gradients, AdamW. Plain loops over typed arrays.
 */
import type { TypedArray } from '../graph/dtype.ts';
import type { AdamWArrays } from './adamWThread.ts';
import type { AdamWOptions, Block } from './types.ts';

/** A tensor's elements with their shape, row-major. */
export interface Elements {
  readonly shape: readonly number[];
  readonly data: TypedArray;
}

/** Copies a block of `from` into `to`; both have one rank and one dtype. Throws where the block leaves either. */
export function copyBlock(to: Elements, from: Elements, block: Block): void {
  copyAxes(to.data, from.data, blockAxes(to.shape, from.shape, block), 0, 0);
}

/** A block axis by axis. Throws where it leaves either shape. */
export function blockAxes(to: readonly number[], from: readonly number[], block: Block): readonly Axis[] {
  const axes = from.map((fromDim, axis): Axis => {
    const [target = 0, source = 0, toDim = 0] = [block.at[axis], block.from?.[axis], to[axis]];
    return { target, source, size: block.size?.[axis] ?? fromDim - source, toDim, fromDim };
  });
  const fits = ({ target, source, size, toDim, fromDim }: Axis) =>
    Math.min(size, target, source) >= 0 && target + size <= toDim && source + size <= fromDim;
  if (to.length === from.length && axes.every(fits)) return axes;
  const [size, source, target] = (['size', 'source', 'target'] as const).map((k) => axes.map((x) => x[k]));
  throw new Error(`copy of [${size}] at [${source}] of [${from}] to [${target}] of [${to}] does not fit`);
}

/** What of an axis is copied, from index `source` to index `target`, and how long the axis is on either side. */
export interface Axis {
  readonly source: number;
  readonly target: number;
  readonly size: number;
  readonly toDim: number;
  readonly fromDim: number;
}

/** Goes down the axes to the one from which both sides lie in one run of memory. */
function copyAxes(
  to: TypedArray,
  from: TypedArray,
  [axis, ...inner]: readonly Axis[],
  toIndex: number,
  fromIndex: number,
): void {
  const { target, source, size, toDim, fromDim } = axis ?? SINGLE;
  const [toStart, fromStart] = [toIndex * toDim + target, fromIndex * fromDim + source];
  if (inner.every(({ size: n, toDim: a, fromDim: b }) => n === a && n === b)) {
    const run = inner.reduce((product, { size: n }) => product * n, 1);
    const piece = from.subarray(fromStart * run, (fromStart + size) * run);
    // Both sides have one dtype, which the caller checked.
    (to as Float32Array).set(piece as Float32Array, toStart * run);
    return;
  }
  for (let i = 0; i < size; i++) copyAxes(to, from, inner, toStart + i, fromStart + i);
}

/** A tensor without axes has one element. */
const SINGLE: Axis = { source: 0, target: 0, size: 1, toDim: 1, fromDim: 1 };

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
