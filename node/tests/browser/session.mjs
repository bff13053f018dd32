// A whole session, nothing played: real relay, real nodes, a real X server with an xterm, two browsers.
// Prints one JSON object with what was measured.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { chromium } from 'playwright-core';
import { Programs, event, line, percentile, real, xServer } from './programs.mjs';

const LIMIT_MS = 20_000;
const TEST_LIMIT_MS = 105_000;
const TYPED = 'Hello from the page äß€漢字';
/** By a dead key. */
const ACCENTED = 'é';
/** What xmessage ends with when its button is pressed. */
const PRESSED = 7;
const KEYS = 100;
/** The bar stands at the top until it is dragged. */
const BAR_ROWS = 60;
const bin = process.env.REMORA_BIN;
const home = mkdtempSync(join(tmpdir(), 'remora-screen-'));
const programs = new Programs(home);

/** Pixels of the canvas as the browser shows them, and how they differ from the X server's. */
async function shown(page) {
  // What the worker has drawn comes to the page's canvas a moment later.
  await page.waitForFunction(() => document.querySelector('canvas').width === window.__remora.frame.width);
  return page.evaluate(() => {
    const canvas = document.querySelector('canvas');
    const copy = new OffscreenCanvas(canvas.width, canvas.height);
    const context = copy.getContext('2d', { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    let text = '';
    for (let at = 0; at < data.length; at += 0x8000) text += String.fromCharCode(...data.subarray(at, at + 0x8000));
    return btoa(text);
  });
}

/** Pixels that differ below the bar. */
function differing(seen, there) {
  assert.equal(seen.length, there.length);
  let wrong = 0;
  for (let at = BAR_ROWS * 1920 * 4; at < seen.length; at += 4) {
    if (seen[at] !== there[at] || seen[at + 1] !== there[at + 1] || seen[at + 2] !== there[at + 2]) wrong += 1;
  }
  return wrong;
}

test('keys typed on the page arrive in the xterm, and its pixels on the page', { timeout: TEST_LIMIT_MS }, async (t) => {
  t.after(() => programs.end());
  const { display } = await xServer(programs);
  const file = join(home, 'typed.txt');
  const show = (command, ...args) => programs.start(command, args, { DISPLAY: display, LC_ALL: 'C.UTF-8' });
  show('xclock', '-geometry', '180x180-60+140', '-bg', '#f4f1e8');
  show('xterm', '-geometry', '100x30+90+160', '-fa', 'Monospace', '-fs', '13', '-bg', '#fbfaf7', '-u8', '-bc', '-bcn', '1000000', '-e', 'sh', '-c', `cat > ${file}`);
  const question = show('xmessage', '-geometry', '+1280+640', '-buttons', `      Restart the printer      :${PRESSED}`, 'The queue of Printer 2 is paused.\nIt has 14 jobs.');
  const answered = once(question, 'exit');
  // While nobody else is there, a server that loses its last program forgets everything.
  await once(show('xsetroot', '-solid', '#2f4f5f'), 'exit');

  const relay = programs.start(join(bin, 'remora-relay'), ['serve', '--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0', '--key', join(home, 'relay.key')]);
  const address = await line(relay, 'relay', (text) => text.match(/\S+\/[a-z2-7]{52}/)?.[0]);
  const helper = programs.start(join(bin, 'remora'), ['invite', '--json', '--page', '--relay', address, '--name', 'Sam Okafor', '--mode', 'control']);
  const helperPage = line(helper, 'helper page', event('page'));
  const code = line(helper, 'code', event('code'));
  // The whole test lies before it.
  const ended = line(helper, 'end', event('ended'), TEST_LIMIT_MS);
  const sharer = programs.start(join(bin, 'remora'), ['join', '--json', '--page', '--relay', address, '--name', 'Maria Lopez'], { DISPLAY: display });
  const sharerPage = line(sharer, 'sharer page', event('page'));

  const browser = await chromium.launch({
    executablePath: process.env.REMORA_CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  });
  t.after(() => browser.close());
  const open = async (url, viewport) => {
    const page = await (await browser.newContext({ viewport })).newPage();
    page.setDefaultTimeout(LIMIT_MS);
    await page.goto(url);
    return page;
  };
  let [h, s] = [await open((await helperPage).url, { width: 1500, height: 950 }), await open((await sharerPage).url, { width: 1000, height: 800 })];
  const picture = (page, name) => page.screenshot({ path: join(process.env.REMORA_PICTURES, `session-${name}.png`) });

  await s.getByRole('textbox').first().waitFor();
  await s.keyboard.type((await code).code.replace('-', ' '));
  await s.keyboard.press('Enter');
  await s.getByRole('button', { name: /allow/i }).first().waitFor();
  await picture(s, 'sharer-asked');
  await s.getByRole('button', { name: /allow/i }).first().click();
  await h.waitForFunction(() => window.__remora?.frame?.lossless);
  await picture(s, 'sharer-sharing');

  await h.locator('.glass').click({ position: { x: 200, y: 200 } });
  await h.keyboard.type(TYPED.slice(0, 20));
  await h.keyboard.insertText(TYPED.slice(20));
  const keyboard = await h.context().newCDPSession(h);
  await keyboard.send('Input.imeSetComposition', { text: '´', selectionStart: 1, selectionEnd: 1 });
  await keyboard.send('Input.insertText', { text: ACCENTED });
  await h.keyboard.press('Enter');
  const began = Date.now();
  while (!(existsSync(file) && readFileSync(file, 'utf8').includes('\n'))) {
    assert.ok(Date.now() - began < LIMIT_MS, `only ${existsSync(file) ? readFileSync(file, 'utf8') : 'nothing'} arrived`);
    await h.waitForTimeout(20);
  }
  assert.equal(readFileSync(file, 'utf8'), `${TYPED}${ACCENTED}\n`);

  // From a key event on the page to changed pixels on its canvas, relayed.
  const times = [];
  for (let key = 0; key < KEYS; key += 1) {
    const before = await h.evaluate(() => window.__remora.frame.sequence);
    const pressed = await h.evaluate(() => performance.timeOrigin + performance.now());
    await h.keyboard.press('x');
    await h.waitForFunction((sequence) => window.__remora.frame.sequence > sequence, before, { polling: 1 });
    times.push((await h.evaluate(() => window.__remora.frame.drawn)) - pressed);
  }
  times.sort((a, b) => a - b);

  // The screen rests: every pixel is the X server's, but the bar's, which is not shown.
  await h.waitForFunction(() => window.__remora?.frame?.lossless);
  await picture(h, 'helper-viewer');
  assert.equal(differing(Buffer.from(await shown(h), 'base64'), await real(programs, display)), 0);

  // A closed browser: the session goes on, and the page, opened again, shows what there is.
  await h.close();
  h = await h.context().newPage();
  h.setDefaultTimeout(LIMIT_MS);
  await h.goto((await helperPage).url.split('#')[0]);
  await h.waitForFunction(() => window.__remora?.frame?.lossless);
  assert.deepEqual(differing(Buffer.from(await shown(h), 'base64'), await real(programs, display)), 0);

  // A click hits the window under it.
  const scale = await h.locator('.glass').evaluate((glass) => glass.getBoundingClientRect().width / 1920);
  const [x, y] = [1280 + 100, 640 + 62];
  await h.locator('.glass').click({ position: { x: x * scale, y: y * scale } });
  assert.deepEqual((await answered)[0], PRESSED);

  await s.getByRole('button', { name: /leave/i }).first().click();
  const confirm = s.getByRole('dialog').getByRole('button', { name: /leave/i });
  if (await confirm.count()) await confirm.first().click();
  assert.equal((await ended).end_reason, 'SHARER_LEFT');
  console.log(JSON.stringify({
    outcome: 'ended', pixel_exact: true, source: 'x11', keys: KEYS,
    key_to_pixel_ms: { p50: percentile(times, 0.5), p95: percentile(times, 0.95) },
  }));
});
