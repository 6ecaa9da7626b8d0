/**
 * Pictures as bytes: PIL's bicubic resize, bit for bit, and the five crops the vision tower reads.
 *
 * Knows nothing of files, formats or the platform. The resize follows Pillow's `Resample.c` (two passes of
 * fixed-point filters, rounded to 8 bits between them); the crops are the `static_hd` transform of the
 * released FUSION code.
 */
import { InternalError } from '../common/errors.ts';

/** An 8-bit picture: `data` is RGB interleaved, row by row, `3 * width * height` bytes. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** Crops of one sample: the four tiles of the 2S×2S resize, row by row, then the whole picture. */
export const CROPS_PER_IMAGE = 5;

const CHANNELS = 3;

/** Half the width, in source pixels, of the bicubic kernel when not shrinking. */
const BICUBIC_SUPPORT = 2;

/** Fraction bits of a filter weight: a 32-bit sum, less 8 bits of pixel and 2 of overshoot. */
const PRECISION_BITS = 32 - 8 - 2;

/** For each output position along one axis: which source positions it reads and their integer weights. */
interface Filter {
  /** First source position read, [outSize]. */
  readonly first: Int32Array;
  /** How many source positions are read, [outSize]. */
  readonly taps: Int32Array;
  /** Weights times 2^22, [outSize, stride]; only the first `taps` of each row are set. */
  readonly weights: Int32Array;
  readonly stride: number;
}

/**
 * Resizes to `width` × `height` pixels exactly as Pillow's `resize(…, Image.BICUBIC)` does; the aspect ratio
 * is not kept, and a side whose size does not change is not filtered. The result never shares memory.
 *
 * @throws InternalError if a size is not a positive integer or the data's length is not 3·width·height.
 */
export function resizeBicubic(image: RgbImage, width: number, height: number): RgbImage {
  assertImage(image);
  assertSide('width', width);
  assertSide('height', height);
  const wide = width === image.width ? image : resizeRows(image, bicubicFilter(image.width, width));
  if (height !== image.height) return resizeColumns(wide, bicubicFilter(image.height, height));
  return wide === image ? { width, height, data: new Uint8Array(image.data) } : wide;
}

/**
 * The five crops of one picture as float32 [5, 3, S, S], row-major, S = `side` in pixels: the tiles of the
 * 2S×2S resize (top-left, top-right, bottom-left, bottom-right), then the S×S resize of the whole. Values
 * are `(u8 / 255 - 0.5) / 0.5`, so within [-1, 1].
 *
 * @throws InternalError if `side` is not a positive integer or the image is malformed.
 */
export function staticHdCrops(image: RgbImage, side: number): Float32Array {
  const crops = blankCrops(side);
  const double = resizeBicubic(image, 2 * side, 2 * side);
  for (let tile = 0; tile < 4; tile++) {
    const left = (tile % 2) * side;
    const top = Math.floor(tile / 2) * side;
    writeCrop(double, left, top, cropView(crops, tile, side), side);
  }
  writeCrop(resizeBicubic(image, side, side), 0, 0, cropView(crops, 4, side), side);
  return crops;
}

/** What a sample without a picture has in place of its crops: float32 zeros [5, 3, S, S], S = `side`. */
export function blankCrops(side: number): Float32Array {
  assertSide('side', side);
  return new Float32Array(CROPS_PER_IMAGE * CHANNELS * side * side);
}

/** `value[u8]`, the pixel value the model reads. */
const NORMALIZED = Float32Array.from({ length: 256 }, (_, u8) => (u8 / 255 - 0.5) / 0.5);

function cropView(crops: Float32Array, index: number, side: number): Float32Array {
  const size = CHANNELS * side * side;
  return crops.subarray(index * size, (index + 1) * size);
}

/** Writes the S×S square at (`left`, `top`) into `crop` [3, S, S]. */
function writeCrop(image: RgbImage, left: number, top: number, crop: Float32Array, side: number): void {
  const plane = side * side;
  for (let y = 0; y < side; y++) {
    const row = ((top + y) * image.width + left) * CHANNELS;
    for (let x = 0; x < side; x++) {
      const pixel = row + x * CHANNELS;
      const at = y * side + x;
      for (let c = 0; c < CHANNELS; c++) {
        crop[c * plane + at] = NORMALIZED[image.data[pixel + c] ?? 0] ?? 0;
      }
    }
  }
}

