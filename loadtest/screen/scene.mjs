// What both systems show: a display with an xterm, and a player with pictures to play with.

import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { real } from '../../node/tests/browser/programs.mjs';
import { pause } from './measure.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const TEXT = resolve(here, '../../LICENSE-APACHE');
const PHOTOGRAPH = '/usr/share/backgrounds/mate/nature/LadyBird.jpg';
const STYLE = `body { margin: 24px 120px; font: 17px/1.6 "DejaVu Serif"; color: #1d2327 }
h2 { font: bold 24px "DejaVu Sans"; color: #0b4f8a } a { color: #0b62b0 }
p:nth-child(7n) { font: 15px/1.5 "DejaVu Sans Mono"; background: #f3f4f6; padding: 12px }`;
const XTERM = { columns: 100, rows: 30, x: 60, y: 120, border: 2 };
const LIMIT_MS = 30_000;

/** The photograph and a long page, as the browser renders them, as files for the player. */
async function pictures(browser, home) {
  const files = { photograph: join(home, 'photograph.png'), page: join(home, 'page.png') };
  const page = await browser.newPage({ viewport: { width: 2560, height: 1600 } });
  await page.setContent(`<style>body { margin: 0 }</style><img src="data:image/jpeg;base64,${readFileSync(PHOTOGRAPH).toString('base64')}">`);
  await page.screenshot({ path: files.photograph });
  const text = readFileSync(TEXT, 'utf8').replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  const paragraphs = text.split(/\n\s*\n/).map((paragraph) => {
    const heading = /^\s*\d+\. [A-Z]/.test(paragraph);
    return heading ? `<h2>${paragraph}</h2>` : `<p>${paragraph.replace(/"[^"]+"/g, '<a href="#">$&</a>')}</p>`;
  });
  await page.setViewportSize({ width: 1200, height: 900 });
  await page.setContent(`<style>${STYLE}</style>${paragraphs.join('')}`);
  await page.screenshot({ path: files.page, fullPage: true });
  await page.close();
  return files;
}

export class Scene {
  #programs;
  #display;
  #player;
  #waiting = new Map();
  #asked = 0;
  #xterm;
  #bars = [];

  static async open({ programs, browser, display, home }) {
    const scene = new Scene();
    [scene.#programs, scene.#display] = [programs, display];
    const tty = join(home, 'tty');
    const place = `${XTERM.columns}x${XTERM.rows}+${XTERM.x}+${XTERM.y}`;
    programs.start('xterm', ['-geometry', place, '-b', String(XTERM.border), '-fa', 'DejaVu Sans Mono', '-fs', '11', '-u8', '-bc', '-bcn', '1000000',
      '-e', 'sh', '-c', `tty > ${tty}.new; mv ${tty}.new ${tty}; exec cat > /dev/null`], { DISPLAY: display, LC_ALL: 'C.UTF-8' });
    for (const until = Date.now() + LIMIT_MS; !existsSync(tty); await pause(20)) assert.ok(Date.now() < until, 'no xterm');
    scene.#player = fork(join(here, 'player.mjs'), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    scene.#player.on('message', ({ number, answer, error }) => {
      const { done, failed } = scene.#waiting.get(number);
      scene.#waiting.delete(number);
      if (error) failed(new Error(`player: ${error}`));
      else done(answer);
    });
    await scene.ask('open', { display, ...await pictures(browser, home), text: TEXT, xterm: readFileSync(tty, 'utf8').trim() });
    scene.#xterm = (await scene.ask('windows')).find(({ x }) => x === XTERM.x);
    const { x, y, w, h } = scene.#xterm;
    // Without a window manager keys go where the pointer is.
    await scene.ask('point', x + w / 2, y + h / 2);
    return scene;
  }

  /** Has the player do something; see there. */
  ask(what, ...args) {
    this.#asked += 1;
    const number = this.#asked;
    return new Promise((done, failed) => {
      this.#waiting.set(number, { done, failed });
      this.#player.send({ number, what, args });
    });
  }

  /** Where the xterm shows the character of this number, after it was cleared. */
  cell(number) {
    const { columns, rows, border } = XTERM;
    const { x, y, w, h } = this.#xterm;
    const [width, height] = [(w - 2 * border) / columns, (h - 2 * border) / rows];
    return { x: x + border + (number % columns) * width, y: y + border + Math.floor(number / columns) * height, w: width, h: height };
  }

  /**
   * Hides the bar that came with `start`. Remora does not show the bar's place to the helper, and in the peer's picture the
   * bar's clock would be a frame a second.
   */
  async withoutBar(start) {
    const known = new Set((await this.ask('windows')).map(({ id }) => id));
    const started = await start();
    for (const until = Date.now() + LIMIT_MS; this.#bars.length === 0; await pause(20)) {
      assert.ok(Date.now() < until, 'the sharer has no bar');
      this.#bars = (await this.ask('windows')).filter(({ id }) => !known.has(id));
    }
    for (const { id } of this.#bars) await this.ask('hide', id);
    return started;
  }

  /** How many pixels of a canvas differ from the X server's, but for the bar's. */
  async wrongPixels(painter) {
    const seen = Buffer.from(await painter.evaluate(() => globalThis.__probe.pixels()), 'base64');
    const there = await real(this.#programs, this.#display);
    assert.equal(seen.length, there.length, 'both pictures have one size');
    for (const { id } of this.#bars) {
      // It is as long as what it says, which changes.
      const { x, y, w, h } = await this.ask('place', id);
      for (let row = y; row < y + h; row += 1) there.copy(seen, (row * 1920 + x) * 4, (row * 1920 + x) * 4, (row * 1920 + x + w) * 4);
    }
    let wrong = 0;
    for (let at = 0; at < seen.length; at += 4) {
      wrong += seen[at] !== there[at] || seen[at + 1] !== there[at + 1] || seen[at + 2] !== there[at + 2];
    }
    return wrong;
  }
}
