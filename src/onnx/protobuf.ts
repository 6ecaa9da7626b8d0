/**
 * Protocol-buffer wire format, writing only: varints, floats, doubles and length-delimited fields are all that
 * ONNX and TensorBoard need.
 */

const encoder = new TextEncoder();

export class MessageWriter {
  #bytes = new Uint8Array(256);
  #length = 0;

  #reserve(count: number): void {
    if (this.#length + count <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + count));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
  }

  #push(chunk: Uint8Array): this {
    this.#reserve(chunk.length);
    this.#bytes.set(chunk, this.#length);
    this.#length += chunk.length;
    return this;
  }

  /** Integers below 2³¹ take the short way; others are 64-bit two's complement. */
  #varint(value: number | bigint): this {
    this.#reserve(10);
    const isShort = typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 31;
    let small = isShort ? value : -1;
    if (small < 0) {
      let rest = BigInt.asUintN(64, BigInt(value));
      for (; rest > 0x7fffffffn; rest >>= 7n) this.#bytes[this.#length++] = Number(rest & 127n) | 128;
      small = Number(rest);
    }
    for (; small > 127; small >>>= 7) this.#bytes[this.#length++] = (small & 127) | 128;
    this.#bytes[this.#length++] = small;
    return this;
  }

  #tag(field: number, wireType: number): this {
    return this.#varint(field * 8 + wireType);
  }

  /** An integer; negative ones as 64-bit two's complement. */
  int(field: number, value: number | bigint): this {
    return this.#tag(field, 0).#varint(value);
  }

  float(field: number, value: number): this {
    return this.#tag(field, 5).#push(new Uint8Array(Float32Array.of(value).buffer));
  }

  double(field: number, value: number): this {
    return this.#tag(field, 1).#push(new Uint8Array(Float64Array.of(value).buffer));
  }

  string(field: number, text: string): this {
    return this.bytes(field, encoder.encode(text));
  }

  bytes(field: number, data: Uint8Array): this {
    return this.#tag(field, 2).#varint(data.length).#push(data);
  }

  message(field: number, write: (message: MessageWriter) => void): this {
    const inner = new MessageWriter();
    write(inner);
    return this.bytes(field, inner.#bytes.subarray(0, inner.#length));
  }

  /** The bytes written so far. */
  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }
}
