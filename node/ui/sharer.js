// The sharer's screens: the code, who it is, the question, and what is going on while sharing.

import { chat } from '/chat.js';
import { exchange } from '/exchange.js';
import { h, id, say, set, show } from '/dom.js';
import { icon } from '/icons.js';
import { button, card, title, words } from '/parts.js';
import { peerName } from '/state.js';
import { clock, has, t } from '/words.js';

const BOXES = 8;
/** The card has to be on the screen that long before anything can be allowed. */
const LOOK_MS = 1000;
/** What is asked while the helper has mouse and keyboard: before that the helper could have pressed it, and the node refuses it. */
const REST_MS = 2100;
/** Crockford's base32, as proto/src/code.rs. */
const SYMBOL = /[0-9abcdefghjkmnpqrstvwxyz]/;
const LIKE = { i: '1', l: '1', o: '0' };

/** The code in a link, which shows the screen and no more; null: it is none. */
export function codeOfLink(text) {
  const link = /^\s*https?:\/\/[^\s#?]*(?:\?[^\s#]*?\bpasscode=([^\s#&]+)[^\s#]*)?(?:#(\S*))?\s*$/i.exec(text);
  return link ? (link[1] ?? link[2] ?? '') : null;
}

/** What was typed or pasted, as symbols of a code; `wrong` is the first thing that cannot be one. */
export function symbolsOf(text) {
  const symbols = [];
  let wrong = null;
  for (const character of text.normalize('NFKC').toLowerCase()) {
    const symbol = LIKE[character] ?? character;
    if (SYMBOL.test(symbol)) symbols.push(symbol);
    else if (!/[\s\p{Pd}\p{Cf}\u2212_.]/u.test(symbol)) wrong ??= symbol;
  }
  return { symbols, wrong };
}

export function joinScreen(app) {
  const label = id('boxes');
  const problem = h('p.note.bad', { id: id('problem'), role: 'alert', hidden: true }, icon('warn'), h('span'));
  const boxes = Array.from({ length: BOXES }, (_, index) => h('input.box', {
    type: 'text', inputmode: 'text', autocomplete: 'off', autocapitalize: 'none', autocorrect: 'off', spellcheck: 'false',
    'aria-label': t('join.box', { n: index + 1 }), 'aria-describedby': problem.id, enterkeyhint: index === BOXES - 1 ? 'go' : 'next',
  }));
  const go = button('button.main.big', { label: t('join.go'), type: 'submit' });
  const busy = h('p.waiting', { hidden: true }, h('span.pulse', { 'aria-hidden': 'true' }), h('span', t('join.busy')));
  const code = () => boxes.map((box) => box.value).join('');
  /** Pasted, and of the code that the boxes hold. */
  let link = null;

  const complain = (key, text) => {
    const words = key ? t(key) : text;
    say(problem.lastChild, words ?? '');
    show(problem, Boolean(words));
    for (const box of boxes) set(box, 'aria-invalid', words ? 'true' : null);
  };
  const fill = (from, text) => {
    const { symbols, wrong } = symbolsOf(text);
    complain(wrong === null ? null : wrong === 'u' ? 'join.u' : 'join.symbol');
    // A whole code goes where codes begin, wherever it was pasted.
    const start = symbols.length >= BOXES ? 0 : from;
    symbols.slice(0, BOXES - start).forEach((symbol, index) => { boxes[start + index].value = symbol; });
    const next = Math.min(start + symbols.length, BOXES);
    set(go, 'aria-disabled', code().length === BOXES ? null : 'true');
    if (symbols.length === 0) return;
    if (next === BOXES && code().length === BOXES) go.focus();
    else boxes[Math.min(next, BOXES - 1)].focus();
  };
  const keyDown = (event, index) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step !== undefined) {
      boxes[index + step]?.focus();
      event.preventDefault();
    } else if (event.key === 'Home' || event.key === 'End') {
      boxes[event.key === 'Home' ? 0 : BOXES - 1].focus();
      event.preventDefault();
    } else if (event.key === 'Backspace' && !boxes[index].value && index > 0) {
      boxes[index - 1].value = '';
      boxes[index - 1].focus();
      event.preventDefault();
    }
  };
  boxes.forEach((box, index) => {
    box.addEventListener('focus', () => box.select());
    box.addEventListener('keydown', (event) => keyDown(event, index));
    box.addEventListener('paste', (event) => {
      event.preventDefault();
      const text = event.clipboardData.getData('text');
      const inLink = codeOfLink(text);
      fill(index, inLink ?? text);
      link = inLink === null ? null : { text: text.trim(), code: code() };
    });
    box.addEventListener('input', (event) => {
      // Typed into a box that is full and not selected, a symbol takes the old one's place.
      const text = event.inputType === 'insertText' && event.data ? event.data : box.value;
      box.value = '';
      fill(index, text);
    });
  });
  const submit = (event) => {
    event.preventDefault();
    const missing = boxes.find((box) => !box.value);
    if (missing) missing.focus();
    else app.send({ type: 'join', code: link?.code === code() ? link.text : code() });
  };
  const element = h('div.screen.join-screen', title(t('join.title')), h('p.lead', t('join.text')),
    h('form', { onsubmit: submit, novalidate: true },
      h('fieldset.boxes', { 'aria-labelledby': label, dir: 'ltr' }, h('legend.visually-hidden', { id: label }, t('join.boxes')),
        h('div.four', boxes.slice(0, 4)), h('span.dash', { 'aria-hidden': 'true' }, '–'), h('div.four', boxes.slice(4))),
      problem, h('p.quiet', t('join.tip')), h('div.row', go, busy)));
  set(go, 'aria-disabled', 'true');
  let shown = null;
  return {
    element,
    focus: () => boxes[0].focus(),
    update(state) {
      const joining = state.stage === 'joining';
      show(busy, joining);
      set(go, 'disabled', joining);
      for (const box of boxes) set(box, 'readonly', joining);
      if (shown === state.error) return;
      shown = state.error;
      if (!state.error) return;
      const key = `join.failed.${state.error.code}`;
      const { tries } = state.error;
      const left = tries ? ` ${t(tries === 1 ? 'join.tries.one' : 'join.tries', { n: tries })}` : '';
      complain(null, (has(key) ? t(key) : state.error.text) + left);
      if (state.live) boxes[0].focus();
    },
  };
}

