import { describe, expect, it } from 'vitest';
import { chartSvg, escapeHtml, formatNumber, smoothed } from './reportChart.ts';

const SIZE = { width: 440, height: 220 };
const draw = (stages: readonly (readonly number[])[], smooth = false) => {
  let before = 0;
  const steps = stages.map((values, i) => {
    const offset = before;
    before += values.length;
    return { label: `S<${i}>`, steps: values.map((_, j) => offset + j + 1) };
  });
  return chartSvg({ title: 'A & B', lines: [{ name: 'a', stages }], smooth }, steps, SIZE, 'c');
};
const paths = (svg: string) =>
  [...svg.matchAll(/<path class="(\w+)"[^>]* d="([^"]*)"/g)].map((m) => [m[1], m[2]]);
/** The points of a path as pairs. */
const points = (data: string) =>
  [...data.matchAll(/[ML]([\d.-]+) ([\d.-]+)/g)].map((m) => [Number(m[1]), Number(m[2])]);
const ticks = (svg: string) => [...svg.matchAll(/<text class="y"[^>]*>([^<]*)/g)].map((m) => m[1]);

describe('escapeHtml', () => {
  it('leaves no character with a meaning', () => {
    expect(escapeHtml(`<a b="c" d='e'>&`)).toBe('&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;');
  });
});

describe('formatNumber', () => {
  it.each([
    [0, '0'],
    [2e-5, '2e-5'],
    [1.25e-7, '1.25e-7'],
    [0.0344, '0.0344'],
    [-1.2345, '-1.23'],
    [1000, '1000'],
    [12_500, '12.5k'],
    [3_000_000, '3M'],
    [Number.NaN, 'NaN'],
  ])('%d as %s', (value, text) => expect(formatNumber(value)).toBe(text));
});

describe('smoothed', () => {
  it('begins at the first value, keeps a constant, passes over NaN', () => {
    expect(smoothed([3])).toEqual([3]);
    const flat = smoothed(Array.from({ length: 500 }, () => 7));
    for (const value of flat) expect(value).toBeCloseTo(7, 12);
    const [first, gap, third] = smoothed([2, Number.NaN, 2]);
    expect([first, gap, third]).toEqual([2, Number.NaN, 2]);
  });

  it('follows a hand-computed mean: 160 values, so half of each goes', () => {
    const values = [4, 0, 2, ...Array.from({ length: 157 }, () => 0)];
    // Weights 1/2, 1/4, 1/8 over their sums.
    expect(smoothed(values).slice(0, 3)).toEqual([4, 4 / 3, (4 / 8 + 2 / 2) / (7 / 8)]);
  });
});

describe('chartSvg', () => {
  it('puts greater values higher and later steps further right, within the frame', () => {
    const [[kind, data] = []] = paths(draw([[1, 3, 2]]));
    expect(kind).toBe('line');
    const [a, b, c] = points(data!) as [number, number][];
    expect(a![0]).toBeLessThan(b![0]);
    expect(c![0]).toBe(SIZE.width - 12);
    expect(b![1]).toBeLessThan(c![1]);
    expect(c![1]).toBeLessThan(a![1]);
    for (const [x, y] of points(data!)) expect(x! >= 46 && x! <= 428 && y! >= 22 && y! <= 196).toBe(true);
  });

  it('breaks the line at NaN and draws raw values under the smoothed', () => {
    const [raw, line, ...more] = paths(draw([[1, Number.NaN, 2, 3]], true));
    expect([raw![0], line![0], more.length]).toEqual(['raw', 'line', 0]);
    expect(raw![1]!.match(/M/g)).toHaveLength(2);
    expect(points(raw![1]!)).toHaveLength(3);
  });

  it('keeps peaks of long series and drops the rest', () => {
    const values = Array.from({ length: 20_000 }, (_, i) => (i === 7777 ? 50 : 10 + (i % 7)));
    const [[, data] = []] = paths(draw([values]));
    const drawn = points(data!);
    expect(drawn.length).toBeLessThan(500);
    const highest = drawn.reduce((best, point) => (point[1]! < best[1]! ? point : best));
    expect(highest[0]).toBeCloseTo(46 + (382 * 7778) / 20_000, 0);
  });

  it('turns logarithmic where smoothed values span much, and only there', () => {
    expect(ticks(draw([[0.1, 1, 10]], true))).toEqual(['0.1', '0.3', '1', '3', '10']);
    expect(ticks(draw([[0.1, 1, 10]]))).toEqual(['0', '5', '10']);
    expect(ticks(draw([[5, 5, 5]]))).not.toEqual([]);
  });

  it('shades and names stages when there are several', () => {
    const svg = draw([
      [1, 2],
      [3, 4],
    ]);
    expect(svg.match(/class="band/g)).toHaveLength(2);
    expect(svg).toContain('>S&lt;1&gt;</text>');
    expect(draw([[1, 2]])).not.toContain('class="band');
  });

  it('describes itself, and draws lone points and nothing', () => {
    expect(draw([[3, 1, 2]])).toContain('<desc id="c-d">a: from 3 to 2, least 1.</desc>');
    expect(draw([[3]])).toContain('<title id="c-t">A &amp; B</title>');
    expect(paths(draw([[3]], true)).map(([kind]) => kind)).toEqual(['dot']);
    for (const empty of [draw([[]]), draw([[Number.NaN]])]) {
      expect(paths(empty)).toEqual([]);
      expect(empty).not.toMatch(/="[^"]*NaN/);
    }
  });
});
