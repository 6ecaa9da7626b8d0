/** Elementwise ops. Gradients may stay broadcast: the walk in `gradient.ts` sums them back. */
import { broadcastShapes, sameShape } from '../dims.ts';
import { DTYPES, isFloat } from '../dtype.ts';
import {
  add,
  cast,
  divide,
  equal,
  erf,
  exp,
  less,
  multiply,
  negate,
  sigmoid,
  square,
  subtract,
  where,
  withGradient,
} from '../functions.ts';
import type { Lowering } from '../lowering.ts';
import type { OpName, OpRow, OpTable } from '../ops.ts';
import { describe, scalar, type Tensor } from '../tensor.ts';
import { broadcastOperands, likeOperand, operand, requireSameType } from './rules.ts';

/** Lowers to one ONNX operator over the same inputs. */
function to(operator: string) {
  return (context: Lowering, inputs: readonly string[]): string => context.emit(operator, inputs);
}

type Unary = (g: Tensor, x: Tensor, y: Tensor) => Tensor;

/** A row for `y = f(x)`, from its ONNX operator and `f'` as a function of g, x and y. */
function unary<N extends OpName>(op: N, operator: string, derivative: Unary): OpRow<N> {
  return {
    infer: likeOperand(op),
    lower: to(operator),
    gradient: (g, y) => [derivative(g, operand(y.inputs, 0, op), y)],
  };
}

type Binary = (g: Tensor, a: Tensor, b: Tensor, y: Tensor) => readonly [Tensor, Tensor];

function binary<N extends OpName>(op: N, operator: string, derivatives: Binary): OpRow<N> {
  return {
    infer: broadcastOperands(op),
    lower: to(operator),
    gradient: (g, y) => derivatives(g, operand(y.inputs, 0, op), operand(y.inputs, 1, op), y),
  };
}

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);

/** `y = x·s`, s = sigmoid(x): `s + y·(1 − s) = y + s·(1 − y)`. */
function siluDerivative(g: Tensor, x: Tensor, y: Tensor): Tensor {
  const s = sigmoid(x);
  return multiply(g, add(y, multiply(s, subtract(1, y))));
}

/**
 * With u = √(2/π)·(x + 0.044715·x³) and s = sigmoid(2u), `y = x·s` and `dy = s + y·(1 − s)·2u'`.
 * The same curve as `½x(1 + tanh u)`.
 */
function tanhGeluDerivative(g: Tensor, x: Tensor, y: Tensor): Tensor {
  const s = tanhGeluGate(x);
  const slope = add(multiply(square(x), 6 * SQRT_2_OVER_PI * 0.044715), 2 * SQRT_2_OVER_PI);
  return multiply(g, add(s, multiply(multiply(y, subtract(1, s)), slope)));
}

/** The sigmoid of tanh-GELU: `gelu(x) = x·gate(x)`. */
function tanhGeluGate(x: Tensor): Tensor {
  const xx = square(x);
  return sigmoid(multiply(x, add(multiply(xx, 2 * SQRT_2_OVER_PI * 0.044715), 2 * SQRT_2_OVER_PI)));
}

/**
 * `gelu(x, 'tanh')` by its gate, which its derivative needs too: for a backward pass that computes both. Elsewhere the
 * fused kernel of `gelu` is faster.
 */
export function gatedGelu(x: Tensor): Tensor {
  return withGradient(multiply(x, tanhGeluGate(x)), [x], (g, y) => [tanhGeluDerivative(g, x, y)]);
}