/** Which screen or window; hidden while there is no choice. */
function sourcePicker(app, label) {
  const field = id('source');
  const select = h('select', { id: field, onchange: () => app.send({ type: 'select', source: Number(select.value) }) });
  const element = h('div.picker', h('label', { for: field }, label), select);
  let shown = '';
  return {
    element,
    update({ screen }) {
      const sources = screen?.sources ?? [];
      show(element, sources.length > 1);
      const key = JSON.stringify(sources);
      if (key !== shown) {
        shown = key;
        select.replaceChildren(...sources.map(({ id: value, name, kind }) => h('option', { value, dir: 'auto' }, t(`source.${kind}`, { name }))));
      }
      if (screen && document.activeElement !== select) select.value = String(screen.source);
    },
  };
}

/** Allow control, screen only, decline: the whole width each, and what it means. */
function choices(app, upgrade) {
  const made = (name, key, message, tone) => h(`button.choice.${tone}`, { type: 'button', onclick: () => app.send(message) },
    icon(name), h('span', h('strong', t(`prompt.${key}`)), h('span')));
  const control = made('control', 'allow.control', { type: 'allow', mode: 'control' }, 'plain');
  const view = made('eye', 'allow.view', { type: 'allow', mode: 'view' }, 'plain');
  const decline = made('cross', 'decline', { type: 'decline' }, 'no');
  const left = h('p.left', { role: 'timer', 'aria-live': 'off' });
  const element = h('div.choices.three', control, view, decline, left);
  return {
    element,
    update(state, now) {
      const { prompt } = state;
      if (!prompt) return;
      const name = peerName(state);
      show(control, prompt.mode === 'control');
      show(view, !upgrade && !(prompt.countdown && prompt.mode === 'control'));
      const wait = now - state.trustAt < LOOK_MS;
      for (const choice of [control, view]) set(choice, 'disabled', prompt.answered || wait);
      set(decline, 'disabled', prompt.answered);
      const fill = (choice, key) => say(choice.querySelector('span > span'), t(`prompt.${key}`, { name }));
      fill(control, 'allow.control.text');
      fill(view, 'allow.view.text');
      fill(decline, upgrade ? 'decline.upgrade' : 'decline.text');
      if (prompt.countdown) for (const choice of [control, view]) say(choice.querySelector('strong'), t('prompt.start'));
      const answers = prompt.countdown ? 'prompt.countdown' : 'prompt.left';
      say(left, prompt.answered ? t('busy') : t(answers, { time: clock(prompt.until - now) }));
    },
  };
}

