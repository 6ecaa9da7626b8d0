import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { type SmallBase, smallBase } from '../../test/support/smallBase.ts';
import { encodePrompt } from '../data/conversation.ts';
import { staticHdCrops } from '../data/image.ts';
import { evalQuestions, QA_CATEGORIES, renderScene } from '../data/synth/index.ts';
import { ask } from '../generate/chat.ts';
import { type FusionModel, loadModel } from '../generate/model.ts';
import type { Feed, HostTensor } from '../runtime/types.ts';
import { answerBatch } from './batchAnswers.ts';
import { evalSynth } from './synth.ts';

const device = new CountingDevice();
let made: SmallBase;
let model: FusionModel;

beforeAll(async () => {
  made = await smallBase();
  model = await loadModel(made.base, { device });
});
afterAll(async () => {
  await model.dispose();
  made.remove();
});

/** Questions 0 … count − 1 with their pictures. */
async function prompts(count: number) {
  const side = model.config.vision.imageSize;
  const asked = evalQuestions('test', 3, count);
  return Promise.all(
    asked.map(async ({ question, scene }) => {
      const messages = [{ role: 'user', text: `<image>\n${question}` }] as const;
      const prompt = encodePrompt(model.tokenizer, model.format, messages, { hasImage: true });
      const picture = await renderScene(scene, 2 * side);
      return { question, picture, prompt, crops: staticHdCrops(picture, side) };
    }),
  );
}

describe('answers in a batch', () => {
  test('are those of questions asked one by one', async () => {
    const all = await prompts(5);
    const alone = [];
    for (const { question, picture } of all) {
      alone.push(await ask(model, { text: question, image: picture }, { maxTokens: 4 }));
    }
    const together = await answerBatch(model, all, 4);
    expect(together).toEqual(alone.map(({ tokens }) => tokens));
    expect(new Set(together.map((ids) => ids.join())).size).toBeGreaterThan(1);
  });

  test('end one by one where the model says so', async () => {
    const all = await prompts(5);
    const long = await answerBatch(model, all, 4);
    const end = long[2]?.[2] ?? -1;
    const stopping: FusionModel = { ...model, stopIds: new Set([end]) };
    const cut = (ids: readonly number[]) => (ids.includes(end) ? ids.slice(0, ids.indexOf(end)) : ids);
    const short = await answerBatch(stopping, all, 4);
    expect(short).toEqual(long.map(cut));
    expect(short[2]?.length).toBeLessThan(3);
  });
});

describe('marking', () => {
  test('counts every question once in each table, and random weights know next to nothing', async () => {
    const report = await evalSynth(model, { count: 30, seed: 4 });
    const { overall, categories, kinds, answers } = report;
    expect(Object.keys(categories).sort()).toEqual([...QA_CATEGORIES].sort());
    for (const table of [categories, kinds]) {
      expect(Object.values(table).reduce((sum, { questions }) => sum + questions, 0)).toBe(30);
      expect(Object.values(table).reduce((sum, { right }) => sum + right, 0)).toBe(overall.right);
    }
    expect(answers.filter(({ right }) => right)).toHaveLength(overall.right);
    expect(overall).toMatchObject({ questions: 30, accuracy: overall.right / 30 });
    expect(overall.accuracy).toBeLessThan(0.3);
    expect(overall.blind).toBeGreaterThan(0.3);
    expect(answers.map(({ id }) => id)).toEqual(evalQuestions('test', 4, 30).map(({ id }) => id));
  });

  test('gives the same report again, whatever the size of the batch', async () => {
    const first = await evalSynth(model, { count: 10, seed: 5 });
    expect(await evalSynth(model, { count: 10, seed: 5, batch: 4 })).toEqual(first);
    expect(await evalSynth(model, { count: 10, seed: 6 })).not.toEqual(first);
  });

  test('asks about plain scenes where they are wanted', async () => {
    const kinds = async (plain: boolean) => {
      const { answers } = await evalSynth(model, { count: 60, seed: 5, plain });
      return new Set(answers.map(({ kind }) => kind));
    };
    const [all, plain] = [await kinds(false), await kinds(true)];
    expect([...all].filter((kind) => /pattern|front/i.test(kind))).not.toEqual([]);
    expect([...plain].filter((kind) => /pattern|front/i.test(kind))).toEqual([]);
  });

  test('tells how far it is', async () => {
    const seen: number[] = [];
    await evalSynth(model, { count: 5, seed: 1, batch: 2, onProgress: ({ done }) => seen.push(done) });
    expect(seen).toEqual([0, 2, 4, 5]);
  });
});

test('grey pictures change the pixels and nothing else', async () => {
  const recorded: Readonly<Record<string, Feed>>[] = [];
  const recording: FusionModel = {
    ...model,
    programs: new Proxy(model.programs, {
      get: (programs, name: 'tile' | 'whole' | 'decode') => async (length: number) => {
        const program = await (programs[name] as (n: number) => ReturnType<typeof programs.tile>).call(
          programs,
          length,
        );
        return {
          run: (feeds: Readonly<Record<string, Feed>>) => {
            recorded.push(feeds);
            return program.run(feeds);
          },
        };
      },
    }),
  };
  const first = async (blank: boolean) => {
    recorded.length = 0;
    const { answers } = await evalSynth(recording, { count: 3, seed: 7, blank });
    // Tiles, the whole crops by length of question, then the first tokens.
    const until = recorded.findIndex((feeds) => 'text_ids' in feeds);
    return { answers, feeds: recorded.slice(0, until + 1) };
  };
  const [seen, blank] = [await first(false), await first(true)];
  const isPixels = (name: string) => name.endsWith('pixels');
  const rest = (feeds: Readonly<Record<string, Feed>>) =>
    Object.entries(feeds).filter(([name]) => !isPixels(name) && !/^(image_tokens|tile_features)$/.test(name));
  expect(blank.feeds.map(rest)).toEqual(seen.feeds.map(rest));
  const pixels = (feeds: readonly Readonly<Record<string, Feed>>[]) =>
    feeds.flatMap((one) => Object.entries(one).flatMap(([name, feed]) => (isPixels(name) ? [feed] : [])));
  const numbers = (feed: Feed) => Array.from((feed as HostTensor).data, Number);
  expect(pixels(blank.feeds).length).toBeGreaterThan(1);
  expect(
    pixels(blank.feeds)
      .flatMap(numbers)
      .every((value) => value === 0),
  ).toBe(true);
  for (const feed of pixels(seen.feeds)) expect(numbers(feed).some((value) => value !== 0)).toBe(true);
  expect(pixels(blank.feeds).map(({ shape }) => shape)).toEqual(pixels(seen.feeds).map(({ shape }) => shape));
  const asked = (answers: typeof seen.answers) => answers.map(({ id, expected }) => [id, expected]);
  expect(asked(blank.answers)).toEqual(asked(seen.answers));
});
