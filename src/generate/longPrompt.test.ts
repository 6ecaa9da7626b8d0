/** Long prompts of converted models: how far they are is told, and they can be stopped; a second question is quick. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GOLDEN } from '../../test/support/checkpoints.ts';
import { type CountingDevice, withCountedModel } from '../../test/support/countingDevice.ts';
import { type RandomModel, randomModel } from '../../test/support/randomModel.ts';
import { convertFolder } from '../checkpoint/quantise/convert.ts';
import { partFormats } from '../checkpoint/quantise/formats.ts';
import type { ProgressEvent } from '../common/progress.ts';
import type { Answer, AnswerOptions } from './answer.ts';
import { ask, Chat, conversationOf } from './chat.ts';
import { Engine } from './engine.ts';
import { PROMPT_CHUNK } from './stagedPrograms.ts';

const IMAGE = join(GOLDEN, 'images/baseline.jpg');
/** Some 800 positions: four parts of each of three groups of layers. */
const LONG = 'Please tell at length what a red circle is. '.repeat(32);
const GROUPS = 3;

let source: RandomModel;
let folder: string;
beforeAll(async () => {
  source = await randomModel({ num_hidden_layers: 7 });
  folder = join(source.root, 'f32');
  await convertFolder({ source: source.dir, out: folder, formats: partFormats('f32'), threads: 1 });
});
afterAll(() => source.remove());

const layersRun = ({ runs }: CountingDevice) => runs.filter((name) => name.startsWith('layers')).length;

describe('a prompt in parts', () => {
  it('tells how far it is before each part, never backwards', async () => {
    await withCountedModel(folder, async (model, device) => {
      const events: ProgressEvent[] = [];
      const { promptTokens } = await ask(model, LONG, {
        maxTokens: 1,
        onProgress: (event) => event.phase === 'prefill' && events.push(event),
      });
      expect(promptTokens).toBeGreaterThan(3 * PROMPT_CHUNK);
      const parts = Math.ceil(promptTokens / PROMPT_CHUNK);
      expect(layersRun(device)).toBe(GROUPS * parts);
      const done = events.map((event) => event.done);
      expect(done).toHaveLength(GROUPS * parts + 2);
      expect(done).toEqual(done.toSorted((a, b) => a - b));
      expect(new Set(done).size).toBe(GROUPS * parts + 1);
      expect(done.at(-1)).toBe(promptTokens);
      expect(new Set(events.map(({ total, unit }) => `${total} ${unit}`))).toEqual(
        new Set([`${promptTokens} tokens`]),
      );
    });
  });

  /** Aborts after some parts were read. */
  function stopsAfter(device: CountingDevice, parts: number): AbortSignal {
    const stopper = new AbortController();
    device.afterRun = () => layersRun(device) === parts && stopper.abort(new Error('enough'));
    return stopper.signal;
  }

  it.each([1, 4, 6])('a signal stops it after %i parts, and nothing is left of it', async (parts) => {
    await withCountedModel(folder, async (model, device) => {
      const before = device.live;
      const signal = stopsAfter(device, parts);
      const stopped = await ask(model, LONG, { maxTokens: 3, signal });
      expect(stopped).toMatchObject({ finishReason: 'cancelled', text: '', tokens: [] });
      expect(layersRun(device)).toBe(parts);
      expect(device.live).toBe(before + model.images.size);
      expect((await ask(model, LONG, { maxTokens: 3 })).tokens.length).toBeGreaterThan(0);
    });
  });

  it('in an engine it makes room for the next', async () => {
    await withCountedModel(folder, async (model, device) => {
      const engine = new Engine(model, { maxSequences: 1 });
      const answerOf = async (text: string, options: AnswerOptions): Promise<Answer | undefined> => {
        for await (const event of engine.stream(await conversationOf(model, { text }), options)) {
          if (event.type === 'done') return event.answer;
        }
        return undefined;
      };
      const signal = stopsAfter(device, 2);
      const [stopped, next] = await Promise.all([
        answerOf(LONG, { maxTokens: 3, signal }),
        answerOf('Hello', { maxTokens: 3 }),
      ]);
      expect(stopped?.finishReason).toBe('cancelled');
      expect(next?.tokens.length).toBeGreaterThan(0);
      // Of the long prompt two parts; all of the short one, and its two further tokens.
      const parts = Math.ceil((next?.promptTokens ?? 0) / PROMPT_CHUNK);
      expect(layersRun(device)).toBe(2 + GROUPS * (parts + 2));
      await engine.close();
    });
  });

  it('an error that is no cancelling is thrown', async () => {
    await withCountedModel(folder, async (model, device) => {
      device.afterRun = (name) => {
        if (name.startsWith('layers')) throw new Error('broken');
      };
      await expect(ask(model, LONG, { maxTokens: 1 })).rejects.toThrow('broken');
    });
  });
});

describe('a second question about an image', () => {
  const QUESTIONS = ['What is this?', 'How many red circles are there in it?'] as const;
  /** Runs of the tower: crops that were encoded. */
  const crops = ({ runs }: CountingDevice) =>
    runs.filter((name) => name.startsWith('vision 0') || name.startsWith('encode')).length;

  it.each([
    ['a checkpoint', () => source.dir],
    ['a converted model', () => folder],
  ])('%s encodes only the whole crop again, in a chat and in a new one', async (_, dir) => {
    await withCountedModel(dir(), async (model, device) => {
      const count = async (work: () => Promise<unknown>) => {
        device.runs.length = 0;
        await work();
        return crops(device);
      };
      const chat = new Chat(model);
      await chat.show(IMAGE);
      expect(await count(() => chat.ask(QUESTIONS[0], { maxTokens: 1 }))).toBe(5);
      expect(await count(() => chat.ask(QUESTIONS[1], { maxTokens: 1 }))).toBe(1);
      const again = { text: QUESTIONS[1], image: IMAGE };
      expect(await count(() => ask(model, again, { maxTokens: 1 }))).toBe(1);
    });
  });
});
