// The page that a help desk lives in: help by a code, the devices one knows, and the sessions that were begun here.

import { h, id, say, set, show } from '/dom.js';
import { icon } from '/icons.js';
import { button, title } from '/parts.js';
import { requestList } from '/requests.js';
import { ago, clock, has, t } from '/words.js';

const MODES = ['view', 'control', 'unattended'];
const OVER = new Set(['over', 'failed']);
/** By the caller's hand, or the device's: nothing went wrong. */
const CALM = new Set(['HELPER_LEFT', 'SHARER_LEFT', 'HANDED_OVER']);

/** Why a mode cannot be asked for anywhere; null: it can. */
function notPermitted({ permitted, member }, mode) {
  if (permitted.includes(mode)) return null;
  return t(member ? 'ask.role' : 'lobby.no_member');
}

function modePicker(lobby, label) {
  const select = h('select.mode', { 'aria-label': label },
    MODES.map((mode) => {
      const why = notPermitted(lobby, mode);
      const words = t(`lobby.mode.${mode}`);
      return h('option', { value: mode, disabled: why !== null, title: why }, why ? `${words} – ${why}` : words);
    }));
  select.value = MODES.find((mode) => lobby.permitted.includes(mode)) ?? '';
  return select;
}

/** A device: whether it is there, and its button. */
function device(app, lobby, { name }, reason) {
  const dot = h('span.dot', { 'aria-hidden': 'true' });
  const there = h('span.quiet');
  const warned = h('p.note.warn', { hidden: true }, icon('warn'), h('span'));
  const mode = modePicker(lobby, t('lobby.mode.of', { name }));
  const invite = button('button.main', { name: 'help', label: t('lobby.invite'), 'aria-label': t('lobby.invite.of', { name }), onclick: () => {
    app.send({ type: 'invite', device: name, mode: mode.value || null, reason: reason.value.trim() });
    reason.value = '';
  } });
  const element = h('li.device', h('div.device-name', dot, h('div', h('strong', { dir: 'auto' }, name), ' ', there)), h('div.row', mode, invite), warned);
  return {
    element,
    fits: (sought) => name.toLocaleLowerCase().includes(sought),
    update(state) {
      const seen = state.presences?.devices[name];
      const how = state.presences?.text ? 'unknown' : seen?.state ?? 'asking';
      set(dot, 'data-presence', how);
      const last = how === 'offline' && seen.seen_ms_ago !== null;
      say(there, t(last ? 'presence.seen' : `presence.${how}`, { ago: last ? ago(seen.seen_ms_ago) : '' }));
      const latest = [...state.calls.values()].filter((call) => call.device === name).at(-1);
      const warnings = latest?.warnings ?? [];
      show(warned, warnings.length > 0);
      say(warned.lastChild, warnings.map(({ text }) => text).join(' '));
      // One that is on its way is not sent twice.
      set(invite, 'disabled', how === 'no_id' || (latest !== undefined && !OVER.has(latest.state)));
    },
  };
}

/** A session that was begun here, or was to be. */
function call() {
  const who = h('strong', { dir: 'auto' });
  const how = h('span', { role: 'status' });
  const light = h('span.dot', { 'aria-hidden': 'true' });
  const open = h('a.button', { target: '_blank', rel: 'noopener' }, icon('monitor'), h('span'));
  const element = h('li.call', light, h('div', who, h('br'), how), open);
  return {
    element,
    update(it) {
      const { state } = it;
      const over = OVER.has(state);
      say(who, it.device ?? it.peer ?? t('lobby.by_code'));
      set(light, 'data-presence', state === 'active' ? 'online' : over ? 'offline' : 'asking');
      let words = t(`call.${state}${state === 'active' ? `.${it.mode}` : ''}`, { agents: it.agents ?? '', name: it.peer ?? t('over.someone') });
      if (state === 'failed') words = it.text ?? t('call.failed');
      if (state === 'over') {
        const key = `over.${it.reason_code}`;
        words = t('call.over', { why: CALM.has(it.reason_code) ? t('call.left') : has(key) ? t(key, { name: it.peer ?? t('over.someone') }) : it.reason_code, time: clock((it.duration_s ?? 0) * 1000) });
      }
      say(how, words);
      show(open, !over && Boolean(it.url));
      set(open, 'href', over ? null : it.url);
      say(open.lastChild, t(state === 'code' ? 'call.open.code' : 'call.open'));
    },
  };
}

