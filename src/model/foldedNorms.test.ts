/** Norms folded into Linears, against the Linears as they are: values, gradients, and what is computed once. */
import { describe, expect, it } from 'vitest';
import { expectGradientsMatch, normals } from '../../test/support/gradientCheck.ts';
import { evaluate, ndArray } from '../../test/support/reference.ts';
import { Random } from '../common/random.ts';
import { add, input, layerNorm, rmsNorm, type Tensor, topologicalOrder } from '../graph/index.ts';
import { withFoldedNorms } from './foldedNorms.ts';
import { parameters } from './parameters.ts';

const NAMES = ['x', 'norm', 'shift', 'a.weight', 'a.bias', 'b.weight'];
const SHAPES = [[2, 3, 4], [4], [4], [5, 4], [5], [5, 4]];

/** Two Linears behind norms of x, one of which has a bias. */
function network(tensors: readonly Tensor[], kind: 'layerNorm' | 'rmsNorm', folds = true): Tensor {
  const named = new Map(tensors.map((tensor, i) => [NAMES[i]!, tensor]));
  const [x, norm, shift] = tensors as [Tensor, Tensor, Tensor];
  const base = parameters(named);
  const p = folds ? withFoldedNorms(base) : base;
  const normed = () => (kind === 'layerNorm' ? layerNorm(x, norm, shift, 1e-3) : rmsNorm(x, norm, 1e-3));
  return add(p.linear('a', normed()), p.in('b').linear('', normed()));
}

const inputs = () => SHAPES.map((shape, i) => input(NAMES[i]!, 'f32', shape));
const count = (y: Tensor, op: string) => topologicalOrder([y]).filter((node) => node.op === op).length;

describe('withFoldedNorms', () => {
  it.each(['layerNorm', 'rmsNorm'] as const)(
    'has the values and gradients of Linears behind a %s',
    (kind) => {
      expectGradientsMatch((tensors) => network(tensors, kind), SHAPES);
      const random = new Random(2);
      const feeds = new Map(
        SHAPES.map((shape, i) => [NAMES[i]!, ndArray('f32', shape, normals(random, shape))]),
      );
      const [folded, plain] = evaluate([network(inputs(), kind), network(inputs(), kind, false)], feeds);
      for (const [i, value] of plain!.data.entries()) expect(folded!.data[i]).toBeCloseTo(value, 5);
    },
  );

  it('makes one norm of one x, and weights once however often they are used', () => {
    const [x, norm, shift, weight, bias] = inputs() as [Tensor, Tensor, Tensor, Tensor, Tensor];
    const p = withFoldedNorms(
      parameters(
        new Map([
          ['a.weight', weight],
          ['a.bias', bias],
        ]),
      ),
    );
    const twice = add(
      p.linear('a', layerNorm(x, norm, shift, 1e-3)),
      p.linear('a', layerNorm(x, norm, shift, 1e-3)),
    );
    expect(count(twice, 'layerNorm')).toBe(1);
    expect(count(twice, 'multiply')).toBe(1);
    const other = add(
      p.linear('a', layerNorm(x, norm, shift, 1e-3)),
      p.linear('a', layerNorm(x, norm, shift, 1e-6)),
    );
    expect(count(other, 'layerNorm')).toBe(2);
  });

  it('leaves alone what is no norm, and Linears that are larger than hidden states are likely to be', () => {
    const large = input('large', 'f32', [400, 400]);
    const x = input('y', 'f32', [3, 400]);
    const weight = input('weight', 'f32', [400]);
    const p = withFoldedNorms(parameters(new Map([['weight', large]])));
    expect(count(p.linear('', rmsNorm(x, weight, 1e-3)), 'multiply')).toBe(0);
    const [plain, , , a] = inputs() as [Tensor, Tensor, Tensor, Tensor];
    const q = withFoldedNorms(parameters(new Map([['weight', a]])));
    expect(topologicalOrder([q.linear('', plain)]).map(({ op }) => op)).toEqual(['input', 'input', 'matMul']);
  });
});
