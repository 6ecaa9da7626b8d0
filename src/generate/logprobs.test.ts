import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { copyCheckpoint } from '../../test/support/checkpoints.ts';
import { UserError } from '../common/errors.ts';
import { type AnswerOptions, checkAnswerOptions, planAnswer, type TextEvent } from './answer.ts';
import { AnswerWriter } from './answerWriter.ts';
import { type TokenLogprob, tokenLogprob } from './logprobs.ts';
import { type ModelFiles, readModelFiles } from './model.ts';

const checkpoint = copyCheckpoint();
let files: ModelFiles;
beforeAll(async () => {
  files = await readModelFiles(checkpoint.dir);
});
afterAll(() => checkpoint.remove());

const vocabulary = () => files.config.decoder.vocabSize;
/** Logits of which some are given and all others are -20. */
function logitsOf(given: Readonly<Record<number, number>>): Float32Array {
  const logits = new Float32Array(vocabulary()).fill(-20);
  for (const [id, value] of Object.entries(given)) logits[Number(id)] = value;
  return logits;
}
const normaliser = (logits: Float32Array) => Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));

/** What an answer of these tokens, each by far the likeliest at its place, streams. */
function write(ids: readonly number[], options: AnswerOptions) {
  const plan = planAnswer(files, [{ role: 'user', text: 'Hello' }], false, options);
  const writer = new AnswerWriter(files, plan, options);
  const events: (TextEvent | undefined)[] = [];
  for (const id of ids) {
    events.push(writer.take(logitsOf({ [id]: 9, 70: 3, 71: 2 })));
    if (writer.finishReason !== undefined) break;
  }
  events.push(writer.end());
  return { writer, events: events.filter((event) => event !== undefined) };
}
const idsOf = (events: readonly TextEvent[]) =>
  events.map(({ text, logprobs }) => [text, logprobs?.map(({ id }) => id)]);

describe('a token', () => {
  test('has the logarithm of its softmax, its text and its bytes', () => {
    const logits = logitsOf({ 65: 3.5, 66: 3, 67: -1 });
    const whole = normaliser(logits);
    const { top, ...chosen } = tokenLogprob(files.tokenizer, logits, 67, 2);
    expect(chosen.logprob).toBeCloseTo(-1 - whole, 6);
    expect(chosen.bytes).toEqual([...files.tokenizer.tokenBytes(67)]);
    expect(chosen.token).toBe(files.tokenizer.decode([67]));
    expect(top.map(({ id }) => id)).toEqual([65, 66]);
    expect(top[0]?.logprob).toBeCloseTo(3.5 - whole, 6);
    expect(tokenLogprob(files.tokenizer, logits, 65, 0).top).toEqual([]);
  });

  test('is told from the model’s own logits, whatever chooses it', () => {
    const logits = logitsOf({ 65: 3, 66: 2 });
    const options = { temperature: 50, topK: 2, seed: 4, repetitionPenalty: 3, logprobs: 3 };
    const plan = planAnswer(files, [{ role: 'user', text: 'Hello' }], false, options);
    const writer = new AnswerWriter(files, plan, options);
    const seen: TokenLogprob[] = [];
    for (let i = 0; i < 12; i++) seen.push(...(writer.take(logits)?.logprobs ?? []));
    expect(new Set(seen.map(({ id }) => id))).toEqual(new Set([65, 66]));
    for (const { id, logprob, top } of seen) {
      expect(logprob).toBeCloseTo((id === 65 ? 3 : 2) - normaliser(logits), 6);
      expect(top).toHaveLength(3);
      expect(top.map((each) => each.id).slice(0, 2)).toEqual([65, 66]);
    }
  });
});

describe('a stream', () => {
  const idsOfText = (text: string) => files.tokenizer.encode(text);

  test('tells each token once, with the text in which it begins', () => {
    const ids = idsOfText('A cat — 猫 — sits.');
    const { writer, events } = write(ids, { logprobs: 1 });
    expect(writer.text).toBe('A cat — 猫 — sits.');
    expect(events.flatMap(({ logprobs }) => logprobs?.map(({ id }) => id) ?? [])).toEqual(ids);
    const bytes = events.flatMap(({ logprobs }) => logprobs?.flatMap((each) => each.bytes) ?? []);
    expect(new TextDecoder().decode(Uint8Array.from(bytes))).toBe(writer.text);
    // Tokens that are a part of a character come with the one that completes it.
    expect(Math.max(...events.map(({ logprobs }) => logprobs?.length ?? 0))).toBeGreaterThan(1);
  });

  test('has none unless they are asked for', () => {
    const { events } = write(idsOfText('A cat'), {});
    expect(events.every((event) => !('logprobs' in event))).toBe(true);
  });

  test('leaves out the tokens of a stop string, and keeps those before it', () => {
    const ids = [...'ab', ...'cde'].flatMap(idsOfText);
    const { writer, events } = write(ids, { logprobs: 0, stop: ['cd'] });
    expect(writer.finishReason).toBe('stop_string');
    expect(idsOf(events)).toEqual([
      ['a', [ids[0]]],
      ['b', [ids[1]]],
    ]);
  });

  test('tells tokens without text at the end', () => {
    const special = [...files.tokenizer.specialIds].find((id) => !files.stopIds.has(id)) as number;
    const ids = [...idsOfText('a'), special];
    expect(idsOf(write(ids, { logprobs: 0 }).events)).toEqual([
      ['a', ids.slice(0, 1)],
      ['', [special]],
    ]);
  });

  test('does not count the end token', () => {
    const [end] = files.stopIds;
    const { events, writer } = write([...idsOfText('a'), end as number], { logprobs: 0 });
    expect(writer.finishReason).toBe('stop');
    expect(idsOf(events)).toEqual([['a', idsOfText('a')]]);
  });
});

test.each([-1, 21, 1.5, Number.NaN])('%d alternatives are refused', (logprobs) => {
  expect(() => checkAnswerOptions({ logprobs })).toThrow(UserError);
  expect(() => checkAnswerOptions({ logprobs })).toThrow(
    `from 0 to 20 (alternatives for each token), got ${logprobs}`,
  );
});
