import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { copyCheckpoint, goldenPixels } from '../../test/support/checkpoints.ts';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { UserError } from '../common/errors.ts';
import { input, program, type Tensor } from '../graph/index.ts';
import { causal } from '../model/decoder.ts';
import { f32, i32, rotaryFeeds, sequenceFeeds } from '../model/feeds.ts';
import { decode, encodeWhole } from '../model/fusion.ts';
import { modelInputs, promptInputs, rotaryInputs } from '../model/programs.ts';
import { IMAGE, LATENT } from '../model/sentinels.ts';
import { type Answer, type Conversation, planAnswer, streamAnswer } from './answer.ts';
import { type Maps, mapAt } from './attentionMaps.ts';
import { sequenceLayout } from './batchDecoder.ts';
import { type Explanation, explain, explainAnswer } from './explain.ts';
import { type FusionModel, loadModel } from './model.ts';
import { pictureOfCrops } from './picture.ts';

const picture = pictureOfCrops(goldenPixels(64));
const conversation: Conversation = {
  messages: [{ role: 'user', text: '<image>\nWhat is this?' }],
  picture,
};
/** The picture comes at the second turn, whose image tokens stand at the first turn's place for latents. */
const chat: Conversation = {
  messages: [
    { role: 'user', text: 'Hello.' },
    { role: 'assistant', text: 'Hello?' },
    { role: 'user', text: '<image>\nWhat is this?' },
  ],
  picture,
};

const sum = ({ data }: Maps) => data.reduce((a, b) => a + b, 0);
async function answerOf(model: FusionModel, asked: Conversation, maxTokens: number): Promise<Answer> {
  for await (const event of streamAnswer(model, asked, { maxTokens })) {
    if (event.type === 'done') return event.answer;
  }
  throw new Error('no done event');
}
/** Every map of the first axes, with its indices. */
function eachMap(maps: Maps, axes: number): readonly Maps[] {
  const counts = maps.shape.slice(0, axes);
  const indices = counts.reduce<number[][]>(
    (all, n) => all.flatMap((head) => Array.from({ length: n }, (_, i) => [...head, i])),
    [[]],
  );
  return indices.map((index) => mapAt(maps, ...index));
}

