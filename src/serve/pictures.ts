/** The server's side of `pictureThread.ts`: image files in, pictures out, in order. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { InternalError, UserError } from '../common/errors.ts';
import { threadModule } from '../common/threadModule.ts';
import type { Picture } from '../generate/picture.ts';
import { CLOSE, type PictureReply, type PictureRequest } from './pictureThread.ts';

interface Waiting {
  readonly resolve: (picture: Picture) => void;
  readonly reject: (error: Error) => void;
}

/** Decodes images in a thread of its own, which starts with the first image and starts again should it end. */
export class Pictures {
  #thread: Worker | undefined;
  #lastId = 0;
  readonly #waiting = new Map<number, Waiting>();

  /**
   * The crops of an image file. side: of a crop, in pixels.
   *
   * @throws UserError as `decodeImage`.
   */
  open(bytes: Uint8Array, side: number, maxPixels: number): Promise<Picture> {
    const id = ++this.#lastId;
    const thread = this.#running();
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      // A copy moves: the bytes may be a view of a larger buffer.
      const copy = Uint8Array.from(bytes);
      thread.postMessage({ id, bytes: copy, side, maxPixels } satisfies PictureRequest, [copy.buffer]);
    });
  }

  /** Ends the thread after the images under way: the decoder must not be torn down while it works. */
  async close(): Promise<void> {
    const thread = this.#thread;
    if (thread === undefined) return;
    thread.ref();
    thread.postMessage(CLOSE);
    await once(thread, 'exit');
  }

  #running(): Worker {
    if (this.#thread !== undefined) return this.#thread;
    const thread = new Worker(threadModule(import.meta.url, 'pictureThread'), { execArgv: [] });
    thread.on('message', (reply: PictureReply) => this.#settle(reply));
    thread.on('error', () => {});
    thread.on('exit', () => {
      this.#thread = undefined;
      for (const { reject } of this.#waiting.values()) reject(new InternalError('the image thread ended'));
      this.#waiting.clear();
    });
    thread.unref();
    this.#thread = thread;
    return thread;
  }

  #settle(reply: PictureReply): void {
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if ('picture' in reply) waiting?.resolve(reply.picture);
    else if ('refused' in reply) waiting?.reject(new UserError(reply.refused));
    else waiting?.reject(new InternalError(reply.failed));
  }
}
