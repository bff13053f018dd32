// A frame of the screen, as it comes over the WebSocket: node/picture/src/frame.rs says what stands where.

export const SOLID = 0;
export const PALETTE = 1;
export const PALETTE_DEFLATED = 2;
export const PNG = 3;
export const JPEG = 4;
export const COPY = 5;
export const GREY = 6;
export const GREY_PALETTE = 7;
export const GREY_PALETTE_DEFLATED = 8;

const VERSION = 0x10;
const KEY = 1;
const EXACT = 2;
const QUIET = 4;
const FOLLOWS = 8;

/** Reads numbers from the front of bytes; throws at their end. */
class Reader {
  #bytes;
  #at = 0;

  constructor(buffer) {
    this.#bytes = new Uint8Array(buffer);
  }

  get ended() {
    return this.#at === this.#bytes.length;
  }

  byte() {
    if (this.ended) throw new Error('frame: length');
    return this.#bytes[this.#at++];
  }

  varint() {
    let value = 0;
    for (let scale = 1; scale < 2 ** 53; scale *= 128) {
      const byte = this.byte();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
    throw new Error('frame: number');
  }

  take(length) {
    if (this.#at + length > this.#bytes.length) throw new Error('frame: payload');
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }
}

/** Parses a frame; throws when it is none. Only key frames have a size, only others need the `size` of theirs. */
export function parse(buffer, size) {
  const reader = new Reader(buffer);
  const first = reader.byte();
  if ((first & 0xf0) !== VERSION) throw new Error('frame: version');
  const key = (first & KEY) !== 0;
  const sequence = reader.varint();
  const captured = reader.varint();
  const after = (first & FOLLOWS) === 0 ? sequence : (sequence - reader.varint()) >>> 0;
  const [width, height] = key ? [reader.varint(), reader.varint()] : size;
  const tiles = [];
  while (!reader.ended) {
    const [kind, x, y, w, h] = [reader.byte(), reader.varint(), reader.varint(), reader.varint(), reader.varint()];
    if (!w || !h || x + w > width || y + h > height) throw new Error('frame: place');
    tiles.push({ kind, x, y, w, h, payload: reader.take(reader.varint()) });
  }
  return { key, lossless: (first & EXACT) !== 0, quiet: (first & QUIET) !== 0, sequence, captured, after, width, height, bytes: buffer.byteLength, tiles };
}
