/**
 * The server's side of `pictureThread.ts`: image files in, pictures out, in order. Conversations bring their picture
 * along with every turn, so those seen last are kept.
 */
import { createHash } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { threadModule } from '../common/threadModule.ts';
import type { Picture } from '../generate/picture.ts';
import { HelperThread } from './helperThread.ts';
import type { PictureRequest } from './pictureThread.ts';

/** Bytes of crops that are kept; a full-size picture's take 9 MB. */
const KEPT_BYTES = 64 * 1024 * 1024;

export class Pictures {
  readonly #thread = new HelperThread<PictureRequest, Picture>(
    threadModule(import.meta.url, 'pictureThread'),
  );
  readonly #seen: LRUCache<string, Picture>;

  /** keptBytes: of crops, of pictures that were asked for before. */
  constructor(keptBytes = KEPT_BYTES) {
    const sizeCalculation = ({ crops }: Picture) => crops.byteLength;
    this.#seen = new LRUCache({ maxSize: keptBytes, sizeCalculation });
  }

  /**
   * The crops of an image file, which are shared: not to be changed. file: its bytes, or their base64; side: of a
   * crop, in pixels.
   *
   * @throws UserError for base64 that is none, and as `decodeImage`.
   */
  async open(file: Uint8Array | string, side: number, maxPixels: number): Promise<Picture> {
    const key = `${side} ${maxPixels} ${typeof file} ${createHash('sha256').update(file).digest('base64')}`;
    const known = this.#seen.get(key);
    if (known !== undefined) return known;
    const picture = await this.#cut(file, side, maxPixels);
    this.#seen.set(key, picture);
    return picture;
  }

  /** Ends the thread after the images under way. */
  close(): Promise<void> {
    return this.#thread.close();
  }

  #cut(file: Uint8Array | string, side: number, maxPixels: number): Promise<Picture> {
    if (typeof file === 'string') return this.#thread.ask({ file, side, maxPixels });
    // A copy moves: the bytes may be a view of a larger buffer.
    const copy = new Uint8Array(file);
    return this.#thread.ask({ file: copy, side, maxPixels }, [copy.buffer]);
  }
}
