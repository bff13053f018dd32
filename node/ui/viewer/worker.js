// The painter, away from the page: a long decode delays no key.

import { Painter } from '/viewer/painter.js';

let painter = null;

self.onmessage = ({ data }) => {
  if (data.canvas) {
    painter = new Painter(data.canvas, {
      drawn: (info) => self.postMessage({ drawn: info, at: performance.timeOrigin + performance.now() }),
      keyFrame: () => self.postMessage({ keyFrame: true }),
    });
  } else if (data.frame) {
    painter.push(data.frame, data.arrived);
  } else if (data.snapshot) {
    const image = painter.snapshot();
    self.postMessage({ snapshot: data.snapshot, image }, [image.data.buffer]);
  }
};
