// The way to the node: in by the token once, then a WebSocket that is set up again when it breaks.

const KEY = 'remora.key';
const PROTOCOL = 'remora.1';
const REPLACED = 4001;
const GOING_AWAY = 1001;
const RETRY_MS = [100, 250, 500, 1000, 2000];
/** After that many seconds without the node, it is gone. */
const GIVE_UP_MS = 8000;

/** Takes the token out of the address and trades it for the cookie. Returns why not, or null. */
export async function enter() {
  const token = location.hash.slice(1);
  if (token) history.replaceState(null, '', location.pathname + location.search);
  if (token) {
    const answer = await fetch('/session', { method: 'POST', body: token }).catch(() => null);
    if (answer?.ok) {
      localStorage.setItem(KEY, (await answer.json()).key);
      return null;
    }
    // Opened before, in this browser: then it is still welcome.
    if (localStorage.getItem(KEY)) return null;
    const { error } = (await answer?.json().catch(() => null)) ?? {};
    return error === 'TOKEN_USED' ? 'used' : answer ? 'unknown' : 'gone';
  }
  return localStorage.getItem(KEY) ? null : 'none';
}

/** What a request has to carry beside the cookie. */
export const passKey = () => localStorage.getItem(KEY);

export class Link {
  #socket = null;
  #heard;
  #frame;
  #changed;
  #failures = 0;
  #lostAt = 0;
  #closed = false;

  /** `heard(event)`, `frame(ArrayBuffer)`, `changed('open' | 'lost' | 'replaced' | 'gone' | 'refused')`. */
  constructor({ heard, frame, changed }) {
    this.#heard = heard;
    this.#frame = frame;
    this.#changed = changed;
  }

  connect() {
    const key = localStorage.getItem(KEY);
    const socket = new WebSocket(`ws://${location.host}/live`, [PROTOCOL, `key.${key}`]);
    this.#socket = socket;
    this.#closed = false;
    socket.binaryType = 'arraybuffer';
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.#failures = 0;
      this.#lostAt = 0;
      this.#changed('open');
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === 'string') this.#heard(JSON.parse(data));
      else this.#frame(data);
    };
    socket.onclose = ({ code }) => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      if (code === REPLACED) this.#changed('replaced');
      else if (code === GOING_AWAY || this.#closed) this.#changed('gone');
      else this.#retry(opened);
    };
  }

  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  async #retry(opened) {
    this.#lostAt ||= performance.now();
    // A refusal looks like a failure here; only a plain request tells them apart.
    const answer = opened ? null : await fetch('/icon.svg', { method: 'HEAD' }).catch(() => null);
    if (answer?.ok && this.#failures > 1) {
      this.#changed('refused');
      return;
    }
    if (performance.now() - this.#lostAt > GIVE_UP_MS) {
      this.#changed('gone');
      return;
    }
    this.#changed('lost');
    const wait = RETRY_MS[Math.min(this.#failures, RETRY_MS.length - 1)];
    this.#failures += 1;
    setTimeout(() => this.connect(), wait);
  }
}
