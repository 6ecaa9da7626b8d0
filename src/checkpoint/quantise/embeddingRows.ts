/**
 * Rows of the token embeddings, read from the file as they are needed: the table is not loaded. Knows nothing of
 * what ids mean.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { InternalError, messageOf, UserError } from '../../common/errors.ts';
import { DTYPE_BYTES, toF32 } from '../../common/numberFormats.ts';
import type { CheckpointTensor } from '../folder.ts';

export class EmbeddingRows {
  readonly #handle: FileHandle;
  readonly #tensor: CheckpointTensor;
  readonly width: number;

  private constructor(handle: FileHandle, tensor: CheckpointTensor) {
    this.#handle = handle;
    this.#tensor = tensor;
    this.width = tensor.shape[1] ?? 0;
  }

  /** Opens the file of a table [V, D] of a floating dtype. @throws UserError where it cannot be opened. */
  static async open(tensor: CheckpointTensor): Promise<EmbeddingRows> {
    const handle = await open(tensor.file, 'r').catch((error: unknown) => {
      throw new UserError(`${tensor.file}: ${messageOf(error)}`);
    });
    return new EmbeddingRows(handle, tensor);
  }

  /** The rows of `ids`, in their order: f32 [ids, D]. @throws UserError where the file has become shorter. */
  async read(ids: ArrayLike<number>): Promise<Float32Array> {
    const { dtype, begin, shape, file } = this.#tensor;
    const bytesEach = this.width * DTYPE_BYTES[dtype];
    const raw = new Uint8Array(ids.length * bytesEach);
    for (const [i, id] of Array.from(ids).entries()) {
      if (!(id >= 0 && id < (shape[0] ?? 0))) throw new InternalError(`no embedding row ${id}`);
      const { bytesRead } = await this.#handle.read(raw, i * bytesEach, bytesEach, begin + id * bytesEach);
      if (bytesRead < bytesEach)
        throw new UserError(`${file}: the file ended ${bytesEach - bytesRead} bytes early`);
    }
    return toF32(dtype, raw, file);
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}
