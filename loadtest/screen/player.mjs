// Plays recorded work on an X display, the same each time. A process of its own, so that nothing else delays it; told
// what to do by messages: {stage} sets the scene, {play} plays it, each is answered when it is done.

import { readFileSync, writeFileSync } from 'node:fs';
import x11 from 'x11';
import { decode } from './png.mjs';

const clock = () => performance.timeOrigin + performance.now();
const WIDTH = 1920;
const HEIGHT = 1080;
/** Of a screen. */
const STEP_MS = 1000 / 60;
const DESKTOP = 0x2e3440;

const MARKS = [{ x: 96, y: 96, size: 16 }, { x: 896, y: 528, size: 16 }, { x: 1696, y: 960, size: 16 }];

/** How long each lasts, how often it changes, where; and where the number of the step stands in it. */
export const SCENES = {
  // Twenty characters a second: a good typist.
  typing: { seconds: 8, step_ms: 50 },
  // A notch of the wheel every 350 ms, each an eased 120 pixels, as browsers do.
  scrolling: { seconds: 7, step_ms: STEP_MS, window: { x: 360, y: 90, w: 1200, h: 900 } },
  dragging: { seconds: 6, step_ms: STEP_MS, window: { x: 0, y: 0, w: 420, h: 300 } },
  // The whole screen: moved over, which can be copied, and zoomed into, which cannot.
  panning: { seconds: 6, step_ms: 1000 / 30, window: { x: 0, y: 0, w: WIDTH, h: HEIGHT }, marks: MARKS },
  animation: { seconds: 6, step_ms: 1000 / 30, window: { x: 0, y: 0, w: WIDTH, h: HEIGHT }, marks: MARKS, pictures: 12 },
  video: { seconds: 120, step_ms: 40, window: { x: 1280, y: 128, w: 480, h: 270 }, marks: [{ x: 1296, y: 144, size: 8 }], pictures: 50 },
};
/** Of the photograph's width, what the last picture of a zoom shows. */
const ZOOM = 0.6;
const NOTCH_PX = 120;
const NOTCH_MS = 350;
const GLIDE_MS = 150;

class Player {
  #x;
  #root;
  #depth;
  #graphics;
  #photograph;
  #pixmaps = {};
  /** By name of the scene. */
  #zooms = {};
  #windows = [];
  #xterm;
  #going = false;

  static async open({ display, photograph, page, text, xterm }) {
    const player = new Player();
    const opened = await new Promise((resolve, reject) => { x11.createClient({ display }, (error, found) => (error ? reject(error) : resolve(found))); });
    player.#x = opened.client;
    player.#x.on('error', (error) => { throw error; });
    const [screen] = opened.screen;
    [player.#root, player.#depth] = [screen.root, screen.root_depth];
    player.#graphics = player.#gc({ foreground: DESKTOP, graphicsExposures: 0 });
    player.#photograph = decode(readFileSync(photograph));
    player.#pixmaps = { photograph: player.#upload(player.#photograph), page: player.#upload(decode(readFileSync(page))) };
    player.text = readFileSync(text, 'latin1').replace(/\s+/g, ' ').trim();
    player.#xterm = xterm;
    player.#x.ChangeWindowAttributes(player.#root, { backgroundPixel: DESKTOP });
    player.#x.ClearArea(player.#root, 0, 0, 0, 0, 0);
    await player.#x.sync();
    return player;
  }

  #gc(values) {
    const id = this.#x.AllocID();
    this.#x.CreateGC(id, this.#root, values);
    return id;
  }

