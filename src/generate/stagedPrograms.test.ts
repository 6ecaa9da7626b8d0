/** Converted models answer: in F32 just as the checkpoint, rounded nearly so; and give back what they took. */
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GOLDEN } from '../../test/support/checkpoints.ts';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { type RandomModel, randomModel } from '../../test/support/randomModel.ts';
import { openCheckpoint } from '../checkpoint/folder.ts';
import { convertFolder } from '../checkpoint/quantise/convert.ts';
import { partFormats, type WeightFormat } from '../checkpoint/quantise/formats.ts';
import { encodePrompt } from '../data/conversation.ts';
import { f32, i32, rotaryFeeds, sequenceFeeds } from '../model/feeds.ts';
import { layerGroups, towerGroups } from '../model/stages.ts';
import { BatchDecoder, type PromptIds, sequenceLayout } from './batchDecoder.ts';
import { ask } from './chat.ts';
import { CompiledPrograms } from './compiled.ts';
import { DEFAULT_FEATURE_BYTES, ImageFeatures } from './imageFeatures.ts';
import { forward } from './loss.ts';
import { type FusionModel, loadModel } from './model.ts';
import { openImage, pictureOf } from './picture.ts';
import { type StagedOptions, StagedPrograms } from './stagedPrograms.ts';
import { loadStaged } from './stagedWeights.ts';

const IMAGE = join(GOLDEN, 'images/baseline.jpg');
const QUESTIONS = ['What is this?', 'How many red circles are there in it?'];

let source: RandomModel;
/**
 * Interaction layers after 1 and 3 of 7 decoder layers: groups of 2, 2 and 3. The tower's 23 layers: groups of 10, 10
 * and 3, its second half from layer 11 on.
 */
beforeAll(async () => {
  const small = JSON.parse(readFileSync(join(GOLDEN, 'llama-small/config.json'), 'utf8'));
  const tower = { ...small.vision_config, num_hidden_layers: 23 };
  source = await randomModel({ num_hidden_layers: 7, query_len: '4,9', vision_config: tower });
});
afterAll(() => source.remove());

async function converted(weights: WeightFormat, lmHead = weights): Promise<string> {
  const out = join(source.root, `${weights}-${lmHead}`);
  if (!readdirSync(source.root).includes(`${weights}-${lmHead}`)) {
    await convertFolder({
      source: source.dir,
      out,
      formats: partFormats(weights, { lm_head: lmHead }),
      threads: 1,
    });
  }
  return out;
}

/** Logits of two sequences' prompts and of their next two tokens, decoded together. */
async function logitsOf(model: FusionModel, queryLength: number): Promise<readonly Float32Array[]> {
  const { device, config, programs, images, tokenizer, format } = model;
  const decoder = new BatchDecoder({ device, config, programs }, { maxRows: 2 });
  const picture = pictureOf(await openImage(IMAGE), config.vision);
  const tiles = await images.tiles(picture);
  const joined = [];
  for (const question of QUESTIONS) {
    const messages = [{ role: 'user', text: `<image>\n${question}` }] as const;
    const prompt = encodePrompt(tokenizer, format, messages, { hasImage: true });
    const imageTokens = await images.whole(picture, prompt.instructs);
    const features = { tiles: tiles.features, imageTokens };
    joined.push(await decoder.join(prompt satisfies PromptIds, features, queryLength));
    await device.free([imageTokens]);
  }
  const steps = [];
  for (const token of [5, 300]) {
    const next = joined.map(({ sequence }, i) => ({ sequence, token: token + i }));
    steps.push(...(await decoder.step(next)).map((row) => row.slice()));
  }
  await decoder.free();
  await tiles.release();
  return [...joined.map(({ logits }) => logits), ...steps];
}

/** Logits after some positions of a prompt without a picture: all of them, one after the other. */
async function promptLogits(
  { config, device, tokenizer, format, programs }: FusionModel,
  positions: readonly number[],
): Promise<Float32Array> {
  const { hiddenSize, vocabSize } = config.decoder;
  const text = 'Please tell at length what a red circle is. '.repeat(9);
  const prompt = encodePrompt(tokenizer, format, [{ role: 'user', text }], { hasImage: false });
  const layout = sequenceLayout(config, {
    ids: [...prompt.inputIds],
    endsOfQuestion: prompt.endsOfQuestion,
    queryLength: 4,
  });
  const { patches } = config.vision;
  const random = (rows: number) =>
    f32(
      Float32Array.from({ length: rows * hiddenSize }, (_, i) => Math.sin(i)),
      [1, rows, hiddenSize],
    );
  const result = await (await programs.prefill(4)).run({
    ...sequenceFeeds(layout),
    ...rotaryFeeds(config.decoder, 0, layout.sequence, layout.sequence),
    image_tokens: random(patches),
    tile_features: random(4 * patches),
    last_positions: i32(Int32Array.from(positions)),
  });
  await device.free(Object.values(result.kept));
  const logits = result.outputs.logits?.data as Float32Array;
  expect(logits).toHaveLength(positions.length * vocabSize);
  return logits;
}

