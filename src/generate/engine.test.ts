import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { copyCheckpoint, GOLDEN, goldenPixels } from '../../test/support/checkpoints.ts';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { UserError } from '../common/errors.ts';
import { Random } from '../common/random.ts';
import { readImage } from '../data/imageFile.ts';
import {
  type Answer,
  type AnswerEvent,
  type AnswerOptions,
  type Conversation,
  streamAnswer,
} from './answer.ts';
import { Engine } from './engine.ts';
import { type FusionModel, loadModel } from './model.ts';
import { type Picture, pictureOf, pictureOfCrops } from './picture.ts';

const checkpoint = copyCheckpoint();
const device = new CountingDevice();
let model: FusionModel;
let pictures: readonly Picture[];
let engine: Engine;
const atRest = () => Object.keys(model.weights).length + model.images.size;

beforeAll(async () => {
  model = await loadModel(checkpoint.dir, { device });
  const image = await readImage(join(GOLDEN, 'images/baseline.jpg'));
  pictures = [pictureOfCrops(goldenPixels(64)), pictureOf(image, model.config.vision)];
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
afterEach(async () => {
  await engine.close();
  expect(device.live).toBe(atRest());
  expect(engine.stats).toMatchObject({ running: 0, preparing: 0, waiting: 0, rows: 0, capacity: 0 });
});

const text = (question: string): Conversation => ({ messages: [{ role: 'user', text: question }] });
const about = (question: string, picture: Picture | undefined): Conversation => ({
  messages: [{ role: 'user', text: `<image>\n${question}` }],
  picture,
});

async function whole(events: AsyncIterable<AnswerEvent>): Promise<Answer> {
  for await (const event of events) if (event.type === 'done') return event.answer;
  throw new Error('no done event');
}
const alone = (conversation: Conversation, options: AnswerOptions) =>
  whole(streamAnswer(model, conversation, options));

/** A promise that resolves when `condition` holds after a run of the device. */
function until(condition: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    device.afterRun = () => condition() && resolve();
  });
}
const countOf = (name: string) => device.runs.filter((run) => run === name).length;

describe('answers under way together', () => {
  const asked = (): readonly (readonly [Conversation, AnswerOptions])[] => [
    [about('What is this?', pictures[0]), { maxTokens: 40 }],
    [text('Tell me.'), { maxTokens: 9 }],
    [about('And how many are there, if any?', pictures[1]), { maxTokens: 30 }],
    [text('What is new today? '.repeat(12)), { maxTokens: 21, temperature: 1, seed: 5 }],
    [about('Where?', pictures[1]), { maxTokens: 25, repetitionPenalty: 1.5 }],
  ];

  test('equal those alone, whenever they join and leave', async () => {
    const expected: Answer[] = [];
    for (const [conversation, options] of asked()) expected.push(await alone(conversation, options));
    engine = new Engine(model, { maxSequences: 4 });
    device.runs.length = 0;
    const answers: Promise<Answer>[] = [];
    const rows = new Set<number>();
    for (const [i, [conversation, options]] of asked().entries()) {
      answers.push(whole(engine.stream(conversation, options)));
      const stepsNow = countOf('decode');
      await until(() => {
        rows.add(engine.stats.rows);
        return countOf('decode') >= stepsNow + i;
      });
    }
    const got = await Promise.all(answers);
    expect(got.map(({ tokens }) => tokens)).toEqual(expected.map(({ tokens }) => tokens));
    expect(got.map(({ text: said }) => said)).toEqual(expected.map(({ text: said }) => said));
    expect([...rows].sort()).toEqual([0, 1, 2, 4]);
    // Steps were shared: alone the answers take one for each token but the first.
    const steps = expected.reduce((sum, { tokens }) => sum + tokens.length - 1, 0);
    expect(countOf('decode')).toBeLessThan(0.6 * steps);
    expect(engine.stats.steps).toBe(countOf('decode'));
    expect(engine.stats.tokens).toBe(steps + 5);
  });

  test('requests begin in the order they came, at most so many at once', async () => {
    engine = new Engine(model, { maxSequences: 2 });
    const ends: number[] = [];
    const seen: number[] = [];
    device.afterRun = () => seen.push(engine.stats.running);
    const lengths = [12, 3, 3, 3, 3];
    const ask = async (maxTokens: number, i: number) => {
      await whole(engine.stream(text(`Question ${i}`), { maxTokens }));
      ends.push(i);
    };
    const all = Promise.all(lengths.map(ask));
    await until(() => device.runs.length > 2);
    expect(engine.stats).toMatchObject({ running: 1, waiting: 3 });
    device.afterRun = () => seen.push(engine.stats.running);
    await all;
    expect(Math.max(...seen)).toBe(2);
    expect(ends.filter((i) => i > 0)).toEqual([1, 2, 3, 4]);
  });

  test('go on while a picture is encoded', async () => {
    engine = new Engine(model, { maxSequences: 2 });
    const first = whole(engine.stream(text('Tell me.'), { maxTokens: 60 }));
    await until(() => countOf('decode') === 1);
    device.runs.length = 0;
    const fresh = pictureOfCrops(goldenPixels(64).map((x) => -x));
    await Promise.all([first, whole(engine.stream(about('What?', fresh), { maxTokens: 2 }))]);
    const vision = device.runs.slice(
      device.runs.indexOf('encode_tile') + 1,
      device.runs.indexOf('encode_whole'),
    );
    expect(vision.filter((name) => name === 'encode_tile')).toHaveLength(3);
    expect(vision.filter((name) => name === 'decode').length).toBeGreaterThan(1);
  });
});

