//! The session of two people who have an inner connection: trust, consent, mode, chat, what goes on beside, end.
//!
//! ```text
//!          nonces open         helper asks          allowed            screen is up
//! JOINING ────────────▶ TRUST ─────────────▶ CONSENT ────▶ STARTING ────────────▶ ACTIVE{VIEW ⇄ CONTROL}
//!                                 └────────▶ COUNTDOWN ──┘                           │ ▲           │
//!                                            (unattended)                      T_lost│ │heard      │ sharer leaves,
//!                                                                                    ▼ │           ▼ elevated before
//!  from any of them: leave, decline, mismatch, time, loss, kill ─▶ ENDED     INTERRUPTED ──────▶ ENDING
//!
//!  beside ACTIVE and INTERRUPTED:  Elevation {NONE, ASKED, GRANTED}   Shield {OFF, SHIELDED, FROZEN}   Pause {LIVE, PAUSED}
//! ```
//!
//! It is the machine of `SESSION.md` §1 from the inner connection on; what comes before is `rendezvous`, the region Path is `path`.
//! The sharer's machine decides about consent, mode, input, elevation, shield and end, the helper's only asks; both run this code.
//!
//! ```text
//!  handle_command ──▶ word ─┐                        ┌─▶ poll_event: for the person; Act: for the sharer's system
//!  handle_control ──▶ word ─┼─▶ transition: the table ┼─▶ poll_transmit: the word, for the other side
//!  handle_timeout ─▶ timers ┤        │ state, rights  └─▶ poll_timeout
//!  handle_heard, _kill, … ──┘        ▼
//!                              Refusal: not listed (BAD_STATE), or a guard; nothing has changed
//! ```
//!
//! Modules, in the order to read them: `state` (main states and regions), `timers` (every duration), `rights` (terms, and
//! what is allowed now), `reason` (why it ended), `word` (what can be said), `transition` (the table, row by row), `receipt`.

mod grants;
mod reason;
mod receipt;
mod rights;
mod state;
mod timers;
mod transition;
mod word;
mod words;

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;
pub use grants::{Grants, Matter, Way};
pub use reason::EndReason;
pub use receipt::{Receipt, Resumed, SasState};
pub use rights::{Entry, Kind, LocalEnd, Platform, Rights, Terms};
pub use state::{Cause, Check, Elevation, Pause, Phase, SecurePrompt, Shield};
pub use timers::{
    Durations, T_ANSWER, T_CONSENT, T_ELEV, T_FREEZE, T_JOIN, T_LOST, T_MODE, T_REST, T_RESTART,
    T_RESUME, T_START, T_UNATTENDED, T_UPGRADE,
};
pub use words::{Act, Command, Event, Method, Mode, Refusal, Transmit};

use self::{
    state::{Ask, Before, Live, State},
    timers::{Running, Timer},
    word::{Happening, Question, Word, World},
};
use crate::{
    code::Code,
    id::Side,
    identity::{Introduction, Role},
    line::Why,
    org::{
        ended::SessionName,
        verdict::{self, Verdict},
    },
    sas::Nonce,
    wire::message::{
        MAX_CHAT_TEXT_BYTES,
        session::{self as schema, control::Body},
    },
};

/// What a session starts from: the finished inner handshake, and the terms.
#[derive(Debug)]
pub struct Setup {
    /// Of this node.
    pub role: Role,
    /// Of this node: the host showed the code.
    pub side: Side,
    /// Whose commitment went into the handshake.
    pub nonce: Nonce,
    /// What the other side said in it.
    pub peer: Introduction,
    /// What is to be thought of that: see [`verdict::judge`].
    pub verdict: Result<Verdict, verdict::Refusal>,
    /// Final Noise handshake hash.
    pub handshake_hash: [u8; 32],
    /// What may become of it, but for what the verdict says.
    pub terms: Terms,
}

