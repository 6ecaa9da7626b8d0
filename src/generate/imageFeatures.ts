/**
 * The vision part of an answer: the tiles' features, encoded one by one and kept for the pictures seen last,
 * and the whole crop, which depends on the questions and is encoded for every answer. Knows nothing of the
 * sequence. Shapes: P patches, P' image tokens, T question tokens, S crop side, D decoder width.
 */
import type { OnProgress } from '../common/progress.ts';
import type { FusionConfig } from '../model/config.ts';
import { f32, i32 } from '../model/feeds.ts';
import type { Block, Device, HostTensor, ResidentTensor } from '../runtime/types.ts';
import type { BoundRun, ModelPrograms } from './compiled.ts';
import type { Picture } from './picture.ts';

/** Bytes of tile features that are kept; a full-size picture takes 48 MB. */
export const DEFAULT_FEATURE_BYTES = 256 * 1024 * 1024;

const TILES = 4;
const BLANK = 'blank';

/** How an encoding reports and is stopped. */
export interface EncodeOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: OnProgress | undefined;
}

export interface ImageFeaturesOptions {
  /** Bytes of features kept when nobody uses them. */
  readonly limit: number;
  /** Tiles of one run, 1 unless given: a small model has more of them sooner, a large one reports between them. */
  readonly tilesAtOnce?: 1 | 2 | 4 | undefined;
}

interface Entry {
  readonly features: ResidentTensor;
  users: number;
}

/** Features in use by an answer; `release` says that they no longer are. */
export interface HeldFeatures {
  /** f32 [1, 4·P, D], resident. */
  readonly features: ResidentTensor;
  release(): Promise<void>;
}

/** Image tokens a sample takes in the sequence: P, or n² of FUSION-L. */
export function imageTokenCount({ vision, imageTokensSide }: FusionConfig): number {
  return imageTokensSide === undefined ? vision.patches : imageTokensSide ** 2;
}

/** Says which tile comes next; throws where the caller has had enough. */
function report(done: number, { signal, onProgress }: EncodeOptions): void {
  signal?.throwIfAborted();
  onProgress?.({ phase: 'vision', done, total: TILES + 1, unit: 'tiles' });
}

export class ImageFeatures {
  readonly #device: Device;
  readonly #config: FusionConfig;
  readonly #programs: ModelPrograms;
  readonly #limit: number;
  readonly #tilesAtOnce: number;
  /** Least recently used first. */
  readonly #entries = new Map<string, Entry>();

  constructor(
    device: Device,
    config: FusionConfig,
    programs: ModelPrograms,
    { limit, tilesAtOnce = 1 }: ImageFeaturesOptions,
  ) {
    this.#device = device;
    this.#config = config;
    this.#programs = programs;
    this.#limit = limit;
    this.#tilesAtOnce = tilesAtOnce;
  }

  /** Pictures whose tiles need not be encoded again. */
  get size(): number {
    return this.#entries.size;
  }

  /** Compiles what encodes the tiles, and the whole crop where there is one to encode. */
  async compile(hasImage: boolean): Promise<void> {
    await this.#programs.tile();
    if (hasImage) await this.#programs.whole();
  }

  /**
   * The tiles' features of a picture, or of blank pixels without one: from memory, or encoded tile by tile.
   * Throws the signal's reason between tiles when it is aborted.
   */
  async tiles(picture: Picture | undefined, options: EncodeOptions = {}): Promise<HeldFeatures> {
    const key = picture?.key ?? BLANK;
    const known = this.#entries.get(key);
    if (known !== undefined) return this.#hold(key, known);
    const features = await this.#encodeTiles(picture, options);
    // Another answer may have encoded the same picture meanwhile.
    const other = this.#entries.get(key);
    if (other !== undefined) await this.#device.free([features]);
    return this.#hold(key, other ?? { features, users: 0 });
  }

