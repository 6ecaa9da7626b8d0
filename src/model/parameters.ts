/**
 * The weights of a model as a traced program sees them: inputs that carry the checkpoint's own tensor names,
 * looked up by scope. Knows names and shapes, not where the numbers are.
 */
import { InternalError } from '../common/errors.ts';
import { type DType, input, type Tensor } from '../graph/index.ts';

/** Named weights below a prefix. */
export interface Parameters {
  /** The weight `name`; throws when the model has none. */
  get(name: string): Tensor;
  /** The weight `name`, or `undefined` where the model has none (a bias). */
  find(name: string): Tensor | undefined;
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
  return {
    find,
    get: (name) => {
      const tensor = find(name);
      if (tensor === undefined) throw new InternalError(`the model has no weight ${prefix}${name}`);
      return tensor;
    },
    in: (inner) => parameters(tensors, `${prefix}${inner}.`),
  };
}
