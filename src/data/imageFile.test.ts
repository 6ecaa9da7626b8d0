/** Decoding against PIL's own pictures (golden inputs and expected resizes), and every way a file can be bad. */
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import sharp from 'sharp';
import { afterAll, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { type RgbImage, resizeBicubic } from './image.ts';
import { type DecodeOptions, decodeImage, readImage } from './imageFile.ts';

const golden = fileURLToPath(new URL('../../test/fixtures/golden/images/', import.meta.url));
const goldenBytes = (name: string) => new Uint8Array(readFileSync(join(golden, name)));
const decode = (bytes: Uint8Array, options: Partial<DecodeOptions> = {}) =>
  decodeImage(bytes, { name: 'photo', ...options });

const folder = mkdtempSync(join(tmpdir(), 'image-file-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Red, green and blue at (x, y). */
function pixel(image: RgbImage, x: number, y: number): number[] {
  const at = 3 * (y * image.width + x);
  return [...image.data.subarray(at, at + 3)];
}

interface Tiff {
  readonly width: number;
  readonly photometric: number;
  readonly channels: number;
  readonly bits: number;
  readonly sampleFormat: number;
  readonly samples: Uint8Array;
}

/** An uncompressed little-endian TIFF one pixel high: its header, one directory, then the samples. */
function tiff({ width, photometric, channels, bits, sampleFormat, samples }: Tiff): Uint8Array {
  const long = 4;
  const short = 3;
  const entries = 10;
  const bitsAt = 8 + 2 + 12 * entries + 4;
  const dataAt = bitsAt + 2 * channels;
  const fields = [
    [256, long, 1, width],
    [257, long, 1, 1],
    [258, short, channels, channels > 2 ? bitsAt : bits],
    [259, short, 1, 1],
    [262, short, 1, photometric],
    [273, long, 1, dataAt],
    [277, short, 1, channels],
    [278, long, 1, 1],
    [279, long, 1, samples.length],
    [339, short, 1, sampleFormat],
  ] as const;
  const bytes = new Uint8Array(dataAt + samples.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0x49, 0x49, 42, 0, 8]);
  view.setUint16(8, entries, true);
  fields.forEach(([tag, type, count, value], i) => {
    const at = 10 + 12 * i;
    view.setUint16(at, tag, true);
    view.setUint16(at + 2, type, true);
    view.setUint32(at + 4, count, true);
    view.setUint32(at + 8, value, true);
  });
  for (let c = 0; c < channels; c++) view.setUint16(bitsAt + 2 * c, bits, true);
  bytes.set(samples, dataAt);
  return bytes;
}

function worstDeviation(a: Uint8Array, b: Uint8Array): number {
  expect(a.length).toBe(b.length);
  let worst = 0;
  for (let i = 0; i < a.length; i++) worst = Math.max(worst, Math.abs(a[i]! - b[i]!));
  return worst;
}

describe('golden pictures', () => {
  const tolerance = (name: string) => (name === 'cmyk.jpg' ? 3 : name.endsWith('.jpg') ? 2 : 0);
  const cases = readdirSync(join(golden, 'expected')).map((file) => {
    const [, name, side, kind] = /^(.+)\.(\d+)\.(whole|double)\.png$/.exec(file)!;
    return { file, name: name!, size: Number(side) * (kind === 'double' ? 2 : 1) };
  });

  it('has each input at some size', () => {
    const inputs = readdirSync(golden, { withFileTypes: true }).filter((entry) => entry.isFile());
    expect(inputs.length).toBe(15);
    expect(new Set(cases.map((c) => c.name))).toEqual(new Set(inputs.map((entry) => entry.name)));
  });

  it.each(cases)('$file', async ({ file, name, size }) => {
    const image = resizeBicubic(await readImage(join(golden, name)), size, size);
    const expected = await sharp(join(golden, 'expected', file))
      .raw()
      .toBuffer({ resolveWithObject: true });
    expect(expected.info).toMatchObject({ width: size, height: size, channels: 3 });
    expect(worstDeviation(image.data, expected.data)).toBeLessThanOrEqual(tolerance(name));
  });
});

describe("the meaning of PIL's convert('RGB')", () => {
  it('drops alpha without compositing, even where nothing shows', async () => {
    const rgba = Buffer.from([10, 200, 30, 0, 250, 128, 1, 3]);
    const raw = { width: 2, height: 1, channels: 4 } as const;
    for (const file of [
      await sharp(rgba, { raw }).png().toBuffer(),
      await sharp(rgba, { raw }).webp({ lossless: true, exact: true }).toBuffer(),
    ]) {
      expect([...(await decode(file)).data]).toEqual([10, 200, 30, 250, 128, 1]);
    }
  });

  it('keeps the high byte of 16-bit channels, in colour and in gray', async () => {
    const samples = Uint16Array.from([0x12ff, 0x0080, 0xff00, 0xabcd, 0x7fff, 0x8000]);
    const rgb = sharp(samples, { raw: { width: 2, height: 1, channels: 3 } }).toColourspace('rgb16');
    expect([...(await decode(await rgb.png().toBuffer())).data]).toEqual([0x12, 0, 0xff, 0xab, 0x7f, 0x80]);
    const gray = sharp(samples, { raw: { width: 6, height: 1, channels: 1 } }).toColourspace('grey16');
    const decoded = await decode(await gray.png().toBuffer());
    expect([...decoded.data.filter((_, i) => i % 3 === 0)]).toEqual([0x12, 0, 0xff, 0xab, 0x7f, 0x80]);
    expect(pixel(decoded, 3, 0)).toEqual([0xab, 0xab, 0xab]);
  });

  it('ignores an embedded colour profile', async () => {
    const red = sharp({ create: { width: 1, height: 1, channels: 3, background: '#ff0000' } });
    const file = await red.withIccProfile('p3').png().toBuffer();
    expect([...(await sharp(file).raw().toBuffer())]).toEqual([255, 0, 0]);
    expect([...(await decode(file)).data]).not.toEqual([255, 0, 0]);
  });

  it('turns CMYK into RGB with integers, not with a colour profile', async () => {
    const cmyk = Uint8Array.from([0, 128, 255, 0, 100, 0, 7, 200, 9, 9, 9, 255, 0, 0, 0, 0]);
    const file = tiff({ width: 4, photometric: 5, channels: 4, bits: 8, sampleFormat: 1, samples: cmyk });
    const expected = [255, 127, 0, 33, 55, 53, 0, 0, 0, 255, 255, 255];
    expect([...(await decode(file)).data]).toEqual(expected);
  });

  it('ignores EXIF rotation unless asked', async () => {
    const bytes = goldenBytes('exif_rotated.jpg');
    const lying = await decode(bytes);
    const upright = await decode(bytes, { exifRotation: true });
    expect([lying.width, lying.height]).toEqual([200, 120]);
    expect([upright.width, upright.height]).toEqual([120, 200]);
    for (const [x, y] of [
      [0, 0],
      [119, 0],
      [17, 150],
      [119, 199],
    ] as const) {
      expect(pixel(upright, x, y)).toEqual(pixel(lying, y, 119 - x));
    }
  });
});

describe('GIF', () => {
  const colorTable = 13;
  /** Where the first frame's control block and its descriptor stand in the golden GIF. */
  function offsets(bytes: Uint8Array): { control: number; frame: number } {
    const control = Buffer.from(bytes).indexOf(Buffer.from([0x21, 0xf9, 4]));
    expect(control).toBeGreaterThan(0);
    const frame = control + 8;
    expect(bytes[frame]).toBe(0x2c);
    return { control, frame };
  }

  it('shows the palette colour of transparent pixels and leaves the bytes alone', async () => {
    const plain = await decode(goldenBytes('animated.gif'));
    const bytes = Buffer.from(goldenBytes('animated.gif'));
    const { control } = offsets(bytes);
    bytes[control + 3]! |= 1;
    for (let index = 0; index < 4; index++) {
      bytes[control + 6] = index;
      const before = Buffer.from(bytes);
      expect(await decode(bytes)).toEqual(plain);
      expect(bytes).toEqual(before);
    }
  });

  it('fills what the first frame does not cover with the transparent colour, or the first', async () => {
    const plain = await decode(goldenBytes('animated.gif'));
    const bytes = goldenBytes('animated.gif');
    const { control, frame } = offsets(bytes);
    const view = new DataView(bytes.buffer);
    view.setUint16(6, 90, true);
    view.setUint16(8, 65, true);
    view.setUint16(frame + 1, 4, true);
    view.setUint16(frame + 3, 5, true);
    bytes[control + 6] = 2;
    for (const [flags, index] of [
      [0, 0],
      [1, 2],
    ] as const) {
      bytes[control + 3] = (bytes[control + 3]! & ~1) | flags;
      const table = bytes[frame + 9]! & 0x80 ? frame + 10 : colorTable;
      const fill = [...bytes.subarray(table + 3 * index, table + 3 * index + 3)];
      const image = await decode(bytes);
      expect([image.width, image.height]).toEqual([90, 65]);
      for (const [x, y] of [
        [0, 0],
        [3, 64],
        [84, 30],
        [89, 64],
        [50, 4],
      ] as const)
        expect(pixel(image, x, y)).toEqual(fill);
      for (const [x, y] of [
        [0, 0],
        [79, 59],
        [40, 30],
      ] as const)
        expect(pixel(image, x + 4, y + 5)).toEqual(pixel(plain, x, y));
    }
  });

  it('reads no more of the file than its first frame', async () => {
    const bytes = goldenBytes('animated.gif');
    const plain = await decode(bytes);
    expect(await decode(bytes.subarray(0, bytes.length / 2))).toEqual(plain);
    const { frame } = offsets(bytes);
    const second = Buffer.from(bytes).indexOf(Buffer.from([0x21, 0xf9, 4]), frame);
    expect(bytes[second + 8]).toBe(0x2c);
    bytes[second + 9] = 40; // 40 pixels to the right, so that it reaches beyond the screen
    expect(await decode(bytes)).toEqual(plain);
    expect(await decode(bytes.fill(0, second))).toEqual(plain);
  });
});

describe('bad input', () => {
  async function expectUserError(promise: Promise<unknown>, pattern: RegExp): Promise<void> {
    const error: unknown = await promise.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).message).toMatch(pattern);
    expect((error as UserError).message).not.toContain('\n');
  }

  /** A PNG whose header promises `width` × `height` pixels, without them. */
  function hugePng(width: number, height: number): Uint8Array {
    const bytes = goldenBytes('one_pixel.png');
    const view = new DataView(bytes.buffer);
    view.setUint32(16, width);
    view.setUint32(20, height);
    view.setUint32(29, crc32(bytes.subarray(12, 29)));
    return bytes;
  }

  it('names a file that cannot be read', async () => {
    const missing = join(folder, 'missing.png');
    await expectUserError(
      readImage(missing),
      /missing\.png: expected an image file, got no such file; check/,
    );
    await expectUserError(readImage(missing, { name: 'line 3' }), /^line 3: expected an image file/);
    await expectUserError(readImage(join(missing, 'x')), /got no such file/);
    await expectUserError(readImage(folder), /image-file-.*: expected an image file, got a directory/);
    await expectUserError(readImage('a\0b'), /expected a readable image file, got: .*null bytes/);
  });

  it.skipIf(process.getuid?.() === 0 || process.platform === 'win32')('names a forbidden file', async () => {
    const path = join(folder, 'forbidden.png');
    writeFileSync(path, goldenBytes('tiny.png'));
    chmodSync(path, 0);
    await expectUserError(readImage(path), /forbidden\.png: expected a readable image file, got permission/);
  });

  it('names an empty file', async () => {
    const path = join(folder, 'empty.jpg');
    writeFileSync(path, '');
    await expectUserError(readImage(path), /empty\.jpg: expected an image, got an empty file \(0 bytes\)$/);
  });

  it.each(['hello, world', '<svg xmlns="http://www.w3.org/2000/svg"/>', 'BM', '%PDF-1.7'])(
    'says that %j is not an image',
    async (text) => {
      const bytes = new TextEncoder().encode(text);
      const expected = `^photo: expected an image \\(JPEG, PNG, .*\\), got ${bytes.length} bytes of another kind`;
      await expectUserError(decode(bytes), new RegExp(expected));
    },
  );

  it.each([
    ['baseline.jpg', 'JPEG'],
    ['progressive.jpg', 'JPEG'],
    ['cmyk.jpg', 'JPEG'],
    ['rgb.png', 'PNG'],
    ['one_bit.png', 'PNG'],
    ['lossless.webp', 'WebP'],
  ])('refuses %s cut anywhere in its pixels', async (name, format) => {
    const bytes = goldenBytes(name);
    for (const part of [0.1, 0.3, 0.5, 0.7, 0.9, 0.95]) {
      const cut = bytes.subarray(0, Math.floor(part * bytes.length));
      const text = `^photo: expected a complete ${format} image, got truncated or damaged data \\(${cut.length} bytes; .+\\)`;
      await expectUserError(decode(cut), new RegExp(text));
    }
  });

  it('refuses a GIF cut in or before its first frame', async () => {
    const bytes = goldenBytes('animated.gif');
    for (const length of [6, 13, 60, 200, 700, 1500]) {
      await expectUserError(
        decode(bytes.subarray(0, length)),
        /expected a complete GIF image, got truncated/,
      );
    }
  });

  it('refuses floating-point samples', async () => {
    const samples = new Uint8Array(Float32Array.of(0.5).buffer);
    const file = tiff({ width: 1, photometric: 1, channels: 1, bits: 32, sampleFormat: 3, samples });
    await expectUserError(decode(file), /expected 8 or 16 bits per channel, got float samples/);
  });

  it('refuses too many pixels before decoding any', async () => {
    await expectUserError(
      decode(hugePng(30_000, 30_000)),
      /^photo: expected at most 100000000 pixels, got 30000x30000 = 900000000; .*--max-pixels/,
    );
    const options = { maxPixels: 320 * 213 - 1 };
    const message = /expected at most 68159 pixels, got 320x213 = 68160/;
    await expectUserError(decode(goldenBytes('rgb.png'), options), message);
    await expectUserError(decode(goldenBytes('animated.gif'), { maxPixels: 4799 }), /got 80x60 = 4800/);
    const vast = goldenBytes('animated.gif');
    vast.fill(0xff, 6, 10);
    await expectUserError(decode(vast), /got 65535x65535 = 4294836225/);
  });

  it('takes pictures at the limit, 30 000 pixels wide, and of one pixel', async () => {
    await decode(goldenBytes('rgb.png'), { maxPixels: 320 * 213 });
    const create = { width: 30_000, height: 2, channels: 3, background: '#102030' } as const;
    const wide = await decode(await sharp({ create }).png().toBuffer());
    expect([wide.width, wide.height, ...pixel(wide, 29_999, 1)]).toEqual([30_000, 2, 16, 32, 48]);
    const one = await readImage(join(golden, 'one_pixel.png'));
    expect([one.width, one.height, one.data.length]).toEqual([1, 1, 3]);
  });
});
