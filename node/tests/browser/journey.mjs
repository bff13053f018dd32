// Two people's hands in their browsers. What they do is decided elsewhere (node/tests/journey.rs): a line of JSON on standard input is
// one thing to do, a line on standard output says that it is done, or why not.
//
//   {"page": NAME, "open": URL}            {"page", "click": BUTTON}       {"page", "sees": TEXT}
//   {"page", "fill": LABEL, "text": TEXT}  {"page", "types": TEXT}         {"page", "screen": [R, G, B]}   {"page", "picture": FILE}

import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const LIMIT_MS = 40_000;
/** Of the other screen: away from bar and windows. */
const CORNER = { x: 5, y: 5 };

const browser = await chromium.launch({
  executablePath: process.env.REMORA_CHROMIUM ?? '/usr/bin/chromium',
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
});
const pages = new Map();

async function open(name, url) {
  const page = await (await browser.newContext({ viewport: { width: 1200, height: 900 } })).newPage();
  page.setDefaultTimeout(LIMIT_MS);
  pages.set(name, page);
  await page.goto(url);
}

/** The screen is there, each pixel as it is, and has that colour near its lower right corner. */
async function screen(page, colour) {
  await page.waitForFunction(({ wanted, corner }) => {
    const canvas = document.querySelector('canvas');
    if (!window.__remora?.frame?.lossless || canvas.width !== window.__remora.frame.width) return false;
    const copy = new OffscreenCanvas(canvas.width, canvas.height);
    const context = copy.getContext('2d');
    context.drawImage(canvas, 0, 0);
    const [r, g, b] = context.getImageData(canvas.width - corner.x, canvas.height - corner.y, 1, 1).data;
    return r === wanted[0] && g === wanted[1] && b === wanted[2];
  }, { wanted: colour, corner: CORNER });
}

async function act(wish) {
  const page = pages.get(wish.page);
  if (wish.open) return open(wish.page, wish.open);
  if (wish.click) {
    // Enabled first: what is shown can be allowed after a look.
    return page.getByRole('button', { name: wish.click }).and(page.locator(':enabled:visible')).first().click();
  }
  if (wish.sees) return page.getByText(wish.sees).and(page.locator(':visible')).first().waitFor();
  if (wish.fill) return page.getByLabel(wish.fill, { exact: true }).fill(wish.text);
  if (wish.types) {
    await page.locator('.glass').click({ position: { x: 150, y: 250 } });
    await page.keyboard.type(wish.types);
    return page.keyboard.press('Enter');
  }
  if (wish.screen) return screen(page, wish.screen);
  if (wish.picture) return page.screenshot({ path: wish.picture });
  throw new Error('nothing to do');
}

console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const wish = JSON.parse(line);
  try {
    await act(wish);
    console.log('done');
  } catch (error) {
    const text = await pages.get(wish.page)?.locator('body').innerText().catch(() => '');
    console.log(`${String(error).replaceAll('\n', ' ')} · the page says: ${(text ?? '').replaceAll('\n', ' | ')}`);
  }
}
await browser.close();
