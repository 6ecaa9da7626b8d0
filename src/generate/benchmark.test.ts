/** `fusion bench`'s parts on small models: what is measured, and what it is compared with. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { withCountedModel } from '../../test/support/countingDevice.ts';
import { type RandomModel, randomModel } from '../../test/support/randomModel.ts';
import { variantJson } from '../checkpoint/baseConfigs.ts';
import { convertFolder } from '../checkpoint/quantise/convert.ts';
import { partFormats } from '../checkpoint/quantise/formats.ts';
import { median } from '../common/median.ts';
import { parseFusionConfig } from '../model/config.ts';
import { benchmark } from './benchmark.ts';
import { floatProductRate, layerProductRate, rowProductRate } from './machineSpeed.ts';
import { decodeBytes, decodeWeightBytes, prefillOperations } from './workload.ts';

let made: RandomModel;
let int4: string;
beforeAll(async () => {
  made = await randomModel();
  int4 = join(made.root, 'int4');
  await convertFolder({ source: made.dir, out: int4, formats: partFormats('int4'), threads: 1 });
});
afterAll(() => made.remove());

describe.each([
  ['a checkpoint', () => made.dir],
  ['a converted model', () => int4],
])('%s', (_, dir) => {
  it('is measured phase by phase, after a warm-up', async () => {
    await withCountedModel(dir(), async (model, device) => {
      const before = device.live;
      const figures = await benchmark(model, { promptTokens: 300, newTokens: 3, repeats: 2 });
      expect(figures).toMatchObject({
        promptTokens: 300,
        newTokens: 3,
        queryLength: model.config.defaultQueryLen,
      });
      for (const seconds of Object.values(figures.seconds)) expect(seconds).toBeGreaterThan(0);
      expect(figures.peakMemory).toBeGreaterThan(50e6);
      // Features of the pictures stay, for questions to come.
      expect(device.live).toBe(before + model.images.size);
      // Each of three rounds: five crops, and one for the second question.
      const crops = device.runs.filter((name) => name.startsWith('vision 0') || name.startsWith('encode'));
      expect(crops).toHaveLength(3 * 6);
    });
  });

  it('has rates of products in its own format', async () => {
    await withCountedModel(dir(), async (model, device) => {
      const before = device.live;
      expect(await layerProductRate(model, 16)).toBeGreaterThan(1e6);
      expect(await floatProductRate(model, 16)).toBeGreaterThan(1e6);
      expect(await rowProductRate(model)).toBeGreaterThan(1e5);
      expect(device.live).toBe(before);
    });
  });
});

it('refuses prompts that are too short for a picture, or too long', async () => {
  await withCountedModel(made.dir, async (model) => {
    const run = (promptTokens: number) => benchmark(model, { promptTokens, newTokens: 3, repeats: 1 });
    await expect(run(20)).rejects.toThrow(/^prompt tokens: expected at least \d+, .* got 20$/);
    await expect(run(1022)).rejects.toThrow(/expected at most 1024 tokens/);
  });
});

describe('the least work', () => {
  const phi = parseFusionConfig(variantJson('fusion-x-phi3.5-3b'), 'phi');
  const llama = parseFusionConfig(variantJson('fusion-llama3.1-8b'), 'llama');
  /** Linears of the decoder's layers and of the head, by hand. */
  const PHI_LAYERS = 32 * (3072 * 3 * 3072 + 3072 * 3072 + 3 * 3072 * 8192);
  const LLAMA_LAYERS = 32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336);

  it('of a step is each weight once, and the cache', () => {
    const head = phi.decoder.vocabSize * 3072;
    const norms = (2 * 32 + 1) * 3072;
    const bytes = decodeWeightBytes(phi, partFormats('int4'));
    expect(bytes).toBe(0.75 * PHI_LAYERS + 1.25 * head + 4 * norms);
    expect(decodeWeightBytes(phi, undefined)).toBe(4 * (PHI_LAYERS + head + norms));
    expect(decodeBytes(phi, partFormats('int4'), 700)).toBe(bytes + 700 * 32 * 2 * 32 * 96 * 4);
  });

  it('of a tied head is the embeddings', () => {
    const tied = { ...phi, decoder: { ...phi.decoder, tiedEmbeddings: true } };
    for (const formats of [undefined, partFormats('int8')]) {
      expect(decodeWeightBytes(tied, formats)).toBe(decodeWeightBytes(phi, formats));
    }
  });

  it('of a prompt is nearly two operations a weight and position', () => {
    for (const [config, weights] of [
      [phi, PHI_LAYERS],
      [llama, LLAMA_LAYERS],
    ] as const) {
      const share = prefillOperations(config, 871, 36) / (2 * 871 * weights);
      expect(share).toBeGreaterThan(0.97);
      expect(share).toBeLessThan(1.1);
    }
    expect(prefillOperations(phi, 871, 144)).toBeGreaterThan(prefillOperations(phi, 871, 36));
  });
});

it('a median is the middle, or the mean of two', () => {
  expect([[3, 1, 2], [4, 1, 2, 3], [7]].map(median)).toEqual([2, 2.5, 7]);
  expect(median([])).toBeNaN();
});