describe.each([
  ['the released form', {}, 8],
  ['FUSION-L: image tokens resized', { image_tokens_side: 4 }, 4],
] as const)('%s', (_, changes, side) => {
  const checkpoint = copyCheckpoint('llama-small', changes);
  const device = new CountingDevice();
  let model: FusionModel;
  let answer: Answer;
  let explanation: Explanation;
  beforeAll(async () => {
    model = await loadModel(checkpoint.dir, { device });
    ({ answer, explanation } = await explain(model, conversation, { maxTokens: 8 }));
  });
  afterAll(async () => {
    await model.dispose();
    checkpoint.remove();
    expect(device.live).toBe(0);
  });

  test('answers as without explaining, and frees everything', async () => {
    const { text, tokens, finishReason } = await answerOf(model, conversation, 8);
    expect({ ...answer, seconds: 0 }).toMatchObject({ text, tokens, finishReason });
    expect(device.live).toBe(Object.keys(model.weights).length + model.images.size);
    expect(explanation.answerTokens.join('')).toContain(text.trim());
    expect(explanation.questionTokens.join('')).toContain('What is this?');
  });

  test('the tower: shares of attention between every patch and every question token', () => {
    const { vision } = model.config;
    const { patchesToQuestion, questionToPatches } = explanation.tower!;
    const count = explanation.questionTokens.length;
    const shape = [vision.layers, count, vision.grid, vision.grid];
    expect(patchesToQuestion.shape).toEqual(shape);
    expect(questionToPatches.shape).toEqual(shape);
    for (const data of [patchesToQuestion.data, questionToPatches.data]) {
      expect(data.every((x) => x > 0 && x < 1)).toBe(true);
    }
    // A patch's attention to all question tokens is what it leaves of 1 for patches; so is a question token's.
    for (let layer = 0; layer < vision.layers; layer++) {
      for (let patch = 0; patch < vision.patches; patch++) {
        const tokens = eachMap(mapAt(patchesToQuestion, layer), 1).map(({ data }) => data[patch]!);
        expect(tokens.reduce((a, b) => a + b, 0)).toBeLessThan(1);
      }
      for (const map of eachMap(mapAt(questionToPatches, layer), 1)) expect(sum(map)).toBeLessThan(1);
    }
    // The released code lets text average everything in the first half.
    const even = 1 / (vision.patches + count);
    for (const x of mapAt(questionToPatches, 0).data) expect(x).toBeCloseTo(even, 7);
    expect(new Set(mapAt(questionToPatches, vision.layers - 1).data).size).toBeGreaterThan(10);
  });

  test('the tower’s values are those of its own attention', async () => {
    const { patches } = model.config.vision;
    const { patchesToQuestion, questionToPatches } = explanation.tower!;
    const full = await wholeTowerAttention(model);
    for (const layer of [0, model.config.vision.layers - 1]) {
      for (let token = 0; token < explanation.questionTokens.length; token++) {
        const [to, from] = [patchesToQuestion, questionToPatches].map(
          (maps) => mapAt(maps, layer, token).data,
        );
        for (let patch = 0; patch < patches; patch++) {
          expect(to![patch]).toBeCloseTo(full(layer, patch, patches + token), 6);
          expect(from![patch]).toBeCloseTo(full(layer, patches + token, patch), 6);
        }
      }
    }
  });

  test('the latents: all attention lies in their windows', () => {
    const { config } = model;
    const { after, windows, latents, all } = explanation.interaction!;
    const { layers, window, start, stride } = config.interaction;
    expect(after).toEqual(Array.from({ length: layers }, (_, j) => start + j * stride));
    expect(windows.shape).toEqual([layers, config.defaultQueryLen, window ** 2]);
    const places = 2 * config.vision.grid;
    expect(latents.shape).toEqual([layers, config.defaultQueryLen, places, places]);
    expect(all.shape).toEqual([layers, places, places]);
    for (const map of [...eachMap(windows, 2), ...eachMap(latents, 2), ...eachMap(all, 1)]) {
      expect(sum(map)).toBeCloseTo(1, 5);
    }
    // The first latent looks at the top left, the last at the bottom right.
    expect(mapAt(latents, 0, 0).data.at(-1)).toBe(0);
    expect(mapAt(latents, 0, config.defaultQueryLen - 1).data[0]).toBe(0);
  });

  test('the answer: shares of the image, layer by layer', () => {
    const { layers, mean } = explanation.answer;
    const depth = model.config.decoder.layers;
    expect(layers.shape).toEqual([depth, answer.tokens.length, side, side]);
    expect(mean.shape).toEqual([answer.tokens.length, side, side]);
    for (const map of eachMap(layers, 2)) {
      expect(sum(map)).toBeGreaterThan(0);
      expect(sum(map)).toBeLessThan(1);
    }
    const first = eachMap(layers, 1).map((layer) => layer.data[5]!);
    expect(mean.data[5]).toBeCloseTo(first.reduce((a, b) => a + b, 0) / depth, 6);
  });

  test('a token was chosen without those after it', async () => {
    const given = { tokens: answer.tokens.slice(0, 3) };
    const early = await explainAnswer(model, conversation, given);
    const [all, few] = [explanation.answer.mean, early.answer.mean];
    expect(few.shape[0]).toBe(3);
    for (const [i, x] of few.data.entries()) expect(x).toBeCloseTo(all.data[i]!, 6);
    const nothing = await explainAnswer(model, conversation, { tokens: [] });
    expect(nothing.answer.mean).toEqual({ shape: [0, side, side], data: new Float32Array() });
  });

  test.each([
    ['one turn', conversation],
    ['the image at the second turn', chat],
  ])('the answer’s values are the rows and columns of the decoder’s own attention: %s', async (__, asked) => {
    const { tokens } = await answerOf(model, asked, 4);
    const got = await explainAnswer(model, asked, { tokens });
    const full = await wholeAttention(model, asked, tokens);
    const { promptTokens, prompt } = planAnswer(model, asked.messages, true, {});
    const ids = Array.from(prompt.inputIds);
    const firstPlaceholder = ids.findIndex((id) => id === IMAGE || id === LATENT);
    const { layers } = got.answer;
    for (let layer = 0; layer < model.config.decoder.layers; layer++) {
      for (let token = 0; token < tokens.length; token++) {
        const row = full(layer, promptTokens - 1 + token);
        expect(row.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
        const expected = row.slice(firstPlaceholder, firstPlaceholder + side ** 2);
        const map = mapAt(layers, layer, token).data;
        for (const [i, x] of expected.entries()) expect(map[i]).toBeCloseTo(x, 6);
      }
    }
  });
});

/** The tower's attention, mean over heads, while it reads the conversation: by layer, row and column. */
async function wholeTowerAttention(model: FusionModel) {
  const { config, device } = model;
  const { instructs } = planAnswer(model, conversation.messages, true, {}).prompt;
  const side = config.vision.imageSize;
  const [pixels, ids] = [input('pixels', 'f32', [1, 3, side, side]), input('instructs', 'i32', [1, 'T'])];
  const seen: Record<string, Tensor> = {};
  encodeWhole(modelInputs(config).parameters, pixels, ids, config, undefined, (layer, weights) => {
    seen[layer] = weights;
  });
  const executable = await device.load(program('tower', seen));
  const { outputs } = await executable.run({
    ...model.weights,
    pixels: f32(picture.crops.slice(4 * 3 * side ** 2), [1, 3, side, side]),
    instructs: i32(instructs, [1, instructs.length]),
  });
  await executable.dispose();
  return (layer: number, row: number, column: number) => {
    const { data, shape } = outputs[layer]!;
    const [, heads = 0, rows = 0] = shape;
    let total = 0;
    for (let h = 0; h < heads; h++) total += Number(data[(h * rows + row) * rows + column]);
    return total / heads;
  };
}

/** The decoder's attention, mean over heads, while it reads prompt and answer: rows by layer and position. */
async function wholeAttention(model: FusionModel, asked: Conversation, tokens: readonly number[]) {
  const { config, device } = model;
  const { prompt, queryLength } = planAnswer(model, asked.messages, true, {});
  const { parameters } = modelInputs(config);
  const { x, interaction } = promptInputs(parameters, config, 1, queryLength);
  const seen: Record<string, Tensor> = {};
  const attend = (layer: number) =>
    causal('S', (weights) => {
      seen[layer] = weights;
    });
  decode(parameters, x, rotaryInputs(config, 'S'), config, attend, { interaction });
  const executable = await device.load(program('full', seen));
  const layout = sequenceLayout(config, {
    ids: [...Array.from(prompt.inputIds), ...tokens.slice(0, -1)],
    endsOfQuestion: prompt.endsOfQuestion,
    queryLength,
  });
  const held = await model.images.tiles(asked.picture);
  const imageTokens = await model.images.whole(asked.picture, prompt.instructs);
  const { outputs } = await executable.run({
    ...model.weights,
    ...sequenceFeeds(layout),
    ...rotaryFeeds(config.decoder, 0, layout.sequence, layout.sequence),
    image_tokens: imageTokens,
    tile_features: held.features,
    last_positions: i32(Int32Array.of(0)),
  });
  await device.free([imageTokens]);
  await held.release();
  await executable.dispose();
  const [heads, length] = [config.decoder.heads, layout.sequence];
  return (layer: number, position: number) => {
    const data = outputs[layer]?.data as Float32Array;
    return Array.from({ length }, (_, column) => {
      let total = 0;
      for (let h = 0; h < heads; h++) total += data[(h * length + position) * length + column]!;
      return total / heads;
    });
  };
}

test('refuses a conversation without a picture, and stops when it is told to', async () => {
  const checkpoint = copyCheckpoint();
  const device = new CountingDevice();
  const model = await loadModel(checkpoint.dir, { device });
  try {
    const text: Conversation = { messages: [{ role: 'user', text: 'Hello' }] };
    await expect(explain(model, text)).rejects.toThrow(UserError);
    await expect(explainAnswer(model, text, { tokens: [] })).rejects.toThrow(
      'expected a conversation with an image',
    );
    expect(device.runs).toEqual([]);
    const stopper = new AbortController();
    device.afterRun = (name) => name === 'explain_whole' && stopper.abort(new Error('enough'));
    const options = { tokens: [65], signal: stopper.signal };
    await expect(explainAnswer(model, conversation, options)).rejects.toThrow('enough');
    expect(device.runs.at(-1)).toBe('explain_whole');
    expect(device.live).toBe(Object.keys(model.weights).length + model.images.size);
  } finally {
    await model.dispose();
    checkpoint.remove();
  }
});

test('a tower that does not read the question has nothing to show', async () => {
  const checkpoint = copyCheckpoint('llama-small', { text_guided: false });
  const model = await loadModel(checkpoint.dir, { device: new CountingDevice() });
  try {
    const { tower, interaction, answer } = await explainAnswer(model, conversation, { tokens: [65] });
    expect(tower).toBeUndefined();
    expect(interaction?.after).toHaveLength(2);
    expect(answer.mean.shape).toEqual([1, 8, 8]);
  } finally {
    await model.dispose();
    checkpoint.remove();
  }
});
