/**
 * Picture files to RGB bytes, with the meaning of PIL's `Image.open(…).convert('RGB')`.
 *
 * Decodes JPEG, PNG, WebP, GIF, TIFF and AVIF with sharp (libvips), which here only decodes: transparency is
 * dropped without compositing, embedded colour profiles are ignored, 16-bit channels keep their high byte.
 * CMYK and GIF transparency follow Pillow's `Convert.c` and `GifImagePlugin.py`. Two things differ visibly
 * from PIL: AVIF's subsampled colour, which libvips interpolates otherwise, and 16-bit gray, which PIL clips
 * at 255 so that nearly all of it turns white. Knows nothing of crops.
 */
import { readFile } from 'node:fs/promises';
import sharp, { type Metadata, type Sharp } from 'sharp';
import { messageOf, UserError } from '../common/errors.ts';
import type { RgbImage } from './image.ts';

/** How `decodeImage` and `readImage` treat a picture. */
export interface DecodeOptions {
  /** How error messages name the picture: a path, or "image of line 3". */
  readonly name: string;
  /** The most pixels (width × height) that may be decoded; 100 million unless given. */
  readonly maxPixels?: number;
  /** Turn the picture as its EXIF orientation says; off unless given, as in the released code. */
  readonly exifRotation?: boolean;
}

/** Pixels decoded at most when `maxPixels` is not given. */
export const DEFAULT_MAX_PIXELS = 100_000_000;

type Format = 'JPEG' | 'PNG' | 'WebP' | 'GIF' | 'TIFF' | 'AVIF';

/** Where each format's signature stands in the first bytes, as Latin-1 text. */
const SIGNATURES: readonly (readonly [Format, RegExp])[] = [
  ['JPEG', /^\xff\xd8\xff/],
  ['PNG', /^\x89PNG/],
  ['WebP', /^RIFF[\s\S]{4}WEBP/],
  ['GIF', /^GIF8[79]a/],
  ['TIFF', /^(II[*+]\0|MM\0[*+])/],
  ['AVIF', /^[\s\S]{4}ftyp(avif|avis|mif1)/],
];

/** What a failed `readFile` means, by its error code. */
const READ_FAILURES: Readonly<Record<string, string>> = {
  ENOENT: 'expected an image file, got no such file; check the path',
  ENOTDIR: 'expected an image file, got no such file; check the path',
  EISDIR: 'expected an image file, got a directory; name one file in it',
  EACCES: 'expected a readable image file, got permission denied; check its permissions',
};

/**
 * Reads and decodes the picture at `path`; errors name it by `path` unless `name` is given.
 *
 * @throws UserError if the file cannot be read, and as `decodeImage` does.
 */
export async function readImage(
  path: string,
  options: Omit<DecodeOptions, 'name'> & { readonly name?: string } = {},
): Promise<RgbImage> {
  const name = options.name ?? path;
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    const cause = READ_FAILURES[code] ?? `expected a readable image file, got: ${messageOf(error)}`;
    throw new UserError(`${name}: ${cause}`, { cause: error });
  }
  return decodeImage(bytes, { ...options, name });
}

/**
 * Decodes the bytes of one picture file to 8-bit RGB [height, width, 3] as PIL's `convert('RGB')` would:
 * alpha dropped without compositing, palette, gray, 1-bit and CMYK mapped, the first frame of an animation,
 * embedded colour profiles ignored, EXIF orientation ignored unless `exifRotation`.
 *
 * @throws UserError if the bytes are empty, of no known format, truncated or damaged, or if the picture has
 * more than `maxPixels` pixels (found out from its header, before decoding).
 */
export async function decodeImage(bytes: Uint8Array, options: DecodeOptions): Promise<RgbImage> {
  const { name } = options;
  const format = formatOf(bytes, name);
  try {
    if (format === 'GIF') return await decodeGif(bytes, options);
    return await decodeWith(() => openImage(bytes, options.exifRotation ?? false), options);
  } catch (error) {
    if (error instanceof UserError) throw error;
    const cause = firstLine(error);
    throw new UserError(
      `${name}: expected a complete ${format} image, got truncated or damaged data ` +
        `(${bytes.length} bytes; ${cause}); copy or download the file again`,
      { cause: error },
    );
  }
}

