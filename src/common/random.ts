/**
 * Seeded random numbers whose whole state is `{seed, counter}`, so a run resumes bit for bit.
 *
 * Knows nothing of who draws or why. The generator is Philox 4x32-10: word `n` of a stream is a pure function
 * of the seed and `n`, so any position is reached without drawing what lies before it.
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011) and its Random123 library.
 */
import { InternalError, UserError } from './errors.ts';

/** What `Random.from` needs to continue a stream; plain JSON. */
export interface RandomState {
  /** The 64-bit key, as `0x` and 16 hexadecimal digits. */
  readonly seed: string;
  /** How many 32-bit words were drawn so far, below 2^53. */
  readonly counter: number;
}

const TWO_32 = 2 ** 32;
/** The fourth counter word is 0 for draws; these keep the hashing of text apart from them and from each other. */
const SEED_TEXT = 1;
const FORK_LABEL = 2;

/** The upper 32 bits of the product of two unsigned 32-bit integers (as a signed int32). */
function multiplyHigh(a: number, b: number): number {
  const aHigh = a >>> 16;
  const aLow = a & 0xffff;
  const bHigh = b >>> 16;
  const bLow = b & 0xffff;
  const middle = (Math.imul(aHigh, bLow) + (Math.imul(aLow, bLow) >>> 16)) | 0;
  const carry = (Math.imul(aLow, bHigh) + (middle & 0xffff)) | 0;
  return (Math.imul(aHigh, bHigh) + (middle >>> 16) + (carry >>> 16)) | 0;
}

/** Philox 4x32-10: the counter words `c0…c3` under the key `k0, k1`, four 32-bit words into `out`. */
export function philox4x32(
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
  out: Uint32Array,
): void {
  let [x0, x1, x2, x3] = [c0 | 0, c1 | 0, c2 | 0, c3 | 0];
  let [key0, key1] = [k0 | 0, k1 | 0];
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, x0);
    const high1 = multiplyHigh(0xcd9e8d57, x2);
    const low0 = Math.imul(0xd2511f53, x0);
    const low1 = Math.imul(0xcd9e8d57, x2);
    x0 = high1 ^ x1 ^ key0;
    x1 = low1;
    x2 = high0 ^ x3 ^ key1;
    x3 = low0;
    key0 = (key0 + 0x9e3779b9) | 0;
    key1 = (key1 + 0xbb67ae85) | 0;
  }
  out[0] = x0;
  out[1] = x1;
  out[2] = x2;
  out[3] = x3;
}

/** A 64-bit key from a text: its UTF-16 units, then its length, each encrypted under the key so far. */
function hashText(text: string, key: bigint, purpose: number): bigint {
  const out = new Uint32Array(4);
  let k0 = Number(key & 0xffffffffn);
  let k1 = Number(key >> 32n);
  for (let i = 0; i <= text.length; i++) {
    const ended = i === text.length ? 1 : 0;
    philox4x32(ended ? text.length : text.charCodeAt(i), i, ended, purpose, k0, k1, out);
    [k0 = 0, k1 = 0] = out;
  }
  return (BigInt(k1) << 32n) | BigInt(k0);
}

/** The key of a seed: an integer modulo 2^64, or the hash of a text. */
function keyOf(seed: number | bigint | string): bigint {
  if (typeof seed === 'string') return hashText(seed, 0n, SEED_TEXT);
  if (typeof seed === 'number' && !Number.isSafeInteger(seed)) {
    throw new UserError(`seed: expected an integer between -(2^53 - 1) and 2^53 - 1, got ${seed}`);
  }
  return BigInt.asUintN(64, BigInt(seed));
}

/** One stream of random numbers. Equal seeds give equal streams, on every machine. */
export class Random {
  readonly #key: bigint;
  readonly #k0: number;
  readonly #k1: number;
  readonly #words = new Uint32Array(4);
  /** Index of the next block of four words; the block in `#words` is the one before it. */
  #nextBlock: number;
  /** Words of the present block already drawn, 0 to 4. */
  #used = 4;

