// The helper's screens before the session: the code, and who came.

import { h, say, set, show, svg } from '/dom.js';
import { icon } from '/icons.js';
import { button, card, command, copyButton, ring, title, words } from '/parts.js';
import { peerName } from '/state.js';
import { clock, t } from '/words.js';

/** Light squares all around, or cameras do not see where it ends (ISO/IEC 18004: four). */
const QUIET = 4;

function qrPicture({ size, path }) {
  const whole = size + 2 * QUIET;
  return svg('svg', { class: 'qr', role: 'img', 'aria-label': t('code.qr'), viewBox: `0 0 ${whole} ${whole}`, 'shape-rendering': 'crispEdges' },
    svg('rect', { class: 'qr-light', width: whole, height: whole }),
    svg('path', { class: 'qr-dark', transform: `translate(${QUIET} ${QUIET})`, d: path }));
}

export function codeScreen(app) {
  const time = ring();
  const symbols = h('p.code', { dir: 'ltr', translate: 'no', 'aria-hidden': 'true' });
  const spelled = h('p.visually-hidden');
  const copy = copyButton(t('code.copy'), () => app.state.code?.text ?? '', 'button.main');
  const copyLink = copyButton(t('code.copy_link'), () => app.state.code?.link ?? '');
  const fresh = button('button', { name: 'refresh', label: t('code.new'), onclick: () => app.send({ type: 'new_code' }) });
  const picture = h('div.qr-box');
  const wrong = h('p.note.warn', { role: 'alert', hidden: true }, icon('warn'), h('span'));
  const wait = h('p.waiting', h('span.pulse', { 'aria-hidden': 'true' }), h('span'));
  const element = h('div.screen.code-screen',
    title(t('code.title')), h('p.lead', t('code.text')),
    h('section.card.code-card',
      h('div.code-main', symbols, spelled, h('div.code-time', time.element, h('span.quiet', t('code.once'))), h('div.row', copy, copyLink, fresh), h('p.quiet', t('code.link'))),
      picture),
    wrong, wait,
    h('div.aside', h('p.quiet', t('code.command')), command('remora join')));
  let shown = null;
  return {
    element,
    update(state, now) {
      const { code } = state;
      set(copy, 'disabled', !code);
      set(copyLink, 'disabled', !code?.link);
      set(fresh, 'disabled', !code);
      say(wait.lastChild, t(code ? 'code.wait' : 'code.opening'));
      element.classList.toggle('opening', !code);
      if (shown !== code) {
        shown = code;
        const text = code?.text ?? '····-····';
        symbols.replaceChildren(...text.split('-').map((part) => h('span', part)));
        say(spelled, code ? t('code.spelled', { code: [...code.text.replace('-', '')].join(' ') }) : '');
        picture.replaceChildren(...(code?.qr ? [qrPicture(code.qr)] : []));
      }
      time.update(code ? code.until - now : 0, code?.valid ?? 1);
      show(wrong, Boolean(code) && code.tries < 3);
      if (code && code.tries < 3) say(wrong.lastChild, t(`code.wrong.${code.tries}`));
    },
  };
}

/** Why the organisation does not let this person ask for the mode; null: it does. */
function notPermitted(permitted, mode) {
  if (!permitted || permitted.mode === 'control' || permitted.mode === mode) return null;
  return permitted.text ? t('ask.limit', { why: permitted.text }) : t('ask.role');
}

export function trustScreen(app) {
  const who = h('div');
  const check = words(app);
  const ask = (mode) => h('button.choice', { type: 'button', 'data-next': mode === 'view', onclick: () => app.send({ type: 'ask', mode }) },
    icon(mode === 'view' ? 'eye' : 'control'), h('span', h('strong', t(`ask.${mode}`)), h('span')));
  const view = ask('view');
  const control = ask('control');
  const unchecked = h('p.note', icon('warn'), h('span'));
  const asking = h('section.card.prompt', h('h2', t('ask.title')), unchecked, h('div.choices', view, control));
  const askedTitle = h('h2', { tabindex: '-1' });
  const askedText = h('p.quiet');
  const asked = h('section.asked', { hidden: true }, h('span.pulse', { 'aria-hidden': 'true' }), h('div', askedTitle, askedText));
  const leave = button('button', { name: 'leave', label: t('leave'), onclick: () => app.send({ type: 'leave' }) });
  const element = h('div.screen.trust', title(t('trust.title.helper')), h('p.lead', t('trust.text.helper')),
    h('div.split', h('div.side', who, check.element), h('div.side', asking, asked, h('div.row.end', leave))));
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
      for (const [mode, choice] of [['view', view], ['control', control]]) {
        const why = notPermitted(state.permitted, mode);
        set(choice, 'disabled', why !== null);
        say(choice.querySelector('span > span'), why ?? t(`ask.${mode}.text`, { name }));
      }
      show(unchecked, state.mine === null);
      say(unchecked.lastChild, t('ask.unchecked', { name }));
      const wasAsking = !asking.hidden;
      show(asking, state.stage === 'trust');
      show(asked, state.stage === 'asked');
      if (state.asked) {
        say(askedTitle, t(`asked.title.${state.asked.mode ?? 'view'}`, { name }));
        say(askedText, state.asked.until ? t('asked.text', { time: clock(state.asked.until - now) }) : t('asked.text.soon'));
      }
      if (wasAsking && asking.hidden && state.live && state.stage === 'asked') askedTitle.focus();
    },
  };
}
