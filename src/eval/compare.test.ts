/** Divergence, agreement and exact answers: against plain sums, of a model with itself and with others. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GOLDEN } from '../../test/support/checkpoints.ts';
import { type RandomModel, randomModel } from '../../test/support/randomModel.ts';
import { convertFolder } from '../checkpoint/quantise/convert.ts';
import { partFormats } from '../checkpoint/quantise/formats.ts';
import { type FusionModel, loadModel } from '../generate/model.ts';
import { LocalDevice } from '../runtime/localDevice.ts';
import { compareModels, compareRows } from './compare.ts';
import { datasetSamples, questionSamples } from './compareSamples.ts';

const softmax = (row: readonly number[]) => {
  const sum = row.reduce((total, x) => total + Math.exp(x), 0);
  return row.map((x) => Math.exp(x) / sum);
};

describe('compareRows', () => {
  it('is the sum of p · log(p / q), and each one’s −log of the target', () => {
    const [a, b] = [
      [1, 2, -1, 0.5],
      [0.5, 2.5, 0, -3],
    ];
    const [p, q] = [softmax(a!), softmax(b!)];
    const { divergence, lossA, lossB } = compareRows(Float32Array.from(a!), Float32Array.from(b!), 3);
    expect(divergence).toBeCloseTo(
      p.reduce((sum, x, i) => sum + x * Math.log(x / q[i]!), 0),
      12,
    );
    expect(lossA).toBeCloseTo(-Math.log(p[3]!), 12);
    expect(lossB).toBeCloseTo(-Math.log(q[3]!), 12);
  });

  it('is 0 for the same distribution, whatever is added to all logits', () => {
    const a = Float32Array.of(100, 102, 99);
    const { divergence, lossA } = compareRows(a, Float32Array.of(0, 2, -1), 1);
    expect(divergence).toBeCloseTo(0, 12);
    expect(lossA).toBeCloseTo(-Math.log(softmax([0, 2, -1])[1]!), 12);
  });
});

describe('compareModels', () => {
  let source: RandomModel;
  let model: FusionModel;
  const load = (dir: string) => loadModel(dir, { device: new LocalDevice({ threads: 1 }) });
  const conversation = (question: string, answer: string) => [
    { from: 'human', value: question },
    { from: 'gpt', value: answer },
  ];
  /** A data set with a picture, without, two turns, and one that cannot be used. */
  const dataFile = () => {
    const file = join(source.root, 'data.json');
    const image = join(GOLDEN, 'images/baseline.jpg');
    const records = [
      { id: 'seen', image, conversations: conversation('<image>\nWhat is this?', 'A picture.') },
      {
        id: 'text',
        conversations: [...conversation('Hello', 'Hi there'), ...conversation('Bye', 'See you')],
      },
      { id: 'lost', image: 'no.jpg', conversations: conversation('<image>\nWhat?', 'That.') },
    ];
    writeFileSync(file, JSON.stringify(records));
    return file;
  };
  beforeAll(async () => {
    source = await randomModel();
    model = await load(source.dir);
  });
  afterAll(async () => {
    await model.dispose();
    await source.remove();
  });

  it('finds a model equal to itself, and says which samples were left out', async () => {
    const list = await datasetSamples(dataFile());
    const report = await compareModels(model, model, list);
    await list.close();
    expect(report).toMatchObject({ samples: 2, skipped: 1, top1Agreement: 1, lost: 0, gained: 0 });
    expect(report.klDivergence).toBe(0);
    expect(report.firstSkip).toMatch(/data.json:2: .*no.jpg/);
    expect(report.a).toEqual(report.b);
    expect(report.positions).toBeGreaterThan(8);
    expect(report.a.crossEntropy).toBeGreaterThan(3);
    const first = await datasetSamples(dataFile(), 1);
    expect((await compareModels(model, model, first)).samples).toBe(1);
    await first.close();
  });

  it('finds the rounded model near and another one far', async () => {
    const out = join(source.root, 'int8');
    await convertFolder({ source: source.dir, out, formats: partFormats('int8'), threads: 1 });
    const other = await randomModel({ rms_norm_eps: 10 });
    const distances: number[] = [];
    for (const dir of [out, other.dir]) {
      const b = await load(dir);
      const report = await compareModels(model, b, questionSamples(4, 1));
      expect(report).toMatchObject({ samples: 4, skipped: 0, firstSkip: undefined });
      distances.push(report.klDivergence);
      await b.dispose();
    }
    await other.remove();
    expect(distances[0]).toBeGreaterThan(0);
    expect(distances[0]).toBeLessThan(0.05);
    expect(distances[1]).toBeGreaterThan(5 * distances[0]!);
  });

  it('counts answers whose every token is the likeliest', async () => {
    const list = questionSamples(2, 0);
    const guess = async (right: boolean): Promise<FusionModel> => ({
      ...model,
      programs: {
        ...model.programs,
        tile: () => model.programs.tile(),
        whole: () => model.programs.whole(),
        prefill: async (q: number) => {
          const program = await model.programs.prefill(q);
          return {
            ...program,
            run: async (feeds, options) => {
              const result = await program.run(feeds, options);
              const targets = feeds.targets as { readonly data: Int32Array };
              const logits = result.outputs.logits!;
              const data = new Float32Array(logits.data.length);
              const width = data.length / targets.data.length;
              for (const [m, target] of targets.data.entries()) {
                // The wrong one misses the last token of each answer.
                const hit = right || m < targets.data.length - 1;
                data[m * width + (hit ? target : 0)] = 9;
              }
              return { ...result, outputs: { logits: { ...logits, data } } };
            },
          };
        },
      } as FusionModel['programs'],
    });
    const [right, wrong] = [await guess(true), await guess(false)];
    expect(await compareModels(right, wrong, list)).toMatchObject({
      a: { exactMatch: 1 },
      b: { exactMatch: 0 },
      lost: 2,
      gained: 0,
    });
    expect(await compareModels(wrong, right, list)).toMatchObject({ lost: 0, gained: 2 });
  });

  it('refuses other vocabularies, and data of which nothing can be used', async () => {
    const other = await randomModel({ vocab_size: 1000 });
    const b = await load(other.dir);
    await expect(compareModels(model, b, questionSamples(1, 0))).rejects.toThrow(
      /expected the vocabulary of .* \(912 tokens\), got 1000/,
    );
    await b.dispose();
    await other.remove();
    const file = join(source.root, 'empty.json');
    writeFileSync(file, JSON.stringify([{ id: 'a', conversations: [] }]));
    const list = await datasetSamples(file);
    await expect(compareModels(model, model, list)).rejects.toThrow(
      /at least one sample to compare on, got none: .*empty.json:0/,
    );
    await list.close();
  });
});
