// Languages: what a translation says, and who gets it.

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { openPage, startSession, withBrowser } from './harness.mjs';

withBrowser();

const folder = new URL('../../ui/words/', import.meta.url);
const read = async (file) => (await import(new URL(file, folder))).words;
const names = (text) => [...new Set(text.match(/\{\w+\}/g) ?? [])].sort();

test('a translation says what the English says, with the same names in it', async () => {
  const english = await read('en.js');
  for (const file of readdirSync(folder).filter((name) => name !== 'en.js')) {
    const words = await read(file);
    for (const [key, text] of Object.entries(words)) {
      assert.ok(key in english, `${file}: nobody asks for ${key}`);
      assert.deepEqual(names(text), names(english[key]), `${file}: ${key}`);
    }
    // What is newer than a translation is shown in English meanwhile.
    const said = Object.keys(words).length / Object.keys(english).length;
    assert.ok(said > 0.9, `${file} says ${Math.round(said * 100)} % of it`);
  }
});

test('the page speaks the language that the browser prefers, else English', async () => {
  for (const [locale, language, heading] of [['de-AT', 'de', 'Tippen Sie den Code ein'], ['de', 'de', 'Tippen Sie den Code ein'], ['fr-FR', 'en', 'Type the code']]) {
    const { page, close } = await openPage('sharer', { locale });
    await page.getByRole('heading', { name: heading }).waitFor();
    assert.equal(await page.evaluate(() => document.documentElement.lang), language);
    await close();
  }
});

test('longer words fit', async () => {
  const { node, page, close } = await openPage('sharer', { locale: 'de', viewport: { width: 390, height: 844 } });
  startSession(node, { mode: 'control' });
  await page.getByRole('heading', { name: 'steuert diesen Computer' }).waitFor();
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  await close();
});
