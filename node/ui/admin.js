// Administrator rights on the other computer: who vouches there, and what is run. The sharer sees each command.

import { h, id, say, set, show } from '/dom.js';
import { icon } from '/icons.js';
import { button } from '/parts.js';
import { has, t } from '/words.js';

/** The longest that a password may be; what is sent is always as long, so that its length says nothing. */
const PAD_BYTES = 512;

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');

/** The password and what hides it: apart they are noise, and no program on the way holds what it could log or leave in its memory. */
function hidden(password) {
  const bytes = new TextEncoder().encode(password);
  if (bytes.length >= PAD_BYTES) return null;
  const pad = crypto.getRandomValues(new Uint8Array(PAD_BYTES));
  // Its end is a zero, which no password holds.
  const padded = pad.map((byte, index) => byte ^ (bytes[index] ?? 0));
  bytes.fill(0);
  return { pad: hex(pad), padded: hex(padded) };
}

export function adminPanel(app) {
  const field = (name, properties) => {
    const input = h('input.text', { id: id(name), autocomplete: 'off', autocapitalize: 'none', autocorrect: 'off', spellcheck: 'false', dir: 'ltr', ...properties });
    return { input, label: h('label', { for: input.id }, t(`admin.${name}`)) };
  };
  const name = field('name', { type: 'text', maxlength: '128' });
  const password = field('password', { type: 'password', maxlength: '511' });
  const command = field('command', { type: 'text', maxlength: '2048' });
  const problem = h('p.note.bad', { role: 'alert', hidden: true }, icon('warn'), h('span'));
  const vouch = h('form.admin-form', {
    novalidate: true,
    onsubmit: (event) => {
      event.preventDefault();
      const halves = hidden(password.input.value);
      password.input.value = '';
      const who = name.input.value.trim();
      if (who && halves) app.send({ type: 'credential', name: who, ...halves });
      else (who ? password : name).input.focus();
    },
  }, name.label, name.input, password.label, password.input, button('button.main', { type: 'submit', label: t('admin.vouch') }));
  const run = h('form.admin-form', {
    novalidate: true,
    hidden: true,
    onsubmit: (event) => {
      event.preventDefault();
      if (command.input.value.trim()) app.send({ type: 'run', command: command.input.value });
      command.input.select();
    },
  }, command.label, command.input, button('button.main', { type: 'submit', label: t('admin.run') }));
  const output = h('pre.admin-output', { tabindex: '0', dir: 'ltr', translate: 'no', 'aria-label': t('admin.output'), hidden: true });
  const element = h('section.admin', { 'aria-label': t('admin.title'), hidden: true }, vouch, run, problem, output);
  return {
    element,
    update({ elevated, admin }) {
      const there = elevated && admin !== null;
      show(element, there);
      if (!there) return;
      const wasRunning = !run.hidden;
      show(vouch, !admin.admitted);
      show(run, admin.admitted === true);
      if (!wasRunning && !run.hidden) command.input.focus();
      const refused = admin.refused && (has(`refused.${admin.refused.code}`) ? t(`refused.${admin.refused.code}`) : admin.refused.text);
      const text = admin.admitted === false ? t('admin.wrong') : refused;
      show(problem, Boolean(text));
      say(problem.lastChild, text || '');
      const said = admin.runs.map((one) => `# ${one.command}\n${one.text}${one.status === null ? '' : one.status === 0 ? '' : t('admin.status', { n: one.status })}`).join('\n');
      show(output, said !== '');
      if (output.textContent === said) return;
      const follows = output.scrollTop + output.clientHeight >= output.scrollHeight - 4;
      say(output, said);
      if (follows) output.scrollTop = output.scrollHeight;
      set(output, 'aria-busy', admin.runs.some((one) => one.status === null) ? 'true' : null);
    },
  };
}
