/** Symbolic tensors, the op table and reverse mode: usable for any model. */
export { checkpointed, type RunLayer, recomputedActivation, runDirectly } from './checkpointed.ts';
export * from './dims.ts';
export * from './dtype.ts';
export * from './functions.ts';
export { grad } from './gradient.ts';
export { BLOCK, codesShape } from './nBits.ts';
export { gatedGelu } from './ops/elementwise.ts';
export { apply, type GradientRule, OPS, type OpName } from './ops.ts';
export { bindLetters, type Program, program, type TensorSpec } from './program.ts';
export { constant, describe, input, scalar, type Tensor, topologicalOrder } from './tensor.ts';