  /**
   * @param seed an integer (used modulo 2^64) or any text (hashed, so `'7'` and `7` are different streams)
   * @param counter how many 32-bit words to skip, an integer from 0
   * @throws UserError when the seed or the counter is not an integer in range
   */
  constructor(seed: number | bigint | string, counter = 0) {
    if (!Number.isSafeInteger(counter) || counter < 0) {
      throw new UserError(`counter: expected an integer between 0 and 2^53 - 1, got ${counter}`);
    }
    this.#key = keyOf(seed);
    this.#k0 = Number(this.#key & 0xffffffffn);
    this.#k1 = Number(this.#key >> 32n);
    this.#nextBlock = Math.floor(counter / 4);
    if (counter % 4 !== 0) {
      this.#refill();
      this.#used = counter % 4;
    }
  }

  /**
   * The stream that `state()` described, at the same place.
   * @throws UserError when the state is not one that `state()` wrote
   */
  static from(state: RandomState): Random {
    if (!/^0x[0-9a-f]{16}$/.test(state.seed)) {
      throw new UserError(
        `random state: expected a seed of 0x and 16 hexadecimal digits, got '${state.seed}'`,
      );
    }
    return new Random(BigInt(state.seed), state.counter);
  }

  /** Where the stream stands, as plain JSON. */
  state(): RandomState {
    const seed = `0x${this.#key.toString(16).padStart(16, '0')}`;
    return { seed, counter: (this.#nextBlock - 1) * 4 + this.#used };
  }

  /**
   * An independent stream named by `label`. It depends on this stream's seed and the label, not on how much
   * was drawn, and drawing from one never moves the other.
   */
  fork(label: string): Random {
    return new Random(hashText(label, this.#key, FORK_LABEL));
  }

  /** An integer from 0 to 2^32 - 1. Draws one word. */
  uint32(): number {
    if (this.#used === 4) this.#refill();
    return this.#words[this.#used++] as number;
  }

  /** A multiple of 2^-53 in [0, 1). Draws two words. */
  uniform(): number {
    return this.#bits53() / 2 ** 53;
  }

  /**
   * A standard normal number by Box–Muller, within ±6.7. Draws two words and keeps no half of a pair, so that
   * `state()` stays complete. For many numbers use `fillNormal`.
   */
  normal(): number {
    const radius = this.#normalRadius();
    return radius * Math.cos(this.#angle());
  }

  /** An integer from 0 to `n - 1`, each equally likely (by rejection). `n`: 1 to 2^53 - 1. */
  integer(n: number): number {
    if (!Number.isSafeInteger(n) || n < 1) {
      throw new InternalError(`random integer: expected a bound of 1 to 2^53 - 1, got ${n}`);
    }
    const small = n <= TWO_32;
    const range = small ? TWO_32 : 2 ** 53;
    const limit = range - (range % n);
    for (;;) {
      const x = small ? this.uint32() : this.#bits53();
      if (x < limit) return x % n;
    }
  }

  /** Puts an array (or typed array) in random order, in place, and returns it (Fisher–Yates). */
  shuffle<T, A extends { readonly length: number; [index: number]: T }>(array: A): A {
    for (let i = array.length - 1; i > 0; i--) {
      const j = this.integer(i + 1);
      const kept = array[i] as A[number];
      array[i] = array[j] as A[number];
      array[j] = kept;
    }
    return array;
  }

  /**
   * Fills `target` with normal numbers of mean 0 and standard deviation `std`. Draws one word per number (one
   * more for an odd length); the numbers are not those of repeated `normal()`.
   */
  fillNormal(target: Float32Array, std = 1): void {
    if (!Number.isFinite(std)) throw new InternalError(`fillNormal: expected a finite std, got ${std}`);
    for (let i = 0; i < target.length; i += 2) {
      const radius = std * this.#normalRadius();
      const angle = this.#angle();
      target[i] = radius * Math.cos(angle);
      if (i + 1 < target.length) target[i + 1] = radius * Math.sin(angle);
    }
  }

  /** `√(−2 ln u)` with u in (0, 1]. */
  #normalRadius(): number {
    return Math.sqrt(-2 * Math.log((this.uint32() + 1) / TWO_32));
  }

  /** Uniform in [0, 2π). */
  #angle(): number {
    return this.uint32() * ((2 * Math.PI) / TWO_32);
  }

  /** An integer from 0 to 2^53 - 1. */
  #bits53(): number {
    const high = this.uint32() >>> 5;
    return high * 2 ** 26 + (this.uint32() >>> 6);
  }

  #refill(): void {
    const block = this.#nextBlock++;
    philox4x32(block, Math.floor(block / TWO_32), 0, 0, this.#k0, this.#k1, this.#words);
    this.#used = 0;
  }
}
