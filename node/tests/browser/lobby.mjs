// The page of a help desk: devices, and the sessions that are begun there.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PEERS, openPage, withBrowser } from './harness.mjs';

withBrowser();

const DEVICES = ['fin-lt-0231', 'fin-lt-0232', 'ward-3'].map((name) => ({ name, id: 'x' }));
const lobby = (node, fields = {}) => node.event('lobby', { devices: DEVICES, permitted: ['view', 'control'], member: true, name: 'Sam Okafor', ...fields });
/** Names stand apart from the words around them, whichever way they run. */
const said = (before, name) => new RegExp(`^${before} \u2068?${name}\u2069?$`);
const line = (page, name) => page.locator('.device').filter({ hasText: name });

test('a device is found, seen to be there, and invited with what is asked for', async () => {
  const { node, page, close } = await openPage(null);
  lobby(node);
  node.transient('presences', { devices: { 'fin-lt-0231': { state: 'online', agents: 1, seen_ms_ago: 0 }, 'fin-lt-0232': { state: 'offline', agents: 0, seen_ms_ago: 3 * 3600_000 }, 'ward-3': { state: 'no_id' } } });
  await line(page, 'fin-lt-0231').getByText('online').waitFor();
  await line(page, 'fin-lt-0232').getByText('3 h ago').waitFor();
  assert.equal(await page.getByRole('button', { name: said('Invite', 'ward-3') }).isDisabled(), true);
  await page.getByLabel('Search').fill('LT-0232');
  await line(page, 'fin-lt-0231').waitFor({ state: 'hidden' });
  await page.getByLabel('Search').fill('nothing');
  await page.getByText('No device has that in its name').waitFor();
  await page.getByLabel('Search').fill('');
  await page.getByLabel('What for (shown').fill('TICKET-123');
  await page.getByLabel(said('What to ask for at', 'fin-lt-0231')).selectOption('control');
  await page.getByRole('button', { name: said('Invite', 'fin-lt-0231') }).click();
  await node.wish('Invite(Call { device: Some("fin-lt-0231"), mode: Some(Control), reason: "TICKET-123" })');
  await page.getByRole('button', { name: 'Look again' }).click();
  await node.wish('Look');
  await close();
});

test('a_2 who waits for the desk is listed, and taken', async () => {
  const { node, page, close } = await openPage(null);
  lobby(node, { member: false });
  await page.getByRole('button', { name: 'Show a code' }).waitFor();
  assert.equal(await page.getByRole('heading', { name: 'Requests' }).count(), 0, 'there is no desk');
  lobby(node);
  await page.reload();
  await page.getByText('Nobody waits for you.').waitFor();
  const from = { ...PEERS.maria, verified: true };
  node.transient('requests', { requests: [{ id: 'a'.repeat(52), from, device: 'fin-lt-0231', reason: 'the printer', waited_s: 190 }] });
  const list = page.locator('.requests');
  for (const text of ['Maria Lopez', 'fin-lt-0231 · waiting for 3 min', 'the printer']) await list.getByText(text).waitFor();
  await page.getByRole('button', { name: said('Take the request of', 'Maria Lopez') }).click();
  await node.wish(/^Take/);
  node.transient('requests', { requests: [] });
  await page.getByText('Nobody waits for you.').waitFor();
  await close();
});

test('e_9 what the role does not permit cannot be chosen, and says why', async () => {
  const { node, page, close } = await openPage(null);
  lobby(node, { permitted: ['view'] });
  const options = page.getByLabel(said('What to ask for at', 'ward-3')).locator('option');
  await options.first().waitFor({ state: 'attached' });
  const seen = await options.evaluateAll((all) => all.map(({ value, disabled, textContent }) => [value, disabled, textContent]));
  assert.deepEqual(seen.map(([value, disabled]) => [value, disabled]), [['view', false], ['control', true], ['unattended', true]]);
  assert.match(seen[1][2], /role/);
  lobby(node, { permitted: [] });
  await page.reload();
  await page.getByRole('button', { name: 'Show a code' }).and(page.locator(':disabled')).waitFor();
  await close();
});

test('n_1 each session says how it fares, opens in a window of its own, and is kept when it is over', async () => {
  const { node, page, context, close } = await openPage(null);
  lobby(node);
  const call = (number, fields) => node.event('call', { number, device: null, mode: null, reason: '', ...fields });
  await page.getByText('None is open').waitFor();
  call(1, { device: 'ward-3', state: 'starting' });
  call(1, { device: 'ward-3', state: 'sent', url: page.url() });
  // Any page but this one, which would take its place.
  call(2, { state: 'code', url: new URL('/icon.svg?2', page.url()).href });
  const [first, second] = [page.locator('.call').filter({ hasText: 'ward-3' }), page.locator('.call').filter({ hasText: 'By a code' })];
  await first.getByText('Sent.').waitFor();
  call(1, { device: 'ward-3', state: 'delivered', agents: 2, url: page.url(), warnings: [{ code: 'NONCOMPLIANT', text: 'This device does not meet policy: disk encryption off.' }] });
  await first.getByText('Delivered to 2').waitFor();
  await line(page, 'ward-3').getByText('disk encryption off').waitFor();
  assert.equal(await page.getByRole('button', { name: said('Invite', 'ward-3') }).isDisabled(), true, 'it is on its way');
  const [opened] = await Promise.all([context.waitForEvent('page'), second.getByRole('link', { name: 'Show the code' }).click()]);
  assert.match(opened.url(), /\?2$/);
  await opened.close();
  call(1, { device: 'ward-3', state: 'not_received', url: page.url() });
  await first.getByText('Sent, not received').waitFor();
  call(1, { device: 'ward-3', state: 'failed', text: 'the device is not online; last seen 3 h ago' });
  await page.locator('.lobby-history').getByText('last seen 3 h ago').waitFor();
  call(2, { state: 'active', mode: 'control', peer: 'Maria Lopez', url: page.url() });
  await page.locator('.call').getByText('You are in control').waitFor();
  call(2, { state: 'over', peer: 'Maria Lopez', reason_code: 'DECLINED', duration_s: 134 });
  await page.locator('.lobby-history').getByText('2:14').waitFor();
  await page.getByText('None is open').waitFor();
  // A page that is opened again knows all of it.
  await page.reload();
  await page.locator('.lobby-history').getByText('2:14').waitFor();
  assert.equal(await page.locator('.lobby-history .call').count(), 2);
  await close();
});
