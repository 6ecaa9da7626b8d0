/**
 * Whether a killed run is resumed bit for bit: kills a small training run at random moments, most of them while it
 * saves, resumes it and compares weights, moments, data state and log with an uninterrupted run's.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Random } from '../src/common/random.ts';
import { killAndResume, type Moment, makeResumeRun, type Trial, trainToEnd } from './resumeTrial.ts';

export const RESUME_USAGE = '[--times 20] [--steps 40] [--seed 0]';

/** A save of the small model takes about this long, in milliseconds. */
const SAVE_MS = 40;

/** Prints a row for each kill; the exit code is 1 when any resumed run differs. */
export async function benchResume(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      times: { type: 'string', default: '20' },
      steps: { type: 'string', default: '40' },
      seed: { type: 'string', default: '0' },
    },
  });
  const [times, steps] = [Number(values.times), Number(values.steps)];
  const dir = await mkdtemp(path.join(tmpdir(), 'fusion-resume-'));
  try {
    const run = await makeResumeRun(dir, steps);
    const reference = path.join(dir, 'reference');
    await trainToEnd(run, reference);
    const trials: Trial[] = [];
    console.log('kill  moment                   in a save  resumed from  result');
    for (let i = 0; i < times; i++) {
      const moment = draw(new Random(values.seed).fork(`kill ${i}`), steps);
      const out = path.join(dir, `killed-${i}`);
      const trial = await killAndResume(run, out, reference, moment);
      trials.push(trial);
      console.log(rowOf(i + 1, moment, trial));
      await rm(out, { recursive: true, force: true });
    }
    summarise(trials);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** Three of four moments are within a save. */
function draw(random: Random, steps: number): Moment {
  const after = random.uniform() < 0.75 ? 'save' : 'step';
  const places = after === 'save' ? steps / 2 - 1 : steps / 3 - 1;
  return { after, count: 1 + random.integer(Math.floor(places)), delay: random.integer(SAVE_MS) };
}

function rowOf(number: number, { after, count, delay }: Moment, trial: Trial): string {
  const what = after === 'save' ? 'save' : 'log line';
  const cells = [
    String(number).padEnd(6),
    `${what} ${count} + ${delay} ms`.padEnd(25),
    (trial.inSave ? 'yes' : trial.killed ? 'no' : 'ended').padEnd(11),
    `step ${trial.resumedFrom}`.padEnd(14),
    trial.differences.length === 0 ? 'equal' : `differs: ${trial.differences.join(', ')}`,
  ];
  return cells.join('');
}

function summarise(trials: readonly Trial[]): void {
  const count = (test: (trial: Trial) => boolean) => trials.filter(test).length;
  const equal = count(({ differences }) => differences.length === 0);
  console.log(
    `${trials.length} runs, ${count(({ killed }) => killed)} killed, ${count(({ inSave }) => inSave)} in a save, ` +
      `${equal} equal bit for bit`,
  );
  if (equal < trials.length) process.exitCode = 1;
}
