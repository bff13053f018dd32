//! What somebody else on this computer wants of a running session, and what came of it: one line of JSON to the session's socket,
//! one line back.
//!
//! ```text
//!  remora ask control ── {"do":"ask","what":"control"} ─▶ PID.sock ─▶ the session's program ─▶ its machine: may that be said?
//!                     ◀── {"answer":"declined"} ───────────────────── the sharer's answer, as the session's events tell it ◀──┘
//! ```
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a few of a session's events answer an order"
)]

use std::time::Duration;

use crate::{
    error::{Exit, Failure, exit_of},
    event::Event,
};
use remora_proto::{
    code::Code,
    session::{
        Cause, Command, EndReason, Event as SessionEvent, Mode, Refusal, T_CONSENT, T_ELEV, T_JOIN,
        T_MODE,
    },
    wire::message::MAX_CHAT_TEXT_BYTES,
};
use serde::{Deserialize, Serialize};

/// The longest line: the longest chat, escaped.
pub(super) const MAX_ORDER_BYTES: u64 = 8 * MAX_CHAT_TEXT_BYTES as u64;
/// For what the session's machine decides by itself, and for a measurement.
const AT_ONCE: Duration = Duration::from_secs(2);
/// The sharer is asked, joins, and talks with the other helper as with the first.
const T_HANDOVER: Duration = T_ELEV
    .saturating_add(T_JOIN)
    .saturating_add(T_MODE)
    .saturating_add(T_CONSENT)
    .saturating_add(GRACE);
/// For scripts: nothing has come of a hand-over.
const HANDOVER_FAILED: &str = "HANDOVER_FAILED";
/// How much longer than the sharer is asked, by clocks of two computers.
const GRACE: Duration = Duration::from_secs(30);

/// What a helper asks a sharer for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// To see the screen.
    View,
    /// To use mouse and keyboard, too.
    Control,
    /// An administrator's rights.
    Elevation,
    /// A restart.
    Restart,
    /// That another helper goes on.
    Handover,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// The way, measured.
    Measure,
    /// Helper: ask for this.
    Ask {
        /// For what; not [`What::Handover`], which takes a code.
        what: What,
    },
    /// Helper: ask the sharer to go on with the helper who shows this code.
    HandOver {
        /// That.
        #[serde(with = "code_text")]
        code: Code,
    },
    /// Sharer: allow this, if it is what is asked.
    Allow {
        /// What.
        what: What,
    },
    /// Sharer: no, to whatever is asked.
    Decline,
    /// Sharer: show nothing.
    Pause,
    /// Sharer: show it again.
    Resume,
    /// Whoever is asked: it goes on.
    Continue,
    /// Say this.
    Chat {
        /// At most [`MAX_CHAT_TEXT_BYTES`].
        text: String,
    },
    /// End the session.
    Leave {
        /// Even if that signs the sharer out.
        confirm: bool,
    },
    /// Sharer, warned: stay.
    Stay,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It is so.
    Done,
    /// The sharer said no, or nothing.
    Declined,
    /// Sharer: leaving now has a consequence; it was not done.
    Warned {
        /// The sharer would be signed out; otherwise, the helper is working.
        signs_out: bool,
    },
    /// It may not be.
    Refused {
        /// Why, as [`Refusal::code`] has it.
        code: String,
        /// The same for people.
        text: String,
    },
    /// The session ended instead.
    Ended {
        /// Why, as in a receipt.
        reason: String,
        /// What the program would exit with.
        exit: u8,
    },
}

/// A code as people write it.
mod code_text {
    use remora_proto::code::Code;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(code: &Code, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(code)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Code, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl From<Mode> for What {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::View => Self::View,
            Mode::Control => Self::Control,
        }
    }
}

impl What {
    /// For scripts; as on the command line, and in the question that a session's file tells.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Control => "control",
            Self::Elevation => "elevation",
            Self::Restart => "restart",
            Self::Handover => "handover",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::View => "to see the screen",
            Self::Control => "full control",
            Self::Elevation => "administrator's rights",
            Self::Restart => "a restart of the computer",
            Self::Handover => "that another helper goes on",
        }
    }
}

impl Order {
    /// What the session's machine is told; `None`: it is not asked.
    pub(super) fn command(&self) -> Option<Command> {
        Some(match self {
            Self::Measure => return None,
            Self::Ask { what } => match what {
                What::View => Command::AskMode(Mode::View),
                What::Control => Command::AskMode(Mode::Control),
                What::Elevation => Command::AskElevation,
                What::Restart => Command::AskRestart,
                What::Handover => return None,
            },
            Self::HandOver { code } => Command::AskHandover(code.clone()),
            Self::Allow { what } => match what {
                What::View => Command::Allow(Mode::View),
                What::Control => Command::Allow(Mode::Control),
                What::Elevation => Command::AllowElevation,
                What::Restart => Command::AllowRestart,
                What::Handover => Command::AllowHandover,
            },
            Self::Decline => Command::Decline,
            Self::Pause => Command::Pause(true),
            Self::Resume => Command::Pause(false),
            Self::Continue => Command::GoOn,
            Self::Chat { text } => Command::Chat(text.clone()),
            Self::Leave { confirm: false } => Command::Leave,
            Self::Leave { confirm: true } => Command::ConfirmLeave,
            Self::Stay => Command::Stay,
        })
    }

