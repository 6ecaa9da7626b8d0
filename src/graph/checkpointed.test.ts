import { describe, expect, it } from 'vitest';
import { expectGradientsMatch } from '../../test/support/gradientCheck.ts';
import { checkpointed } from './checkpointed.ts';
import { add, exp, matMul, multiply, sum, tanh } from './functions.ts';
import { grad } from './gradient.ts';
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