function formatOf(bytes: Uint8Array, name: string): Format {
  if (bytes.length === 0) throw new UserError(`${name}: expected an image, got an empty file (0 bytes)`);
  const head = String.fromCharCode(...bytes.subarray(0, 16));
  const known = SIGNATURES.find(([, signature]) => signature.test(head));
  if (known !== undefined) return known[0];
  const formats = SIGNATURES.map(([format]) => format).join(', ');
  throw new UserError(
    `${name}: expected an image (${formats}), got ${bytes.length} bytes of another kind; convert it to PNG or JPEG`,
  );
}

/** The decoder's own words, without libvips' prefixes and its repeated lines. */
function firstLine(error: unknown): string {
  const text = messageOf(error instanceof Error ? error.message.split('\n', 1)[0] : error);
  return text.replace(/^Input buffer has corrupt header: */, '') || 'unreadable header';
}

/** `failOn: 'error'` refuses truncated files but, like PIL, bears what libjpeg only warns about. */
function openImage(bytes: Uint8Array, autoOrient: boolean): Sharp {
  return sharp(bytes, { autoOrient, failOn: 'error', ignoreIcc: true, limitInputPixels: false });
}

async function decodeWith(open: () => Sharp, options: DecodeOptions): Promise<RgbImage> {
  const metadata = await open().metadata();
  assertPixels(metadata.width, metadata.height, options);
  const deep = assertDepth(metadata, options.name) === 'ushort';
  const cmyk = metadata.space === 'cmyk';
  // Asking for CMYK throughout is what keeps sharp from converting it with a colour profile.
  const pipeline = cmyk
    ? open().pipelineColourspace('cmyk').toColourspace('cmyk')
    : open()
        .removeAlpha()
        .toColourspace(deep ? 'rgb16' : 'srgb');
  const { data, info } = await pipeline
    .raw({ depth: deep ? 'ushort' : 'uchar' })
    .toBuffer({ resolveWithObject: true });
  const samples = deep ? highBytes(data) : data;
  const rgb = cmyk
    ? cmykToRgb(samples, info.channels)
    : new Uint8Array(samples.buffer, samples.byteOffset, samples.length);
  return { width: info.width, height: info.height, data: rgb };
}

function assertPixels(width: number, height: number, options: DecodeOptions): void {
  const limit = options.maxPixels ?? DEFAULT_MAX_PIXELS;
  const pixels = width * height;
  if (pixels <= limit) return;
  throw new UserError(
    `${options.name}: expected at most ${limit} pixels, got ${width}x${height} = ${pixels}; ` +
      'make it smaller or raise the limit with --max-pixels',
  );
}

function assertDepth(metadata: Metadata, name: string): 'uchar' | 'ushort' {
  const { depth } = metadata;
  if (depth === 'uchar' || depth === 'ushort') return depth;
  throw new UserError(
    `${name}: expected 8 or 16 bits per channel, got ${depth} samples; convert it to PNG or JPEG`,
  );
}

/** 16-bit samples, in the machine's byte order, as their 8 high bits. */
function highBytes(data: Uint8Array): Uint8Array {
  const samples = new Uint16Array(data.buffer, data.byteOffset, data.length / 2);
  return Uint8Array.from(samples, (sample) => sample >> 8);
}

/** `r = (255 - k) - c * (255 - k) / 255` in Pillow's rounded integers, likewise g and b. */
function cmykToRgb(samples: Uint8Array, channels: number): Uint8Array {
  const pixels = samples.length / channels;
  const rgb = new Uint8Array(3 * pixels);
  for (let pixel = 0; pixel < pixels; pixel++) {
    const from = pixel * channels;
    const light = 255 - (samples[from + 3] ?? 0);
    for (let c = 0; c < 3; c++) {
      const product = (samples[from + c] ?? 0) * light + 128;
      rgb[3 * pixel + c] = light - (((product >> 8) + product) >> 8);
    }
  }
  return rgb;
}