    /// Whether the machine's yes is not yet the answer.
    pub(super) fn waits(&self) -> bool {
        matches!(
            self,
            Self::Ask { .. } | Self::HandOver { .. } | Self::Leave { .. }
        )
    }

    /// How long an answer may take at most.
    pub(super) fn patience(&self) -> Duration {
        match self {
            Self::Ask { .. } => T_CONSENT + GRACE,
            Self::HandOver { .. } => T_HANDOVER,
            _ => AT_ONCE,
        }
    }

    /// What an event that came after the order says of it; `None`: nothing.
    pub(super) fn answered_by(&self, event: &Event) -> Option<Answer> {
        let Event::Session(event) = event else {
            return None;
        };
        match (self, event) {
            (Self::Leave { .. }, SessionEvent::Ended(_)) => Some(Answer::Done),
            (Self::HandOver { .. }, SessionEvent::Ended(receipt))
                if receipt.reason == EndReason::HandedOver =>
            {
                Some(Answer::Done)
            }
            (Self::HandOver { .. }, SessionEvent::HandoverDeclined) => Some(Answer::Declined),
            (Self::HandOver { .. }, SessionEvent::HandoverFailed) => Some(Answer::Refused {
                code: HANDOVER_FAILED.to_owned(),
                text: "the other helper and the sharer have not begun a session; this one goes on"
                    .to_owned(),
            }),
            (Self::Leave { .. }, SessionEvent::LeaveWarning { signs_out }) => {
                Some(Answer::Warned {
                    signs_out: *signs_out,
                })
            }
            (_, SessionEvent::Ended(receipt)) => Some(Answer::Ended {
                reason: receipt.reason.name().to_owned(),
                exit: exit_of(receipt.reason) as u8,
            }),
            (Self::Ask { .. } | Self::HandOver { .. }, SessionEvent::Refused(refusal)) => {
                Some(Answer::refused(*refusal))
            }
            (Self::Ask { what }, event) => what.answered_by(event),
            _ => None,
        }
    }
}

impl What {
    fn answered_by(self, event: &SessionEvent) -> Option<Answer> {
        match (self, event) {
            (Self::View, SessionEvent::Started { .. })
            | (
                Self::Control,
                SessionEvent::Started {
                    mode: Mode::Control,
                }
                | SessionEvent::ModeChanged {
                    mode: Mode::Control,
                    ..
                },
            )
            | (Self::Elevation, SessionEvent::ElevationGranted)
            | (
                Self::Restart,
                SessionEvent::Interrupted {
                    cause: Cause::Restarting,
                    ..
                },
            ) => Some(Answer::Done),
            // The screen only.
            (Self::Control, SessionEvent::Started { mode: Mode::View })
            | (Self::Control, SessionEvent::UpgradeDeclined)
            | (Self::Elevation, SessionEvent::ElevationDeclined)
            | (Self::Restart, SessionEvent::RestartDeclined) => Some(Answer::Declined),
            _ => None,
        }
    }
}

impl Answer {
    /// The machine does not take it.
    pub(super) fn refused(refusal: Refusal) -> Self {
        Self::Refused {
            code: refusal.code().to_owned(),
            text: refusal.to_string(),
        }
    }

    /// For whoever gave the order; `Ok`: it was done.
    ///
    /// # Errors
    /// It was not, why, and with which exit code.
    pub(super) fn result(self) -> Result<(), Failure> {
        match self {
            Self::Done => Ok(()),
            Self::Declined => Err(Failure::new(
                Exit::Declined,
                "DECLINED",
                "the other person did not allow it; the session goes on as it was",
            )),
            Self::Warned { signs_out: true } => Err(Failure::new(
                Exit::NotPermitted,
                "SIGNS_OUT",
                "your helper used administrator's rights, so leaving signs you out and unsaved work may be lost; \
                 `remora leave --confirm` leaves, `remora leave --stay` stays",
            )),
            Self::Warned { signs_out: false } => Err(Failure::new(
                Exit::NotPermitted,
                "HELPER_WORKS",
                "somebody is working on this computer; `remora leave --confirm` takes it back, `remora leave --stay` goes on",
            )),
            Self::Refused { code, text } => {
                let (code, exit) = known(&code);
                Err(Failure::new(
                    exit,
                    code,
                    format!("{text}; `remora sessions` shows what there is"),
                ))
            }
            Self::Ended { reason, exit } => Err(Failure::new(
                exit_named(exit),
                "SESSION_ENDED",
                format!("the session has ended meanwhile ({reason}); nothing was done"),
            )),
        }
    }
}

