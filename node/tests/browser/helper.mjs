// The helper's page up to the session, and the way in.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LIMIT_MS, PEERS, WORDS, openPage, startSession, withBrowser } from './harness.mjs';

withBrowser();

const trust = (node) => {
  node.event('connected', { path: 'relayed', relay: 'fra-1', rtt_ms: 31 });
  node.event('trust', { peer: PEERS.maria, words: WORDS });
};

test('the code is shown, copied, renewed, and its ring runs', async () => {
  const { node, page, close } = await openPage('helper');
  node.event('code', { code: '4060-r0gx', valid_s: 600, link: 'https://help.contoso.com/j#4060r0gx' });
  await page.getByText('4060').waitFor();
  assert.equal(await page.locator('.code').textContent(), '4060r0gx');
  assert.match(await page.locator('.code + p').textContent(), /4 0 6 0 r 0 g x/);
  assert.equal(await page.getByRole('img', { name: 'The code as a QR picture' }).count(), 1);
  await page.getByRole('button', { name: 'Copy code' }).click();
  await page.getByRole('button', { name: 'Copied' }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), '4060-r0gx');
  await page.getByRole('button', { name: 'Copy link' }).click();
  await page.getByText('Copied').last().waitFor();
  await page.waitForFunction(() => navigator.clipboard.readText().then((text) => text === 'https://help.contoso.com/j#4060r0gx'));
  await page.waitForFunction(() => /^9:5\d$/.test(document.querySelector('.ring-text').textContent));
  await page.getByRole('button', { name: 'New code' }).click();
  await node.wish('NewCode');
  node.event('code', { code: '7k2m-9qtv', valid_s: 600 });
  await page.getByText('9qtv').waitFor();
  await close();
});

