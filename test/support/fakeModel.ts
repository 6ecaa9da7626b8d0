/** A model for tests of the server: answers with given words, as slowly as a test wants, and remembers what it was asked. */
import type {
  Answer,
  AnswerEvent,
  AnswerOptions,
  AnswerPlan,
  Conversation,
} from '../../src/generate/answer.ts';
import { StopMatcher } from '../../src/generate/stop.ts';
import type { Explain, LoadedModel, ServableModel } from '../../src/serve/answerer.ts';

export interface FakeOptions {
  readonly name?: string;
  readonly bytes?: number;
  readonly words?: readonly string[];
  /** Awaited before each word. */
  readonly pause?: () => Promise<void>;
  /** Awaited while loading. */
  readonly loading?: () => Promise<void>;
  readonly explain?: Explain;
  /** Throws what a test refuses. */
  readonly check?: (...asked: Parameters<ServableModel['plan']>) => void;
  /** Thrown in place of the answer's end. */
  readonly failure?: () => Error | undefined;
}

export interface FakeModel extends ServableModel {
  readonly asked: { readonly conversation: Conversation; readonly options: AnswerOptions }[];
  /** Answers under way. */
  running: number;
  /** The most there were at once. */
  most: number;
  loads: number;
  /** Loaded and not disposed of. */
  live: number;
}

export function fakeModel(options: FakeOptions = {}): FakeModel {
  const { name = 'fake', bytes = 1, words = ['Hello', ', ', 'world'], explain } = options;
  const { pause = async () => {}, loading = async () => {}, failure = () => undefined } = options;
  async function* stream(
    conversation: Conversation,
    answerOptions: AnswerOptions,
  ): AsyncGenerator<AnswerEvent, void, undefined> {
    model.asked.push({ conversation, options: answerOptions });
    model.running += 1;
    model.most = Math.max(model.most, model.running);
    const said: string[] = [];
    const { signal, maxTokens = words.length, logprobs } = answerOptions;
    try {
      for (const word of words.slice(0, maxTokens)) {
        await pause();
        if (signal?.aborted) break;
        said.push(word);
        yield { type: 'text', text: word, ...(logprobs === undefined ? {} : { logprobs: [chanceOf(word)] }) };
      }
      const error = failure();
      if (error !== undefined) throw error;
      const ended = said.length < words.length ? 'length' : 'stop';
      yield { type: 'done', answer: answerOf(said, signal?.aborted ? 'cancelled' : ended) };
    } finally {
      model.running -= 1;
    }
  }
  const load = async (): Promise<LoadedModel> => {
    model.loads += 1;
    await loading();
    model.live += 1;
    const dispose = async () => {
      model.live -= 1;
    };
    return { stream, explain, dispose };
  };
  const model: FakeModel = {
    name,
    bytes,
    imageSize: 8,
    explains: explain !== undefined,
    facts: { variant: 'fake' },
    plan: async (...asked) => {
      options.check?.(...asked);
      return plan;
    },
    close: async () => {},
    load,
    asked: [],
    running: 0,
    most: 0,
    loads: 0,
    live: 0,
  };
  return model;
}

const plan: AnswerPlan = {
  prompt: { inputIds: [], endsOfQuestion: [], instructs: new Int32Array() },
  promptTokens: 5,
  queryLength: 4,
  maxTokens: 8,
  seed: 0,
  stops: new StopMatcher([]),
  warnings: [],
};

const chanceOf = (token: string) => ({
  id: 7,
  token,
  bytes: [...Buffer.from(token)],
  logprob: -0.5,
  top: [],
});

function answerOf(said: readonly string[], finishReason: Answer['finishReason']): Answer {
  return {
    text: said.join(''),
    finishReason,
    tokens: said.map((_, i) => i),
    promptTokens: 5,
    queryLength: 4,
    seed: 0,
    seconds: { load: 0, vision: 0, prefill: 0.002, decode: 0.004 },
    tokensPerSecond: 500,
    peakMemory: 1,
    warnings: [],
  };
}

/** A door that stays shut until it is opened; `pause` waits at it. */
export function door(): { readonly pause: () => Promise<void>; open(): void } {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { pause: () => opened, open };
}
