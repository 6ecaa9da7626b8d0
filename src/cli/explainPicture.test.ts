import sharp from 'sharp';
import { describe, expect, test } from 'vitest';
import { heatColour } from '../common/heat.ts';
import type { RgbImage } from '../data/image.ts';
import type { Maps } from '../generate/attentionMaps.ts';
import { drawExplanation, heatMap } from './explainPicture.ts';

const flat = (width: number, height: number, ...colour: readonly number[]): RgbImage => ({
  width,
  height,
  data: Uint8Array.from({ length: width * height * 3 }, (_, i) => colour[i % 3] ?? 0),
});
const pixel = ({ width, data }: RgbImage, x: number, y: number) => {
  const at = (y * width + x) * 3;
  return [...data.slice(at, at + 3)];
};
const mapOf = (rows: number, columns: number, ...values: number[]): Maps => ({
  shape: [rows, columns],
  data: Float32Array.from(values),
});

describe('a heat map', () => {
  test('lies over the picture cell by cell, from its least to its largest value', () => {
    const drawn = heatMap(flat(6, 4, 0, 0, 0), mapOf(2, 3, 5, 6, 5.5, 5, 5, 7));
    const mixed = (value: number) => heatColour(value).map((x) => Math.round(0.7 * x));
    expect(pixel(drawn, 0, 0)).toEqual(mixed(0));
    expect(pixel(drawn, 3, 1)).toEqual(mixed(0.5));
    expect(pixel(drawn, 4, 0)).toEqual(mixed(0.25));
    expect(pixel(drawn, 5, 3)).toEqual(mixed(1));
    expect(pixel(drawn, 5, 1)).toEqual(mixed(0.25));
  });

  test('lets the picture show through in grey', () => {
    const [dark, bright] = [10, 250].map((level) => heatMap(flat(2, 2, level, level, level), mapOf(1, 1, 3)));
    const difference = pixel(bright!, 0, 0).map((x, i) => x - pixel(dark!, 0, 0)[i]!);
    expect(difference).toEqual([72, 72, 72]);
  });
});

describe('a drawing', () => {
  const panel = (label: string) => ({ label, map: mapOf(1, 2, 0, 0.5) });
  const draw = async (picture: RgbImage, count: number, label = 'x') => {
    const groups = [
      { title: 'first', panels: [panel(label)] },
      { title: 'second', panels: Array.from({ length: count }, () => panel(label)) },
    ];
    const png = await drawExplanation(picture, 'A <b>question</b> & more\u0007', 'Yes.', groups);
    const { data, info } = await sharp(png).raw().toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: new Uint8Array(data) };
  };

  test('has the picture first, then every panel in its place', async () => {
    const sheet = await draw(flat(100, 50, 200, 10, 10), 7);
    const [base, top] = [28, 28 + 64 + 40];
    expect(pixel(sheet, base + 5, top + 5)).toEqual([200, 10, 10]);
    const [left, right] = [heatMap(flat(2, 1, 200, 10, 10), mapOf(1, 2, 0, 0.5)), base + 240];
    expect(pixel(sheet, right + 5, top + 5)).toEqual(pixel(left, 0, 0));
    expect(pixel(sheet, right + 218, top + 5)).toEqual(pixel(left, 1, 0));
    // The seventh panel of the second group begins a new row.
    const second = top + 112 + 44 + 40;
    expect(pixel(sheet, base + 5 * 240 + 5, second + 5)).toEqual(pixel(left, 0, 0));
    expect(pixel(sheet, base + 5, second + 112 + 44 + 5)).toEqual(pixel(left, 0, 0));
    expect(pixel(sheet, base + 245, second + 112 + 44 + 5)).toEqual([255, 255, 255]);
    expect(sheet.height).toBe(second + 2 * (112 + 44) + 28);
  });

  test('keeps the proportions of pictures that are not extreme', async () => {
    const [wide, tall] = [await draw(flat(1000, 10, 1, 2, 3), 1), await draw(flat(10, 1000, 1, 2, 3), 1)];
    expect(tall.height - wide.height).toBe(2 * (448 - 64));
  });

  test('takes any text for a label', async () => {
    await expect(draw(flat(4, 4, 0, 0, 0), 1, '</text> & \u0000 \uD800 "quoted"')).resolves.toBeDefined();
  });
});
