import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { type CheckpointCopy, copyCheckpoint, GOLDEN } from '../../test/support/checkpoints.ts';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { openCheckpoint } from '../checkpoint/folder.ts';
import { UserError } from '../common/errors.ts';
import { ask } from './chat.ts';
import { loadModel } from './model.ts';
import { withVocabulary } from './vocabulary.ts';

const copies: CheckpointCopy[] = [];
const copy = (changes?: Record<string, unknown>) => {
  const made = copyCheckpoint('llama-small', changes);
  copies.push(made);
  return made.dir;
};
afterEach(() => {
  for (const made of copies.splice(0)) made.remove();
});

test('tokens added after training start as the mean of the others, and it is said', async () => {
  const device = new CountingDevice();
  const dir = copy();
  const model = await loadModel(dir, { device });
  expect(model.config.decoder.vocabSize).toBe(908);
  expect(model.warnings).toEqual([expect.stringMatching(/tokenizer has 908 ids, .* 512 rows; .* 396 /)]);
  const checkpoint = await openCheckpoint(dir);
  for (const name of ['model.embed_tokens.weight', 'lm_head.weight']) {
    const { shape, data } = await device.download(model.weights[name]!);
    const stored = await checkpoint.readF32(name);
    expect(shape).toEqual([908, 64]);
    expect(data.slice(0, stored.length)).toEqual(stored);
    for (const column of [0, 63]) {
      const mean =
        Array.from({ length: 512 }, (_, row) => stored[row * 64 + column]!).reduce((a, b) => a + b) / 512;
      expect(data[512 * 64 + column]).toBeCloseTo(mean, 6);
      expect(data[907 * 64 + column]).toBe(data[512 * 64 + column]);
    }
  }
  expect(device.live).toBe(Object.keys(model.weights).length);
  await model.dispose();
  expect(device.live).toBe(0);
});

test('a tokenizer that is not larger than the vocabulary changes nothing', async () => {
  const model = await loadModel(copy(), { device: new CountingDevice() });
  const { config } = model;
  expect(withVocabulary(config, 908)).toBe(config);
  expect(withVocabulary(config, 3)).toBe(config);
  expect(() => withVocabulary(config, 2 ** 25)).toThrow(UserError);
  await model.dispose();
});

test('an answer ends at the ids of generation config, tokenizer and format', async () => {
  const dir = copy();
  const device = new CountingDevice();
  const ids = async () => {
    const model = await loadModel(dir, { device });
    await model.dispose();
    return [...model.stopIds].sort((a, b) => a - b);
  };
  // 901 <|end_of_text|> and 905 <|eot_id|> are the format's; 2 is config.json's.
  expect(await ids()).toEqual([2, 901, 905]);
  writeFileSync(join(dir, 'generation_config.json'), '{"eos_token_id": [7, 905, 9]}');
  expect(await ids()).toEqual([7, 9, 901, 905]);
  writeFileSync(join(dir, 'generation_config.json'), '{"eos_token_id": "x"}');
  await expect(ids()).rejects.toThrow(/generation_config.json: eos_token_id: expected a token id/);
  writeFileSync(join(dir, 'generation_config.json'), '{');
  await expect(ids()).rejects.toThrow(UserError);
});

test('the conversation format comes from the config, or from the model type', async () => {
  const device = new CountingDevice();
  const named = copy({ conversation_format: 'nonsense' });
  await expect(loadModel(named, { device })).rejects.toThrow(/conversation format: expected one of/);
  const misfit = copy({ conversation_format: 'phi_3' });
  await expect(loadModel(misfit, { device })).rejects.toThrow(/<\|end\|>/);
  const model = await loadModel(copy({ conversation_format: 'llama_3' }), { device });
  expect(model.format.name).toBe('llama_3');
  await model.dispose();
  expect(device.live).toBe(0);
});

test('the tokenizer may lie elsewhere; where there is none, nothing is loaded', async () => {
  const device = new CountingDevice();
  const dir = copy();
  rmSync(join(dir, 'tokenizer.json'));
  await expect(loadModel(dir, { device })).rejects.toThrow(/no tokenizer.json/);
  expect(device.live).toBe(0);
  const model = await loadModel(dir, { device, tokenizer: join(GOLDEN, 'tokenizers/llama3') });
  expect((await ask(model, 'Hello', { maxTokens: 2 })).tokens).toHaveLength(2);
  await model.dispose();
});
