// The sharer's page, from the eight boxes to the end.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PEERS, WORDS, openPage, startSession, withBrowser } from './harness.mjs';

withBrowser();

const boxes = (page) => page.locator('.box').evaluateAll((all) => all.map(({ value }) => value).join(''));
const trust = (node) => {
  node.event('connected', { path: 'relayed', relay: 'fra-1', rtt_ms: 31 });
  node.event('trust', { peer: PEERS.sam, words: WORDS });
};
const paste = async (page, box, text) => {
  await page.evaluate((value) => navigator.clipboard.writeText(value), text);
  await page.getByLabel(`Character ${box} of 8`).focus();
  await page.keyboard.press('ControlOrMeta+v');
};

test('eight boxes advance, forgive and step back', async () => {
  const { node, page, close } = await openPage('sharer');
  await page.waitForFunction(() => document.activeElement.classList.contains('box'));
  await page.keyboard.type('4O6o-R');
  assert.equal(await boxes(page), '4060r');
  await page.keyboard.press('Backspace');
  await page.keyboard.type('RogX');
  assert.equal(await boxes(page), '4060r0gx');
  // The last one leads to the button: nothing is tried before the person says so.
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Continue');
  await page.keyboard.press('Enter');
  await node.wish('Join 4060-r0gx');
  await page.getByText('Looking for your helper').waitFor();
  node.event('join_failed', { code: 'UNKNOWN_CODE', text: 'no' });
  await page.getByRole('alert').getByText('Nobody is waiting with that code').waitFor();
  assert.equal(await boxes(page), '4060r0gx', 'what was typed stays');
  await page.waitForFunction(() => document.activeElement.getAttribute('aria-label') === 'Character 1 of 8');
  // A click into the box that has the focus already, and the right code typed over the wrong one.
  await page.getByLabel('Character 1 of 8').click();
  await page.keyboard.type('s7pjk3a4');
  assert.equal(await boxes(page), 's7pjk3a4');
  await page.keyboard.press('Enter');
  await node.wish('Join s7pj-k3a4');
  node.event('join_failed', { code: 'WRONG_CODE', text: 'no', tries_left: 1 });
  await page.getByRole('alert').getByText('It can be tried once more').waitFor();
  await page.getByLabel('Character 3 of 8').fill('u');
  await page.getByRole('alert').getByText('never have the letter u').waitFor();
  await close();
});

test('a pasted code fills all boxes, wherever it is pasted and however it is written', async () => {
  const { page, close } = await openPage('sharer');
  for (const [box, text] of [[1, '4060-r0gx'], [5, ' 4O6O R0GX\n'], [8, '４０６０－Ｒ０ＧＸ'], [3, 'il11–1111'], [2, '\u200e4.0.6.0.r.0.g.x']]) {
    await page.locator('.box').evaluateAll((all) => all.forEach((input) => { input.value = ''; }));
    await paste(page, box, text);
    const wanted = text.startsWith('il') ? '11111111' : '4060r0gx';
    await page.waitForFunction((code) => [...document.querySelectorAll('.box')].map(({ value }) => value).join('') === code, wanted);
  }
  await page.locator('.box').evaluateAll((all) => all.forEach((input) => { input.value = ''; }));
  await paste(page, 3, '60');
  assert.equal(await boxes(page), '60', 'a piece goes where it is pasted');
  assert.equal(await page.getByLabel('Character 3 of 8').inputValue(), '6');
  await close();
});

test('nothing can be allowed before the card could be seen; then three buttons', async () => {
  for (const [name, wish] of [['Allow control', 'Allow { mode: Control }'], ['Screen only', 'Allow { mode: View }'], ['Decline', 'Decline']]) {
    const { node, page, close } = await openPage('sharer');
    trust(node);
    node.event('consent_prompt', { mode: 'control', within_s: 300, upgrade: false });
    const button = page.getByRole('button', { name });
    await button.waitFor();
    if (name !== 'Decline') assert.equal(await button.isDisabled(), true, 'too early');
    await page.getByText(/Answers itself “no” in (5:00|4:5\d)/).waitFor();
    await button.click();
    await node.wish(wish);
    await page.getByText('One moment…').waitFor();
    assert.equal(await page.locator('.choice:visible:enabled').count(), 0, 'one answer');
    await close();
  }
});

test('a question for the screen alone offers no control', async () => {
  const { node, page, close } = await openPage('sharer');
  trust(node);
  node.event('consent_prompt', { mode: 'view', within_s: 300, upgrade: false });
  await page.getByRole('heading', { name: 'asks to see your screen' }).waitFor();
  assert.equal(await page.getByRole('button', { name: 'Allow control' }).count(), 0);
  await page.getByRole('button', { name: 'Screen only' }).click();
  await node.wish('Allow { mode: View }');
  await close();
});

