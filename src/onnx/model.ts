/**
 * An ONNX graph → the bytes of a `ModelProto`. Field numbers are those of onnx.proto3; only what we emit is
 * written.
 */
import type { Dim } from '../graph/dims.ts';
import type { AttributeValue, Target } from '../graph/lowering.ts';
import type { Program, TensorSpec } from '../graph/program.ts';
import {
  bytesOf,
  type ExternalData,
  lowerProgram,
  type OnnxGraph,
  type OnnxInitializer,
  type OnnxNode,
  onnxType,
} from './lower.ts';
import { MessageWriter } from './protobuf.ts';

const IR_VERSION = 10;
const OPSET = 21;

const ATTRIBUTE_TYPE = { float: 1, int: 2, string: 3, ints: 7 } as const;
/** `TensorProto.DataLocation.EXTERNAL`. */
const EXTERNAL = 1;

/** Lowers a program and writes it as an ONNX model. */
export function toOnnx(program: Program, target: Target): Uint8Array {
  return encodeModel(lowerProgram(program, target));
}

export function encodeModel(graph: OnnxGraph): Uint8Array {
  const model = new MessageWriter()
    .int(1, IR_VERSION)
    .string(2, 'fusion-vl')
    .message(7, (g) => writeGraph(g, graph))
    .message(8, (opset) => opset.string(1, '').int(2, OPSET));
  for (const domain of new Set(graph.nodes.map((node) => node.domain))) {
    if (domain !== '') model.message(8, (opset) => opset.string(1, domain).int(2, 1));
  }
  return model.finish();
}

function writeGraph(g: MessageWriter, graph: OnnxGraph): void {
  for (const node of graph.nodes) g.message(1, (n) => writeNode(n, node));
  g.string(2, graph.name);
  for (const initializer of graph.initializers) g.message(5, (t) => writeInitializer(t, initializer));
  for (const spec of graph.inputs) g.message(11, (v) => writeValueInfo(v, spec));
  for (const spec of graph.outputs) g.message(12, (v) => writeValueInfo(v, spec));
  for (const spec of graph.values) g.message(13, (v) => writeValueInfo(v, spec));
}

function writeNode(n: MessageWriter, node: OnnxNode): void {
  for (const name of node.inputs) n.string(1, name);
  for (const name of node.outputs) n.string(2, name);
  n.string(4, node.operator);
  for (const [name, value] of Object.entries(node.attributes)) {
    n.message(5, (a) => writeAttribute(a.string(1, name), value));
  }
  if (node.domain !== '') n.string(7, node.domain);
}

function writeAttribute(a: MessageWriter, value: AttributeValue): void {
  if (typeof value === 'number') a.int(3, value).int(20, ATTRIBUTE_TYPE.int);
  else if (typeof value === 'string') a.string(4, value).int(20, ATTRIBUTE_TYPE.string);
  else if ('float' in value) a.float(2, value.float).int(20, ATTRIBUTE_TYPE.float);
  else {
    for (const item of value) a.int(8, item);
    a.int(20, ATTRIBUTE_TYPE.ints);
  }
}

function writeInitializer(t: MessageWriter, { name, dtype, shape, values }: OnnxInitializer): void {
  for (const dim of shape) t.int(1, dim);
  t.int(2, onnxType(dtype)).string(8, name);
  if ('location' in values) writeExternalData(t, values);
  else t.bytes(9, bytesOf(values));
}

function writeExternalData(t: MessageWriter, { location, offset, length }: ExternalData): void {
  for (const [key, value] of Object.entries({ location, offset: `${offset}`, length: `${length}` })) {
    t.message(13, (entry) => entry.string(1, key).string(2, value));
  }
  t.int(14, EXTERNAL);
}

function writeValueInfo(v: MessageWriter, { name, dtype, shape }: TensorSpec): void {
  v.string(1, name).message(2, (type) =>
    type.message(1, (tensor) => {
      tensor.int(1, onnxType(dtype));
      tensor.message(2, (dims) => {
        for (const dim of shape) dims.message(1, (d) => writeDim(d, dim));
      });
    }),
  );
}

function writeDim(d: MessageWriter, dim: Dim): void {
  if (typeof dim === 'number') d.int(1, dim);
  else d.string(2, dim);
}
