/**
 * The few in-place updates of weights that a graph cannot do, because ONNX Runtime never writes its inputs: norms of
 * gradients, AdamW. Plain loops over typed arrays; AdamW's blocks go through the memory of a small WebAssembly module, which
 * takes four floats at a time.
 */
import type { AdamWArrays } from './adamWThread.ts';
import type { AdamWOptions } from './types.ts';
import { type ValueType, type WasmFunction, wasm, wasmModule } from './wasmModule.ts';

/** Floats of each array that are in the module's memory at once: all four stay in a core's own cache. */
const BLOCK = 16_384;
const BLOCK_BYTES = 4 * BLOCK;
const PAGE_BYTES = 65_536;
/** Where the blocks of an update begin. */
const PLACES = { weight: 0, gradient: BLOCK_BYTES, first: 2 * BLOCK_BYTES, second: 3 * BLOCK_BYTES };

/** Where sums of squares are left. */
const SUMS = PLACES.gradient;

const FACTORS = ['scale', 'beta1', 'rest1', 'beta2', 'rest2', 'decay', 'stepSize', 'correction', 'epsilon'];

/** `adamW(end, …factors)`: updates the blocks' bytes up to `end`, a multiple of 16. */
function adamWCode(): WasmFunction {
  const end = 0;
  const address = 1 + FACTORS.length;
  const factor = (name: string) => wasm.get(address + 1 + FACTORS.indexOf(name));
  const [gradient, first, second] = [0, 1, 2].map((i) => address + 1 + FACTORS.length + i) as [
    number,
    number,
    number,
  ];
  const at = (place: number) => [wasm.get(address), wasm.load(place)];
  const store = (place: number, ...value: (readonly number[])[]) => [
    wasm.get(address),
    ...value,
    wasm.store(place),
  ];
  const { add, subtract, multiply, divide, sqrt } = wasm;
  const get = wasm.get;
  const update = [
    ...[...at(PLACES.gradient), factor('scale'), multiply, wasm.set(gradient)],
    ...[...at(PLACES.first), factor('beta1'), multiply],
    ...[get(gradient), factor('rest1'), multiply, add, wasm.set(first)],
    ...[...at(PLACES.second), factor('beta2'), multiply],
    ...[get(gradient), factor('rest2'), multiply, get(gradient), multiply, add, wasm.set(second)],
    ...store(PLACES.first, get(first)),
    ...store(PLACES.second, get(second)),
    ...store(
      PLACES.weight,
      ...[...at(PLACES.weight), factor('decay'), multiply],
      ...[get(first), factor('stepSize'), multiply],
      ...[get(second), sqrt, factor('correction'), multiply, factor('epsilon'), add],
      ...[divide, subtract],
    ),
  ];
  const splat = FACTORS.flatMap((_, i) => [get(1 + i), wasm.splat, wasm.set(address + 1 + i)]);
  return {
    name: 'adamW',
    parameters: ['i32', ...FACTORS.map((): ValueType => 'f32')],
    locals: ['i32', ...[...FACTORS, gradient, first, second].map((): ValueType => 'v128')],
    code: [...splat, ...wasm.passes(address, end, 16, update)],
  };
}

/** Floats that one pass of `squares` reads. */
const SQUARED = 8;

/** `squares(end)`: leaves Σx² over the first block's bytes up to `end`, a multiple of 4·`SQUARED`, as two f64 to add. */
function squaresCode(): WasmFunction {
  const [end, address, values, ...sums] = [0, 1, 2, 3, 4, 5, 6];
  const { get, set } = wasm;
  const sumOfTwo = (sum: number) => [
    ...[wasm.toDoubles, set(values), get(values), get(values), wasm.multiplyDoubles],
    ...[get(sum), wasm.addDoubles, set(sum)],
  ];
  const four = (offset: number, low: number, high: number) => [
    ...[get(address), wasm.load(offset), ...sumOfTwo(low)],
    ...[get(address), wasm.load(offset), get(address), wasm.load(offset), wasm.upper, ...sumOfTwo(high)],
  ];
  const [a, b, c, d] = sums as [number, number, number, number];
  return {
    name: 'squares',
    parameters: ['i32'],
    locals: ['i32', 'v128', 'v128', 'v128', 'v128', 'v128'],
    code: [
      ...wasm.passes(address, end, 4 * SQUARED, [...four(0, a, b), ...four(16, c, d)]),
      ...[wasm.integer(SUMS), get(a), get(b), wasm.addDoubles, get(c), get(d), wasm.addDoubles],
      ...[wasm.addDoubles, wasm.store(0)],
    ],
  };
}

