/** The page's parts that need no browser: streams, heat maps, pictures, settings, conversations, errors. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { jsonPieces } from '../src/common/jsonPieces.ts';
import { explanationJson } from '../src/generate/explainJson.ts';
import { failureText, progressText } from '../web/src/api.ts';
import { type Exchange, messagesOf, reduce, speedText } from '../web/src/conversation.ts';
import { itemNames, layerNames, mapOf, readExplanation, viewsOf } from '../web/src/explanation.ts';
import { describePeak, heatPixels, mean, peakOf, sum } from '../web/src/heat.ts';
import { exifOrientation, planImage } from '../web/src/imagePlan.ts';
import { nextSentences } from '../web/src/sentences.ts';
import { DEFAULTS, loadSettings, saveSettings, validSettings } from '../web/src/settings.ts';
import { eventParser, streamEvents } from '../web/src/sse.ts';
import { GOLDEN } from './support/checkpoints.ts';

describe('server-sent events', () => {
  const text =
    ': {"waiting":2}\n\ndata: {"a":1}\n\ndata: two\r\ndata: lines\r\n\r\nevent: x\rdata:é\r\rdata\n\n: end\n';
  const events = [
    { kind: 'comment', text: '{"waiting":2}' },
    { kind: 'data', text: '{"a":1}' },
    { kind: 'data', text: 'two\nlines' },
    { kind: 'data', text: 'é' },
    { kind: 'data', text: '' },
    { kind: 'comment', text: 'end' },
  ];

  test('are the same wherever the stream is cut, also within a character', async () => {
    const bytes = new TextEncoder().encode(text);
    const cuts = fc.uniqueArray(fc.integer({ min: 0, max: bytes.length }), { maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(cuts, async (at) => {
        const ends = [...at.toSorted((a, b) => a - b), bytes.length];
        const pieces = ends.map((end, i) => bytes.subarray(ends[i - 1] ?? 0, end));
        const found = [];
        for await (const event of streamEvents(new Blob(pieces).stream())) found.push(event);
        expect(found).toEqual(events);
      }),
      { numRuns: 50 },
    );
    const parse = eventParser();
    expect([...text].flatMap((letter) => parse(letter))).toEqual(events);
  });

  test('an event that is not complete is none', () => {
    const parse = eventParser();
    expect(parse('data: half')).toEqual([]);
    expect(parse('\n')).toEqual([]);
    expect(parse('\n')).toEqual([{ kind: 'data', text: 'half' }]);
  });
});

describe('heat maps', () => {
  const maps = { shape: [2, 1, 3], data: Float32Array.of(1, 2, 3, 5, 4, 3) };

  test('add up and average over their first axis', () => {
    expect(sum(maps)).toEqual({ shape: [1, 3], data: Float32Array.of(6, 6, 6) });
    expect(mean(maps)).toEqual({ shape: [1, 3], data: Float32Array.of(3, 3, 3) });
  });

  test('colour the least and the largest value with the ends of the scale; equal values with the first', () => {
    const pixels = heatPixels({ rows: 1, columns: 3, values: Float32Array.of(0.2, 0.4, 0.3) });
    expect([...pixels.subarray(0, 8)]).toEqual([68, 1, 84, 255, 253, 231, 37, 255]);
    expect([...heatPixels({ rows: 1, columns: 1, values: Float32Array.of(0.5) })]).toEqual([68, 1, 84, 255]);
  });

  test.each([
    [0, 'strongest in the upper left, 50 %'],
    [5, 'strongest in the upper right, 50 %'],
    [14, 'strongest in the centre, 50 %'],
    [33, 'strongest in the lower centre, 50 %'],
    [12, 'strongest in the middle left, 50 %'],
  ])('say in words where cell %i is', (cell, words) => {
    const values = Float32Array.from({ length: 36 }, (_, i) => (i === cell ? 0.5 : 0.01));
    const grid = { rows: 6, columns: 6, values };
    expect(describePeak(grid)).toBe(words);
    expect(peakOf(grid)).toMatchObject({ row: Math.floor(cell / 6), column: cell % 6 });
  });
});

describe('an explanation', () => {
  const maps = (shape: readonly number[], from = 0) => {
    const size = shape.reduce((a, b) => a * b, 1);
    return { shape, data: Float32Array.from({ length: size }, (_, i) => from + i) };
  };
  const given = {
    questionTokens: ['What', ' '],
    answerTokens: [' a', '\n', ' cat'],
    tower: { patchesToQuestion: maps([2, 2, 1, 2]), questionToPatches: maps([2, 2, 1, 2], 100) },
    interaction: {
      after: [1, 3],
      windows: maps([2, 4, 1]),
      latents: maps([2, 4, 2, 2]),
      all: maps([2, 2, 2]),
    },
    answer: { layers: maps([2, 3, 1, 1]), mean: maps([3, 1, 1]) },
  };
  const read = (explanation: Parameters<typeof explanationJson>[0]) =>
    readExplanation(JSON.parse([...jsonPieces(explanationJson(explanation))].join('')));

  test('is read as the server writes it', () => {
    const explanation = read(given);
    expect(explanation.tower?.questionToPatches).toEqual(given.tower.questionToPatches);
    expect(viewsOf(explanation)).toEqual(['patches', 'question', 'latents', 'answer']);
    expect(layerNames(explanation, 'latents')).toEqual(['after decoder layer 2', 'after decoder layer 4']);
    expect(layerNames(explanation, 'answer')).toEqual(['layer 1 of 2', 'layer 2 of 2']);
    expect(itemNames(explanation, 'question')).toEqual(['What', '␣']);
    expect(itemNames(explanation, 'latents')).toEqual(['1', '2', '3', '4']);
    expect(itemNames(explanation, 'answer')).toEqual(['a', '↵', 'cat']);
    expect(() => readExplanation({ answer: 3 })).toThrow('no explanation that this page understands');
  });

  test('has the map of each choice', () => {
    const explanation = read(given);
    const values = (view: 'patches' | 'question' | 'latents' | 'answer', layer?: number, item?: number) => [
      ...mapOf(explanation, { view, layer, item }).values,
    ];
    expect(values('patches', 0, 1)).toEqual([2, 3]);
    expect(values('patches', 1)).toEqual([4 + 6, 5 + 7]);
    expect(values('patches')).toEqual([(0 + 2 + 4 + 6) / 2, (1 + 3 + 5 + 7) / 2]);
    expect(values('question')).toEqual([103, 104]);
    expect(values('latents', 1, 3)).toEqual([28, 29, 30, 31]);
    expect(values('latents', 0)).toEqual([6, 7, 8, 9]);
    expect(values('answer', undefined, 2)).toEqual([3.5]);
  });

  test('of a model without text in its tower and without interaction layers', () => {
    const explanation = read({ ...given, tower: undefined, interaction: undefined });
    expect(viewsOf(explanation)).toEqual(['answer']);
  });
});

describe('pictures', () => {
  const image = { type: 'image/png', bytes: 50_000, width: 800, height: 600, turned: false };
  test.each([
    ['small', {}, {}, undefined],
    ['wide', { width: 4000, height: 1000 }, {}, { width: 2048, height: 512, type: 'image/jpeg' }],
    ['long and thin', { width: 2, height: 9000 }, {}, { width: 1, height: 2048, type: 'image/jpeg' }],
    ['many pixels', {}, { image_pixels: 120_000 }, { width: 400, height: 300, type: 'image/jpeg' }],
    ['many bytes', { bytes: 5e6 }, { image_bytes: 4e6 }, { width: 800, height: 600, type: 'image/jpeg' }],
    [
      'a body too large',
      { bytes: 8e5 },
      { body_bytes: 1e6 },
      { width: 800, height: 600, type: 'image/jpeg' },
    ],
    [
      'on its side',
      { type: 'image/jpeg', turned: true },
      {},
      { width: 800, height: 600, type: 'image/jpeg' },
    ],
    ['of another format', { type: 'image/bmp' }, {}, { width: 800, height: 600, type: 'image/png' }],
  ])('%s', (_, facts, limits, redraw) => {
    const plan = planImage({ ...image, ...facts }, limits);
    expect(plan.redraw).toEqual(redraw);
    const smaller = redraw !== undefined && redraw.width < { ...image, ...facts }.width;
    expect(/smaller/.test(plan.note ?? '')).toBe(smaller);
  });

  test('say how they lie', () => {
    const orientation = (name: string) => exifOrientation(readFileSync(join(GOLDEN, 'images', name)));
    expect(orientation('exif_rotated.jpg')).toBe(6);
    expect(orientation('baseline.jpg')).toBe(1);
    expect(orientation('tiny.png')).toBe(1);
    const bytes = readFileSync(join(GOLDEN, 'images/exif_rotated.jpg'));
    for (let length = 0; length < 200; length++) {
      expect([1, 6]).toContain(exifOrientation(bytes.subarray(0, length)));
    }
  });
});

describe('settings', () => {
  test('are kept, brought within their limits, and never in the way', () => {
    const kept = new Map<string, string>();
    const store = {
      getItem: (key: string) => kept.get(key) ?? null,
      setItem: (key: string, value: string) => void kept.set(key, value),
    };
    expect(loadSettings(store)).toEqual(DEFAULTS);
    const settings = { temperature: 0.7, topP: 0.9, maxTokens: 20, seed: 3 };
    saveSettings(store, settings);
    expect(loadSettings(store)).toEqual(settings);
    expect(validSettings({ temperature: 9, topP: 0, maxTokens: 0.2, seed: 'x' })).toEqual({
      temperature: 2,
      topP: 0.05,
      maxTokens: 1,
      seed: undefined,
    });
    for (const broken of ['{', 'null', '[]', '3']) {
      expect(loadSettings({ ...store, getItem: () => broken })).toEqual(DEFAULTS);
    }
    const shut = () => {
      throw new Error('no storage');
    };
    expect(loadSettings({ getItem: shut, setItem: shut })).toEqual(DEFAULTS);
    expect(() => saveSettings({ getItem: shut, setItem: shut }, settings)).not.toThrow();
  });
});

describe('a conversation', () => {
  const ask = (exchanges: readonly Exchange[], at: number, id: number, question: string) =>
    reduce(exchanges, { type: 'ask', at, id, question, model: 'm', sampling: { seed: id } });

  test('grows, and begins again where a question is changed', () => {
    let exchanges = ask([], 0, 1, 'One?');
    exchanges = reduce(exchanges, { type: 'text', id: 1, text: 'Yes', pieces: 1 });
    exchanges = reduce(exchanges, { type: 'text', id: 1, text: ', one.', pieces: 2 });
    exchanges = reduce(exchanges, { type: 'change', id: 1, change: { state: 'done' } });
    expect(exchanges).toMatchObject([{ answer: 'Yes, one.', pieces: 3, state: 'done' }]);
    exchanges = ask(ask(exchanges, 1, 2, 'Two?'), 2, 3, 'Three?');
    exchanges = ask(exchanges, 1, 4, 'Four?');
    expect(exchanges.map(({ question }) => question)).toEqual(['One?', 'Four?']);
    expect(reduce(exchanges, { type: 'text', id: 3, text: 'late', pieces: 1 })).toEqual(exchanges);
    expect(reduce(exchanges, { type: 'clear' })).toEqual([]);
  });

  test('becomes messages: the picture in the first, unanswered questions left out', () => {
    const before = [
      { question: 'No?', answer: '' },
      { question: 'One?', answer: 'Yes.' },
    ];
    expect(messagesOf(before, 'Two?', 'data:x')).toEqual([
      {
        role: 'user',
        content: [
          { type: 'image_url', image_url: { url: 'data:x' } },
          { type: 'text', text: 'One?' },
        ],
      },
      { role: 'assistant', content: 'Yes.' },
      { role: 'user', content: 'Two?' },
    ]);
    expect(messagesOf([], 'Two?', undefined)).toEqual([{ role: 'user', content: 'Two?' }]);
  });

  test('tells its speed', () => {
    const times = {
      queue_ms: 100,
      image_ms: 50,
      vision_ms: 250,
      prompt_ms: 800,
      prompt_n: 9,
      predicted_ms: 500,
    };
    expect(speedText({ ...times, predicted_n: 21, predicted_per_second: 40.04 })).toBe(
      '21 tokens · 40 tokens/s · first after 1.2 s',
    );
    expect(speedText({ ...times, predicted_n: 1, predicted_per_second: 0 })).toBe(
      '1 token · first after 1.2 s',
    );
  });

  test('is read aloud in whole sentences', () => {
    expect(nextSentences('It is red. It has', 0, false)).toBe('It is red. ');
    expect(nextSentences('It is red. It has two.', 11, false)).toBe('');
    expect(nextSentences('It is red. It has two.', 11, true)).toBe('It has two.');
    expect(nextSentences('- one\n- tw', 0, false)).toBe('- one\n');
    expect(nextSentences('3.14 is', 0, false)).toBe('');
  });
});

test('what goes wrong and what is going on is said in plain words', () => {
  expect(failureText(429, 'queue full', 1)).toBe('The server has its hands full. Try again in 1 second.');
  expect(failureText(429, 'queue full')).toMatch(/in a moment\.$/);
  expect(failureText(503, 'the server is stopping')).toMatch(
    /^The server cannot answer just now: the server is/,
  );
  expect(failureText(401, 'x')).toMatch(/API key/);
  expect(failureText(413, 'x')).toMatch(/smaller picture/);
  expect(failureText(400, 'max_tokens: expected less')).toBe('max_tokens: expected less.');
  expect(failureText(404, 'no such page')).toBe('No such page.');
  expect(progressText({ waiting: 1 })).toBe('1 question before yours');
  expect(progressText({ phase: 'load', done: 2, total: 5 })).toBe('Loading the model, 40 %');
  expect(progressText({ phase: 'vision' })).toBe('Looking at the picture');
  expect(progressText({})).toBeUndefined();
});
