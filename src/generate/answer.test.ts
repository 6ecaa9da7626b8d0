import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { copyCheckpoint, GOLDEN } from '../../test/support/checkpoints.ts';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { UserError } from '../common/errors.ts';
import type { ProgressEvent } from '../common/progress.ts';
import type { AnswerEvent, AnswerOptions } from './answer.ts';
import { ask, Chat, stream } from './chat.ts';
import { type FusionModel, loadModel } from './model.ts';

const checkpoint = copyCheckpoint();
const device = new CountingDevice();
const image = join(GOLDEN, 'images/baseline.jpg');
let model: FusionModel;
/** Tensors of a model at rest: its weights, and features of pictures seen. */
const atRest = () => Object.keys(model.weights).length + model.images.size;

beforeAll(async () => {
  model = await loadModel(checkpoint.dir, { device });
});
afterAll(async () => {
  await model.dispose();
  checkpoint.remove();
  expect(device.live).toBe(0);
});
beforeEach(() => {
  device.runs.length = 0;
  device.afterRun = () => {};
});

async function events(options: AnswerOptions, question = 'What is this?'): Promise<AnswerEvent[]> {
  const all: AnswerEvent[] = [];
  for await (const event of stream(model, { text: question, image }, options)) all.push(event);
  return all;
}

describe('streaming', () => {
  test('text events join to the answer; done comes last and tells everything', async () => {
    const all = await events({ maxTokens: 12 });
    const last = all.at(-1);
    if (last?.type !== 'done') throw new Error('no done event');
    const { answer } = last;
    const pieces = all.flatMap((event) => (event.type === 'text' ? [event.text] : []));
    expect(pieces.join('')).toBe(answer.text);
    expect(pieces.length).toBeGreaterThan(5);
    expect(answer.text).toBe(model.tokenizer.decode(answer.tokens, { skipSpecialTokens: true }));
    expect(answer).toMatchObject({ finishReason: 'length', queryLength: 4, seed: 0, warnings: [] });
    expect(answer.tokens).toHaveLength(12);
    for (const seconds of Object.values(answer.seconds)) expect(seconds).toBeGreaterThan(0);
    expect(answer.tokensPerSecond).toBeCloseTo(11 / answer.seconds.decode, 6);
    expect(answer.peakMemory).toBeGreaterThan(20e6);
    expect(device.live).toBe(atRest());
  });

  test('reports progress of vision and prefill', async () => {
    const seen: ProgressEvent[] = [];
    const fresh = join(GOLDEN, 'images/rgb.png');
    await ask(model, { text: 'x', image: fresh }, { maxTokens: 1, onProgress: (e) => seen.push(e) });
    const vision = seen.filter(({ phase }) => phase === 'vision').map(({ done }) => done);
    expect(vision).toEqual([0, 1, 2, 3, 4, 5]);
    const prefill = seen.filter(({ phase }) => phase === 'prefill');
    expect(prefill.map(({ done }) => done === 0)).toEqual([true, false]);
    expect(prefill[1]?.done).toBe(prefill[1]?.total);
  });

  test('an early end of the loop frees everything', async () => {
    for await (const event of stream(model, { text: 'What?', image }, { maxTokens: 50 })) {
      if (event.type === 'text') break;
    }
    expect(device.live).toBe(atRest());
    expect(device.runs.length).toBeLessThan(20);
  });
});

describe('the choice of tokens', () => {
  const sampled = { maxTokens: 16, temperature: 1 };

  test('equal seeds give equal answers, others do not', async () => {
    const text = async (seed: number) => (await ask(model, 'Tell me.', { ...sampled, seed })).tokens;
    const first = await text(7);
    expect(await text(7)).toEqual(first);
    expect(await text(8)).not.toEqual(first);
  });

  test('without a seed one is drawn, and it repeats the answer', async () => {
    const first = await ask(model, 'Tell me.', sampled);
    const again = await ask(model, 'Tell me.', { ...sampled, seed: first.seed });
    expect(again.tokens).toEqual(first.tokens);
    expect((await ask(model, 'Tell me.', sampled)).seed).not.toBe(first.seed);
  });

  test('answers under way at once do not disturb each other', async () => {
    const questions = ['Tell me.', 'What is new today?'];
    const alone = [
      await ask(model, questions[0]!, sampled),
      await ask(model, questions[1]!, { maxTokens: 9 }),
    ];
    const seed = alone[0]!.seed;
    const together = await Promise.all([
      ask(model, questions[0]!, { ...sampled, seed }),
      ask(model, questions[1]!, { maxTokens: 9 }),
    ]);
    expect(together.map(({ tokens }) => tokens)).toEqual(alone.map(({ tokens }) => tokens));
    expect(device.live).toBe(atRest());
  });

  test('a repetition penalty changes what greedy decoding says', async () => {
    const plain = await ask(model, { text: 'What is this?', image }, { maxTokens: 16 });
    const options = { maxTokens: 16, repetitionPenalty: 2 };
    const varied = await ask(model, { text: 'What is this?', image }, options);
    expect(new Set(varied.tokens).size).toBeGreaterThan(new Set(plain.tokens).size);
  });
});

