/**
 * Gradients of the graph against central differences, both evaluated in f64 by the reference interpreter, so
 * that a wrong rule stands out far above rounding.
 */
import { expect } from 'vitest';
import { Random } from '../../src/common/random.ts';
import type { FloatType } from '../../src/graph/dtype.ts';
import { multiply, sum } from '../../src/graph/functions.ts';
import { grad } from '../../src/graph/gradient.ts';
import { input, type Tensor } from '../../src/graph/tensor.ts';
import { evaluate, type NdArray, ndArray, sizeOfShape } from './reference.ts';

export interface GradientCheckOptions {
  /** Dtype of the symbolic inputs; f64 unless told, so that constants of the graph are not rounded to f32. */
  readonly dtype?: FloatType;
  readonly seed?: number;
  /** Values of the inputs instead of standard normal ones; `undefined` keeps the random ones. */
  readonly values?: readonly (readonly number[] | undefined)[];
  readonly step?: number;
  /** Allowed difference, relative to `1 + |expected|`. */
  readonly tolerance?: number;
}

/** Standard normal numbers. */
export function normals(random: Random, shape: readonly number[]): readonly number[] {
  return Array.from({ length: sizeOfShape(shape) }, () => random.normal());
}

/**
 * Expects the gradients of `Σ w · build(inputs)`, w random, to equal central differences. `shapes` are those
 * of the inputs.
 */
export function expectGradientsMatch(
  build: (inputs: readonly Tensor[]) => Tensor,
  shapes: readonly (readonly number[])[],
  options: GradientCheckOptions = {},
): void {
  const { dtype = 'f64', seed = 1, values = [], step = 1e-5, tolerance = 1e-7 } = options;
  const random = new Random(seed);
  const inputs = shapes.map((shape, i) => input(`x${i}`, dtype, shape));
  const output = build(inputs);
  const outputShape = output.shape as readonly number[];
  const loss = sum(multiply(output, input('w', output.dtype, outputShape)));
  const feeds = new Map<string, NdArray>([
    ['w', ndArray(output.dtype, outputShape, normals(random, outputShape))],
  ]);
  for (const [i, shape] of shapes.entries()) {
    feeds.set(`x${i}`, ndArray(dtype, shape, values[i] ?? normals(random, shape)));
  }
  const gradients = evaluate(grad(loss, inputs), feeds);
  for (const [i, gradient] of gradients.entries()) {
    expect(gradient.shape).toEqual(shapes[i]);
    const numeric = centralDifferences(loss, feeds, `x${i}`, step);
    for (const [n, expected] of numeric.entries()) {
      const error = Math.abs(gradient.data[n]! - expected) / (1 + Math.abs(expected));
      const message = `element ${n} of the gradient of input ${i}: ${gradient.data[n]}, expected ${expected}`;
      expect(error, message).toBeLessThan(tolerance);
    }
  }
}

/** `(f(x + h) − f(x − h)) / 2h` for each element of one feed. */
function centralDifferences(
  loss: Tensor,
  feeds: ReadonlyMap<string, NdArray>,
  name: string,
  step: number,
): readonly number[] {
  const x = feeds.get(name)!;
  const moved = (n: number, by: number): number => {
    const data = x.data.slice();
    data[n]! += by;
    return evaluate([loss], new Map([...feeds, [name, { ...x, data }]]))[0]!.data[0]!;
  };
  return Array.from(x.data, (_, n) => (moved(n, step) - moved(n, -step)) / (2 * step));
}