  #upload({ width, height, pixels }) {
    const id = this.#x.AllocID();
    this.#x.CreatePixmap(id, this.#root, this.#depth, width, height);
    const rows = 64;
    for (let y = 0; y < height; y += rows) {
      const part = pixels.subarray(y * width * 4, (y + rows) * width * 4);
      this.#x.PutImage(2, id, this.#graphics, width, part.length / width / 4, 0, y, 0, this.#depth, part);
    }
    return { id, width, height };
  }

  #window(parent, { x, y, w, h }, background) {
    const id = this.#x.AllocID();
    this.#x.CreateWindow(id, parent, x, y, w, h, 0, this.#depth, 1, 0, { overrideRedirect: 1, backgroundPixmap: background });
    // The window keeps it.
    this.#x.FreePixmap(background);
    return id;
  }

  /** A part of a picture, as a picture of its own. */
  #part(of, x, y, w, h) {
    const id = this.#x.AllocID();
    this.#x.CreatePixmap(id, this.#root, this.#depth, w, h);
    this.#x.CopyArea(of.id, id, this.#graphics, x, y, 0, 0, w, h);
    return id;
  }

  // ---- what is seen before it begins ---------------------------------------------------------

  async stage(name) {
    for (const window of this.#windows) this.#x.DestroyWindow(window);
    this.#windows = [];
    this.offset = 0;
    const { photograph, page } = this.#pixmaps;
    const { window } = SCENES[name] ?? {};
    if (name === 'scrolling') {
      this.#windows = [this.#window(this.#root, window, this.#part(page, 0, 0, window.w, window.h))];
    } else if (name === 'dragging') {
      const under = this.#window(this.#root, { x: 0, y: 0, w: WIDTH, h: HEIGHT }, this.#part(photograph, 300, 300, WIDTH, HEIGHT));
      this.#windows = [this.#window(under, window, this.#part(page, 100, 400, window.w, window.h)), under];
    } else if (name === 'panning' || name === 'animation' || name === 'video') {
      if (SCENES[name].pictures) this.#zooms[name] ??= this.#zoom(SCENES[name]);
      this.#windows = [this.#window(this.#root, window, this.#part(photograph, 0, 0, window.w, window.h))];
    } else {
      this.#say('\x1b[2J\x1b[3J\x1b[H');
    }
    for (const id of this.#windows) this.#x.MapWindow(id);
    await this.#x.sync();
  }

  #say(text) {
    writeFileSync(this.#xterm, text);
  }

  /** Where the pointer is, keys go: there is no window manager. */
  async point(x, y) {
    this.#x.WarpPointer(0, this.#root, 0, 0, 0, 0, x, y);
    await this.#x.sync();
  }

  #ask(request, ...args) {
    return new Promise((resolve, reject) => { this.#x[request](...args, (error, reply) => (error ? reject(error) : resolve(reply))); });
  }

  /** Where a window is, on the screen or hidden. */
  async place(id) {
    const { xPos: x, yPos: y, width: w, height: h } = await this.#ask('GetGeometry', id);
    return { id, x, y, w, h };
  }

  /** What is on the screen. */
  async windows() {
    const { children } = await this.#ask('QueryTree', this.#root);
    const found = [];
    for (const id of children) if ((await this.#ask('GetWindowAttributes', id)).mapState !== 0) found.push(await this.place(id));
    return found;
  }

  async hide(id) {
    this.#x.UnmapWindow(id);
    await this.#x.sync();
  }

  // ---- what happens --------------------------------------------------------------------------

  /** When each step was asked for, and when it was on the screen at the latest. */
  async play(name) {
    const { step_ms: step, seconds } = SCENES[name];
    const steps = Math.round((seconds * 1000) / step);
    const began = performance.now();
    const times = [];
    this.#going = true;
    for (let number = 1; number <= steps && this.#going; number += 1) {
      const wait = began + number * step - performance.now();
      // A step that is late is not made up for: the next ones are on time.
      await new Promise((resolve) => { setTimeout(resolve, Math.max(0, wait)); });
      const asked = clock();
      this[name](number, number * step);
      await this.#x.sync();
      times.push([number & 255, asked, clock()]);
    }
    return times;
  }

  stop() {
    this.#going = false;
  }

  typing(number) {
    const character = this.text[(number - 1) % this.text.length];
    this.#say(number % 72 === 0 ? '\r\n' : character);
  }

  scrolling(number, at) {
    const { page } = this.#pixmaps;
    const { x, y, w, h } = SCENES.scrolling.window;
    const notch = Math.floor(at / NOTCH_MS);
    const glide = 1 - (1 - Math.min(1, (at % NOTCH_MS) / GLIDE_MS)) ** 3;
    const offset = Math.round((notch + glide) * NOTCH_PX);
    if (offset === this.offset) return;
    this.offset = offset;
    this.#x.CopyArea(page.id, this.#windows[0], this.#graphics, 0, offset, 0, 0, w, h);
  }

  dragging(number) {
    const along = (number / 360) * 2 * Math.PI;
    const { w, h } = SCENES.dragging.window;
    const x = Math.round(((WIDTH - w) / 2) * (1 - Math.cos(along)));
    const y = Math.round(((HEIGHT - h) / 2) * (1 - Math.cos(2 * along + Math.sin(along))));
    this.#x.MoveWindow(this.#windows[0], x, y);
  }

  /** A camera that moves over the photograph. */
  panning(number) {
    const { id, width, height } = this.#pixmaps.photograph;
    const { w, h } = SCENES.panning.window;
    const there = (span, speed) => Math.round((span / 2) * (1 - Math.cos(number * speed)));
    this.#film(SCENES.panning, number, [id, there(width - w, 0.011), there(height - h, 0.017)]);
  }

  animation(number) {
    this.#zoomed('animation', number);
  }

  video(number) {
    this.#zoomed('video', number);
  }

  /** A camera that zooms in and out. */
  #zoomed(name, number) {
    const pictures = this.#zooms[name];
    const there = number % (2 * (pictures.length - 1));
    const picture = pictures[Math.min(there, 2 * (pictures.length - 1) - there)];
    this.#film(SCENES[name], number, [picture.id, 0, 0]);
  }

  /** The pictures of a zoom: each pixel between four of the photograph. */
  #zoom({ window: { w, h }, pictures }) {
    const { width, height, pixels } = this.#photograph;
    return Array.from({ length: pictures }, (_, number) => {
      const scale = 1 - (1 - ZOOM) * (number / pictures);
      const [step, left, top] = [((width - 1) / w) * scale, ((width - 1) * (1 - scale)) / 2, ((height - 1 - (h * (width - 1) * scale) / w)) / 2];
      const zoomed = Buffer.alloc(w * h * 4);
      for (let y = 0; y < h; y += 1) {
        const fromY = Math.min(height - 2, Math.max(0, top + y * step));
        const [row, down] = [Math.floor(fromY), fromY % 1];
        for (let x = 0; x < w; x += 1) {
          const fromX = left + x * step;
          const [column, right] = [Math.floor(fromX), fromX % 1];
          const at = (row * width + column) * 4;
          for (let part = 0; part < 3; part += 1) {
            const upper = pixels[at + part] * (1 - right) + pixels[at + 4 + part] * right;
            const lower = pixels[at + width * 4 + part] * (1 - right) + pixels[at + width * 4 + 4 + part] * right;
            zoomed[(y * w + x) * 4 + part] = upper * (1 - down) + lower * down;
          }
        }
      }
      return this.#upload({ width: w, height: h, pixels: zoomed });
    });
  }

  /** A picture, and its number in it, appear together. */
  #film({ window, marks }, number, [id, x, y]) {
    this.#x.GrabServer();
    this.#x.CopyArea(id, this.#windows[0], this.#graphics, x, y, 0, 0, window.w, window.h);
    for (const mark of marks) this.#mark(mark, window, number & 255);
    this.#x.UngrabServer();
  }

  #mark({ x, y, size }, window, number) {
    this.black ??= this.#gc({ foreground: 0 });
    this.white ??= this.#gc({ foreground: 0xffffff });
    const [left, top] = [x - window.x, y - window.y];
    this.#x.PolyFillRectangle(this.#windows[0], this.black, [left, top, 8 * size, size]);
    const set = [...Array(8).keys()].filter((bit) => (number >> (7 - bit)) & 1);
    if (set.length > 0) this.#x.PolyFillRectangle(this.#windows[0], this.white, set.flatMap((bit) => [left + bit * size, top, size, size]));
  }
}

if (process.send) {
  let player = null;
  process.on('message', async ({ number, what, args }) => {
    try {
      if (what === 'open') player = await Player.open(...args);
      const answer = what === 'open' ? null : await player[what](...args);
      process.send({ number, answer: answer ?? null });
    } catch (error) {
      process.send({ number, error: error.message });
    }
  });
  process.on('disconnect', () => process.exit());
}
