// What the page knows: a function of what it was told. `reduce` changes the state; nothing else does.

export function initial() {
  return {
    live: false,
    role: null,
    stage: 'boot',
    code: null,
    invited: null,
    error: null,
    peer: null,
    permitted: null,
    warnings: [],
    words: null,
    /** Nobody is there to compare them with. */
    alone: false,
    mine: null,
    mineAt: 0,
    theirs: null,
    trustAt: 0,
    path: null,
    bytes: 0,
    rtt: null,
    asked: null,
    prompt: null,
    mode: null,
    startedAt: 0,
    /** Helper: what was asked for within the session, and until when it is waited for. */
    upgrade: null,
    /** Sharer: what is asked within the session, but for control. */
    question: null,
    elevated: false,
    /** What those rights are used for: whether somebody vouches, what was refused, what was run. */
    admin: null,
    /** Why something cannot be had in this session, as it was refused. */
    lacks: {},
    /** Somebody has to say that it goes on. */
    check: null,
    /** Sharer: what leaving means. */
    warning: null,
    /** Unattended: what is done about whoever walks by. */
    shield: null,
    /** Helper: the sharer is on the way to another one. */
    handingOver: false,
    /** Sharer: the session that goes on behind this one. */
    behind: null,
    paused: null,
    chat: [],
    screen: null,
    cursor: null,
    cursorAt: null,
    stats: null,
    drainAt: null,
    /** The sharer's computer restarts; it is waited for until then. */
    restartUntil: null,
    over: null,
    leaving: false,
    picture: null,
    granted: [],
    wanted: [],
    offered: 0,
    clipboard: null,
    files: new Map(),
    /** Help desk: devices, and what may be asked for. */
    lobby: null,
    /** ... which of them are there, and the sessions that were begun. */
    presences: null,
    /** Who waits for the help desk. */
    requests: [],
    calls: new Map(),
  };
}

/** Refusals that are the same when one asks again. */
const LASTING = new Set(['UNSUPPORTED', 'NO_PERMISSION', 'ELEVATION_BLOCKED_BY_POLICY', 'RESTART_UNAVAILABLE']);

/** Commands that the page remembers, and how much of what each wrote. */
const MAX_RUNS = 20;
const MAX_RUN_TEXT = 20_000;

/** The sharer is asked for more. */
function ask(what) {
  return (state, event, at) => {
    state.question = { what, at, until: at + event.within_s * 1000, answered: false };
  };
}

/** No; the session goes on. */
function answered(state) {
  Object.assign(state, { question: null, upgrade: null });
}

/** The sharer has answered, and the session has not yet taken note. */
function said(state) {
  for (const asked of [state.prompt, state.question]) if (asked) asked.answered = true;
}
/** A node refuses at once. */
const ANSWERED_MS = 1000;
/** Each side counts its own. */
const fileKey = ({ direction, number }) => `${direction} ${number}`;

/** Refusals of what nobody waits for an answer to. */
const UNASKED = ['CHAT_BLOCKED_BY_POLICY', 'CLIPBOARD_BLOCKED_BY_POLICY', 'FILES_BLOCKED_BY_POLICY', 'UNVERIFIED'];

const FIRST = { helper: 'opening', sharer: 'join' };

