//! The session of two people who have an inner connection: trust, consent, mode, chat, end.
//!
//! ```text
//!            nonces open            helper asks          sharer allows
//! JOINING ───────────────▶ TRUST ──────────────▶ CONSENT ──────────────▶ ACTIVE{VIEW ⇄ CONTROL}
//!    │ T_join                │ T_mode               │ T_consent              │
//!    └───────────────────────┴──────────────────────┴─── leave, decline, ────┴──▶ ENDED(reason)
//!                                                        mismatch, loss
//! ```
//!
//! Transitions and timers are those of `SESSION.md` §1.4 (rows 9–15, 20, 21, 28, 31, 35); what is not listed is
//! `BadState` and changes nothing. The sharer's machine decides about consent and mode, the helper's
//! only asks; both run this code, and each refuses what the other's role may not say.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever is not listed is BAD_STATE and changes nothing"
)]

mod receipt;
mod rights;
mod words;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
pub use receipt::{EndReason, Receipt, SasState};
pub use rights::Rights;
pub use words::{BadState, Command, Event, Mode, Transmit};

use crate::{
    id::Side,
    identity::{Introduction, Role},
    org::verdict::{self, Verdict},
    sas::{Nonce, Words},
    wire::message::{
        MAX_CHAT_TEXT_BYTES,
        session::{self as schema, control::Body},
    },
};

/// From the inner connection to the trust card.
pub const T_JOIN: Duration = Duration::from_secs(30);
/// For the helper to ask for a mode.
pub const T_MODE: Duration = Duration::from_secs(300);
/// For the sharer to answer, from when the question is on the screen.
pub const T_CONSENT: Duration = Duration::from_secs(300);
/// For the sharer to answer a request for control within the session.
pub const T_UPGRADE: Duration = Duration::from_secs(60);
/// How much longer than the sharer's own clock the helper waits for its answer.
const CONSENT_GRACE: Duration = Duration::from_secs(10);
/// What the helper's person is told.
const MODE_NOT_PERMITTED: &str =
    "more than your organisation permits you with this person (MODE_NOT_PERMITTED)";
/// How long chat that was sent before the end may still be under way.
const T_FLUSH: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Joining,
    Trust,
    Consent {
        asked: Mode,
    },
    Active {
        mode: Mode,
        upgrade: bool,
    },
    /// The other side ended, its last chat messages are still coming.
    Flushing {
        reason: EndReason,
        chat_sent: u64,
    },
    Ended,
}

/// What a session starts from: the finished inner handshake.
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
}

