// The helper's session: the other screen, and the tools around it.

import { adminPanel } from '/admin.js';
import { chat } from '/chat.js';
import { h, id, say, set, show } from '/dom.js';
import { exchange } from '/exchange.js';
import { icon } from '/icons.js';
import { avatar, button, card, words } from '/parts.js';
import { symbolsOf } from '/sharer.js';
import { peerName } from '/state.js';
import { Input } from '/viewer/input.js';
import { Overlay } from '/viewer/overlay.js';
import { Surface } from '/viewer/surface.js';
import { aboutMs, bytes, clock, t } from '/words.js';

const COLOURS = { red: '#e5484d', amber: '#f5a524', green: '#30a46c', blue: '#3b82f6' };
const GAP = 8;

/** A tool of the bar: icon, name, and a bubble with the name or why it cannot be used. */
function tool(name, label, onclick) {
  const bubble = h('span.bubble', { id: id('why'), 'aria-hidden': 'true' }, label);
  const text = h('span.tool-label', label);
  const element = h('button.tool', { type: 'button', 'data-tool': name, 'aria-label': label }, icon(name), text, bubble);
  element.addEventListener('click', (event) => {
    if (element.getAttribute('aria-disabled') === 'true') {
      event.preventDefault();
      event.stopImmediatePropagation();
    } else {
      onclick?.(event);
    }
  });
  return {
    element,
    name(words) {
      if (element.getAttribute('aria-label') === words) return;
      element.setAttribute('aria-label', words);
      say(text, words);
      if (element.getAttribute('aria-disabled') !== 'true') say(bubble, words);
    },
    off(why) {
      set(element, 'aria-disabled', why ? 'true' : null);
      // Said along with the name, and shown by the bubble.
      set(element, 'aria-description', why);
      say(bubble, why || element.getAttribute('aria-label'));
    },
    pressed(on) {
      set(element, 'aria-pressed', on);
    },
    picture(other) {
      if (element.dataset.picture === other) return;
      element.dataset.picture = other;
      element.querySelector('.icon').replaceWith(icon(other));
    },
  };
}

/** A panel under a tool; closes by itself. */
function panel(opener, label, ...children) {
  const element = h('div.panel', { popover: 'auto', id: id('panel'), role: 'group', 'aria-label': label }, ...children);
  opener.setAttribute('popovertarget', element.id);
  opener.setAttribute('aria-haspopup', 'true');
  opener.setAttribute('aria-expanded', 'false');
  element.addEventListener('beforetoggle', ({ newState }) => {
    opener.setAttribute('aria-expanded', String(newState === 'open'));
  });
  element.addEventListener('toggle', ({ newState }) => {
    if (newState !== 'open') return;
    const from = opener.getBoundingClientRect();
    const { width } = element.getBoundingClientRect();
    const rtl = getComputedStyle(element).direction === 'rtl';
    const left = rtl ? from.right - width : from.left;
    element.style.left = `${Math.max(GAP, Math.min(left, innerWidth - width - GAP))}px`;
    element.style.top = `${from.bottom + GAP}px`;
    (element.querySelector('[aria-pressed="true"]') ?? element.querySelector('input, button'))?.focus();
  });
  return element;
}

function option(label, onclick) {
  return h('button.option', { type: 'button', 'aria-pressed': 'false', onclick }, icon('check'), h('span', { dir: 'auto' }, label));
}

