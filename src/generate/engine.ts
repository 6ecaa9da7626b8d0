/**
 * Many answers of one model at once: requests wait in line, a few are decoded together, and they join and leave
 * between steps. While a picture is encoded the others go on; a prompt's prefill is the longest that they wait.
 * Knows nothing of who asks (`serve`) or of how text is made of logits (`answerWriter.ts`).
 */
import { UserError } from '../common/errors.ts';
import { nextTurn } from '../common/nextTurn.ts';
import {
  type AnswerEvent,
  type AnswerOptions,
  type AnswerPlan,
  type Conversation,
  planAnswer,
  readPrompt,
} from './answer.ts';
import { prepareInputs, timed } from './answerInputs.ts';
import { AnswerRequest } from './answerRequest.ts';
import { BatchDecoder } from './batchDecoder.ts';
import type { FusionModel } from './model.ts';

/** Milliseconds for which the event loop may be kept from others. */
const SLICE_MS = 2;

/** Prompts under way on a device of their own: while one's result crosses, the other is read. */
const READ_AT_ONCE = 2;

export interface EngineOptions {
  /** The most sequences that are decoded together. */
  readonly maxSequences: number;
}

/** How an engine is doing now; steps and tokens are counted from its start. */
export interface EngineStats {
  /** Sequences that are decoded together. */
  readonly running: number;
  /** Requests whose picture is encoded or whose prompt is next to be read. */
  readonly preparing: number;
  /** Requests nothing was done for yet. */
  readonly waiting: number;
  /** Rows of the cache and slots of each: 0 while nothing runs. */
  readonly rows: number;
  readonly capacity: number;
  /** Steps of the decoder; each gives one token to every sequence in it. */
  readonly steps: number;
  /** Tokens of all answers, end tokens apart. */
  readonly tokens: number;
}

export class Engine {
  readonly #model: FusionModel;
  readonly #maxSequences: number;
  readonly #decoder: BatchDecoder;
  #waiting: AnswerRequest[] = [];
  readonly #preparing = new Map<AnswerRequest, Promise<void>>();
  /** Encoded; their prompts are read next. */
  readonly #ready: AnswerRequest[] = [];
  readonly #running = new Set<AnswerRequest>();
  #work: Promise<void> | undefined;
  #closed = false;
  #steps = 0;
  #tokens = 0;

  /** @throws UserError for less than one sequence. */
  constructor(model: FusionModel, { maxSequences }: EngineOptions) {
    if (!Number.isSafeInteger(maxSequences) || maxSequences < 1) {
      throw new UserError(`sequences at once: expected an integer from 1, got ${maxSequences}`);
    }
    this.#model = model;
    this.#maxSequences = maxSequences;
    this.#decoder = new BatchDecoder(model, { maxRows: maxSequences });
  }