describe('leaving', () => {
  test('an aborted signal ends an answer at once, wherever it is', async () => {
    engine = new Engine(model, { maxSequences: 1 });
    const stoppers = [new AbortController(), new AbortController(), new AbortController()];
    const answers = stoppers.map(({ signal }, i) =>
      whole(engine.stream(text(`Question ${i}`), { maxTokens: 50, signal })),
    );
    await until(() => countOf('decode') === 3);
    stoppers[1]?.abort();
    expect(await answers[1]).toMatchObject({ finishReason: 'cancelled', text: '', tokens: [] });
    expect(engine.stats).toMatchObject({ running: 1, waiting: 1 });
    stoppers[0]?.abort();
    const first = await answers[0];
    expect(first?.finishReason).toBe('cancelled');
    expect(first?.tokens.length).toBeLessThan(8);
    expect(first?.text).toBe(model.tokenizer.decode(first?.tokens ?? []));
    expect((await answers[2])?.tokens).toHaveLength(50);
  });

  test('before it began, and while its picture is encoded', async () => {
    engine = new Engine(model, { maxSequences: 2 });
    const aborted = await whole(engine.stream(text('No.'), { signal: AbortSignal.abort() }));
    expect(aborted.finishReason).toBe('cancelled');
    expect(device.runs).toEqual([]);
    const stopper = new AbortController();
    device.afterRun = () => countOf('encode_tile') === 2 && stopper.abort();
    const fresh = pictureOfCrops(goldenPixels(64).map((x) => x / 3));
    const answer = await whole(engine.stream(about('What?', fresh), { signal: stopper.signal }));
    expect(answer.finishReason).toBe('cancelled');
    await engine.close();
    expect(device.runs).toEqual(['encode_tile', 'encode_tile']);
  });

  test('a reader that stops reading gives its place to the next', async () => {
    engine = new Engine(model, { maxSequences: 1 });
    for await (const event of engine.stream(text('Tell me.'), { maxTokens: 100 })) {
      if (event.type === 'text') break;
    }
    const answer = await whole(engine.stream(text('And now?'), { maxTokens: 3 }));
    expect(answer.tokens).toHaveLength(3);
    expect(countOf('decode')).toBeLessThan(10);
  });
});