  /**
   * The whole crop, read with the questions: f32 [1, P', D], resident; the caller frees it. Without a picture
   * no position of the sequence shows it, so it is zeros.
   */
  async whole(picture: Picture | undefined, instructs: Int32Array): Promise<ResidentTensor> {
    const { decoder } = this.#config;
    if (picture === undefined) {
      return this.#device.zeros('f32', [1, imageTokenCount(this.#config), decoder.hiddenSize]);
    }
    const { kept } = await (await this.#programs.whole()).run(
      {
        pixels: this.#crops(picture, TILES),
        instructs: i32(instructs, [1, instructs.length]),
      },
      { keep: ['image_tokens'] },
    );
    return kept.image_tokens as ResidentTensor;
  }

  /** Frees everything, in use or not. */
  async dispose(): Promise<void> {
    const tensors = [...this.#entries.values()].map(({ features }) => features);
    this.#entries.clear();
    await this.#device.free(tensors);
  }

  async #encodeTiles(picture: Picture | undefined, options: EncodeOptions): Promise<ResidentTensor> {
    const { decoder, vision } = this.#config;
    const features = await this.#device.zeros('f32', [1, TILES * vision.patches, decoder.hiddenSize]);
    try {
      if (picture === undefined) await this.#encodeBlank(features, options);
      else await this.#encodePicture(picture, features, options);
      return features;
    } catch (error) {
      await this.#device.free([features]);
      throw error;
    }
  }

  async #encodePicture(picture: Picture, features: ResidentTensor, options: EncodeOptions): Promise<void> {
    const each = this.#tilesAtOnce;
    const runs = Array.from({ length: TILES / each }, (_, run): BoundRun => {
      const blocks = Array.from({ length: each }, (_, i) => this.#block(run * each + i, i));
      return {
        feeds: { tile_pixels: this.#crops(picture, run * each, each) },
        options: { write: { features: { to: features, blocks } } },
      };
    });
    const program = await this.#programs.tile();
    await program.runEach(runs, (done) => report(Math.floor(done * each), options));
  }

  /** Blank tiles are all alike: one is encoded and copied. */
  async #encodeBlank(features: ResidentTensor, options: EncodeOptions): Promise<void> {
    report(0, options);
    const { imageSize } = this.#config.vision;
    const pixels = f32(new Float32Array(3 * imageSize ** 2), [1, 3, imageSize, imageSize]);
    const program = await this.#programs.tile();
    const { kept } = await program.run({ tile_pixels: pixels }, { keep: ['features'] });
    const blank = kept.features as ResidentTensor;
    const blocks = Array.from({ length: TILES }, (_, tile) => this.#block(tile));
    await this.#device.copy([{ from: blank, target: { to: features, blocks } }]);
    await this.#device.free([blank]);
  }

  /** Where a tile's features stand among all. index: its own among those of one run. */
  #block(tile: number, index = 0): Block {
    return { from: [index], size: [1], at: [0, tile * this.#config.vision.patches] };
  }

  /** f32 [count, 3, S, S], from the crop `index` on. */
  #crops({ crops }: Picture, index: number, count = 1): HostTensor {
    const { imageSize } = this.#config.vision;
    const size = 3 * imageSize ** 2;
    const pixels = crops.subarray(index * size, (index + count) * size);
    return f32(pixels, [count, 3, imageSize, imageSize]);
  }

  #hold(key: string, entry: Entry): HeldFeatures {
    entry.users += 1;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    let held = true;
    const release = async () => {
      if (!held) return;
      held = false;
      entry.users -= 1;
      await this.#trim();
    };
    return { features: entry.features, release };
  }

  /** Frees what was used longest ago and is not in use, until the rest fits. */
  async #trim(): Promise<void> {
    const bytes = 4 * TILES * this.#config.vision.patches * this.#config.decoder.hiddenSize;
    for (const [key, entry] of this.#entries) {
      if (this.#entries.size * bytes <= this.#limit) return;
      if (entry.users > 0) continue;
      this.#entries.delete(key);
      await this.#device.free([entry.features]);
    }
  }
}