/** `Φ(x) + x·φ(x)`. */
function erfGeluDerivative(g: Tensor, x: Tensor): Tensor {
  const cumulative = multiply(add(erf(multiply(x, Math.SQRT1_2)), 1), 0.5);
  const density = multiply(exp(multiply(square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
  return multiply(g, add(cumulative, multiply(x, density)));
}

/** Gelu as ONNX Runtime has it, or from standard operators. */
function lowerGelu(context: Lowering, [x = '']: readonly string[], node: Tensor<'gelu'>): string {
  const { approximate } = node.attributes;
  if (context.target === 'cpu' || context.target === 'webgpu') {
    return approximate === 'none'
      ? context.emit('Gelu', [x], { domain: 'com.microsoft' })
      : context.emit('Gelu', [x], { attributes: { approximate } });
  }
  return context.emit('Gelu', [x], { attributes: { approximate } });
}

export const elementwiseOps: Pick<
  OpTable,
  | 'add'
  | 'subtract'
  | 'multiply'
  | 'divide'
  | 'maximum'
  | 'equal'
  | 'less'
  | 'where'
  | 'negate'
  | 'exp'
  | 'log'
  | 'sqrt'
  | 'tanh'
  | 'sigmoid'
  | 'erf'
  | 'silu'
  | 'gelu'
  | 'cast'
  | 'stopGradient'
  | 'after'
  | 'withGradient'
> = {
  add: binary('add', 'Add', (g) => [g, g]),
  subtract: binary('subtract', 'Sub', (g) => [g, negate(g)]),
  multiply: binary('multiply', 'Mul', (g, a, b) => [multiply(g, b), multiply(g, a)]),
  divide: binary('divide', 'Div', (g, _a, b, y) => [divide(g, b), negate(divide(multiply(g, y), b))]),
  // Equal operands share the gradient.
  maximum: binary('maximum', 'Max', (g, a, b) => {
    const tie = multiply(cast(equal(a, b), g.dtype), 0.5);
    return [
      multiply(g, add(cast(less(b, a), g.dtype), tie)),
      multiply(g, add(cast(less(a, b), g.dtype), tie)),
    ];
  }),
  equal: { infer: broadcastOperands('equal', 'bool'), lower: to('Equal'), gradient: 'none' },
  less: { infer: broadcastOperands('less', 'bool'), lower: to('Less'), gradient: 'none' },
  where: {
    infer: (inputs) => {
      const condition = operand(inputs, 0, 'where');
      const a = operand(inputs, 1, 'where');
      const b = operand(inputs, 2, 'where');
      if (condition.dtype !== 'bool') throw new Error(`where: the condition is ${condition.dtype}, not bool`);
      requireSameType(a, b, 'where');
      const values = broadcastShapes(a.shape, b.shape, 'where');
      return { shape: broadcastShapes(condition.shape, values, 'where'), dtype: a.dtype };
    },
    lower: to('Where'),
    gradient: (g, y) => {
      const condition = operand(y.inputs, 0, 'where');
      return [undefined, where(condition, g, scalar(0, g.dtype)), where(condition, scalar(0, g.dtype), g)];
    },
  },
  negate: unary('negate', 'Neg', (g) => negate(g)),
  exp: unary('exp', 'Exp', (g, _x, y) => multiply(g, y)),
  log: unary('log', 'Log', (g, x) => divide(g, x)),
  sqrt: unary('sqrt', 'Sqrt', (g, _x, y) => divide(multiply(g, 0.5), y)),
  tanh: unary('tanh', 'Tanh', (g, _x, y) => multiply(g, subtract(1, square(y)))),
  sigmoid: unary('sigmoid', 'Sigmoid', (g, _x, y) => multiply(g, multiply(y, subtract(1, y)))),
  erf: unary('erf', 'Erf', (g, x) => multiply(multiply(g, 2 / Math.sqrt(Math.PI)), exp(negate(square(x))))),
  silu: {
    infer: likeOperand('silu'),
    lower: (context, [x = '']) =>
      context.target === 'cpu'
        ? context.emit('QuickGelu', [x], { domain: 'com.microsoft', attributes: { alpha: { float: 1 } } })
        : context.emit('Mul', [x, context.emit('Sigmoid', [x])]),
    gradient: (g, y) => [siluDerivative(g, operand(y.inputs, 0, 'silu'), y)],
  },
  gelu: {
    infer: likeOperand('gelu'),
    lower: lowerGelu,
    gradient: (g, y) => {
      const x = operand(y.inputs, 0, 'gelu');
      return [y.attributes.approximate === 'tanh' ? tanhGeluDerivative(g, x, y) : erfGeluDerivative(g, x)];
    },
  },
  cast: {
    infer: (inputs, { dtype }) => ({ shape: operand(inputs, 0, 'cast').shape, dtype }),
    lower: (context, inputs, node) =>
      context.emit('Cast', inputs, { attributes: { to: DTYPES[node.attributes.dtype].onnx } }),
    gradient: (g, y) => {
      const x = operand(y.inputs, 0, 'cast');
      return [isFloat(x.dtype) && isFloat(y.dtype) ? cast(g, x.dtype) : undefined];
    },
  },
  stopGradient: {
    infer: (inputs) => operand(inputs, 0, 'stopGradient'),
    lower: (_context, [x = '']) => x,
    gradient: 'none',
  },
  // The shape that x already has, read from the other tensor: x is not copied, but must wait for it.
  after: {
    infer: (inputs) => {
      const [x, other] = [operand(inputs, 0, 'after'), operand(inputs, 1, 'after')];
      if (!sameShape(x.shape, other.shape)) {
        throw new Error(`after: expected tensors of one shape, got ${describe(x)} and ${describe(other)}`);
      }
      return x;
    },
    lower: (context, [x = '', other = '']) => context.emit('Reshape', [x, context.emit('Shape', [other])]),
    gradient: (g) => [g, undefined],
  },
  withGradient: {
    infer: (inputs) => operand(inputs, 0, 'withGradient'),
    lower: (_context, [y = '']) => y,
    gradient: (g, node) => [undefined, ...node.attributes.rule(g, node)],
  },
};
