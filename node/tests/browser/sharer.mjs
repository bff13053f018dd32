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

test('asked for more than control: what it means, one answer, and no sooner than it could be read', async () => {
  for (const [what, event, heading] of [['Elevation', 'elevation_prompt', 'asks for administrator rights'], ['Restart', 'restart_prompt', 'asks to restart'], ['Handover', 'handover_prompt', 'hand you over to another helper']]) {
    const { node, page, close } = await openPage('sharer');
    startSession(node, { peer: PEERS.sam, mode: 'control' });
    await page.getByRole('heading', { name: 'controls this computer' }).waitFor();
    node.event(event, { within_s: 60 });
    const dialog = page.getByRole('alertdialog');
    await dialog.getByRole('heading', { name: heading }).waitFor();
    await page.waitForFunction(() => document.activeElement.closest('[role=alertdialog]'));
    const allow = dialog.getByRole('button', { name: 'Allow' });
    assert.equal(await allow.isDisabled(), true, 'too early');
    await dialog.getByText(/Answers itself “no” in (1:00|0:5\d)/).waitFor();
    await allow.click();
    await node.wish(`AllowMore(${what})`);
    await dialog.getByText('One moment…').waitFor();
    await close();
  }
  const { node, page, close } = await openPage('sharer');
  startSession(node, { peer: PEERS.sam, mode: 'control' });
  node.event('elevation_prompt', { within_s: 60 });
  await page.getByRole('alertdialog').getByRole('button', { name: 'Decline' }).click();
  await node.wish('Decline');
  node.event('elevation_declined');
  await page.getByRole('alertdialog').waitFor({ state: 'hidden' });
  await close();
});

test('u_2 somebody at a computer that nobody need attend may start at once or say no', async () => {
  for (const [name, wish] of [['Start now', 'Allow { mode: Control }'], ['Decline', 'Decline']]) {
    const { node, page, close } = await openPage('sharer');
    trust(node);
    node.event('countdown', { mode: 'control', within_s: 30 });
    await page.getByRole('heading', { name: 'will connect to this computer' }).waitFor();
    await page.getByText(/Starts by itself in (0:30|0:2\d)/).waitFor();
    await page.getByRole('button', { name }).click();
    await node.wish(wish);
    await close();
  }
});

test('d_6 whoever leaves after administrator rights were used is asked what that means', async () => {
  const { node, page, close } = await openPage('sharer');
  startSession(node, { peer: PEERS.sam, mode: 'control' });
  node.event('elevation_granted');
  const mark = page.locator('.banner');
  await mark.getByText('has administrator rights on this computer').waitFor();
  await mark.getByRole('button', { name: 'End that' }).click();
  await node.wish('Release');
  await page.getByRole('button', { name: 'Leave' }).click();
  await node.wish('Leave');
  node.event('leave_warning', { signs_out: true });
  const dialog = page.getByRole('alertdialog', { name: 'Do you want to leave?' });
  await dialog.getByText('If you leave now you will be signed out; unsaved work may be lost.').waitFor();
  await page.waitForFunction(() => document.activeElement.textContent === 'Stay');
  await page.keyboard.press('Escape');
  await node.wish('Stay');
  node.event('stayed');
  await dialog.waitFor({ state: 'hidden' });
  node.event('leave_warning', { signs_out: true });
  await dialog.getByRole('button', { name: 'Leave and sign out' }).click();
  await node.wish('ConfirmLeave');
  node.event('ended', { end_reason: 'SHARER_LEFT_SIGNED_OUT', duration_s: 134, mode: 'control', chat_sent: 0, chat_received: 0, sas: 'unverified' });
  await page.getByText('You ended the session, and are signed out.').waitFor();
  await dialog.waitFor({ state: 'hidden' });
  await close();
});

test('t_37 the sharer says that it goes on', async () => {
  const { node, page, close } = await openPage('sharer');
  startSession(node, { peer: PEERS.sam });
  node.event('check', { why: 'max_duration', within_s: 60, ours: true });
  await page.getByText(/lasted as long as it may.*(1:00|0:5\d)/).waitFor();
  await page.getByRole('button', { name: 'Continue' }).click();
  await node.wish('Continue');
  node.event('goes_on');
  await page.getByRole('button', { name: 'Continue' }).waitFor({ state: 'hidden' });
  await close();
});

test('handed over: the other helper is met anew, the first one goes on behind, and comes back', async () => {
  const { node, page, close } = await openPage('sharer');
  startSession(node, { peer: PEERS.sam, mode: 'control' });
  node.event('handover_prompt', { within_s: 60 });
  node.event('handing_over');
  node.event('handover_joined');
  await page.getByText('Sam Okafor⁩ still sees your screen').waitFor();
  node.event('connected', { path: 'relayed', relay: 'fra-1', rtt_ms: 31 });
  node.event('trust', { peer: PEERS.maria, words: WORDS });
  await page.getByRole('heading', { name: 'Is this your helper?' }).waitFor();
  const card = page.getByRole('region', { name: 'The other person' });
  await card.getByText('Maria Lopez', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'They are the same' }).waitFor();
  node.event('behind', { told: { event: 'chat', id: 1, text: 'from the first' } });
  // Nothing came of it: as it was, after a reload, too.
  node.event('ended', { end_reason: 'DECLINED', duration_s: 9, mode: null, sas: 'unverified' });
  node.event('handover_over');
  node.event('handover_failed');
  await page.getByRole('heading', { name: 'Sam Okafor⁩ controls this computer' }).waitFor();
  await page.getByText('from the first').waitFor();
  await page.reload();
  await page.getByRole('heading', { name: 'Sam Okafor⁩ controls this computer' }).waitFor();
  assert.equal(await page.getByText('still sees your screen').count(), 0);
  // And with another one it does.
  node.event('handover_joined');
  node.event('trust', { peer: PEERS.maria, words: WORDS });
  node.event('started', { mode: 'view' });
  node.event('behind', { told: { event: 'ended', end_reason: 'HANDED_OVER', duration_s: 134, mode: 'control' } });
  await page.getByRole('heading', { name: 'Maria Lopez⁩ sees your screen' }).waitFor();
  await page.getByText('still sees your screen').waitFor({ state: 'hidden' });
  await close();
});
