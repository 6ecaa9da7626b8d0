/**
 * A program: named outputs, and the inputs they depend on. What is traced once is lowered for a device by
 * `src/onnx` and run by `src/runtime`. Knows nothing of either.
 */

import { type Dim, evaluateDim, formatShape, type Shape, termsOf } from './dims.ts';
import type { DType } from './dtype.ts';
import { type Tensor, topologicalOrder } from './tensor.ts';

/** Name, element type and shape of something that enters or leaves a program. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: Shape;
}

export interface Program {
  readonly name: string;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: ReadonlyMap<string, Tensor>;
}

/**
 * Collects the inputs of a set of named outputs. Throws when two inputs share a name but not a shape, and when
 * an output has the name of an input.
 */
export function program(name: string, outputs: Readonly<Record<string, Tensor>>): Program {
  const named = new Map(Object.entries(outputs));
  const inputs = new Map<string, TensorSpec>();
  for (const node of topologicalOrder([...named.values()])) {
    if (node.op !== 'input') continue;
    const spec = { name: (node as Tensor<'input'>).attributes.name, dtype: node.dtype, shape: node.shape };
    const known = inputs.get(spec.name);
    if (known !== undefined && formatShape(known.shape) !== formatShape(spec.shape)) {
      throw new Error(
        `program ${name}: two inputs are called ${spec.name}: ${formatShape(known.shape)} and ${formatShape(spec.shape)}`,
      );
    }
    if (named.has(spec.name)) {
      throw new Error(`program ${name}: ${spec.name} is the name of an input and of an output`);
    }
    inputs.set(spec.name, spec);
  }
  return { name, inputs: [...inputs.values()], outputs: named };
}

/** Binds the letters of a shape to the sizes of an actual tensor; throws where a known size differs. */
export function bindLetters(
  spec: TensorSpec,
  shape: readonly number[],
  letters: Map<string, number>,
  where: string,
): void {
  const wrong = (why: string) =>
    new Error(`${where}: ${spec.name} is ${formatShape(shape)}, expected ${formatShape(spec.shape)}${why}`);
  if (shape.length !== spec.shape.length) throw wrong('');
  for (const [i, dim] of spec.shape.entries()) {
    const size = shape[i] ?? 0;
    const letter = plainLetter(dim);
    if (letter === undefined) {
      if (typeof dim === 'number' && dim !== size) throw wrong('');
      continue;
    }
    const bound = letters.get(letter);
    if (bound !== undefined && bound !== size) throw wrong(` with ${letter} = ${bound}`);
    letters.set(letter, size);
  }
}

/** Checks the dimensions that are sums or products of letters, once all inputs have bound theirs. */
export function checkSizes(
  spec: TensorSpec,
  shape: readonly number[],
  letters: ReadonlyMap<string, number>,
  where: string,
): void {
  for (const [i, dim] of spec.shape.entries()) {
    const used = termsOf(dim).flatMap((term) => term.letters);
    if (!used.every((letter) => letters.has(letter)) || evaluateDim(dim, letters) === shape[i]) continue;
    const sizes = used.map((letter) => `${letter} = ${letters.get(letter)}`).join(', ');
    throw new Error(
      `${where}: ${spec.name} is ${formatShape(shape)}, expected ${formatShape(spec.shape)} with ${sizes}`,
    );
  }
}

/** The letter of a dimension that is one letter and nothing else. */
export function plainLetter(dim: Dim): string | undefined {
  if (typeof dim === 'number') return undefined;
  const [term, ...more] = termsOf(dim);
  const alone = more.length === 0 && term?.coefficient === 1 && term.letters.length === 1;
  return alone ? term.letters[0] : undefined;
}