const deviation = (got: Float32Array, expected: Float32Array): number => {
  const size = Math.sqrt(expected.reduce((sum, x) => sum + x * x, 0));
  return Math.sqrt(got.reduce((sum, x, i) => sum + (x - expected[i]!) ** 2, 0)) / size;
};

it('groups end where interaction layers stand, and after three layers', async () => {
  const model = await loadModel(source.dir, { device: new CountingDevice() });
  const { config } = model;
  expect(layerGroups(config)).toEqual([
    { first: 0, last: 1, interaction: 0 },
    { first: 2, last: 3, interaction: 1 },
    { first: 4, last: 6, interaction: undefined },
  ]);
  const alone = { ...config, interaction: { ...config.interaction, layers: 0 } };
  expect(layerGroups(alone).map(({ first, last }) => [first, last])).toEqual([
    [0, 2],
    [3, 5],
    [6, 6],
  ]);
  await model.dispose();
});

describe('in stages', () => {
  let expected: readonly Float32Array[];
  let expected9: readonly Float32Array[];
  beforeAll(async () => {
    // Weights as inputs: as constants the kernels sum in another order.
    const loaded = await loadModel(source.dir, { device: new CountingDevice() });
    const { device, config, weights } = loaded;
    const programs = new CompiledPrograms(device, config, weights);
    const images = new ImageFeatures(device, config, programs, { limit: DEFAULT_FEATURE_BYTES });
    const model = { ...loaded, programs, images };
    expected = await logitsOf(model, 4);
    expected9 = await logitsOf(model, 9);
    await images.dispose();
    await programs.dispose();
    await loaded.dispose();
  });

  /** Works with the stages of the F32 model. */
  async function inPieces(
    options: StagedOptions,
    work: (model: FusionModel, device: CountingDevice) => Promise<void>,
  ): Promise<void> {
    const device = new CountingDevice();
    const model = await loadModel(await converted('f32'), { device });
    const checkpoint = await openCheckpoint(model.dir);
    const weights = await loadStaged(device, model.config, checkpoint, { formats: partFormats('f32') });
    const programs = new StagedPrograms(device, model.config, weights, options);
    const before = device.live;
    await work({ ...model, programs }, device);
    expect(device.live).toBe(before + model.images.size);
    await programs.dispose();
    await device.free(Object.values(weights.resident));
    await model.dispose();
    expect(device.live).toBe(0);
  }

  it('F32 gives the checkpoint’s logits bit for bit, for every number of latents', async () => {
    await inPieces({ chunk: Number.POSITIVE_INFINITY }, async (model) => {
      expect(await logitsOf(model, 4)).toEqual(expected);
      expect(await logitsOf(model, 9)).toEqual(expected9);
      expect(Object.keys(model.weights)).not.toContain('model.embed_tokens.weight');
    });
  });

  it.each([7, 50])('a prompt read %i positions at a time gives what it gives at once', async (chunk) => {
    await inPieces({ chunk }, async (model) => {
      const got = await logitsOf(model, 4);
      for (const [i, row] of got.entries()) expect(deviation(row, expected[i]!)).toBeLessThan(1e-5);
      const asked = [0, 6, 7, 30, 49, 50, 99];
      const rows = await promptLogits(model, asked);
      await inPieces({ chunk: Number.POSITIVE_INFINITY }, async (whole) => {
        expect(deviation(rows, await promptLogits(whole, asked))).toBeLessThan(1e-5);
        // Not in order: read at once.
        expect(await promptLogits(model, [50, 3])).toEqual(await promptLogits(whole, [50, 3]));
      });
    });
  });

  it('padding in the questions stays padding', async () => {
    const outputs: unknown[] = [];
    for (const dir of [source.dir, await converted('f32')]) {
      const model = await loadModel(dir, { device: new CountingDevice() });
      const pixels = f32(
        Float32Array.from({ length: 2 * 3 * 64 * 64 }, (_, i) => Math.sin(i)),
        [2, 3, 64, 64],
      );
      const instructs = i32(Int32Array.of(9, 5, 0, 0, 5, 0), [2, 3]);
      const { image_tokens: tokens } = (await (await model.programs.whole()).run({ pixels, instructs }))
        .outputs;
      outputs.push(tokens?.data);
      await model.dispose();
    }
    expect(outputs[1]).toEqual(outputs[0]);
  });

  it.each([
    ['int8', 0.03],
    ['int4', 0.3],
  ] as const)('%s is near them', async (weights, most) => {
    const device = new CountingDevice();
    const model = await loadModel(await converted(weights, 'int8'), { device });
    const got = await logitsOf(model, 4);
    for (const [i, row] of got.entries()) expect(deviation(row, expected[i]!)).toBeLessThan(most);
    expect(device.live).toBe(Object.keys(model.weights).length + model.images.size);
    expect(Object.keys(model.weights).every((name) => !name.endsWith('proj.weight'))).toBe(true);
    await model.dispose();
    expect(device.live).toBe(0);
  });
});

