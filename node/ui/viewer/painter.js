// Frames onto a canvas: tiles are decoded side by side, each frame is drawn in one go, as soon as it is decoded and the one
// it has to follow is drawn. The sharer sees to it that other frames have nothing to do with each other. The same in a
// worker and in the page.

import { inflate } from '/viewer/inflate.js';
import { COPY, GREY, GREY_PALETTE, GREY_PALETTE_DEFLATED, JPEG, PALETTE, PALETTE_DEFLATED, PNG, SOLID, parse } from '/viewer/frame.js';
import { jpeg } from '/viewer/jpeg.js';

/** Exact values in, exact values out: no colour management, no multiplied alpha. */
const EXACT = { colorSpaceConversion: 'none', premultiplyAlpha: 'none' };
/** Frames that may wait for one another; a sharer that makes more wait is asked to begin anew. */
const MAX_HELD = 32;
/** A second request this soon would be answered by the same key frame. */
const KEY_FRAME_PAUSE_MS = 500;

/** Whether frame `a` was made after `b`; sequences wrap. */
function isNewer(a, b) {
  return a !== b && ((a - b) >>> 0) < 0x80000000;
}

/** In canvas order the bytes are R, G, B, A; all our machines are little endian. */
function colour(blue, green, red) {
  return (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
}

/** A palette tile's pixels. */
function unpack({ w, h, kind, payload }) {
  const n = payload[0];
  if (!(n >= 2)) throw new Error('tile: palette');
  const grey = kind === GREY_PALETTE || kind === GREY_PALETTE_DEFLATED;
  const size = grey ? 1 : 3;
  const colours = new Uint32Array(256);
  for (let index = 0; index < n; index += 1) {
    const at = 1 + size * index;
    colours[index] = grey ? colour(payload[at], payload[at], payload[at]) : colour(payload[at], payload[at + 1], payload[at + 2]);
  }
  const bits = n <= 2 ? 1 : n <= 4 ? 2 : n <= 16 ? 4 : 8;
  const stride = (w * bits + 7) >> 3;
  const packed = payload.subarray(1 + size * n);
  const indices = kind === PALETTE || kind === GREY_PALETTE ? packed : inflate(packed, stride * h);
  if (indices.length !== stride * h) throw new Error('tile: length');
  const image = new ImageData(w, h);
  const pixels = new Uint32Array(image.data.buffer);
  const mask = (1 << bits) - 1;
  for (let y = 0, to = 0; y < h; y += 1) {
    let from = y * stride;
    for (let x = 0; x < w; from += 1) {
      const byte = indices[from];
      for (let shift = 8 - bits; shift >= 0 && x < w; shift -= bits, x += 1, to += 1) {
        pixels[to] = colours[(byte >> shift) & mask];
      }
    }
  }
  return image;
}

/** A grey tile's pixels. */
function shades({ w, h, payload }) {
  const image = new ImageData(w, h);
  const pixels = new Uint32Array(image.data.buffer);
  inflate(payload, w * h).forEach((shade, at) => { pixels[at] = colour(shade, shade, shade); });
  return image;
}

/** As large as its tile; a promise. */
async function picture({ w, h }, blob) {
  const bitmap = await createImageBitmap(blob, EXACT);
  if (bitmap.width !== w || bitmap.height !== h) throw new Error('tile: size');
  return bitmap;
}

/** What a tile is drawn from; a promise for pictures. */
function decode(tile) {
  const { kind, payload } = tile;
  switch (kind) {
    case SOLID:
      if (payload.length !== 3) throw new Error('tile: solid');
      return `rgb(${payload[2]},${payload[1]},${payload[0]})`;
    case PALETTE:
    case PALETTE_DEFLATED:
    case GREY_PALETTE:
    case GREY_PALETTE_DEFLATED:
      return unpack(tile);
    case GREY:
      return shades(tile);
    case PNG:
      return picture(tile, new Blob([payload], { type: 'image/png' }));
    case JPEG:
      return jpeg(tile).then((blob) => picture(tile, blob));
    case COPY: {
      if (payload.length !== 4) throw new Error('tile: copy');
      return [payload[0] | (payload[1] << 8), payload[2] | (payload[3] << 8)];
    }
    default:
      throw new Error('tile: kind');
  }
}

export class Painter {
  #canvas;
  #context;
  #scratch = null;
  #drawn;
  #keyFrame;
  #asked = -Infinity;
  /** The newest key frame; null while only a key frame helps. */
  #key = null;
  /** Of key frames; what waits from before one is not drawn any more. */
  #generation = 0;
  /** Frames that are there and not drawn: sequence → what to do once it is. */
  #held = new Map();
  /** Quiet frames that are being decoded: the sharer takes them for drawn, so that what comes later is drawn later. */
  #quiet = new Set();
  /** Sequences drawn since the key frame, as many as anybody could still wait for. */
  #done = new Set();

  /** `drawn(info)` after each frame, `keyFrame()` when one is needed. */
  constructor(canvas, { drawn, keyFrame }) {
    this.#canvas = canvas;
    this.#context = canvas.getContext('2d', { alpha: false, colorSpace: 'srgb' });
    this.#context.imageSmoothingEnabled = false;
    this.#drawn = drawn;
    this.#keyFrame = keyFrame;
  }

  /** A frame has arrived at `arrived` (ms, any clock: it is handed on). */
  push(buffer, arrived) {
    let frame;
    let sources;
    try {
      frame = parse(buffer, this.#key ? [this.#key.width, this.#key.height] : [0, 0]);
      if (!frame.key && this.#key && isNewer(this.#key.sequence, frame.sequence)) return;
      if (!(frame.key || this.#key) || this.#held.size >= MAX_HELD) {
        this.#lost();
        return;
      }
      sources = frame.tiles.map(decode);
    } catch {
      this.#lost();
      return;
    }
    if (frame.key) {
      this.#begin(frame);
      this.#asked = -Infinity;
    }
    const { sequence, after } = frame;
    const turn = [...this.#quiet];
    if (after !== sequence && !this.#done.has(after)) turn.push(new Promise((resolve) => { this.#waitFor(after, resolve); }));
    if (turn.length === 0 && !sources.some((source) => source instanceof Promise)) {
      this.#draw(frame, sources, arrived);
      return;
    }
    const generation = this.#generation;
    this.#held.set(sequence, this.#held.get(sequence) ?? []);
    const decoded = Promise.all(sources);
    decoded.catch(() => {});
    const painted = Promise.all([decoded, ...turn]).then(([ready]) => {
      if (generation === this.#generation) this.#draw(frame, ready, arrived);
      for (const source of ready) source.close?.();
    }, () => {
      if (generation === this.#generation) this.#lost();
    }).finally(() => this.#quiet.delete(painted));
    if (frame.quiet) this.#quiet.add(painted);
  }

  /** What is on the canvas. */
  snapshot() {
    const { width, height } = this.#canvas;
    return this.#context.getImageData(0, 0, width, height);
  }

  #begin(frame) {
    this.#key = frame;
    this.#generation += 1;
    this.#held.clear();
    this.#done.clear();
  }

  /** `then` once that frame is drawn. */
  #waitFor(sequence, then) {
    const waiting = this.#held.get(sequence) ?? [];
    waiting.push(then);
    this.#held.set(sequence, waiting);
  }

  #lost() {
    this.#begin(null);
    const now = performance.now();
    if (now - this.#asked < KEY_FRAME_PAUSE_MS) return;
    this.#asked = now;
    this.#keyFrame();
  }

  #draw(frame, sources, arrived) {
    const context = this.#context;
    if (this.#canvas.width !== frame.width || this.#canvas.height !== frame.height) {
      this.#canvas.width = frame.width;
      this.#canvas.height = frame.height;
      context.imageSmoothingEnabled = false;
    }
    this.#copy(frame.tiles, sources);
    for (let index = 0; index < frame.tiles.length; index += 1) {
      const { kind, x, y, w, h } = frame.tiles[index];
      const source = sources[index];
      if (kind === SOLID) {
        context.fillStyle = source;
        context.fillRect(x, y, w, h);
      } else if (kind === PNG || kind === JPEG) {
        context.drawImage(source, x, y);
      } else if (kind !== COPY) {
        context.putImageData(source, x, y);
      }
    }
    const { sequence, key, lossless, quiet, width, height, bytes, captured } = frame;
    this.#drawn({ sequence, key, lossless, quiet, width, height, bytes, captured, tiles: frame.tiles.length, arrived });
    const waiting = this.#held.get(sequence) ?? [];
    this.#held.delete(sequence);
    this.#done.add(sequence);
    if (this.#done.size > MAX_HELD) this.#done.delete(this.#done.values().next().value);
    for (const then of waiting) then();
  }

  /** All copies read the canvas as it was before the frame. */
  #copy(tiles, sources) {
    const copies = [];
    tiles.forEach((tile, index) => {
      if (tile.kind === COPY) copies.push([tile, sources[index]]);
    });
    if (copies.length === 0) return;
    let from = this.#canvas;
    if (copies.length > 1) {
      const { width, height } = this.#canvas;
      if (this.#scratch?.width !== width || this.#scratch.height !== height) this.#scratch = new OffscreenCanvas(width, height);
      const scratch = this.#scratch.getContext('2d', { alpha: false });
      scratch.imageSmoothingEnabled = false;
      for (const [{ w, h }, [x, y]] of copies) scratch.drawImage(this.#canvas, x, y, w, h, x, y, w, h);
      from = this.#scratch;
    }
    for (const [{ x, y, w, h }, [fromX, fromY]] of copies) this.#context.drawImage(from, fromX, fromY, w, h, x, y, w, h);
  }
}
