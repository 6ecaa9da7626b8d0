/**
 * The report of a run as one HTML file: curves, configuration, environment, data, scores.
 *
 * Self-contained: no script, no request, light and dark by the reader's preference, every text from the run
 * escaped. Knows nothing of how a run goes; all it shows is given.
 */
import { writeFile } from 'node:fs/promises';
import { messageOf, UserError } from '../common/errors.ts';
import type { StageConfig } from './config.ts';
import type { MetricsRow } from './metrics.ts';
import {
  type Chart,
  chartSvg,
  escapeHtml,
  formatNumber,
  type Line,
  type StageSteps,
  smoothed,
} from './reportChart.ts';

/** A table of texts and numbers; numbers are aligned right. */
export interface ReportTable {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (string | number)[])[];
  /** A sentence below the table. */
  readonly note?: string;
}

/** One stage of the run: its configuration and its log, whose steps count from 1. */
export interface ReportStage {
  readonly config: StageConfig;
  readonly rows: readonly MetricsRow[];
}

export interface ReportInput {
  readonly title: string;
  /** When the run ended, as shown. */
  readonly finished: string;
  readonly stages: readonly ReportStage[];
  /** Machine, versions, command, commit. */
  readonly environment: Readonly<Record<string, string>>;
  readonly data: ReportTable;
  readonly scores?: ReportTable;
}

/** Writes the report to `file`. Throws `UserError` where the disk refuses. */
export async function writeReport(file: string, input: ReportInput): Promise<void> {
  await writeFile(file, reportHtml(input)).catch((error: unknown) => {
    throw new UserError(`${file}: ${messageOf(error)}`);
  });
}