/** What of WebAssembly is used; it is no part of the language's own types. */
const { WebAssembly: engine } = globalThis as unknown as {
  readonly WebAssembly: {
    readonly Module: new (bytes: Uint8Array<ArrayBuffer>) => object;
    readonly Instance: new (module: object) => { readonly exports: Readonly<Record<string, unknown>> };
  };
};

interface Kernels {
  /** The module's memory, as floats. */
  readonly floats: Float32Array;
  /** Where `squares` leaves its two sums. */
  readonly sums: Float64Array;
  readonly squares: (end: number) => void;
  readonly adamW: (end: number, ...factors: number[]) => void;
}

let loaded: Kernels | undefined;

/** The module of this thread, made when it is first wanted. */
function kernels(): Kernels {
  if (loaded !== undefined) return loaded;
  const bytes = wasmModule([adamWCode(), squaresCode()], (4 * BLOCK_BYTES) / PAGE_BYTES);
  const { exports } = new engine.Instance(new engine.Module(bytes));
  const { buffer } = exports.memory as { readonly buffer: ArrayBuffer };
  const { adamW, squares } = exports as unknown as Pick<Kernels, 'adamW' | 'squares'>;
  loaded = { adamW, squares, floats: new Float32Array(buffer), sums: new Float64Array(buffer, SUMS, 2) };
  return loaded;
}

/** Bytes of `count` floats and of what is missing to a whole vector, which is computed and not used. */
const vectorBytes = (count: number): number => 16 * Math.ceil(count / 4);

/** `Σx²`, summed in f64. */
export function sumOfSquares(x: Float32Array): number {
  const { floats, sums, squares } = kernels();
  let total = 0;
  for (let begin = 0; begin < x.length; begin += BLOCK) {
    const block = x.subarray(begin, begin + BLOCK);
    const padded = SQUARED * Math.ceil(block.length / SQUARED);
    floats.set(block);
    floats.fill(0, block.length, padded);
    squares(4 * padded);
    total += (sums[0] as number) + (sums[1] as number);
  }
  return total;
}

/** `into += from`, in place. */
export function accumulate(into: Float32Array, from: Float32Array): void {
  if (into.length !== from.length) throw new Error(`internal: ${from.length} values added to ${into.length}`);
  for (let i = 0; i < into.length; i++) into[i] = (into[i] as number) + (from[i] as number);
}

/** One AdamW step (decoupled weight decay) on one tensor, in place, in f32. Source: arXiv 1711.05101. */
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
  const factors = [gradientScale, beta1, 1 - beta1, beta2, 1 - beta2, decay, stepSize, correction, epsilon];
  const { floats, adamW: update } = kernels();
  const arrays = { weight, gradient, first, second };
  for (let begin = 0; begin < weight.length; begin += BLOCK) {
    const end = Math.min(begin + BLOCK, weight.length);
    for (const [name, place] of Object.entries(PLACES)) {
      floats.set(arrays[name as keyof typeof PLACES].subarray(begin, end), place / 4);
    }
    update(vectorBytes(end - begin), ...factors);
    for (const name of ['weight', 'first', 'second'] as const) {
      const from = PLACES[name] / 4;
      arrays[name].set(floats.subarray(from, from + end - begin), begin);
    }
  }
}

/** The memory of all arrays, to be moved with a message. */
export function buffersOf(arrays: readonly AdamWArrays[]): ArrayBuffer[] {
  return arrays.flatMap(({ weight, gradient, first, second }) =>
    [weight, gradient, first, second].map(({ buffer }) => buffer as ArrayBuffer),
  );
}