/** The first frame of a GIF. */
interface GifFrame {
  /** The whole picture: the logical screen, or more if the frame reaches beyond it. */
  readonly width: number;
  readonly height: number;
  readonly left: number;
  readonly top: number;
  /** The colour of what the frame does not cover. */
  readonly fill: readonly [number, number, number];
  /** The file, changed so that the frame is all of the screen and nothing in it is transparent. */
  readonly alone: Uint8Array;
}

/**
 * As in PIL, a transparent pixel shows its palette colour, and what the frame does not cover shows the
 * transparent colour, or the palette's first.
 */
async function decodeGif(bytes: Uint8Array, options: DecodeOptions): Promise<RgbImage> {
  const gif = firstGifFrame(bytes);
  if (gif === undefined) throw new Error('no frame in it');
  assertPixels(gif.width, gif.height, options);
  const frame = await decodeWith(() => openImage(gif.alone, false), options);
  if (frame.width === gif.width && frame.height === gif.height) return frame;
  const data = new Uint8Array(3 * gif.width * gif.height);
  for (let i = 0; i < data.length; i++) data[i] = gif.fill[i % 3] ?? 0;
  for (let y = 0; y < frame.height; y++) {
    const row = frame.data.subarray(3 * y * frame.width, 3 * (y + 1) * frame.width);
    data.set(row, 3 * ((gif.top + y) * gif.width + gif.left));
  }
  return { width: gif.width, height: gif.height, data };
}

/** Walks the blocks of a GIF up to its first frame; undefined if the file ends before it. */
function firstGifFrame(bytes: Uint8Array): GifFrame | undefined {
  const alone = new Uint8Array(bytes);
  const byte = (at: number) => bytes[at] ?? 0;
  let at = 13 + colorTableSize(byte(10));
  let transparent = 0;
  while (byte(at) === 0x21) {
    const isGraphicControl = byte(at + 1) === 0xf9;
    if (isGraphicControl && (byte(at + 3) & 1) === 1) {
      transparent = byte(at + 6);
      alone[at + 3] = byte(at + 3) & ~1;
    }
    at = afterGifBlocks(bytes, at + 2);
  }
  if (byte(at) !== 0x2c || at + 10 > bytes.length) return undefined;
  return gifFrameAt(alone, at, transparent);
}

/** The frame whose image descriptor stands at `at`; moves it to the corner of a screen of its own size. */
function gifFrameAt(alone: Uint8Array, at: number, transparent: number): GifFrame {
  const view = new DataView(alone.buffer, alone.byteOffset, alone.length);
  const word = (offset: number) => view.getUint16(offset, true);
  const [left, top, frameWidth, frameHeight] = [word(at + 1), word(at + 3), word(at + 5), word(at + 7)];
  const width = Math.max(word(6), left + frameWidth);
  const height = Math.max(word(8), top + frameHeight);
  const table = colorTableSize(view.getUint8(at + 9)) > 0 ? at + 10 : 13;
  const color = table + 3 * transparent;
  const fill = [alone[color] ?? 0, alone[color + 1] ?? 0, alone[color + 2] ?? 0] as const;
  view.setUint32(at + 1, 0);
  view.setUint16(6, frameWidth, true);
  view.setUint16(8, frameHeight, true);
  return { width, height, left, top, fill, alone };
}

/** The position after a chain of sub-blocks (a length, then so many bytes) that starts at `at`. */
function afterGifBlocks(bytes: Uint8Array, at: number): number {
  let next = at;
  for (let size = bytes[next] ?? 0; size !== 0; size = bytes[next] ?? 0) next += size + 1;
  return next + 1;
}

/** Bytes of the colour table that a screen's or frame's flags announce. */
function colorTableSize(flags: number): number {
  return (flags & 0x80) === 0 ? 0 : 3 << ((flags & 7) + 1);
}
