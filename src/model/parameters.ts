/**
 * The weights of a model as a traced program sees them: inputs that carry the checkpoint's own tensor names,
 * looked up by scope. Knows names and shapes, not where the numbers are.
 */
import { InternalError } from '../common/errors.ts';
import { type DType, input, type Tensor } from '../graph/index.ts';
import { linear } from '../graph/nn.ts';

/** Named weights below a prefix. */
export interface Parameters {
  /** The weight `name`; throws when the model has none. */
  get(name: string): Tensor;
  /** The weight `name`, or `undefined` where the model has none (a bias). */
  find(name: string): Tensor | undefined;
  /**
   * `x` through the Linear `name`: its weight [out, in], and its bias where the model has one. Every product with
   * a weight goes through here, so that another representation of a Linear is one other `Parameters`.
   */
  linear(name: string, x: Tensor): Tensor;
  /** The weights whose names begin with `prefix.`. */
  in(prefix: string): Parameters;
}

/** One graph input for each named shape. */
export function parameterInputs(
  shapes: ReadonlyMap<string, readonly number[]>,
  dtype: DType = 'f32',
): ReadonlyMap<string, Tensor> {
  return new Map([...shapes].map(([name, shape]) => [name, input(name, dtype, shape)]));
}

/** Scoped lookup in a map of weights. */
export function parameters(tensors: ReadonlyMap<string, Tensor>, prefix = ''): Parameters {
  const find = (name: string) => tensors.get(prefix + name);
  const get = (name: string) => {
    const tensor = find(name);
    if (tensor === undefined) throw new InternalError(`the model has no weight ${prefix}${name}`);
    return tensor;
  };
  return {
    find,
    get,
    linear: (name, x) => linear(x, get(leafOf(name, 'weight')), find(leafOf(name, 'bias'))),
    in: (inner) => parameters(tensors, `${prefix}${inner}.`),
  };
}

/** `name.leaf`; a Linear that is its scope itself has the empty name. */
export const leafOf = (name: string, leaf: string): string => (name === '' ? leaf : `${name}.${leaf}`);
