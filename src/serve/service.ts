/**
 * A request's way from a conversation to its answer: a place in line, the image, the check of what is asked, its
 * turn, the model, the answer. Knows nothing of HTTP.
 */
import { UserError } from '../common/errors.ts';
import type { ProgressEvent } from '../common/progress.ts';
import type { Answer, AnswerOptions, AnswerPlan, Conversation, TextEvent } from '../generate/answer.ts';
import { messageOf } from '../generate/chat.ts';
import type { Picture } from '../generate/picture.ts';
import { Admission, type AdmissionLimits, type Place } from './admission.ts';
import type { LoadedModel, ServableModel } from './answerer.ts';
import { ApiError, requestError } from './apiError.ts';
import type { AskedConversation } from './chatRequest.ts';
import type { WaitTimes } from './completion.ts';
import { type ImageByteLimits, imageBytes } from './imageBytes.ts';
import { ModelPool } from './modelPool.ts';
import { Pictures } from './pictures.ts';
import { type RequestScope, RequestScopes } from './requestScope.ts';
import { ServerMetrics } from './serverMetrics.ts';

export interface ServiceSettings {
  /** The first one answers where a request names none. */
  readonly models: readonly [ServableModel, ...ServableModel[]];
  /** Bytes that loaded models may take. */
  readonly memoryLimit: number;
  readonly admission: AdmissionLimits;
  readonly images: ImageByteLimits;
  /** The most pixels of an image. */
  readonly maxPixels: number;
  /** Milliseconds that a request may take from its arrival. */
  readonly timeout: number;
  /** Is told of errors that clients are not told of. */
  readonly log: (error: unknown) => void;
}

export class Service {
  readonly admission: Admission;
  readonly metrics: ServerMetrics;
  readonly scopes = new RequestScopes();
  readonly #settings: ServiceSettings;
  readonly #pool: ModelPool;
  readonly #pictures = new Pictures();
  #state: 'loading' | 'ok' | 'stopping' = 'loading';

  constructor(settings: ServiceSettings) {
    this.#settings = settings;
    this.admission = new Admission(settings.admission);
    this.metrics = new ServerMetrics(this.admission);
    this.#pool = new ModelPool(settings.memoryLimit, settings.log);
  }

  get state(): 'loading' | 'ok' | 'stopping' {
    return this.#state;
  }

  get models(): readonly ServableModel[] {
    return this.#settings.models;
  }

