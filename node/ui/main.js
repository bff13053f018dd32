// The page: brings what the node says, the screens and the person together.

import { h, say, show } from '/dom.js';
import { codeScreen, trustScreen as helperTrust } from '/helper.js';
import { invitedScreen } from '/invited.js';
import { give, mayGive } from '/files.js';
import { icon, mark } from '/icons.js';
import { Link, enter } from '/link.js';
import { lobbyScreen } from '/lobby.js';
import { doorScreen, overScreen } from '/over.js';
import { button, notice, title } from '/parts.js';
import { joinScreen, sharingScreen, trustScreen as sharerTrust } from '/sharer.js';
import { initial, peerName, reduce } from '/state.js';
import { viewerScreen } from '/viewer.js';
import { clock, direction, has, language, t } from '/words.js';

const TOAST_MS = 7000;
/** Refusals come with every key. */
const REPEAT_MS = 5000;

function chooseScreen(app) {
  const choice = (role, name) => h('button.choice', { type: 'button', onclick: () => app.send({ type: 'choose', role }) },
    icon(name), h('span', h('strong', t(`choose.${role}`)), h('span', t(`choose.${role}.text`))));
  return { element: h('div.screen', title(t('choose.title')), h('div.choices', choice('helper', 'help'), choice('sharer', 'monitor'))), update() {} };
}

function meetScreen() {
  const element = h('div.screen.over', notice({ name: 'shield', heading: t('meet.title'), text: t('meet.text'), more: [h('p.waiting', h('span.pulse', { 'aria-hidden': 'true' }), h('span', t('busy')))] }));
  return { element, update() {} };
}

/** Which screen a stage is on; a screen stays while its name does. */
const SCREENS = {
  choose: ['choose', chooseScreen],
  lobby: ['lobby', lobbyScreen],
  opening: ['code', codeScreen],
  code: ['code', codeScreen],
  invited: ['invited', invitedScreen],
  join: ['join', joinScreen],
  joining: ['join', joinScreen],
  meeting: ['meet', meetScreen],
  trust: ['trust', (app) => (app.state.role === 'helper' ? helperTrust : sharerTrust)(app)],
  asked: ['trust', helperTrust],
  prompt: ['trust', sharerTrust],
  active: ['session', (app) => (app.state.role === 'helper' ? viewerScreen : sharingScreen)(app)],
  over: ['over', overScreen],
};

/** What leaving means, asked before it is done; everything else on the page waits. */
class LeaveWarning {
  #text = h('p.lead');
  #confirm;

