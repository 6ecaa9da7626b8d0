/**
 * Progress events, reported by everything that takes long, and one line in a terminal that shows them.
 *
 * Knows nothing of the work itself: an event says how much of what is done, the line adds rate and time left.
 */

/** How far one piece of work has come. `done` and `total` count `unit`s; `total` is left out when unknown. */
export type ProgressEvent = {
  readonly phase: 'download' | 'convert' | 'load' | 'vision' | 'prefill' | 'decode' | 'train' | 'eval';
  readonly done: number;
  readonly total?: number;
  readonly unit: 'bytes' | 'tokens' | 'tiles' | 'steps' | 'tensors' | 'questions';
  /** The file worked on, where there is one. */
  readonly file?: string;
};

/** Receives progress events; called often, so it returns quickly. */
export type OnProgress = (event: ProgressEvent) => void;

/** The part of a terminal's stream that is used; `process.stderr` fits. */
export interface ProgressStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  /** Width in characters; 80 when unknown. */
  readonly columns?: number | undefined;
}

export interface TerminalProgressOptions {
  /** False shows nothing; true (default) shows the line where the stream is a terminal. */
  readonly enabled?: boolean;
  /** A clock in milliseconds; `performance.now` by default. */
  readonly now?: () => number;
}

/** An `OnProgress` that draws; `end` erases the line and must be called before other output. */
export type TerminalProgress = OnProgress & { end(): void };

/** Where the present piece of work stood when it was first heard of. */
interface Start {
  readonly key: string;
  readonly time: number;
  readonly done: number;
}

/** Least time between two drawings, in milliseconds. */
const INTERVAL = 100;
const ERASE = '\r\x1b[K';

/**
 * Draws events as one line that overwrites itself: phase, file, percentage, amounts, rate, time left. It is
 * drawn at most ten times a second and erased when the work is complete (`done` reaches `total`) or by `end`.
 * Writes nothing when disabled or when the stream is no terminal.
 */
export function terminalProgress(
  stream: ProgressStream,
  options: TerminalProgressOptions = {},
): TerminalProgress {
  const { enabled = true, now = () => performance.now() } = options;
  if (!enabled || !stream.isTTY) return Object.assign(() => {}, { end() {} });
  let start: Start | undefined;
  let drawnAt = -Infinity;
  let visible = false;

  const end = () => {
    if (visible) stream.write(ERASE);
    visible = false;
  };
  const report: OnProgress = (event) => {
    const time = now();
    const key = `${event.phase} ${event.file ?? ''}`;
    if (start?.key !== key || event.done < start.done) start = { key, time, done: event.done };
    if (event.total !== undefined && event.done >= event.total) return end();
    if (time - drawnAt < INTERVAL) return;
    const rate = (1000 * (event.done - start.done)) / (time - start.time);
    // One column stays free: a full line would wrap, and a wrapped line cannot be erased.
    stream.write(`\r${clip(progressLine(event, rate), (stream.columns || 80) - 1)}\x1b[K`);
    drawnAt = time;
    visible = true;
  };
  return Object.assign(report, { end });
}

/** The line's text. `rate`: units per second; left out of the line unless positive. */
function progressLine({ phase, done, total, unit, file }: ProgressEvent, rate: number): string {
  const parts: string[] = [phase];
  if (file !== undefined) parts.push(file);
  if (total === undefined) {
    parts.push(amount(done, unit));
  } else {
    parts.push(`${Math.floor((100 * done) / total)}%`, `${amount(done, unit)} of ${amount(total, unit)}`);
  }
  if (rate > 0 && Number.isFinite(rate)) {
    parts.push(`${amount(rate, unit)}/s`);
    if (total !== undefined) parts.push(`${duration((total - done) / rate)} left`);
  }
  return parts.join('  ');
}

/** `1.5 GB` (decimal multiples), `250 tokens`, `2.5 steps`. */
function amount(value: number, unit: ProgressEvent['unit']): string {
  if (unit !== 'bytes') return `${value < 100 ? Number(value.toFixed(1)) : Math.round(value)} ${unit}`;
  for (const [size, name] of [
    [1e9, 'GB'],
    [1e6, 'MB'],
    [1e3, 'kB'],
  ] as const) {
    if (value >= size) return `${(value / size).toFixed(1)} ${name}`;
  }
  return `${Math.round(value)} B`;
}

/** Seconds as `0:07`, `12:00` or `1:02:03`. */
function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  const two = (n: number) => String(n).padStart(2, '0');
  const minutes = Math.floor(whole / 60);
  const clock = `${two(minutes % 60)}:${two(whole % 60)}`;
  return minutes < 60 ? `${minutes}:${two(whole % 60)}` : `${Math.floor(minutes / 60)}:${clock}`;
}

/** At most `width` characters; control characters (a file's name comes from outside) become `?`. */
function clip(line: string, width: number): string {
  const characters = Array.from(line.replace(/\p{Cc}/gu, '?'));
  if (characters.length <= width) return characters.join('');
  return `${characters.slice(0, Math.max(0, width - 1)).join('')}…`;
}