describe('a converted model', () => {
  it('answers like any other, also to `weights`, which converts once', async () => {
    process.env.FUSION_CACHE = join(source.root, 'cache');
    const notes: string[] = [];
    const load = (dir: string, weights?: 'int8' | 'f32') =>
      loadModel(dir, {
        device: new CountingDevice(),
        weights,
        threads: 1,
        onNote: (text) => notes.push(text),
      });
    const direct = await load(await converted('int8'));
    const question = { text: 'What is this?', image: IMAGE };
    const answer = await ask(direct, question, { maxTokens: 6 });
    expect(answer.tokens).toHaveLength(6);
    await direct.dispose();
    for (const expected of [1, 1]) {
      const model = await load(source.dir, 'int8');
      expect((await ask(model, question, { maxTokens: 6 })).tokens).toEqual(answer.tokens);
      expect(notes).toHaveLength(expected);
      await model.dispose();
    }
    delete process.env.FUSION_CACHE;
    await expect(load(await converted('int8'), 'f32')).rejects.toThrow(/one converted to int8/);
    const same = await load(source.dir, 'f32');
    expect(same.dir).toBe(source.dir);
    await same.dispose();
  });

  it.each([
    // The tower once for the tiles, and for the whole crop with each question.
    ['released after use where they are larger than may be kept', 0, 3, 2],
    ['kept where there is room', Number.POSITIVE_INFINITY, 1, 1],
  ])('tower and interaction layers are %s', async (_, keptBytes, towers, times) => {
    const device = new CountingDevice();
    const formats = partFormats('int8');
    const loaded = await loadModel(await converted('int8'), { device });
    const weights = await loadStaged(device, loaded.config, await openCheckpoint(loaded.dir), { formats });
    const programs = new StagedPrograms(device, loaded.config, weights, { keptBytes });
    const images = new ImageFeatures(device, loaded.config, programs, { limit: DEFAULT_FEATURE_BYTES });
    for (const text of QUESTIONS) {
      await ask({ ...loaded, programs, images }, { text, image: IMAGE }, { maxTokens: 1 });
    }
    const loads = (name: string) => device.loads.filter((each) => each === name).length;
    const tower = towerGroups(loaded.config).map(({ first, last }) => loads(`vision ${first} to ${last}`));
    expect(tower).toEqual([towers, towers, towers]);
    expect(['interaction 0', 'interaction 1'].map(loads)).toEqual([times, times]);
    expect(loads('head')).toBe(1);
    await images.dispose();
    await programs.dispose();
    await device.free(Object.values(weights.resident));
    await loaded.dispose();
    expect(device.live).toBe(0);
  });

  it('has no loss and no gradients', async () => {
    const model = await loadModel(await converted('f32'), { device: new CountingDevice() });
    const messages = [
      { role: 'user', text: 'a' },
      { role: 'assistant', text: 'b' },
    ] as const;
    await expect(forward(model, { messages })).rejects.toThrow(
      /loss: expected a checkpoint as it was trained/,
    );
    await model.dispose();
  });

  it('is refused in one line where it is of another version, or its tokenizer has more ids', async () => {
    const from = await converted('f32');
    const dir = join(source.root, 'changed');
    mkdirSync(dir);
    for (const name of readdirSync(from)) copyFileSync(join(from, name), join(dir, name));
    const config = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8'));
    config.fusion_quantization.version = 7;
    writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
    await expect(loadModel(dir)).rejects.toThrow(/^[^\n]*expected version 1 .* got version 7[^\n]*$/);
    const grown = await randomModel({ vocab_size: 912 });
    const tokenizer = JSON.parse(readFileSync(join(grown.dir, 'tokenizer.json'), 'utf8'));
    tokenizer.added_tokens.push({ ...tokenizer.added_tokens[0], id: 1000, content: '<more>' });
    writeFileSync(join(grown.dir, 'tokenizer.json'), JSON.stringify(tokenizer));
    await expect(loadModel(grown.dir, { weights: 'int8' })).rejects.toThrow(
      /1001 ids to convert it, got 912/,
    );
    await expect(loadModel(from, { tokenizer: grown.dir })).rejects.toThrow(
      /1001 ids to convert it, got 912/,
    );
    await grown.remove();
  });
});
