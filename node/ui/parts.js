// Pieces that several screens show.

import { h, id, say, set, show, svg } from '/dom.js';
import { icon } from '/icons.js';
import { peerName } from '/state.js';
import { clock, t } from '/words.js';

/** A button with an icon and words. */
export function button(what, { name, label, ...properties }) {
  return h(`button.${what}`, { type: 'button', ...properties }, name && icon(name), h('span', label));
}

/** A heading that takes the focus when its screen comes. */
export const title = (text) => h('h1', { tabindex: '-1' }, text);

function initials(name) {
  const words = name.split(/[\s\p{P}]+/u).filter(Boolean);
  const first = words[0] ?? '?';
  const last = words.length > 1 ? words[words.length - 1] : '';
  return ([...first][0] + ([...last][0] ?? '')).toLocaleUpperCase();
}

export function avatar(peer) {
  const name = peer.full_name || '?';
  if (peer.picture?.startsWith('data:image/')) {
    return h('img.avatar', { src: peer.picture, alt: t('card.picture', { name }) });
  }
  const letters = initials(name);
  return h('span.avatar', { role: 'img', 'aria-label': t('card.initials', { initials: letters }) }, h('span', { 'aria-hidden': 'true', dir: 'auto' }, letters));
}

/** The trust card: who they are, whether anybody confirms it, and what one should know. */
export function card(peer, warnings = []) {
  const field = (key, value, extra) => h('div.field', h('dt', t(key)), h('dd', h('span', { dir: 'auto' }, value || h('em', t('card.none'))), extra));
  const verified = peer.verified === true;
  const badge = verified
    ? h('p.badge.good', icon('check'), h('span', h('strong', t('card.verified')), ' ', t('card.verified.text', { domain: peer.domain })))
    : h('p.badge.bad', icon('warn'), h('span', h('strong', t('card.unverified')), ' ', t('card.unverified.text')));
  return h('section.card.trust-card', { 'aria-label': t('card.label') },
    avatar(peer),
    h('dl',
      h('div.field.name', h('dt', t('card.name')), h('dd', { dir: 'auto' }, peer.full_name)),
      field('card.title', peer.job_title),
      field('card.company', peer.company),
      field('card.domain', peer.domain)),
    badge,
    ...warnings.map((warning) => h('p.note.bad', icon('warn'), h('span', warning.text))));
}

/** The three words, and what each of the two said of them. */
export function words(app) {
  const heading = id('words');
  const list = h('ol.words', { dir: 'ltr', translate: 'no' });
  const same = button('button', { name: 'check', label: t('sas.same'), onclick: () => app.send({ type: 'words', same: true }) });
  const differ = button('button.danger', { name: 'cross', label: t('sas.differ'), onclick: () => app.send({ type: 'words', same: false }) });
  const choice = h('div.row', same, differ);
  const mine = h('p.note.good', icon('check'), h('span', t('sas.mine')));
  const theirs = h('p.note', icon('check'), h('span'));
  const head = h('h2', { id: heading });
  const text = h('p.quiet');
  const element = h('section.words-box', { 'aria-labelledby': heading }, head, list, text, choice, mine, theirs);
  let shown = null;
  return {
    element,
    update(state) {
      if (shown !== state.words) {
        shown = state.words;
        list.replaceChildren(...(state.words ?? []).map((word, index) => h('li', h('span.visually-hidden', t('sas.word', { n: index + 1, word })), h('span', { 'aria-hidden': 'true' }, word))));
      }
      say(head, t(state.alone ? 'sas.alone' : 'sas.title'));
      say(text, t(state.alone ? 'sas.alone.text' : 'sas.text'));
      const focused = choice.contains(document.activeElement);
      show(choice, state.mine === null && !state.alone);
      show(mine, state.mine === true);
      show(theirs, state.theirs !== null);
      theirs.className = state.theirs ? 'note good' : 'note bad';
      const key = state.theirs === false ? 'sas.theirs.differ' : 'sas.theirs';
      say(theirs.lastChild, t(key, { name: peerName(state) }));
      if (focused && choice.hidden) element.closest('main')?.querySelector('[data-next]')?.focus();
    },
  };
}

const RADIUS = 42;
const ROUND = 2 * Math.PI * RADIUS;

/** A ring that empties, with what is left in its middle. */
export function ring() {
  const hand = svg('circle', { class: 'ring-hand', cx: 50, cy: 50, r: RADIUS, 'stroke-dasharray': ROUND });
  const text = h('span.ring-text');
  const element = h('div.ring', { role: 'timer', 'aria-live': 'off' },
    svg('svg', { viewBox: '0 0 100 100', 'aria-hidden': 'true' }, svg('circle', { class: 'ring-track', cx: 50, cy: 50, r: RADIUS }), hand), text);
  return {
    element,
    update(left, whole) {
      const part = Math.max(0, Math.min(1, left / whole));
      set(hand, 'stroke-dashoffset', (ROUND * (1 - part)).toFixed(1));
      element.classList.toggle('soon', left < 60_000);
      say(text, clock(left));
      set(element, 'aria-label', t('code.left', { time: clock(left) }));
    },
  };
}

/** Copies, and says so where the button is. */
export function copyButton(label, text, what = 'button') {
  const words = h('span', label);
  const element = h(`button.${what}`, { type: 'button' }, icon('copy'), words);
  let timer = 0;
  element.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      // No permission, or an old browser: the selection still works.
      const field = h('textarea.visually-hidden', { readonly: true });
      field.value = text();
      element.after(field);
      field.select();
      document.execCommand('copy');
      field.remove();
      element.focus();
    }
    words.textContent = t('copied');
    element.classList.add('done');
    clearTimeout(timer);
    timer = setTimeout(() => {
      words.textContent = label;
      element.classList.remove('done');
    }, 2000);
  });
  return element;
}

/** A command to type, with a button that copies it. */
export function command(text) {
  return h('div.command', h('code', { dir: 'ltr', translate: 'no' }, text), copyButton(t('copy'), () => text, 'button.small'));
}

/** A centred message with one thing to do. */
export function notice({ tone = 'calm', name = 'shield', heading, text, more = [] }) {
  return h(`div.notice.${tone}`, h('span.notice-icon', icon(name)), title(heading), h('p.lead', text), ...more);
}
