// Raw deflate (RFC 1951), synchronous. Tiles are small: a DecompressionStream would cost each of them more in promises
// than its bytes take to unpack.

const LENGTH_BASE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073,
  4097, 6145, 8193, 12289, 16385, 24577];
const DISTANCE_BITS = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
const LENGTHS_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/** A table that is looked up with the next `bits` bits: symbol × 16 + length; 0 is no code. */
function table(lengths) {
  let bits = 1;
  for (const length of lengths) if (length > bits) bits = length;
  const counts = new Uint16Array(16);
  for (const length of lengths) if (length) counts[length] += 1;
  const next = new Uint16Array(16);
  for (let length = 1, code = 0; length <= 15; length += 1) {
    code = (code + (length > 1 ? counts[length - 1] : 0)) << 1;
    next[length] = code;
  }
  const entries = new Uint16Array(1 << bits);
  for (let symbol = 0; symbol < lengths.length; symbol += 1) {
    const length = lengths[symbol];
    if (!length) continue;
    let code = next[length];
    next[length] += 1;
    let reversed = 0;
    for (let bit = 0; bit < length; bit += 1, code >>= 1) reversed = (reversed << 1) | (code & 1);
    for (let index = reversed; index < entries.length; index += 1 << length) entries[index] = (symbol << 4) | length;
  }
  return { entries, mask: entries.length - 1 };
}

let fixed = null;

function fixedTables() {
  if (!fixed) {
    const lengths = new Uint8Array(288);
    lengths.fill(8, 0, 144).fill(9, 144, 256).fill(7, 256, 280).fill(8, 280, 288);
    fixed = [table(lengths), table(new Uint8Array(30).fill(5))];
  }
  return fixed;
}

/** Unpacks `input` into exactly `size` bytes; throws on anything else. */
export function inflate(input, size) {
  const output = new Uint8Array(size);
  let at = 0;
  let hold = 0;
  let held = 0;
  let written = 0;

  const bits = (count) => {
    while (held < count) {
      if (at >= input.length) throw new Error('deflate: short');
      hold |= input[at] << held;
      at += 1;
      held += 8;
    }
    const value = hold & ((1 << count) - 1);
    hold >>>= count;
    held -= count;
    return value;
  };
  const symbol = ({ entries, mask }) => {
    while (held < 15 && at < input.length) {
      hold |= input[at] << held;
      at += 1;
      held += 8;
    }
    const entry = entries[hold & mask];
    const length = entry & 15;
    if (!length || length > held) throw new Error('deflate: code');
    hold >>>= length;
    held -= length;
    return entry >>> 4;
  };

  let last = 0;
  while (!last) {
    last = bits(1);
    const kind = bits(2);
    if (kind === 0) {
      at -= held >> 3;
      hold = 0;
      held = 0;
      const length = input[at] | (input[at + 1] << 8);
      at += 4;
      if (at + length > input.length || written + length > size) throw new Error('deflate: stored');
      output.set(input.subarray(at, at + length), written);
      at += length;
      written += length;
      continue;
    }
    if (kind === 3) throw new Error('deflate: kind');
    let literals;
    let distances;
    if (kind === 1) {
      [literals, distances] = fixedTables();
    } else {
      const literalCount = bits(5) + 257;
      const distanceCount = bits(5) + 1;
      const lengthCount = bits(4) + 4;
      const lengthLengths = new Uint8Array(19);
      for (let index = 0; index < lengthCount; index += 1) lengthLengths[LENGTHS_ORDER[index]] = bits(3);
      const lengthTable = table(lengthLengths);
      const lengths = new Uint8Array(literalCount + distanceCount);
      for (let index = 0; index < lengths.length;) {
        const code = symbol(lengthTable);
        if (code < 16) {
          lengths[index] = code;
          index += 1;
          continue;
        }
        const value = code === 16 ? lengths[index - 1] : 0;
        let repeat = code === 16 ? 3 + bits(2) : code === 17 ? 3 + bits(3) : 11 + bits(7);
        if (index + repeat > lengths.length) throw new Error('deflate: lengths');
        for (; repeat; repeat -= 1, index += 1) lengths[index] = value;
      }
      literals = table(lengths.subarray(0, literalCount));
      distances = table(lengths.subarray(literalCount));
    }
    for (;;) {
      const code = symbol(literals);
      if (code < 256) {
        if (written >= size) throw new Error('deflate: long');
        output[written] = code;
        written += 1;
        continue;
      }
      if (code === 256) break;
      const length = LENGTH_BASE[code - 257] + bits(LENGTH_BITS[code - 257]);
      const slot = symbol(distances);
      const distance = DISTANCE_BASE[slot] + bits(DISTANCE_BITS[slot]);
      if (!(distance <= written) || !(written + length <= size)) throw new Error('deflate: distance');
      if (distance >= length) {
        output.copyWithin(written, written - distance, written - distance + length);
      } else {
        for (let end = written + length, from = written - distance, to = written; to < end; to += 1, from += 1) {
          output[to] = output[from];
        }
      }
      written += length;
    }
  }
  if (written !== size) throw new Error('deflate: size');
  return output;
}
