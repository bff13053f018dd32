// Who waits for the help desk, with a way to help each.

import { h, show } from '/dom.js';
import { button } from '/parts.js';
import { t } from '/words.js';

const MINUTE_S = 60;

function row(app, request) {
  const { id, from, device, reason, waited_s: waited } = request;
  const who = [from.full_name, from.company && `(${from.company})`].filter(Boolean).join(' ');
  const time = waited < MINUTE_S ? t('requests.now') : t('requests.waits', { minutes: Math.floor(waited / MINUTE_S) });
  const take = button('button.main', { label: t('requests.take'), 'aria-label': t('requests.take.who', { name: from.full_name }),
    onclick: () => app.send({ type: 'take', id }) });
  return h('li', h('div', h('strong', who), h('span.quiet', [device, time].filter(Boolean).join(' · ')), reason ? h('span', reason) : null), take);
}

export function requestList(app) {
  const list = h('ul.requests');
  const nobody = h('p.quiet', t('requests.none'));
  let shown = null;
  return {
    elements: [list, nobody],
    update({ requests }) {
      show(nobody, requests.length === 0);
      if (shown === requests) return;
      shown = requests;
      list.replaceChildren(...requests.map((request) => row(app, request)));
    },
  };
}