/** Arrow keys walk a toolbar; Tab enters and leaves it (WAI-ARIA, toolbar pattern). */
function roving(bar) {
  const tools = () => [...bar.querySelectorAll('button')].filter((button) => !button.closest('.panel') && !button.hidden);
  const enter = (to) => {
    for (const button of tools()) button.tabIndex = button === to ? 0 : -1;
  };
  enter(tools()[0]);
  bar.addEventListener('focusin', ({ target }) => tools().includes(target) && enter(target));
  bar.addEventListener('keydown', (event) => {
    const all = tools();
    const at = all.indexOf(event.target);
    if (at < 0) return;
    const forward = getComputedStyle(bar).direction === 'rtl' ? 'ArrowLeft' : 'ArrowRight';
    const backward = forward === 'ArrowLeft' ? 'ArrowRight' : 'ArrowLeft';
    const to = { [forward]: at + 1, [backward]: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    all[(to + all.length) % all.length].focus();
  });
}

export function viewerScreen(app) {
  let fit = 'fit';
  let chatOpen = false;
  let read = app.state.chat.length;
  const size = { width: 0, height: 0 };

  // ---- the picture ---------------------------------------------------------------------------
  const surface = new Surface({
    drawn: (info) => drawn(info),
    keyFrame: () => app.send({ type: 'key_frame' }),
    inPage: new URLSearchParams(location.search).has('paint-in-page'),
  });
  const field = h('textarea.keys', { id: id('keys'), autocomplete: 'off', autocapitalize: 'none', autocorrect: 'off', spellcheck: 'false', rows: '1' });
  const glass = h('div.glass');
  const input = new Input(field, glass, app.send, () => control.element.focus());
  const overlay = new Overlay(glass, app.send, (event) => input.position(event));
  const picture = h('div.picture', surface.canvas, overlay.element, glass, field);
  const first = h('p.first', h('span.pulse', { 'aria-hidden': 'true' }), h('span', t('view.first')));
  const curtain = h('div.curtain', { hidden: true }, icon('pause'), h('h2'), h('p', t('view.paused.text')));
  const stage = h('div.stage', { tabindex: '-1' }, picture, first, curtain);
  surface.canvas.setAttribute('role', 'img');
  let inside = false;
  glass.addEventListener('pointerenter', () => { inside = true; });
  glass.addEventListener('pointerleave', () => { inside = false; });
  glass.addEventListener('pointermove', () => input.on && overlay.ownMove());
  glass.addEventListener('click', () => field.focus({ preventScroll: true }));

  // ---- tools, in the order help desks know ---------------------------------------------------
  const control = tool('control', t('tool.control'), () => app.send(app.state.mode === 'control' ? { type: 'drop' } : { type: 'ask', mode: 'control' }));
  const elevate = tool('elevate', t('tool.elevate'), () => app.send({ type: app.state.elevated ? 'release' : 'elevate' }));
  const monitor = tool('monitor', t('tool.monitor'));
  const sources = h('div.options');
  const monitors = panel(monitor.element, t('tool.monitor.title'), sources);
  const laser = tool('laser', t('tool.laser'), () => take('laser'));
  const pen = tool('pen', t('tool.pen'), () => take('pen'));
  const sizes = tool('size', t('tool.size'));
  const sizeOptions = {
    fit: option(t('tool.size.fit'), () => resize('fit')),
    full: option(t('tool.size.full'), () => resize('full')),
    screen: option(t('tool.size.screen'), () => fullScreen()),
  };
  const sizePanel = panel(sizes.element, t('tool.size'), h('div.options', ...Object.values(sizeOptions)));
  const talkTool = tool('chat', t('tool.chat'), () => openChat(!chatOpen));
  const unread = h('span.count', { hidden: true, 'aria-hidden': 'true' });
  talkTool.element.append(unread);
  const swap = tool('swap', t('exchange.title'));
  const shares = exchange(app);
  const sharesPanel = panel(swap.element, t('exchange.title'), shares.element);
  const restart = tool('restart', t('tool.restart'), () => app.send({ type: 'restart' }));
  const tasks = tool('tasks', t('tool.tasks'));
  tasks.off(t('tool.tasks.why'));
  const over = tool('handover', t('tool.handover'));
  const overPanel = panel(over.element, t('tool.handover'), handoverForm());
  const pathText = h('span.path-text', { dir: 'auto' });
  const pathShort = h('span.path-short');
  const path = h('button.path', { type: 'button', 'aria-description': t('tool.path.stats') },
    h('span.path-dot', { 'aria-hidden': 'true' }), h('span.visually-hidden', t('share.path')), pathText, pathShort);
  const leave = h('button.button.leave', { type: 'button', onclick: () => app.send({ type: 'leave' }) }, icon('leave'), h('span', t('leave')));

  // Who it is, always at hand.
  const who = h('button.person', { type: 'button' });
  const check = words(app);
  const whoCard = h('div');
  const whoPanel = panel(who, t('card.label'), h('div.who-panel', whoCard, check.element));

  const numbers = h('dl.facts');
  const statsPanel = panel(path, t('stats.title'), h('div.stats', h('h2', t('stats.title')), numbers));

  const bar = h('div.bar', { role: 'toolbar', 'aria-label': t('view.tools') },
    who, h('div.tools', control.element, elevate.element, monitor.element, laser.element, pen.element, sizes.element, talkTool.element, swap.element, restart.element, tasks.element, over.element), path, leave);
  roving(bar);

  // Colours and wiping, while a drawing tool is taken.
  const swatches = Object.entries(COLOURS).map(([name, value]) => {
    const swatch = h(`button.swatch.${name}`, { type: 'button', 'aria-pressed': String(name === 'red'), 'aria-label': t(`colour.${name}`) }, icon('check'));
    swatch.addEventListener('click', () => {
      overlay.colour = value;
      for (const other of swatches) set(other, 'aria-pressed', String(other === swatch));
    });
    return swatch;
  });
  const wipe = h('button.button.small', { type: 'button', onclick: () => overlay.clear() }, t('tool.pen.clear'));
  const drawing = h('div.drawing', { role: 'group', 'aria-label': t('tool.colour'), hidden: true }, ...swatches, wipe);

  const hint = h('p.hint', { hidden: true }, h('span'), h('span.keycaps', { dir: 'ltr' }, h('kbd', 'Ctrl'), '+', h('kbd', 'Alt'), '+', h('kbd', 'Shift')), h('span', t('keys.out')));
  const hintId = id('keys-hint');
  const label = h('label.visually-hidden', { for: field.id, id: hintId });
  const talk = chat(app, { close: () => openChat(false) });
  talk.element.hidden = true;
  const heading = h('h1.visually-hidden', { tabindex: '-1' });
  const banner = h('p.strip.warn.banner', { role: 'status', hidden: true }, icon('warn'), h('span'));
  const admin = adminPanel(app);
  const element = h('div.viewer', heading, bar, banner, admin.element, h('div.viewer-main', drawing, stage, talk.element), hint, label,
    monitors, sizePanel, sharesPanel, whoPanel, statsPanel, overPanel);

  // ---- what the tools do ---------------------------------------------------------------------

  function take(which) {
    overlay.tool = overlay.tool === which ? 'none' : which;
    app.refresh();
  }

  /** The other helper's code, which only the sharer gets. */
  function handoverForm() {
    const code = h('input.text', { id: id('handover'), type: 'text', autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false', maxlength: '24', dir: 'ltr' });
    const problem = h('p.note.bad', { role: 'alert', hidden: true }, icon('warn'), h('span', t('handover.no_code')));
    return h('form.handover', {
      novalidate: true,
      onsubmit: (event) => {
        event.preventDefault();
        const { symbols, wrong } = symbolsOf(code.value);
        const fits = symbols.length === 8 && wrong === null;
        show(problem, !fits);
        if (!fits) return;
        app.send({ type: 'hand_over', code: symbols.join('') });
        code.value = '';
        overPanel.hidePopover();
      },
    }, h('label', { for: code.id }, t('handover.code')), code, problem, h('p.quiet', t('handover.text')), button('button.main', { type: 'submit', label: t('handover.go') }));
  }

  /** Why the tools that need more than control cannot be used now; null: they can. */
  function hindrance(state, what) {
    const name = peerName(state);
    if (state.handingOver) return t('handover.going', { name });
    if (state.upgrade) return t(`asked.more.${state.upgrade.what}`, { name });
    if (state.lacks[what]) return t(`refused.${state.lacks[what]}`);
    if (what === 'handover') return state.shield ? t('tool.handover.unattended') : null;
    if (what === 'elevation' && state.permitted && !state.permitted.permissions?.includes('elevation')) return t('refused.NO_PERMISSION');
    if (state.mode !== 'control') return t('tool.needs_control');
    return what === 'restart' && !state.elevated ? t('tool.restart.elevated') : null;
  }

  function hindranceOfControl(state) {
    const name = peerName(state);
    if (state.handingOver) return t('handover.going', { name });
    if (state.upgrade) return t(state.upgrade.what === 'control' ? 'asked.title.control' : `asked.more.${state.upgrade.what}`, { name });
    const { permitted } = state;
    if (!permitted || permitted.mode === 'control') return null;
    return permitted.text ? t('ask.limit', { why: permitted.text }) : t('ask.role');
  }

  /** What the helper has to bear in mind all the time (guide, U-7, U-5). */
  function bearInMind(state, now) {
    if (state.handingOver) return t('handover.going', { name: peerName(state) });
    if (state.shield?.now === 'frozen') return t('shield.frozen', { time: clock(state.shield.until - now) });
    if (state.elevated) return t('elevated.banner');
    return state.shield ? t('unattended.banner') : null;
  }

  function resize(how) {
    fit = how;
    sizePanel.hidePopover();
    layout();
    app.refresh();
  }

  async function fullScreen() {
    sizePanel.hidePopover();
    if (document.fullscreenElement) {
      await document.exitFullscreen();
      return;
    }
    await element.requestFullscreen({ navigationUI: 'hide' }).catch(() => {});
    // Then keys that the browser or the desktop would take come here too, where the browser lets them.
    await navigator.keyboard?.lock?.().catch(() => {});
  }

  function openChat(open) {
    chatOpen = open;
    show(talk.element, open);
    if (open) talk.focus();
    else talkTool.element.focus();
    layout();
    app.refresh();
  }

  function layout() {
    if (!size.width) return;
    const ratio = window.devicePixelRatio || 1;
    const natural = { width: size.width / ratio, height: size.height / ratio };
    const scale = fit === 'fit' ? Math.min(1, stage.clientWidth / natural.width, stage.clientHeight / natural.height) : 1;
    stage.classList.toggle('scrolls', fit === 'full');
    stage.tabIndex = fit === 'full' ? 0 : -1;
    picture.style.width = `${natural.width * scale}px`;
    picture.style.height = `${natural.height * scale}px`;
    // At its own size every pixel stays what it is.
    picture.classList.toggle('exact', scale === 1);
  }

  const watch = new ResizeObserver(layout);
  watch.observe(stage);
  const onFullScreen = () => {
    element.classList.toggle('full', Boolean(document.fullscreenElement));
    if (!document.fullscreenElement) navigator.keyboard?.unlock?.();
    layout();
    app.refresh();
  };
  document.addEventListener('fullscreenchange', onFullScreen);

  // ---- frames --------------------------------------------------------------------------------
  const meter = { since: performance.now(), frames: 0, bytes: 0, decode: 0, shown: { fps: 0, rate: 0, decode: 0 } };

  function drawn(info) {
    if (!info.quiet) app.send({ type: 'ack', sequence: info.sequence, decode_ms: Math.round(Math.max(0, info.decode_ms)) });
    meter.frames += 1;
    meter.bytes += info.bytes;
    meter.decode += info.decode_ms;
    show(first, false);
    if (size.width !== info.width || size.height !== info.height) {
      size.width = info.width;
      size.height = info.height;
      overlay.resize(info.width, info.height);
      layout();
    }
  }

  function measure(now) {
    const span = (now - meter.since) / 1000;
    if (span < 0.9) return;
    meter.shown = { fps: meter.frames / span, rate: meter.bytes / span, decode: meter.frames ? meter.decode / meter.frames : 0 };
    Object.assign(meter, { since: now, frames: 0, bytes: 0, decode: 0 });
  }

  function statistics(state) {
    const { fps, rate, decode } = meter.shown;
    const rows = [
      ['stats.path', state.path ?? t('tool.path.none')],
      ['stats.rtt', state.rtt === null ? '–' : aboutMs(state.rtt)],
      ['stats.size', size.width ? `${size.width} × ${size.height}` : '–'],
      ['stats.fps', fps.toFixed(0)],
      ['stats.decode', `${decode.toFixed(1)} ms`],
      ['stats.rate', bytes(rate)],
      ['stats.total', bytes(state.bytes ?? 0)],
      ['stats.lossless', t(surface.last?.lossless ? 'stats.lossless.yes' : 'stats.lossless.no')],
    ];
    for (const [name, value] of Object.entries(state.stats ?? {})) {
      if (name !== 'event') rows.push([name, typeof value === 'number' ? String(Math.round(value * 10) / 10) : String(value)]);
    }
    numbers.replaceChildren(...rows.map(([key, value]) => h('div', h('dt', t(key)), h('dd', { dir: 'auto' }, value))));
  }

  // ---- what is shown -------------------------------------------------------------------------
  let peer = null;
  let warned = null;
  let choices = '';
  let mode = null;

  function pickSources(state) {
    const list = state.screen?.sources ?? [];
    monitor.off(list.length > 1 ? null : t('tool.monitor.why', { name: peerName(state) }));
    set(monitor.element, 'popovertarget', list.length > 1 ? monitors.id : null);
    const key = JSON.stringify([list, state.screen?.source]);
    if (choices === key) return;
    choices = key;
    const group = (kind) => {
      const own = list.filter((source) => source.kind === kind);
      return own.length === 0 ? [] : [h('p.options-title', t(kind === 'window' ? 'tool.monitor.windows' : 'tool.monitor.screens')), ...own.map(({ id: source, name, width, height }) => {
        const made = option(`${name} · ${width} × ${height}`, () => {
          monitors.hidePopover();
          app.send({ type: 'select', source });
        });
        set(made, 'aria-pressed', String(source === state.screen.source));
        return made;
      })];
    };
    sources.replaceChildren(...group('monitor'), ...group('window'));
  }

  return {
    element,
    wide: true,
    frame: (buffer) => surface.push(buffer),
    surface,
    ready: () => app.send({ type: 'ready' }),
    focus: () => (app.state.mode === 'control' ? field : heading).focus({ preventScroll: true }),
    close() {
      input.releaseAll();
      watch.disconnect();
      document.removeEventListener('fullscreenchange', onFullScreen);
      if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
      surface.close();
    },
    update(state, now) {
      const name = peerName(state);
      const controls = state.mode === 'control';
      if ((peer !== state.peer || warned !== state.warnings) && state.peer) {
        ({ peer, warnings: warned } = state);
        whoCard.replaceChildren(card(peer, warned));
        who.replaceChildren(avatar(peer), h('span.person-name', h('strong', { dir: 'auto' }, name), h('span.person-mode')));
      }
      if (mode !== state.mode) {
        // Typing goes where the eyes are, and no further than is allowed.
        if (controls && state.live && !talk.element.contains(document.activeElement)) field.focus({ preventScroll: true });
        mode = state.mode;
      }
      field.tabIndex = controls ? 0 : -1;
      input.on = controls && !state.paused && !state.handingOver && overlay.tool === 'none';
      say(heading, t('view.screen', { name }));
      set(surface.canvas, 'aria-label', t('view.screen', { name }));
      say(label, t('keys.field', { name }));
      say(who.querySelector('.person-mode'), t(`view.mode.${state.mode}`));
      check.update(state);

      const asked = (what) => state.upgrade?.what === what && t('tool.control.asked', { time: state.upgrade.until ? clock(state.upgrade.until - now) : '' });
      control.name(asked('control') || t(controls ? 'tool.control.drop' : 'tool.control'));
      control.picture(controls ? 'drop' : 'control');
      control.pressed(controls ? 'true' : null);
      control.off(controls ? null : hindranceOfControl(state));
      elevate.name(asked('elevation') || t(state.elevated ? 'tool.elevate.end' : 'tool.elevate'));
      elevate.pressed(state.elevated ? 'true' : null);
      elevate.off(state.elevated ? null : hindrance(state, 'elevation'));
      restart.name(asked('restart') || t('tool.restart'));
      restart.off(hindrance(state, 'restart'));
      over.name(asked('handover') || t('tool.handover'));
      const stays = hindrance(state, 'handover');
      over.off(stays);
      set(over.element, 'popovertarget', stays ? null : overPanel.id);
      const mind = bearInMind(state, now);
      show(banner, mind !== null);
      say(banner.lastChild, mind ?? '');
      admin.update(state);
      pickSources(state);
      laser.pressed(String(overlay.tool === 'laser'));
      pen.pressed(String(overlay.tool === 'pen'));
      show(drawing, overlay.tool !== 'none');
      show(wipe, overlay.tool === 'pen');
      element.dataset.tool = overlay.tool;
      element.dataset.mode = state.mode;
      set(sizeOptions.fit, 'aria-pressed', String(fit === 'fit'));
      set(sizeOptions.full, 'aria-pressed', String(fit === 'full'));
      set(sizeOptions.screen, 'aria-pressed', String(Boolean(document.fullscreenElement)));
      say(sizeOptions.screen.lastChild, t(document.fullscreenElement ? 'tool.size.leave' : 'tool.size.screen'));

      shares.update(state);
      talk.update(state);
      if (chatOpen) read = state.chat.length;
      const news = state.chat.slice(read).filter(({ mine }) => !mine).length;
      show(unread, news > 0);
      say(unread, String(news));
      talkTool.name(news > 0 ? t('tool.chat.unread', { n: news }) : t('tool.chat'));
      talkTool.pressed(String(chatOpen));

      say(pathText, state.path ?? t('tool.path.none'));
      say(pathShort, state.rtt === null ? '–' : aboutMs(state.rtt));
      measure(now);
      if (statsPanel.matches(':popover-open')) statistics(state);

      overlay.shape(state.cursor);
      if (state.cursorAt) overlay.pointerAt(state.cursorAt.x, state.cursorAt.y, inside && input.on);
      const [hotX, hotY] = state.cursor?.hot ?? [0, 0];
      const shaped = input.on && state.cursor?.shape ? `url("${state.cursor.shape}") ${hotX} ${hotY}, default` : '';
      if (glass.style.cursor !== shaped) glass.style.cursor = shaped;

      show(curtain, Boolean(state.paused));
      say(curtain.querySelector('h2'), t('view.paused', { name }));
      const typing = input.on && document.activeElement === field;
      show(hint, typing || (input.on && !hint.hidden));
      hint.classList.toggle('idle', !typing);
      say(hint.firstChild, t(typing ? 'keys.hint' : 'keys.idle', { name }));
      element.classList.toggle('typing', typing);
    },
  };
}
