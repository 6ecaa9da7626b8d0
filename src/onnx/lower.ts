/**
 * Graph → ONNX nodes: walks a program in topological order, lets each op's row emit its operators, shares equal
 * nodes and equal constants, and computes symbolic shapes from the letters of the program's inputs. The result
 * is a plain description; `model.ts` writes it as bytes.
 */
import { type Dim, type Shape, termsOf } from '../graph/dims.ts';
import { DTYPES, type DType, type TypedArray } from '../graph/dtype.ts';
import type { AttributeValue, EmitOptions, Lowering, Target } from '../graph/lowering.ts';
import { OPS, type OpRow } from '../graph/ops.ts';
import { type Program, plainLetter, type TensorSpec } from '../graph/program.ts';
import { type Tensor, topologicalOrder } from '../graph/tensor.ts';
import { executionOrder } from './executionOrder.ts';

export interface OnnxNode {
  readonly operator: string;
  readonly domain: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, AttributeValue>>;
}

/** Bytes of a file in the folder that the session is told. */
export interface ExternalData {
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

export interface OnnxInitializer {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly values: TypedArray | ExternalData;
}

export interface OnnxGraph {
  readonly name: string;
  readonly nodes: readonly OnnxNode[];
  readonly initializers: readonly OnnxInitializer[];
  /** Shapes of values in between: with them ONNX Runtime can plan which buffers share memory. */
  readonly values: readonly TensorSpec[];
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
}

/** Lowers a program for a kind of device. */
export function lowerProgram(program: Program, target: Target): OnnxGraph {
  const context = new Context(target, program.inputs);
  const order = topologicalOrder([...program.outputs.values()]);
  const outputNames = new Map<Tensor, string[]>();
  for (const [name, tensor] of program.outputs) {
    outputNames.set(tensor, [...(outputNames.get(tensor) ?? []), name]);
  }
  context.noteExtras(order);
  for (const node of order) {
    context.lower(node);
    for (const name of outputNames.get(node) ?? []) context.output(name, node);
  }
  const outputs = [...program.outputs].map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
  const { nodes, initializers, values } = context;
  return {
    name: program.name,
    nodes: executionOrder(nodes),
    initializers,
    values: [...values.values()],
    inputs: program.inputs,
    outputs,
  };
}

class Context implements Lowering {
  readonly target: Target;
  readonly #inputs: readonly TensorSpec[];
  readonly nodes: OnnxNode[] = [];
  readonly initializers: OnnxInitializer[] = [];
  readonly values = new Map<string, TensorSpec>();
  readonly #names = new Map<Tensor, string>();
  readonly #shared = new Map<string, readonly string[]>();
  readonly #extras = new Map<string, string>();
  readonly #wanted = new Set<string>();
  #counter = 0;

  constructor(target: Target, inputs: readonly TensorSpec[]) {
    this.target = target;
    this.#inputs = inputs;
  }

  noteExtras(order: readonly Tensor[]): void {
    for (const node of order) {
      const [source] = node.inputs;
      if (node.op === 'extraOutput' && source !== undefined) {
        this.#wanted.add(extraKey(source, (node as Tensor<'extraOutput'>).attributes.index));
      }
    }
  }

  lower(node: Tensor): void {
    const row: OpRow<typeof node.op> = OPS[node.op] as OpRow<typeof node.op>;
    const inputs = node.inputs.map((x) => this.nameOf(x));
    const name = row.lower(this, inputs, node);
    this.#names.set(node, name);
    if (/^%\d+$/.test(name)) this.values.set(name, { name, dtype: node.dtype, shape: node.shape });
  }

  output(name: string, tensor: Tensor): void {
    const attributes = {};
    this.nodes.push({
      operator: 'Identity',
      domain: '',
      inputs: [this.nameOf(tensor)],
      outputs: [name],
      attributes,
    });
  }

  nameOf(tensor: Tensor): string {
    const name = this.#names.get(tensor);
    if (name === undefined) throw new Error(`internal: ${tensor.op} was used before it was lowered`);
    return name;
  }

  emit(operator: string, inputs: readonly string[], options: EmitOptions = {}): string {
    return this.emitAll(operator, inputs, options)[0] ?? '';
  }

  emitAll(operator: string, inputs: readonly string[], options: EmitOptions): readonly string[] {
    const { domain = '', attributes = {}, outputs: wanted = [true] } = options;
    const key = JSON.stringify([operator, domain, inputs, attributes, wanted]);
    const known = this.#shared.get(key);
    if (known !== undefined) return known;
    const outputs = wanted.map((want) => (want ? this.#fresh() : ''));
    this.nodes.push({ operator, domain, inputs, outputs, attributes });
    this.#shared.set(key, outputs);
    return outputs;
  }

  constant(values: TypedArray, dtype: DType, shape: readonly number[]): string {
    const small = values.length <= 16;
    const key = small ? JSON.stringify(['constant', dtype, shape, [...bytesOf(values)]]) : '';
    const known = this.#shared.get(key)?.[0];
    if (known !== undefined) return known;
    const name = `%c${this.initializers.length}`;
    this.initializers.push({ name, dtype, shape, values });
    if (small) this.#shared.set(key, [name]);
    return name;
  }

  shapeVector(shape: Shape): string {
    if (shape.every((dim) => typeof dim === 'number')) {
      return this.#vector(shape.map((dim) => BigInt(dim)));
    }
    return this.emit(
      'Concat',
      shape.map((dim) => this.#dim(dim)),
      { attributes: { axis: 0 } },
    );
  }

  wantsExtra(tensor: Tensor, index: number): boolean {
    return this.#wanted.has(extraKey(tensor, index));
  }

  setExtra(tensor: Tensor, index: number, name: string): void {
    this.#extras.set(extraKey(tensor, index), name);
  }

  getExtra(tensor: Tensor, index: number): string {
    const name = this.#extras.get(extraKey(tensor, index));
    if (name === undefined) throw new Error(`internal: ${tensor.op} gave no extra output ${index}`);
    return name;
  }

  /** A name that nobody gives to an input or an output. */
  #fresh(): string {
    this.#counter += 1;
    return `%${this.#counter}`;
  }

  #vector(values: readonly bigint[]): string {
    return this.constant(BigInt64Array.from(values), 'i64', [values.length]);
  }

  /** A dimension as an i64 vector of length 1. */
  #dim(dim: Dim): string {
    if (typeof dim === 'number') return this.#vector([BigInt(dim)]);
    const terms = termsOf(dim).map(({ coefficient, letters }) => {
      const factors = letters.map((letter) => this.#letter(letter));
      if (coefficient !== 1 || factors.length === 0) factors.push(this.#vector([BigInt(coefficient)]));
      return factors.reduce((a, b) => this.emit('Mul', [a, b]));
    });
    return terms.reduce((a, b) => this.emit('Add', [a, b]));
  }

  /** The size of a letter, read from an input that has it as a dimension of its own. */
  #letter(letter: string): string {
    for (const { name, shape } of this.#inputs) {
      const axis = shape.findIndex((dim) => plainLetter(dim) === letter);
      if (axis < 0) continue;
      const sizes = this.emit('Shape', [name]);
      return this.emit('Gather', [sizes, this.#vector([BigInt(axis)])]);
    }
    throw new Error(`internal: no input of the program has the dimension ${letter}`);
  }
}

const extraKey = (tensor: Tensor, index: number): string => `${tensor.id}:${index}`;

/** Bytes of a typed array, without a copy. */
export function bytesOf(values: TypedArray): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

export const onnxType = (dtype: DType): number => DTYPES[dtype].onnx;
