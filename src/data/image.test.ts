/** Properties of the resize, and where each value of the crops comes from; PIL's own pictures are in imageFile.test.ts. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { blankCrops, type RgbImage, resizeBicubic, staticHdCrops } from './image.ts';

const side = fc.integer({ min: 1, max: 24 });

const anyImage = fc.tuple(side, side).chain(([width, height]) => {
  const length = 3 * width * height;
  return fc
    .uint8Array({ minLength: length, maxLength: length })
    .map((data): RgbImage => ({ width, height, data }));
});

function filled(width: number, height: number, color: readonly number[]): RgbImage {
  return { width, height, data: Uint8Array.from({ length: 3 * width * height }, (_, i) => color[i % 3]!) };
}

describe('resizeBicubic', () => {
  it('keeps a constant image constant at any size', () => {
    const byte = fc.integer({ min: 0, max: 255 });
    fc.assert(
      fc.property(side, side, side, side, fc.tuple(byte, byte, byte), (w, h, width, height, color) => {
        expect(resizeBicubic(filled(w, h, color), width, height)).toEqual(filled(width, height, color));
      }),
    );
  });

  it('copies at the same size, without sharing memory', () => {
    fc.assert(
      fc.property(anyImage, (image) => {
        const copy = resizeBicubic({ ...image, data: Buffer.from(image.data) }, image.width, image.height);
        expect(copy.data).toEqual(image.data);
        expect(copy.data.buffer).not.toBe(image.data.buffer);
        copy.data[0] = (copy.data[0]! + 1) % 256;
        expect(copy.data[0]).not.toBe(image.data[0]);
      }),
    );
  });

  it('is the horizontal pass, rounded to bytes, then the vertical one', () => {
    fc.assert(
      fc.property(anyImage, side, side, (image, width, height) => {
        const wide = resizeBicubic(image, width, image.height);
        expect(resizeBicubic(image, width, height)).toEqual(resizeBicubic(wide, width, height));
      }),
    );
  });

  it('never mixes the channels', () => {
    fc.assert(
      fc.property(anyImage, side, side, (image, width, height) => {
        const red = image.data.map((value, i) => (i % 3 === 0 ? value : 0));
        const out = resizeBicubic({ ...image, data: red }, width, height).data;
        expect(out.filter((_, i) => i % 3 !== 0).every((value) => value === 0)).toBe(true);
        const both = resizeBicubic(image, width, height).data;
        expect(out.filter((_, i) => i % 3 === 0)).toEqual(both.filter((_, i) => i % 3 === 0));
      }),
    );
  });

  it('doubles an edge with the overshoot of a = -0.5, clamped to a byte', () => {
    // The numbers are Pillow's. Away from the borders the weights are (-3, 29, 111, -9) / 128 or their mirror.
    const edge: RgbImage = { width: 4, height: 1, data: filled(4, 1, [100, 0, 0]).data };
    edge.data.set([200, 255, 0], 6);
    edge.data.set([200, 255, 0], 9);
    const doubled = resizeBicubic(edge, 8, 1).data;
    expect([...doubled.filter((_, i) => i % 3 === 0)]).toEqual([100, 98, 93, 120, 180, 207, 202, 200]);
    expect([...doubled.filter((_, i) => i % 3 === 1)]).toEqual([0, 0, 0, 52, 203, 255, 255, 255]);
  });

  it('refuses sizes and data that cannot be', () => {
    const image = filled(2, 2, [1, 2, 3]);
    expect(() => resizeBicubic(image, 0, 2)).toThrow(
      /internal: image width: expected a positive integer, got 0/,
    );
    expect(() => resizeBicubic(image, 2, 1.5)).toThrow(/image height: expected a positive integer, got 1.5/);
    expect(() => resizeBicubic({ ...image, width: 3 }, 2, 2)).toThrow(
      /expected 18 bytes for 3x2 RGB, got 12/,
    );
  });
});

describe('staticHdCrops', () => {
  const S = 3;

  /** A picture of 2S×2S, so that the tiles are its own pixels. */
  const picture: RgbImage = {
    width: 2 * S,
    height: 2 * S,
    data: Uint8Array.from({ length: 3 * 4 * S * S }, (_, i) => (i * 37) % 256),
  };

  function expectCrop(crop: Float32Array, image: RgbImage, left: number, top: number): void {
    for (let c = 0; c < 3; c++)
      for (let y = 0; y < S; y++)
        for (let x = 0; x < S; x++) {
          const byte = image.data[3 * ((top + y) * image.width + left + x) + c]!;
          expect(crop[(c * S + y) * S + x]).toBe(Math.fround((byte / 255 - 0.5) / 0.5));
        }
  }

  it('is four tiles row by row and then the whole, channels first', () => {
    const crops = staticHdCrops(picture, S);
    expect(crops).toHaveLength(5 * 3 * S * S);
    const crop = (i: number) => crops.subarray(i * 3 * S * S, (i + 1) * 3 * S * S);
    expectCrop(crop(0), picture, 0, 0);
    expectCrop(crop(1), picture, S, 0);
    expectCrop(crop(2), picture, 0, S);
    expectCrop(crop(3), picture, S, S);
    expectCrop(crop(4), resizeBicubic(picture, S, S), 0, 0);
  });

  it('does not keep the aspect ratio', () => {
    const crops = staticHdCrops(filled(50, 2, [0, 255, 51]), S);
    const planes = Float32Array.from({ length: crops.length }, (_, i) => {
      return [-1, 1, Math.fround((51 / 255 - 0.5) / 0.5)][Math.floor(i / (S * S)) % 3]!;
    });
    expect(crops).toEqual(planes);
  });

  it('has zeros for a sample without a picture', () => {
    expect(blankCrops(S)).toEqual(new Float32Array(5 * 3 * S * S));
    expect(() => blankCrops(-1)).toThrow(/image side: expected a positive integer, got -1/);
  });
});
