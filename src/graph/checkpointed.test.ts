import { describe, expect, it } from 'vitest';
import { expectGradientsMatch } from '../../test/support/gradientCheck.ts';
import { checkpointed, recomputedActivation } from './checkpointed.ts';
import { add, exp, gelu, matMul, multiply, silu, sum, tanh } from './functions.ts';
import { grad } from './gradient.ts';
import { gatedGelu } from './ops/elementwise.ts';
import { input, type Tensor, topologicalOrder } from './tensor.ts';

const layer = (w: Tensor, bias: Tensor) => (x: Tensor) => add(x, multiply(tanh(matMul(x, w)), bias));

describe('checkpointed', () => {
  it('has the gradients of central differences, through two layers that share a weight and its derivative', () => {
    const shapes = [[3, 4], [4, 4], [4]];
    expectGradientsMatch(([x, w, b]) => {
      const derived = exp(b!);
      const h = checkpointed(layer(w!, derived), multiply(x!, b!));
      return checkpointed((y) => multiply(layer(w!, derived)(y), b!), h);
    }, shapes);
  });

  it('computes the layer again, from its input and not before its gradient', () => {
    const [x, w, b] = [input('x', 'f32', [3, 4]), input('w', 'f32', [4, 4]), input('b', 'f32', [4])];
    const y = checkpointed(layer(w, b), x);
    const order = topologicalOrder(grad(sum(multiply(y, y)), [w]));
    const again = order.filter(({ op }) => op === 'tanh');
    expect(again).toHaveLength(2);
    const late = again.filter((node) => topologicalOrder([node]).some(({ op }) => op === 'after'));
    expect(late).toHaveLength(1);
    const gradientOnly = topologicalOrder(grad(sum(y), [w])).filter(({ op }) => op === 'tanh');
    expect(gradientOnly).toHaveLength(1);
  });

  it('refuses a result of another shape', () => {
    expect(() => checkpointed((x) => sum(x, [0]), input('x', 'f32', [2, 3]))).toThrow(
      'checkpointed: expected a result like input f32 [2, 3], got sum f32 [3]',
    );
  });
});

describe('recomputedActivation', () => {
  const gated = (up: Tensor, w: Tensor) => (gate: Tensor) =>
    recomputedActivation(
      (y) => multiply(silu(y), up),
      (y) => matMul(y, w),
      gate,
    );

  it('has the gradients of central differences, towards all that the activation and the layer use', () => {
    expectGradientsMatch(
      ([x, a, b, w]) => gated(matMul(x!, b!), w!)(matMul(x!, a!)),
      [
        [3, 4],
        [4, 5],
        [4, 5],
        [5, 2],
      ],
    );
  });

  it('takes the activation of the backward pass from elsewhere if told, with the same gradients', () => {
    const gelus = (again?: (x: Tensor) => Tensor) => (x: Tensor, w: Tensor) =>
      recomputedActivation(
        (y) => gelu(y, 'tanh'),
        (y) => matMul(y, w),
        x,
        again,
      );
    const shapes = [
      [3, 4],
      [4, 2],
    ];
    expectGradientsMatch(([x, w]) => gelus(gatedGelu)(x!, w!), shapes);
    const [x, w] = [input('x', 'f32', [3, 4]), input('w', 'f32', [4, 2])];
    const count = (y: Tensor) =>
      topologicalOrder(grad(sum(multiply(y, y)), [x, w])).filter(({ op }) => op === 'gelu').length;
    expect(count(gelus()(x, w))).toBe(2);
    expect(count(gelus(gatedGelu)(x, w))).toBe(1);
  });

  it('reads what the activation made in the forward pass only there', () => {
    const [x, up, w] = [input('x', 'f32', [3, 5]), input('up', 'f32', [3, 5]), input('w', 'f32', [5, 2])];
    const y = gated(up, w)(x);
    const forward = new Set(topologicalOrder([y]));
    const order = topologicalOrder(grad(sum(multiply(y, y)), [x, up, w]));
    const active = order.filter(({ op }) => op === 'silu');
    expect(active).toHaveLength(2);
    const kept = active.find((node) => forward.has(node)) as Tensor;
    const readers = order.filter(({ inputs }) => inputs.includes(kept));
    expect(readers.every((node) => forward.has(node))).toBe(true);
    const late = active.find((node) => !forward.has(node)) as Tensor;
    expect(topologicalOrder([late]).some(({ op }) => op === 'after')).toBe(true);
  });
});
