/**
 * Prompts read on a device of their own, so that one answer's picture and prompt are read while other answers are
 * decoded. What a prompt leaves in the cache comes back as host tensors. Knows nothing of tokens that are made.
 */
import type { FusionConfig } from '../model/config.ts';
import { openDevice } from '../runtime/device.ts';
import type { Constants } from '../runtime/types.ts';
import { type AnswerOptions, type AnswerPlan, readPrompt } from './answer.ts';
import { type Clock, encodePicture, timed } from './answerInputs.ts';
import { prefillFeeds, type ReadSequence } from './batchDecoder.ts';
import { CompiledPrograms } from './compiled.ts';
import { ImageFeatures } from './imageFeatures.ts';
import type { Picture } from './picture.ts';

export interface SeparateReader {
  /** Encodes the picture and reads the prompt; nothing of it stays on the device but features of pictures seen last. */
  read(
    plan: AnswerPlan,
    picture: Picture | undefined,
    options: AnswerOptions,
    clock: Clock,
  ): Promise<ReadSequence>;
  dispose(): Promise<void>;
}

/** A reader on a second CPU device with one thread. constants: all weights, as files have them. */
export async function openSeparateReader(
  config: FusionConfig,
  constants: Constants,
  featureBytes: number,
): Promise<SeparateReader> {
  const device = await openDevice('cpu', { threads: 1 });
  const programs = new CompiledPrograms(device, config, {}, constants);
  const images = new ImageFeatures(device, config, programs, {
    limit: featureBytes,
    tilesAtOnce: 4,
  });
  return {
    read: async (plan, picture, options, clock) => {
      const { prompt, queryLength } = plan;
      const program = await timed(clock, 'load', async () => {
        await images.compile(picture !== undefined);
        return programs.prefill(queryLength);
      });
      const { features, free } = await timed(clock, 'vision', () =>
        encodePicture({ images, device }, plan, picture, options),
      );
      try {
        const sequence = {
          ids: Array.from(prompt.inputIds),
          endsOfQuestion: prompt.endsOfQuestion,
          queryLength,
        };
        const { feeds, length } = prefillFeeds(config, { ...sequence, features });
        const run = () => readPrompt((how) => program.run(feeds, how), plan, options);
        const { outputs } = await timed(clock, 'prefill', run);
        const { logits, ...keysValues } = outputs;
        return { ...sequence, length, logits: logits?.data as Float32Array, keysValues };
      } finally {
        await free();
      }
    },
    dispose: async () => {
      await programs.dispose();
      await images.dispose();
      await device.close();
    },
  };
}
