/**
 * Logits → an answer's text: chooses each token, turns tokens into text as it becomes certain, and knows when the
 * answer is over. Knows nothing of where logits come from or of other answers under way.
 */
import { Random } from '../common/random.ts';
import { TextStream } from '../data/textStream.ts';
import type { Answer, AnswerOptions, AnswerPlan, TextEvent, Timings } from './answer.ts';
import { type TokenLogprob, tokenLogprob } from './logprobs.ts';
import type { ModelFiles } from './model.ts';
import { sampleToken } from './sampling.ts';
import type { StopReason } from './stop.ts';

/** A token's log-probability, and the character of the answer at which its text begins. */
interface Waiting {
  readonly start: number;
  readonly logprob: TokenLogprob;
}

export class AnswerWriter {
  readonly tokens: number[] = [];
  text = '';
  /** Why the answer is over; undefined while it is not. */
  finishReason: StopReason | undefined;
  readonly #model: Pick<ModelFiles, 'tokenizer' | 'stopIds'>;
  readonly #plan: AnswerPlan;
  readonly #options: AnswerOptions;
  readonly #stream: TextStream;
  readonly #random: Random;
  /** What the repetition penalty applies to. */
  readonly #seen: number[];
  /** Characters made so far, shown or held back. */
  #made = 0;
  #waiting: Waiting[] = [];

  constructor(model: Pick<ModelFiles, 'tokenizer' | 'stopIds'>, plan: AnswerPlan, options: AnswerOptions) {
    this.#model = model;
    this.#plan = plan;
    this.#options = options;
    this.#stream = new TextStream(model.tokenizer);
    this.#random = new Random(plan.seed);
    this.#seen = Array.from(plan.prompt.inputIds);
  }

  /** Chooses the next token; gives the text that is certain now. Sets `finishReason` where that was the last. */
  take(logits: Float32Array): TextEvent | undefined {
    const { id } = sampleToken(logits, this.#options, this.#seen, this.#random);
    if (this.#model.stopIds.has(id)) {
      this.finishReason = 'stop';
      return undefined;
    }
    const { logprobs } = this.#options;
    if (logprobs !== undefined) {
      const logprob = tokenLogprob(this.#model.tokenizer, logits, id, logprobs);
      this.#waiting.push({ start: this.#made, logprob });
    }
    this.tokens.push(id);
    this.#seen.push(id);
    const { emit, stopped } = this.#push(this.#stream.push(id));
    if (stopped) this.finishReason = 'stop_string';
    else if (this.tokens.length === this.#plan.maxTokens) this.finishReason = 'length';
    return this.#event(emit);
  }

  /** Ends the answer, as cancelled where nothing ended it yet; gives the text that was held back. */
  end(): TextEvent | undefined {
    const { stops } = this.#plan;
    this.finishReason ??= 'cancelled';
    const rest = this.#push(this.#stream.flush()).emit + stops.flush();
    if (stops.matched !== undefined) this.finishReason = 'stop_string';
    return this.#event(rest, stops.matched === undefined);
  }

  /** What the finished answer tells of itself. */
  answer(seconds: Timings): Answer {
    const { promptTokens, queryLength, seed, warnings } = this.#plan;
    const finishReason = this.finishReason ?? 'cancelled';
    const steps = this.tokens.length - (finishReason === 'stop' ? 0 : 1);
    return {
      text: this.text,
      finishReason,
      tokens: this.tokens,
      promptTokens,
      queryLength,
      seed,
      seconds,
      tokensPerSecond: steps > 0 && seconds.decode > 0 ? steps / seconds.decode : 0,
      peakMemory: process.resourceUsage().maxRSS * 1024,
      warnings,
    };
  }

  #push(text: string) {
    this.#made += text.length;
    return this.#plan.stops.push(text);
  }

  /** all: tokens without text of their own come along too. */
  #event(text: string, all = false): TextEvent | undefined {
    this.text += text;
    const shown = ({ start }: Waiting) => all || start < this.text.length;
    const logprobs = this.#waiting.filter(shown).map(({ logprob }) => logprob);
    this.#waiting = this.#waiting.filter((each) => !shown(each));
    if (text === '' && logprobs.length === 0) return undefined;
    return this.#options.logprobs === undefined ? { type: 'text', text } : { type: 'text', text, logprobs };
  }
}
