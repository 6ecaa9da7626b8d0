/**
 * The thread in which the server decodes images and cuts their crops, so that a large photo stalls nobody's
 * answer. One image at a time. Knows nothing of requests.
 */
import { parentPort } from 'node:worker_threads';
import { messageOf, UserError } from '../common/errors.ts';
import { staticHdCrops } from '../data/image.ts';
import { decodeImage } from '../data/imageFile.ts';
import { type Picture, pictureOfCrops } from '../generate/picture.ts';

export interface PictureRequest {
  readonly id: number;
  readonly bytes: Uint8Array;
  /** Side of a crop, in pixels. */
  readonly side: number;
  readonly maxPixels: number;
}

/** Ends the thread after the images before it. */
export const CLOSE = 'close';

/** `refused` is a `UserError`'s message, `failed` anything else's. */
export type PictureReply = { readonly id: number } & (
  | { readonly picture: Picture }
  | { readonly refused: string }
  | { readonly failed: string }
);

async function answer({ id, bytes, side, maxPixels }: PictureRequest): Promise<PictureReply> {
  try {
    const image = await decodeImage(bytes, { name: 'image', maxPixels });
    return { id, picture: pictureOfCrops(staticHdCrops(image, side)) };
  } catch (error) {
    return error instanceof UserError ? { id, refused: messageOf(error) } : { id, failed: messageOf(error) };
  }
}

if (parentPort !== null) {
  const port = parentPort;
  let last = Promise.resolve();
  port.on('message', (request: PictureRequest | typeof CLOSE) => {
    last = last.then(async () => {
      if (request === CLOSE) {
        port.close();
        return;
      }
      const reply = await answer(request);
      port.postMessage(reply, 'picture' in reply ? [reply.picture.crops.buffer as ArrayBuffer] : []);
    });
  });
}