  get stats(): EngineStats {
    const open = (requests: Iterable<AnswerRequest>) => [...requests].filter(({ over }) => !over).length;
    return {
      running: open(this.#running),
      preparing: open([...this.#preparing.keys(), ...this.#ready]),
      waiting: open(this.#waiting),
      rows: this.#decoder.rows,
      capacity: this.#decoder.capacity,
      steps: this.#steps,
      tokens: this.#tokens,
    };
  }

  /**
   * Answers a conversation as `streamAnswer` does, together with others; requests begin in the order they came. An
   * aborted signal gives `done` at once, with `finishReason: 'cancelled'`; so does leaving the loop, without it. plan:
   * as for `streamAnswer`.
   *
   * @throws UserError at the first event as `streamAnswer`, after `close`, and where `close` came first.
   */
  async *stream(
    conversation: Conversation,
    options: AnswerOptions = {},
    plan?: AnswerPlan,
  ): AsyncGenerator<AnswerEvent, void, undefined> {
    if (this.#closed) throw closedError();
    const { messages, picture } = conversation;
    const planned = plan ?? planAnswer(this.#model, messages, picture !== undefined, options);
    const request = new AnswerRequest(this.#model, planned, conversation, options);
    this.#waiting.push(request);
    this.#start();
    yield* request.events();
  }

  /** Refuses what waits and what comes, and resolves when what runs has ended and everything is freed. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const request of this.#waiting) request.fail(closedError());
    while (this.#work !== undefined) await this.#work;
  }

  #start(): void {
    this.#work ??= this.#run().finally(() => {
      this.#work = undefined;
      // What came while the last tensors were freed.
      if (this.#waiting.length > 0) this.#start();
    });
  }

  /** Works until there is nothing left to do. Errors end the requests they belong to, not the loop. */
  async #run(): Promise<void> {
    for (;;) {
      await this.#release();
      this.#prepareNext();
      const ready = this.#ready.shift();
      if (ready !== undefined) await this.#join(ready);
      if (this.#running.size > 0) await this.#step();
      else if (this.#preparing.size > 0) await Promise.race(this.#preparing.values());
      else if (this.#waiting.length + this.#ready.length === 0) break;
    }
    // Only a device that is gone refuses this, and its tensors with it.
    await this.#decoder.free().catch(() => {});
  }

  /** Takes leave of the answers that are over. */
  async #release(): Promise<void> {
    this.#waiting = this.#waiting.filter(({ over }) => !over);
    for (const request of this.#running) {
      if (!request.over) continue;
      this.#running.delete(request);
      if (request.sequence !== undefined) this.#decoder.leave(request.sequence);
      await freeInputs(request);
    }
  }

  /**
   * Begins with the requests that came first, if there is room for them: one at a time where answers are decoded on the
   * same device, so that these go on. A device of its own always has the next at hand.
   */
  #prepareNext(): void {
    const most = this.#model.reader === undefined ? 1 : READ_AT_ONCE;
    while (this.#preparing.size < most) {
      if (this.#running.size + this.#ready.length + this.#preparing.size >= this.#maxSequences) return;
      const request = this.#waiting.shift();
      if (request === undefined) return;
      const done = this.#prepare(request).finally(() => {
        this.#preparing.delete(request);
        if (this.#model.reader !== undefined) this.#prepareNext();
      });
      this.#preparing.set(request, done);
    }
  }

  async #prepare(request: AnswerRequest): Promise<void> {
    const { plan, picture, options, clock } = request;
    const { reader } = this.#model;
    try {
      if (reader === undefined) {
        request.inputs = await prepareInputs(this.#model, plan, picture, options, clock);
      } else if (!request.over) {
        request.read = await reader.read(plan, picture, options, clock);
      }
      this.#ready.push(request);
    } catch (error) {
      request.fail(error);
    }
  }

  /** Reads a prompt and takes the sequence in. */
  async #join(request: AnswerRequest): Promise<void> {
    if (request.over) return freeInputs(request);
    try {
      const joined = await timed(request.clock, 'prefill', () => this.#joined(request));
      if (joined === undefined) return;
      const { sequence, logits } = joined;
      // The cache has it now.
      request.read = undefined;
      request.sequence = sequence;
      this.#running.add(request);
      this.#take(request, logits);
    } catch (error) {
      request.fail(error);
      await freeInputs(request);
    }
  }

  /** The sequence and its first logits, from what was prepared; undefined where that was given up. */
  async #joined({ plan, options, inputs, read }: AnswerRequest) {
    if (read !== undefined) return { sequence: await this.#decoder.adopt(read), logits: read.logits };
    if (inputs === undefined) return undefined;
    const { prompt, queryLength } = plan;
    return readPrompt((run) => this.#decoder.join(prompt, inputs.features, queryLength, run), plan, options);
  }

  /** One more token for every answer that goes on. */
  async #step(): Promise<void> {
    const requests = [...this.#running].filter(({ over }) => !over);
    const next = requests.flatMap(({ sequence, lastToken: token }) =>
      sequence === undefined ? [] : [{ sequence, token }],
    );
    if (next.length === 0) return;
    const start = performance.now();
    try {
      const logits = await this.#decoder.step(next);
      this.#steps += 1;
      const seconds = (performance.now() - start) / 1e3;
      let since = performance.now();
      for (const [i, request] of requests.entries()) {
        request.clock.decode += seconds;
        this.#take(request, logits[i] as Float32Array);
        // Choosing of 128k tokens takes milliseconds: then others have their turn. Of few tokens it does not, and the
        // next step begins before what was chosen is sent.
        if (performance.now() - since < SLICE_MS) continue;
        await nextTurn();
        since = performance.now();
      }
    } catch (error) {
      for (const request of requests) request.fail(error);
    }
  }

  #take(request: AnswerRequest, logits: Float32Array): void {
    const before = request.tokenCount;
    request.take(logits);
    this.#tokens += request.tokenCount - before;
  }
}

/** Gives back what the vision tower made for a request. */
async function freeInputs(request: AnswerRequest): Promise<void> {
  const { inputs } = request;
  request.inputs = undefined;
  // Only a device that is gone refuses this, and its tensors with it.
  await inputs?.free().catch(() => {});
}

const closedError = () => new UserError('engine: expected an open one, got one that was closed');
