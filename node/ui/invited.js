// The helper's screen while a device is invited: nobody reads out a code.

import { h, say, set, show } from '/dom.js';
import { icon } from '/icons.js';
import { button, card, title } from '/parts.js';
import { clock, t } from '/words.js';

export function invitedScreen(app) {
  const who = h('div');
  const wait = h('p.waiting', h('span.pulse', { 'aria-hidden': 'true' }), h('span', { role: 'status' }));
  const missed = h('p.note.warn', { role: 'alert', hidden: true }, icon('warn'), h('span', t('invited.not_received')));
  const again = button('button.main', { name: 'refresh', label: t('invited.again'), onclick: () => app.send({ type: 'retry' }) });
  const leave = button('button', { name: 'leave', label: t('leave'), onclick: () => app.send({ type: 'leave' }) });
  const element = h('div.screen.invited', title(t('invited.title')), h('p.lead', t('invited.text')), who, missed, wait, h('div.row', again, leave));
  let shown = null;
  return {
    element,
    update(state, now) {
      const { state: how, agents, until } = state.invited;
      if (shown !== state.peer && state.peer) {
        shown = state.peer;
        who.replaceChildren(card(state.peer, state.warnings));
      }
      show(missed, how === 'not_received');
      set(again, 'disabled', how !== 'not_received' && how !== 'delivered');
      say(wait.lastChild, t(`invited.${how}`, { agents, time: until ? clock(until - now) : '' }));
    },
  };
}
