import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { UserError } from '../common/errors.ts';
import { resolveConfig } from './config.ts';
import { type ModelCard, modelCard, readSources, writeModelCard, writeScores } from './modelCard.ts';

const config = resolveConfig(
  `{name: a, stage: '1.5', data: d, learning_rates: [[vision_tower, 2e-6], ['.*', 2e-5]], batch_size: 8,
    accumulation: 16, max_length: 4096, mode: frozen_decoder}`,
  '/r/a.yaml',
)[0]!;
const row = (step: number, loss: number) => ({
  step,
  epoch: 0,
  loss,
  cross_entropy: loss,
  text_loss: 0.5,
  vision_loss: 0.25,
  learning_rate: 1e-5,
  vision_learning_rate: 1e-6,
  grad_norm: 1,
  samples_per_s: 1,
  tokens_per_s: 1,
  seconds: 1,
});

const card: ModelCard = {
  name: 'FUSION tiny',
  variant: 'FUSION (custom sizes), 7.4M parameters',
  license: 'apache-2.0',
  languages: ['en'],
  baseModels: [{ name: 'SigLIP', id: 'google/siglip-so400m-patch14-384' }, { name: 'my decoder' }],
  data: [
    { name: 'Pretrain', id: 'starriver030515/FUSION-Pretrain-10M', samples: 10_000_000 },
    { name: 'own | <b>', samples: 5 },
  ],
  stages: [{ config, rows: [row(10, 4), row(1200, 4)] }],
  scores: { columns: ['category', 'exact match'], rows: [['Colour', '97%']], note: '1,000 questions.' },
  folder: 'models/tiny',
};

/** The front matter parsed, and the rest. */
function split(text: string): { meta: Record<string, unknown>; body: string } {
  const [, yaml = '', body = ''] = /^---\n(.*?)\n---\n(.*)$/s.exec(text) ?? [];
  return { meta: parse(yaml), body };
}

describe('modelCard', () => {
  const { meta, body } = split(modelCard(card));

  it('has the hub’s front matter, with names of the hub alone', () => {
    expect(meta).toMatchObject({
      license: 'apache-2.0',
      language: ['en'],
      base_model: ['google/siglip-so400m-patch14-384'],
      datasets: ['starriver030515/FUSION-Pretrain-10M'],
      pipeline_tag: 'image-text-to-text',
    });
  });

  it('has every section', () => {
    expect(body.match(/^#+ .*/gm)).toEqual([
      '# FUSION tiny',
      '## Base models',
      '## Data',
      '## Training',
      '## Scores',
      '## Use',
      '## Limits',
    ]);
    expect(body).toContain('This checkpoint is from stage 1.5.');
  });

  it('shows hyperparameters, curves and scores', () => {
    expect(body).toContain('| `accumulation` | 16 |');
    expect(body).toContain('| `learning_rates` | vision\\_tower → 2e-6, .\\* → 2e-5 |');
    expect(body).toContain('| `freeze` | ^(model\\\\.(embed\\_tokens\\|layers\\|norm)\\|lm\\_head)\\\\. |');
    expect(body).toContain('| 1.5 | 1,200 | 4 → 4 | 4 → 4 | 0.5 → 0.5 | 0.25 → 0.25 |');
    expect(body).toContain('| Colour | 97% |');
    expect(body).not.toContain('save_every');
  });

  it('keeps texts from breaking tables or becoming HTML', () => {
    expect(body).toContain('| own \\| &lt;b&gt; | 5 |');
    expect(body).toContain('[Pretrain](https://huggingface.co/datasets/starriver030515/FUSION-Pretrain-10M)');
    for (const line of body.split('\n').filter((text) => text.startsWith('|'))) {
      expect(line.replaceAll('\\|', '').split('|').length).toBeGreaterThanOrEqual(4);
    }
  });

  it('names this project’s commands, quoting odd folders', () => {
    expect(body).toContain(
      'npm start -- ask --model models/tiny --image photo.jpg "What is in this picture?"',
    );
    expect(modelCard({ ...card, folder: "it's $x" })).toContain("--model 'it'\\''s $x' --image");
  });

  it('says what there is not', () => {
    const { scores: _, ...rest } = card;
    const bare = modelCard({
      ...rest,
      license: undefined,
      baseModels: [],
      data: [],
      stages: [{ config, rows: [] }],
    });
    expect(bare).toContain('None: random weights.');
    expect(bare).toContain('Not evaluated yet.');
    expect(bare).toContain('No step was logged.');
    expect(split(bare).meta).not.toHaveProperty('base_model');
    expect(split(bare).meta).not.toHaveProperty('license');
  });

  it('passes the base models of a checkpoint on to what is trained on it, of one that is not trained yet', () => {
    const odd = [...card.baseModels, { name: 'a_b [c] <d> & $e' }, { name: 'x/y z', id: 'x/y z' }];
    const start = modelCard({ ...card, baseModels: odd, stages: [] });
    expect(start).toContain('None yet: this checkpoint is for training to begin with.');
    expect(start).toContain('--base models/tiny');
    expect(readSources(start)).toEqual(odd);
    expect(readSources(modelCard({ ...card, baseModels: [], stages: [] }))).toEqual([]);
    expect(readSources(modelCard(card))).toBeUndefined();
    expect(readSources('')).toBeUndefined();
  });
});

describe('writeModelCard', () => {
  it('writes README.md, or names it', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'card-'));
    await writeModelCard(dir, card);
    expect(await readFile(path.join(dir, 'README.md'), 'utf8')).toBe(modelCard(card));
    await rm(dir, { recursive: true });
    await expect(writeModelCard(dir, card)).rejects.toThrow(UserError);
  });
});

it('scores take the place of those before, and nothing else changes', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'card-'));
  const file = path.join(dir, 'README.md');
  const { scores: _, ...unmarked } = card;
  await writeModelCard(dir, unmarked);
  const scores = { columns: ['', 'right'], rows: [['overall', '91.2']], note: 'Seed 1.' };
  await writeScores(dir, { ...scores, rows: [['overall', '12.3']] });
  await writeScores(dir, scores);
  expect(await readFile(file, 'utf8')).toBe(modelCard({ ...card, scores }));
  await rm(file);
  await expect(writeScores(dir, scores)).rejects.toThrow(UserError);
  await rm(dir, { recursive: true });
});
