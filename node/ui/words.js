// Which language, and its words. A language is a module with `dir` and `words`; what it lacks comes from English.

import * as de from '/words/de.js';
import * as en from '/words/en.js';

const LANGUAGES = { de, en };

function choose() {
  for (const wanted of navigator.languages ?? []) {
    const name = wanted.toLowerCase();
    if (LANGUAGES[name]) return name;
    const base = name.split('-')[0];
    if (LANGUAGES[base]) return base;
  }
  return 'en';
}

export const language = choose();

/** Of the whole page. `?dir=rtl` shows any language mirrored, for those who lay the page out. */
export const direction = new URLSearchParams(location.search).get('dir') === 'rtl' ? 'rtl' : LANGUAGES[language].dir;

/** Stands apart from the words around it, whichever way it runs (Unicode TR9 §2.4). */
export const isolated = (text) => `\u2068${text}\u2069`;

/** Numbers and times run like the words around them. */
const NUMBER = /^[\d:.,]*$/;

/** The words for `key`; `{name}`s are filled in, people's text isolated. */
export function t(key, values = {}) {
  const words = LANGUAGES[language].words[key] ?? en.words[key] ?? key;
  return words.replace(/\{(\w+)\}/g, (_, name) => {
    const text = String(values[name] ?? '');
    return NUMBER.test(text) ? text : isolated(text);
  });
}

/** Whether there are words for `key`. */
export const has = (key) => en.words[key] !== undefined;

/** `9:58` */
export function clock(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  const minutes = Math.floor(seconds / 60);
  const rest = String(seconds % 60).padStart(2, '0');
  if (minutes < 60) return `${minutes}:${rest}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, '0')}:${rest}`;
}

/** `3 h ago`, in the unit that people would use. */
export function ago(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return t('ago.s', { n: seconds });
  if (seconds < 3600) return t('ago.min', { n: Math.floor(seconds / 60) });
  if (seconds < 172_800) return t('ago.h', { n: Math.floor(seconds / 3600) });
  return t('ago.d', { n: Math.floor(seconds / 86_400) });
}

/** Whole milliseconds; nothing takes none. */
export function aboutMs(ms) {
  return ms < 0.5 ? '<1 ms' : `${Math.round(ms)} ms`;
}

export function bytes(count) {
  const units = ['B', 'kB', 'MB', 'GB'];
  let value = count;
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit += 1) value /= 1000;
  return `${value.toFixed(unit > 0 && value < 10 ? 1 : 0)} ${units[unit]}`;
}
