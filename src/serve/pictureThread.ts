/**
 * The thread in which the server decodes images and cuts their crops, so that a large photo stalls nobody's
 * answer. Knows nothing of requests.
 */
import { UserError } from '../common/errors.ts';
import { staticHdCrops } from '../data/image.ts';
import { decodeImage } from '../data/imageFile.ts';
import { type Picture, pictureOfCrops } from '../generate/picture.ts';
import { serveRequests } from './helperThread.ts';

export interface PictureRequest {
  /** An image file: its bytes, or their base64. */
  readonly file: Uint8Array | string;
  /** Side of a crop, in pixels. */
  readonly side: number;
  readonly maxPixels: number;
}

async function open({ file, side, maxPixels }: PictureRequest): Promise<Picture> {
  const bytes = typeof file === 'string' ? decodeBase64(file) : file;
  const image = await decodeImage(bytes, { name: 'image', maxPixels });
  return pictureOfCrops(staticHdCrops(image, side));
}

function decodeBase64(text: string): Uint8Array {
  if (/^[A-Za-z0-9+/]+={0,2}$/.test(text)) return Buffer.from(text, 'base64');
  throw new UserError('image_url: expected base64, got other characters');
}

serveRequests(open, ({ crops }) => [crops.buffer as ArrayBuffer]);
