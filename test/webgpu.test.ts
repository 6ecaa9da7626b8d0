/** WebGPU answers as the CPU does: on a software driver where one is installed, with a small random model. */
import { afterAll, beforeAll, expect, it } from 'vitest';
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

it('answers as on the CPU', async (context) => {
  const result = await runOnWebgpu<Readonly<Record<'cpu' | 'webgpu', Spoken>>>('./webgpuAnswer.ts', [
    model.dir,
  ]);
  if ('reason' in result) {
    console.warn(`skipped: webgpu: ${result.reason}`);
    return context.skip(result.reason);
  }
  const { cpu, webgpu } = result;
  expect(cpu.logits).toHaveLength(9);
  const differences = cpu.logits.flatMap((row, step) =>
    row.map((x, j) => Math.abs(x - (webgpu.logits[step]?.[j] ?? Number.NaN))),
  );
  expect(Math.max(...differences)).toBeLessThan(1e-3);
  expect(webgpu.tokens).toEqual(cpu.tokens);
  expect(webgpu.tokens).toHaveLength(6);
}, 240_000);
