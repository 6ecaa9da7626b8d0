/** A FUSION checkpoint as the server uses it: known by its files, loaded with an engine. */
import { type AnswerOptions, type Conversation, planAnswer } from '../generate/answer.ts';
import { Engine } from '../generate/engine.ts';
import { explain } from '../generate/explain.ts';
import { explanationJson } from '../generate/explainJson.ts';
import { contextLength, weightBytes } from '../generate/limits.ts';
import { type FusionModel, type LoadOptions, loadModel, type ModelFiles } from '../generate/model.ts';
import { describeVariant } from '../model/config.ts';
import type { ServableModel } from './answerer.ts';
import { checkTexts } from './textLimits.ts';

export interface FusionModelOptions extends Pick<LoadOptions, 'device' | 'threads'> {
  /** Answers decoded together. */
  readonly maxSequences: number;
}

/** The checkpoint whose files these are, under `name`. */
export function fusionModel(name: string, files: ModelFiles, options: FusionModelOptions): ServableModel {
  const { config } = files;
  const { maxSequences, device, threads } = options;
  const context = contextLength(config);
  // The attention of converted models cannot be read.
  const explains = files.quantization === undefined;
  return {
    name,
    bytes: weightBytes(config),
    imageSize: config.vision.imageSize,
    explains,
    facts: {
      variant: describeVariant(config),
      context,
      query_lengths: config.queryLens,
      default_query_length: config.defaultQueryLen,
      system_messages: files.format.systemHeader !== '',
    },
    check: (messages, hasImage, answerOptions) => {
      checkTexts([answerOptions.systemText ?? '', ...messages.map(({ text }) => text)], context);
      planAnswer(files, messages, hasImage, answerOptions);
    },
    load: async (onProgress) => {
      const model = await loadModel(files, { device, threads, onProgress });
      const engine = new Engine(model, { maxSequences });
      return {
        stream: (conversation, answerOptions) => engine.stream(conversation, answerOptions),
        explain: explains ? (conversation, asked) => explained(model, conversation, asked) : undefined,
        dispose: async () => {
          await engine.close();
          await model.dispose();
        },
      };
    },
  };
}

async function explained(
  model: FusionModel,
  conversation: Conversation,
  options: AnswerOptions,
): Promise<unknown> {
  return explanationJson((await explain(model, conversation, options)).explanation);
}
