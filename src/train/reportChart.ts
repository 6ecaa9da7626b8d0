/**
 * Line charts as inline SVG: raw values faint, smoothed ones over them, a band for each stage.
 *
 * Knows nothing of training: a chart is given stages of points and names for its lines. Colours are the page's
 * (`--s0`, `--s1`, …), so that one picture serves light and dark. Smoothing is TensorBoard's debiased mean.
 */

/** One line of a chart: for each stage its values, one for each of the stage's steps; NaN leaves a gap. */
export interface Line {
  readonly name: string;
  readonly stages: readonly (readonly number[])[];
}

/** The shared x axis: each stage's label and the steps of its points, counted through all stages. */
export interface StageSteps {
  readonly label: string;
  readonly steps: readonly number[];
}

export interface Chart {
  readonly title: string;
  readonly lines: readonly Line[];
  /** Noisy lines are drawn raw and smoothed, others once. */
  readonly smooth: boolean;
}

export interface ChartSize {
  readonly width: number;
  readonly height: number;
}

/** More points than this in a stage are drawn as the least and the greatest of each group. */
const MAX_POINTS = 400;
const MARGIN = { left: 46, right: 12, top: 22, bottom: 24 } as const;

/** `text` for HTML, attributes included. */
export function escapeHtml(text: string): string {
  const names: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return text.replace(/[&<>"']/g, (character) => names[character] ?? '');
}

/**
 * `values` smoothed by a mean whose weights fall by half every ~n/115 points, divided by the weights' sum so that it
 * begins at the first value. NaN and infinity are passed over.
 */
export function smoothed(values: readonly number[]): number[] {
  const keep = 1 - 1 / Math.max(1, values.length / 80);
  let mean = 0;
  let weight = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return value;
    mean = keep * mean + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
}

/** A number as people read it: `2e-5`, `0.034`, `1.25`, `12.5k`. */
export function formatNumber(value: number): string {
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return String(value);
  if (size === 0) return '0';
  if (size < 1e-3) return value.toExponential(2).replace(/\.?0*e/, 'e');
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(3)));
}

