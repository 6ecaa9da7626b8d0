/**
 * Reverse mode: one walk from the output back, an op's gradient rule at each node, contributions added up, and
 * what was broadcast summed back, all in this file. The result is more graph, so it is lowered, fused and run
 * like the forward pass. The idea of un-broadcasting once, in the walk, is tinygrad's.
 */
import { broadcastAxes, sameShape } from './dims.ts';
import { isFloat } from './dtype.ts';
import { add, fill, reshape, sum } from './functions.ts';
import { joinPads } from './ops/movement.ts';
import { OPS, type OpRow } from './ops.ts';
import { describe, type Tensor, topologicalOrder } from './tensor.ts';

/** Sums `gradient` over the axes along which `x` was broadcast. */
function unbroadcast(gradient: Tensor, x: Tensor): Tensor {
  if (sameShape(gradient.shape, x.shape)) return gradient;
  return reshape(sum(gradient, broadcastAxes(x.shape, gradient.shape)), x.shape);
}

/** The sum of all contributions to one tensor. */
function accumulate(contributions: readonly Tensor[]): Tensor | undefined {
  const [first, ...rest] = contributions;
  if (first === undefined || rest.length === 0) return first;
  return joinPads(contributions) ?? rest.reduce(add, first);
}

/** Nodes that lie between `targets` and `output`. */
function nodesOnPath(output: Tensor, targets: readonly Tensor[]): ReadonlySet<Tensor> {
  const onPath = new Set<Tensor>(targets);
  for (const node of topologicalOrder([output])) {
    if (node.inputs.some((x) => onPath.has(x))) onPath.add(node);
  }
  return onPath;
}

/**
 * The gradients of a scalar with respect to `targets`, each with its target's shape and dtype.
 * A target that the output does not depend on gets zeros.
 */
export function grad(output: Tensor, targets: readonly Tensor[]): readonly Tensor[] {
  if (output.shape.length !== 0) throw new Error(`grad: expected a scalar, got ${describe(output)}`);
  return walkBack(output, fill(1, [], output.dtype), targets, new Set());
}

/**
 * As `grad`, from the gradient of an output of any shape, and with targets that stand on their own: nothing flows
 * through one of them to what it was made from.
 */
export function pullback(
  output: Tensor,
  outputGradient: Tensor,
  targets: readonly Tensor[],
): readonly Tensor[] {
  return walkBack(output, outputGradient, targets, new Set(targets));
}

/** ends: tensors the walk does not go beyond. */
function walkBack(
  output: Tensor,
  outputGradient: Tensor,
  targets: readonly Tensor[],
  ends: ReadonlySet<Tensor>,
): readonly Tensor[] {
  const onPath = nodesOnPath(output, targets);
  const contributions = new Map<Tensor, Tensor[]>([[output, [outputGradient]]]);
  const gradients = new Map<Tensor, Tensor>();
  for (const node of [...topologicalOrder([output])].reverse()) {
    const gradient = accumulate(contributions.get(node) ?? []);
    contributions.delete(node);
    if (gradient === undefined || !onPath.has(node)) continue;
    gradients.set(node, gradient);
    if (ends.has(node)) continue;
    const row: OpRow<typeof node.op> = OPS[node.op] as OpRow<typeof node.op>;
    if (row.gradient === 'none') continue;
    const towards = row.gradient(gradient, node);
    for (const [i, x] of node.inputs.entries()) {
      const contribution = towards[i];
      if (contribution === undefined || !onPath.has(x) || !isFloat(x.dtype)) continue;
      contributions.set(x, [...(contributions.get(x) ?? []), unbroadcast(contribution, x)]);
    }
  }
  return targets.map((target) => gradients.get(target) ?? fill(0, target.shape, target.dtype));
}
