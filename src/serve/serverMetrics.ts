/** What this server measures of itself. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Answer } from '../generate/answer.ts';
import type { Admission } from './admission.ts';
import { Counter, exposition, gauge, Histogram } from './metrics.ts';

/** How an answer ended: as `Answer.finishReason`, or in an error. */
export type Outcome = Answer['finishReason'] | 'error';

/** Milliseconds between two looks at the event loop. */
const DELAY_PERIOD = 10;
const FIRST_TOKEN_BOUNDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];
const TOKEN_BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1];

export class ServerMetrics {
  readonly #requests = new Counter('fusion_requests_total', 'Requests answered, by route and HTTP status.');
  readonly #answers = new Counter('fusion_answers_total', 'Answers ended, by how they ended.');
  readonly #promptTokens = new Counter('fusion_prompt_tokens_total', 'Prompt tokens read, images included.');
  readonly #answerTokens = new Counter('fusion_completion_tokens_total', 'Answer tokens made.');
  readonly #firstToken = new Histogram(
    'fusion_time_to_first_token_seconds',
    'From the arrival of a request to the first text of its answer.',
    FIRST_TOKEN_BOUNDS,
  );
  readonly #tokenTime = new Histogram(
    'fusion_time_per_token_seconds',
    'Time of one answer token after the first, averaged over an answer.',
    TOKEN_BOUNDS,
  );
  readonly #delay = monitorEventLoopDelay({ resolution: DELAY_PERIOD });
  readonly #admission: Admission;

  constructor(admission: Admission) {
    this.#admission = admission;
    this.#delay.enable();
  }

  /** route: the pattern that matched, never a client's own words. */
  countRequest(route: string, status: number): void {
    this.#requests.add(1, { route, status: String(status) });
  }

  countFirstToken(seconds: number): void {
    this.#firstToken.observe(seconds);
  }

  countAnswer(outcome: Outcome, answer?: Answer): void {
    this.#answers.add(1, { finish: outcome });
    if (answer === undefined) return;
    this.#promptTokens.add(answer.promptTokens);
    this.#answerTokens.add(answer.tokens.length);
    if (answer.tokensPerSecond > 0) this.#tokenTime.observe(1 / answer.tokensPerSecond);
  }

  text(): string {
    return exposition([
      this.#requests,
      this.#answers,
      gauge('fusion_requests_running', 'Answers under way.', () => this.#admission.running),
      gauge('fusion_requests_waiting', 'Requests that wait for their turn.', () => this.#admission.waiting),
      this.#promptTokens,
      this.#answerTokens,
      this.#firstToken,
      this.#tokenTime,
      gauge('process_resident_memory_bytes', 'Resident set of the process.', () => process.memoryUsage.rss()),
      gauge(
        'fusion_event_loop_delay_p99_seconds',
        'Delay of the event loop since the metrics were last read, 99th percentile.',
        () => this.#takeDelay(),
      ),
    ]);
  }

  #takeDelay(): number {
    // The timer's own period is part of what is measured.
    const delay = Math.max(0, this.#delay.percentile(99) / 1e9 - DELAY_PERIOD / 1e3);
    this.#delay.reset();
    return delay;
  }

  close(): void {
    this.#delay.disable();
  }
}
