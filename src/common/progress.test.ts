import { describe, expect, it } from 'vitest';
import { type ProgressEvent, terminalProgress } from './progress.ts';

/** A terminal that keeps what was written, and a clock set by hand. */
function fakeTerminal(options: { isTTY?: boolean; columns?: number; enabled?: boolean } = {}) {
  const written: string[] = [];
  const clock = { ms: 5000 };
  const stream = { isTTY: true, columns: 120, ...options, write: (text: string) => written.push(text) };
  const report = terminalProgress(stream, { enabled: options.enabled ?? true, now: () => clock.ms });
  /** What a person sees: the text since the last carriage return. */
  const screen = () => written.join('').split('\r').at(-1)!.replace('\x1b[K', '');
  return { written, clock, report, screen };
}

const download = (done: number, total?: number): ProgressEvent => ({
  phase: 'download',
  unit: 'bytes',
  file: 'model.safetensors',
  done,
  ...(total === undefined ? {} : { total }),
});
const decode = (done: number): ProgressEvent => ({ phase: 'decode', unit: 'tokens', done });

describe('terminalProgress', () => {
  it('shows phase, file, percentage, amounts, rate and time left', () => {
    const { clock, report, screen } = fakeTerminal();
    report(download(1e9, 4e9));
    expect(screen()).toBe('download  model.safetensors  25%  1.0 GB of 4.0 GB');
    clock.ms += 10_000;
    report(download(1.5e9, 4e9));
    // 0.5 GB in 10 s; 2.5 GB remain.
    expect(screen()).toBe('download  model.safetensors  37%  1.5 GB of 4.0 GB  50.0 MB/s  0:50 left');
  });

  it('shows count and rate alone when the total is unknown', () => {
    const { clock, report, screen } = fakeTerminal();
    report(decode(0));
    clock.ms += 2000;
    report(decode(25));
    expect(screen()).toBe('decode  25 tokens  12.5 tokens/s');
    clock.ms += 2000;
    report(decode(600));
    expect(screen()).toBe('decode  600 tokens  150 tokens/s');
  });

  it('writes minutes and hours left', () => {
    const { clock, report, screen } = fakeTerminal();
    report({ phase: 'train', unit: 'steps', done: 0, total: 3724 });
    clock.ms += 1000;
    report({ phase: 'train', unit: 'steps', done: 1, total: 3724 });
    expect(screen()).toBe('train  0%  1 steps of 3724 steps  1 steps/s  1:02:03 left');
    clock.ms += 999_000;
    report({ phase: 'train', unit: 'steps', done: 1000, total: 1725 });
    expect(screen()).toContain('12:05 left');
  });

  it('counts the rate of each phase and file from its own start', () => {
    const { clock, report, screen } = fakeTerminal();
    report(decode(0));
    clock.ms += 1000;
    report({ ...decode(500), phase: 'prefill' });
    expect(screen()).toBe('prefill  500 tokens');
    clock.ms += 1000;
    report(decode(3));
    expect(screen()).toBe('decode  3 tokens');
    clock.ms += 1000;
    report(decode(1));
    expect(screen()).toBe('decode  1 tokens');
    clock.ms += 1000;
    report(decode(3));
    expect(screen()).toBe('decode  3 tokens  2 tokens/s');
    clock.ms += 1000;
    report(download(500));
    clock.ms += 1000;
    report({ ...download(2500), file: 'other' });
    expect(screen()).toBe('download  other  2.5 kB');
  });

  it('draws at most ten times a second', () => {
    const { written, clock, report } = fakeTerminal();
    for (let i = 0; i < 1000; i++, clock.ms++) report(decode(i));
    expect(written.length).toBe(10);
  });

  it('erases the line at completion and at the end, once', () => {
    const { written, clock, report, screen } = fakeTerminal();
    report(download(1, 10));
    expect(screen()).not.toBe('');
    clock.ms += 1;
    report(download(10, 10));
    expect(screen()).toBe('');
    expect(written.at(-1)).toBe('\r\x1b[K');
    clock.ms += 1000;
    report(decode(1));
    report.end();
    expect(screen()).toBe('');
    const { length } = written;
    report.end();
    report(download(10, 10));
    expect(written.length).toBe(length);
  });

  it('returns to the line start and never moves to a new line or fills the width', () => {
    const { written, report, screen } = fakeTerminal({ columns: 20 });
    report({ ...download(1, 10), file: 'ev\x1b[2Jil\n.bin' });
    expect(written).toEqual(['\rdownload  ev?[2Jil…\x1b[K']);
    expect(screen().length).toBe(19);
  });

  it('writes nothing to what is no terminal, or when disabled', () => {
    for (const options of [{ isTTY: false }, { enabled: false }]) {
      const { written, report } = fakeTerminal(options);
      report(decode(1));
      report.end();
      expect(written).toEqual([]);
    }
  });
});
