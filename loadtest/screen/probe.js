// Stands where pixels are painted: in noVNC's page, or in the worker of Remora's page. One yardstick for both: after each
// drawing call that touches the place of the letter on the visible canvas, that place is read back, and the moment is
// taken when the letter is there.
(() => {
  const clock = () => performance.timeOrigin + performance.now();
  const inWorker = typeof document === 'undefined';
  /** A page may have canvases for its own use. */
  let handedOver = null;
  const visible = (canvas) => (inWorker ? canvas === handedOver : canvas.isConnected && canvas.width > 640);

  const probe = {
    /** Of the visible canvas. */
    context: null,
    /** Times that new pixels were shown. */
    frames: 0,
    /** By number of the tile's kind: tiles, pixels, bytes. Remora only. */
    kinds: {},
    /** Of each frame. */
    log: [],
    /** Rectangles with a number in them, and how often each has changed. */
    marks: [],
    fresh: [],
  };
  globalThis.__probe = probe;

  // ---- a rectangle that is to change ---------------------------------------------------------
  /** A letter is this many pixels that have become much lighter or darker: more than what refining a rough picture does. */
  const LETTER_PIXELS = 6;
  const MUCH = 64;
  let watch = null;
  let changed = null;
  const read = ({ x, y, w, h }) => probe.context.getImageData(x, y, w, h).data;
  const meets = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

  probe.arm = (place) => {
    changed = new Promise((resolve) => { watch = { place, before: read(place), resolve }; });
  };
  /** When it changed, in ms since the epoch; null when it did not within `limit` ms. */
  probe.changed = (limit) => Promise.race([changed, new Promise((resolve) => { setTimeout(resolve, limit, null); })]);

  function drawn(place) {
    if (!watch || !meets(place, watch.place)) return;
    const now = read(watch.place);
    let pixels = 0;
    for (let at = 1; at < now.length; at += 4) pixels += Math.abs(now[at] - watch.before[at]) > MUCH;
    if (pixels < LETTER_PIXELS) return;
    watch.resolve(clock());
    watch = null;
  }

  const PLACES = {
    drawImage: (args) => (args.length > 5 ? { x: args[5], y: args[6], w: args[7], h: args[8] } : { x: args[1], y: args[2], w: args[3] ?? args[0].width, h: args[4] ?? args[0].height }),
    putImageData: ([image, x, y]) => ({ x, y, w: image.width, h: image.height }),
    fillRect: ([x, y, w, h]) => ({ x, y, w, h }),
  };
  const { prototype } = inWorker ? globalThis.OffscreenCanvasRenderingContext2D : globalThis.CanvasRenderingContext2D;
  for (const [name, place] of Object.entries(PLACES)) {
    const original = prototype[name];
    prototype[name] = function draw(...args) {
      original.apply(this, args);
      if (!visible(this.canvas)) return;
      probe.context = this;
      drawn(place(args));
      // noVNC draws elsewhere and shows what has changed with one drawImage.
      if (!inWorker && name === 'drawImage') shown({});
    };
  }

  // ---- frames --------------------------------------------------------------------------------
  const BITS = 8;
  const numbers = [];

  function numberIn({ x, y, size }) {
    const { data } = probe.context.getImageData(x, y, size * BITS, size);
    let number = 0;
    for (let bit = 0; bit < BITS; bit += 1) {
      const at = (size >> 1) * size * BITS + bit * size + (size >> 1);
      number = number * 2 + (data[at * 4 + 1] > 127 ? 1 : 0);
    }
    return number;
  }

  function shown(info) {
    const at = clock();
    probe.frames += 1;
    probe.marks.forEach((mark, index) => {
      const number = numberIn(mark);
      if (number !== numbers[index]) probe.fresh[index] = (probe.fresh[index] ?? 0) + 1;
      numbers[index] = number;
    });
    probe.log.push({ at, ...info, numbers: [...numbers] });
  }

  /** Counts anew. */
  probe.count = (marks) => {
    Object.assign(probe, { frames: 0, kinds: {}, log: [], marks });
    probe.fresh = marks.map(() => 0);
    numbers.length = 0;
  };

  /** All pixels, as a base64 text. */
  probe.pixels = () => {
    const { width, height } = probe.context.canvas;
    const { data } = probe.context.getImageData(0, 0, width, height);
    let text = '';
    for (let at = 0; at < data.length; at += 0x8000) text += String.fromCharCode(...data.subarray(at, at + 0x8000));
    return btoa(text);
  };

  if (!inWorker) {
    // The press as the browser has it, before any handler.
    addEventListener('keydown', (event) => { globalThis.__pressed = performance.timeOrigin + event.timeStamp; }, { capture: true });
    return;
  }

  // ---- Remora's worker -----------------------------------------------------------------------
  addEventListener('message', ({ data }) => {
    if (data.canvas) handedOver = data.canvas;
    if (data.frame) note(data.frame);
  });
  // The page's own: where tiles begin is its business.
  let parse = () => ({ key: false, tiles: [] });
  import('/viewer/frame.js').then((module) => { parse = module.parse; });
  let size = [0xffff, 0xffff];

  function note(bytes) {
    const frame = parse(bytes, size);
    if (frame.key) size = [frame.width, frame.height];
    for (const { kind, w, h, payload } of frame.tiles) {
      const sums = (probe.kinds[kind] ??= { tiles: 0, pixels: 0, bytes: 0 });
      sums.tiles += 1;
      sums.pixels += w * h;
      sums.bytes += payload.length;
    }
  }

  const post = globalThis.postMessage;
  globalThis.postMessage = (message, transfer) => {
    if (message.drawn) {
      const { sequence, lossless, bytes, captured } = message.drawn;
      shown({ sequence, lossless, bytes, captured });
    }
    post.call(globalThis, message, transfer);
  };
})();
