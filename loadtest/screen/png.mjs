// A screenshot's pixels.

import { inflateSync } from 'node:zlib';

function paeth(a, b, c) {
  const [toA, toB, toC] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  return toA <= toB && toA <= toC ? a : toB <= toC ? b : c;
}

/** A PNG of 8 bits and 3 or 4 channels, as an X server with 24 bits has it: blue, green, red, unused. */
export function decode(file) {
  const [width, height] = [file.readUInt32BE(16), file.readUInt32BE(20)];
  const channels = { 2: 3, 6: 4 }[file[25]];
  if (file[24] !== 8 || !channels || file[28] !== 0) throw new Error('not such a PNG');
  const parts = [];
  for (let at = 8; at < file.length;) {
    const length = file.readUInt32BE(at);
    if (file.toString('latin1', at + 4, at + 8) === 'IDAT') parts.push(file.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const packed = inflateSync(Buffer.concat(parts));
  const stride = width * channels;
  let above = new Uint8Array(stride);
  const pixels = Buffer.alloc(width * height * 4);
  for (let y = 0; y < height; y += 1) {
    const start = y * (stride + 1);
    const filter = packed[start];
    const row = packed.subarray(start + 1, start + 1 + stride);
    for (let at = 0; at < stride; at += 1) {
      const left = at < channels ? 0 : row[at - channels];
      const corner = at < channels ? 0 : above[at - channels];
      if (filter === 1) row[at] += left;
      else if (filter === 2) row[at] += above[at];
      else if (filter === 3) row[at] += (left + above[at]) >> 1;
      else if (filter === 4) row[at] += paeth(left, above[at], corner);
    }
    for (let x = 0; x < width; x += 1) {
      const [from, to] = [x * channels, (y * width + x) * 4];
      [pixels[to], pixels[to + 1], pixels[to + 2]] = [row[from + 2], row[from + 1], row[from]];
    }
    above = row;
  }
  return { width, height, pixels };
}