  constructor(app) {
    const heading = h('h2', { id: 'leave-warning' }, t('leave.warning.title'));
    this.#confirm = button('button.big.danger', { name: 'leave', label: '', onclick: () => app.send({ type: 'confirm_leave' }) });
    const stay = button('button.big.main', { label: t('leave.stay'), autofocus: true, onclick: () => app.send({ type: 'stay' }) });
    this.element = h('dialog.warning', { role: 'alertdialog', 'aria-labelledby': heading.id }, heading, this.#text, h('div.row', stay, this.#confirm));
    // Escape is staying; the node says when it is so.
    this.element.addEventListener('cancel', (event) => {
      event.preventDefault();
      app.send({ type: 'stay' });
    });
  }

  update(state) {
    const { warning } = state;
    if (!warning) {
      if (this.element.open) this.element.close();
      return;
    }
    const how = warning.signsOut ? 'sign_out' : 'reclaim';
    say(this.#text, t(`leave.warning.${how}`, { name: peerName(state) ?? t('over.someone') }));
    say(this.#confirm.lastChild, t(`leave.confirm.${how}`));
    if (!this.element.open) this.element.showModal();
  }
}

/** Where files can be dropped, and whether they may; the browser would open them in this page's place. */
class Drop {
  element = h('div.drop', { hidden: true, 'aria-hidden': 'true' }, icon('send'), h('span'));

  constructor(app) {
    const holds = (event) => event.dataTransfer?.types.includes('Files');
    const over = (event) => {
      if (!holds(event)) return;
      event.preventDefault();
      const may = mayGive(app.state);
      event.dataTransfer.dropEffect = may ? 'copy' : 'none';
      const name = peerName(app.state) ?? t('over.someone');
      say(this.element.lastChild, t(may ? 'drop.offer' : app.state.stage === 'active' ? `exchange.ungranted.${app.state.role}` : 'drop.later', { name }));
      this.element.classList.toggle('not', !may);
      show(this.element, true);
    };
    document.addEventListener('dragenter', over);
    document.addEventListener('dragover', over);
    document.addEventListener('dragleave', (event) => { if (!event.relatedTarget) show(this.element, false); });
    document.addEventListener('drop', (event) => {
      show(this.element, false);
      if (!holds(event)) return;
      event.preventDefault();
      if (mayGive(app.state)) app.give([...event.dataTransfer.files]);
    });
  }
}

class App {
  state = initial();
  /** Names of files that the node is being given, in order. */
  giving = [];
  #screen = null;
  #name = null;
  #link;
  #main = document.querySelector('main');
  #politely = h('div.visually-hidden', { role: 'status', 'aria-live': 'polite' });
  #toasts = h('div.toasts', { role: 'region', 'aria-live': 'polite' });
  #lost = h('p.strip.bad', { role: 'alert', hidden: true }, icon('warn'), h('span'));
  #restart = h('p.strip.warn', { role: 'status', hidden: true }, icon('restart'), h('span'));
  #drain = h('p.strip.warn', { role: 'status', hidden: true }, icon('warn'), h('span'));
  #check = h('p.strip.warn', { role: 'alert', hidden: true }, icon('warn'), h('span'),
    button('button.small', { label: t('check.continue'), onclick: () => this.send({ type: 'continue' }) }));
  /** Sharer: who else still sees the screen. */
  #behind = h('p.strip.warn', { role: 'status', hidden: true }, icon('eye'), h('span'));
  #warning = new LeaveWarning(this);
  #drop = new Drop(this);
  #role = h('span.role');
  #given = [];
  #toasted = new Map();
  #ready = false;
  #peerWantsRelay = false;

  constructor() {
    const root = document.documentElement;
    root.lang = language;
    root.dir = direction;
    this.#main.before(
      h('a.skip', { href: '#main', onclick: (event) => { event.preventDefault(); this.#main.querySelector('h1')?.focus(); } }, t('skip')),
      h('header.top', h('div.brand', mark(), h('span', t('title'))), this.#role),
      this.#lost, this.#restart, this.#drain, this.#check, this.#behind);
    this.#main.after(h('footer', t('foot')), this.#toasts, this.#politely, this.#warning.element, this.#drop.element);
    this.#link = new Link({
      heard: (event) => this.#heard(event),
      frame: (buffer) => this.#screen?.frame?.(buffer),
      changed: (how) => this.#linked(how),
    });
    // One clock for every countdown on the page.
    setInterval(() => this.refresh(), 1000);
    document.addEventListener('focusin', () => this.refresh());
    document.addEventListener('focusout', () => queueMicrotask(() => this.refresh()));
    const page = this;
    Object.defineProperty(window, '__remora', {
      value: Object.freeze({
        /** Of the frame drawn last: sequence, drawn (ms since the epoch), decode_ms, lossless, width, height. */
        get frame() { return page.#screen?.surface?.last ?? null; },
        /** What is on the canvas, as an ImageData. */
        snapshot: () => page.#screen?.surface?.snapshot() ?? Promise.resolve(null),
      }),
    });
  }

  async start() {
    const closed = await enter();
    if (closed) this.#door(closed);
    else this.#link.connect();
  }

  send = (message) => this.#link.send(message);

  complain(text) {
    this.#toast(text, 'warn');
  }

  /** Offers files to the other side, one after the other. */
  async give(files) {
    const isFirst = this.giving.length === 0;
    this.giving.push(...files.map(({ name }) => name));
    this.#given.push(...files);
    this.refresh();
    while (isFirst && this.#given.length > 0) {
      const file = this.#given.shift();
      const problem = await give(file);
      this.giving.shift();
      if (problem) this.complain(t('exchange.ungiven', { file: file.name, why: t(has(`exchange.over.${problem}`) ? `exchange.over.${problem}` : 'exchange.over.FILE_FAILED') }));
      this.refresh();
    }
  }

  refresh() {
    // Half a replay is no state to show.
    if (!this.#screen || !this.state.live) return;
    const now = performance.now();
    this.#screen.update(this.state, now);
    const restarting = this.state.stage === 'over' ? null : this.state.restartUntil;
    show(this.#restart, restarting !== null);
    if (restarting !== null) say(this.#restart.lastChild, t('told.restarting', { time: clock(restarting - now) }));
    show(this.#drain, this.state.drainAt !== null && this.state.stage !== 'over');
    if (this.state.drainAt !== null) say(this.#drain.lastChild, t('told.draining', { time: clock(this.state.drainAt - now) }));
    const { behind, check } = this.state;
    const name = peerName(this.state) ?? t('over.someone');
    show(this.#check, check !== null);
    if (check) {
      say(this.#check.querySelector('span'), t(`check.${check.why}.${check.ours ? 'ours' : 'theirs'}`, { name, time: clock(check.until - now) }));
      show(this.#check.lastChild, check.ours);
    }
    show(this.#behind, behind !== null);
    if (behind) say(this.#behind.lastChild, t('handover.behind', { name: peerName(behind) ?? t('over.someone') }));
    this.#warning.update(this.state);
    // Of several sessions each has its window.
    const { role } = this.state;
    const whole = [peerName(this.state), role && t(`title.${role}`), t('title')].filter(Boolean).join(' · ');
    if (document.title !== whole && !this.#name?.startsWith('door-')) document.title = whole;
  }

  // ---- what comes ----------------------------------------------------------------------------

  #heard(event) {
    const was = this.state.live;
    if (event.event === 'hello') this.#ready = false;
    if (!reduce(this.state, event, performance.now())) return;
    if (was) this.#tell(event);
    // While the log is replayed, only its end is shown.
    if (!this.state.live) return;
    this.#show();
    if (this.#screen?.ready && !this.#ready) {
      this.#ready = true;
      this.#screen.ready();
    }
  }

  #show() {
    const [name, make] = SCREENS[this.state.stage] ?? SCREENS.choose;
    if (name !== this.#name || name === 'over') {
      const { role } = this.state;
      say(this.#role, role ? t(`title.${role}`) : '');
      this.#set(name, make(this));
    } else {
      this.refresh();
    }
  }

  #set(name, screen) {
    this.#screen?.close?.();
    this.#name = name;
    this.#screen = screen;
    document.body.classList.toggle('wide', Boolean(screen.wide));
    document.body.dataset.screen = name;
    this.#main.replaceChildren(screen.element);
    this.refresh();
    if (screen.focus) screen.focus();
    else this.#main.querySelector('h1')?.focus();
    scrollTo(0, 0);
  }

  #door(which) {
    const here = () => {
      this.#name = null;
      this.#link.connect();
    };
    document.title = t('title');
    this.#set(`door-${which}`, doorScreen(which, { here }));
  }

  #linked(how) {
    show(this.#lost, how === 'lost');
    if (how === 'lost') say(this.#lost.lastChild, t('door.lost'));
    if (how === 'replaced') this.#door('replaced');
    if (how === 'refused') this.#door('none');
    // An end that was told stays on the screen.
    if (how === 'gone' && this.state.stage !== 'over') this.#door('gone');
  }

  // ---- what is said --------------------------------------------------------------------------

  /** Changes that a person could miss: to screen readers always, on the screen where nothing else shows them. */
  #tell(event) {
    const name = peerName(this.state) ?? t('over.someone');
    const own = event.by === this.state.role;
    switch (event.event) {
      case 'started':
        this.#announce(t(`told.started.${event.mode}`));
        break;
      case 'mode_changed':
        this.#toast(t(`told.mode.${event.mode}.${own ? 'self' : 'peer'}`, { name }));
        break;
      case 'upgrade_declined':
        this.#toast(t('told.upgrade_declined'));
        break;
      case 'granted':
        if (event.granted.length === 0) this.#toast(t('told.granted.none'));
        else this.#toast(t('told.granted', { what: event.granted.map((grant) => {
          const [matter, way] = grant.split('_to_');
          return `${t(`exchange.${matter}`)}: ${t(way === this.state.role ? 'exchange.grant.mine' : 'exchange.grant.theirs', { name })}`;
        }).join(', ') }), 'warn');
        break;
      case 'grant_wanted':
        this.#toast(t('told.grant_wanted', { name }), 'warn');
        break;
      case 'file_offered':
        this.#toast(t(event.direction === 'in' ? 'told.file' : 'told.file.out', { name, file: event.name }));
        break;
      case 'screen_covered':
        if (event.covered) this.#toast(t('told.screen_covered'), 'warn');
        break;
      case 'relay_wish':
        if (event.theirs !== this.#peerWantsRelay) this.#toast(t(`told.relay_wish.${event.theirs ? 'on' : 'off'}`, { name }));
        this.#peerWantsRelay = event.theirs;
        break;
      case 'relay_lost':
        this.#toast(t('told.relay_lost'), 'warn');
        break;
      case 'relay_back':
        this.#toast(t(`told.relay_back.${event.same_code ? 'same' : 'new'}`));
        break;
      case 'interrupted':
        if (event.why !== 'restarting') this.#toast(t('told.interrupted', { name, time: clock(event.within_s * 1000) }), 'warn');
        break;
      case 'reconnected':
        this.#toast(t('told.reconnected', { name }));
        break;
      case 'elevation_granted':
      case 'elevation_declined':
      case 'elevation_released':
      case 'restart_declined':
      case 'handover_declined':
      case 'handover_failed':
      case 'handing_over':
      case 'stayed':
        this.#toast(t(`told.${event.event}.${this.state.role}`, { name }));
        break;
      case 'run_started':
        if (this.state.role === 'sharer') this.#toast(t('told.run_started', { name, command: event.command }), 'warn');
        break;
      case 'goes_on':
        this.#toast(t('told.goes_on'));
        break;
      case 'refused':
      case 'not_possible':
        this.#toast(t('told.not_possible', { text: (has(`refused.${event.code}`) ? t(`refused.${event.code}`) : event.text).replace(/\.$/, '') }), 'warn');
        break;
      case 'input_refused':
        this.#toast(t('told.input_refused', { text: has(`input.${event.reason}`) ? t(`input.${event.reason}`, { name }) : event.reason }), 'warn');
        break;
      case 'bad_message':
        this.#toast(t('told.bad_message', { text: event.text }), 'warn');
        break;
      case 'paused':
        this.#announce(t(this.state.role === 'sharer' ? 'told.paused.self' : 'told.paused', { name }));
        break;
      case 'resumed':
        this.#announce(t(this.state.role === 'sharer' ? 'told.resumed.self' : 'told.resumed'));
        break;
      case 'chat':
        if (!document.activeElement?.closest('.chat')) this.#announce(t('chat.said', { name, text: event.text }));
        break;
      case 'chat_wanted':
        this.#main.querySelector('.chat textarea')?.focus();
        break;
      case 'peer_checked_words':
        this.#announce(t(event.same ? 'sas.theirs' : 'sas.theirs.differ', { name }));
        break;
      default:
    }
  }

  #announce(text) {
    this.#politely.textContent = text;
  }

  #toast(text, tone = 'plain') {
    const now = performance.now();
    if (now - (this.#toasted.get(text) ?? -Infinity) < REPEAT_MS) return;
    this.#toasted.set(text, now);
    const toast = h(`p.toast.${tone}`, icon(tone === 'warn' ? 'warn' : 'check'), h('span', text));
    this.#toasts.append(toast);
    setTimeout(() => toast.remove(), TOAST_MS);
  }
}

new App().start();
