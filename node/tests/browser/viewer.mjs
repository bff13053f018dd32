// The session as the helper has it: frames to the byte, hands to the event.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Model, assertSame, canvas, copy, frame, grey, openPage, palette, picture, png, solid, startSession, withBrowser } from './harness.mjs';

withBrowser();

const [W, H] = [320, 200];

async function session({ mode = 'view', query, ...options } = {}) {
  const site = await openPage('helper', { query, ...options });
  startSession(site.node, { mode, ...options });
  await site.node.wish('Ready');
  return site;
}

async function blank(site, size = [W, H]) {
  await site.node.frame(frame({ sequence: 1, key: true, width: size[0], height: size[1], tiles: [solid({ x: 0, y: 0, w: size[0], h: size[1] }, [10, 20, 30])] }));
  await site.node.wish(/^Ack \{ sequence: 1,/);
  const model = new Model(...size);
  model.fill({ x: 0, y: 0, w: size[0], h: size[1] }, () => [10, 20, 30]);
  return model;
}

/** The same every time, and no two neighbours alike. */
function noise(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state >>> 24;
  };
}

for (const query of ['', '?paint-in-page']) {
  test(`each kind of tile is drawn to the byte${query}`, async () => {
    const site = await session({ query });
    const { node, page, close } = site;
    const model = await blank(site);
    let sequence = 1;
    const draw = async (tiles) => {
      sequence += 1;
      assert.equal(await node.frame(frame({ sequence, width: W, height: H, tiles })), true);
      assertSame(await canvas(page, sequence), model);
    };
    const next = noise(7);
    const colours = Array.from({ length: 255 }, () => [next(), next(), next()]);

    const solids = [[0, 0, 0], [255, 255, 255], [1, 2, 3], [254, 128, 127]].map((colour, index) => ({ place: { x: index * 31, y: 3, w: 29, h: 17 }, colour }));
    for (const { place, colour } of solids) model.fill(place, () => colour);
    await draw(solids.map(({ place, colour }) => solid(place, colour)));

    // Widths that do not fill their last byte; each number of bits; stored, fixed and dynamic deflate.
    for (const [n, w, deflated] of [[2, 33, null], [3, 31, null], [4, 30, null], [5, 29, null], [16, 64, null],
      [2, 64, { level: 9 }], [4, 61, { level: 1 }], [9, 63, { level: 0 }], [16, 64, { level: 9 }], [16, 1, { strategy: 4 }], [7, 64, { strategy: 4 }],
      [17, 31, null], [255, 64, null], [200, 63, { level: 9 }]]) {
      const place = { x: 17, y: 40, w, h: 48 };
      const indices = Array.from({ length: w * 48 }, (_, at) => (at % 5 < 3 ? next() % n : at % n));
      model.fill(place, (at) => colours[indices[at]]);
      await draw([palette(place, colours.slice(0, n), indices, deflated)]);
    }

    const letters = { x: 100, y: 10, w: 37, h: 41 };
    const shades = Array.from({ length: 37 * 41 }, (_, at) => (at % 3 ? 255 : next()));
    model.fill(letters, (at) => [shades[at], shades[at], shades[at]]);
    await draw([grey(letters, shades)]);

    const place = { x: 200, y: 100, w: 90, h: 70 };
    const pixels = Array.from({ length: 90 * 70 }, () => [next(), next(), next()]);
    model.fill(place, (at) => pixels[at]);
    await draw([png(place, pixels)]);

    // A scroll: the source overlaps the target.
    let before = model.clone();
    model.fill({ x: 0, y: 0, w: W, h: 150 }, (_, x, y) => before.at(x, y + 37));
    await draw([copy({ x: 0, y: 0, w: W, h: 150 }, [0, 37])]);

    // Two that change places: each reads what was there before the frame; then something over one of them.
    before = model.clone();
    model.fill({ x: 0, y: 0, w: 100, h: 80 }, (_, x, y) => before.at(x + 150, y + 60));
    model.fill({ x: 150, y: 60, w: 100, h: 80 }, (_, x, y) => before.at(x, y));
    model.fill({ x: 10, y: 10, w: 5, h: 5 }, () => [200, 100, 50]);
    await draw([copy({ x: 0, y: 0, w: 100, h: 80 }, [150, 60]), copy({ x: 150, y: 60, w: 100, h: 80 }, [0, 0]), solid({ x: 10, y: 10, w: 5, h: 5 }, [200, 100, 50])]);

    // Nothing at all is a frame too.
    await draw([]);
    await close();
  });
}