/** What each event does to the state; `at` is when it happened, in performance.now()'s time. */
const EVENTS = {
  hello(state, event) {
    Object.assign(state, initial(), { role: event.role, stage: FIRST[event.role] ?? 'choose' });
  },
  live(state) {
    state.live = true;
  },
  lobby(state, event) {
    Object.assign(state, { stage: 'lobby', lobby: event });
  },
  requests(state, event) {
    state.requests = event.requests;
  },
  presences(state, event) {
    state.presences = event;
  },
  call(state, event) {
    state.calls.set(event.number, event);
  },
  you(state, event, at) {
    YOU[event.did]?.(state, event, at);
  },

  code(state, event, at) {
    state.stage = 'code';
    state.code = { text: event.code, link: event.link ?? null, qr: event.qr, valid: event.valid_s * 1000, until: at + event.valid_s * 1000, tries: 3 };
  },
  wrong_code(state, event) {
    if (state.code) state.code.tries = event.tries_left;
  },
  /** Whose device is invited. */
  device(state, event) {
    Object.assign(state, { peer: event.peer, warnings: event.warnings });
  },
  /** How the invitation fares. */
  notification(state, event, at) {
    // Whoever opened it may be there already.
    if (state.stage !== 'opening' && state.stage !== 'invited') return;
    state.stage = 'invited';
    state.invited = { state: event.state, agents: event.agents, until: event.within_s ? at + event.within_s * 1000 : 0 };
  },
  code_ended(state, event) {
    // A used code goes on as a session.
    if (event.why === 'CODE_USED') return;
    if (['code', 'invited', 'opening'].includes(state.stage)) finish(state, { kind: 'code', reason: event.why, again: event.again });
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
    Object.assign(state, { stage: 'trust', peer: { ...event.peer, picture: state.picture }, permitted: event.permitted ?? null, warnings: event.warnings ?? [], words: event.words, alone: event.alone ?? false, trustAt: at });
  },
  judged(state, event) {
    Object.assign(state, { permitted: event.permitted, warnings: event.warnings, lacks: {}, peer: { ...state.peer, verified: event.verified } });
  },
  peer_checked_words(state, event) {
    state.theirs = event.same;
  },
  awaiting_consent(state, event, at) {
    const until = at + event.within_s * 1000;
    if (state.stage === 'active') state.upgrade = { what: state.upgrade?.what ?? 'control', until };
    else Object.assign(state, { stage: 'asked', asked: { ...state.asked, until } });
  },
  consent_prompt(state, event, at) {
    state.prompt = { mode: event.mode, upgrade: event.upgrade, until: at + event.within_s * 1000, answered: false };
    if (!event.upgrade) state.stage = 'prompt';
  },
  /** Nobody need to be there: silence is a yes. */
  countdown(state, event, at) {
    Object.assign(state, { stage: 'prompt', prompt: { mode: event.mode, upgrade: false, countdown: true, until: at + event.within_s * 1000, answered: false } });
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
  picture(state, event) {
    state.picture = event.picture;
    if (state.peer) state.peer = { ...state.peer, picture: event.picture };
  },
  granted(state, event) {
    Object.assign(state, { granted: event.granted, wanted: [] });
    if (event.granted.length === 0) Object.assign(state, { offered: 0 });
  },
  grant_wanted(state, event) {
    state.wanted = [...state.wanted, ...event.wanted];
  },
  clipboard_offered(state, event) {
    state.offered = event.bytes;
  },
  clipboard(state, event) {
    state.clipboard = event.text;
  },
  file_offered(state, event) {
    state.files.set(fileKey(event), { ...event, done: null, over: null, path: null });
  },
  file_progress(state, event) {
    const file = state.files.get(fileKey(event));
    if (file) file.done = event.done;
  },
  file_over(state, event) {
    const file = state.files.get(fileKey(event));
    if (file) Object.assign(file, { over: event.code, path: event.path });
  },
  /** Said when it comes; what it comes to, the path says. */
  relay_wish() {},
  /** Said when it comes; what it comes to, the session's end says. */
  starting() {},
  interrupted(state, event, at) {
    Object.assign(state, { check: null, question: null, upgrade: null });
    if (event.why === 'restarting') state.restartUntil = at + event.within_s * 1000;
  },
  /** The computer has restarted: the same session, in another connection, which has other words. */
  returned(state, event) {
    Object.assign(state, { peer: { ...event.peer, picture: state.picture }, permitted: event.permitted ?? null, warnings: event.warnings ?? [], words: event.words, mine: null, theirs: null });
  },
  reconnected(state, event, at) {
    if (state.stage !== 'active') state.startedAt = at;
    Object.assign(state, { stage: 'active', mode: event.mode, restartUntil: null });
  },
  check(state, event, at) {
    state.check = { why: event.why, ours: event.ours, until: at + event.within_s * 1000 };
  },
  goes_on(state) {
    state.check = null;
  },
  elevation_prompt: ask('elevation'),
  elevation_granted(state) {
    Object.assign(state, { elevated: true, question: null, upgrade: null });
  },
  elevation_declined: answered,
  elevation_released(state) {
    Object.assign(state, { elevated: false, admin: null });
  },
  elevation_ready(state) {
    state.admin = { admitted: null, refused: null, runs: [] };
  },
  credential_checked(state, event) {
    if (state.admin) Object.assign(state.admin, { admitted: event.admitted, refused: null });
  },
  order_refused(state, event) {
    if (state.admin) state.admin.refused = { code: event.code, text: event.text };
  },
  run_started(state, event) {
    if (!state.admin) return;
    const runs = [...state.admin.runs, { order: event.order, command: event.command, text: '', status: null }];
    Object.assign(state.admin, { refused: null, runs: runs.slice(-MAX_RUNS) });
  },
  run_output(state, event) {
    const run = state.admin?.runs.find(({ order }) => order === event.order);
    if (run) run.text = (run.text + event.text).slice(-MAX_RUN_TEXT);
  },
  run_ended(state, event) {
    const run = state.admin?.runs.find(({ order }) => order === event.order);
    if (run) run.status = event.status;
  },
  restart_prompt: ask('restart'),
  restart_declined: answered,
  no_restart(state, event) {
    state.lacks = { ...state.lacks, restart: event.code };
  },
  handover_prompt: ask('handover'),
  handing_over(state) {
    Object.assign(state, { handingOver: true, question: null, upgrade: null });
  },
  handover_declined: answered,
  handover_failed(state) {
    state.handingOver = false;
  },
  /** Sharer: the other helper's session is in front; what there was goes on behind it. */
  handover_joined(state) {
    const behind = { ...state };
    Object.assign(state, initial(), { live: state.live, role: state.role, stage: 'meeting', behind });
  },
  behind(state, event, at) {
    if (!state.behind) return;
    reduce(state.behind, event.told, at);
    if (state.behind.over) state.behind = null;
  },
  handover_over(state) {
    if (state.behind) Object.assign(state, state.behind, { live: state.live, behind: null });
  },
  shield(state, event, at) {
    state.shield = { now: event.shield, until: at + event.within_s * 1000 };
  },
  screen_covered() {},
  leave_warning(state, event) {
    Object.assign(state, { warning: { signsOut: event.signs_out }, leaving: false });
  },
  stayed(state) {
    state.warning = null;
  },
  refused(state, event) {
    // Nobody waits for an answer to that.
    if (UNASKED.includes(event.code)) return;
    if (state.stage === 'asked') Object.assign(state, { stage: 'trust', asked: null });
    if (state.upgrade && LASTING.has(event.code)) state.lacks = { ...state.lacks, [state.upgrade.what]: event.code };
    state.upgrade = null;
  },
  relay_lost() {},
  relay_back(state) {
    state.drainAt = null;
  },
  relay_draining(state, event, at) {
    state.drainAt = at + event.within_s * 1000;
  },
  not_possible(state, event, at) {
    // That the words are the same was said while the helper could have pressed it.
    if (event.code === 'HELPER_AT_WORK' && at - state.mineAt < ANSWERED_MS) state.mine = null;
    if (state.stage === 'asked' && !state.asked?.until) Object.assign(state, { stage: 'trust', asked: null });
    if (state.upgrade && !state.upgrade.until) state.upgrade = null;
    if (state.prompt) state.prompt.answered = false;
    if (state.question) state.question.answered = false;
  },
  failed(state, event) {
    if (!state.over) finish(state, { kind: 'failed', reason: event.code, text: event.text, again: event.again });
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
  words(state, { same }, at) {
    Object.assign(state, { mine: same, mineAt: at });
  },
  ask(state, { mode }) {
    if (state.stage === 'active') state.upgrade ??= { what: 'control', until: null };
    else Object.assign(state, { stage: 'asked', asked: { mode, until: null } });
  },
  /** For what takes more than a mode. */
  ask_more(state, { what }) {
    if (state.stage === 'active') state.upgrade ??= { what, until: null };
  },
  allow: said,
  allow_more: said,
  decline: said,
  leave(state) {
    state.leaving = true;
  },
};

function finish(state, over) {
  // The receipt says more than what led to it.
  if (state.over?.kind === 'ended') return;
  Object.assign(state, { stage: 'over', over, prompt: null, upgrade: null, question: null, check: null, warning: null, paused: null });
}

/** Applies an event; `false` for one that this page does not know. */
export function reduce(state, event, now) {
  const apply = Object.hasOwn(EVENTS, event.event) ? EVENTS[event.event] : null;
  apply?.(state, event, now - (event.ago_ms ?? 0));
  return apply !== null;
}

/** How to call the other person. */
export const peerName = (state) => state.peer?.full_name?.trim() || null;
