/** Linears of few bits against the product with the weights they stand for. */
import { expect, it } from 'vitest';
import { device } from '../../test/support/lowered.ts';
import { Random } from '../common/random.ts';
import { BLOCK, codesShape, input, program, type Tensor } from '../graph/index.ts';
import type { HostTensor } from '../runtime/types.ts';
import { f32 } from './feeds.ts';
import { parameters } from './parameters.ts';
import { withQuantised } from './quantisedParameters.ts';

const [OUT, WIDTH, ROWS] = [24, 80, 5];

/** Random codes and scales, and the weight they stand for: [OUT, WIDTH]. */
function weightOf(bits: 4 | 8) {
  const random = new Random(`codes ${bits}`);
  const shape = codesShape(OUT, WIDTH, bits);
  const codes = Uint8Array.from({ length: shape[0] * shape[1] * shape[2] }, () => random.integer(256));
  const scales = Float32Array.from({ length: shape[0] * shape[1] }, () => 0.01 + random.integer(100) / 1e4);
  const weight = Float32Array.from({ length: OUT * WIDTH }, (_, i) => {
    const [row, column] = [Math.floor(i / WIDTH), i % WIDTH];
    const block = row * shape[1] + Math.floor(column / BLOCK);
    const place = column % BLOCK;
    const byte = codes[block * shape[2] + (bits === 8 ? place : Math.floor(place / 2))]!;
    const code = bits === 8 ? byte : place % 2 === 0 ? byte & 15 : byte >> 4;
    return (code - 2 ** (bits - 1)) * scales[block]!;
  });
  return { shape, codes, scales, weight };
}

const INPUTS = {
  x: input('x', 'f32', ['M', WIDTH]),
  weight: input('weight', 'f32', [OUT, WIDTH]),
  another: input('another', 'f32', [OUT, WIDTH]),
  bias: input('bias', 'f32', [OUT]),
};

async function run(outputs: Record<string, Tensor>, feeds: Record<string, HostTensor>) {
  const executable = await device.load(program('test', outputs));
  const result = await executable.run(feeds);
  await executable.dispose();
  return result.outputs;
}

it.each([4, 8] as const)('a Linear of %i bits is the product with its weight, and its bias', async (bits) => {
  const { shape, codes, scales, weight } = weightOf(bits);
  const base = parameters(
    new Map<string, Tensor>([
      // What stands for the codes is in none of the product's inputs.
      ['a.b.weight', INPUTS.another],
      ['a.b.bias', INPUTS.bias],
      ['a.c.weight', INPUTS.another],
      ['exact.weight', INPUTS.weight],
      ['exact.bias', INPUTS.bias],
    ]),
  );
  const rounded = {
    bits,
    codes: input('codes', 'u8', shape),
    scales: input('scales', 'f32', shape.slice(0, 2)),
  };
  const p = withQuantised(base, new Map([['a.b.weight', rounded]]));
  const random = new Random(2);
  const normal = (size: number) => {
    const values = new Float32Array(size);
    random.fillNormal(values, 1);
    return values;
  };
  const outputs = await run(
    {
      own: p.in('a').linear('b', INPUTS.x),
      scope: p.in('a').in('b').linear('', INPUTS.x),
      exact: base.linear('exact', INPUTS.x),
      other: p.linear('a.c', INPUTS.x),
      plain: base.linear('a.c', INPUTS.x),
    },
    {
      x: f32(normal(ROWS * WIDTH), [ROWS, WIDTH]),
      weight: f32(weight, [OUT, WIDTH]),
      another: f32(normal(OUT * WIDTH), [OUT, WIDTH]),
      bias: f32(normal(OUT), [OUT]),
      codes: { dtype: 'u8', shape, data: codes },
      scales: f32(scales, shape.slice(0, 2)),
    },
  );
  const [own, scope, exact] = ['own', 'scope', 'exact'].map((name) => outputs[name]?.data as Float32Array);
  expect(own).toEqual(scope);
  expect(outputs.other?.data).toEqual(outputs.plain?.data);
  // Activations are rounded to 8 bits: to 1/254 of the largest of a block.
  const size = Math.sqrt(exact!.reduce((sum, y) => sum + y ** 2, 0) / exact!.length);
  for (const [i, y] of exact!.entries()) expect(Math.abs(own![i]! - y)).toBeLessThan(0.03 * size);
});

it('names, biases and what is not rounded stay the base’s', () => {
  const base = parameters(new Map<string, Tensor>([['n.weight', INPUTS.bias]]));
  const p = withQuantised(base, new Map()).in('n');
  expect(p.get('weight')).toBe(INPUTS.bias);
  expect(p.find('bias')).toBeUndefined();
  expect(() => p.get('bias')).toThrow(/n.bias/);
});
