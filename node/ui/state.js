// What the page knows: a function of what it was told. `reduce` changes the state; nothing else does.

export function initial() {
  return {
    live: false,
    role: null,
    stage: 'boot',
    code: null,
    error: null,
    peer: null,
    permitted: null,
    warnings: [],
    words: null,
    mine: null,
    theirs: null,
    trustAt: 0,
    path: null,
    bytes: 0,
    rtt: null,
    asked: null,
    prompt: null,
    elevation: null,
    leaveWarning: null,
    mode: null,
    startedAt: 0,
    upgrade: null,
    paused: null,
    chat: [],
    screen: null,
    cursor: null,
    cursorAt: null,
    stats: null,
    drainAt: null,
    over: null,
    leaving: false,
  };
}

const FIRST = { helper: 'opening', sharer: 'join' };

/** What each event does to the state; `at` is when it happened, in performance.now()'s time. */
const EVENTS = {
  hello(state, event) {
    Object.assign(state, initial(), { role: event.role, stage: FIRST[event.role] ?? 'choose' });
  },
  live(state) {
    state.live = true;
  },
  you(state, event) {
    YOU[event.did]?.(state, event);
  },

  code(state, event, at) {
    state.stage = 'code';
    state.code = { text: event.code, qr: event.qr, valid: event.valid_s * 1000, until: at + event.valid_s * 1000, tries: 3 };
  },
  wrong_code(state, event) {
    if (state.code) state.code.tries = event.tries_left;
  },
  code_ended(state, event) {
    // A used code goes on as a session.
    if (event.why === 'CODE_USED') return;
    if (state.stage === 'code' || state.stage === 'opening') finish(state, { kind: 'code', reason: event.why, again: event.again });
  },
  join_failed(state, event) {
    state.stage = 'join';
    state.error = { code: event.code, text: event.text, tries: event.tries_left };
  },
  connected(state, event) {
    state.stage = 'meeting';
    state.path = `${event.path} via ${event.relay}`;
    state.rtt = event.rtt_ms;
  },
  trust(state, event, at) {
    Object.assign(state, { stage: 'trust', peer: event.peer, permitted: event.permitted ?? null, warnings: event.warnings ?? [], words: event.words, trustAt: at });
  },
  judged(state, event) {
    Object.assign(state, { permitted: event.permitted, warnings: event.warnings, peer: { ...state.peer, verified: event.verified } });
  },
  peer_checked_words(state, event) {
    state.theirs = event.same;
  },
  awaiting_consent(state, event, at) {
    const until = at + event.within_s * 1000;
    if (state.stage === 'active') state.upgrade = { until };
    else Object.assign(state, { stage: 'asked', asked: { ...state.asked, until } });
  },
  consent_prompt(state, event, at) {
    state.prompt = { mode: event.mode, upgrade: event.upgrade, until: at + event.within_s * 1000, answered: false };
    if (!event.upgrade) state.stage = 'prompt';
  },
  /** Unattended: silence is a yes. */
  countdown(state, event, at) {
    Object.assign(state, { stage: 'prompt', prompt: { mode: event.mode, upgrade: false, until: at + event.within_s * 1000, answered: false, starts: true } });
  },
  elevation_prompt(state) {
    state.elevation = 'asked';
  },
  elevation_granted(state) {
    state.elevation = 'granted';
  },
  elevation_declined(state) {
    state.elevation = null;
  },
  elevation_released(state) {
    state.elevation = null;
  },
  leave_warning(state, event) {
    state.leaveWarning = { signsOut: event.signs_out };
    state.leaving = false;
  },
  stayed(state) {
    state.leaveWarning = null;
  },
  started(state, event, at) {
    Object.assign(state, { stage: 'active', mode: event.mode, startedAt: at, prompt: null, asked: null });
  },
  mode_changed(state, event) {
    Object.assign(state, { mode: event.mode, prompt: null, upgrade: null });
  },
  upgrade_declined(state) {
    Object.assign(state, { prompt: null, upgrade: null });
  },
  chat(state, event) {
    state.chat.push({ mine: false, text: event.text });
  },
  /** Chat was pressed on the bar; nothing to keep. */
  chat_wanted() {},
  chat_sent(state, event) {
    state.chat.push({ mine: true, text: event.text });
  },
  paused(state, event) {
    state.paused = { by: event.by };
  },
  resumed(state) {
    state.paused = null;
  },
  screen(state, event) {
    state.screen = { width: event.width, height: event.height, sources: event.sources ?? [], source: event.source };
  },
  cursor(state, event) {
    state.cursor = { shape: event.shape, hot: event.hot ?? [0, 0] };
  },
  cursor_at(state, event) {
    state.cursorAt = { x: event.x, y: event.y };
  },
  path_moved(state, event) {
    state.path = event.path === 'direct' ? `direct ${event.address}` : `${event.path} via ${event.relay}`;
    state.rtt = event.rtt_ms;
  },
  path(state, event) {
    Object.assign(state, { path: event.text, rtt: event.rtt_ms, bytes: event.bytes });
  },
  stats(state, event) {
    state.stats = event;
  },
  /** Said when it comes; what it comes to, the path says. */
  relay_wish() {},
  /** Said when it comes; what it comes to, the session's end says. */
  starting() {},
  interrupted() {},
  reconnected() {},
  check() {},
  goes_on() {},
  shield() {},
  screen_covered() {},
  refused(state, event) {
    // Nobody waits for an answer to that.
    if (event.code === 'CHAT_BLOCKED_BY_POLICY') return;
    if (state.stage === 'asked') Object.assign(state, { stage: 'trust', asked: null });
    state.upgrade = null;
  },
  relay_lost() {},
  relay_back(state) {
    state.drainAt = null;
  },
  relay_draining(state, event, at) {
    state.drainAt = at + event.within_s * 1000;
  },
  not_possible(state) {
    if (state.stage === 'asked' && !state.asked?.until) Object.assign(state, { stage: 'trust', asked: null });
    if (state.upgrade && !state.upgrade.until) state.upgrade = null;
    if (state.prompt) state.prompt.answered = false;
  },
  failed(state, event) {
    finish(state, { kind: 'failed', reason: event.code, text: event.text, again: event.again });
  },
  ended(state, event) {
    finish(state, { kind: 'ended', reason: event.end_reason, receipt: event, again: event.again });
  },
};