/// One side's machine.
#[derive(Debug)]
pub struct Session {
    setup: Setup,
    state: State,
    deadline: Option<Instant>,
    began: Instant,
    words: Option<Words>,
    paused: bool,
    receipt: Receipt,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Session {
    /// Begins: reveals this side's nonce and waits for the other's; or ends, when there can be no session with the other side.
    pub fn new(setup: Setup, now: Instant) -> Self {
        let refusal = setup.verdict.as_ref().err().copied();
        let mut session = Self {
            setup,
            state: State::Joining,
            deadline: Some(now + T_JOIN),
            began: now,
            words: None,
            paused: false,
            receipt: Receipt::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        if let Some(refusal) = refusal {
            session.end(refusal.end_reason(), now);
        } else {
            let nonce = Bytes::copy_from_slice(session.setup.nonce.as_bytes());
            session.transmit(Body::NonceReveal(schema::NonceReveal { nonce }));
        }
        session
    }

    /// The mode in force, when the session is active.
    pub fn mode(&self) -> Option<Mode> {
        match self.state {
            State::Active { mode, .. } => Some(mode),
            State::Joining
            | State::Trust
            | State::Consent { .. }
            | State::Flushing { .. }
            | State::Ended => None,
        }
    }

    /// What the helper may see and do now.
    pub fn rights(&self) -> Rights {
        Rights {
            mode: self.mode(),
            paused: self.paused,
        }
    }

    /// Whether [`handle_chat`](Self::handle_chat) may be called. Chat has a stream of its own and may overtake the
    /// answer that starts the session: until then it is left on the stream, whose flow control holds the sender.
    pub fn accepts_chat(&self) -> bool {
        matches!(self.state, State::Active { .. } | State::Flushing { .. })
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
        self.deadline
    }

    /// The most that the helper may ask for; `None`: nothing.
    fn permitted(&self) -> Option<Mode> {
        self.setup.verdict.as_ref().ok()?.permitted()
    }

    /// The organisation thinks otherwise now. What is not permitted any more ends at once, at both sides.
    pub fn handle_verdict(&mut self, verdict: Result<Verdict, verdict::Refusal>, now: Instant) {
        self.setup.verdict = verdict;
        let most = match self.state {
            State::Flushing { .. } | State::Ended => return,
            State::Joining | State::Trust => None,
            State::Consent { asked } => Some(asked),
            State::Active { mode, .. } => Some(mode),
        };
        match (self.permitted(), most) {
            _ if self.setup.verdict.is_err() => self.end(EndReason::AdminEnded, now),
            (None, Some(_)) => self.end(EndReason::AdminEnded, now),
            (Some(Mode::View), Some(Mode::Control)) if self.mode().is_none() => {
                self.end(EndReason::AdminEnded, now);
            }
            (Some(Mode::View), Some(Mode::Control)) => {
                self.transmit(Body::ModeDropped(schema::ModeDropped {}));
                self.set_mode(Mode::View, self.setup.role);
            }
            _ => {}
        }
    }

    // ---- this side's person --------------------------------------------------------------

    /// What the person wants.
    ///
    /// # Errors
    /// [`BadState`] when this role may not do that now; nothing has changed.
    pub fn handle_command(&mut self, command: Command, now: Instant) -> Result<(), BadState> {
        let bad_state = match &command {
            Command::AskMode(mode) if self.permitted().is_none_or(|most| *mode > most) => {
                BadState {
                    what: MODE_NOT_PERMITTED,
                }
            }
            command => BadState {
                what: command.name(),
            },
        };
        match (self.setup.role, command) {
            (_, Command::Leave) if self.state != State::Ended => self.leave(now),
            (_, Command::SasChecked(same)) if self.words.is_some() && self.is_open() => {
                self.check_sas(same, now)
            }
            (_, Command::Chat(text)) if self.mode().is_some() => return self.send_chat(text),
            (Role::Helper, Command::AskMode(mode)) => {
                return self.ask_mode(mode, now).ok_or(bad_state);
            }
            (Role::Sharer, Command::Allow(mode)) => return self.allow(mode).ok_or(bad_state),
            (Role::Sharer, Command::Decline) => return self.decline(now).ok_or(bad_state),
            (Role::Sharer, Command::Pause(paused))
                if self.mode().is_some() && self.paused != paused =>
            {
                self.transmit(Body::Paused(schema::Paused { paused }));
                self.paused = paused;
                self.events.push_back(Event::Paused(paused));
            }
            (Role::Sharer, Command::CaptureFailed) if self.mode().is_some() => {
                self.end(EndReason::CaptureFailed, now);
            }
            (role, Command::Media(body))
                if self.mode().is_some() && media_speaker(&body) == Some(role) =>
            {
                self.transmit(body);
            }
            (_, Command::DropMode) if self.mode() == Some(Mode::Control) => {
                self.transmit(Body::ModeDropped(schema::ModeDropped {}));
                self.set_mode(Mode::View, self.setup.role);
            }
            _ => return Err(bad_state),
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        !matches!(self.state, State::Flushing { .. } | State::Ended)
    }

    fn leave(&mut self, now: Instant) {
        let reason = match self.setup.role {
            Role::Helper => EndReason::HelperLeft,
            Role::Sharer => EndReason::SharerLeft,
        };
        self.end(reason, now);
    }

    fn check_sas(&mut self, same: bool, now: Instant) {
        self.transmit(Body::SasChecked(schema::SasChecked { same }));
        if same {
            self.receipt.sas = SasState::Verified;
        } else {
            self.receipt.sas = SasState::Mismatch;
            self.end(EndReason::SasMismatch, now);
        }
    }

    fn send_chat(&mut self, text: String) -> Result<(), BadState> {
        if text.len() > MAX_CHAT_TEXT_BYTES {
            return Err(BadState {
                what: "a chat message over 16 KiB",
            });
        }
        self.receipt.chat_sent += 1;
        self.transmits.push_back(Transmit::Chat(schema::Chat {
            id: self.receipt.chat_sent,
            text,
        }));
        Ok(())
    }

    fn ask_mode(&mut self, mode: Mode, now: Instant) -> Option<()> {
        self.permitted().filter(|permitted| mode <= *permitted)?;
        match self.state {
            State::Trust => {
                self.state = State::Consent { asked: mode };
                self.deadline = Some(now + T_CONSENT + CONSENT_GRACE);
            }
            State::Active {
                mode: Mode::View,
                upgrade: false,
            } if mode == Mode::Control => {
                self.state = State::Active {
                    mode: Mode::View,
                    upgrade: true,
                };
                self.deadline = Some(now + T_UPGRADE + CONSENT_GRACE);
            }
            _ => return None,
        }
        self.transmit(Body::ModeRequest(schema::ModeRequest {
            mode: mode.to_schema().into(),
        }));
        Some(())
    }

    fn allow(&mut self, mode: Mode) -> Option<()> {
        match self.state {
            State::Consent { asked } if mode <= asked => {}
            State::Active { upgrade: true, .. } if mode == Mode::Control => {}
            _ => return None,
        }
        let answer = schema::ConsentAnswer {
            allow: true,
            mode: mode.to_schema().into(),
        };
        self.transmit(Body::ConsentAnswer(answer));
        self.activate(mode, Role::Sharer);
        Some(())
    }

    fn decline(&mut self, now: Instant) -> Option<()> {
        match self.state {
            State::Consent { .. } => self.end(EndReason::Declined, now),
            State::Active { upgrade: true, .. } => self.decline_upgrade(),
            _ => return None,
        }
        Some(())
    }

    fn decline_upgrade(&mut self) {
        let answer = schema::ConsentAnswer {
            allow: false,
            mode: Mode::View.to_schema().into(),
        };
        self.transmit(Body::ConsentAnswer(answer));
        self.state = State::Active {
            mode: Mode::View,
            upgrade: false,
        };
        self.deadline = None;
        self.events.push_back(Event::UpgradeDeclined);
    }

    // ---- the other side ------------------------------------------------------------------

    /// A message of the control stream.
    ///
    /// # Errors
    /// [`BadState`] when the other's role may not say that now; nothing has changed.
    pub fn handle_control(
        &mut self,
        message: schema::Control,
        now: Instant,
    ) -> Result<(), BadState> {
        let Some(body) = message.body else {
            return Err(BadState {
                what: "a message of an unknown kind",
            });
        };
        if !self.is_open() {
            return Err(BadState {
                what: "a message after the end",
            });
        }
        let (what, done) = match (self.setup.role, body) {
            (_, Body::NonceReveal(reveal)) => {
                ("a second nonce", self.open_nonce(&reveal.nonce, now))
            }
            (_, Body::Ended(ended)) => ("an end", self.peer_ended(&ended, now)),
            (_, Body::SasChecked(checked)) => {
                ("an early SAS verdict", self.peer_checked_sas(checked.same))
            }
            (_, Body::ModeDropped(_)) => ("a mode dropped twice", self.peer_dropped_mode()),
            (Role::Sharer, Body::ModeRequest(request)) => (
                "a mode request",
                self.peer_asks(Mode::from_schema(request.mode()), now),
            ),
            (Role::Helper, Body::ConsentPrompted(prompted)) => {
                ("a consent prompt", self.peer_prompted(prompted.deadline_ms))
            }
            (Role::Helper, Body::ConsentAnswer(answer)) => (
                "a consent answer",
                self.peer_answers(answer.allow, Mode::from_schema(answer.mode())),
            ),
            (Role::Helper, Body::Paused(paused)) => ("a pause", self.peer_paused(paused.paused)),
            (role, body) if media_speaker(&body) == Some(role.peer()) => {
                let heard = self
                    .mode()
                    .map(|_| self.events.push_back(Event::Media(body)));
                ("a picture before its time", heard)
            }
            (Role::Sharer, _) => ("a sharer's word", None),
            (Role::Helper, _) => ("a helper's word", None),
        };
        done.ok_or(BadState { what })
    }

    fn open_nonce(&mut self, bytes: &[u8], now: Instant) -> Option<()> {
        if self.state != State::Joining {
            return None;
        }
        let nonce =
            Nonce::from_bytes(bytes).filter(|nonce| self.setup.peer.commitment.opens_to(nonce));
        let Some(theirs) = nonce else {
            self.end(EndReason::AuthFailed, now);
            return Some(());
        };
        let (host, joiner) = match self.setup.side {
            Side::Host => (&self.setup.nonce, &theirs),
            Side::Joiner => (&theirs, &self.setup.nonce),
        };
        let words = Words::new(&self.setup.handshake_hash, host, joiner);
        self.words = Some(words);
        self.state = State::Trust;
        self.deadline = Some(now + T_MODE);
        self.events.push_back(Event::Trust {
            peer: self.setup.peer.profile.clone(),
            verdict: self.setup.verdict.clone().ok()?,
            words,
        });
        Some(())
    }

    fn peer_checked_sas(&mut self, same: bool) -> Option<()> {
        self.words?;
        if !same {
            self.receipt.sas = SasState::Mismatch;
        }
        self.events.push_back(Event::PeerCheckedSas(same));
        Some(())
    }

    fn peer_asks(&mut self, mode: Option<Mode>, now: Instant) -> Option<()> {
        let mode = mode?;
        self.permitted().filter(|permitted| mode <= *permitted)?;
        let time = match self.state {
            State::Trust => {
                self.state = State::Consent { asked: mode };
                T_CONSENT
            }
            State::Active {
                mode: Mode::View,
                upgrade: false,
            } if mode == Mode::Control => {
                self.state = State::Active {
                    mode: Mode::View,
                    upgrade: true,
                };
                T_UPGRADE
            }
            _ => return None,
        };
        self.deadline = Some(now + time);
        let deadline_ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        self.transmit(Body::ConsentPrompted(schema::ConsentPrompted {
            deadline_ms,
        }));
        let upgrade = self.mode().is_some();
        self.events.push_back(Event::ConsentPrompt {
            mode,
            within: time,
            upgrade,
        });
        Some(())
    }

    fn peer_prompted(&mut self, deadline_ms: u32) -> Option<()> {
        if !matches!(
            self.state,
            State::Consent { .. } | State::Active { upgrade: true, .. }
        ) {
            return None;
        }
        let within = Duration::from_millis(deadline_ms.into()).min(T_CONSENT);
        self.events.push_back(Event::AwaitingConsent { within });
        Some(())
    }

    fn peer_answers(&mut self, allow: bool, mode: Option<Mode>) -> Option<()> {
        match self.state {
            State::Consent { asked } if allow && mode? <= asked => {
                self.activate(mode?, Role::Sharer)
            }
            State::Active { upgrade: true, .. } if allow && mode? == Mode::Control => {
                self.activate(Mode::Control, Role::Sharer);
            }
            State::Active { upgrade: true, .. } if !allow => {
                self.state = State::Active {
                    mode: Mode::View,
                    upgrade: false,
                };
                self.deadline = None;
                self.events.push_back(Event::UpgradeDeclined);
            }
            _ => return None,
        }
        Some(())
    }

    fn peer_paused(&mut self, paused: bool) -> Option<()> {
        self.mode()?;
        self.paused = paused;
        self.events.push_back(Event::Paused(paused));
        Some(())
    }

    fn peer_dropped_mode(&mut self) -> Option<()> {
        if self.mode() != Some(Mode::Control) {
            return None;
        }
        self.set_mode(Mode::View, self.setup.role.peer());
        Some(())
    }

    fn peer_ended(&mut self, ended: &schema::Ended, now: Instant) -> Option<()> {
        let reason = EndReason::said_by(self.setup.role.peer(), ended.reason());
        if ended.chat_sent > self.receipt.chat_received && self.mode().is_some() {
            self.state = State::Flushing {
                reason,
                chat_sent: ended.chat_sent,
            };
            self.deadline = Some(now + T_FLUSH);
        } else {
            self.finish(reason, now);
        }
        Some(())
    }

    /// A message of the chat stream.
    ///
    /// # Errors
    /// [`BadState`]: no session is active, or a message is missing, repeated or too long, which an honest
    /// connection cannot bring about; the session ends.
    pub fn handle_chat(&mut self, chat: schema::Chat, now: Instant) -> Result<(), BadState> {
        if self.state == State::Ended {
            return Err(BadState {
                what: "chat after the end",
            });
        }
        let expected =
            chat.id == self.receipt.chat_received + 1 && chat.text.len() <= MAX_CHAT_TEXT_BYTES;
        if !expected || !self.accepts_chat() {
            self.end(EndReason::Internal, now);
            return Err(BadState {
                what: "chat out of order",
            });
        }
        self.receipt.chat_received = chat.id;
        self.events.push_back(Event::Chat {
            id: chat.id,
            text: chat.text,
        });
        if let State::Flushing { reason, chat_sent } = self.state
            && chat_sent <= self.receipt.chat_received
        {
            self.finish(reason, now);
        }
        Ok(())
    }

    /// The other side sent bytes that are no messages.
    pub fn handle_malformed(&mut self, now: Instant) {
        self.end(EndReason::Internal, now);
    }

    /// The inner connection is gone, and with it the other side. What it said last counts.
    pub fn handle_connection_lost(&mut self, now: Instant) {
        match self.state {
            State::Ended => {}
            State::Flushing { reason, .. } => self.finish(reason, now),
            State::Joining | State::Trust | State::Consent { .. } | State::Active { .. } => {
                self.finish(EndReason::ConnectionLost, now);
            }
        }
    }

    /// Acts on a deadline.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        match (self.state, self.setup.role) {
            (State::Joining, _) => self.end(EndReason::JoinTimeout, now),
            (State::Trust, _) => self.end(EndReason::HelperTimeout, now),
            (State::Consent { .. }, _) => self.end(EndReason::ConsentTimeout, now),
            (State::Active { .. }, Role::Sharer) => self.decline_upgrade(),
            (State::Active { mode, .. }, Role::Helper) => {
                self.state = State::Active {
                    mode,
                    upgrade: false,
                };
                self.events.push_back(Event::UpgradeDeclined);
            }
            (State::Flushing { reason, .. }, _) => self.finish(reason, now),
            (State::Ended, _) => {}
        }
    }

    // ---- common --------------------------------------------------------------------------

    fn transmit(&mut self, body: Body) {
        self.transmits.push_back(Transmit::Control(body));
    }

    fn activate(&mut self, mode: Mode, by: Role) {
        self.deadline = None;
        let first = self.mode().is_none();
        self.receipt.mode = self.receipt.mode.max(Some(mode));
        if first {
            self.state = State::Active {
                mode,
                upgrade: false,
            };
            self.events.push_back(Event::Started { mode });
        } else {
            self.set_mode(mode, by);
        }
    }

    fn set_mode(&mut self, mode: Mode, by: Role) {
        self.deadline = None;
        self.state = State::Active {
            mode,
            upgrade: false,
        };
        self.events.push_back(Event::ModeChanged { mode, by });
    }

    /// Ends the session and tells the other side.
    fn end(&mut self, reason: EndReason, now: Instant) {
        if self.state == State::Ended {
            return;
        }
        if let State::Flushing { reason, .. } = self.state {
            return self.finish(reason, now);
        }
        self.transmit(Body::Ended(schema::Ended {
            reason: reason.to_schema().into(),
            chat_sent: self.receipt.chat_sent,
        }));
        self.finish(reason, now);
    }

    fn finish(&mut self, reason: EndReason, now: Instant) {
        self.state = State::Ended;
        self.deadline = None;
        self.receipt.reason = reason;
        self.receipt.duration = now.saturating_duration_since(self.began);
        self.events.push_back(Event::Ended(self.receipt.clone()));
    }
}

/// Who may say a message about the picture; `None` for what is not about it.
fn media_speaker(body: &Body) -> Option<Role> {
    match body {
        Body::Screen(_) | Body::CursorPosition(_) | Body::InputRefused(_) => Some(Role::Sharer),
        Body::SelectSource(_)
        | Body::FrameAck(_)
        | Body::KeyFrameRequest(_)
        | Body::Pointer(_)
        | Body::PenStroke(_)
        | Body::PenClear(_) => Some(Role::Helper),
        _ => None,
    }
}