/// The refusals that another program may tell of, and how it goes on.
fn known(code: &str) -> (&'static str, Exit) {
    let not_permitted = [
        Refusal::ModeNotPermitted,
        Refusal::NoPermission,
        Refusal::ElevationBlocked,
        Refusal::RestartUnavailable,
        Refusal::ChatBlocked,
        Refusal::NoLocalEnd,
    ];
    let others = [
        Refusal::BadState(""),
        Refusal::HandsAtWork,
        Refusal::Unsupported,
        Refusal::PrerequisiteMissing,
    ];
    let find = |refusals: &[Refusal]| {
        let codes = refusals.iter().map(|refusal| refusal.code());
        codes.into_iter().find(|known| *known == code)
    };
    match (find(&not_permitted), find(&others)) {
        (Some(code), _) => (code, Exit::NotPermitted),
        (None, Some(code)) => (code, Exit::Error),
        (None, None) if code == HANDOVER_FAILED => (HANDOVER_FAILED, Exit::Error),
        (None, None) => ("REFUSED", Exit::Error),
    }
}

/// What did not happen is never a success.
fn exit_named(exit: u8) -> Exit {
    let exits = [
        Exit::Declined,
        Exit::TimedOut,
        Exit::Offline,
        Exit::NotPermitted,
        Exit::Verification,
    ];
    let named = exits.into_iter().find(|known| *known as u8 == exit);
    named.unwrap_or(Exit::Error)
}

#[cfg(test)]
mod tests {
    use remora_proto::session::Receipt;

    use super::*;

    fn ask(what: What) -> Order {
        Order::Ask { what }
    }

    #[test]
    fn an_order_is_answered_by_what_it_brought_about_and_by_nothing_else() {
        let changed = |mode| SessionEvent::ModeChanged {
            mode,
            by: remora_proto::identity::Role::Sharer,
        };
        let of = |what, event: &SessionEvent| ask(what).answered_by(&Event::Session(event.clone()));
        for (what, event, answer) in [
            (What::Control, changed(Mode::Control), Some(Answer::Done)),
            (What::Control, changed(Mode::View), None),
            (
                What::Control,
                SessionEvent::UpgradeDeclined,
                Some(Answer::Declined),
            ),
            (
                What::Control,
                SessionEvent::Started { mode: Mode::View },
                Some(Answer::Declined),
            ),
            (
                What::View,
                SessionEvent::Started { mode: Mode::View },
                Some(Answer::Done),
            ),
            (
                What::Elevation,
                SessionEvent::ElevationGranted,
                Some(Answer::Done),
            ),
            (What::Elevation, SessionEvent::UpgradeDeclined, None),
            (
                What::Restart,
                SessionEvent::RestartDeclined,
                Some(Answer::Declined),
            ),
            (
                What::Restart,
                SessionEvent::Refused(Refusal::Unsupported),
                Some(Answer::refused(Refusal::Unsupported)),
            ),
        ] {
            assert_eq!(of(what, &event), answer, "{what:?} {event:?}");
        }
        let ended = Event::Session(SessionEvent::Ended(Receipt {
            reason: EndReason::Declined,
            ..Receipt::default()
        }));
        let leave = Order::Leave { confirm: false };
        assert_eq!(leave.answered_by(&ended), Some(Answer::Done));
        let answer = ask(What::View).answered_by(&ended).expect("an answer");
        let failure = answer.result().expect_err("it was declined");
        assert_eq!(
            (failure.code, failure.exit),
            ("SESSION_ENDED", Exit::Declined)
        );
    }

    #[test]
    fn what_is_refused_has_the_exit_code_of_its_kind() {
        for (refusal, exit) in [
            (Refusal::NoPermission, Exit::NotPermitted),
            (Refusal::ChatBlocked, Exit::NotPermitted),
            (Refusal::NoLocalEnd, Exit::NotPermitted),
            (Refusal::Unsupported, Exit::Error),
            (Refusal::BadState("that"), Exit::Error),
            (Refusal::HandsAtWork, Exit::Error),
        ] {
            let failure = Answer::refused(refusal).result().expect_err("refused");
            assert_eq!((failure.code, failure.exit), (refusal.code(), exit));
        }
        let foreign = Answer::Refused {
            code: "NEWER".to_owned(),
            text: "not that".to_owned(),
        };
        assert_eq!(foreign.result().expect_err("refused").code, "REFUSED");
    }
}
