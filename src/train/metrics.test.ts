import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { type MetricsRow, metricsLine, openMetrics, readMetrics, TIME_FIELDS } from './metrics.ts';

let dir = '';
let file = '';
beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'metrics-'));
  file = path.join(dir, 'metrics.jsonl');
});
afterAll(() => rm(dir, { recursive: true, force: true }));

function row(step: number, fields: Partial<MetricsRow> = {}): MetricsRow {
  return {
    step,
    epoch: step / 7,
    loss: 1 / step,
    cross_entropy: 0.9 / step,
    text_loss: 0.3,
    vision_loss: 0.7,
    learning_rate: 2e-5,
    vision_learning_rate: 2e-6,
    grad_norm: 1.25,
    samples_per_s: 11,
    tokens_per_s: 900,
    seconds: step * 2,
    ...fields,
  };
}

async function write(steps: readonly number[], resumedStep = 0): Promise<void> {
  const log = await openMetrics(file, resumedStep);
  for (const step of steps) await log.append(row(step));
  await log.sync();
  await log.close();
}

const text = () => readFile(file, 'utf8');

describe('metricsLine', () => {
  it('keeps the order of fields, times last', () => {
    const { step, seconds, ...rest } = row(7);
    expect(metricsLine({ seconds, ...rest, step })).toBe(
      '{"step":7,"epoch":1,"loss":0.14285714285714285,"cross_entropy":0.1285714285714286,"text_loss":0.3,' +
        '"vision_loss":0.7,"learning_rate":0.00002,"vision_learning_rate":0.000002,"grad_norm":1.25,' +
        '"samples_per_s":11,"tokens_per_s":900,"seconds":14}',
    );
    expect(Object.keys(JSON.parse(metricsLine(row(1)))).slice(-3)).toEqual([...TIME_FIELDS]);
  });
});

describe('openMetrics', () => {
  it('resumes so that the log is that of an uninterrupted run', async () => {
    await rm(file, { force: true });
    await write([1, 2, 3, 4, 5, 6]);
    const whole = await text();
    await rm(file);
    await write([1, 2, 3, 4]);
    await write([3, 4, 5, 6], 2);
    expect(await text()).toBe(whole);
    expect(whole.split('\n')).toHaveLength(7);
  });

  it('says what was kept', async () => {
    await rm(file, { force: true });
    await write([10, 20, 30]);
    const log = await openMetrics(file, 25);
    await log.close();
    expect(log.kept).toEqual([row(10), row(20)]);
  });

  it('begins anew at step 0', async () => {
    await write([1]);
    const log = await openMetrics(file);
    await log.close();
    expect([log.kept, await text()]).toEqual([[], '']);
  });

  it('cuts a line torn by a crash at every byte', async () => {
    const lines = `${metricsLine(row(1))}\n${metricsLine(row(2))}\n`;
    const first = metricsLine(row(1)).length + 1;
    for (const end of [first + 1, first + 9, lines.length - 2]) {
      await writeFile(file, lines.slice(0, end));
      expect(await readMetrics(file)).toEqual([row(1)]);
      await write([2], 5);
      expect(await text()).toBe(lines);
    }
    await writeFile(file, lines.slice(0, -1));
    await write([3], 5);
    expect(await text()).toBe(`${lines}${metricsLine(row(3))}\n`);
  });

  it('keeps NaN and infinity', async () => {
    await rm(file, { force: true });
    const log = await openMetrics(file);
    const sick = row(1, { loss: Number.NaN, grad_norm: Infinity });
    await log.append(sick);
    await log.close();
    expect(await readMetrics(file)).toEqual([sick]);
  });

  it.each([
    ['no JSON', 'x\n', /metrics\.jsonl:2: expected one JSON object, got "x"/],
    ['a value', '7\n', /:2: expected a JSON object, got 7/],
    [
      'a text for a number',
      `${metricsLine(row(2)).replace('1.25', '"a"')}\n`,
      /:2: grad_norm: expected a number, got "a"/,
    ],
    ['a missing field', '{"step":2}\n', /:2: epoch: expected a number, got nothing/],
    ['a step again', `${metricsLine(row(1))}\n`, /:2: expected a step above 1, got 1/],
    ['a fraction', `${metricsLine(row(1.5))}\n`, /:2: expected a step above 1, got 1\.5/],
  ])('refuses %s before the last line, and leaves the file as it was', async (_, bad, message) => {
    const lines = `${metricsLine(row(1))}\n${bad}${metricsLine(row(9))}\n`;
    await writeFile(file, lines);
    await expect(openMetrics(file, 9)).rejects.toThrow(message);
    await expect(openMetrics(file, 9)).rejects.toThrow(UserError);
    expect(await text()).toBe(lines);
  });

  it('names the file where the disk refuses', async () => {
    const none = path.join(dir, 'none', 'metrics.jsonl');
    await expect(openMetrics(none)).rejects.toThrow(none);
    await expect(readMetrics(none)).rejects.toThrow(UserError);
  });
});
