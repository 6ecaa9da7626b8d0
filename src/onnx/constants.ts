/**
 * Programs whose weights lie in files, and two programs in one model: what a session holds once for both. Knows
 * nothing of sessions.
 *
 * ONNX Runtime rearranges constant weights for its kernels when a session is made, and keeps equal ones once: two
 * programs that are the branches of one `If` share them, two sessions do not.
 */
import path from 'node:path';
import { InternalError } from '../common/errors.ts';
import type { Dim } from '../graph/dims.ts';
import { DTYPES, type DType, type TypedArray } from '../graph/dtype.ts';
import type { Target } from '../graph/lowering.ts';
import { type Program, plainLetter, type TensorSpec } from '../graph/program.ts';
import type { Tensor } from '../graph/tensor.ts';
import { lowerProgram, type OnnxGraph, type OnnxNode } from './lower.ts';
import { encodeModel } from './model.ts';

/** Bytes of a file that a model uses in place: mapped into memory, not read. */
export interface FileConstant {
  readonly file: string;
  /** Absolute byte offset. */
  readonly begin: number;
  readonly byteLength: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** By the name of the program's input they stand for. Their files lie in one folder. */
export type Constants = Readonly<Record<string, FileConstant>>;

/** A value that is fed at every run. */
export interface FixedFeed {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TypedArray;
}

/** How a program is called in the session that holds it. */
export interface Entry {
  readonly name: string;
  /** Without the constants. */
  readonly inputs: readonly TensorSpec[];
  /** Stands before the names of the inputs in the session. */
  readonly prefix: string;
  /** What else the session wants, by its names there. */
  readonly fixed: Readonly<Record<string, FixedFeed>>;
}

export interface ModelWithConstants {
  readonly model: Uint8Array;
  /** Whether the model is one of several that share constants among them. */
  readonly isStage: boolean;
  /** Where the constants' files lie; undefined without constants. */
  readonly folder: string | undefined;
  /** One for each program, in their order. */
  readonly entries: readonly Entry[];
}

const CHOICE = 'first';

/** One program, or two with the same names and dtypes of outputs, as one model. */
export function modelOf(
  programs: readonly [Program] | readonly [Program, Program],
  target: Target,
  constants: Constants = {},
): ModelWithConstants {
  const used = programs.flatMap(({ inputs }) => inputs.filter(({ name }) => name in constants));
  const folder = folderOf(used.map(({ name }) => constants[name] as FileConstant));
  const isStage = Object.keys(constants).length > 0;
  const [first, second] = programs;
  if (second === undefined) {
    const graph = lowerProgram(first, target);
    const inputs = graph.inputs.filter(({ name }) => !(name in constants));
    const model = encodeModel({
      ...graph,
      inputs,
      initializers: [...graph.initializers, ...external(used, constants)],
    });
    return { model, isStage, folder, entries: [{ name: first.name, inputs, prefix: '', fixed: {} }] };
  }
  const graph = eitherGraph([first, second], target, constants);
  const initializers = external(used, constants);
  return {
    model: encodeModel({ ...graph, initializers }),
    isStage,
    folder,
    entries: entriesOf([first, second], constants),
  };
}

function folderOf(constants: readonly FileConstant[]): string | undefined {
  const folders = new Set(constants.map(({ file }) => path.dirname(path.resolve(file))));
  if (folders.size > 1) throw new InternalError(`constants in ${folders.size} folders`);
  return [...folders][0];
}

function external(used: readonly TensorSpec[], constants: Constants) {
  const specs = new Map(used.map((spec) => [spec.name, spec]));
  return [...specs.values()].map(({ name, dtype, shape }) => {
    const { file, begin, byteLength, ...constant } = constants[name] as FileConstant;
    if (constant.dtype !== dtype || constant.shape.join() !== shape.join()) {
      throw new InternalError(
        `the constant ${name} is ${constant.dtype} [${constant.shape}], not ${dtype} [${shape}]`,
      );
    }
    const values = { location: path.basename(file), offset: begin, length: byteLength };
    return { name, ...constant, values };
  });
}

const prefixOf = (index: number): string => `${index}/`;

/** A graph that computes one of two programs, by a condition. */
function eitherGraph(programs: readonly [Program, Program], target: Target, constants: Constants): OnnxGraph {
  const [a, b] = programs.map((program, i) => branch(lowerProgram(program, target), prefixOf(i), constants));
  const [first, second] = programs;
  const names = [...first.outputs.keys()];
  if (names.join() !== [...second.outputs.keys()].join()) {
    throw new InternalError(`${first.name} and ${second.name} have different outputs`);
  }
  const node: OnnxNode = {
    operator: 'If',
    domain: '',
    inputs: [CHOICE],
    outputs: names,
    attributes: {},
    branches: [a as OnnxGraph, b as OnnxGraph],
  };
  const outputs = names.map((name) => {
    const [mine, other] = [first.outputs.get(name) as Tensor, second.outputs.get(name) as Tensor];
    const shape = mine.shape.map((dim, i): Dim => (dim === other.shape[i] ? dim : `${name}_${i}`));
    return { name, dtype: mine.dtype, shape };
  });
  const inputs = [
    { name: CHOICE, dtype: 'bool', shape: [] } as const,
    ...programs.flatMap((program, i) =>
      ownInputs(program, constants).map((spec) => ({ ...spec, name: prefixOf(i) + spec.name })),
    ),
  ];
  return {
    name: `${first.name} or ${second.name}`,
    nodes: [node],
    initializers: [],
    values: [],
    inputs,
    outputs,
  };
}

/** A graph inside another one: its inputs are the outer graph's, and none of its names is. */
function branch(graph: OnnxGraph, prefix: string, constants: Constants): OnnxGraph {
  const outer = new Set(graph.inputs.map(({ name }) => name).filter((name) => !(name in constants)));
  const outputs = new Set(graph.outputs.map(({ name }) => name));
  const renamed = (name: string) => (outer.has(name) || outputs.has(name) ? prefix + name : name);
  return {
    ...graph,
    nodes: graph.nodes.map((node) => ({
      ...node,
      inputs: node.inputs.map(renamed),
      outputs: node.outputs.map(renamed),
    })),
    inputs: [],
    outputs: graph.outputs.map((spec) => ({ ...spec, name: prefix + spec.name })),
  };
}

const ownInputs = ({ inputs }: Program, constants: Constants): readonly TensorSpec[] =>
  inputs.filter(({ name }) => !(name in constants));

/** Each program is called with its own inputs, and as little as possible of the other's. */
function entriesOf(programs: readonly [Program, Program], constants: Constants): readonly Entry[] {
  return programs.map((program, i) => {
    const other = programs[1 - i] as Program;
    const unused = ownInputs(other, constants).map(({ name, dtype, shape }) => {
      const dims = shape.map((dim) => (plainLetter(dim) === undefined ? Number(dim) || 0 : 0));
      const size = dims.reduce((x, y) => x * y, 1);
      return [prefixOf(1 - i) + name, { dtype, shape: dims, data: new DTYPES[dtype].array(size) }] as const;
    });
    const choice = { dtype: 'bool', shape: [], data: Uint8Array.of(i === 0 ? 1 : 0) } as const;
    const fixed = { [CHOICE]: choice, ...Object.fromEntries(unused) };
    return { name: program.name, inputs: ownInputs(program, constants), prefix: prefixOf(i), fixed };
  });
}
