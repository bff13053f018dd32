// Clipboard and files: what may go which way, and what is offered.

import { h, id, say, set, show } from '/dom.js';
import { mayGive, save } from '/files.js';
import { icon } from '/icons.js';
import { button, copyButton } from '/parts.js';
import { peerName } from '/state.js';
import { bytes, t } from '/words.js';

/** As the node takes it from a page; a display's own clipboard takes more. */
const MAX_COPIED_BYTES = 16 * 1024;
const WAYS = ['to_helper', 'to_sharer'];

/** One matter, one way: a switch for the sharer, a request for the helper. */
function grant(app, matter, way) {
  const name = `${matter}_${way}`;
  const isOn = () => app.state.granted.includes(name);
  const element = h('button.button.small', { type: 'button', 'data-grant': name, onclick: () => app.send({ type: 'grant', matter, way, on: !isOn() }) }, icon('check'), h('span'));
  return {
    element,
    update(state) {
      const { role } = state;
      const on = isOn();
      const mine = way === `to_${role}`;
      const wanted = state.wanted.includes(name);
      set(element, 'aria-pressed', String(on));
      element.classList.toggle('main', on || wanted);
      const what = role === 'sharer' || on ? 'grant' : 'ask';
      say(element.lastChild, t(`exchange.${what}.${mine ? 'mine' : 'theirs'}`, { name: peerName(state) }));
    },
  };
}

function file(app) {
  const name = h('strong', { dir: 'auto' });
  const about = h('span.quiet');
  const meter = h('progress', { max: '1', value: '0', hidden: true });
  const answer = (what) => button('button.small', { label: t(`exchange.file.${what}`), onclick: () => app.send({ type: 'file', number: Number(element.dataset.number), answer: what }) });
  const accept = answer('accept');
  const decline = answer('decline');
  const withdraw = answer('withdraw');
  const keep = button('button.small', { name: 'down', label: t('exchange.file.save'), onclick: async () => {
    set(keep, 'disabled', true);
    const saved = await save(Number(element.dataset.number), name.textContent);
    set(keep, 'disabled', null);
    if (!saved) app.complain(t('exchange.unsaved'));
  } });
  const element = h('li.file', h('div', name, ' ', about), meter, h('div.row', accept, decline, withdraw, keep));
  return {
    element,
    update(it, peer) {
      element.dataset.number = String(it.number);
      say(name, it.name);
      const under = it.done !== null && !it.over;
      const known = it.over ? t(`exchange.over.${it.over}`, { name: peer }) : under ? `${bytes(it.done)} / ${bytes(it.bytes)}` : bytes(it.bytes);
      say(about, it.path ? `${known} ${it.path}` : known);
      show(meter, under);
      set(meter, 'value', under && it.bytes > 0 ? String(it.done / it.bytes) : '0');
      const comes = it.direction === 'in';
      show(accept, comes && !it.over && it.done === null && !it.accepted);
      show(decline, comes && !it.over);
      show(withdraw, !comes && !it.over);
      show(keep, comes && it.path !== null);
    },
  };
}

export function exchange(app) {
  const heading = id('exchange');
  const grants = ['clipboard', 'files'].flatMap((matter) => WAYS.map((way) => grant(app, matter, way)));
  const row = (matter, from) => h('div', h('h3', t(`exchange.${matter}`)), h('div.row', grants[from].element, grants[from + 1].element));
  const give = button('button.small', { name: 'send', label: t('exchange.copy'), onclick: () => copy() });
  const take = button('button.small', { name: 'copy', label: '', onclick: () => app.send({ type: 'paste' }) });
  const came = h('textarea', { readonly: true, rows: '3', dir: 'auto', 'aria-label': t('exchange.came') });
  const text = h('div.came', { hidden: true }, came, copyButton(t('copy'), () => came.value, 'button.small'));
  const problem = h('p.note.warn', { role: 'alert', hidden: true });
  const list = h('ul.files');
  const picker = h('input', { type: 'file', multiple: true, hidden: true, onchange: () => {
    app.give([...picker.files]);
    picker.value = '';
  } });
  const choose = button('button.small', { name: 'send', label: t('exchange.choose'), onclick: () => picker.click() });
  const hint = h('p.quiet');
  const reading = h('p.waiting', { role: 'status', hidden: true }, h('span.pulse', { 'aria-hidden': 'true' }), h('span'));
  const element = h('section.exchange', { 'aria-labelledby': heading },
    h('h2', { id: heading }, t('exchange.title')), h('p.quiet', t('exchange.text')),
    row('clipboard', 0), h('div.row', give, take), problem, text, row('files', 2), h('div.row', choose, picker), hint, reading, list);
  const files = new Map();

  async function copy() {
    const held = await navigator.clipboard.readText().catch(() => null);
    const long = held !== null && new TextEncoder().encode(held).length > MAX_COPIED_BYTES;
    show(problem, held === null || held === '' || long);
    say(problem, t(long ? 'exchange.long' : 'exchange.unread'));
    if (problem.hidden) app.send({ type: 'copy', text: held });
  }

  return {
    element,
    update(state) {
      const name = peerName(state);
      for (const one of grants) one.update(state);
      const peer = state.role === 'helper' ? 'sharer' : 'helper';
      set(give, 'disabled', !state.granted.includes(`clipboard_to_${peer}`));
      set(take, 'disabled', state.offered === 0);
      const may = mayGive(state);
      set(choose, 'disabled', !may);
      say(hint, t(may ? 'exchange.drop' : `exchange.ungranted.${state.role}`, { name }));
      const [first] = app.giving;
      show(reading, first !== undefined);
      if (first !== undefined) say(reading.lastChild, t('exchange.reading', { file: first }));
      say(take.lastChild, t('exchange.paste', { name }));
      show(text, state.clipboard !== null);
      if (state.clipboard !== null && came.value !== state.clipboard) came.value = state.clipboard;
      for (const [key, it] of state.files) {
        if (!files.has(key)) {
          files.set(key, file(app));
          list.append(files.get(key).element);
        }
        files.get(key).update(it, name);
      }
    },
  };
}