test('many requests, of which many leave at any time: every place comes back', async () => {
  engine = new Engine(model, { maxSequences: 4 });
  const random = new Random(11);
  const requests = Array.from({ length: 60 }, (_, i) => {
    const stopper = new AbortController();
    const leaves = random.uniform() < 0.4 ? Math.floor(random.uniform() * 150) : Infinity;
    const conversation = i % 5 === 0 ? about(`Number ${i}?`, pictures[0]) : text(`Number ${i}?`);
    return { stopper, leaves, conversation, maxTokens: 1 + Math.floor(random.uniform() * 12) };
  });
  device.afterRun = () => {
    for (const { stopper, leaves } of requests) if (device.runs.length >= leaves) stopper.abort();
  };
  const answers = await Promise.all(
    requests.map(({ stopper, conversation, maxTokens }) =>
      whole(engine.stream(conversation, { maxTokens, signal: stopper.signal })),
    ),
  );
  for (const [i, { finishReason, tokens }] of answers.entries()) {
    if (finishReason === 'cancelled') expect(requests[i]?.leaves).toBeLessThan(Infinity);
    else expect(tokens).toHaveLength(requests[i]!.maxTokens);
  }
  const cancelled = answers.filter(({ finishReason }) => finishReason === 'cancelled').length;
  expect(cancelled).toBeGreaterThan(5);
});

describe('errors', () => {
  test('of a prefill and of a picture end their own answers', async () => {
    engine = new Engine(model, { maxSequences: 3 });
    const first = whole(engine.stream(text('Tell me.'), { maxTokens: 30 }));
    await until(() => countOf('decode') === 2);
    device.afterRun = (name) => {
      if (name === 'prefill' && countOf('prefill') === 2) throw new Error('prefill is broken');
      if (name === 'encode_tile') throw new Error('the picture is broken');
    };
    const second = whole(engine.stream(text('Broken?'), { maxTokens: 5 }));
    await expect(second).rejects.toThrow('prefill is broken');
    const fresh = pictureOfCrops(goldenPixels(64).map((x) => x / 5));
    const third = whole(engine.stream(about('Broken?', fresh), { maxTokens: 5 }));
    await expect(third).rejects.toThrow('the picture is broken');
    expect((await first).tokens).toEqual((await alone(text('Tell me.'), { maxTokens: 30 })).tokens);
  });

  test('of a step end all in it, and those that wait go on', async () => {
    engine = new Engine(model, { maxSequences: 2 });
    device.afterRun = (name) => {
      if (name === 'decode' && engine.stats.running === 2 && countOf('decode') < 6)
        throw new Error('no more');
    };
    const answers = ['One', 'Two', 'Three'].map((question) =>
      whole(engine.stream(text(question), { maxTokens: 20 })),
    );
    const settled = await Promise.allSettled(answers);
    expect(settled.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'fulfilled']);
  });

  test('what cannot be asked is refused before it waits', async () => {
    engine = new Engine(model, { maxSequences: 1 });
    await expect(whole(engine.stream(text('Hello'), { maxTokens: 0 }))).rejects.toBeInstanceOf(UserError);
    expect(() => new Engine(model, { maxSequences: 0 })).toThrow('an integer from 1, got 0');
    expect(device.runs).toEqual([]);
  });
});

test('close finishes what runs and refuses what waits', async () => {
  engine = new Engine(model, { maxSequences: 1 });
  const runs = whole(engine.stream(text('Tell me.'), { maxTokens: 12 }));
  const waits = whole(engine.stream(text('Me too.'), { maxTokens: 12 }));
  const refused = expect(waits).rejects.toThrow('engine: expected an open one');
  await until(() => countOf('decode') === 2);
  await engine.close();
  await refused;
  expect((await runs).tokens).toHaveLength(12);
  await expect(whole(engine.stream(text('Late.'), {}))).rejects.toBeInstanceOf(UserError);
});

test('longrope: an answer that outgrows the original context does not disturb its neighbour', async () => {
  const shape = { tokenizer_model_max_length: 4096, original_max_position_embeddings: 76 };
  const other = copyCheckpoint('phi3-siglip2', shape);
  const own = await loadModel(other.dir, { device });
  try {
    const questions = ['What is this? Tell me more.', 'What is new today? '.repeat(8)];
    const options = { maxTokens: 24 };
    const expected: Answer[] = [];
    for (const question of questions) expected.push(await whole(streamAnswer(own, text(question), options)));
    const both = new Engine(own, { maxSequences: 2 });
    device.runs.length = 0;
    const got = await Promise.all(questions.map((question) => whole(both.stream(text(question), options))));
    await both.close();
    expect(countOf('prefill')).toBe(3);
    expect(got.map(({ tokens }) => tokens)).toEqual(expected.map(({ tokens }) => tokens));
  } finally {
    await own.dispose();
    other.remove();
  }
});
