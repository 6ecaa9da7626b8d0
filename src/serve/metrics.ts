/**
 * Counters, gauges and histograms, written as Prometheus' text format. Knows nothing of what is measured.
 * Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).
 */

/** Names and values that tell the series of one metric apart. */
export type Labels = Readonly<Record<string, string>>;

/** One metric: its lines of the text format. */
export interface Metric {
  lines(): readonly string[];
}

const head = (name: string, help: string, type: string) => [
  `# HELP ${name} ${help}`,
  `# TYPE ${name} ${type}`,
];

function series(name: string, labels: Labels, value: number): string {
  const escaped = (text: string) => text.replace(/[\\"]/g, '\\$&').replace(/\n/g, '\\n');
  const pairs = Object.entries(labels).map(([key, text]) => `${key}="${escaped(text)}"`);
  return `${name}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`} ${value}`;
}

/** Something that only grows. */
export class Counter implements Metric {
  readonly #head: readonly string[];
  readonly #name: string;
  readonly #values = new Map<string, { readonly labels: Labels; value: number }>();

  constructor(name: string, help: string) {
    this.#name = name;
    this.#head = head(name, help, 'counter');
  }

  add(amount = 1, labels: Labels = {}): void {
    const key = JSON.stringify(labels);
    const entry = this.#values.get(key) ?? { labels, value: 0 };
    entry.value += amount;
    this.#values.set(key, entry);
  }

  lines(): readonly string[] {
    const values = [...this.#values.values()];
    return [...this.#head, ...values.map(({ labels, value }) => series(this.#name, labels, value))];
  }
}

/** Something that is looked at when the metrics are read. */
export function gauge(name: string, help: string, read: () => number): Metric {
  return { lines: () => [...head(name, help, 'gauge'), series(name, {}, read())] };
}

/** How often values fell below each bound. */
export class Histogram implements Metric {
  readonly #head: readonly string[];
  readonly #name: string;
  readonly #bounds: readonly number[];
  readonly #counts: number[];
  #sum = 0;
  #count = 0;

  /** bounds: ascending. */
  constructor(name: string, help: string, bounds: readonly number[]) {
    this.#name = name;
    this.#head = head(name, help, 'histogram');
    this.#bounds = bounds;
    this.#counts = bounds.map(() => 0);
  }

  observe(value: number): void {
    this.#sum += value;
    this.#count += 1;
    this.#bounds.forEach((bound, i) => {
      if (value <= bound) this.#counts[i] = (this.#counts[i] ?? 0) + 1;
    });
  }

  lines(): readonly string[] {
    const buckets = this.#bounds.map((bound, i) =>
      series(`${this.#name}_bucket`, { le: String(bound) }, this.#counts[i] ?? 0),
    );
    return [
      ...this.#head,
      ...buckets,
      series(`${this.#name}_bucket`, { le: '+Inf' }, this.#count),
      series(`${this.#name}_sum`, {}, this.#sum),
      series(`${this.#name}_count`, {}, this.#count),
    ];
  }
}

/** The text of all metrics. */
export function exposition(metrics: readonly Metric[]): string {
  return `${metrics.flatMap((metric) => metric.lines()).join('\n')}\n`;
}
