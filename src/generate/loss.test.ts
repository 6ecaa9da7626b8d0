import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { copyCheckpoint, GOLDEN } from '../../test/support/checkpoints.ts';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { UserError } from '../common/errors.ts';
import { encodePrompt, type Message } from '../data/conversation.ts';
import { readImage } from '../data/imageFile.ts';
import { DecodeSession } from './decodeSession.ts';
import { forward, type Sample } from './loss.ts';
import { type FusionModel, loadModel } from './model.ts';
import { pictureOf } from './picture.ts';
import { logProbabilities } from './sampling.ts';

const checkpoint = copyCheckpoint();
const device = new CountingDevice();
const image = join(GOLDEN, 'images/baseline.jpg');
let model: FusionModel;
beforeAll(async () => {
  model = await loadModel(checkpoint.dir, { device });
});
afterAll(async () => {
  await model.dispose();
  checkpoint.remove();
  expect(device.live).toBe(0);
});

const sample: Sample = {
  messages: [
    { role: 'user', text: 'What is this?' },
    { role: 'assistant', text: 'A small cat.' },
  ],
  image,
};

/** Mean negative log-probability of the answers when each is generated after the turns before it. */
async function generatedCrossEntropy(
  messages: readonly Message[],
): Promise<{ mean: number; length: number }> {
  const asked = messages.slice(0, -1).map((message, i) => {
    return i === 0 ? { ...message, text: `<image>\n${message.text}` } : message;
  });
  const prompt = encodePrompt(model.tokenizer, model.format, asked, { hasImage: true });
  const picture = pictureOf(await readImage(image), model.config.vision);
  const held = await model.images.tiles(picture);
  const imageTokens = await model.images.whole(picture, prompt.instructs);
  const answers = messages.filter(({ role }) => role === 'assistant');
  let [sum, count, length] = [0, 0, 0];
  for (const [turn, { text }] of answers.entries()) {
    const inputIds = prompt.inputIds.slice(0, prompt.endsOfQuestion[turn]! + 1);
    const start = { inputIds, endsOfQuestion: prompt.endsOfQuestion.slice(0, turn + 1) };
    const session = new DecodeSession(model, start, { tiles: held.features, imageTokens }, 4);
    let logits = await session.prefill();
    for (const id of [...model.tokenizer.encode(text), model.tokenizer.tokenId('<|eot_id|>')!]) {
      sum -= logProbabilities(logits, [id])[0]!.logProbability;
      count += 1;
      logits = await session.append(id);
    }
    length = session.length;
    await session.free();
  }
  await device.free([imageTokens]);
  await held.release();
  return { mean: sum / count, length };
}

test.each([
  ['one turn', sample.messages],
  [
    'two turns',
    [
      ...sample.messages,
      { role: 'user', text: 'And its colour?' } as const,
      { role: 'assistant', text: 'Black and white.' } as const,
    ],
  ],
])('the cross-entropy is that of generating the answers token by token: %s', async (_, messages) => {
  const { crossEntropy, loss, textLoss, visionLoss, length } = await forward(model, { messages, image });
  const generated = await generatedCrossEntropy(messages);
  expect(crossEntropy).toBeCloseTo(generated.mean, 4);
  expect(length).toBe(generated.length);
  expect(loss).toBeCloseTo(crossEntropy + 0.1 * (textLoss + visionLoss), 5);
  expect(textLoss).toBeGreaterThan(0);
  expect(visionLoss).toBeGreaterThan(0);
});

test('gradients are slopes of the loss', async () => {
  const name = 'model.norm.weight';
  const { gradients, loss } = await forward(model, sample, { gradients: [name] });
  const slope = gradients[name]!;
  expect(slope.shape).toEqual([64]);
  const square = Array.from(slope.data as Float32Array).reduce((sum, g) => sum + g * g, 0);
  const weights = await device.download(model.weights[name]!);
  const step = 1e-2;
  const moved = (weights.data as Float32Array).map((w, i) => w - step * Number(slope.data[i]));
  const target = { to: model.weights[name]! };
  await device.copy([{ from: { ...weights, data: moved }, target }]);
  const after = await forward(model, sample);
  expect((loss - after.loss) / (step * square)).toBeCloseTo(1, 1);
  await device.copy([{ from: weights, target }]);
});

test('a text sample has no text loss; a marker of its own is kept', async () => {
  const { textLoss, crossEntropy } = await forward(model, { messages: sample.messages });
  expect(textLoss).toBe(0);
  expect(crossEntropy).toBeGreaterThan(0);
  const [question, answer] = sample.messages;
  const marked = { ...sample, messages: [{ ...question!, text: 'What <image>is this?' }, answer!] };
  const plain = await forward(model, sample);
  expect((await forward(model, marked)).loss).toBe(plain.loss);
});

test.each([
  ['no answer', { messages: sample.messages.slice(0, 1) }, {}, /an answer to learn from/],
  ['no such weight', sample, { gradients: ['model.nonsense'] }, /got model.nonsense/],
  ['no square', sample, { queryLength: 3 }, /perfect square/],
  ['no image', { ...sample, image: 'nope.png' }, {}, /nope.png/],
  [
    'a marker without an image',
    { messages: [{ role: 'user', text: '<image>' } as const, sample.messages[1]!] },
    {},
    /<image>/,
  ],
])('%s is refused', async (_, bad: Sample, options, message) => {
  const error = await forward(model, bad, options).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(UserError);
  expect((error as UserError).message).toMatch(message);
});