test('sharing: pause, go on, stop control, choose what is shown, leave', async () => {
  const { node, page, close } = await openPage('sharer');
  const sources = [{ id: 1, name: 'eDP-1', kind: 'monitor', width: 640, height: 400 }, { id: 9, name: 'Letter', kind: 'window', width: 300, height: 200 }];
  startSession(node, { peer: PEERS.sam, mode: 'control', sources });
  await page.getByRole('heading', { name: 'controls this computer' }).waitFor();
  await page.getByText('relayed via fra-1 (31 ms)').waitFor();
  await page.getByRole('button', { name: 'Pause' }).click();
  await node.wish('Pause');
  node.event('paused', { by: 'sharer' });
  await page.getByRole('heading', { name: 'Paused' }).waitFor();
  await page.getByRole('button', { name: 'Go on' }).click();
  await node.wish('Resume');
  node.event('resumed');
  await page.getByRole('button', { name: 'Stop control' }).click();
  await node.wish('Drop');
  node.event('mode_changed', { mode: 'view', by: 'sharer' });
  await page.getByRole('heading', { name: 'sees your screen' }).waitFor();
  assert.equal(await page.getByRole('button', { name: 'Stop control' }).count(), 0);
  await page.getByLabel('What is shown').selectOption('9');
  await node.wish('Select { source: 9 }');
  await page.getByRole('button', { name: 'Leave' }).click();
  await node.wish('Leave');
  node.event('ended', { end_reason: 'SHARER_LEFT', duration_s: 134, mode: 'control', chat_sent: 0, chat_received: 0, sas: 'unverified' });
  await page.getByText('You ended the session.').waitFor();
  await page.getByText('no longer shown to anybody').waitFor();
  await close();
});

test('asked for control within the session', async () => {
  const { node, page, close } = await openPage('sharer');
  startSession(node, { peer: PEERS.sam });
  await page.getByRole('heading', { name: 'sees your screen' }).waitFor();
  node.event('consent_prompt', { mode: 'control', within_s: 300, upgrade: true });
  const dialog = page.getByRole('alertdialog');
  await dialog.waitFor();
  await page.waitForFunction(() => document.activeElement.closest('[role=alertdialog]'));
  assert.equal(await dialog.getByRole('button', { name: /^Screen only/ }).count(), 0);
  await dialog.getByRole('button', { name: 'Decline' }).click();
  await node.wish('Decline');
  node.event('upgrade_declined');
  await dialog.waitFor({ state: 'hidden' });
  await close();
});

test('chat takes every script, in its own direction, and nothing as markup', async () => {
  const { node, page, close } = await openPage('sharer');
  startSession(node, { peer: PEERS.sam });
  const said = ['نعم، كانت تعمل أمس', 'שלום (mixed) עולם 42', '明白了', '<img src=x onerror=alert(1)>', '👩‍💻'];
  for (const [id, text] of said.entries()) node.event('chat', { id: id + 1, text });
  const lines = page.locator('.messages p');
  await lines.nth(said.length - 1).waitFor();
  assert.deepEqual(await lines.allTextContents(), said);
  const directions = await lines.evaluateAll((all) => all.map((line) => getComputedStyle(line).direction));
  assert.deepEqual(directions, ['rtl', 'rtl', 'ltr', 'ltr', 'ltr']);
  assert.equal(await page.locator('.messages img').count(), 0);
  await page.getByLabel('Message').fill('مرحبا\nسطر ثان');
  await page.keyboard.press('Enter');
  await node.wish((wish) => wish.startsWith('Chat') && wish.includes('مرحبا'));
  assert.equal(await page.getByLabel('Message').inputValue(), '');
  node.event('chat_sent', { text: 'مرحبا\nسطر ثان' });
  await page.locator('.messages .mine').waitFor();
  await page.reload();
  await lines.nth(said.length).waitFor();
  await close();
});

test('with the keyboard alone, mirrored', async () => {
  const { node, page, close } = await openPage('sharer', { query: '?dir=rtl' });
  const tabTo = async (text) => {
    for (let step = 0; step < 20; step += 1) {
      if ((await page.evaluate(() => document.activeElement.textContent.trim())).startsWith(text)) return;
      await page.keyboard.press('Tab');
    }
    assert.fail(`Tab does not lead to ${text}`);
  };
  await page.waitForFunction(() => document.activeElement.classList.contains('box'));
  await page.keyboard.type('4060r0gx');
  // Codes run from left to right everywhere.
  const [first, last] = await page.locator('.box').evaluateAll((all) => [all[0], all[7]].map((box) => box.getBoundingClientRect().left));
  assert.ok(first < last);
  assert.equal(await boxes(page), '4060r0gx');
  await page.keyboard.press('Enter');
  await node.wish('Join 4060-r0gx');
  trust(node);
  await page.waitForFunction(() => document.activeElement.tagName === 'H1');
  await tabTo('They are the same');
  await page.keyboard.press('Enter');
  await node.wish('Words { same: true }');
  node.event('consent_prompt', { mode: 'control', within_s: 300, upgrade: false });
  await page.waitForFunction(() => document.activeElement.textContent.includes('asks for full control'));
  await page.locator('.choice:enabled').nth(2).waitFor();
  await tabTo('Allow control');
  await page.keyboard.press('Enter');
  await node.wish('Allow { mode: Control }');
  node.event('started', { mode: 'control' });
  await page.waitForFunction(() => document.activeElement.textContent.includes('controls this computer'));
  await tabTo('Stop control');
  await page.keyboard.press('Enter');
  await node.wish('Drop');
  node.event('mode_changed', { mode: 'view', by: 'sharer' });
  await page.waitForFunction(() => document.activeElement.textContent === 'Pause');
  await tabTo('Leave');
  await page.keyboard.press('Enter');
  await node.wish('Leave');
  await close();
});