export function trustScreen(app) {
  const who = h('div');
  const check = words(app);
  const source = sourcePicker(app, t('prompt.source'));
  const answers = choices(app, false);
  const question = h('h2', { tabindex: '-1' });
  const meaning = h('p');
  const prompt = h('section.card.prompt', { hidden: true, 'aria-live': 'off' }, question, meaning, source.element, answers.element);
  const waiting = h('p.waiting.card', { 'data-next': true, tabindex: '-1' }, h('span.pulse', { 'aria-hidden': 'true' }), h('span', t('wait.ask')));
  const leave = button('button', { name: 'leave', label: t('leave'), onclick: () => app.send({ type: 'leave' }) });
  const element = h('div.screen.trust', title(t('trust.title.sharer')), h('p.lead', t('trust.text.sharer')),
    h('div.split', h('div.side', who, check.element), h('div.side', waiting, prompt, h('div.row.end', leave))));
  let shown = null;
  return {
    element,
    update(state, now) {
      const name = peerName(state);
      if (shown !== state.peer && state.peer) {
        shown = state.peer;
        who.replaceChildren(card(state.peer, state.warnings));
      }
      check.update(state);
      source.update(state);
      answers.update(state, now);
      const asked = state.stage === 'prompt';
      const news = asked && prompt.hidden;
      show(prompt, asked);
      show(waiting, !asked);
      if (asked) {
        say(question, t(`prompt.title.${state.prompt.countdown ? 'countdown' : state.prompt.mode}`, { name }));
        say(meaning, t(`prompt.text.${state.prompt.mode}`, { name }));
      }
      if (news && state.live) question.focus();
    },
  };
}

/** What the helper asks for beyond control: an administrator's rights, a restart, another helper. */
function question(app) {
  const heading = h('h2', { id: id('question'), tabindex: '-1' });
  const meaning = h('p', { id: id('question-text') });
  const allow = button('button.big', { name: 'check', label: t('question.allow'), onclick: () => app.send({ type: 'allow_more', what: app.state.question.what }) });
  const decline = button('button.big.main', { name: 'cross', label: t('prompt.decline'), onclick: () => app.send({ type: 'decline' }) });
  const left = h('p.left', { role: 'timer', 'aria-live': 'off' });
  const element = h('section.card.prompt.upgrade', { role: 'alertdialog', 'aria-labelledby': heading.id, 'aria-describedby': meaning.id, hidden: true },
    heading, meaning, h('div.row', decline, allow), left);
  return {
    element,
    /** Whether what had the focus is gone. */
    update(state, now) {
      const { question: asked } = state;
      const news = asked !== null && element.hidden;
      const gone = asked === null && element.contains(document.activeElement);
      show(element, asked !== null);
      if (!asked) return gone;
      const name = peerName(state);
      say(heading, t(`question.${asked.what}`, { name }));
      say(meaning, t(`question.${asked.what}.text`, { name }));
      set(allow, 'disabled', asked.answered || now - asked.at < REST_MS);
      set(decline, 'disabled', asked.answered);
      say(left, asked.answered ? t('busy') : t('prompt.left', { time: clock(asked.until - now) }));
      if (news && state.live) heading.focus();
      return false;
    },
  };
}

