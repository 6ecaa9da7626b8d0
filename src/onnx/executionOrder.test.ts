/** The order of nodes, judged by what is held while a graph runs as ONNX Runtime runs it. */
import { describe, expect, it } from 'vitest';
import * as f from '../graph/functions.ts';
import { grad } from '../graph/gradient.ts';
import { program } from '../graph/program.ts';
import { input, type Tensor } from '../graph/tensor.ts';
import { executionOrder } from './executionOrder.ts';
import { lowerProgram, type OnnxNode } from './lower.ts';

/** ONNX Runtime's order: from the last leaf to the first, what a node reads before it, depth first. */
function runOrder(nodes: readonly OnnxNode[]): readonly OnnxNode[] {
  const maker = new Map(nodes.flatMap((node) => node.outputs.map((name) => [name, node] as const)));
  const read = new Set(nodes.flatMap(({ inputs }) => inputs));
  const done = new Set<OnnxNode>();
  const order: OnnxNode[] = [];
  const visit = (node: OnnxNode) => {
    if (done.has(node)) return;
    done.add(node);
    for (const name of node.inputs) {
      const source = maker.get(name);
      if (source !== undefined) visit(source);
    }
    order.push(node);
  };
  for (const node of [...nodes].reverse()) if (!node.outputs.some((name) => read.has(name))) visit(node);
  return order;
}

/** The most values held at once between nodes; outputs of the program are not counted. */
function mostHeld(order: readonly OnnxNode[]): number {
  const lastRead = new Map(order.flatMap(({ inputs }, i) => inputs.map((name) => [name, i] as const)));
  let [held, most] = [0, 0];
  for (const [i, { inputs, outputs }] of order.entries()) {
    held += outputs.filter((name) => lastRead.has(name)).length;
    most = Math.max(most, held);
    const over = new Set(inputs.filter((name) => name.startsWith('%') && !name.startsWith('%c')));
    held -= [...over].filter((name) => lastRead.get(name) === i).length;
  }
  return most;
}

/** Nodes of the gradients of `depth` layers, without the names of outputs. */
function layers(depth: number): readonly OnnxNode[] {
  const weights = Array.from({ length: depth }, (_, i) => input(`w${i}`, 'f32', [8, 8]));
  const x = input('x', 'f32', [4, 8]);
  const y = weights.reduce<Tensor>((h, w) => f.sigmoid(f.matMul(h, w)), x);
  const gradients = grad(f.sum(y), weights);
  const outputs = Object.fromEntries(gradients.map((g, i) => [`g${i}`, g]));
  return lowerProgram(program('layers', outputs), 'cpu').nodes.filter((n) => n.operator !== 'Identity');
}

describe('executionOrder', () => {
  it('holds one value a layer, and not what waits for the gradients of all', () => {
    const nodes = layers(12);
    const worst = [...nodes].sort((a, b) => leafLast(nodes, a) - leafLast(nodes, b));
    expect(mostHeld(runOrder(executionOrder(nodes)))).toBeLessThanOrEqual(12 + 6);
    expect(mostHeld(runOrder(worst))).toBeGreaterThan(12 + 6);
  });

  it('keeps every node behind what it reads', () => {
    const known = new Set<string>();
    for (const { inputs, outputs } of executionOrder(layers(5))) {
      for (const name of inputs) if (/^%\d/.test(name)) expect(known).toContain(name);
      for (const name of outputs) known.add(name);
    }
    expect(known.size).toBeGreaterThan(10);
  });
});

/** Leaves behind all others, in the order in which they were emitted. */
function leafLast(nodes: readonly OnnxNode[], node: OnnxNode): number {
  const leaf = !nodes.some(({ inputs }) => node.outputs.some((name) => inputs.includes(name)));
  const place = nodes.indexOf(node);
  const reads = Math.max(...node.inputs.map((name) => nodes.findIndex((n) => n.outputs.includes(name))));
  return leaf ? nodes.length + reads : place;
}
