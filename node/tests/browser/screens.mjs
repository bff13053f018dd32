// Every screen of both roles, in every dress: nothing hangs out of the window, nothing is too small, axe finds nothing;
// and a picture of each is left for people to look at.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { describe, test } from 'node:test';
import { PEERS, WORDS, frame, openPage, palette, picture, solid, startSession, withBrowser } from './harness.mjs';

withBrowser();

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const WIDE = { width: 1280, height: 800 };
/** Each screen is reached once in each direction, and then dressed. Colours alone differ in the dark, so that is all that is asked there. */
const DIRECTIONS = {
  ltr: { query: '', dresses: {
    light: { colorScheme: 'light', viewport: WIDE, axe: {} },
    dark: { colorScheme: 'dark', viewport: WIDE, axe: { runOnly: ['color-contrast'] } },
    narrow: { colorScheme: 'light', viewport: { width: 390, height: 844 }, axe: {} },
  } },
  rtl: { query: '?dir=rtl', peer: PEERS.layla, dresses: { rtl: { colorScheme: 'light', viewport: WIDE, axe: {} } } },
};

const connected = (node, peer) => {
  node.event('connected', { path: 'relayed', relay: 'fra-1', rtt_ms: 31 });
  node.event('trust', { peer, words: WORDS });
};
const end = (node, reason, mode = null) => node.event('ended', { end_reason: reason, duration_s: 134, mode, chat_sent: 2, chat_received: 3, sas: 'verified' });
const heading = (page, text) => page.getByRole('heading', { name: text }).first().waitFor();

const SOURCES = [
  { id: 1, name: 'eDP-1', kind: 'monitor', width: 1920, height: 1080 },
  { id: 2, name: 'HDMI-1', kind: 'monitor', width: 2560, height: 1440 },
  { id: 3, name: 'Budget 2026.ods — LibreOffice Calc', kind: 'window', width: 1200, height: 800 },
];

/** A desktop with a window on it, drawn from tiles. */
function desktop() {
  const [width, height] = [1280, 800];
  const tiles = [solid({ x: 0, y: 0, w: width, h: height }, [62, 88, 104]), solid({ x: 0, y: 0, w: width, h: 28 }, [30, 36, 40]),
    solid({ x: 180, y: 120, w: 860, h: 520 }, [252, 252, 250]), solid({ x: 180, y: 120, w: 860, h: 34 }, [222, 220, 214])];
  for (let line = 0; line < 14; line += 1) {
    const w = 800 - ((line * 37) % 230);
    const indices = Array.from({ length: w * 10 }, (_, at) => ((at % w) % 11 < 7 && (at * 7 + line) % 5 < 3 ? 1 : 0));
    tiles.push(palette({ x: 205, y: 185 + line * 30, w, h: 10 }, [[252, 252, 250], [60, 66, 70]], indices));
  }
  return frame({ key: true, lossless: true, width, height, tiles });
}

async function viewer({ node, page }, peer, mode) {
  startSession(node, { peer, mode, sources: SOURCES });
  await node.wish('Ready');
  await node.frame(desktop());
  await node.wish(/^Ack/);
  await page.locator('.first').waitFor({ state: 'hidden' });
}