test('the token leaves the address; a reload goes on, another browser is refused', async () => {
  const { node, page, context, close } = await openPage('helper');
  node.event('code', { code: '4060-r0gx', valid_s: 600 });
  await page.getByText('4060').waitFor();
  assert.ok(!page.url().includes('#'), page.url());
  assert.equal(await page.evaluate(() => document.cookie), '', 'no script reads the cookie');
  await page.reload();
  await page.getByText('4060').waitFor();
  const other = await openPage('helper');
  await other.page.goto('about:blank');
  await other.page.goto(node.url);
  await other.page.getByRole('heading', { name: 'opened before' }).waitFor();
  await other.page.goto('about:blank');
  await other.page.goto(node.url.replace(/#.*/, ''));
  await other.page.getByRole('heading', { name: 'Please open the address' }).waitFor();
  const second = await context.newPage();
  await second.goto(node.url.replace(/#.*/, ''));
  await second.getByText('4060').waitFor();
  await page.getByRole('heading', { name: 'another window' }).waitFor();
  await page.getByRole('button', { name: 'Use this window' }).click();
  await page.getByText('4060').waitFor();
  await second.getByRole('heading', { name: 'another window' }).waitFor();
  await other.close();
  await close();
});

test('no other site can show the page in a frame or talk to it', async () => {
  const { node, page, context, close } = await openPage('helper');
  const other = await openPage('helper');
  node.event('code', { code: '4060-r0gx', valid_s: 600 });
  await page.getByText('4060').waitFor();
  // Another origin on the same host: the browser sends it every cookie of 127.0.0.1.
  const [mine, theirs] = [node.url, other.node.url].map((url) => url.replace(/#.*/, ''));
  const evil = await context.newPage();
  await evil.goto(`${theirs}icon.svg`);
  const said = await evil.evaluate(async (address) => {
    const socket = new WebSocket(`${address.replace('http', 'ws')}live`, ['remora.1']);
    const opened = new Promise((resolve) => { socket.onopen = () => resolve(true); socket.onerror = () => resolve(false); });
    const post = await fetch(`${address}session`, { method: 'POST', body: 'x' }).then(({ status }) => status, () => 'blocked');
    return { opened: await opened, post };
  }, mine);
  assert.equal(said.opened, false);
  assert.ok(said.post === 'blocked' || said.post === 403, said.post);
  await evil.goto('about:blank');
  const framed = evil.waitForEvent('requestfailed', { timeout: LIMIT_MS }).catch(() => null);
  await evil.setContent(`<iframe src="${mine}"></iframe>`);
  await framed;
  const [, frame] = evil.frames();
  assert.ok(!frame || !(await frame.content().catch(() => '')).includes('main.js'));
  await other.close();
  await close();
});

test('trust, words, and asking for control', async () => {
  const { node, page, close } = await openPage('helper');
  trust(node);
  await page.getByRole('heading', { name: 'Is this the person you help?' }).waitFor();
  const card = page.getByRole('region', { name: 'The other person' });
  for (const text of ['Maria Lopez', 'Accountant', 'Contoso', 'contoso.com', 'UNVERIFIED', 'ML']) await card.getByText(text, { exact: true }).first().waitFor();
  assert.deepEqual(await page.locator('.words li > span:last-child').allTextContents(), WORDS);
  await page.getByRole('button', { name: 'They are the same' }).click();
  await node.wish('Words { same: true }');
  await page.getByText('You said the words are the same.').waitFor();
  node.event('peer_checked_words', { same: true });
  await page.locator('main').getByText('says the words are the same.').waitFor();
  await page.getByRole('button', { name: 'Full control' }).click();
  await node.wish('Ask { mode: Control }');
  node.event('awaiting_consent', { within_s: 300 });
  await page.getByText(/They have (5:00|4:5\d) left/).waitFor();
  // All of it survives a reload.
  await page.reload();
  await page.getByText(/They have (5:00|4:5\d) left/).waitFor();
  await page.getByText('You said the words are the same.').waitFor();
  node.event('ended', { end_reason: 'DECLINED', duration_s: 9, mode: null, chat_sent: 0, chat_received: 0, sas: 'verified' });
  await page.getByText('Maria Lopez⁩ declined').waitFor();
  await close();
});

test('words that differ end it, and the page says what to do', async () => {
  const { node, page, close } = await openPage('helper');
  trust(node);
  await page.getByRole('button', { name: 'They differ' }).click();
  await node.wish('Words { same: false }');
  node.event('ended', { end_reason: 'SAS_MISMATCH', duration_s: 9, mode: null, sas: 'mismatch' });
  await page.getByRole('heading', { name: 'Stop: the words differed' }).waitFor();
  await page.getByText('Do not try again over this network').waitFor();
  await close();
});

test('with the keyboard alone', async () => {
  const { node, page, close } = await openPage('helper');
  const focused = () => page.evaluate(() => document.activeElement.textContent.trim());
  const tabTo = async (text) => {
    for (let step = 0; step < 20; step += 1) {
      if ((await focused()).startsWith(text)) return;
      await page.keyboard.press('Tab');
    }
    assert.fail(`Tab does not lead to ${text} but to ${await focused()}`);
  };
  node.event('code', { code: '4060-r0gx', valid_s: 600 });
  await page.getByText('4060').waitFor();
  await tabTo('New code');
  await page.keyboard.press('Enter');
  await node.wish('NewCode');
  trust(node);
  await page.waitForFunction(() => document.activeElement.tagName === 'H1');
  await tabTo('They are the same');
  await page.keyboard.press('Space');
  await node.wish('Words { same: true }');
  // The buttons have gone; the next thing to do has the focus.
  await page.waitForFunction(() => document.activeElement.classList.contains('choice'));
  await tabTo('Full control');
  await page.keyboard.press('Enter');
  await node.wish('Ask { mode: Control }');
  await page.waitForFunction(() => document.activeElement.textContent.startsWith('Waiting for'));
  node.event('started', { mode: 'view' });
  await page.getByRole('toolbar').waitFor();
  // One stop for the toolbar; arrows walk it, also over what is not possible, which says why.
  await page.waitForFunction(() => document.activeElement.tagName === 'H1');
  await page.keyboard.press('Tab');
  for (let step = 0; step < 20 && !(await focused()).startsWith('Elevate'); step += 1) await page.keyboard.press('ArrowRight');
  const elevate = page.getByRole('button', { name: 'Elevate' });
  assert.equal(await elevate.getAttribute('aria-disabled'), 'true');
  assert.match(await elevate.getAttribute('aria-description'), /Ask for control first/);
  await page.keyboard.press('Enter');
  await page.keyboard.press('Home');
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('Enter');
  assert.equal(await node.wish(/^Ask/), 'Ask { mode: Control }');
  await page.keyboard.press('End');
  await page.keyboard.press('Enter');
  await node.wish('Leave');
  await close();
});

test('the tools stand in the order help desks know, and what cannot be used says why', async () => {
  const { node, page, close } = await openPage('helper');
  node.event('connected', { path: 'relayed', relay: 'fra-1', rtt_ms: 31 });
  node.event('trust', { peer: PEERS.maria, words: WORDS, permitted: { permissions: ['view', 'control'], mode: 'control', limit: null, text: null }, warnings: [] });
  node.event('started', { mode: 'control' });
  await page.getByRole('toolbar').waitFor();
  const order = await page.locator('.tools .tool').evaluateAll((all) => all.map((tool) => tool.dataset.tool));
  assert.deepEqual(order, ['control', 'elevate', 'monitor', 'laser', 'pen', 'size', 'chat', 'swap', 'restart', 'tasks', 'handover']);
  const why = (name) => page.getByRole('button', { name, exact: true }).getAttribute('aria-description');
  assert.equal(await why('Elevate'), 'Your role does not permit this.');
  node.event('judged', { verified: false, permitted: { permissions: ['view', 'control', 'elevation'], mode: 'control', limit: null, text: null }, warnings: [] });
  await page.waitForFunction(() => !document.querySelector('[data-tool=elevate]').ariaDescription);
  assert.match(await why('Restart'), /choose Elevate first/);
  // It is asked for, refused, and then known not to be there.
  await page.getByRole('button', { name: 'Elevate', exact: true }).click();
  await node.wish('Elevate');
  node.event('you', { did: 'ask_more', what: 'elevation' });
  await page.waitForFunction(() => document.querySelector('[data-tool=control]').ariaDescription !== 'x' && document.querySelector('[data-tool=elevate]').ariaDisabled === 'true');
  node.event('refused', { code: 'UNSUPPORTED', text: 'no' });
  await page.waitForFunction(() => /cannot do that/.test(document.querySelector('[data-tool=elevate]').ariaDescription ?? ''));
  assert.equal(await page.title(), 'Maria Lopez · Give help · Remora');
  await close();
});

test('administrator rights: asked for, had, restarted with, and given back', async () => {
  const { node, page, close } = await openPage('helper');
  startSession(node, { mode: 'control' });
  await page.getByRole('button', { name: 'Elevate', exact: true }).click();
  await node.wish('Elevate');
  node.event('you', { did: 'ask_more', what: 'elevation' });
  node.event('awaiting_consent', { within_s: 60 });
  await page.getByRole('button', { name: /^Asked… (1:00|0:5\d)$/ }).waitFor();
  node.event('elevation_granted');
  await page.getByText('You have administrator rights on the other computer.').waitFor();
  await page.getByRole('button', { name: 'Restart', exact: true }).click();
  await node.wish('Restart');
  node.event('you', { did: 'ask_more', what: 'restart' });
  node.event('restart_declined');
  await page.getByText('The computer does not restart.').first().waitFor();
  await page.getByRole('button', { name: 'End administrator rights' }).click();
  await node.wish('Release');
  node.event('elevation_released');
  await page.locator('.banner').waitFor({ state: 'hidden' });
  await close();
});

test('administrator rights: who vouches for them, and what is run', async () => {
  const { node, page, close } = await openPage('helper');
  startSession(node, { mode: 'control' });
  node.event('elevation_granted');
  const panel = page.getByRole('region', { name: 'Administrator rights' });
  assert.equal(await panel.count(), 0);
  node.event('elevation_ready');
  await panel.getByLabel('Administrator of that computer').fill(' root ');
  const password = panel.getByLabel('Password');
  await password.fill('s3cret');
  await page.keyboard.press('Enter');
  await node.wish('Order(Credential("root"))');
  assert.equal(await password.inputValue(), '');
  node.event('credential_checked', { order: 1, admitted: false });
  await panel.getByText('That is no administrator').waitFor();
  node.event('credential_checked', { order: 2, admitted: true });
  await password.waitFor({ state: 'hidden' });
  await page.keyboard.type('id -u');
  await panel.getByRole('button', { name: 'Run' }).click();
  await node.wish('Order(Run("id -u"))');
  node.event('run_started', { order: 3, command: 'id -u' });
  node.event('run_output', { order: 3, stream: 'stdout', text: '<b>0</b>\n' });
  node.event('run_ended', { order: 3, status: 0, left_out_bytes: 0 });
  await panel.getByText('<b>0</b>').waitFor();
  node.event('elevation_released');
  await panel.waitFor({ state: 'hidden' });
  await close();
});

test('u_7 in a session that nobody attends the helper is told all along to keep to what is not sensitive', async () => {
  const { node, page, close } = await openPage('helper');
  startSession(node, { mode: 'control' });
  node.event('shield', { shield: 'shielded', within_s: 0 });
  const banner = page.locator('.banner');
  await banner.getByText('Limit yourself to non-sensitive operations').waitFor();
  node.event('shield', { shield: 'frozen', within_s: 30 });
  await banner.getByText(/paused for (0:30|0:2\d) for both/).waitFor();
  node.event('shield', { shield: 'shielded', within_s: 0 });
  await banner.getByText('Limit yourself to non-sensitive operations').waitFor();
  await close();
});

test('d_11 the card and its warnings are at hand throughout', async () => {
  const { node, page, close } = await openPage('helper');
  node.event('connected', { path: 'relayed', relay: 'fra-1', rtt_ms: 31 });
  node.event('trust', { peer: PEERS.maria, words: WORDS, permitted: null, warnings: [{ code: 'NONCOMPLIANT', text: 'disk encryption is off' }] });
  node.event('started', { mode: 'view' });
  for (const event of [null, 'paused', 'interrupted']) {
    if (event) node.event(event, { within_s: 120 });
    await page.locator('.person').click();
    const card = page.locator('.who-panel');
    for (const text of ['Maria Lopez', 'Accountant', 'Contoso', 'contoso.com', 'disk encryption is off']) await card.getByText(text, { exact: true }).first().waitFor();
    await page.keyboard.press('Escape');
    await card.waitFor({ state: 'hidden' });
  }
  await close();
});

test('another helper is named by the code, and the page says how it goes', async () => {
  const { node, page, close } = await openPage('helper');
  startSession(node, { mode: 'control' });
  await page.getByRole('button', { name: 'Hand over' }).click();
  const code = page.getByLabel('Code that the other helper sees');
  await code.fill('4060 r0g');
  await page.getByRole('button', { name: 'Ask to hand over' }).click();
  await page.getByRole('alert').getByText('eight letters and digits').waitFor();
  await code.fill(' 4O6O-R0GX ');
  await page.keyboard.press('Enter');
  await node.wish('HandOver 4060-r0gx');
  node.event('you', { did: 'ask_more', what: 'handover' });
  node.event('handing_over');
  await page.locator('.banner').getByText('is on the way to the other helper').waitFor();
  node.event('handover_failed');
  await page.locator('.banner').waitFor({ state: 'hidden' });
  node.event('handing_over');
  node.event('ended', { end_reason: 'HANDED_OVER', duration_s: 134, mode: 'control', chat_sent: 0, chat_received: 0, sas: 'verified' });
  await page.getByText('goes on with the other helper').waitFor();
  await close();
});

test('t_37 a question whether it goes on has its button for whoever may say so', async () => {
  const { node, page, close } = await openPage('helper');
  startSession(node);
  node.event('check', { why: 'reconfirm', within_s: 60, ours: false });
  const strip = page.getByRole('alert').filter({ hasText: 'is asked whether the session goes on' });
  await strip.waitFor();
  assert.equal(await page.getByRole('button', { name: 'Continue' }).count(), 0);
  node.event('goes_on');
  await strip.waitFor({ state: 'hidden' });
  node.event('check', { why: 'idle', within_s: 60, ours: true });
  await page.getByText(/Nothing was done for long.*(1:00|0:5\d)/).waitFor();
  await page.getByRole('button', { name: 'Continue' }).click();
  await node.wish('Continue');
  await close();
});

test('when the node ends, the page says so', async () => {
  const { node, page, close } = await openPage('helper');
  startSession(node);
  await page.getByRole('toolbar').waitFor();
  node.end();
  await page.getByRole('heading', { name: 'no longer running' }).waitFor();
  await close();
});
