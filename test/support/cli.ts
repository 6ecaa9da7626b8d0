/** Runs the real command in a process of its own. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));

export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Starts `fusion ARGS`; for tests that talk to it while it runs. */
export function startCli(args: readonly string[]): ChildProcessWithoutNullStreams {
  const env = { ...process.env, FUSION_MODEL: undefined, NODE_OPTIONS: undefined };
  return spawn(process.execPath, ['--import', 'tsx', MAIN, ...args], { env });
}

/** What a started command gave by its end. */
export function finished(child: ChildProcessWithoutNullStreams): Promise<CliResult> {
  return new Promise((resolve, reject) => {
    let [stdout, stderr] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** Runs `fusion ARGS` to its end, with `input` on standard input. */
export async function runCli(args: readonly string[], input: string | Uint8Array = ''): Promise<CliResult> {
  const child = startCli(args);
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  return finished(child);
}

/** Resolves when `stream` has given text that matches. */
export function seen(stream: NodeJS.ReadableStream, pattern: RegExp): Promise<void> {
  return new Promise((resolve, reject) => {
    let text = '';
    stream.on('data', (piece) => {
      text += piece;
      if (pattern.test(text)) resolve();
    });
    stream.on('close', () => reject(new Error(`ended without ${pattern}: ${text}`)));
  });
}