/** Lines that come and stay, the newest first. */
function lines(list) {
  const made = new Map();
  return (shown) => {
    for (const [number, line] of made) {
      if (shown.some((it) => it.number === number)) continue;
      line.element.remove();
      made.delete(number);
    }
    for (const it of shown) {
      if (!made.has(it.number)) {
        made.set(it.number, call());
        list.prepend(made.get(it.number).element);
      }
      made.get(it.number).update(it);
    }
  };
}

export function lobbyScreen(app) {
  const { lobby } = app.state;
  const section = (name, ...content) => {
    const heading = h('h2', { id: id(name) }, t(`lobby.${name}`));
    return h(`section.card.lobby-${name}`, { 'aria-labelledby': heading.id }, heading, ...content);
  };
  const none = notPermitted(lobby, 'view');
  const code = button('button.main.big', { name: 'help', label: t('lobby.code.go'), disabled: none !== null, onclick: () => app.send({ type: 'invite', device: null, mode: null, reason: '' }) });

  const reason = h('input.text', { id: id('reason'), type: 'text', maxlength: '120', autocomplete: 'off', dir: 'auto' });
  const devices = lobby.devices.map((it) => device(app, lobby, it, reason));
  const search = h('input.text', { id: id('search'), type: 'search', autocomplete: 'off', dir: 'auto', oninput: () => app.refresh() });
  const nothing = h('p.quiet', { role: 'status', hidden: true }, t('lobby.nothing'));
  const problem = h('p.note.warn', { role: 'status', hidden: true }, icon('warn'), h('span'));
  const look = button('button.small', { name: 'refresh', label: t('lobby.look'), onclick: () => app.send({ type: 'look' }) });
  const known = devices.length === 0
    ? [h('p.quiet', t('lobby.no_devices')), h('pre.sample', { dir: 'ltr', translate: 'no' }, '[devices]\n"fin-lt-0231" = "ID"')]
    : [h('div.lobby-tools', h('div', h('label', { for: search.id }, t('lobby.search')), search), h('div', h('label', { for: reason.id }, t('lobby.reason')), reason), look),
      problem, h('ul.devices', devices.map(({ element }) => element)), nothing];

  const requests = requestList(app);
  const running = h('ul.calls');
  const past = h('ul.calls');
  const idle = h('p.quiet', t('lobby.no_sessions'));
  const empty = h('p.quiet', t('lobby.no_history'));
  const showRunning = lines(running);
  const showPast = lines(past);
  const element = h('div.screen.lobby', title(t('lobby.title')),
    h('div.columns', h('div.column',
      section('code', h('p', none ?? t('lobby.code.text')), h('div.row', code)),
      section('devices', ...known)),
    h('div.column', lobby.member && section('requests', ...requests.elements), section('sessions', running, idle), section('history', past, empty))));
  return {
    element,
    update(state) {
      const sought = search.value.trim().toLocaleLowerCase();
      for (const one of devices) {
        one.update(state);
        show(one.element, one.fits(sought));
      }
      show(nothing, devices.length > 0 && !devices.some((one) => one.fits(sought)));
      show(problem, Boolean(state.presences?.text));
      say(problem.lastChild, state.presences?.text ?? '');
      const all = [...state.calls.values()];
      requests.update(state);
      showRunning(all.filter((it) => !OVER.has(it.state)));
      showPast(all.filter((it) => OVER.has(it.state)));
      show(idle, running.childElementCount === 0);
      show(empty, past.childElementCount === 0);
    },
  };
}
