/**
 * Softmax and the two norms, over the last axis. ONNX Runtime has a fused kernel for each, which also gives
 * the inverse deviation that the gradient needs.
 */
import type { Dim } from '../dims.ts';
import {
  dimOf,
  exp,
  extraOutput,
  fill,
  layerNorm,
  matMul,
  multiply,
  reshape,
  rmsNorm,
  subtract,
  sum,
} from '../functions.ts';
import type { Lowering } from '../lowering.ts';
import type { OpTable } from '../ops.ts';
import { describe, type Tensor } from '../tensor.ts';
import { likeOperand, operand, requireFloat, requireVector } from './rules.ts';
import { floatConstant } from './source.ts';

/** Which further output of the ONNX operator is the inverse deviation. */
const INVERSE_DEVIATION = { layerNorm: 2, rmsNorm: 1 } as const;

const leadingAxes = (x: Tensor): readonly number[] => x.shape.slice(0, -1).map((_, i) => i);

function width(x: Tensor): number {
  const dim: Dim = dimOf(x, -1);
  if (typeof dim !== 'number')
    throw new Error(`norm: the last axis of ${describe(x)} must have a known size`);
  return dim;
}

/** `Σ_d x[…, d]·v[d] / D`, kept as a column: a product, which reads x once. */
function weightedMean(x: Tensor, vector: Tensor): Tensor {
  const rows = x.shape.length === 1 ? reshape(x, [1, dimOf(x, 0)]) : x;
  return matMul(rows, reshape(vector, [dimOf(vector, 0), 1]), { scale: 1 / width(x) });
}

function isFilled(x: Tensor, value: number): boolean {
  return x.op === 'fill' && (x as Tensor<'fill'>).attributes.value === value;
}

/** `g·w`; g itself where w is ones. */
const weighted = (g: Tensor, weight: Tensor): Tensor => (isFilled(weight, 1) ? g : multiply(g, weight));

/** The gradients of `y = x̂·w + b`, with x̂ = (x − mean)·r. */
function layerNormGradient(g: Tensor, y: Tensor<'layerNorm'>): readonly Tensor[] {
  const x = operand(y.inputs, 0, 'layerNorm');
  const weight = operand(y.inputs, 1, 'layerNorm');
  const bias = operand(y.inputs, 2, 'layerNorm');
  const { epsilon } = y.attributes;
  const isBare = isFilled(weight, 1) && isFilled(bias, 0);
  const normalized = isBare
    ? y
    : layerNorm(x, fill(1, weight.shape, x.dtype), fill(0, weight.shape, x.dtype), epsilon);
  const r = extraOutput(y, INVERSE_DEVIATION.layerNorm);
  const product = multiply(g, normalized);
  const centred = subtract(weighted(g, weight), weightedMean(g, weight));
  const towardsX = multiply(r, subtract(centred, multiply(normalized, weightedMean(product, weight))));
  return [towardsX, sum(product, leadingAxes(x)), sum(g, leadingAxes(x))];
}

/** The gradients of `y = x̂·w`, with x̂ = x·r. */
function rmsNormGradient(g: Tensor, y: Tensor<'rmsNorm'>): readonly Tensor[] {
  const x = operand(y.inputs, 0, 'rmsNorm');
  const weight = operand(y.inputs, 1, 'rmsNorm');
  const r = extraOutput(y, INVERSE_DEVIATION.rmsNorm);
  const normalized = isFilled(weight, 1)
    ? y
    : rmsNorm(x, fill(1, weight.shape, x.dtype), y.attributes.epsilon);
  const product = multiply(g, normalized);
  const towardsX = multiply(
    r,
    subtract(weighted(g, weight), multiply(normalized, weightedMean(product, weight))),
  );
  return [towardsX, sum(product, leadingAxes(x))];
}

function lowerLayerNorm(context: Lowering, inputs: readonly string[], node: Tensor<'layerNorm'>): string {
  const wanted = context.wantsExtra(node, INVERSE_DEVIATION.layerNorm);
  const [y = '', , inverse = ''] = context.emitAll('LayerNormalization', inputs, {
    attributes: { axis: -1, epsilon: { float: node.attributes.epsilon } },
    outputs: wanted ? [true, false, true] : [true],
  });
  if (wanted) context.setExtra(node, INVERSE_DEVIATION.layerNorm, inverse);
  return y;
}

