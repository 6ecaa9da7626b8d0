/**
 * Loads the model in the folder given as argument on the CPU and on WebGPU, asks both about a picture, and prints as one
 * JSON line what each said: logits of the prompt and of the next tokens, and an answer; or `{reason}` where there is no
 * such device.
 */
import path from 'node:path';
import { encodePrompt } from '../../src/data/conversation.ts';
import { ask } from '../../src/generate/chat.ts';
import { DecodeSession } from '../../src/generate/decodeSession.ts';
import { type FusionModel, loadModel } from '../../src/generate/model.ts';
import { openImage, pictureOf } from '../../src/generate/picture.ts';
import { describeDevices } from '../../src/runtime/device.ts';
import type { DeviceName } from '../../src/runtime/types.ts';
import { GOLDEN } from './checkpoints.ts';

const QUERY_LENGTH = 4;
/** Slots by which the cache grows: few, so that it does. */
const BLOCK = 8;

async function logitsOf({ device, config, programs, images, tokenizer, format }: FusionModel) {
  const picture = pictureOf(await openImage(path.join(GOLDEN, 'images/baseline.jpg')), config.vision);
  const messages = [{ role: 'user', text: '<image>\nWhat is this?' }] as const;
  const prompt = encodePrompt(tokenizer, format, messages, { hasImage: true });
  const tiles = await images.tiles(picture);
  const imageTokens = await images.whole(picture, prompt.instructs);
  const features = { tiles: tiles.features, imageTokens };
  const session = new DecodeSession({ device, config, programs }, prompt, features, QUERY_LENGTH, BLOCK);
  const logits = [Array.from(await session.prefill())];
  for (let token = 5; token < 5 + BLOCK; token++) logits.push(Array.from(await session.append(token)));
  await session.free();
  await tiles.release();
  return logits;
}

async function speak(dir: string, device: DeviceName) {
  const model = await loadModel(dir, { device, threads: 1 });
  const logits = await logitsOf(model);
  const question = { text: 'How many?', image: path.join(GOLDEN, 'images/wide.png') };
  const { tokens } = await ask(model, question, { maxTokens: 6, queryLength: QUERY_LENGTH });
  await model.dispose();
  return { logits, tokens };
}

const found = (await describeDevices()).find(({ name }) => name === 'webgpu');
if (found?.available) {
  const [dir = ''] = process.argv.slice(2);
  console.log(JSON.stringify({ cpu: await speak(dir, 'cpu'), webgpu: await speak(dir, 'webgpu') }));
} else console.log(JSON.stringify({ reason: found?.reason ?? 'unknown to this package' }));
