/**
 * A WebAssembly module of vector code, assembled from lists of instructions: the few that loops over blocks of floats
 * need. Knows nothing of what is computed. Source: WebAssembly 2.0, "Binary Format".
 */

type Bytes = readonly number[];

/** Numbers of value types. */
const TYPES = { i32: 0x7f, f32: 0x7d, v128: 0x7b } as const;
export type ValueType = keyof typeof TYPES;

/** A function without a result. */
export interface WasmFunction {
  readonly name: string;
  readonly parameters: readonly ValueType[];
  /** The first has the number behind the last parameter. */
  readonly locals: readonly ValueType[];
  readonly code: readonly Bytes[];
}

/** LEB128, unsigned. */
function unsigned(value: number): number[] {
  const low = value & 0x7f;
  return value < 0x80 ? [low] : [low | 0x80, ...unsigned(value >>> 7)];
}

/** LEB128, signed; for constants from 0. */
function signed(value: number): number[] {
  const low = value & 0x7f;
  return value < 0x40 ? [low] : [low | 0x80, ...signed(value >>> 7)];
}

const vector = (items: readonly Bytes[]): number[] => [...unsigned(items.length), ...items.flat()];
const sized = (bytes: Bytes): number[] => [...unsigned(bytes.length), ...bytes];
const text = (value: string): number[] => sized([...new TextEncoder().encode(value)]);
const simd = (code: number): Bytes => [0xfd, ...unsigned(code)];

/** Aligned by 4 bytes; the address on the stack plus `offset`. */
const memory = (code: number, offset: number): Bytes => [...simd(code), 2, ...unsigned(offset)];

/** Instructions by what they do; operands come from the stack. */
export const wasm = {
  get: (local: number): Bytes => [0x20, ...unsigned(local)],
  set: (local: number): Bytes => [0x21, ...unsigned(local)],
  integer: (value: number): Bytes => [0x41, ...signed(value)],
  addIntegers: [0x6a] as Bytes,
  load: (offset: number): Bytes => memory(0x00, offset),
  store: (offset: number): Bytes => memory(0x0b, offset),
  splat: simd(0x13),
  sqrt: simd(0xe3),
  add: simd(0xe4),
  subtract: simd(0xe5),
  multiply: simd(0xe6),
  divide: simd(0xe7),
  /** Of floats 0 and 1 as doubles; the others come down by `upper` first. */
  toDoubles: simd(0x5f),
  /** Floats 2 and 3 of the upper of two vectors on the stack, before anything. */
  upper: [...simd(0x0d), ...Array.from({ length: 16 }, (_, i) => 8 + (i % 8))] as Bytes,
  addDoubles: simd(0xf0),
  multiplyDoubles: simd(0xf2),
  /** Runs `body` while local `address`, raised by `step` after each pass, is below local `end`; once at least. */
  passes: (address: number, end: number, step: number, body: readonly Bytes[]): readonly Bytes[] => [
    [0x03, 0x40],
    ...body,
    ...[wasm.get(address), wasm.integer(step), wasm.addIntegers, [0x22, address]],
    ...[wasm.get(end), [0x49], [0x0d, 0], [0x0b]],
  ],
} as const;

const section = (id: number, items: readonly Bytes[]): number[] => [id, ...sized(vector(items))];

/** The bytes of a module with a memory of `pages` 64 KiB, exported as `memory` beside the functions. */
export function wasmModule(functions: readonly WasmFunction[], pages: number): Uint8Array<ArrayBuffer> {
  const types = functions.map(({ parameters }) => [
    0x60,
    ...vector(parameters.map((type) => [TYPES[type]])),
    0,
  ]);
  const exported = functions.map(({ name }, i) => [...text(name), 0, ...unsigned(i)]);
  const bodies = functions.map(({ locals, code }) =>
    sized([...vector(locals.map((type) => [1, TYPES[type]])), ...code.flat(), 0x0b]),
  );
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, types),
    ...section(
      3,
      functions.map((_, i) => unsigned(i)),
    ),
    ...section(5, [[0, ...unsigned(pages)]]),
    ...section(7, [[...text('memory'), 2, 0], ...exported]),
    ...section(10, bodies),
  ]);
}
