/** WebGPU answers as the CPU does: on a software driver where one is installed, with a small random model. */
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { convertFolder } from '../src/checkpoint/quantise/convert.ts';
import { partFormats } from '../src/checkpoint/quantise/formats.ts';
import { type RandomModel, randomModel } from './support/randomModel.ts';
import { runOnWebgpu } from './support/webgpuProcess.ts';

interface Spoken {
  readonly logits: readonly (readonly number[])[];
  readonly tokens: readonly number[];
}

let model: RandomModel;
beforeAll(async () => {
  model = await randomModel({ query_len: '4,9' });
});
afterAll(() => model.remove());

it('answers as on the CPU, as trained and converted', async (context) => {
  const int4 = path.join(model.root, 'int4');
  await convertFolder({ source: model.dir, out: int4, formats: partFormats('int4'), threads: 1 });
  const result = await runOnWebgpu<readonly Readonly<Record<'cpu' | 'webgpu', Spoken>>[]>(
    './webgpuAnswer.ts',
    [model.dir, int4],
  );
  if ('reason' in result) {
    console.warn(`skipped: webgpu: ${result.reason}`);
    return context.skip(result.reason);
  }
  expect(result).toHaveLength(2);
  for (const [i, { cpu, webgpu }] of result.entries()) {
    expect(cpu.logits).toHaveLength(9);
    const differences = cpu.logits.flatMap((row, step) =>
      row.map((x, j) => Math.abs(x - (webgpu.logits[step]?.[j] ?? Number.NaN))),
    );
    // Converted weights: activations are rounded to 8 bits, here and there in different orders of summing.
    expect(Math.max(...differences)).toBeLessThan(i === 0 ? 1e-3 : 0.1);
    expect(webgpu.tokens).toEqual(cpu.tokens);
    expect(webgpu.tokens).toHaveLength(6);
  }
}, 240_000);
