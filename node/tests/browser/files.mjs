// Files through the page: chosen, dropped, saved.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { openPage, picture, startSession, withBrowser } from './harness.mjs';

withBrowser();

const folder = mkdtempSync(join(tmpdir(), 'remora-page-'));

/** A sharer's page, with what goes to the helper open to view. */
async function sharing() {
  const site = await openPage('sharer');
  startSession(site.node);
  await site.page.getByText('Clipboard and files').first().click();
  return site;
}

/** What a browser does while a file is held over the page, and let go. */
const drag = (page, type, name) => page.evaluate(([kind, file]) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(['dropped'], file));
  return document.body.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer }));
}, [type, name]);

test('files that are chosen go to the node, under their names, once they are allowed', async () => {
  const { node, page, close } = await sharing();
  const choose = page.getByRole('button', { name: 'Choose files' });
  assert.equal(await choose.isDisabled(), true, 'nothing is allowed yet');
  await page.getByText('once you allow it above').waitFor();
  node.event('granted', { granted: ['files_to_helper'] });
  const files = ['résumé.txt', 'b.txt'].map((name) => {
    writeFileSync(join(folder, name), 'x'.repeat(100_000));
    return join(folder, name);
  });
  const [chooser] = await Promise.all([page.waitForEvent('filechooser'), choose.click()]);
  await chooser.setFiles(files);
  await node.wish(/Give\(Given \{ name: "résumé\.txt"/);
  await node.wish(/Give\(Given \{ name: "b\.txt"/);
  // Taken back: chosen once more, it is refused here.
  node.event('granted', { granted: [] });
  await page.waitForFunction(() => [...document.querySelectorAll('button')].find((button) => button.textContent.includes('Choose files')).disabled);
  await close();
});

test('files are dropped anywhere on the page, and none ever takes its place', async () => {
  const { node, page, close } = await sharing();
  assert.equal(await drag(page, 'dragover', 'a.txt'), false, 'the browser does not open it');
  await page.locator('.drop.not').waitFor();
  assert.equal(await drag(page, 'drop', 'a.txt'), false);
  node.event('granted', { granted: ['files_to_helper'] });
  await page.getByText('drop files anywhere').waitFor();
  await drag(page, 'dragover', 'b.txt');
  await page.locator('.drop:not(.not)').getByText('Drop to offer to').waitFor();
  await page.screenshot({ path: picture('files-drop') });
  await drag(page, 'drop', 'b.txt');
  const wish = await node.wish(/Give/);
  assert.match(wish, /"b\.txt"/, 'and not the one before it was allowed');
  await page.locator('.drop').waitFor({ state: 'hidden' });
  await close();
});

test('what has come is saved from the page', async () => {
  const { node, page, close } = await sharing();
  const path = join(folder, 'report (2).txt');
  writeFileSync(path, 'all is well');
  node.event('file_offered', { direction: 'in', number: 1, name: 'report.txt', bytes: 11 });
  assert.equal(await page.getByRole('button', { name: 'Save a copy' }).isVisible(), false);
  node.event('file_over', { direction: 'in', number: 1, name: 'report.txt', code: 'FILE_RECEIVED', path });
  const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Save a copy' }).click()]);
  assert.equal(download.suggestedFilename(), 'report.txt');
  assert.equal(readFileSync(await download.path(), 'utf8'), 'all is well');
  await close();
});

test('an answer that the helper could have pressed is taken back on the page, too', async () => {
  const { node, page, close } = await openPage('sharer');
  startSession(node, { mode: 'control' });
  await page.locator('details.who summary').first().click();
  await page.getByRole('button', { name: 'They are the same' }).click();
  await node.wish('Words { same: true }');
  node.event('not_possible', { code: 'HELPER_AT_WORK', text: 'no' });
  await page.getByText('could have pressed that').waitFor();
  await page.getByRole('button', { name: 'They are the same' }).waitFor();
  await close();
});