function lowerRmsNorm(context: Lowering, inputs: readonly string[], node: Tensor<'rmsNorm'>): string {
  const wanted = context.wantsExtra(node, INVERSE_DEVIATION.rmsNorm);
  // WebGPU's kernel gives a wrong inverse deviation.
  const composed = context.target !== 'cpu' && (context.target !== 'webgpu' || wanted);
  if (composed) return lowerPlainRmsNorm(context, inputs, node, wanted);
  const [y = '', inverse = ''] = context.emitAll('SimplifiedLayerNormalization', inputs, {
    attributes: { axis: -1, epsilon: { float: node.attributes.epsilon } },
    outputs: wanted ? [true, true] : [true],
  });
  if (wanted) context.setExtra(node, INVERSE_DEVIATION.rmsNorm, inverse);
  return y;
}

function lowerPlainRmsNorm(
  context: Lowering,
  [x = '', weight = '']: readonly string[],
  node: Tensor<'rmsNorm'>,
  wanted: boolean,
): string {
  const axes = context.constant(BigInt64Array.of(-1n), 'i64', [1]);
  const power = context.emit('ReduceMean', [context.emit('Mul', [x, x]), axes], {
    attributes: { keepdims: 1 },
  });
  const epsilon = floatConstant(context, node.attributes.epsilon, node.dtype);
  const inverse = context.emit('Reciprocal', [context.emit('Sqrt', [context.emit('Add', [power, epsilon])])]);
  if (wanted) context.setExtra(node, INVERSE_DEVIATION.rmsNorm, inverse);
  return context.emit('Mul', [context.emit('Mul', [x, inverse]), weight]);
}

export const normalizationOps: Pick<
  OpTable,
  'softmax' | 'logSoftmax' | 'layerNorm' | 'rmsNorm' | 'extraOutput'
> = {
  softmax: {
    infer: likeOperand('softmax'),
    lower: (context, inputs) => context.emit('Softmax', inputs, { attributes: { axis: -1 } }),
    gradient: (g, y) => [multiply(y, subtract(g, sum(multiply(g, y), [-1], { keepDims: true })))],
  },
  logSoftmax: {
    infer: likeOperand('logSoftmax'),
    lower: (context, inputs) => context.emit('LogSoftmax', inputs, { attributes: { axis: -1 } }),
    gradient: (g, y) => [subtract(g, multiply(exp(y), sum(g, [-1], { keepDims: true })))],
  },
  layerNorm: {
    infer: (inputs) => {
      const x = operand(inputs, 0, 'layerNorm');
      requireFloat(x, 'layerNorm');
      requireVector(operand(inputs, 1, 'layerNorm'), x, 'layerNorm');
      requireVector(operand(inputs, 2, 'layerNorm'), x, 'layerNorm');
      return { shape: x.shape, dtype: x.dtype };
    },
    lower: lowerLayerNorm,
    gradient: layerNormGradient,
  },
  rmsNorm: {
    infer: (inputs) => {
      const x = operand(inputs, 0, 'rmsNorm');
      requireFloat(x, 'rmsNorm');
      requireVector(operand(inputs, 1, 'rmsNorm'), x, 'rmsNorm');
      return { shape: x.shape, dtype: x.dtype };
    },
    lower: lowerRmsNorm,
    gradient: rmsNormGradient,
  },
  extraOutput: {
    infer: (inputs, { index }) => {
      const x = operand(inputs, 0, 'extraOutput');
      const known = (INVERSE_DEVIATION as Readonly<Record<string, number>>)[x.op];
      if (known !== index) throw new Error(`extraOutput: ${x.op} has no extra output ${index}`);
      return { shape: [...x.shape.slice(0, -1), 1], dtype: x.dtype };
    },
    lower: (context, _inputs, node) =>
      context.getExtra(operand(node.inputs, 0, 'extraOutput'), node.attributes.index),
    gradient: () => {
      throw new Error('extraOutput: second derivatives through a norm are not supported');
    },
  },
};