/** What the person did, as the node has taken it. */
const YOU = {
  choose(state, { role }) {
    Object.assign(state, { role, stage: FIRST[role] });
  },
  join(state) {
    Object.assign(state, { stage: 'joining', error: null });
  },
  new_code(state) {
    Object.assign(state, { stage: FIRST[state.role] ?? 'choose', code: null, error: null, over: null });
  },
  words(state, { same }) {
    state.mine = same;
  },
  ask(state, { mode }) {
    if (state.stage === 'active') state.upgrade ??= { until: null };
    else Object.assign(state, { stage: 'asked', asked: { mode, until: null } });
  },
  allow(state) {
    if (state.prompt) state.prompt.answered = true;
  },
  decline(state) {
    if (state.prompt) state.prompt.answered = true;
  },
  leave(state) {
    state.leaving = true;
  },
};

function finish(state, over) {
  // The receipt says more than what led to it.
  if (state.over?.kind === 'ended') return;
  Object.assign(state, { stage: 'over', over, prompt: null, upgrade: null, elevation: null, leaveWarning: null, paused: null });
}

/** Applies an event; `false` for one that this page does not know. */
export function reduce(state, event, now) {
  const apply = Object.hasOwn(EVENTS, event.event) ? EVENTS[event.event] : null;
  apply?.(state, event, now - (event.ago_ms ?? 0));
  return apply !== null;
}

/** How to call the other person. */
export const peerName = (state) => state.peer?.full_name?.trim() || null;
