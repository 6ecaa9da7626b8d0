/** The server's side of `pictureThread.ts`: image files in, pictures out, in order. */
import { threadModule } from '../common/threadModule.ts';
import type { Picture } from '../generate/picture.ts';
import { HelperThread } from './helperThread.ts';
import type { PictureRequest } from './pictureThread.ts';

export class Pictures {
  readonly #thread = new HelperThread<PictureRequest, Picture>(
    threadModule(import.meta.url, 'pictureThread'),
  );

  /**
   * The crops of an image file. file: its bytes, or their base64; side: of a crop, in pixels.
   *
   * @throws UserError for base64 that is none, and as `decodeImage`.
   */
  open(file: Uint8Array | string, side: number, maxPixels: number): Promise<Picture> {
    if (typeof file === 'string') return this.#thread.ask({ file, side, maxPixels });
    // A copy moves: the bytes may be a view of a larger buffer.
    const copy = new Uint8Array(file);
    return this.#thread.ask({ file: copy, side, maxPixels }, [copy.buffer]);
  }

  /** Ends the thread after the images under way. */
  close(): Promise<void> {
    return this.#thread.close();
  }
}