describe('ends', () => {
  test('a stop string across token borders is cut off', async () => {
    const whole = await ask(model, { text: 'What is this?', image }, { maxTokens: 12 });
    const words = whole.text.slice(0, 14);
    const stop = words.slice(4, 9);
    const answer = await ask(model, { text: 'What is this?', image }, { maxTokens: 12, stop: [stop] });
    expect(answer).toMatchObject({
      finishReason: 'stop_string',
      text: whole.text.slice(0, whole.text.indexOf(stop)),
    });
    expect(answer.tokens.length).toBeLessThan(12);
    expect(device.live).toBe(atRest());
  });

  test('an end token is not part of the answer', async () => {
    const whole = await ask(model, 'Tell me.', { maxTokens: 8 });
    const end = whole.tokens.find((id, i) => i > 1 && whole.tokens.indexOf(id) === i)!;
    const stopping: FusionModel = { ...model, stopIds: new Set([end]) };
    const answer = await ask(stopping, 'Tell me.', { maxTokens: 8 });
    expect(answer.finishReason).toBe('stop');
    expect(answer.tokens).toEqual(whole.tokens.slice(0, whole.tokens.indexOf(end)));
  });

  test.each([
    ['before work', 0, 0],
    ['between tiles', 2, 2],
    ['after the whole crop', 5, 5],
    ['between tokens', 9, 9],
  ])('the caller, %s', async (_, after, runs) => {
    const stopper = new AbortController();
    if (after === 0) stopper.abort();
    device.afterRun = () => device.runs.length === after && stopper.abort();
    const text = `Never seen before: ${after}`;
    const fresh = { width: 2, height: 2, data: Uint8Array.from({ length: 12 }, (__, i) => i * after) };
    const options = { maxTokens: 30, signal: stopper.signal };
    const answer = await ask(model, { text, image: fresh }, options);
    expect(answer.finishReason).toBe('cancelled');
    expect(device.runs).toHaveLength(runs);
    expect(answer.tokens.length > 0).toBe(after > 6);
    expect(device.live).toBe(atRest());
  });

  test('a failing run is passed on and frees everything', async () => {
    device.afterRun = (name) => {
      if (name === 'decode') throw new Error('internal: out of order');
    };
    await expect(ask(model, 'Hello', { maxTokens: 5 })).rejects.toThrow('out of order');
    expect(device.live).toBe(atRest());
  });
});

describe('refusals, before anything is computed', () => {
  const refused = async (options: AnswerOptions, question = 'Hello') => {
    const error = await ask(model, { text: question, image }, options).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(UserError);
    expect(device.runs).toEqual([]);
    return (error as UserError).message;
  };

  test('an answer beyond the context, with both numbers', async () => {
    const message = await refused({ maxTokens: 1000 });
    expect(message).toMatch(/at most 1024 tokens .* got 12\d\d: 2\d\d of the prompt and 1000 of the answer/);
    const most = Number(/at most (\d+) answer/.exec(message)?.[1]);
    await ask(model, { text: 'Hello', image }, { maxTokens: most, stop: ['c', 'e', ' '] });
  });

  test('a question beyond the context', async () => {
    expect(await refused({}, 'why? '.repeat(1000))).toMatch(/at most 1024 .* shorten the question/);
  });

  test.each([
    [{ queryLength: 5 }, /perfect square from 1 to 256, got 5; .* trained with 4$/],
    [{ queryLength: 0 }, /perfect square/],
    [{ queryLength: 289 }, /perfect square from 1 to 256, got 289/],
    [{ maxTokens: 0 }, /max tokens: expected an integer from 1, got 0/],
    [{ temperature: -1 }, /temperature/],
    [{ stop: [''] }, /stop/],
  ])('%j', async (options, message) => {
    expect(await refused(options)).toMatch(message);
  });

  test.each(['', ' \n '])('an empty question %j', async (question) => {
    expect(await refused({}, question)).toMatch(/question: expected some text/);
  });
});

test('a query length that was not trained is used and told', async () => {
  const question = { text: 'Hello', image };
  const answer = await ask(model, question, { queryLength: 9, maxTokens: 3 });
  const usual = await ask(model, question, { maxTokens: 3 });
  expect(answer.warnings).toEqual(['query length 9: the model was trained with 4 only']);
  expect(answer.promptTokens).toBe(usual.promptTokens + 5);
});

test('what people type is text, not a marker', async () => {
  const answer = await ask(model, 'Is <image> a tag, or <latent_image>, or <|eot_id|>?', { maxTokens: 2 });
  expect(answer.finishReason).toBe('length');
  const chat = new Chat(model);
  await chat.ask('<image>', { maxTokens: 2 });
  expect(chat.messages[0]?.text).toBe('<image>');
});
