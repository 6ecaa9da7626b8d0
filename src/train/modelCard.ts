/**
 * The model card, README.md, of a checkpoint: what it is, what it was made from and how, how good it is, how to
 * use it.
 *
 * Knows nothing of weights; all it says is given. Source: the hub's model card format (YAML front matter, then
 * Markdown) and the cards of the released checkpoints.
 */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { stringify } from 'yaml';
import { messageOf, UserError } from '../common/errors.ts';
import type { StageConfig } from './config.ts';
import type { MetricsRow } from './metrics.ts';
import { type ReportTable, showFigure, showSetting } from './report.ts';
import { formatNumber, smoothed } from './reportChart.ts';

/** A data set or base model: `id` is its name on the hub, left out for what exists only locally. */
export interface Source {
  readonly name: string;
  readonly id?: string;
}

export interface CardData extends Source {
  readonly samples: number;
}

export interface ModelCard {
  readonly name: string;
  /** The variant and its size, as `FUSION (custom sizes), 7.4M parameters`. */
  readonly variant: string;
  /** An identifier of the hub's list, as `apache-2.0`; left out where base models have theirs. */
  readonly license?: string | undefined;
  /** ISO 639-1 codes. */
  readonly languages: readonly string[];
  /** Empty for a model of random weights. */
  readonly baseModels: readonly Source[];
  readonly data: readonly CardData[];
  /** The stages trained so far, the checkpoint's own last; none for one that training is to begin with. */
  readonly stages: readonly { readonly config: StageConfig; readonly rows: readonly MetricsRow[] }[];
  readonly scores?: ReportTable;
  /** The folder to name in the commands. */
  readonly folder: string;
  /** Sentences on what the model cannot do, besides those that hold for all. */
  readonly limits?: readonly string[];
}

/** Writes the card to README.md in `dir`. Throws `UserError` where the disk refuses. */
export async function writeModelCard(dir: string, card: ModelCard): Promise<void> {
  const file = path.join(dir, 'README.md');
  await writeFile(file, modelCard(card)).catch((error: unknown) => {
    throw new UserError(`${file}: ${messageOf(error)}`);
  });
}

/** The card as Markdown. */
export function modelCard(card: ModelCard): string {
  const sections = [
    frontMatter(card),
    `# ${plain(card.name)}`,
    whatItIs(card),
    `## Base models\n\n${baseModels(card)}`,
    `## Data\n\n${data(card)}`,
    `## Training\n\n${card.stages.length === 0 ? UNTRAINED : `${hyperparameters(card)}\n\n${curves(card)}`}`,
    `${SCORES}\n\n${scoresText(card.scores)}`,
    `## Use\n\n${use(card)}`,
    `## Limits\n\n${limits(card)}`,
  ];
  return `${sections.join('\n\n')}\n`;
}

const UNTRAINED = 'None yet: this checkpoint is for training to begin with.';

/** Only names on the hub may stand here: it links them. */
function frontMatter({ license, languages, baseModels, data }: ModelCard): string {
  const ids = (sources: readonly Source[]) => sources.flatMap(({ id }) => id ?? []);
  const [bases, sets] = [ids(baseModels), ids(data)];
  const yaml = stringify({
    ...(license === undefined ? {} : { license }),
    language: languages,
    ...(bases.length > 0 ? { base_model: bases } : {}),
    ...(sets.length > 0 ? { datasets: sets } : {}),
    pipeline_tag: 'image-text-to-text',
    library_name: 'fusion-vl',
    tags: ['fusion', 'vision-language-model', 'multimodal'],
  });
  return `---\n${yaml}---`;
}

function whatItIs({ variant, stages }: ModelCard): string {
  const stage = stages.at(-1)?.config.stage;
  const after = stage === undefined ? '' : ` This checkpoint is from stage ${plain(stage)}.`;
  return (
    `${plain(variant)}: a FUSION vision-language model, which takes a picture and a question and answers in ` +
    'text. The question guides the vision encoder pixel by pixel, latent tokens gather what each question needs ' +
    `from the picture while the answer is decoded, and a mapping loss ties the two spaces together.${after}`
  );
}

function link({ name, id }: Source, kind: '' | 'datasets/'): string {
  return id === undefined ? plain(name) : `[${plain(name)}](https://huggingface.co/${kind}${encodeURI(id)})`;
}

function baseModels({ baseModels }: ModelCard): string {
  if (baseModels.length === 0) return 'None: random weights.';
  return baseModels.map((source) => `- ${link(source, '')}`).join('\n');
}

/** The base models that the card of a checkpoint names which is not trained yet; undefined for any other text. */
export function readSources(card: string): readonly Source[] | undefined {
  if (!card.includes(UNTRAINED)) return undefined;
  const listed = /^## Base models\n\n([\s\S]*?)\n\n## /m.exec(card)?.[1] ?? '';
  return [...listed.matchAll(/^- (?:\[(.*)\]\(https:\/\/huggingface\.co\/(.*)\)|(.*))$/gm)].map(
    ([, name, id, local]) =>
      id === undefined ? { name: unplain(local ?? '') } : { name: unplain(name ?? ''), id: decodeURI(id) },
  );
}