export function sharingScreen(app) {
  const heading = title('');
  const meaning = h('p.lead');
  const light = h('span.light', { 'aria-hidden': 'true' });
  const pause = h('button.button.big', { type: 'button' });
  const stop = button('button.big', { name: 'stop', label: t('share.stop'), onclick: () => app.send({ type: 'drop' }) });
  const leave = button('button.big.danger', { name: 'leave', label: t('leave'), onclick: () => app.send({ type: 'leave' }) });
  pause.addEventListener('click', () => app.send({ type: app.state.paused ? 'resume' : 'pause' }));
  const since = h('dd');
  const path = h('dd', { dir: 'auto' });
  const source = sourcePicker(app, t('share.source'));

  const upgradeTitle = h('h2', { id: id('upgrade'), tabindex: '-1' });
  const meaningUp = h('p', { id: id('upgrade-text') });
  const answers = choices(app, true);
  const upgrade = h('section.card.prompt.upgrade', { role: 'alertdialog', 'aria-labelledby': upgradeTitle.id, 'aria-describedby': meaningUp.id, hidden: true },
    upgradeTitle, meaningUp, answers.element);

  const more = question(app);
  const mark = h('p.strip.warn.banner', { role: 'status', hidden: true }, icon('elevate'), h('span'),
    button('button.small', { label: t('elevated.end'), onclick: () => app.send({ type: 'release' }) }));
  const who = h('div');
  const check = words(app);
  const details = h('details.who', h('summary', t('share.who'), icon('down')), who, check.element);
  const shares = exchange(app);
  const exchanged = h('details.who', h('summary', t('exchange.title'), icon('down')), shares.element);
  const talk = chat(app);
  const status = h('section.card.status', h('div.status-head', light, h('div', heading, meaning)), h('div.row', pause, stop, leave),
    h('dl.facts', h('div', h('dt', t('share.since')), since), h('div', h('dt', t('share.path')), path)), source.element);
  const element = h('div.screen.sharing', h('div.columns', h('div.column', mark, upgrade, more.element, status, details, exchanged), talk.element));
  let shown = null;
  let pausing = null;
  return {
    element,
    update(state, now) {
      const name = peerName(state);
      const doing = state.paused ? 'paused' : state.mode;
      status.dataset.doing = doing;
      say(heading, t(`share.title.${doing}`, { name }));
      say(meaning, t(`share.text.${doing}`, { name }));
      if (pausing !== Boolean(state.paused)) {
        pausing = Boolean(state.paused);
        pause.replaceChildren(icon(pausing ? 'play' : 'pause'), h('span', t(pausing ? 'share.resume' : 'share.pause')));
        pause.classList.toggle('main', pausing);
      }
      const focused = document.activeElement === stop;
      show(stop, state.mode === 'control');
      if (focused && stop.hidden) pause.focus();
      say(since, clock(now - state.startedAt));
      say(path, state.path ?? t('tool.path.none'));
      source.update(state);
      if (shown !== state.peer && state.peer) {
        shown = state.peer;
        who.replaceChildren(card(state.peer, state.warnings));
      }
      show(mark, state.elevated);
      if (state.elevated) say(mark.querySelector('span'), t('elevated.mark', { name }));
      if (more.update(state, now)) pause.focus();
      check.update(state);
      shares.update(state);
      talk.update(state);
      const asked = Boolean(state.prompt?.upgrade);
      const news = asked && upgrade.hidden;
      const answered = !asked && upgrade.contains(document.activeElement);
      show(upgrade, asked);
      if (asked) {
        say(upgradeTitle, t('prompt.title.control', { name }));
        say(meaningUp, t('prompt.text.control', { name }));
        answers.update(state, now);
      }
      if (news && state.live) upgradeTitle.focus();
      if (answered) pause.focus();
    },
  };
}
