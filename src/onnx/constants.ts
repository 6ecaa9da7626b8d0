/**
 * Programs some of whose inputs are always the same and lie in files: a session maps them into memory, and
 * rearranges those for which its kernels want another order. Knows nothing of sessions.
 */
import path from 'node:path';
import { InternalError } from '../common/errors.ts';
import type { DType } from '../graph/dtype.ts';
import type { Target } from '../graph/lowering.ts';
import type { Program, TensorSpec } from '../graph/program.ts';
import { lowerProgram, type OnnxGraph, type OnnxInitializer } from './lower.ts';
import { encodeModel } from './model.ts';

/** Bytes of a file that a model uses in place. */
export interface FileConstant {
  readonly file: string;
  /** Absolute byte offset. */
  readonly begin: number;
  readonly byteLength: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** By the name of the program's input they stand for. The files of those a program uses lie in one folder. */
export type Constants = Readonly<Record<string, FileConstant>>;

/** What a session is made of. */
export interface ModelWithConstants {
  readonly model: Uint8Array;
  /** Where the constants' files lie; undefined where the program uses none. */
  readonly folder: string | undefined;
  /** What is fed at every run. */
  readonly inputs: readonly TensorSpec[];
}

/** Lowers a program and writes it as an ONNX model in which `constants` are no inputs. */
export function modelWithConstants(
  program: Program,
  target: Target,
  constants: Constants = {},
): ModelWithConstants {
  const { graph, folder } = graphWithConstants(program, target, constants);
  return { model: encodeModel(graph), folder, inputs: graph.inputs };
}

/** Lowers a program to a graph in which `constants` are no inputs. folder: as in `ModelWithConstants`. */
export function graphWithConstants(
  program: Program,
  target: Target,
  constants: Constants,
): { readonly graph: OnnxGraph; readonly folder: string | undefined } {
  const graph = lowerProgram(program, target);
  const inputs = graph.inputs.filter(({ name }) => !(name in constants));
  const used = graph.inputs.filter(({ name }) => name in constants);
  const folders = new Set(used.map(({ name }) => path.dirname(path.resolve(constants[name]?.file ?? ''))));
  if (folders.size > 1) throw new InternalError(`${program.name}: constants in ${folders.size} folders`);
  const external = used.map((spec) => externalInitializer(spec, constants[spec.name] as FileConstant));
  const initializers = [...graph.initializers, ...external];
  return { graph: { ...graph, inputs, initializers }, folder: [...folders][0] };
}

function externalInitializer(spec: TensorSpec, constant: FileConstant): OnnxInitializer {
  const { name } = spec;
  const { file, begin, byteLength, dtype, shape } = constant;
  if (dtype !== spec.dtype || shape.join() !== spec.shape.join()) {
    throw new InternalError(`the constant ${name} is ${dtype} [${shape}], not ${spec.dtype} [${spec.shape}]`);
  }
  return { name, dtype, shape, values: { location: path.basename(file), offset: begin, length: byteLength } };
}