/** Name → [role, how to get there]. */
const SCREENS = {
  'choose': [null, async ({ page }) => heading(page, 'What would you like')],
  'lobby': [null, async ({ node, page }) => {
    const names = ['fin-lt-0231', 'fin-lt-0232', 'ward-3-reception'];
    node.event('lobby', { devices: names.map((name) => ({ name, id: 'x' })), permitted: ['view', 'control'], member: true });
    node.transient('presences', { devices: { 'fin-lt-0231': { state: 'online' }, 'fin-lt-0232': { state: 'offline', seen_ms_ago: 10_800_000 }, 'ward-3-reception': { state: 'online' } } });
    node.event('call', { number: 1, device: 'fin-lt-0232', state: 'failed', text: 'the device is not online; last seen 3 h ago' });
    node.event('call', { number: 2, device: 'ward-3-reception', state: 'delivered', agents: 2, url: 'http://127.0.0.1/', warnings: [{ text: 'This device does not meet policy: disk encryption off. Be careful with admin credentials.' }] });
    node.event('call', { number: 3, device: null, peer: 'Maria Lopez', state: 'active', mode: 'control', url: 'http://127.0.0.1/' });
    node.event('call', { number: 4, device: 'fin-lt-0231', peer: 'Maria Lopez', state: 'over', reason_code: 'SHARER_LEFT', duration_s: 134 });
    await page.getByText('2:14').waitFor();
  }],
  'helper-1-code': ['helper', async ({ node, page }) => {
    node.event('code', { code: '4060-r0gx', valid_s: 600 });
    node.event('wrong_code', { tries_left: 2 });
    await page.getByText('1 of 3').waitFor();
  }],
  'helper-2-trust': ['helper', async ({ node, page }, peer) => {
    connected(node, peer);
    await heading(page, 'Is this the person');
  }],
  'helper-3-asked': ['helper', async ({ node, page }, peer) => {
    connected(node, peer);
    await page.getByRole('button', { name: 'They are the same' }).click();
    await page.getByRole('button', { name: 'Full control' }).click();
    node.event('peer_checked_words', { same: true });
    node.event('awaiting_consent', { within_s: 298 });
    await heading(page, 'Waiting for');
  }],
  'helper-4-view': ['helper', (site, peer) => viewer(site, peer, 'view')],
  'helper-5-control': ['helper', async (site, peer) => {
    await viewer(site, peer, 'control');
    await site.page.locator('.hint').waitFor();
  }],
  'helper-6-chat': ['helper', async (site, peer) => {
    await viewer(site, peer, 'view');
    site.node.event('chat', { id: 1, text: 'Hello! The printer says “offline”.' });
    site.node.event('chat_sent', { text: 'I see it. One moment, please.' });
    site.node.event('chat', { id: 2, text: 'نعم، كانت تعمل أمس' });
    await site.page.locator('[data-tool="chat"]').click();
    await site.page.locator('.messages').getByText('نعم').waitFor();
  }],
  'helper-7-monitors': ['helper', async (site, peer) => {
    await viewer(site, peer, 'view');
    await site.page.locator('[data-tool="monitor"]').click();
    await site.page.getByText('HDMI-1').waitFor();
  }],
  'helper-8-person': ['helper', async (site, peer) => {
    await viewer(site, peer, 'view');
    await site.page.locator('.person').click();
    await site.page.getByText('UNVERIFIED').waitFor();
  }],
  'helper-9-laser': ['helper', async (site, peer) => {
    await viewer(site, peer, 'view');
    await site.page.locator('[data-tool="laser"]').click();
    await site.page.locator('.glass').hover({ position: { x: 150, y: 120 } });
    await site.page.locator('.laser').waitFor();
  }],
  'helper-a-paused': ['helper', async (site, peer) => {
    await viewer(site, peer, 'view');
    site.node.event('paused', { by: 'sharer' });
    await heading(site.page, 'has paused');
  }],
  'helper-b-over': ['helper', async ({ node, page }, peer) => {
    startSession(node, { peer });
    end(node, 'SHARER_LEFT', 'control');
    await heading(page, 'The session is over');
  }],
  'helper-c-stats': ['helper', async (site, peer) => {
    await viewer(site, peer, 'view');
    await site.page.locator('.path').click();
    await heading(site.page, 'Statistics');
    await site.page.getByText('1280 × 800').waitFor();
  }],
  'sharer-1-join': ['sharer', async ({ node, page }) => {
    await page.getByLabel('Character 1 of 8').fill('4');
    await page.getByLabel('Character 2 of 8').fill('0');
    node.event('join_failed', { code: 'WRONG_CODE', text: '' });
    await page.getByText('That code is not right').waitFor();
  }],
  'sharer-2-meet': ['sharer', async ({ node, page }) => {
    node.event('connected', { path: 'relayed', relay: 'fra-1', rtt_ms: 31 });
    await heading(page, 'Connecting');
  }],
  'sharer-3-trust': ['sharer', async ({ node, page }, peer) => {
    connected(node, peer);
    await heading(page, 'Is this your helper');
  }],
  'sharer-4-prompt': ['sharer', async ({ node, page }, peer) => {
    connected(node, peer);
    await page.getByRole('button', { name: 'They are the same' }).click();
    node.event('screen', { width: 1920, height: 1080, sources: SOURCES, source: 1 });
    node.event('consent_prompt', { mode: 'control', within_s: 298, upgrade: false });
    await page.getByRole('button', { name: 'Allow control' }).and(page.locator(':enabled')).waitFor();
  }],
  'sharer-5-sharing': ['sharer', async ({ node, page }, peer) => {
    startSession(node, { peer, mode: 'control', sources: SOURCES });
    node.event('chat', { id: 1, text: 'Hello! I will look at the printer queue first.' });
    node.event('chat_sent', { text: 'Thank you' });
    await heading(page, 'controls this computer');
  }],
  'sharer-b-files': ['sharer', async ({ node, page }, peer) => {
    startSession(node, { peer, mode: 'view' });
    node.event('granted', { granted: ['files_to_helper', 'files_to_sharer'] });
    node.event('file_offered', { direction: 'in', number: 1, name: 'Budget 2026.ods', bytes: 48_000 });
    node.event('file_offered', { direction: 'in', number: 2, name: 'driver.deb', bytes: 4_800_000 });
    node.event('file_over', { direction: 'in', number: 1, name: 'Budget 2026.ods', code: 'FILE_RECEIVED', path: '/home/maria/Downloads/Budget 2026.ods' });
    await page.getByText('Clipboard and files').first().click();
    await page.getByRole('button', { name: 'Save a copy' }).waitFor();
  }],
  'sharer-6-upgrade': ['sharer', async ({ node, page }, peer) => {
    startSession(node, { peer, mode: 'view' });
    node.event('consent_prompt', { mode: 'control', within_s: 298, upgrade: true });
    await page.getByRole('alertdialog').waitFor();
  }],
  'sharer-7-paused': ['sharer', async ({ node, page }, peer) => {
    startSession(node, { peer, mode: 'view' });
    node.event('paused', { by: 'sharer' });
    await heading(page, 'Paused');
  }],
  'sharer-8-over': ['sharer', async ({ node, page }, peer) => {
    startSession(node, { peer });
    end(node, 'HELPER_LEFT', 'view');
    await heading(page, 'The session is over');
  }],
  'sharer-9-mismatch': ['sharer', async ({ node, page }, peer) => {
    connected(node, peer);
    end(node, 'SAS_MISMATCH');
    await heading(page, 'Stop');
  }],
};

