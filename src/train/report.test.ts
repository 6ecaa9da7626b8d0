import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { resolveConfig } from './config.ts';
import { type ReportInput, reportHtml, writeReport } from './report.ts';

const EVIL = '<script>alert("x")</script>';

function stage(label: string, steps: number) {
  const yaml = {
    name: EVIL,
    stage: label,
    data: EVIL,
    learning_rates: [[EVIL, 2e-6]],
    batch_size: 4,
    max_length: 99,
  };
  const rows = Array.from({ length: steps }, (_, i) => ({
    step: 10 * (i + 1),
    epoch: i / steps,
    loss: 5 / (i + 1),
    cross_entropy: 4 / (i + 1),
    text_loss: 0.5,
    vision_loss: 0.25,
    learning_rate: 1e-5,
    vision_learning_rate: 1e-6,
    grad_norm: 1,
    samples_per_s: 11,
    tokens_per_s: 900,
    seconds: 600 * (i + 1),
  }));
  return { config: resolveConfig(JSON.stringify(yaml), '/r/a.yaml')[0]!, rows };
}

const input = (fields: Partial<ReportInput> = {}): ReportInput => ({
  title: `run ${EVIL}`,
  finished: EVIL,
  stages: [stage('1', 12), stage(EVIL, 5)],
  environment: { [EVIL]: EVIL },
  data: { columns: [EVIL, 'samples'], rows: [[EVIL, 40_000]], note: EVIL },
  scores: { columns: ['', 'exact'], rows: [[EVIL, '97.5%']], note: EVIL },
  ...fields,
});

/** Elements that are opened and not closed in order, void ones aside. */
function unclosed(html: string): string[] {
  const open: string[] = [];
  for (const [, end, name, self] of html.matchAll(/<(\/?)([a-zA-Z0-9]+)[^>]*?(\/?)>/g)) {
    if (self === '/' || name === 'meta') continue;
    if (end === '') open.push(name!);
    else if (open.pop() !== name) return [...open, `</${name}>`];
  }
  return open;
}

describe('reportHtml', () => {
  const html = reportHtml(input());

  it('escapes every text of the run', () => {
    expect(html.includes('<script')).toBe(false);
    expect(html.match(/&lt;script&gt;/g)!.length).toBeGreaterThan(15);
  });

  it('asks for nothing from outside', () => {
    expect(/\b(src|href)=|@import|https?:|url\((?!#)/.exec(html)).toBeNull();
    expect(html).toContain(`content="default-src 'none'; style-src 'unsafe-inline'"`);
  });

  it('is well-formed, with ids of its own for each picture', () => {
    expect(unclosed(html)).toEqual([]);
    const ids = [...html.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id);
    expect(new Set(ids).size).toBe(ids.length);
    expect(html.match(/<svg /g)).toHaveLength(8);
    expect(html.match(/<svg [^>]*role="img" aria-labelledby/g)).toHaveLength(8);
  });

  it('sums up the stages', () => {
    expect(html).toContain('<dt>Steps</dt><dd>170</dd>');
    expect(html).toContain('<dt>Time trained</dt><dd>2 h 50 min</dd>');
    expect(html).toContain('<dt>Final loss</dt><dd>1</dd>');
  });

  it('gives the curves as a table too, steps counted through', () => {
    const details = /<details>.*?<\/details>/s.exec(html)![0];
    expect(details.match(/<tr>/g)).toHaveLength(1 + 12 + 5);
    expect(details).toMatch(/<td class="n">170<\/td>/);
    expect(details).toContain('vision learning rate');
    const three = reportHtml(input({ stages: [stage('1', 2), stage('2', 2), stage('3', 1)] }));
    expect(three).toContain('<th scope="row">3</th><td class="n">50</td>');
  });

  it('shows data, scores and settings', () => {
    expect(html).toContain('<td class="n">40,000</td>');
    expect(html).toContain('<td class="n">97.5%</td>');
    expect(html).toContain('<th scope="row">batch_size</th><td>4</td><td>4</td>');
    expect(html).toContain('→ 2e-6');
  });

  it('has both schemes and a phone’s width', () => {
    expect(html).toContain('prefers-color-scheme:dark');
    expect(html).toContain('width=device-width');
  });

  it('does without scores and without steps', () => {
    const { scores: _, ...rest } = input({ stages: [stage('1', 0)] });
    const empty = reportHtml(rest);
    expect(empty).toContain('No step was logged.');
    expect(empty).not.toContain('<h2>Scores</h2>');
    expect(unclosed(empty)).toEqual([]);
  });

  it('stays small for long runs', () => {
    expect(reportHtml(input({ stages: [stage('1', 30_000)] })).length).toBeLessThan(400_000);
  });
});

describe('writeReport', () => {
  it('writes the page, or names the file', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'report-'));
    await writeReport(path.join(dir, 'report.html'), input());
    expect(await readFile(path.join(dir, 'report.html'), 'utf8')).toBe(reportHtml(input()));
    await rm(dir, { recursive: true });
    await expect(writeReport(path.join(dir, 'report.html'), input())).rejects.toThrow(UserError);
  });
});
