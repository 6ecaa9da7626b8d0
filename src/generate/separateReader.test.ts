/** Prompts read on a device of their own give the same answers, and leave the model's device to decode. */
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { readFusionConfig } from '../model/config.ts';
import type { AnswerEvent } from './answer.ts';
import { Engine } from './engine.ts';
import { loadModel } from './model.ts';
import { openImage, type Picture, pictureOf } from './picture.ts';

const at = (name: string) => fileURLToPath(new URL(`../../${name}`, import.meta.url));
const TINY = at('models/tiny');

/** Answers about a picture and without one, decoded together, and the programs that ran on the model's device. */
async function answers(separateReader: boolean, picture: Picture) {
  const device = new CountingDevice();
  const model = await loadModel(TINY, { device, separateReader });
  expect(model.reader !== undefined).toBe(separateReader);
  const engine = new Engine(model, { maxSequences: 4 });
  const question = async (text: string, shown?: Picture): Promise<AnswerEvent[]> => {
    const messages = [{ role: 'user', text: shown ? `<image>\n${text}` : text }] as const;
    const conversation = shown ? { messages, picture: shown } : { messages };
    const events: AnswerEvent[] = [];
    for await (const event of engine.stream(conversation, { maxTokens: 12, logprobs: 2, seed: 1 })) {
      if (event.type === 'text') events.push(event);
    }
    return events;
  };
  const events = await Promise.all([
    question('Describe the picture.', picture),
    question('How many objects are there?'),
    question('What colour is the square?', picture),
  ]);
  await engine.close();
  await model.dispose();
  expect(device.live).toBe(0);
  return { events, runs: new Set(device.runs) };
}

test.skipIf(availableParallelism() < 2)(
  'a second device reads prompts to the same log-probabilities, and the first decodes only',
  async () => {
    const { vision } = await readFusionConfig(TINY);
    const picture = pictureOf(await openImage(at('examples/scene.png')), vision);
    const apart = await answers(true, picture);
    const together = await answers(false, picture);
    expect(apart.events[0]?.length).toBeGreaterThan(5);
    expect(apart.events).toEqual(together.events);
    expect([...apart.runs]).toEqual(['decode']);
    expect(together.runs.size).toBeGreaterThan(3);
  },
);
