/**
 * Recomputing instead of keeping: a function whose intermediates are computed a second time in the backward pass, so
 * that only its input is held between the passes. Source: Chen et al. 2016, "Training deep nets with sublinear
 * memory cost".
 */
import { sameShape } from './dims.ts';
import { isFloat } from './dtype.ts';
import { after, withGradient } from './functions.ts';
import { pullback } from './gradient.ts';
import { describe, type Tensor } from './tensor.ts';

/** Applies a function of one tensor; `checkpointed`, or plainly. */
export type RunLayer = (layer: (x: Tensor) => Tensor, x: Tensor) => Tensor;

export const runDirectly: RunLayer = (layer, x) => layer(x);

/**
 * `layer(x)`, of x's shape, whose backward pass computes `layer` again. Gradients flow to `x` and to everything else
 * that `layer` uses; it must trace the same operations each time.
 */
export const checkpointed: RunLayer = (layer, x) => {
  const y = layer(x);
  if (!sameShape(y.shape, x.shape)) {
    throw new Error(`checkpointed: expected a result like ${describe(x)}, got ${describe(y)}`);
  }
  const others = outsideOf(y, x);
  return withGradient(y, [x, ...others], (gradient) => {
    const again = after(x, gradient);
    return pullback(layer(again), gradient, [again, ...others]);
  });
};

/**
 * `layer(activation(x))`, whose backward pass computes the activation again once it is known what flows towards it: x
 * is held between the passes, not what the activation makes of it, which costs little to compute and is as large.
 * `layer` is given one tensor and uses its value for its weights' gradients, as a Linear does. again: the activation in
 * the backward pass, where another way to compute it costs less beside its derivative.
 */
export function recomputedActivation(
  activation: (x: Tensor) => Tensor,
  layer: (x: Tensor) => Tensor,
  x: Tensor,
  again: (x: Tensor) => Tensor = activation,
): Tensor {
  const active = activation(x);
  const y = layer(active);
  const others = outsideOf(y, x);
  return withGradient(y, [x, ...others], (gradient) => {
    const [towards] = pullback(y, gradient, [active]);
    const later = after(x, towards as Tensor);
    return pullback(layer(again(later)), gradient, [later, ...others]);
  });
}

/** What `y` is made from besides `x`: the float tensors that are older than x or came from nowhere. */
function outsideOf(y: Tensor, x: Tensor): readonly Tensor[] {
  const seen = new Set<Tensor>([x]);
  const found: Tensor[] = [];
  const stack = [y];
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    if (node.id > x.id && node.inputs.length > 0) stack.push(...node.inputs);
    else if (isFloat(node.dtype) && node.op !== 'constant') found.push(node);
  }
  return found;
}
