// The end: why, and what next.

import { h } from '/dom.js';
import { button, command, notice, title } from '/parts.js';
import { icon } from '/icons.js';
import { peerName } from '/state.js';
import { clock, has, t } from '/words.js';

const GRAVE = new Set(['SAS_MISMATCH', 'AUTH_FAILED', 'CODE_BURNED']);
const LEFT = new Set(['HELPER_LEFT', 'SHARER_LEFT']);
const CALM = new Set([...LEFT, 'HANDED_OVER']);

function why({ role, over }, name) {
  const { reason, text } = over;
  const said = over.receipt?.why;
  if (said) return t(`over.${reason}.why`, { why: said });
  if (LEFT.has(reason)) {
    const own = (reason === 'HELPER_LEFT') === (role === 'helper');
    return t(own ? 'over.self_left' : 'over.peer_left', { name });
  }
  for (const key of [`over.${reason}.${role}`, `over.${reason}`]) if (has(key)) return t(key, { name });
  return text ?? String(reason);
}

function next({ role, over }) {
  for (const key of [`over.next.${over.reason}.${role}`, `over.next.${over.reason}`]) if (has(key)) return t(key);
  return t(`over.next.${role}`);
}

function receipt({ duration_s: duration, mode, sas, chat_sent: sent, chat_received: received }) {
  const row = (key, value) => h('div', h('dt', t(key)), h('dd', value));
  return h('dl.facts',
    row('over.duration', clock((duration ?? 0) * 1000)),
    row('over.mode', t(`over.mode.${mode ?? 'none'}`)),
    row('over.words', t(`over.words.${sas ?? 'unverified'}`)),
    Boolean(sent || received) && row('over.chat', String((sent ?? 0) + (received ?? 0))));
}

export function overScreen(app) {
  const { state } = app;
  const { over, role } = state;
  const name = peerName(state) ?? t('over.someone');
  const own = `over.${over.reason}.title`;
  const heading = t(has(own) ? own : over.kind === 'ended' ? 'over.title' : `over.${over.kind}.title`);
  const tone = GRAVE.has(over.reason) ? 'grave' : CALM.has(over.reason) ? 'calm' : 'plain';
  const again = over.again
    ? button('button.main.big', { name: 'refresh', label: t(role === 'helper' ? 'code.new' : 'again'), onclick: () => app.send({ type: 'new_code' }) })
    : h('div.aside', h('p.quiet', t('over.command')), command(role === 'helper' ? 'remora invite' : 'remora join'));
  const element = h('div.screen.over',
    h(`div.notice.${tone}`, h('span.notice-icon', icon(tone === 'grave' ? 'warn' : tone === 'calm' ? 'check' : 'leave')),
      title(heading), h('p.lead', why(state, name)), h('p', next(state))),
    over.receipt?.mode !== undefined && over.receipt && receipt(over.receipt),
    over.reason !== 'SAS_MISMATCH' && again);
  return { element, update() {} };
}

/** Screens of the way in: they need no session. */
export function doorScreen(which, { here } = {}) {
  const more = [];
  if (which === 'replaced') more.push(button('button.main.big', { label: t('door.replaced.here'), onclick: here }));
  if (which === 'gone') more.push(h('div.aside', h('p.quiet', t('over.command')), command('remora')));
  const element = h('div.screen.over', notice({
    tone: which === 'replaced' ? 'calm' : 'plain', name: which === 'gone' ? 'leave' : 'shield',
    heading: t(`door.${which}.title`), text: t(`door.${which}.text`), more,
  }));
  return { element, update() {} };
}