/** The report as HTML. */
export function reportHtml(input: ReportInput): string {
  const { title, finished, stages, environment, data, scores } = input;
  const labels = stages.map(({ config }) => config.stage).join(', ');
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escapeHtml(title)}: training report</title>
<style>${CSS}</style>
</head>
<body>
<main>
<header>
<p class="kicker">Training report</p>
<h1>${escapeHtml(title)}</h1>
<p class="muted">Stage${stages.length > 1 ? 's' : ''} ${escapeHtml(labels)} · finished ${escapeHtml(finished)}</p>
</header>
${tiles(stages)}
${scores === undefined ? '' : section('Scores', table(scores))}
${curvesSection(stages)}
${section('Data', table(data))}
${section('Configuration', table(configTable(stages)))}
${section('Environment', table({ columns: ['', ''], rows: Object.entries(environment) }))}
</main>
</body>
</html>
`;
}

function section(title: string, content: string): string {
  return `<section>\n<h2>${escapeHtml(title)}</h2>\n${content}\n</section>`;
}

/** The run in six numbers. */
function tiles(stages: readonly ReportStage[]): string {
  const rows = stages.at(-1)?.rows ?? [];
  const total = (of: (rows: readonly MetricsRow[]) => number) =>
    stages.reduce((sum, stage) => sum + of(stage.rows), 0);
  const steps = total((all) => all.at(-1)?.step ?? 0);
  const seconds = total((all) => all.at(-1)?.seconds ?? 0);
  const last = (field: keyof MetricsRow) =>
    formatNumber(smoothed(rows.map((row) => row[field])).findLast(Number.isFinite) ?? Number.NaN);
  const tile = ([name, value]: readonly [string, string]) =>
    `<div><dt>${name}</dt><dd>${escapeHtml(value)}</dd></div>`;
  const shown = [
    ['Final loss', last('loss')],
    ['Cross-entropy', last('cross_entropy')],
    ['Text mapping', last('text_loss')],
    ['Vision mapping', last('vision_loss')],
    ['Steps', steps.toLocaleString('en')],
    ['Time trained', duration(seconds)],
  ] as const;
  return `<dl class="tiles">${shown.map(tile).join('')}</dl>`;
}

/** `42 s`, `7 min`, `3 h 05 min`. */
function duration(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

type Field = readonly [field: keyof MetricsRow, name: string];

const CHARTS: readonly (readonly [title: string, smooth: boolean, fields: readonly Field[]])[] = [
  ['Loss', true, [['loss', 'loss']]],
  ['Cross-entropy', true, [['cross_entropy', 'cross-entropy']]],
  [
    'Mapping losses',
    true,
    [
      ['text_loss', 'text'],
      ['vision_loss', 'vision'],
    ],
  ],
  [
    'Learning rate',
    false,
    [
      ['learning_rate', 'model'],
      ['vision_learning_rate', 'vision tower'],
    ],
  ],
  ['Gradient norm before clipping', true, [['grad_norm', 'norm']]],
  ['Samples per second', true, [['samples_per_s', 'samples/s']]],
  ['Tokens per second', true, [['tokens_per_s', 'tokens/s']]],
];

function curvesSection(stages: readonly ReportStage[]): string {
  if (stages.every(({ rows }) => rows.length === 0)) {
    return section('Curves', '<p class="muted">No step was logged.</p>');
  }
  const steps = stageSteps(stages);
  const figures = CHARTS.map(([title, smooth, fields], i) => {
    const lines = fields.map(([field, name]): Line => {
      return { name, stages: stages.map(({ rows }) => rows.map((row) => row[field])) };
    });
    return figure({ title, smooth, lines }, steps, i);
  });
  const note =
    'Bold: smoothed within each stage; faint: as logged. An axis is logarithmic where values span over 20-fold.';
  return section(
    'Curves',
    `<p class="muted">${note}</p>\n<div class="charts">${figures.join('\n')}</div>\n${numbers(stages, steps)}`,
  );
}

/** Steps through all stages: each stage goes on where the one before ended. */
function stageSteps(stages: readonly ReportStage[]): StageSteps[] {
  let before = 0;
  return stages.map(({ config, rows }) => {
    const offset = before;
    before += rows.at(-1)?.step ?? 0;
    return { label: `Stage ${config.stage}`, steps: rows.map(({ step }) => offset + step) };
  });
}

/** The first chart spans the page where there is room, so it is drawn twice, and a width chooses. */
function figure(chart: Chart, steps: readonly StageSteps[], index: number): string {
  const key = chart.lines.map(({ name }, i) => `<span class="key" style="--c:var(--s${i})">${name}</span>`);
  const caption = `<figcaption>${chart.title}${key.length > 1 ? key.join('') : ''}</figcaption>`;
  const draw = (width: number, height: number, suffix: string) =>
    chartSvg(chart, steps, { width, height }, `c${index}${suffix}`);
  if (index > 0) return `<figure>${caption}${draw(440, 220, '')}</figure>`;
  const [wide, narrow] = [draw(920, 300, 'w'), draw(440, 240, 'n')];
  return `<figure class="hero">${caption}<div class="wide">${wide}</div><div class="narrow">${narrow}</div></figure>`;
}

const SAMPLED_ROWS = 12;

/** The curves as a table: up to `SAMPLED_ROWS` steps of each stage, evenly spaced, the last one among them. */
function numbers(stages: readonly ReportStage[], steps: readonly StageSteps[]): string {
  const fields = CHARTS.flatMap(([, , of]) => of.map(([field]) => field));
  const rows = stages.flatMap(({ config, rows }, s) => {
    const count = Math.min(SAMPLED_ROWS, rows.length);
    return Array.from({ length: count }, (_, i) => {
      const at = count === 1 ? rows.length - 1 : Math.round((i * (rows.length - 1)) / (count - 1));
      return [
        config.stage,
        steps[s]?.steps[at] ?? 0,
        ...fields.map((field) => rows[at]?.[field] ?? Number.NaN),
      ];
    });
  });
  const columns = ['stage', 'step', ...fields.map((field) => field.replaceAll('_', ' '))];
  return `<details><summary>The curves as numbers</summary>${table({ columns, rows })}</details>`;
}

/** A row for each key, a column for each stage. */
function configTable(stages: readonly ReportStage[]): ReportTable {
  const configs = stages.map(({ config }): Readonly<Record<string, unknown>> => config);
  const keys = [...new Set(configs.flatMap((config) => Object.keys(config)))].filter(
    (key) => key !== 'stage',
  );
  return {
    columns: ['', ...stages.map(({ config }) => `Stage ${config.stage}`)],
    rows: keys.map((key) => [key, ...configs.map((config) => showSetting(config[key]))]),
  };
}

/** A value of a configuration as text: all digits of numbers, `pattern → rate` for the pairs of a list. */
export function showSetting(value: unknown): string {
  if (value === undefined) return '–';
  if (typeof value === 'number' && value !== 0 && Math.abs(value) < 1e-3) return value.toExponential();
  if (!Array.isArray(value)) return typeof value === 'object' ? JSON.stringify(value) : String(value);
  if (value.length === 0) return 'none';
  return value
    .map((item) => (Array.isArray(item) ? item.map(showSetting).join(' → ') : showSetting(item)))
    .join(', ');
}

/** A figure of a table: numbers short, but counts in full. */
export function showFigure(value: string | number): string {
  if (typeof value === 'string') return value;
  return Number.isInteger(value) ? value.toLocaleString('en') : formatNumber(value);
}

/** The first cell of each row is its heading. */
function table({ columns, rows, note }: ReportTable): string {
  const isNumeric = (value: string | number | undefined) => /^-?[\d.,]+(e-?\d+)?\s?%?$/.test(String(value));
  const right = columns.map((_, i) => i > 0 && rows.length > 0 && rows.every((row) => isNumeric(row[i])));
  const cell = (value: string | number, i: number) => {
    const text = escapeHtml(showFigure(value));
    if (i === 0) return `<th scope="row">${text}</th>`;
    return right[i] ? `<td class="n">${text}</td>` : `<td>${text}</td>`;
  };
  const head = columns
    .map((name, i) => `<th scope="col"${right[i] ? ' class="n"' : ''}>${escapeHtml(name)}</th>`)
    .join('');
  const heading = columns.some((name) => name !== '') ? `<thead><tr>${head}</tr></thead>` : '';
  const body = rows.map((row) => `<tr>${row.map(cell).join('')}</tr>`).join('\n');
  const below = note === undefined ? '' : `<p class="muted">${escapeHtml(note)}</p>`;
  return `<div class="scroll" tabindex="0"><table>${heading}<tbody>${body}</tbody></table></div>${below}`;
}

const CSS = `
:root{--bg:#f6f6f3;--card:#fff;--ink:#1d1f23;--muted:#62666f;--rule:#e2e2dd;--band0:#00000000;--band1:#1d1f230a;
--s0:#2563c9;--s1:#c2580c;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--bg:#131519;--card:#1b1e24;--ink:#e8e9ec;--muted:#9aa0ab;--rule:#2d323b;
--band1:#ffffff0b;--s0:#78a9ff;--s1:#ffab70}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1020px;margin:0 auto;padding:40px 20px 64px}
h1{font-size:30px;line-height:1.2;margin:2px 0 6px;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:19px;margin:40px 0 10px;letter-spacing:-.01em}
p{margin:0 0 10px}
.muted{color:var(--muted);font-size:14px}
.kicker{color:var(--s0);font-size:12px;font-weight:650;letter-spacing:.09em;text-transform:uppercase;margin:0}
.tiles{display:grid;grid-template-columns:repeat(6,1fr);gap:1px;margin:24px 0 0;
background:var(--rule);border:1px solid var(--rule);border-radius:10px;overflow:hidden}
.tiles div{background:var(--card);padding:12px 16px}
dt{color:var(--muted);font-size:13px}
dd{margin:0;font-size:22px;font-weight:600;letter-spacing:-.01em;font-variant-numeric:tabular-nums;white-space:nowrap}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:14px}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 12px 8px;min-width:0}
.hero{grid-column:1/-1}
figcaption{font-weight:600;font-size:14px;padding:0 4px 4px;display:flex;flex-wrap:wrap;gap:2px 14px;align-items:baseline}
.key{font-weight:400;font-size:13px;color:var(--muted)}
.key::before{content:"";display:inline-block;width:14px;height:3px;border-radius:2px;background:var(--c);
margin-right:6px;vertical-align:middle}
svg{display:block;width:100%;height:auto;font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg text{fill:var(--muted)}
.y{text-anchor:end}.x,.stage{text-anchor:middle}.end{text-anchor:end}
.grid{stroke:var(--rule)}.axis{stroke:var(--muted);stroke-opacity:.6}
.band0{fill:var(--band0)}.band1{fill:var(--band1)}
.raw,.line,.dot{fill:none;stroke-linejoin:round;stroke-linecap:round}
.raw{stroke-width:1;stroke-opacity:.28}.line{stroke-width:1.8}.dot{stroke-width:6}
.narrow{display:none}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--rule);border-radius:10px}
.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--s0);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:7px 14px;text-align:left;vertical-align:top;border-top:1px solid var(--rule);overflow-wrap:anywhere}
thead th{border-top:0;color:var(--muted);font-weight:500;font-size:13px;white-space:nowrap}
thead:empty+tbody tr:first-child>*,tbody:first-child tr:first-child>*{border-top:0}
tbody th{font-weight:500;white-space:nowrap}
.n{text-align:right;white-space:nowrap}
details{margin-top:14px}
summary{cursor:pointer;color:var(--muted);font-size:14px;padding:4px 0;margin-bottom:8px}
.scroll+.muted{margin-top:8px}
@media (max-width:900px){.tiles{grid-template-columns:repeat(3,1fr)}}
@media (max-width:640px){main{padding:24px 14px 40px}h1{font-size:24px}.wide{display:none}.narrow{display:block}
.tiles{grid-template-columns:1fr 1fr}svg{font-size:14px}th,td{padding:7px 10px}td:not(.n){min-width:8em}}
@media print{body{background:#fff}figure,.scroll{break-inside:avoid}}
`;