test('a picture in a JPEG is near enough', async () => {
  const site = await session();
  const { node, page, close } = site;
  await blank(site);
  // As node/picture/src/frame/jpeg.rs makes it.
  const jpeg = Buffer.from('52c8a28a2be28fd0428a28a0028a28a0028a28a0028a28a0028a28a0028a28a0028a28a0028a28a0028a28a0028a28a0028a28a00f', 'hex');
  await node.frame(frame({ sequence: 2, width: W, height: H, tiles: [{ x: 8, y: 8, w: 64, h: 48, kind: 4, payload: jpeg }] }));
  const { data } = await canvas(page, 2);
  const at = (20 * W + 20) * 4;
  [180, 90, 40].forEach((value, index) => assert.ok(Math.abs(data[at + index] - value) <= 4, `${data[at + index]}`));
  await close();
});

test('a frame is drawn after the one it names, however long that takes and whichever comes first', async () => {
  const site = await session();
  const { node, page, close } = site;
  const model = await blank(site);
  const next = noise(3);
  const big = Array.from({ length: W * H }, () => [next(), next(), next()]);
  model.fill({ x: 0, y: 0, w: W, h: H }, (at) => big[at]);
  model.fill({ x: 5, y: 5, w: 50, h: 50 }, () => [1, 1, 1]);
  // A slow picture, and at once a quick square over it.
  await Promise.all([
    node.frame(frame({ sequence: 2, width: W, height: H, tiles: [png({ x: 0, y: 0, w: W, h: H }, big)] })),
    node.frame(frame({ sequence: 3, after: 2, width: W, height: H, tiles: [solid({ x: 5, y: 5, w: 50, h: 50 }, [1, 1, 1])] })),
  ]);
  await node.wish(/^Ack \{ sequence: 2,/);
  await node.wish(/^Ack \{ sequence: 3,/);
  assertSame(await canvas(page, 3), model);
  // The second one first.
  model.fill({ x: 0, y: 0, w: 40, h: 40 }, () => [2, 2, 2]);
  model.fill({ x: 9, y: 9, w: 20, h: 20 }, () => [3, 3, 3]);
  await node.frame(frame({ sequence: 5, after: 4, width: W, height: H, tiles: [solid({ x: 9, y: 9, w: 20, h: 20 }, [3, 3, 3])] }));
  await node.frame(frame({ sequence: 4, width: W, height: H, tiles: [solid({ x: 0, y: 0, w: 40, h: 40 }, [2, 2, 2])] }));
  await node.wish(/^Ack \{ sequence: 4,/);
  await node.wish(/^Ack \{ sequence: 5,/);
  assertSame(await canvas(page, 5), model);
  await close();
});

test('frames that have nothing to do with each other wait for nobody, and older ones than the key frame are not drawn', async () => {
  const site = await session();
  const { node, page, close } = site;
  const model = await blank(site);
  const square = (x, shade) => solid({ x, y: 3, w: 9, h: 9 }, [shade, shade, shade]);
  for (const [sequence, x] of [[7, 0], [3, 20], [5, 40]]) {
    model.fill({ x, y: 3, w: 9, h: 9 }, () => [sequence, sequence, sequence]);
    await node.frame(frame({ sequence, width: W, height: H, tiles: [square(x, sequence)] }));
    await node.wish(new RegExp(`^Ack \\{ sequence: ${sequence},`));
  }
  assertSame(await canvas(page, 5), model);
  await node.frame(frame({ sequence: 20, key: true, width: W, height: H, tiles: [square(60, 20)] }));
  await node.frame(frame({ sequence: 19, width: W, height: H, tiles: [square(60, 19)] }));
  await node.frame(frame({ sequence: 21, width: W, height: H, tiles: [square(80, 21)] }));
  model.fill({ x: 60, y: 3, w: 9, h: 9 }, () => [20, 20, 20]);
  model.fill({ x: 80, y: 3, w: 9, h: 9 }, () => [21, 21, 21]);
  assertSame(await canvas(page, 21), model);
  await close();
});

test('after a torn tile or another size, a key frame is asked for and nothing else drawn', async () => {
  const broken = [
    frame({ sequence: 2, width: W, height: H, tiles: [{ x: 0, y: 0, w: 9, h: 9, kind: 9, payload: Buffer.alloc(0) }] }),
    frame({ sequence: 2, width: W, height: H, tiles: [{ x: 0, y: 0, w: 9, h: 9, kind: 3, payload: Buffer.from('no PNG') }] }),
    frame({ sequence: 2, width: W, height: H, tiles: [{ x: 0, y: 0, w: 9, h: 9, kind: 2, payload: Buffer.from([2, 0, 0, 0, 1, 1, 1, 0xff, 0xff]) }] }),
    frame({ sequence: 2, width: W, height: H, tiles: [solid({ x: W - 1, y: 0, w: 9, h: 9 }, [9, 9, 9])] }),
    frame({ sequence: 2, width: W, height: H, tiles: [solid({ x: 0, y: 0, w: 9, h: 9 }, [9, 9, 9])] }).subarray(0, -1),
    Buffer.from([1, 0]),
  ];
  const site = await session();
  const { node, page, close } = site;
  for (const bytes of broken) {
    const model = await blank(site);
    await node.frame(bytes);
    await node.wish('KeyFrame');
    await node.frame(frame({ sequence: 4, width: W, height: H, tiles: [solid({ x: 0, y: 0, w: 9, h: 9 }, [9, 9, 9])] }));
    assertSame(await canvas(page, 1), model);
    // Another size, while we are at it.
    await node.frame(frame({ sequence: 90, key: true, width: 64, height: 48, tiles: [solid({ x: 0, y: 0, w: 64, h: 48 }, [7, 8, 9])] }));
    const small = new Model(64, 48);
    small.fill({ x: 0, y: 0, w: 64, h: 48 }, () => [7, 8, 9]);
    assertSame(await canvas(page, 90), small);
    node.wishes.length = 0;
  }
  await close();
});

// ---- hands -----------------------------------------------------------------------------------

const key = (keysym, down) => `Key { keysym: ${keysym}, down: ${down} }`;

test('keys go by keysym, composed text as text, all are released on blur', async () => {
  const site = await session({ mode: 'control' });
  const { node, page, close } = site;
  await blank(site);
  await page.waitForFunction(() => document.activeElement.classList.contains('keys'));
  await page.keyboard.press('a');
  await node.wish(`Input([${key(0x61, true)}])`);
  await node.wish(`Input([${key(0x61, false)}])`);
  for (const [name, keysym] of [['Enter', 0xff0d], ['Tab', 0xff09], ['Escape', 0xff1b], ['ArrowLeft', 0xff51], ['F11', 0xffc8], ['Delete', 0xffff], ['Backspace', 0xff08], ['Space', 0x20]]) {
    await page.keyboard.press(name);
    await node.wish(`Input([${key(keysym, true)}])`);
    await node.wish(`Input([${key(keysym, false)}])`);
  }
  assert.equal(await page.evaluate(() => document.activeElement.className), 'keys', 'Tab went to the other computer');
  await page.keyboard.press('Shift+A');
  await node.wish(`Input([${key(0xffe1, true)}])`);
  await node.wish(`Input([${key(0x41, true)}])`);
  await node.wish(`Input([${key(0xffe1, false)}])`);
  await page.keyboard.press('Control+c');
  await node.wish(`Input([${key(0xffe3, true)}])`);
  await node.wish(`Input([${key(0x63, true)}])`);
  await node.wish(`Input([${key(0xffe3, false)}])`);

  // What no key makes comes as text.
  await page.keyboard.insertText('äß€漢字');
  await node.wish('Input([Text("äß€漢字")])');
  // A dead key, as Chromium tells it: Dead, then the composed character.
  const dispatch = await page.context().newCDPSession(page);
  await dispatch.send('Input.imeSetComposition', { text: '´', selectionStart: 1, selectionEnd: 1 });
  await dispatch.send('Input.insertText', { text: 'é' });
  await node.wish('Input([Text("é")])');

  node.wishes.length = 0;
  await page.keyboard.down('Control');
  await page.keyboard.down('x');
  await node.wish(`Input([${key(0x78, true)}])`);
  await page.evaluate(() => document.activeElement.blur());
  await node.wish('Input([ReleaseAll])');
  await page.keyboard.up('x');
  await page.keyboard.up('Control');
  await page.locator('.glass').click();
  await page.keyboard.down('y');
  await node.wish(`Input([${key(0x79, true)}])`);
  await page.evaluate(() => {
    Object.defineProperty(document, 'hidden', { value: true, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  });
  await node.wish('Input([ReleaseAll])');
  await page.keyboard.up('y');
  await page.evaluate(() => Reflect.deleteProperty(document, 'hidden'));

  // Control taken back while a key is down.
  await page.keyboard.down('z');
  await node.wish(`Input([${key(0x7a, true)}])`);
  node.event('mode_changed', { mode: 'view', by: 'sharer' });
  await node.wish('Input([ReleaseAll])');
  await page.keyboard.up('z');
  await page.keyboard.press('q');
  await page.locator('.glass').click();
  await page.getByRole('button', { name: 'Request control' }).click();
  assert.equal(await node.wish(/^(Input|Ask)/), 'Ask { mode: Control }', 'in VIEW nothing is sent');
  await close();
});

test('Control, Alt and Shift together lead back to the page', async () => {
  const site = await session({ mode: 'control' });
  const { node, page, close } = site;
  await blank(site);
  await page.getByText('You are typing on').waitFor();
  await page.waitForFunction(() => document.activeElement.classList.contains('keys'));
  // Part of another shortcut, it is not the way out.
  for (const name of ['Control', 'Alt', 'Shift', 'r']) await page.keyboard.down(name);
  for (const name of ['r', 'Shift', 'Alt', 'Control']) await page.keyboard.up(name);
  assert.equal(await page.evaluate(() => document.activeElement.className), 'keys');
  node.wishes.length = 0;
  for (const name of ['Control', 'Alt', 'Shift']) await page.keyboard.down(name);
  await page.keyboard.up('Shift');
  await node.wish('Input([ReleaseAll])');
  await page.waitForFunction(() => document.activeElement.dataset.tool === 'control');
  for (const name of ['Alt', 'Control']) await page.keyboard.up(name);
  await page.getByText('Click the screen to type on it').waitFor();
  await page.locator('.glass').click({ position: { x: 5, y: 5 } });
  await page.getByText('You are typing on').waitFor();
  await close();
});

test('the pointer hits the pixel that is under it, at each size', async () => {
  const site = await session({ mode: 'control' });
  const { node, page, close } = site;
  await blank(site, [2560, 1600]);
  const aim = async (x, y) => {
    const box = await page.locator('.glass').boundingBox();
    node.wishes.length = 0;
    await page.mouse.click(box.x + (x / 2560) * box.width, box.y + (y / 1600) * box.height);
    const wish = await node.wish(/Button \{ n: 1, down: true \}/);
    const [, px, py] = wish.match(/Pointer \{ x: (\d+), y: (\d+) \}/).map(Number);
    return [Math.floor((px * 2560) / 65536), Math.floor((py * 1600) / 65536)];
  };
  // At 45 % a pixel of the window is two of the picture.
  const [x, y] = await aim(1000, 500);
  assert.ok(Math.abs(x - 1000) <= 2 && Math.abs(y - 500) <= 2, `${x},${y}`);
  await page.locator('[data-tool="size"]').click();
  await page.getByRole('button', { name: '100 %' }).click();
  await page.waitForFunction(() => document.querySelector('.picture').getBoundingClientRect().width === 2560);
  for (const [wantedX, wantedY] of [[0, 0], [7, 3], [639, 333], [1201, 700]]) assert.deepEqual(await aim(wantedX, wantedY), [wantedX, wantedY]);
  await page.mouse.wheel(0, 100);
  await node.wish(/Wheel \{ dx: 0, dy: 120 \}/);
  await page.mouse.click(600, 400, { button: 'right' });
  await node.wish(/Button \{ n: 3, down: true \}/);
  await node.wish(/Button \{ n: 3, down: false \}/);
  await close();
});

test('laser pointer and pen work without control and send no input', async () => {
  const site = await session();
  const { node, page, close } = site;
  await blank(site);
  const box = await page.locator('.glass').boundingBox();
  await page.locator('[data-tool="laser"]').click();
  await page.getByRole('button', { name: 'Green' }).click();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  assert.match(await node.wish(/^Pointer/), /^Pointer \{ x: 32\d{3}|^Pointer \{ x: 33\d{3}/);
  await page.mouse.click(box.x + 5, box.y + 5);
  await page.mouse.move(box.x + box.width / 2, 20);
  assert.match(await node.wish(/visible: false/), /Colour\(\[48, 164, 108\]\)/);
  await page.locator('[data-tool="pen"]').click();
  await page.mouse.move(box.x + 10, box.y + 10);
  await page.mouse.down();
  await page.mouse.move(box.x + 60, box.y + 40, { steps: 4 });
  await page.mouse.up();
  await node.wish(/^Pen \{ points: \[\(.+width: 4 \}/);
  await page.getByRole('button', { name: 'Wipe strokes' }).click();
  await node.wish('PenClear');
  assert.ok(!node.wishes.some((wish) => wish.startsWith('Input')));
  await close();
});

test('who it is can be seen throughout, and clipboard and files be asked for', async () => {
  const { node, page, close } = await session();
  const who = page.getByRole('button', { name: 'Maria Lopez' });
  await who.click();
  for (const text of ['Accountant', 'contoso.com']) await page.getByText(text, { exact: true }).first().waitFor();
  // Before control: with it, Escape is the other computer's.
  await page.keyboard.press('Escape');
  node.event('mode_changed', { mode: 'control', by: 'sharer' });
  await who.click();
  await page.getByText('Accountant', { exact: true }).first().waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('button', { name: 'Clipboard and files' }).click();
  await page.getByRole('button', { name: 'Ask: to you' }).first().click();
  await node.wish(/^Grant \{ grants: \{\(Clipboard, ToHelper\)\}, on: true \}$/);
  node.event('granted', { granted: ['clipboard_to_helper', 'files_to_helper'] });
  node.event('clipboard_offered', { bytes: 5 });
  await page.getByRole('button', { name: 'copied' }).last().click();
  await node.wish('Paste');
  node.event('clipboard', { text: 'hello' });
  await page.getByLabel('What the other person copied').waitFor();
  node.event('file_offered', { direction: 'in', number: 1, name: 'report.pdf', bytes: 1000, sha256: '00' });
  await page.getByRole('button', { name: 'Accept' }).click();
  await node.wish('File { wish: Accept(1) }');
  node.event('file_over', { direction: 'in', number: 1, name: 'report.pdf', bytes: 1000, code: 'FILE_RECEIVED', path: '/tmp/report.pdf' });
  await page.getByText('Received. /tmp/report.pdf').waitFor();
  await close();
});

test('monitors, chat, control and their states', async () => {
  const sources = [{ id: 1, name: 'eDP-1', kind: 'monitor', width: 1920, height: 1080 }, { id: 2, name: 'HDMI-1', kind: 'monitor', width: 2560, height: 1440 }];
  const site = await session({ sources });
  const { node, page, close } = site;
  await blank(site);
  await page.locator('[data-tool="monitor"]').click();
  await page.getByRole('button', { name: /HDMI-1/ }).click();
  await node.wish('Select { source: 2 }');
  await page.getByRole('button', { name: 'Request control' }).click();
  await node.wish('Ask { mode: Control }');
  node.event('awaiting_consent', { within_s: 300 });
  await page.getByRole('button', { name: /Asked… (5:00|4:5\d)/ }).waitFor();
  node.event('mode_changed', { mode: 'control', by: 'sharer' });
  await page.getByText('allowed full control').waitFor();
  await page.waitForFunction(() => document.activeElement.classList.contains('keys'));
  node.event('chat', { id: 1, text: 'hello' });
  await page.getByRole('button', { name: 'Chat, 1 unread' }).click();
  await page.locator('.messages').getByText('hello').waitFor();
  await page.getByLabel('Message').fill('hi');
  await page.getByRole('button', { name: 'Send' }).click();
  assert.equal(await node.wish(/^(Chat|Input\(\[Key)/), 'Chat { text: "hi" }', 'chat is not typed on the other screen');
  await page.getByRole('button', { name: 'Give back control' }).click();
  await node.wish('Drop');
  node.event('paused', { by: 'sharer' });
  await page.getByRole('heading', { name: 'has paused' }).waitFor();
  node.event('resumed');
  await page.getByRole('heading', { name: 'has paused' }).waitFor({ state: 'hidden' });
  await close();
});

test('the other side’s cursor is shown, and becomes ours in control', async () => {
  const site = await session();
  const { node, page, close } = site;
  await blank(site);
  const shape = `data:image/png;base64,${png({ w: 8, h: 8 }, Array.from({ length: 64 }, () => [255, 0, 0])).payload.toString('base64')}`;
  node.event('cursor', { shape, hot: [2, 3] });
  node.transient('cursor_at', { x: 160, y: 100 });
  await page.waitForFunction(() => document.querySelector('.pointer').style.left === '50%');
  assert.equal(await page.locator('.pointer').isVisible(), true);
  node.event('mode_changed', { mode: 'control', by: 'sharer' });
  await page.waitForFunction(() => getComputedStyle(document.querySelector('.glass')).cursor.includes('2 3'));
  await page.screenshot({ path: picture('helper-cursor') });
  await close();
});

test('the page is slower than the node: events stay, a key frame follows', async () => {
  const site = await session();
  const { node, page, close } = site;
  await blank(site);
  const tiles = [solid({ x: 0, y: 0, w: W, h: H }, [5, 5, 5])];
  await page.reload();
  await node.wish('Gone');
  await node.wish('Ready');
  assert.equal(await node.frame(frame({ sequence: 2, width: W, height: H, tiles })), false, 'a new page knows nothing to build on');
  assert.equal(await node.frame(frame({ sequence: 3, key: true, width: W, height: H, tiles })), true);
  await node.wish(/^Ack \{ sequence: 3,/);
  await close();
});
