/**
 * The order in which ONNX Runtime is to run the nodes of a graph, so that little memory is held at once.
 *
 * It runs leaf by leaf (a leaf: a node that no other node reads), the last leaf first, each after what it needs
 * and nothing has computed yet. In a training program the gradients of the weights are leaves. Were the one that
 * is known last also run first, the whole backward pass would run before any other gradient, and everything that
 * those need would be held until the end: so leaves stand behind all other nodes, and the sooner a leaf's inputs
 * are known, the later it stands.
 */
import type { OnnxNode } from './lower.ts';

/** The same nodes, still each behind what it reads. Nodes that rename an output (Identity) count as no readers. */
export function executionOrder(nodes: readonly OnnxNode[]): readonly OnnxNode[] {
  const renames = nodes.filter(isRename);
  const others = nodes.filter((node) => !isRename(node));
  const read = new Set(others.flatMap(({ inputs }) => inputs));
  const isLeaf = ({ outputs }: OnnxNode) => !outputs.some((name) => read.has(name));
  const place = new Map(others.flatMap(({ outputs }, i) => outputs.map((name) => [name, i] as const)));
  const known = ({ inputs }: OnnxNode) => Math.max(-1, ...inputs.map((name) => place.get(name) ?? -1));
  const leaves = others.filter(isLeaf).sort((a, b) => known(b) - known(a));
  return [...others.filter((node) => !isLeaf(node)), ...leaves, ...renames.reverse()];
}

const isRename = ({ operator }: OnnxNode): boolean => operator === 'Identity';