function data({ data }: ModelCard): string {
  if (data.length === 0) return 'Not recorded.';
  const rows = data.map((source) => [link(source, 'datasets/'), source.samples.toLocaleString('en')]);
  return markdownTable(['data set', 'samples'], rows);
}

/** What a reader needs to repeat the training; saving and logging are left out. */
const SHOWN: readonly (keyof StageConfig)[] = [
  'mode',
  'freeze',
  'lora',
  'learning_rates',
  'schedule',
  'warmup_ratio',
  'weight_decay',
  'clip_norm',
  'mapping_loss_weight',
  'batch_size',
  'accumulation',
  'epochs',
  'max_steps',
  'max_length',
  'query_lens',
  'precision',
  'seed',
];

function hyperparameters({ stages }: ModelCard): string {
  const keys = SHOWN.filter((key) => stages.some(({ config }) => config[key] !== undefined));
  const rows = keys.map((key) => [
    `\`${key}\``,
    ...stages.map(({ config }) => {
      const value = config[key];
      return plain(showSetting(value));
    }),
  ]);
  const optimizer =
    'AdamW (0.9, 0.999, 1e-8); rates are peaks, by the first pattern found in a tensor’s name.';
  return `${optimizer}\n\n${markdownTable(['', ...stages.map(({ config }) => `stage ${plain(config.stage)}`)], rows)}`;
}

/** Where each loss began and ended, smoothed as in the report. */
function curves({ stages }: ModelCard): string {
  const logged = stages.filter(({ rows }) => rows.length > 0);
  if (logged.length === 0) return 'No step was logged.';
  const course = (rows: readonly MetricsRow[], field: keyof MetricsRow) => {
    const values = smoothed(rows.map((row) => row[field])).filter(Number.isFinite);
    return `${formatNumber(values[0] ?? Number.NaN)} → ${formatNumber(values.at(-1) ?? Number.NaN)}`;
  };
  const fields = ['loss', 'cross_entropy', 'text_loss', 'vision_loss'] as const;
  const rows = logged.map(({ config, rows }) => [
    plain(config.stage),
    (rows.at(-1)?.step ?? 0).toLocaleString('en'),
    ...fields.map((field) => course(rows, field)),
  ]);
  const columns = ['stage', 'steps', ...fields.map((field) => field.replace('_', ' '))];
  return `From the first logged step to the last, smoothed:\n\n${markdownTable(columns, rows)}`;
}

const SCORES = '## Scores';

/** Puts scores into the card in `dir` in place of those it has. @throws UserError where there is no card to put them */
export async function writeScores(dir: string, scores: ReportTable): Promise<void> {
  const file = path.join(dir, 'README.md');
  try {
    const card = await readFile(file, 'utf8');
    const [before, after] = card.split(/^## Scores\n[\s\S]*?(?=^## )/m);
    if (after === undefined) throw new UserError(`expected a section ${SCORES} and another one after it`);
    await writeFile(file, `${before}${SCORES}\n\n${scoresText(scores)}\n\n${after}`);
  } catch (error) {
    throw new UserError(`${file}: ${messageOf(error)}`);
  }
}

function scoresText(scores: ReportTable | undefined): string {
  if (scores === undefined) return 'Not evaluated yet.';
  const rows = scores.rows.map((row) => row.map((value) => plain(showFigure(value))));
  const table = markdownTable(scores.columns.map(plain), rows);
  return scores.note === undefined ? table : `${table}\n\n${plain(scores.note)}`;
}

function use({ folder, stages }: ModelCard): string {
  // Single quotes keep every character of a folder's name from the shell.
  const model = /^[\w./-]+$/.test(folder) ? folder : `'${folder.replaceAll("'", "'\\''")}'`;
  if (stages.length === 0) {
    return `\`\`\`sh\nnpm start -- train --config configs/train/stage1.yaml --base ${model} --out RUN\n\`\`\``;
  }
  return [
    'With [fusion-vl](https://www.npmjs.com/package/fusion-vl), in a clone of it:',
    '',
    '```sh',
    `npm start -- ask --model ${model} --image photo.jpg "What is in this picture?"`,
    `npm start -- chat --model ${model} --image photo.jpg`,
    '```',
  ].join('\n');
}

/** The text that `plain` was given. */
function unplain(text: string): string {
  return text
    .replace(/&lt;/g, '<')
    .replace(/&gt;/g, '>')
    .replace(/&amp;/g, '&')
    .replace(/\\([\\`*_[\]|#~$])/g, '$1');
}

function limits({ limits = [] }: ModelCard): string {
  const always = [
    'It can state what is not in the picture, and miscount, with confidence; check what matters.',
    'It was trained on one picture for each conversation.',
    'It repeats the biases of its base models and data.',
  ];
  return [...limits.map(plain), ...always].map((sentence) => `- ${sentence}`).join('\n');
}

function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(columns), line(columns.map(() => '---')), ...rows.map(line)].join('\n');
}

/** Text without a meaning in Markdown or HTML, on one line. */
function plain(text: string): string {
  return text
    .replace(/\s+/g, ' ')
    .replace(/[\\`*_[\]|#~$]/g, '\\$&')
    .replace(/&/g, '&amp;')
    .replace(/</g, '&lt;')
    .replace(/>/g, '&gt;');
}
