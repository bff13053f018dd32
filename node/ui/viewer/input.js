// Keys and pointer over the picture → input events. Characters with a key of their own go as keysyms; what is composed
// (dead keys, input methods, pasting, dictation) lands in a hidden text field first and goes as text.

import { keysym } from '/viewer/keys.js';

const BUTTONS = [1, 2, 3, 8, 9];
/** Of one notch, in what the browser counts in: pixels, lines, pages. */
const NOTCH = [100, 3, 1];
const NOTCH_UNITS = 120;
const MAX_WHEEL = 1200;
const WINDOWS = /^Win/.test(navigator.platform);
const MAC = /^Mac/.test(navigator.platform);
const WAY_OUT = ['Control', 'Alt', 'Shift'];

export class Input {
  /** Takes the keyboard while it is focused. */
  field;
  #send;
  #surface;
  #wayOut;
  #held = new Map();
  #buttons = new Set();
  /** A dead key was struck: what follows belongs to the field. */
  #dead = false;
  #composing = false;
  #chord = new Set();
  #wheel = { dx: 0, dy: 0 };
  #on = false;

  /** `surface` is where the picture is; `wayOut` is called for the keys that lead back to the page. */
  constructor(field, surface, send, wayOut) {
    this.field = field;
    this.#surface = surface;
    this.#send = (...events) => send({ type: 'input', events });
    this.#wayOut = wayOut;
    field.addEventListener('keydown', (event) => this.#keyDown(event));
    field.addEventListener('keyup', (event) => this.#keyUp(event));
    field.addEventListener('beforeinput', (event) => this.#beforeInput(event));
    field.addEventListener('compositionstart', () => { this.#composing = true; });
    field.addEventListener('compositionend', (event) => this.#composed(event));
    field.addEventListener('paste', (event) => event.preventDefault());
    field.addEventListener('blur', () => this.releaseAll());
    surface.addEventListener('pointerdown', (event) => this.#button(event, true));
    surface.addEventListener('pointerup', (event) => this.#button(event, false));
    surface.addEventListener('pointercancel', () => this.releaseAll());
    surface.addEventListener('pointermove', (event) => this.#move(event));
    surface.addEventListener('wheel', (event) => this.#turn(event), { passive: false });
    surface.addEventListener('contextmenu', (event) => event.preventDefault());
    surface.addEventListener('dragstart', (event) => event.preventDefault());
    window.addEventListener('blur', () => this.releaseAll());
    window.addEventListener('pagehide', () => this.releaseAll());
    document.addEventListener('visibilitychange', () => document.hidden && this.releaseAll());
  }

  /** Whether anything is sent: control is granted, no drawing tool is taken. */
  set on(on) {
    if (this.#on && !on) this.releaseAll();
    this.#on = on;
  }

  get on() {
    return this.#on;
  }

  releaseAll() {
    const held = this.#held.size > 0 || this.#buttons.size > 0;
    this.#held.clear();
    this.#buttons.clear();
    this.#chord.clear();
    this.#dead = false;
    if (held) this.#send({ type: 'release_all' });
  }

  /** Where an event is in the source, 0 to 65535; the middle of its pixel, so that rounding hits that pixel again. */
  position({ clientX, clientY }) {
    const { left, top, width, height } = this.#surface.getBoundingClientRect();
    const part = (value, size) => Math.min(65535, Math.max(0, Math.round(((value + 0.5) / size) * 65535)));
    return { x: part(clientX - left, width), y: part(clientY - top, height) };
  }

  // ---- keys ----------------------------------------------------------------------------------

  #keyDown(event) {
    if (!this.#on) {
      // Nothing goes anywhere: Tab and the rest are the page's, and the field stays empty.
      if (event.key.length === 1 && !event.ctrlKey && !event.metaKey) event.preventDefault();
      return;
    }
    this.#follow(event);
    if (event.isComposing || this.#composing || event.keyCode === 229) return;
    const symbol = keysym(event);
    if (event.key === 'Dead') {
      this.#dead = true;
      return;
    }
    const printable = [...event.key].length === 1;
    if (this.#dead && printable && !event.ctrlKey) {
      // The browser is composing: the field gets the result.
      this.#dead = false;
      return;
    }
    if (symbol === 0) return;
    event.preventDefault();
    if (symbol === null) return;
    const events = [];
    if (WINDOWS && printable && event.getModifierState('AltGraph')) {
      // Windows shows AltGr as Control and Alt; the character already tells all of it.
      for (const code of ['ControlLeft', 'AltRight']) events.push(...this.#up(code));
    }
    events.push({ type: 'key', keysym: symbol, down: true });
    const lost = MAC && event.metaKey && event.key !== 'Meta';
    if (event.code && !lost) {
      // The same key under another character (Shift let go in between) must not stay behind.
      const before = this.#held.get(event.code);
      if (before !== undefined && before !== symbol) events.unshift({ type: 'key', keysym: before, down: false });
      this.#held.set(event.code, symbol);
    } else {
      // No key up will come.
      events.push({ type: 'key', keysym: symbol, down: false });
    }
    this.#send(...events);
  }

  #keyUp(event) {
    const out = this.#chord.size === WAY_OUT.length && WAY_OUT.includes(event.key) && !this.#chord.has('other');
    if (WAY_OUT.includes(event.key)) this.#chord.clear();
    const events = this.#up(event.code);
    if (events.length > 0) {
      event.preventDefault();
      this.#send(...events);
    }
    if (out) {
      this.releaseAll();
      this.#wayOut();
    }
  }

  #up(code) {
    const symbol = this.#held.get(code);
    this.#held.delete(code);
    return symbol === undefined ? [] : [{ type: 'key', keysym: symbol, down: false }];
  }

  /** Control, Alt and Shift together and nothing else. */
  #follow(event) {
    if (event.repeat) return;
    const key = event.key === 'Meta' && event.shiftKey && event.altKey ? 'Alt' : event.key;
    this.#chord.add(WAY_OUT.includes(key) ? key : 'other');
    if (!event.ctrlKey && !event.altKey && !event.shiftKey && !WAY_OUT.includes(key)) this.#chord.clear();
  }

  // ---- text ----------------------------------------------------------------------------------

  #beforeInput(event) {
    if (event.inputType === 'insertCompositionText') return;
    event.preventDefault();
    if (!this.#on || this.#composing) return;
    this.#dead = false;
    switch (event.inputType) {
      case 'insertText':
      case 'insertReplacementText':
      case 'insertFromComposition':
        this.#text(event.data ?? event.dataTransfer?.getData('text/plain'));
        break;
      case 'insertLineBreak':
      case 'insertParagraph':
        this.#press(0xff0d);
        break;
      case 'deleteContentBackward':
        this.#press(0xff08);
        break;
      default:
    }
  }

  #composed(event) {
    this.#composing = false;
    this.#dead = false;
    if (this.#on) this.#text(event.data);
    this.field.value = '';
  }

  #text(text) {
    // The field takes what people type, so a message has room for it; longer pieces go in several.
    for (let rest = [...(text ?? '')]; rest.length > 0; rest = rest.slice(1000)) {
      this.#send({ type: 'text', text: rest.slice(0, 1000).join('') });
    }
  }

  #press(symbol) {
    this.#send({ type: 'key', keysym: symbol, down: true }, { type: 'key', keysym: symbol, down: false });
  }

  // ---- pointer -------------------------------------------------------------------------------

  #move(event) {
    if (!this.#on || !event.isPrimary) return;
    this.#send({ type: 'pointer', ...this.position(event) });
  }

  #button(event, down) {
    const n = BUTTONS[event.button];
    if (!this.#on || !event.isPrimary || n === undefined) return;
    event.preventDefault();
    this.field.focus({ preventScroll: true });
    if (down) {
      this.#buttons.add(n);
      this.#surface.setPointerCapture(event.pointerId);
    } else if (!this.#buttons.delete(n)) {
      return;
    }
    this.#send({ type: 'pointer', ...this.position(event) }, { type: 'button', n, down });
  }

  #turn(event) {
    if (!this.#on) return;
    event.preventDefault();
    const notch = NOTCH[event.deltaMode] ?? 1;
    this.#wheel.dx += (event.deltaX / notch) * NOTCH_UNITS;
    this.#wheel.dy += (event.deltaY / notch) * NOTCH_UNITS;
    const whole = (value) => Math.max(-MAX_WHEEL, Math.min(MAX_WHEEL, Math.trunc(value)));
    const dx = whole(this.#wheel.dx);
    const dy = whole(this.#wheel.dy);
    if (dx === 0 && dy === 0) return;
    this.#wheel.dx -= dx;
    this.#wheel.dy -= dy;
    this.#send({ type: 'pointer', ...this.position(event) }, { type: 'wheel', dx, dy });
  }
}
