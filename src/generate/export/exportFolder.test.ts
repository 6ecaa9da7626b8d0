/** An exported folder: another program, which has only ONNX Runtime, gets the project's logits from it. */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { copyCheckpoint, GOLDEN } from '../../../test/support/checkpoints.ts';
import { CountingDevice } from '../../../test/support/countingDevice.ts';
import { type RandomModel, randomModel } from '../../../test/support/randomModel.ts';
import { convertFolder } from '../../checkpoint/quantise/convert.ts';
import { partFormats } from '../../checkpoint/quantise/formats.ts';
import { UserError } from '../../common/errors.ts';
import { encodePrompt } from '../../data/conversation.ts';
import { DecodeSession } from '../decodeSession.ts';
import { loadModel } from '../model.ts';
import { openImage, pictureOf } from '../picture.ts';
import { exportFolder } from './exportFolder.ts';

const RUNNER = fileURLToPath(new URL('../../../test/support/runExported.mjs', import.meta.url));
const NEXT = [5, 300, 17];

let model: RandomModel;
beforeAll(async () => {
  model = await randomModel({ query_len: '4,9' });
});
afterAll(() => model.remove());

/** The project's own logits about a picture, and what another program is asked. */
async function ownLogits(dir: string): Promise<{ logits: number[][]; request: object }> {
  const loaded = await loadModel(dir, { device: new CountingDevice() });
  const { device, config, programs, images, tokenizer, format } = loaded;
  const picture = pictureOf(await openImage(path.join(GOLDEN, 'images/baseline.jpg')), config.vision);
  const messages = [{ role: 'user', text: '<image>\nHow many red circles are there?' }] as const;
  const prompt = encodePrompt(tokenizer, format, messages, { hasImage: true });
  const tiles = await images.tiles(picture);
  const imageTokens = await images.whole(picture, prompt.instructs);
  const features = { tiles: tiles.features, imageTokens };
  const session = new DecodeSession({ device, config, programs }, prompt, features, 4);
  const logits = [Array.from(await session.prefill())];
  for (const token of NEXT) logits.push(Array.from(await session.append(token)));
  const crops = path.join(model.root, 'crops.f32');
  writeFileSync(crops, picture.crops);
  await session.free();
  await loaded.dispose();
  const { inputIds, instructs, endsOfQuestion } = prompt;
  const request = { ids: [...inputIds], instructs: [...instructs], endsOfQuestion, crops, next: NEXT };
  return { logits, request };
}

async function elsewhere(folder: string, request: object): Promise<number[][]> {
  const file = path.join(model.root, 'request.json');
  writeFileSync(file, JSON.stringify(request));
  const { stdout } = await promisify(execFile)(process.execPath, [RUNNER, folder, file], {
    maxBuffer: 2 ** 26,
  });
  return (JSON.parse(stdout) as { logits: number[][] }).logits;
}

function largestDifference(a: readonly (readonly number[])[], b: readonly (readonly number[])[]): number {
  expect(a.map(({ length }) => length)).toEqual(b.map(({ length }) => length));
  return Math.max(...a.flatMap((row, i) => row.map((x, j) => Math.abs(x - (b[i]?.[j] ?? Number.NaN)))));
}

const readJson = (dir: string) => JSON.parse(readFileSync(path.join(dir, 'export.json'), 'utf8'));

describe('a checkpoint as it was trained', () => {
  it('gives its logits in another program, by standard operators', async () => {
    const out = path.join(model.root, 'exported');
    // Shards, so that graphs have weights in several files.
    await exportFolder({ source: model.dir, out, queryLength: 4, maxShardBytes: 300_000 });
    const about = readJson(out);
    expect(about).toMatchObject({ version: 1, weights: 'f32', non_standard_operators: [], query_length: 4 });
    const { logits, request } = await ownLogits(model.dir);
    expect(largestDifference(await elsewhere(out, request), logits)).toBeLessThan(1e-5);
    expect(readdirSync(out).filter((name) => name.endsWith('.safetensors')).length).toBeGreaterThan(1);
    for (const name of ['config.json', 'tokenizer.json']) expect(existsSync(path.join(out, name))).toBe(true);
  }, 60_000);

  it('is told as the graphs have it', () => {
    const { graphs, order, cache } = readJson(path.join(model.root, 'exported'));
    expect(Object.keys(graphs)).toEqual(order.map(({ graph }: { graph: string }) => graph));
    const shapes = (list: { name: string; dtype: string; shape: unknown }[]) =>
      Object.fromEntries(list.map(({ name, dtype, shape }) => [name, [dtype, shape]]));
    expect(shapes(graphs.encode_whole.inputs)).toEqual({
      pixels: ['float32', ['B', 3, 64, 64]],
      instructs: ['int32', ['B', 'T']],
    });
    const { inputs, outputs } = graphs.decode;
    const names = (list: { name: string }[]) => list.map(({ name }) => name);
    expect(names(inputs)).toEqual(expect.arrayContaining(['token', 'length', ...cache.inputs]));
    expect(names(outputs)).toEqual(['logits', ...cache.outputs]);
  });
});

it('exports a converted folder with its rounded weights', async () => {
  const [source, out] = ['int4', 'exported-int4'].map((name) => path.join(model.root, name)) as [
    string,
    string,
  ];
  await convertFolder({ source: model.dir, out: source, formats: partFormats('int4'), threads: 1 });
  await exportFolder({ source, out, queryLength: 4 });
  expect(readJson(out)).toMatchObject({
    weights: { decoder: 'int4', vision: 'int8' },
    non_standard_operators: ['com.microsoft.MatMulNBits'],
  });
  const { logits, request } = await ownLogits(source);
  // Activations are rounded to 8 bits: what differs in the last bit here may be rounded otherwise there.
  const spread = Math.max(...logits.flat()) - Math.min(...logits.flat());
  const difference = largestDifference(await elsewhere(out, request), logits);
  expect(difference).toBeLessThan(0.01 * spread);
}, 60_000);

it('makes nothing where it cannot', async () => {
  const out = path.join(model.root, 'none');
  const wrong = exportFolder({ source: model.dir, out, queryLength: 5 });
  await expect(wrong).rejects.toThrow(UserError);
  const full = exportFolder({ source: model.dir, out: model.dir });
  await expect(full).rejects.toThrow(/expected a new or an empty folder/);
  const grown = copyCheckpoint('llama-small');
  await expect(exportFolder({ source: grown.dir, out })).rejects.toThrow(/expected a vocabulary row/);
  grown.remove();
  expect(readdirSync(model.root).filter((name) => name.startsWith('none'))).toEqual([]);
});
