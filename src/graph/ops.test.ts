/**
 * Every row of the op table: the value of its lowering, its gradient rule, and the lowering of its gradient,
 * over the examples of `test/support/opCases.ts`.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { expectGradientsMatch, normals } from '../../test/support/gradientCheck.ts';
import { compile, expectClose, referenceOf, TARGETS, type Values } from '../../test/support/lowered.ts';
import { draw, OP_CASES, type OpCase } from '../../test/support/opCases.ts';
import { type NdArray, ndArray } from '../../test/support/reference.ts';
import { Random } from '../common/random.ts';
import { DTYPES, isFloat } from './dtype.ts';
import { multiply, sum } from './functions.ts';
import { grad } from './gradient.ts';
import { OPS, type OpName } from './ops.ts';
import { program } from './program.ts';
import { constant, input, type Tensor, topologicalOrder } from './tensor.ts';

const NAMES = Object.keys(OPS) as OpName[];

/** Ops whose value changes with a float operand although no gradient flows: nothing to compare. */
const NO_FLOW = new Set<OpName>(['stopGradient', 'extraOutput', 'argMax', 'matMulNBits']);

const isDifferentiable = (op: OpName, y: Tensor): boolean => isFloat(y.dtype) && !NO_FLOW.has(op);

/** A case as a graph over fed inputs, `prefix` in front of their names, and the values to feed. */
function instantiate(
  { operands, build }: OpCase,
  prefix: string,
): { readonly x: readonly Tensor[]; readonly y: Tensor; readonly feeds: ReadonlyMap<string, NdArray> } {
  const random = new Random(prefix);
  const feeds = new Map<string, NdArray>();
  const x = operands.map((operand, i) => {
    const { shape, dtype = 'f32' } = operand;
    feeds.set(`${prefix}.x${i}`, ndArray(dtype, shape, draw(random, operand)));
    return input(`${prefix}.x${i}`, dtype, shape);
  });
  return { x, y: build(x), feeds };
}

/** The value of a case, and the gradient of `Σ w·y` for each float operand, as named outputs. */
function outputsOf(op: OpName, number: number, { operands, build }: OpCase) {
  const prefix = `${op}.${number}`;
  const { x, y, feeds } = instantiate({ operands, build }, prefix);
  const outputs: Record<string, Tensor> = { [prefix]: y };
  if (!isDifferentiable(op, y)) return { outputs, feeds };
  const w = input(`${prefix}.w`, y.dtype, y.shape);
  const shape = y.shape as readonly number[];
  // Multiples of 1/64, which f16 holds exactly.
  const coarse = normals(new Random(prefix).fork('w'), shape).map((value) => Math.round(value * 64) / 64);
  const weights = ndArray(y.dtype, shape, coarse);
  const targets = x.filter((operand) => isFloat(operand.dtype));
  for (const [i, g] of grad(sum(multiply(y, w)), targets).entries()) outputs[`${prefix}.gradient${i}`] = g;
  return { outputs, feeds: new Map([...feeds, [`${prefix}.w`, weights]]) };
}

function allOutputs() {
  const outputs: Record<string, Tensor> = {};
  const feeds = new Map<string, NdArray>();
  for (const op of NAMES) {
    for (const [number, opCase] of OP_CASES[op].entries()) {
      const made = outputsOf(op, number, opCase);
      Object.assign(outputs, made.outputs);
      for (const [name, value] of made.feeds) feeds.set(name, value);
    }
  }
  return { outputs, feeds };
}

describe.each(TARGETS)('lowered for %s', (target) => {
  let got: Values;
  let expected: Values;
  beforeAll(async () => {
    const { outputs, feeds } = allOutputs();
    expected = referenceOf(outputs, feeds);
    got = await (await compile(program('ops', outputs), target))(feeds);
  });

  it.each(NAMES)('%s and its gradient equal the reference', (op) => {
    const mine = [...expected].filter(([name]) => name.startsWith(`${op}.`));
    expect(mine.length).toBeGreaterThan(0);
    for (const [name, value] of mine) expectClose(got.get(name), value, name);
  });
});

describe('gradients equal central differences', () => {
  /** Integer and bool operands become constants: only the float ones are moved. */
  function check(op: OpName, number: number, { operands, build }: OpCase): void {
    const random = new Random(`${op}.${number}.f64`);
    const values = operands.map((operand) => draw(random, operand));
    const isFree = operands.map(({ dtype }) => dtype === undefined);
    const only = <T>(list: readonly T[]): T[] => list.filter((_, i) => isFree[i]);
    const rebuilt = (free: readonly Tensor[]): Tensor => {
      const left = [...free];
      return build(
        operands.map(({ shape, dtype }, i) => {
          if (dtype === undefined) return left.shift()!;
          const numbers = values[i]!;
          const data =
            dtype === 'i64' ? BigInt64Array.from(numbers, BigInt) : DTYPES[dtype].array.from(numbers);
          return constant(data, dtype, shape);
        }),
      );
    };
    const shapes = only(operands).map(({ shape }) => shape);
    const y = rebuilt(shapes.map((shape, i) => input(`x${i}`, 'f64', shape)));
    if (isDifferentiable(op, y)) expectGradientsMatch(rebuilt, shapes, { values: only(values) });
  }

  it.each(NAMES)('%s', (op) => {
    for (const [number, opCase] of OP_CASES[op].entries()) check(op, number, opCase);
  });
});

describe('the examples', () => {
  it.each(NAMES)('of %s use it', (op) => {
    expect(OP_CASES[op].length).toBeGreaterThan(0);
    for (const [number, opCase] of OP_CASES[op].entries()) {
      const { y } = instantiate(opCase, `${op}.${number}`);
      const direct = op === 'broadcastTo' || topologicalOrder([y]).some((node) => node.op === op);
      expect(direct, `example ${number}`).toBe(true);
    }
  });
});