/** `bicubic(x)`: the cubic convolution kernel with a = -0.5, zero from |x| = 2 on. */
function bicubic(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

/** The filter from `inSize` to `outSize` positions, its support widened by the scale when shrinking. */
function bicubicFilter(inSize: number, outSize: number): Filter {
  const scale = inSize / outSize;
  const filterScale = Math.max(scale, 1);
  const support = BICUBIC_SUPPORT * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(outSize);
  const taps = new Int32Array(outSize);
  const weights = new Int32Array(outSize * stride);
  for (let out = 0; out < outSize; out++) {
    const center = (out + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(inSize, Math.trunc(center + support + 0.5));
    first[out] = start;
    taps[out] = end - start;
    weights.set(fixedPointWeights(start, end, center, 1 / filterScale), out * stride);
  }
  return { first, taps, weights, stride };
}

/** Kernel values at source positions `start … end - 1`, normalised to sum 1, then rounded to integers. */
function fixedPointWeights(start: number, end: number, center: number, inverseScale: number): number[] {
  const values: number[] = [];
  let sum = 0;
  for (let x = 0; x < end - start; x++) {
    const value = bicubic((x + start - center + 0.5) * inverseScale);
    values.push(value);
    sum += value;
  }
  return values.map((value) => {
    const scaled = (sum === 0 ? value : value / sum) * (1 << PRECISION_BITS);
    return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
  });
}

/** The horizontal pass. */
function resizeRows(image: RgbImage, filter: Filter): RgbImage {
  const { first, taps, weights, stride } = filter;
  const source = image.data;
  const width = first.length;
  const data = new Uint8Array(width * image.height * CHANNELS);
  const half = 1 << (PRECISION_BITS - 1);
  let to = 0;
  for (let y = 0; y < image.height; y++) {
    const row = y * image.width * CHANNELS;
    for (let x = 0; x < width; x++) {
      let from = row + (first[x] ?? 0) * CHANNELS;
      const start = x * stride;
      const end = start + (taps[x] ?? 0);
      let red = half;
      let green = half;
      let blue = half;
      for (let tap = start; tap < end; tap++, from += CHANNELS) {
        const weight = weights[tap] ?? 0;
        red = (red + Math.imul(source[from] ?? 0, weight)) | 0;
        green = (green + Math.imul(source[from + 1] ?? 0, weight)) | 0;
        blue = (blue + Math.imul(source[from + 2] ?? 0, weight)) | 0;
      }
      data[to++] = toByte(red);
      data[to++] = toByte(green);
      data[to++] = toByte(blue);
    }
  }
  return { width, height: image.height, data };
}

/** The vertical pass, one weighted row after another so that memory is read in order. */
function resizeColumns(image: RgbImage, filter: Filter): RgbImage {
  const { first, taps, weights, stride } = filter;
  const source = image.data;
  const rowBytes = image.width * CHANNELS;
  const height = first.length;
  const data = new Uint8Array(rowBytes * height);
  const sums = new Int32Array(rowBytes);
  for (let y = 0; y < height; y++) {
    sums.fill(1 << (PRECISION_BITS - 1));
    let from = (first[y] ?? 0) * rowBytes;
    for (let tap = 0; tap < (taps[y] ?? 0); tap++) {
      const weight = weights[y * stride + tap] ?? 0;
      for (let x = 0; x < rowBytes; x++, from++) {
        sums[x] = (sums[x] ?? 0) + Math.imul(source[from] ?? 0, weight);
      }
    }
    const to = y * rowBytes;
    for (let x = 0; x < rowBytes; x++) data[to + x] = toByte(sums[x] ?? 0);
  }
  return { width: image.width, height, data };
}

/** A fixed-point sum as a byte: the fraction cut off (the half is in it already), then clamped. */
function toByte(sum: number): number {
  return Math.max(0, Math.min(sum >> PRECISION_BITS, 255));
}

function assertSide(name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) {
    throw new InternalError(`image ${name}: expected a positive integer, got ${value}`);
  }
}

function assertImage(image: RgbImage): void {
  assertSide('width', image.width);
  assertSide('height', image.height);
  const expected = CHANNELS * image.width * image.height;
  if (image.data.length !== expected) {
    throw new InternalError(
      `image data: expected ${expected} bytes for ${image.width}x${image.height} RGB, got ${image.data.length}`,
    );
  }
}
