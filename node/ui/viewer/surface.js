// A canvas that shows frames, painted by a worker where the browser can, else by the page.

import { Painter } from '/viewer/painter.js';

const clock = () => performance.timeOrigin + performance.now();

export class Surface {
  canvas = document.createElement('canvas');
  /** Of the last drawn frame: sequence, drawn (ms since the epoch), decode_ms, … */
  last = null;
  #worker = null;
  #painter = null;
  #snapshots = new Map();
  #asked = 0;
  #drawn;
  #keyFrame;

  constructor({ drawn, keyFrame, inPage = false }) {
    this.#drawn = drawn;
    this.#keyFrame = keyFrame;
    this.canvas.width = 1;
    this.canvas.height = 1;
    if (!inPage && typeof Worker === 'function' && this.canvas.transferControlToOffscreen) {
      this.#worker = new Worker('/viewer/worker.js', { type: 'module' });
      this.#worker.onmessage = ({ data }) => this.#heard(data);
      const canvas = this.canvas.transferControlToOffscreen();
      this.#worker.postMessage({ canvas }, [canvas]);
    } else {
      this.#painter = new Painter(this.canvas, { drawn: (info) => this.#painted(info, clock()), keyFrame });
    }
  }

  push(buffer) {
    const arrived = clock();
    if (this.#worker) this.#worker.postMessage({ frame: buffer, arrived }, [buffer]);
    else this.#painter.push(buffer, arrived);
  }

  /** The pixels, as an ImageData. */
  snapshot() {
    if (this.#painter) return Promise.resolve(this.#painter.snapshot());
    this.#asked += 1;
    const number = this.#asked;
    return new Promise((resolve) => {
      this.#snapshots.set(number, resolve);
      this.#worker.postMessage({ snapshot: number });
    });
  }

  close() {
    this.#worker?.terminate();
  }

  #heard(data) {
    if (data.drawn) this.#painted(data.drawn, data.at);
    else if (data.keyFrame) this.#keyFrame();
    else if (data.snapshot) {
      this.#snapshots.get(data.snapshot)?.(data.image);
      this.#snapshots.delete(data.snapshot);
    }
  }

  #painted(info, at) {
    this.last = { ...info, drawn: at, decode_ms: at - info.arrived };
    this.#drawn(this.last);
  }
}
