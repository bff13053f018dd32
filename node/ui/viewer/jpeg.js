// JPEGs as they come: the quality, and the pixels' code. What else a JPEG needs is the same for all of a quality, and the
// node has it.

const START_OF_FRAME = 0xc0;
const END_OF_IMAGE = Uint8Array.of(0xff, 0xd9);
/** By quality: what stands before the pixels of the smallest picture. */
const heads = new Map();

function head(quality) {
  if (!heads.has(quality)) {
    heads.set(quality, fetch(`/viewer/jpeg/${quality}`).then((answer) => {
      if (!answer.ok) throw new Error('tile: JPEG quality');
      return answer.arrayBuffer();
    }));
    heads.get(quality).catch(() => heads.delete(quality));
  }
  return heads.get(quality);
}

/** Of a segment: where it begins. */
function segment(view, marker) {
  let at = 2;
  while (view.getUint8(at + 1) !== marker) at += 2 + view.getUint16(at + 2);
  return at;
}

/** A tile as a JPEG that any decoder reads; a promise. */
export async function jpeg({ w, h, payload }) {
  const before = (await head(payload[0])).slice(0);
  const view = new DataView(before);
  const frame = segment(view, START_OF_FRAME);
  view.setUint16(frame + 5, h);
  view.setUint16(frame + 7, w);
  return new Blob([before, payload.subarray(1), END_OF_IMAGE], { type: 'image/jpeg' });
}
