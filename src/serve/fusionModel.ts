/** A FUSION checkpoint as the server uses it: known by its files, loaded with an engine. */
import { threadModule } from '../common/threadModule.ts';
import type { EncodedPrompt } from '../data/conversation.ts';
import {
  type AnswerOptions,
  type AnswerPlan,
  type Conversation,
  checkAnswerOptions,
  planAnswer,
  planPrompt,
} from '../generate/answer.ts';
import { Engine } from '../generate/engine.ts';
import { explain } from '../generate/explain.ts';
import { explanationJson } from '../generate/explainJson.ts';
import { contextLength } from '../generate/limits.ts';
import { weightsInMemory } from '../generate/memoryNeeds.ts';
import { type FusionModel, type LoadOptions, loadModel, type ModelFiles } from '../generate/model.ts';
import { describeVariant } from '../model/config.ts';
import type { ServableModel } from './answerer.ts';
import { HelperThread } from './helperThread.ts';
import type { PromptRequest } from './promptThread.ts';
import { checkTexts } from './textLimits.ts';

export interface FusionModelOptions extends Pick<LoadOptions, 'device' | 'threads'> {
  /** Answers decoded together. */
  readonly maxSequences: number;
  /** Latents per question where a request does not say; the model's default unless given. */
  readonly queryLength?: number | undefined;
}

/** Characters of a conversation that are tokenised at once: some milliseconds. More go to a thread. */
const SHORT = 4000;

/** The checkpoint whose files these are, under `name`. */
export function fusionModel(name: string, files: ModelFiles, options: FusionModelOptions): ServableModel {
  const { config } = files;
  // The attention of converted models cannot be read.
  const explains = files.quantization === undefined;
  return {
    name,
    bytes: weightsInMemory(config, files.quantization?.formats),
    imageSize: config.vision.imageSize,
    explains,
    facts: {
      variant: describeVariant(config),
      context: contextLength(config),
      query_lengths: config.queryLens,
      default_query_length: options.queryLength ?? config.defaultQueryLen,
      system_messages: files.format.systemHeader !== '',
    },
    ...planner(files, options),
    load: async (onProgress) => {
      const { maxSequences, device, threads } = options;
      const how = { device, threads, separateReader: true, memory: 'unchecked', onProgress } as const;
      const model = await loadModel(files, how);
      const engine = new Engine(model, { maxSequences });
      return {
        stream: (conversation, asked, plan) => engine.stream(conversation, asked, plan),
        explain: explains
          ? (conversation, asked, plan) => explained(model, conversation, asked, plan)
          : undefined,
        dispose: async () => {
          await engine.close();
          await model.dispose();
        },
      };
    },
  };
}

/** Tokenises: short conversations here, long ones in a thread, which has a tokenizer of its own from then on. */
function planner(
  files: ModelFiles,
  { queryLength }: FusionModelOptions,
): Pick<ServableModel, 'plan' | 'close'> {
  const { config, tokenizerDir, format } = files;
  const thread = new HelperThread<PromptRequest, EncodedPrompt>(
    threadModule(import.meta.url, 'promptThread'),
  );
  return {
    plan: async (messages, hasImage, asked) => {
      const options = { ...asked, queryLength: asked.queryLength ?? queryLength };
      const { systemText } = options;
      const texts = [systemText ?? '', ...messages.map(({ text }) => text)];
      checkTexts(texts, contextLength(config));
      if (texts.join('').length <= SHORT) return planAnswer(files, messages, hasImage, options);
      checkAnswerOptions(options);
      const prompt = await thread.ask({ tokenizerDir, format, systemText, messages, hasImage });
      return planPrompt(config, prompt, options);
    },
    close: () => thread.close(),
  };
}

async function explained(
  model: FusionModel,
  conversation: Conversation,
  options: AnswerOptions,
  plan: AnswerPlan,
): Promise<unknown> {
  return explanationJson((await explain(model, conversation, options, plan)).explanation);
}