  /** Every model's name, whether it is loaded and how far loading has come. */
  modelStates() {
    return this.models.map((model) => this.#pool.stateOf(model));
  }

  /** Loads the first model. @throws whatever loading it throws. */
  async load(): Promise<void> {
    const lease = await this.#pool.acquire(this.#settings.models[0], new AbortController().signal);
    lease.release();
    if (this.#state === 'loading') this.#state = 'ok';
  }

  /** From now on nothing new is begun. */
  stop(): void {
    this.#state = 'stopping';
  }

  /** Frees everything; to be called when no request is under way. */
  async close(): Promise<void> {
    await this.#pool.close();
    await Promise.all([this.#pictures, ...this.models].map((each) => each.close()));
    this.metrics.close();
  }

  /** The model a request names. @throws ApiError 404 for a name that none has. */
  modelNamed(name: string | undefined): ServableModel {
    const [first] = this.#settings.models;
    const found = name === undefined ? first : this.models.find((model) => model.name === name);
    if (found !== undefined) return found;
    const names = this.models.map((model) => model.name).join(', ');
    throw new ApiError(404, `model: expected one of ${names}, got another`, {
      param: 'model',
      code: 'model_not_found',
    });
  }

  /**
   * Takes a place in line and does all that needs no model: fetches and decodes the image, checks what is asked.
   * The job must be brought to its end (`answer` or `explain`). client: aborted when the client leaves.
   *
   * @throws ApiError for what cannot be answered.
   */
  async begin(asked: AskedConversation, options: AnswerOptions, client: AbortSignal): Promise<Job> {
    if (this.#state === 'stopping') throw new ApiError(503, 'the server is stopping');
    const model = this.modelNamed(asked.model);
    const place = this.admission.enter();
    const scope = this.scopes.open(client, this.#settings.timeout);
    const end = () => {
      place.leave();
      scope.close();
    };
    try {
      const start = performance.now();
      const all = { ...options, systemText: asked.systemText };
      const messages = asked.turns.map(messageOf);
      // What is wrong with the words is told before the image is fetched.
      const plan = await model.plan(messages, asked.image !== undefined, all);
      scope.signal.throwIfAborted();
      const picture = await this.#picture(asked.image, model.imageSize, scope.signal);
      const image = performance.now() - start;
      const conversation = { messages, picture };
      return new Job({
        model,
        pool: this.#pool,
        metrics: this.metrics,
        place,
        scope,
        conversation,
        options: all,
        plan,
        image,
        end,
      });
    } catch (error) {
      end();
      throw scope.signal.aborted ? scope.signal.reason : requestError(error, 'messages');
    }
  }

  async #picture(url: string | undefined, side: number, signal: AbortSignal): Promise<Picture | undefined> {
    if (url === undefined) return undefined;
    const { images, maxPixels } = this.#settings;
    const picture = await this.#pictures.open(await imageBytes(url, images, signal), side, maxPixels);
    signal.throwIfAborted();
    return picture;
  }
}

interface JobParts {
  readonly model: ServableModel;
  readonly pool: ModelPool;
  readonly metrics: ServerMetrics;
  readonly place: Place;
  readonly scope: RequestScope;
  readonly conversation: Conversation;
  readonly options: AnswerOptions;
  readonly plan: AnswerPlan;
  /** Milliseconds that tokens and image took. */
  readonly image: number;
  readonly end: () => void;
}

/** One request that has its place. */
export class Job {
  readonly #parts: JobParts;
  readonly #arrival = performance.now();
  #queue = 0;
  #progress: ProgressEvent | undefined;

  constructor(parts: JobParts) {
    this.#parts = parts;
  }

  get model(): ServableModel {
    return this.#parts.model;
  }

  get waited(): WaitTimes {
    return { queue: this.#queue, image: this.#parts.image };
  }

  /** What it is doing: how many are before it, or the progress of loading, of vision or of the prompt. */
  status(): Readonly<Record<string, unknown>> {
    const ahead = this.#parts.place.ahead();
    return ahead > 0 ? { waiting: ahead } : { ...this.#progress };
  }

  /**
   * Waits for its turn and answers. onText: gets the text as it comes about; the next waits for it.
   *
   * @throws ApiError where the client leaves, time is up or the server stops; whatever a model that fails throws.
   */
  async answer(onText: (event: TextEvent) => Promise<void> | void): Promise<Answer> {
    const { metrics, scope } = this.#parts;
    let done: Answer | undefined;
    try {
      done = await this.#finish((loaded) => this.#read(loaded, onText));
      if (done.finishReason === 'cancelled') throw scope.signal.reason;
      return done;
    } finally {
      metrics.countAnswer(done?.finishReason ?? (scope.signal.aborted ? 'cancelled' : 'error'), done);
    }
  }

  /** Waits for its turn and explains. @throws as `answer`, and ApiError 400 for what cannot be explained. */
  explain(): Promise<unknown> {
    return this.#finish(async ({ explain }) => {
      if (explain === undefined) throw new Error(`internal: ${this.model.name} cannot explain`);
      const { conversation, options, plan, scope } = this.#parts;
      try {
        return await explain(conversation, { ...options, signal: scope.signal }, plan);
      } catch (error) {
        throw error instanceof UserError ? requestError(error) : error;
      }
    });
  }

  async #read(loaded: LoadedModel, onText: (event: TextEvent) => Promise<void> | void): Promise<Answer> {
    const { conversation, options, plan, scope, metrics, image } = this.#parts;
    const onProgress = (event: ProgressEvent) => {
      this.#progress = event;
    };
    let spoke = false;
    let done: Answer | undefined;
    const given = { ...options, signal: scope.signal, onProgress };
    for await (const event of loaded.stream(conversation, given, plan)) {
      if (event.type === 'done') {
        done = event.answer;
        continue;
      }
      if (!spoke) metrics.countFirstToken((performance.now() - this.#arrival + image) / 1e3);
      spoke = true;
      await onText(event);
    }
    if (done === undefined) throw new Error('internal: an answer ended without its last event');
    return done;
  }

  /** Its turn, the model, the work; then everything is given back, however that ended. */
  async #finish<T>(work: (loaded: LoadedModel) => Promise<T>): Promise<T> {
    const { place, pool, scope, end } = this.#parts;
    try {
      await place.turn(scope.signal);
      const lease = await pool.acquire(this.model, scope.signal);
      this.#queue = performance.now() - this.#arrival;
      try {
        return await work(lease.model);
      } catch (error) {
        // A model that failed may have lost its device: it is loaded again when it is next asked for.
        lease.release(!(error instanceof ApiError));
        throw error;
      } finally {
        lease.release();
      }
    } finally {
      end();
    }
  }
}