/** What axe does not look at. */
function lookOver() {
  const found = [];
  if (document.documentElement.scrollWidth > innerWidth) found.push(`wider than the window: ${document.documentElement.scrollWidth}`);
  for (const element of document.querySelectorAll('body *')) {
    const style = getComputedStyle(element);
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (own && !element.checkVisibility()) continue;
    if (own && parseFloat(style.fontSize) < 16) found.push(`${style.fontSize}: ${element.className} ${element.textContent.slice(0, 30)}`);
  }
  return found;
}

/** What is wrong with the page as it stands, and a picture of it. */
async function inspect({ page }, name, { colorScheme, viewport, axe }) {
  await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
  await page.setViewportSize(viewport);
  await page.evaluate(() => new Promise((done) => { requestAnimationFrame(() => requestAnimationFrame(done)); }));
  await page.screenshot({ path: picture(name) });
  const { violations } = await page.evaluate((how) => window.axe.run(document, { resultTypes: ['violations'], ...how }), axe);
  const found = violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`));
  return [...found, ...await page.evaluate(lookOver)].map((what) => `${name}: ${what}`);
}

const { query, peer, dresses } = DIRECTIONS[process.env.REMORA_DIRECTION];

// The machine has two cores, and half of the time is the browser's.
describe(process.env.REMORA_DIRECTION, { concurrency: 2 }, () => {
  for (const [name, [role, reach]] of Object.entries(SCREENS)) {
    test(name, async () => {
      const site = await openPage(role, { query, colorScheme: 'light', reducedMotion: 'reduce' });
      await reach(site, peer ?? (role === 'helper' ? PEERS.maria : PEERS.sam));
      await site.page.evaluate(AXE);
      const wrong = [];
      for (const [dress, how] of Object.entries(dresses)) wrong.push(...await inspect(site, `${name}-${dress}`, how));
      assert.deepEqual(wrong, []);
      await site.close();
    });
  }
});