/** The chart as `<svg>`; its title and a sentence about each line are there for screen readers. */
export function chartSvg(
  chart: Chart,
  stages: readonly StageSteps[],
  { width, height }: ChartSize,
  id: string,
): string {
  const steps = stages.flatMap((stage) => stage.steps);
  const x = scale(0, Math.max(1, steps.at(-1) ?? 1), MARGIN.left, width - MARGIN.right, false);
  const shown = chart.smooth ? chart.lines.map(withoutOutliers) : chart.lines;
  const y = valueScale(shown, height, chart.smooth);
  return [
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-labelledby="${id}-t ${id}-d">`,
    `<title id="${id}-t">${escapeHtml(chart.title)}</title>`,
    `<desc id="${id}-d">${escapeHtml(chart.lines.map(described).join(' '))}</desc>`,
    `<clipPath id="${id}-c"><rect x="${MARGIN.left}" y="${MARGIN.top}" width="${width - MARGIN.left}" height="${height - MARGIN.top - MARGIN.bottom}"/></clipPath>`,
    stageBands(stages, x, height),
    axes(x, y, width, height),
    `<g clip-path="url(#${id}-c)">${chart.lines.map((line, i) => curves(line, i, chart.smooth, stages, x, y)).join('')}</g>`,
    '</svg>',
  ].join('');
}

/** A line's values between their 0.5% quantiles: a few spikes must not flatten the rest. */
function withoutOutliers(line: Line): Line {
  const all = line.stages
    .flat()
    .filter(Number.isFinite)
    .toSorted((a, b) => a - b);
  const cut = Math.floor(all.length * 0.005);
  return { name: line.name, stages: [all.slice(cut, all.length - cut)] };
}

function described({ name, stages }: Line): string {
  const values = stages.flat().filter(Number.isFinite);
  const [first, last] = [values[0], values.at(-1)];
  if (first === undefined || last === undefined) return `${name}: no values.`;
  const least = values.reduce((a, b) => Math.min(a, b));
  return `${name}: from ${formatNumber(first)} to ${formatNumber(last)}, least ${formatNumber(least)}.`;
}

interface Scale {
  (value: number): number;
  readonly ticks: readonly number[];
}

function scale(low: number, high: number, from: number, to: number, isLog: boolean): Scale {
  const at = (value: number) => (isLog ? Math.log10(Math.max(value, low)) : value);
  const [a, b] = [at(low), at(high)];
  const place = (value: number) => from + ((at(value) - a) / (b - a)) * (to - from);
  return Object.assign(place, { ticks: isLog ? logTicks(low, high) : linearTicks(low, high) });
}

/** Linear from 0 or near the least value; where `mayBeLog`, logarithmic when positive values span over 20-fold. */
function valueScale(lines: readonly Line[], height: number, mayBeLog: boolean): Scale {
  const values = lines.flatMap(({ stages }) => stages.flat()).filter(Number.isFinite);
  const low = values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  const high = values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const [bottom, top] = [height - MARGIN.bottom, MARGIN.top];
  if (values.length === 0) return scale(0, 1, bottom, top, false);
  if (mayBeLog && low > 0 && high / low > 20) return scale(low / 1.1, high * 1.1, bottom, top, true);
  const spread = high - low || Math.abs(high) || 1;
  const fromZero = low >= 0 && low < 1.5 * spread;
  return scale(fromZero ? 0 : low - 0.06 * spread, high + 0.06 * spread, bottom, top, false);
}

function linearTicks(low: number, high: number): number[] {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5].find((factor) => factor * power >= rough * 0.8) ?? 10) * power;
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step) - first + 1;
  return Array.from({ length: Math.max(0, count) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function logTicks(low: number, high: number): number[] {
  const decades = Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low));
  const factors = high / low > 1000 ? [1] : [1, 3];
  const powers = Array.from({ length: decades + 1 }, (_, i) => 10 ** (Math.floor(Math.log10(low)) + i));
  return powers
    .flatMap((power) => factors.map((factor) => factor * power))
    .filter((tick) => tick >= low && tick <= high);
}

function stageBands(stages: readonly StageSteps[], x: Scale, height: number): string {
  if (stages.length < 2) return '';
  let begin = 0;
  return stages
    .map(({ label, steps }, i) => {
      const end = steps.at(-1) ?? begin;
      const [left, right] = [x(begin), x(end)];
      begin = end;
      const box = `x="${px(left)}" y="${MARGIN.top}" width="${px(right - left)}" height="${height - MARGIN.top - MARGIN.bottom}"`;
      const fits = right - left > 6 * label.length;
      const text = `<text class="stage" x="${px((left + right) / 2)}" y="${MARGIN.top - 7}">${escapeHtml(label)}</text>`;
      return `<rect class="band${i % 2}" ${box}/>${fits ? text : ''}`;
    })
    .join('');
}

function axes(x: Scale, y: Scale, width: number, height: number): string {
  const bottom = height - MARGIN.bottom;
  const rows = y.ticks.map((tick) => {
    const at = px(y(tick));
    const line = `<line class="grid" x1="${MARGIN.left}" x2="${width - MARGIN.right}" y1="${at}" y2="${at}"/>`;
    return `${line}<text class="y" x="${MARGIN.left - 7}" y="${px(y(tick) + 4)}">${formatNumber(tick)}</text>`;
  });
  const columns = x.ticks.map((tick) => {
    const anchor = x(tick) > width - 30 ? ' class="x end"' : ' class="x"';
    return `<text${anchor} x="${px(x(tick))}" y="${bottom + 17}">${formatNumber(tick)}</text>`;
  });
  const axis = `<line class="axis" x1="${MARGIN.left}" x2="${width - MARGIN.right}" y1="${bottom}" y2="${bottom}"/>`;
  return [...rows, axis, ...columns].join('');
}

function curves(
  line: Line,
  index: number,
  smooth: boolean,
  stages: readonly StageSteps[],
  x: Scale,
  y: Scale,
): string {
  const style = `style="stroke:var(--s${index})"`;
  return stages
    .map(({ steps }, i) => {
      const values = line.stages[i] ?? [];
      const draw = (numbers: readonly number[], kind: string) => {
        const data = pathOf(steps, numbers, x, y);
        return data === '' ? '' : `<path class="${kind}" ${style} d="${data}"/>`;
      };
      if (values.length === 1) return draw(values, 'dot');
      if (!smooth) return draw(values, 'line');
      return draw(values, 'raw') + draw(smoothed(values), 'line');
    })
    .join('');
}

/** An SVG path through the finite points, broken where others lie; a lone point becomes a dot. */
function pathOf(steps: readonly number[], values: readonly number[], x: Scale, y: Scale): string {
  let data = '';
  let pen = 'M';
  for (const i of thinned(values)) {
    const [step = 0, value = Number.NaN] = [steps[i], values[i]];
    if (!Number.isFinite(value)) {
      pen = 'M';
      continue;
    }
    data += `${pen}${px(x(step))} ${px(y(value))}`;
    if (pen === 'M') data += 'h0';
    pen = 'L';
  }
  return data;
}

/** Indices to draw: all, or of each group of neighbours the least, the greatest and any value that is not finite. */
function thinned(values: readonly number[]): number[] {
  if (values.length <= MAX_POINTS) return [...values.keys()];
  const size = Math.ceil(values.length / (MAX_POINTS / 2));
  const kept = new Set([0, values.length - 1]);
  for (let begin = 0; begin < values.length; begin += size) {
    let [low, high] = [begin, begin];
    for (let i = begin; i < Math.min(begin + size, values.length); i++) {
      const value = values[i] ?? Number.NaN;
      if (!Number.isFinite(value)) kept.add(i);
      if (!(value >= (values[low] ?? Number.NaN))) low = i;
      if (!(value <= (values[high] ?? Number.NaN))) high = i;
    }
    kept.add(low).add(high);
  }
  return [...kept].toSorted((a, b) => a - b);
}

/** A coordinate to a tenth of a unit. */
function px(value: number): string {
  return String(Math.round(value * 10) / 10);
}
