// The chat: one thread, both directions of writing.

import { h, id, say } from '/dom.js';
import { icon } from '/icons.js';
import { button } from '/parts.js';
import { peerName } from '/state.js';
import { t } from '/words.js';

/** As the node takes it. */
const MAX_BYTES = 16 * 1024;

export function chat(app, { close } = {}) {
  const heading = id('chat');
  const label = id('chat-field');
  const name = h('h2', { id: heading });
  const list = h('ol.messages');
  const log = h('div.log', { role: 'log', 'aria-labelledby': heading, tabindex: '0' }, list);
  const empty = h('p.quiet.chat-empty', t('chat.empty'));
  const field = h('textarea', { id: label, rows: '2', dir: 'auto', enterkeyhint: 'send', autocomplete: 'off' });
  const problem = h('p.note.bad', { role: 'alert', hidden: true });

  const send = () => {
    const text = field.value.trim();
    if (!text) return;
    problem.hidden = new TextEncoder().encode(text).length <= MAX_BYTES;
    say(problem, problem.hidden ? '' : t('chat.long'));
    if (!problem.hidden) return;
    app.send({ type: 'chat', text });
    field.value = '';
    field.focus();
  };
  field.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  const element = h('section.chat', { 'aria-labelledby': heading },
    h('header', name, close && h('button.icon-button', { type: 'button', 'aria-label': t('chat.close'), onclick: close }, icon('cross'))),
    log, empty,
    h('form', { onsubmit: (event) => { event.preventDefault(); send(); } },
      h('label.visually-hidden', { for: label }, t('chat.label')), field, button('button.main.send', { name: 'send', label: t('chat.send'), onclick: send })),
    problem);

  let count = 0;
  return {
    element,
    focus: () => field.focus(),
    update(state) {
      say(name, t('chat.title', { name: peerName(state) }));
      if (state.chat.length < count) {
        count = 0;
        list.replaceChildren();
      }
      const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 40;
      for (; count < state.chat.length; count += 1) {
        const { mine, text } = state.chat[count];
        const who = mine ? t('chat.me') : peerName(state);
        list.append(h(mine ? 'li.mine' : 'li', h('span.who', { dir: 'auto' }, who), h('p', { dir: 'auto' }, text)));
        if (atEnd || mine) log.scrollTop = log.scrollHeight;
      }
      empty.hidden = count > 0;
      log.hidden = count === 0;
    },
  };
}
