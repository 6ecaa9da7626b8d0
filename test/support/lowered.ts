/** Programs lowered to ONNX and run by ONNX Runtime on one CPU thread, against the reference interpreter. */
import { expect } from 'vitest';
import { f32ToF16 } from '../../src/common/numberFormats.ts';
import { DTYPES } from '../../src/graph/dtype.ts';
import type { Target } from '../../src/graph/lowering.ts';
import { type Program, program } from '../../src/graph/program.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { toOnnx } from '../../src/onnx/model.ts';
import { LocalDevice } from '../../src/runtime/localDevice.ts';
import type { HostTensor } from '../../src/runtime/types.ts';
import { evaluate, type NdArray, ndArray } from './reference.ts';

export type Values = ReadonlyMap<string, NdArray>;

export const device = new LocalDevice({ threads: 1 });

/** Every lowering: the CPU provider has kernels for the operators of all of them. */
export const TARGETS = ['cpu', 'webgpu', 'plain'] as const satisfies readonly Target[];

export function toHost({ dtype, shape, data }: NdArray): HostTensor {
  if (dtype === 'i64') return { dtype, shape, data: BigInt64Array.from(data, BigInt) };
  if (dtype === 'f16') return { dtype, shape, data: f32ToF16(Float32Array.from(data)) };
  return { dtype, shape, data: DTYPES[dtype].array.from(data) };
}

/** Compiles a program once; the result runs it. */
export async function compile(traced: Program, target: Target): Promise<(feeds: Values) => Promise<Values>> {
  const session = await device.createSession(toOnnx(traced, target));
  return async (feeds) => {
    const hosts = Object.fromEntries([...feeds].map(([name, value]) => [name, toHost(value)]));
    const { outputs } = await device.runSession(session, traced, hosts);
    return new Map(Object.entries(outputs).map(([name, x]) => [name, ndArray(x.dtype, x.shape, x.data)]));
  };
}

/** Reference values of named outputs. */
export function referenceOf(outputs: Readonly<Record<string, Tensor>>, feeds: Values): Values {
  const values = evaluate(Object.values(outputs), feeds);
  return new Map(Object.keys(outputs).map((name, i) => [name, values[i]!]));
}

/** Expects a value to be the expected one to f32 accuracy, with its shape and dtype. */
export function expectClose(got: NdArray | undefined, expected: NdArray, what: string): void {
  expect(got?.dtype, what).toBe(expected.dtype);
  expect(got?.shape, what).toEqual(expected.shape);
  for (const [n, value] of expected.data.entries()) {
    const error = Math.abs(got!.data[n]! - value) / (1 + Math.abs(value));
    const same = Object.is(got!.data[n], value);
    expect(same ? 0 : error, `${what}: element ${n} is ${got!.data[n]}, expected ${value}`).toBeLessThan(
      5e-6,
    );
  }
}

/** Runs named outputs by each lowering and expects the reference's values. */
export async function expectLoweringMatches(
  outputs: Readonly<Record<string, Tensor>>,
  feeds: Values,
): Promise<void> {
  const expected = referenceOf(outputs, feeds);
  for (const target of TARGETS) {
    const run = await compile(program('test', outputs), target);
    const got = await run(feeds);
    for (const [name, value] of expected) expectClose(got.get(name), value, `${target} ${name}`);
  }
}