/// One side's machine.
#[derive(Debug)]
pub struct Session {
    setup: Setup,
    /// The setup's before any verdict; there they are as they are in force.
    terms: Terms,
    state: State,
    timers: Running,
    began: Instant,
    /// Sharer: what the helper was last told of a secure prompt.
    covered: Option<SecurePrompt>,
    /// Sharer: when the helper's hands were last at work.
    hands: Option<Instant>,
    /// Of the latest question of each kind: the helper's own, at the sharer the one heard.
    numbers: [u32; 7],
    /// Sharer: of the helper to whom the sharer is asked to be handed over.
    next_code: Option<Code>,
    /// What was before a restart.
    resumed: Option<Resumed>,
    receipt: Receipt,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Session {
    /// Begins: reveals this side's nonce and waits for the other's; or ends, when there can be no session with the other side.
    pub fn new(mut setup: Setup, now: Instant) -> Self {
        let nonce = Bytes::copy_from_slice(setup.nonce.as_bytes());
        let lenient = setup.role == Role::Helper;
        let refusal = setup.verdict.as_ref().err().copied();
        let terms = setup.terms.clone();
        setup.verdict = setup.verdict.map(|verdict| verdict.by(terms.entry));
        if let Ok(verdict) = &setup.verdict {
            setup.terms = terms.under(verdict);
        }
        let mut timers = Running::new(setup.terms.durations.clone(), lenient);
        timers.start(Timer::Join, now);
        timers.start(Timer::Lost, now);
        let mut session = Self {
            setup,
            terms,
            state: State::Joining,
            timers,
            began: now,
            covered: None,
            hands: None,
            numbers: [0; 7],
            next_code: None,
            resumed: None,
            receipt: Receipt::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        match refusal {
            Some(refusal) => session.end(refusal.end_reason(), now), // 10
            None => {
                // The helper is to know what can be asked for before it can ask.
                if session.terms.entry == Entry::Link && session.setup.role == Role::Sharer {
                    session.tell(&Word::ByLink);
                }
                session.tell(&Word::Reveal(nonce));
            }
        }
        session
    }

    /// Begins where a restart has interrupted another one (row 34): as soon as the nonces are open the screen is, and nobody is asked.
    /// Whoever calls it knows that the other side is the same: it has the secret of the session before.
    pub fn resumed(setup: Setup, resumed: Resumed, now: Instant) -> Self {
        let mut session = Self::new(setup, now);
        // The rest is counted anew in each connection.
        let Receipt {
            mode,
            consent,
            elevated,
            sas,
            ..
        } = resumed.receipt;
        session.receipt = Receipt {
            mode,
            consent,
            elevated,
            sas,
            ..session.receipt
        };
        session.resumed = Some(resumed);
        session
    }

    /// Whether the sharer's computer restarts (row 36).
    pub fn is_restarting(&self) -> bool {
        matches!(
            self.state,
            State::Interrupted(_, Cause::Restarting)
                | State::Ending(_, Before::Interrupted(Cause::Restarting))
        )
    }

    /// What another connection takes up then; `None`: it does not.
    pub fn before_restart(&self, now: Instant) -> Option<Resumed> {
        let live = self.state.live().filter(|_| self.is_restarting())?;
        Some(Resumed {
            mode: live.mode,
            paused: live.pause == Pause::Paused,
            receipt: self.summary(now),
        })
    }

    /// Of all its connections.
    fn summary(&self, now: Instant) -> Receipt {
        let mut receipt = self.receipt.clone();
        receipt.duration = now.saturating_duration_since(self.began);
        if let Some(Resumed {
            receipt: before, ..
        }) = &self.resumed
        {
            receipt.duration += before.duration;
            receipt.chat_sent = receipt.chat_sent.saturating_add(before.chat_sent);
            receipt.chat_received = receipt.chat_received.saturating_add(before.chat_received);
        }
        receipt
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// The mode in force, once the session is active.
    pub fn mode(&self) -> Option<Mode> {
        self.state.live().map(|live| live.mode)
    }

    /// Whether the helper has an administrator's rights.
    pub fn elevation(&self) -> Elevation {
        self.state
            .live()
            .map_or(Elevation::None, |live| live.elevation)
    }

    /// What the helper may see and do now.
    pub fn rights(&self) -> Rights {
        let Some(live) = self.state.live() else {
            return Rights::default();
        };
        Rights {
            mode: Some(live.mode),
            paused: live.pause == Pause::Paused,
            interrupted: self.state.is_interrupted(),
            asked: self.is_sharers_to_answer(live),
            prompt: live.covered(),
            elevated: live.elevation == Elevation::Granted,
            frozen_until: (live.shield == Shield::Frozen)
                .then(|| self.timers.at(Timer::Freeze).unwrap_or(self.began)),
            grants: match live.pause == Pause::Paused || self.state.is_interrupted() {
                true => Grants::NONE,
                false => live.grants,
            },
        }
    }

    /// Only the sharer may answer what stands on the sharer's screen now.
    fn is_sharers_to_answer(&self, live: &Live) -> bool {
        let sharers = |check| !self.may_go_on(Role::Helper, check);
        let is_check = self.setup.terms.kind == Kind::Attended && live.check.is_some_and(sharers);
        is_check || live.asks_sharer() || matches!(self.state, State::Ending(..))
    }

    /// Whether [`handle_chat`](Self::handle_chat) may be called. Chat has a stream of its own and may overtake the
    /// answer that starts the session: until then it is left on the stream, whose flow control holds the sender.
    pub fn accepts_chat(&self) -> bool {
        self.state.live().is_some() || matches!(self.state, State::Flushing { .. })
    }

    /// The next thing for the other side.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing for this side's person.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    // ---- this side's person --------------------------------------------------------------

    /// What the person wants, who said it at the terminal, in the page or by a script: all of which the helper may reach with the
    /// sharer's keyboard and mouse.
    ///
    /// # Errors
    /// [`Refusal`]: this role may not do that now, or not at all; or, as what only the sharer may say, not while the helper could have
    /// pressed it. Nothing has changed.
    pub fn handle_command(&mut self, command: Command, now: Instant) -> Result<(), Refusal> {
        if command.is_sharers_alone() {
            self.check_hands(now)?;
        }
        self.handle_pressed(command, now)
    }

    /// Whether what is said at the sharer's computer now is the sharer's own.
    ///
    /// # Errors
    /// [`Refusal::HandsAtWork`]: it may as well be the helper's.
    pub fn check_hands(&self, now: Instant) -> Result<(), Refusal> {
        let rests = |at| now.saturating_duration_since(at) >= T_REST;
        match self.hands.is_none_or(rests) {
            true => Ok(()),
            false => Err(Refusal::HandsAtWork),
        }
    }

    /// What the person wants, said where only the person can have said it (the bar, whose buttons the helper's clicks do not reach), or
    /// what the program wants.
    ///
    /// # Errors
    /// [`Refusal`]: this role may not do that now, or not at all; nothing has changed.
    pub fn handle_pressed(&mut self, command: Command, now: Instant) -> Result<(), Refusal> {
        let name = command.name();
        if let Command::Chat(text) = command {
            return self.send_chat(text, now);
        }
        let word = if let Command::Grant { grants, on } = command {
            self.granting(grants, on)
        } else {
            command.word().or_else(|| self.no())
        };
        let word = word.ok_or(Refusal::BadState(name))?;
        self.say(word, now).map_err(|refusal| refusal.named(name))
    }

    /// Of grants the sharer says what is to be so, the helper what it would like.
    fn granting(&self, grants: Grants, on: bool) -> Option<Word> {
        let held = self.state.live()?.grants;
        Some(match (self.setup.role, on) {
            (Role::Sharer, true) => Word::Grant(held | grants),
            (Role::Sharer, false) => Word::Grant(held.without(grants)),
            (Role::Helper, true) => Word::AskGrant(grants),
            (Role::Helper, false) => Word::GiveBack(grants),
        })
    }

    /// What the sharer says no to.
    fn no(&self) -> Option<Word> {
        if self.setup.role != Role::Sharer {
            return None;
        }
        let Some(live) = self.state.live() else {
            return Some(Word::DeclineMode);
        };
        match live.ask {
            Some(Ask::Control) => Some(Word::DeclineMode),
            Some(Ask::Restart) => Some(Word::DeclineRestart),
            Some(Ask::Handover) => Some(Word::DeclineHandover),
            None if live.elevation == Elevation::Asked => Some(Word::DeclineElevation),
            None => None,
        }
    }

    /// Says something, if that may be said now; the other side is told before it hears what comes of it.
    fn say(&mut self, word: Word, now: Instant) -> Result<(), Refusal> {
        // What ends the session before it started is told by the end.
        let body = word
            .body()
            .filter(|_| !matches!(word, Word::DeclineMode) || self.state.live().is_some());
        let at = self.transmits.len();
        if !may_say(self.setup.role, &word) {
            return Err(Refusal::BadState(word.name()));
        }
        let question = word.question();
        self.happen(Happening::Says(self.setup.role, word), now)?;
        if let Some(question) = question {
            let number = &mut self.numbers[question as usize];
            *number = number.wrapping_add(1);
        }
        if let Some(body) = body {
            let numbered = self.numbered(body);
            self.transmits.insert(at, numbered);
        }
        Ok(())
    }

    fn tell(&mut self, word: &Word) {
        if let Some(body) = word.body() {
            let numbered = self.numbered(body);
            self.transmits.push_back(numbered);
        }
    }

    fn numbered(&self, mut body: Body) -> Transmit {
        if let Some((question, number)) = word::number(&mut body) {
            *number = self.numbers[question as usize];
        }
        Transmit::Control(body)
    }

    fn send_chat(&mut self, text: String, now: Instant) -> Result<(), Refusal> {
        if self.state.live().is_none() {
            return Err(Refusal::BadState("chat"));
        }
        self.setup.terms.may_chat()?;
        if text.len() > MAX_CHAT_TEXT_BYTES {
            return Err(Refusal::BadState("a chat message over 16 KiB"));
        }
        self.was_active(now);
        self.receipt.chat_sent += 1;
        self.transmits.push_back(Transmit::Chat(schema::Chat {
            id: self.receipt.chat_sent,
            text,
        }));
        Ok(())
    }

    // ---- the other side ------------------------------------------------------------------

    /// A message of the control stream.
    ///
    /// # Errors
    /// [`Refusal`]: the other's role may not say that now; nothing has changed, and what it asked for it is refused.
    pub fn handle_control(
        &mut self,
        message: schema::Control,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(mut body) = message.body else {
            return Err(Refusal::BadState("a message of an unknown kind"));
        };
        if !self.state.is_open() {
            return Err(Refusal::BadState("a message after the end"));
        }
        let peer = self.setup.role.peer();
        let number = word::number(&mut body).map(|(question, number)| (question, *number));
        let Some(word) = Word::heard(peer, body) else {
            return Err(Refusal::BadState("a word of the other role"));
        };
        // It is not lost.
        self.handle_heard(now)?;
        let (name, question) = (word.name(), word.question());
        match number {
            Some((question, number)) if peer == Role::Helper => {
                self.numbers[question as usize] = number;
            }
            Some((question, number)) if number != self.numbers[question as usize] => {
                return Err(Refusal::BadState("an answer to an earlier question"));
            }
            Some(_) | None => {}
        }
        let done = self.happen(Happening::Says(peer, word), now);
        done.map_err(|refusal| {
            let refusal = refusal.named(name);
            if let Some(question) = question {
                self.tell(&Word::Refuse(question, refusal));
            }
            refusal
        })
    }

    /// A message of the chat stream.
    ///
    /// # Errors
    /// [`Refusal`]: no session is active, or a message is missing, repeated or too long, which an honest
    /// connection cannot bring about; the session ends.
    pub fn handle_chat(&mut self, chat: schema::Chat, now: Instant) -> Result<(), Refusal> {
        if self.state == State::Ended {
            return Err(Refusal::BadState("chat after the end"));
        }
        let expected =
            chat.id == self.receipt.chat_received + 1 && chat.text.len() <= MAX_CHAT_TEXT_BYTES;
        if !expected || !self.accepts_chat() {
            self.end(EndReason::Internal, now);
            return Err(Refusal::BadState("chat out of order"));
        }
        if self.state.is_open() {
            self.handle_heard(now)?;
        }
        self.was_active(now);
        self.receipt.chat_received = chat.id;
        match self.setup.terms.may_chat() {
            Err(refusal) if self.setup.role == Role::Sharer && self.state.is_open() => {
                self.tell(&Word::Refuse(Question::Chat, refusal));
            }
            Err(_) if self.setup.role == Role::Sharer => {}
            // The sharer's terms are in force.
            Ok(()) | Err(_) => self.events.push_back(Event::Chat {
                id: chat.id,
                text: chat.text,
            }),
        }
        if let State::Flushing { reason, chat_sent } = self.state
            && chat_sent <= self.receipt.chat_received
        {
            self.finish(reason, now);
        }
        Ok(())
    }

    /// The other side sent bytes that are no messages.
    ///
    /// # Errors
    /// [`Refusal`]: the session is over.
    pub fn handle_malformed(&mut self, now: Instant) -> Result<(), Refusal> {
        self.world(World::Malformed, now)
    }

    // ---- whatever lies between, and around -----------------------------------------------

    /// Something authentic of the other side arrived, whatever it was, and on whichever path: it is not lost, or no longer.
    ///
    /// # Errors
    /// [`Refusal`]: the session is over.
    pub fn handle_heard(&mut self, now: Instant) -> Result<(), Refusal> {
        self.world(World::Heard, now)
    }

    /// The inner connection is gone for good, and with it the other side. What it said last counts.
    ///
    /// # Errors
    /// [`Refusal`]: the session is over.
    pub fn handle_connection_lost(&mut self, now: Instant) -> Result<(), Refusal> {
        self.world(World::Gone, now)
    }

    /// The name by which an administrator may end it; the same at both sides, and no other session's.
    pub fn name(&self) -> SessionName {
        SessionName::new(&self.setup.handshake_hash)
    }

    /// An administrator ends the session, for that reason.
    ///
    /// # Errors
    /// [`Refusal`]: it is over.
    pub fn handle_kill(&mut self, why: Why, now: Instant) -> Result<(), Refusal> {
        self.world(World::Kill(why), now)
    }

    /// The operator of a relay that it has a place at ends the session, for that reason. That says nothing of anybody's rights: nobody is
    /// signed out for it.
    ///
    /// # Errors
    /// [`Refusal`]: it is over.
    pub fn handle_operator_end(&mut self, why: Why, now: Instant) -> Result<(), Refusal> {
        self.world(World::OperatorEnd(why), now)
    }

    /// Sharer: somebody touched the computer's own keyboard or mouse.
    ///
    /// # Errors
    /// [`Refusal`]: which is nothing special, unless it is shielded.
    pub fn handle_local_input(&mut self, now: Instant) -> Result<(), Refusal> {
        self.world(World::LocalInput, now)
    }

    /// Sharer: a prompt that must not be seen covers the screen; `None`: it does not any more.
    ///
    /// # Errors
    /// [`Refusal`]: nothing is shown anyway.
    pub fn handle_secure_prompt(
        &mut self,
        prompt: Option<SecurePrompt>,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.world(World::SecurePrompt(prompt), now)
    }

    /// Sharer: when the helper's keys and clicks last reached the screen; now, if one is held down. To be said before a command that
    /// they may have brought about.
    pub fn handle_hands(&mut self, at: Instant) {
        self.hands = self.hands.max(Some(at));
    }

    /// Sharer: the helper used mouse or keyboard.
    ///
    /// # Errors
    /// [`Refusal`]: the session is not active.
    pub fn handle_activity(&mut self, now: Instant) -> Result<(), Refusal> {
        self.world(World::Activity, now)
    }

    fn world(&mut self, what: World, now: Instant) -> Result<(), Refusal> {
        self.happen(Happening::World(what), now)
    }

    /// The organisation thinks otherwise now. What is not permitted any more ends at once, at both sides.
    ///
    /// # Errors
    /// [`Refusal`]: the session is over.
    pub fn handle_verdict(
        &mut self,
        verdict: Result<Verdict, verdict::Refusal>,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.setup.verdict = verdict.map(|verdict| verdict.by(self.terms.entry));
        self.world(World::Judged, now)
    }

    /// Acts on the deadlines that have come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_due(now) {
            let done = self.happen(Happening::Due(timer), now);
            debug_assert!(done.is_ok(), "{timer:?} ran out in {:?}", self.state);
        }
    }
}

/// Whose words they are, of a person's own.
fn may_say(role: Role, word: &Word) -> bool {
    word.body()
        .is_none_or(|body| Word::heard(role, body).is_some())
}
