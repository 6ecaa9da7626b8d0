import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { copyCheckpoint, GOLDEN, goldenPixels } from '../../test/support/checkpoints.ts';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { openSafetensors, readTensor } from '../checkpoint/safetensors.ts';
import { encodePrompt, type Message } from '../data/conversation.ts';
import { type PromptIds, promptLength } from './batchDecoder.ts';
import { DecodeSession } from './decodeSession.ts';
import { type FusionModel, loadModel } from './model.ts';
import { type Picture, pictureOfCrops } from './picture.ts';

const argmax = (logits: Float32Array) => logits.indexOf(Math.max(...logits));

/** Largest deviation, as a share of the largest expected logit. */
function deviation(actual: Float32Array, expected: Float32Array): number {
  const scale = Math.max(...expected.map(Math.abs));
  return Math.max(...actual.map((value, i) => Math.abs(value - expected[i]!))) / scale;
}

interface Prepared {
  readonly prompt: PromptIds & { readonly instructs: Int32Array };
  readonly picture?: Picture;
}

async function withFeatures<T>(
  model: FusionModel,
  { prompt, picture }: Prepared,
  use: (session: (ids: ArrayLike<number>, block?: number) => DecodeSession) => Promise<T>,
): Promise<T> {
  const held = await model.images.tiles(picture);
  const imageTokens = await model.images.whole(picture, prompt.instructs);
  const features = { tiles: held.features, imageTokens };
  const sessions: DecodeSession[] = [];
  try {
    return await use((inputIds, block) => {
      const ids = { inputIds, endsOfQuestion: prompt.endsOfQuestion };
      const session = new DecodeSession(model, ids, features, model.config.defaultQueryLen, block);
      sessions.push(session);
      return session;
    });
  } finally {
    for (const session of sessions) await session.free();
    await model.device.free([imageTokens]);
    await held.release();
  }
}

/** Decodes greedily with the cache and, at every step, compares with a prefill of everything so far. */
async function compareWithPrefill(model: FusionModel, prepared: Prepared, steps: number, block: number) {
  const ids = Array.from(prepared.prompt.inputIds);
  const capacities = new Set<number>();
  let worst = 0;
  await withFeatures(model, prepared, async (start) => {
    const cached = start(ids, block);
    let logits = await cached.prefill();
    for (let step = 0; step < steps; step++) {
      const token = argmax(logits);
      ids.push(token);
      logits = await cached.append(token);
      capacities.add(cached.capacity);
      const fresh = start(ids);
      const expected = await fresh.prefill();
      await fresh.free();
      expect(argmax(logits)).toBe(argmax(expected));
      worst = Math.max(worst, deviation(logits, expected));
    }
  });
  return { worst, capacities: [...capacities] };
}

describe('llama', () => {
  const checkpoint = copyCheckpoint();
  const device = new CountingDevice();
  let model: FusionModel;
  beforeAll(async () => {
    model = await loadModel(checkpoint.dir, { device });
  });
  afterAll(async () => {
    await model.dispose();
    checkpoint.remove();
  });

  const prepare = (messages: readonly Message[], hasImage: boolean): Prepared => {
    const prompt = encodePrompt(model.tokenizer, model.format, messages, { hasImage });
    return hasImage ? { prompt, picture: pictureOfCrops(goldenPixels(64)) } : { prompt };
  };
  const turns: readonly Message[] = [
    { role: 'user', text: 'What is this?' },
    { role: 'assistant', text: 'A picture.' },
    { role: 'user', text: '<image>\nAnd this one?' },
  ];

  test('gives the golden greedy tokens', async () => {
    const folder = join(GOLDEN, 'llama-small');
    const { greedy } = JSON.parse(readFileSync(join(folder, 'cases.json'), 'utf8'));
    const file = await openSafetensors(join(folder, 'cases.safetensors'));
    const read = async (name: string) => new Int32Array((await readTensor(file, name)).slice().buffer);
    const inputIds = (await read(`${greedy.case}.input_ids`)).slice(0, greedy.prompt_length);
    const instructs = await read(`${greedy.case}.instructs`);
    expect(model.config.defaultQueryLen).toBe(greedy.query_len);
    const prompt = { inputIds, instructs, endsOfQuestion: [inputIds.length - 1] };
    const prepared = { prompt, picture: pictureOfCrops(goldenPixels(64)) };
    const tokens = await withFeatures(model, prepared, async (start) => {
      const session = start(inputIds);
      const made: number[] = [];
      let logits = await session.prefill();
      while (made.push(argmax(logits)) < greedy.steps) logits = await session.append(made.at(-1)!);
      return made;
    });
    expect(tokens).toEqual(greedy.tokens);
  });

  test.each([
    ['text', turns.slice(0, 1), false, 256],
    ['image', [{ role: 'user', text: '<image>\nWhat is this?' } as const], true, 8],
    ['two turns, the image at the second', turns, true, 5],
  ])('cached decoding equals a prefill of everything: %s', async (_, messages, hasImage, block) => {
    const before = device.live;
    const { worst, capacities } = await compareWithPrefill(model, prepare(messages, hasImage), 20, block);
    expect(worst).toBeLessThan(1e-4);
    if (block === 256) expect(capacities).toEqual([256]);
    else expect(capacities.length).toBeGreaterThan(2);
    // The tiles' features stay for the next answer.
    expect(device.live - before).toBeLessThanOrEqual(1);
  });

  test('every question of a chat has its latents', () => {
    const { prompt } = prepare(turns, true);
    expect(prompt.endsOfQuestion).toHaveLength(2);
    const text = Array.from(prompt.inputIds).filter((id) => id >= 0).length;
    // Three slots: the image tokens, and one set of latents for each question.
    expect(promptLength(model.config, prompt.inputIds, 4)).toBe(text + 64 + 2 * 4);
  });
});

test('longrope: decoding across the original context equals a prefill with the long factors', async () => {
  const shape = { tokenizer_model_max_length: 4096, original_max_position_embeddings: 76 };
  const checkpoint = copyCheckpoint('phi3-siglip2', shape);
  const device = new CountingDevice();
  const model = await loadModel(checkpoint.dir, { device });
  try {
    const messages = [{ role: 'user', text: 'What is this? Tell me more of it.' }] as const;
    const prompt = encodePrompt(model.tokenizer, model.format, messages, { hasImage: false });
    const length = promptLength(model.config, prompt.inputIds, model.config.defaultQueryLen);
    expect(length).toBeLessThan(74);
    const ids = Array.from(prompt.inputIds);
    await withFeatures(model, { prompt }, async (start) => {
      const cached = start(ids);
      let logits = await cached.prefill();
      while (cached.length < 80) {
        ids.push(argmax(logits));
        logits = await cached.append(ids.at(-1)!);
        // Comparing is dear here; what matters lies about the border.
        if (cached.length < 75) continue;
        expect(deviation(logits, await start(ids).prefill())).toBeLessThan(1e-4);
      }
    });
    const repeated = device.runs.filter((name) => name === 'prefill').length - 1 - 6;
    expect(repeated).toBe(1);
  } finally {
    await model.dispose();
    checkpoint.remove();
  }
});
