// A frame of the screen, as it comes over the WebSocket. Little endian:
//
// | offset | size | field |
// |---|---|---|
// | 0 | 1 | version, 1 |
// | 1 | 1 | flags: 1 key frame (lower sequences are not drawn any more), 2 every pixel is exact now, 4 not to be acknowledged |
// | 2 | 2 | source |
// | 4 | 4 | sequence |
// | 8 | 8 | capture time, µs since the sharer began |
// | 16 | 2, 2 | width, height |
// | 20 | 4 | sequence of the frame that is drawn before; its own if none has to be |
// | 24 | 2 | tiles |
//
// then each tile: x, y, w, h (2 each), kind (1), reserved 0 (1), payload's length (4), payload.

export const SOLID = 0;
export const PALETTE = 1;
export const PALETTE_DEFLATED = 2;
export const PNG = 3;
export const JPEG = 4;
export const COPY = 5;
export const GREY = 6;

const HEADER_BYTES = 26;
const TILE_BYTES = 14;

/** Parses a frame; throws when it is none. */
export function parse(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < HEADER_BYTES || view.getUint8(0) !== 1) throw new Error('frame: header');
  const flags = view.getUint8(1);
  const frame = {
    key: (flags & 1) !== 0,
    lossless: (flags & 2) !== 0,
    quiet: (flags & 4) !== 0,
    source: view.getUint16(2, true),
    sequence: view.getUint32(4, true),
    captured: Number(view.getBigUint64(8, true)),
    width: view.getUint16(16, true),
    height: view.getUint16(18, true),
    after: view.getUint32(20, true),
    bytes: buffer.byteLength,
    tiles: [],
  };
  const count = view.getUint16(24, true);
  let at = HEADER_BYTES;
  for (let index = 0; index < count; index += 1) {
    if (at + TILE_BYTES > buffer.byteLength) throw new Error('frame: tile');
    const tile = {
      x: view.getUint16(at, true),
      y: view.getUint16(at + 2, true),
      w: view.getUint16(at + 4, true),
      h: view.getUint16(at + 6, true),
      kind: view.getUint8(at + 8),
      payload: null,
    };
    const length = view.getUint32(at + 10, true);
    at += TILE_BYTES;
    if (at + length > buffer.byteLength) throw new Error('frame: payload');
    if (!tile.w || !tile.h || tile.x + tile.w > frame.width || tile.y + tile.h > frame.height) throw new Error('frame: place');
    tile.payload = new Uint8Array(buffer, at, length);
    at += length;
    frame.tiles.push(tile);
  }
  if (at !== buffer.byteLength) throw new Error('frame: trailing bytes');
  return frame;
}
