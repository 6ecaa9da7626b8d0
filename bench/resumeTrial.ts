/**
 * One trial of resuming: a run killed at a chosen moment, resumed to its end, and compared bit for bit with an
 * uninterrupted one. The command is the real one, in processes of its own.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, watch } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { checkpointSteps } from '../src/train/checkpoint.ts';
import { readMetrics, TIME_FIELDS } from '../src/train/metrics.ts';
import { type Json, makeTinyRun, type TinyRun, tinyRecord } from './tinyRun.ts';

const MAIN = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));
const TEMPORARY = /^checkpoint-\d+\..*\.tmp$/;

/** When to kill: so many milliseconds after the `count`-th save began or the `count`-th step was logged. */
export interface Moment {
  readonly after: 'save' | 'step';
  readonly count: number;
  readonly delay: number;
}

export interface Trial {
  /** Whether the kill left an unfinished save behind. */
  readonly inSave: boolean;
  /** Whether the kill came before the run had ended. */
  readonly killed: boolean;
  /** Step of the checkpoint that the run went on from; 0 where there was none yet. */
  readonly resumedFrom: number;
  /** What differs from the uninterrupted run. */
  readonly differences: readonly string[];
}

/** Pictures, texts and a few records that are skipped; several lengths of query; windows of the log across saves. */
export function makeResumeRun(dir: string, steps: number): Promise<TinyRun> {
  const records = Array.from({ length: 24 }, (_, i): Json => (i % 9 === 5 ? { id: i } : tinyRecord(i)));
  return makeTinyRun(dir, records, {
    max_steps: steps,
    log_every: 3,
    save_every: 2,
    save_total_limit: 2,
    accumulation: 2,
    query_lens: [1, 4],
    skip_limit: 0.5,
    group_by_modality_length: true,
  });
}

/** The one stage's folder of a run. */
export const stageFolder = (out: string): string => path.join(out, 'stage-1');

/** Trains to the end. Throws when the command fails. */
export async function trainToEnd(run: TinyRun, out: string): Promise<void> {
  const { code, stderr } = await finished(startRun(run, out));
  if (code !== 0) throw new Error(`training ended with ${code}: ${stderr}`);
}

/** Starts training in `out`, kills it at `moment`, resumes it to the end and compares it with `reference`. */
export async function killAndResume(
  run: TinyRun,
  out: string,
  reference: string,
  moment: Moment,
): Promise<Trial> {
  const folder = stageFolder(out);
  await mkdir(folder, { recursive: true });
  const child = startRun(run, out);
  const stop = killAt(child, folder, moment);
  const { code } = await finished(child);
  stop();
  const inSave = readdirSync(folder).some((name) => TEMPORARY.test(name));
  const resumedFrom = (await checkpointSteps(folder)).at(-1) ?? 0;
  await trainToEnd(run, out);
  const differences = await compareRuns(stageFolder(reference), folder);
  return { inSave, killed: code === null, resumedFrom, differences };
}

type Child = ReturnType<typeof startRun>;

function startRun(run: TinyRun, out: string) {
  const args = ['train', '-c', run.config, '-b', run.base, '-o', out, '--resume', 'last', '--threads', '1'];
  return spawn(process.execPath, ['--import', 'tsx', MAIN, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
}

function finished(child: Child): Promise<{ code: number | null; stderr: string }> {
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stderr }));
  });
}

/** Kills the child at the moment; the function returned ends the watch. */
function killAt(child: Child, folder: string, { after, count, delay }: Moment): () => void {
  const kill = () => setTimeout(() => child.kill('SIGKILL'), delay);
  if (after === 'step') {
    let lines = 0;
    child.stderr.on('data', (text) => {
      const before = lines;
      lines += String(text).split('\n').length - 1;
      if (before < count && lines >= count) kill();
    });
    return () => {};
  }
  const begun = new Set<string>();
  const watcher = watch(folder, (_, name) => {
    if (name === null || !TEMPORARY.test(name) || begun.has(name) || name.endsWith('.old.tmp')) return;
    begun.add(name);
    if (begun.size === count) kill();
  });
  return () => watcher.close();
}

/** Files that must be equal byte for byte in the last checkpoints of two runs. */
const EQUAL_FILES = [
  'model.safetensors',
  'optimizer.safetensors',
  'data_state.json',
  'trainer_state.json',
  'config.json',
  'training_config.yaml',
  'tokenizer.json',
  'tokenizer_config.json',
];

/** What differs between two stages' folders, but for the times in their logs; none when they are equal. */
export async function compareRuns(expected: string, actual: string): Promise<string[]> {
  const differences: string[] = [];
  const [steps, actualSteps] = [await checkpointSteps(expected), await checkpointSteps(actual)];
  if (String(steps) !== String(actualSteps)) differences.push(`checkpoints ${steps} and ${actualSteps}`);
  const last = `checkpoint-${steps.at(-1)}`;
  const files = [...EQUAL_FILES.map((file) => path.join(last, file)), 'skipped.jsonl'];
  for (const file of files) {
    const [a, b] = [path.join(expected, file), path.join(actual, file)];
    if (!existsSync(a) || !existsSync(b) || !(await readFile(a)).equals(await readFile(b))) {
      differences.push(file);
    }
  }
  if ((await timelessLog(expected)) !== (await timelessLog(actual))) differences.push('metrics.jsonl');
  differences.push(...readdirSync(actual).filter((name) => name.endsWith('.tmp')));
  return differences;
}

async function timelessLog(folder: string): Promise<string> {
  const rows = await readMetrics(path.join(folder, 'metrics.jsonl'));
  const timeless = rows.map((row) =>
    Object.entries(row).filter(([key]) => !(TIME_FIELDS as readonly string[]).includes(key)),
  );
  return JSON.stringify(timeless);
}
