/**
 * A picture ready for the model: its five crops, and a key by which its features are remembered. Knows nothing
 * of programs. Source: the `static_hd` transform (spec "Image → five crops").
 */
import { createHash } from 'node:crypto';
import { type RgbImage, staticHdCrops } from '../data/image.ts';
import { decodeImage, readImage } from '../data/imageFile.ts';
import type { VisionConfig } from '../model/config.ts';

/** What may be given as an image: a path, a file's bytes, or decoded pixels. */
export type ImageSource = string | Uint8Array | RgbImage;

export interface ImageOptions {
  /** The most pixels that are decoded; 100 million unless given. */
  readonly maxPixels?: number | undefined;
  /** Turn the image as its EXIF orientation says; off unless given, as in the released code. */
  readonly exifRotation?: boolean | undefined;
  /** How errors name the image; its path, or `image`. */
  readonly name?: string | undefined;
}

export interface Picture {
  /** f32 [5, 3, S, S]: four tiles, then the whole. */
  readonly crops: Float32Array;
  /** Equal for pictures with equal crops. */
  readonly key: string;
}

/** Crops that are alike for one image object are cut once. */
const known = new WeakMap<RgbImage, Map<number, Picture>>();

/** The decoded image. @throws UserError where it cannot be read or decoded, or is too large. */
export async function openImage(source: ImageSource, options: ImageOptions = {}): Promise<RgbImage> {
  const { maxPixels, exifRotation } = options;
  const decoding = {
    ...(maxPixels === undefined ? {} : { maxPixels }),
    ...(exifRotation === undefined ? {} : { exifRotation }),
  };
  if (typeof source === 'string') {
    return readImage(source, { ...decoding, name: options.name ?? source });
  }
  if (source instanceof Uint8Array) {
    return decodeImage(source, { ...decoding, name: options.name ?? 'image' });
  }
  return source;
}

/** The crops of an image at the tower's size. */
export function pictureOf(image: RgbImage, { imageSize }: VisionConfig): Picture {
  const bySize = known.get(image) ?? new Map<number, Picture>();
  known.set(image, bySize);
  const found = bySize.get(imageSize) ?? pictureOfCrops(staticHdCrops(image, imageSize));
  bySize.set(imageSize, found);
  return found;
}

/** Crops that are at hand: f32 [5, 3, S, S]. */
export function pictureOfCrops(crops: Float32Array): Picture {
  const bytes = new Uint8Array(crops.buffer, crops.byteOffset, crops.byteLength);
  return { crops, key: createHash('sha256').update(bytes).digest('hex') };
}
