/** A checkpoint behind the server's interface: planned once, in a thread where the conversation is long. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { copyCheckpoint } from '../../test/support/checkpoints.ts';
import type { Message } from '../data/conversation.ts';
import { planAnswer } from '../generate/answer.ts';
import { type ModelFiles, readModelFiles } from '../generate/model.ts';
import type { ServableModel } from './answerer.ts';
import { fusionModel } from './fusionModel.ts';

/** Longer than the checkpoint's, so that a long conversation fits. */
const CONTEXT = 3000;

const checkpoint = copyCheckpoint();
let files: ModelFiles;
let model: ServableModel;
/** Texts that this thread tokenised. */
let encoded: number;

beforeAll(async () => {
  const read = await readModelFiles(checkpoint.dir);
  const decoder = { ...read.config.decoder, maxPositions: CONTEXT };
  files = { ...read, config: { ...read.config, maxLength: CONTEXT, decoder } };
  const { tokenizer } = files;
  const encode: typeof tokenizer.encode = (...asked) => {
    encoded += 1;
    return tokenizer.encode(...asked);
  };
  const options = { maxSequences: 2, threads: 1, queryLength: 16 };
  model = fusionModel('golden', { ...files, tokenizer: { ...tokenizer, encode } }, options);
});
afterAll(async () => {
  await model.close();
  checkpoint.remove();
});

const user = (text: string): Message => ({ role: 'user', text });
const LONG = 'what is it? '.repeat(360);
const plan = (messages: readonly Message[], options = {}) => {
  encoded = 0;
  return model.plan(messages, false, { maxTokens: 4, ...options });
};

test('a short conversation is tokenised once, here; the answer takes that', async () => {
  const messages = [user('What is this?')];
  const made = await plan(messages);
  expect([encoded > 0, made.queryLength]).toEqual([true, 16]);
  const before = encoded;
  const loaded = await model.load(() => {});
  const events = [];
  for await (const event of loaded.stream({ messages }, { maxTokens: 4 }, made)) events.push(event);
  await loaded.dispose();
  expect(events.at(-1)).toMatchObject({
    type: 'done',
    answer: { queryLength: 16, promptTokens: made.promptTokens },
  });
  expect(encoded).toBe(before);
});

test('a long one is tokenised in a thread, to the same tokens', async () => {
  const options = { maxTokens: 4, queryLength: 4, systemText: 'Be <image> brief.' };
  const messages = [user(LONG), { role: 'assistant' as const, text: 'Yes.' }, user('Why?')];
  const { prompt, ...limits } = planAnswer(files, messages, false, options);
  const made = await plan(messages, options);
  expect(encoded).toBe(0);
  expect(made.prompt).toEqual(prompt);
  expect(made).toMatchObject({ promptTokens: limits.promptTokens, queryLength: 4, maxTokens: 4 });
});

test.each([
  ['an option', [user(LONG)], { temperature: -1 }, /temperature: expected/],
  ['a turn', [user(LONG), user('Why?')], {}, /take turns/],
  ['the context', [user(LONG)], { maxTokens: 5000 }, /prompt and answer: expected at most/],
  ['an image that is not there', [user(`<image>${LONG}`)], {}, /expected no <image>/],
])('what is wrong with a long one is told: %s', async (_, messages, options, message) => {
  await expect(plan(messages, options)).rejects.toThrow(message);
  expect(encoded).toBe(0);
});
