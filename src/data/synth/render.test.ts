/** Pixels: what a scene says is at a place is there; the same scene gives the same bytes. */
import { describe, expect, it } from 'vitest';
import { decodeImage } from '../imageFile.ts';
import { renderPng, renderScene } from './render.ts';
import { sampleAt } from './sample.ts';
import { COLOURS, type Panel, type Scene, type SceneObject, SHAPES } from './scene.ts';
import { wordPaths } from './strokeFont.ts';

const object: SceneObject = {
  shape: 'circle',
  colour: 'red',
  size: 'large',
  texture: 'plain',
  x: 500,
  y: 500,
  radius: 140,
  tilt: 0,
  cell: 4,
};
const panel: Panel = { background: { style: 'plain', tone: 'white', grain: 0 }, objects: [object] };
const sceneOf = (...objects: SceneObject[]): Scene => ({ panels: [{ ...panel, objects }] });

async function pixel(scene: Scene, x: number, y: number, size = 128): Promise<number[]> {
  const { data, width } = await renderScene(scene, size);
  const at = 3 * (Math.floor((y * size) / 1000) * width + Math.floor((x * size) / 1000));
  return [...data.subarray(at, at + 3)];
}

describe('renderScene', () => {
  it('paints a red circle in the middle red, and nothing else', async () => {
    const [r, g, b] = await pixel(sceneOf(object), 500, 500);
    expect(r).toBeGreaterThan(200);
    expect(Math.max(g!, b!)).toBeLessThan(80);
    expect(await pixel(sceneOf(object), 100, 100)).toEqual([250, 250, 248]);
    expect((await pixel(sceneOf(object), 500 + 180, 500))[1]).toBe(250);
  });

  it('has the size asked for', async () => {
    for (const size of [64, 192]) {
      const { width, height, data } = await renderScene(sceneOf(object), size);
      expect([width, height, data.length]).toEqual([size, size, 3 * size * size]);
    }
  });

  it('draws later objects over earlier ones', async () => {
    const blue = { ...object, colour: 'blue', radius: 60 } as const;
    expect((await pixel(sceneOf(object, blue), 500, 500))[2]).toBeGreaterThan(180);
    expect((await pixel(sceneOf(blue, object), 500, 500))[2]).toBeLessThan(80);
  });

  it('gives every colour and every shape a picture of its own', async () => {
    const pictures = [
      ...COLOURS.map((colour) => sceneOf({ ...object, colour })),
      ...SHAPES.slice(1).map((shape) => sceneOf({ ...object, shape })),
      ...(['striped', 'dotted', 'outlined'] as const).map((texture) => sceneOf({ ...object, texture })),
    ];
    const bytes = await Promise.all(pictures.map(async (scene) => (await renderScene(scene, 64)).data));
    bytes.forEach((a, i) => {
      for (const b of bytes.slice(0, i)) {
        const distance = a.reduce((sum, value, k) => sum + Math.abs(value - b[k]!), 0) / a.length;
        expect(distance).toBeGreaterThan(1);
      }
    });
  });

  it('shows the left picture on the left and cuts it off at its edge', async () => {
    const left = { ...object, x: 245, radius: 100 };
    const right = { ...left, colour: 'blue' } as const;
    const scene: Scene = {
      panels: [
        { ...panel, objects: [left] },
        { ...panel, objects: [right] },
      ],
    };
    expect((await pixel(scene, 245, 500))[0]).toBeGreaterThan(200);
    expect((await pixel(scene, 755, 500))[2]).toBeGreaterThan(200);
    const wide: Scene = {
      panels: [
        { ...panel, objects: [{ ...left, x: 480 }] },
        { ...panel, objects: [] },
      ],
    };
    expect(await pixel(wide, 530, 500)).toEqual([250, 250, 248]);
  });

  it('writes words in their colour', async () => {
    const word = { text: 'I', colour: 'blue', x: 500, y: 500, height: 180, row: 1 } as const;
    const scene: Scene = { panels: [{ ...panel, objects: [], word }] };
    expect((await pixel(scene, 500, 500, 256))[2]).toBeGreaterThan(180);
    expect((await pixel(scene, 560, 500, 256))[2]).toBe(248);
  });

  it('gives the same bytes for the same sample, alone or among others, and as a file', async () => {
    const scenes = Array.from({ length: 8 }, (_, i) => sampleAt('SynthScene', 'train', 4, i).scene);
    const together = await Promise.all(scenes.map((scene) => renderPng(scene, 96)));
    for (const [i, scene] of scenes.entries()) {
      const png = await renderPng(structuredClone(scene), 96);
      expect(Buffer.from(png).equals(Buffer.from(together[i]!))).toBe(true);
      expect((await decodeImage(png, { name: 'png' })).data).toEqual((await renderScene(scene, 96)).data);
    }
  });
});

describe('wordPaths', () => {
  it('has all capitals and digits and refuses the rest', () => {
    const all = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789';
    expect(wordPaths(all, 60).match(/<path/g)).toHaveLength(36);
    expect(() => wordPaths('a', 60)).toThrow("internal: stroke font: no glyph for 'a'");
  });
});
