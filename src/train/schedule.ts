/**
 * The learning rate's course: linear warm-up, then a cosine to 0 or a constant.
 *
 * Knows nothing of rates themselves: it gives the factor every rate is multiplied by. Source: the published runs'
 * schedule (transformers' `get_cosine_schedule_with_warmup`, `get_constant_schedule_with_warmup`).
 */
import { InternalError } from '../common/errors.ts';

export type ScheduleKind = 'cosine' | 'constant';

/** What the schedule needs of a stage. */
export interface Schedule {
  readonly schedule: ScheduleKind;
  readonly warmup_ratio: number;
}

/**
 * Steps of warm-up: `ceil(ratio · steps)`, computed in doubles as the reference does, so that 0.07 of 100 steps
 * (7.000000000000001) is 8 here too.
 */
export function warmupSteps(ratio: number, totalSteps: number): number {
  return Math.ceil(ratio * totalSteps);
}

/**
 * The factor, 0 to 1, for the update after `stepsDone` of `totalSteps` updates. With w warm-up steps it is
 * `s / w` for s < w, so the first update moves nothing, then `(1 + cos(π · (s - w) / (n - w))) / 2`, or 1.
 */
export function scheduleFactor(stage: Schedule, stepsDone: number, totalSteps: number): number {
  if (!Number.isSafeInteger(stepsDone) || stepsDone < 0) {
    throw new InternalError(`schedule: expected a number of steps from 0, got ${stepsDone}`);
  }
  const warmup = warmupSteps(stage.warmup_ratio, totalSteps);
  if (stepsDone < warmup) return stepsDone / warmup;
  if (stage.schedule === 'constant') return 1;
  const progress = Math.min(1, (stepsDone - warmup) / Math.max(1, totalSteps - warmup));
  return (1 + Math.cos(Math.PI * progress)) / 2;
}
