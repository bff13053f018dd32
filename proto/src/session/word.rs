//! What one side says and both take note of: commands and messages alike, so that one table holds for both sides.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a few of many words are questions"
)]

use std::time::Duration;

use bytes::Bytes;

use super::{
    Check, Command, EndReason, Grants, Method, Mode, Refusal, SecurePrompt, Shield, timers::Timer,
};
use crate::{
    code::Code,
    identity::Role,
    line::Why,
    wire::message::session::{self as schema, control::Body},
};

/// Something that happens to a session.
#[derive(Debug)]
pub(super) enum Happening {
    /// One of the two said it: at its own side just now, at the other it has arrived.
    Says(Role, Word),
    /// A timer has run out.
    Due(Timer),
    /// Something outside of both.
    World(World),
}

/// What the helper asks for, or does unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Mode,
    Elevation,
    Restart,
    /// Of no number: nobody waits for an answer.
    Chat,
    Handover,
    Grant,
    SystemKey,
}

/// What one side says.
#[derive(Debug)]
pub(super) enum Word {
    ByLink,
    Reveal(Bytes),
    SasChecked(bool),
    AskMode(Mode),
    Prompted(Duration),
    Allow(Mode, Method),
    DeclineMode,
    Drop,
    Pause(bool),
    Started,
    Refuse(Question, Refusal),
    AskElevation,
    AllowElevation,
    DeclineElevation,
    ReleaseElevation,
    AskRestart,
    AllowRestart,
    DeclineRestart,
    NoRestart(Refusal),
    AskHandover(Code),
    AllowHandover,
    DeclineHandover,
    HandoverFailed,
    HandedOver,
    Covered(Option<SecurePrompt>),
    Shielded(Shield, Duration),
    Check(Check, Duration),
    GoOn,
    CaptureFailed,
    Media(Body),
    Grant(Grants),
    AskGrant(Grants),
    GiveBack(Grants),
    PowerKey {
        long: bool,
    },
    Exchange(Body),
    Elevated(Body),
    Leave,
    ConfirmLeave,
    Stay,
    Ended {
        reason: EndReason,
        chat_sent: u64,
        why: Why,
    },
}

/// What neither of the two says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum World {
    /// Something of the other side arrived, on any path.
    Heard,
    /// The inner connection is gone for good.
    Gone,
    /// The other side sent bytes that are no messages.
    Malformed,
    /// An administrator ended the session (C kill), for that reason.
    Kill(Why),
    /// The operator of a relay that it has a place at did.
    OperatorEnd(Why),
    /// This side's organisation thinks otherwise of the other.
    Judged,
    /// Sharer: somebody touched keyboard or mouse.
    LocalInput,
    /// Sharer: a secure prompt opened, or closed.
    SecurePrompt(Option<SecurePrompt>),
    /// Sharer: the helper did something that the machine does not see.
    Activity,
}

/// The number in a question, an answer or a refusal, and what it is about. An answer counts if it has the number of the question
/// asked last: one to a question that the helper has given up since is none.
pub(super) fn number(body: &mut Body) -> Option<(Question, &mut u32)> {
    match body {
        Body::ModeRequest(request) => Some((Question::Mode, &mut request.number)),
        Body::ConsentAnswer(answer) => Some((Question::Mode, &mut answer.number)),
        Body::ElevationRequest(request) => Some((Question::Elevation, &mut request.number)),
        Body::ElevationAnswer(answer) => Some((Question::Elevation, &mut answer.number)),
        Body::RestartRequest(request) => Some((Question::Restart, &mut request.number)),
        Body::RestartAnswer(answer) => Some((Question::Restart, &mut answer.number)),
        Body::HandoverRequest(request) => Some((Question::Handover, &mut request.number)),
        Body::HandoverAnswer(answer) => Some((Question::Handover, &mut answer.number)),
        Body::GrantRequest(request) => Some((Question::Grant, &mut request.number)),
        Body::SystemKey(key) => Some((Question::SystemKey, &mut key.number)),
        Body::Refused(refused) => {
            let question = Question::from_schema(refused.question());
            Some((question, &mut refused.number))
        }
        _ => None,
    }
}

impl Question {
    fn to_schema(self) -> schema::Question {
        match self {
            Self::Mode => schema::Question::ForMode,
            Self::Elevation => schema::Question::ForElevation,
            Self::Restart => schema::Question::ForRestart,
            Self::Chat => schema::Question::ForChat,
            Self::Handover => schema::Question::ForHandover,
            Self::Grant => schema::Question::ForGrant,
            Self::SystemKey => schema::Question::ForSystemKey,
        }
    }

    fn from_schema(question: schema::Question) -> Self {
        match question {
            schema::Question::ForMode => Self::Mode,
            schema::Question::ForElevation => Self::Elevation,
            schema::Question::ForRestart => Self::Restart,
            schema::Question::ForChat => Self::Chat,
            schema::Question::ForHandover => Self::Handover,
            schema::Question::ForGrant => Self::Grant,
            schema::Question::ForSystemKey => Self::SystemKey,
        }
    }
}

fn grant_request(grants: Grants, gives_back: bool) -> Body {
    Body::GrantRequest(schema::GrantRequest {
        number: 0,
        grants: Some(grants.to_schema()),
        gives_back,
    })
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl Word {
    /// What the other side is told when this side says it, still without a [`number`]; `None`: nothing, or something else.
    pub(super) fn body(&self) -> Option<Body> {
        Some(match self {
            Self::ByLink => Body::ByLink(schema::ByLink {}),
            Self::Reveal(nonce) => Body::NonceReveal(schema::NonceReveal {
                nonce: nonce.clone(),
            }),
            Self::SasChecked(same) => Body::SasChecked(schema::SasChecked { same: *same }),
            Self::AskMode(mode) => Body::ModeRequest(schema::ModeRequest {
                mode: mode.to_schema().into(),
                number: 0,
            }),
            Self::Prompted(within) => Body::ConsentPrompted(schema::ConsentPrompted {
                deadline_ms: millis(*within),
            }),
            Self::Allow(mode, method) => Body::ConsentAnswer(schema::ConsentAnswer {
                allow: true,
                mode: mode.to_schema().into(),
                method: method.to_schema().into(),
                number: 0,
            }),
            Self::DeclineMode => Body::ConsentAnswer(schema::ConsentAnswer {
                allow: false,
                mode: schema::Mode::View.into(),
                method: schema::ConsentMethod::Unspecified.into(),
                number: 0,
            }),
            Self::Drop => Body::ModeDropped(schema::ModeDropped {}),
            Self::Pause(paused) => Body::Paused(schema::Paused { paused: *paused }),
            Self::Started => Body::Started(schema::Started {}),
            Self::Refuse(question, why) => Body::Refused(schema::Refused {
                question: question.to_schema().into(),
                code: why.to_schema().into(),
                number: 0,
            }),
            Self::AskElevation => Body::ElevationRequest(schema::ElevationRequest { number: 0 }),
            Self::AllowElevation => Body::ElevationAnswer(schema::ElevationAnswer {
                allow: true,
                number: 0,
            }),
            Self::DeclineElevation => Body::ElevationAnswer(schema::ElevationAnswer {
                allow: false,
                number: 0,
            }),
            Self::ReleaseElevation => Body::ElevationReleased(schema::ElevationReleased {}),
            Self::AskRestart => Body::RestartRequest(schema::RestartRequest { number: 0 }),
            Self::AllowRestart => Body::RestartAnswer(schema::RestartAnswer {
                allow: true,
                number: 0,
            }),
            Self::DeclineRestart => Body::RestartAnswer(schema::RestartAnswer {
                allow: false,
                number: 0,
            }),
            Self::NoRestart(why) => Body::NoRestart(schema::NoRestart {
                code: why.to_schema().into(),
            }),
            Self::AskHandover(code) => Body::HandoverRequest(schema::HandoverRequest {
                number: 0,
                code: code.to_string(),
            }),
            Self::AllowHandover => Body::HandoverAnswer(schema::HandoverAnswer {
                allow: true,
                number: 0,
            }),
            Self::DeclineHandover => Body::HandoverAnswer(schema::HandoverAnswer {
                allow: false,
                number: 0,
            }),
            Self::HandoverFailed => Body::HandoverFailed(schema::HandoverFailed {}),
            Self::Covered(prompt) => Body::ScreenPaused(schema::ScreenPaused {
                paused: prompt.is_some(),
                takes_keys: prompt.is_some_and(|prompt| prompt.takes_keys),
            }),
            Self::Shielded(shield, left) => {
                let kind = match shield {
                    Shield::Off => schema::ShieldKind::ShieldOff,
                    Shield::Shielded => schema::ShieldKind::Shielded,
                    Shield::Frozen => schema::ShieldKind::Frozen,
                };
                Body::ShieldState(schema::ShieldState {
                    kind: kind.into(),
                    left_ms: millis(*left),
                })
            }
            Self::Check(check, within) => {
                let kind = match check {
                    Check::Reconfirm => schema::CheckKind::Reconfirm,
                    Check::MaxDuration => schema::CheckKind::MaxDuration,
                    Check::Idle => schema::CheckKind::Idle,
                };
                Body::Check(schema::Check {
                    kind: kind.into(),
                    deadline_ms: millis(*within),
                })
            }
            Self::GoOn => Body::GoOn(schema::GoOn {}),
            Self::Grant(grants) => Body::Grants(grants.to_schema()),
            Self::AskGrant(grants) => grant_request(*grants, false),
            Self::GiveBack(grants) => grant_request(*grants, true),
            Self::PowerKey { long } => Body::SystemKey(schema::SystemKey {
                number: 0,
                key: schema::SystemKeyKind::Power.into(),
                long: *long,
            }),
            Self::Media(body) | Self::Exchange(body) | Self::Elevated(body) => body.clone(),
            Self::Ended {
                reason,
                chat_sent,
                why,
            } => Body::Ended(schema::Ended {
                reason: reason.to_schema().into(),
                chat_sent: *chat_sent,
                why: why.as_str().to_owned(),
            }),
            // Said by what comes of it.
            Self::CaptureFailed
            | Self::HandedOver
            | Self::Leave
            | Self::ConfirmLeave
            | Self::Stay => return None,
        })
    }

    /// What a message of `speaker` says; `None`: nothing that this role may say at all.
    pub(super) fn heard(speaker: Role, body: Body) -> Option<Self> {
        let sharers = speaker == Role::Sharer;
        let ms = |ms: u32| Duration::from_millis(ms.into());
        Some(match body {
            Body::NonceReveal(reveal) => Self::Reveal(reveal.nonce),
            Body::SasChecked(checked) => Self::SasChecked(checked.same),
            Body::ModeRequest(request) if !sharers => {
                Self::AskMode(Mode::from_schema(request.mode())?)
            }
            Body::ConsentPrompted(prompted) if sharers => Self::Prompted(ms(prompted.deadline_ms)),
            Body::ConsentAnswer(answer) if sharers && answer.allow => Self::Allow(
                Mode::from_schema(answer.mode())?,
                Method::from_schema(answer.method()),
            ),
            Body::ConsentAnswer(_) if sharers => Self::DeclineMode,
            Body::ModeDropped(_) => Self::Drop,
            Body::Paused(paused) if sharers => Self::Pause(paused.paused),
            Body::Started(_) if sharers => Self::Started,
            Body::Refused(refused) if sharers => Self::Refuse(
                Question::from_schema(refused.question()),
                Refusal::from_schema(refused.code()),
            ),
            Body::ElevationRequest(_) if !sharers => Self::AskElevation,
            Body::ElevationAnswer(answer) if sharers => match answer.allow {
                true => Self::AllowElevation,
                false => Self::DeclineElevation,
            },
            Body::ElevationReleased(_) => Self::ReleaseElevation,
            Body::ElevationKey(_) | Body::ElevationReport(_) if sharers => Self::Elevated(body),
            Body::ElevationOrder(_) if !sharers => Self::Elevated(body),
            Body::RestartRequest(_) if !sharers => Self::AskRestart,
            Body::RestartAnswer(answer) if sharers => match answer.allow {
                true => Self::AllowRestart,
                false => Self::DeclineRestart,
            },
            Body::NoRestart(no) if sharers => Self::NoRestart(Refusal::from_schema(no.code())),
            Body::HandoverRequest(request) if !sharers => {
                Self::AskHandover(request.code.parse().ok()?)
            }
            Body::HandoverAnswer(answer) if sharers => match answer.allow {
                true => Self::AllowHandover,
                false => Self::DeclineHandover,
            },
            Body::HandoverFailed(_) if sharers => Self::HandoverFailed,
            Body::ScreenPaused(paused) if sharers => {
                Self::Covered(paused.paused.then_some(SecurePrompt {
                    takes_keys: paused.takes_keys,
                }))
            }
            Body::ShieldState(state) if sharers => {
                let shield = match state.kind() {
                    schema::ShieldKind::ShieldOff => Shield::Off,
                    schema::ShieldKind::Shielded => Shield::Shielded,
                    schema::ShieldKind::Frozen => Shield::Frozen,
                };
                Self::Shielded(shield, ms(state.left_ms))
            }
            Body::Check(check) if sharers => {
                let kind = match check.kind() {
                    schema::CheckKind::Unspecified => return None,
                    schema::CheckKind::Reconfirm => Check::Reconfirm,
                    schema::CheckKind::MaxDuration => Check::MaxDuration,
                    schema::CheckKind::Idle => Check::Idle,
                };
                Self::Check(kind, ms(check.deadline_ms))
            }
            Body::GoOn(_) => Self::GoOn,
            Body::Ended(ended) => Self::Ended {
                reason: EndReason::said_by(speaker, ended.reason()),
                chat_sent: ended.chat_sent,
                why: match ended.reason() {
                    schema::EndReason::AdminEnded | schema::EndReason::OperatorEnded => {
                        Why::heard(&ended.why)
                    }
                    _ => Why::default(),
                },
            },
            Body::Screen(_) | Body::CursorPosition(_) | Body::InputRefused(_) if sharers => {
                Self::Media(body)
            }
            Body::SelectSource(_)
            | Body::FrameAck(_)
            | Body::KeyFrameRequest(_)
            | Body::Pointer(_)
            | Body::PenStroke(_)
            | Body::PenClear(_)
                if !sharers =>
            {
                Self::Media(body)
            }
            Body::ByLink(_) if sharers => Self::ByLink,
            Body::SystemKey(key) if !sharers && key.key() == schema::SystemKeyKind::Power => {
                Self::PowerKey { long: key.long }
            }
            Body::Grants(grants) if sharers => Self::Grant(Grants::from_schema(grants)),
            Body::GrantRequest(request) if !sharers => {
                let grants = Grants::from_schema(request.grants.unwrap_or_default());
                match request.gives_back {
                    true => Self::GiveBack(grants),
                    false => Self::AskGrant(grants),
                }
            }
            Body::ClipboardOffer(_)
            | Body::ClipboardRequest(_)
            | Body::FileOffer(_)
            | Body::FileAccept(_)
            | Body::FileEnd(_) => Self::Exchange(body),
            // The other role's, or, of relays, none of the session's.
            Body::ModeRequest(_)
            | Body::ConsentPrompted(_)
            | Body::ConsentAnswer(_)
            | Body::Paused(_)
            | Body::Started(_)
            | Body::Refused(_)
            | Body::ElevationRequest(_)
            | Body::ElevationAnswer(_)
            | Body::ElevationKey(_)
            | Body::ElevationOrder(_)
            | Body::ElevationReport(_)
            | Body::RestartRequest(_)
            | Body::RestartAnswer(_)
            | Body::NoRestart(_)
            | Body::HandoverRequest(_)
            | Body::HandoverAnswer(_)
            | Body::HandoverFailed(_)
            | Body::ScreenPaused(_)
            | Body::ShieldState(_)
            | Body::Check(_)
            | Body::Screen(_)
            | Body::CursorPosition(_)
            | Body::InputRefused(_)
            | Body::SelectSource(_)
            | Body::FrameAck(_)
            | Body::KeyFrameRequest(_)
            | Body::Pointer(_)
            | Body::PenStroke(_)
            | Body::PenClear(_)
            | Body::Grants(_)
            | Body::GrantRequest(_)
            | Body::ByLink(_)
            | Body::SystemKey(_)
            | Body::Relays(_)
            | Body::Measured(_)
            | Body::Moving(_)
            | Body::Papers(_) => return None,
        })
    }

    /// What the helper waits for an answer to.
    pub(super) fn question(&self) -> Option<Question> {
        match self {
            Self::AskMode(_) => Some(Question::Mode),
            Self::AskElevation => Some(Question::Elevation),
            Self::AskRestart => Some(Question::Restart),
            Self::AskHandover(_) => Some(Question::Handover),
            Self::AskGrant(_) | Self::GiveBack(_) => Some(Question::Grant),
            Self::PowerKey { .. } => Some(Question::SystemKey),
            _ => None,
        }
    }

    /// What it is, for whoever may not say it now.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::ByLink => "a way in, said too late",
            Self::Reveal(_) => "a second nonce",
            Self::SasChecked(_) => "a verdict on the words",
            Self::AskMode(_) => "a request for a mode",
            Self::Prompted(_) => "a prompt",
            Self::Allow(..) | Self::DeclineMode => "an answer to a request for a mode",
            Self::Drop => "a mode dropped twice",
            Self::Pause(_) => "a pause",
            Self::Started => "a start",
            Self::Refuse(..) => "a refusal",
            Self::AskElevation => "a request for elevation",
            Self::AllowElevation | Self::DeclineElevation => "an answer to one for elevation",
            Self::ReleaseElevation => "elevation ended twice",
            Self::AskRestart => "a request for a restart",
            Self::AllowRestart | Self::DeclineRestart => "an answer to one for a restart",
            Self::NoRestart(_) => "that there is no restart, before its time",
            Self::AskHandover(_) => "a request to hand over",
            Self::AllowHandover | Self::DeclineHandover => "an answer to one to hand over",
            Self::HandoverFailed | Self::HandedOver => "a hand-over",
            Self::Covered(_) => "a covered screen",
            Self::Shielded(..) => "a shield",
            Self::Check(..) => "a question whether to go on",
            Self::GoOn => "an answer whether to go on",
            Self::CaptureFailed => "a failed capture",
            Self::Media(_) => "a picture before its time",
            Self::Grant(_) => "a grant of what is granted",
            Self::AskGrant(_) => "a request for what is granted",
            Self::GiveBack(_) => "giving back what was not granted",
            Self::PowerKey { .. } => "a key of the system's",
            Self::Exchange(_) => "an exchange before its time",
            Self::Elevated(_) => "what needs an administrator's rights",
            Self::Leave | Self::ConfirmLeave | Self::Stay => "leaving",
            Self::Ended { .. } => "an end",
        }
    }
}

impl Command {
    /// What the person says with it; `None` where that takes more than a word (chat), or depends on what is asked.
    pub(super) fn word(&self) -> Option<Word> {
        Some(match self {
            Self::AskMode(mode) => Word::AskMode(*mode),
            Self::Allow(mode) => Word::Allow(*mode, Method::User),
            Self::DropMode => Word::Drop,
            Self::SasChecked(same) => Word::SasChecked(*same),
            Self::Pause(paused) => Word::Pause(*paused),
            Self::AskElevation => Word::AskElevation,
            Self::AllowElevation => Word::AllowElevation,
            Self::ReleaseElevation => Word::ReleaseElevation,
            Self::AskRestart => Word::AskRestart,
            Self::AllowRestart => Word::AllowRestart,
            Self::RestartFailed => Word::DeclineRestart,
            Self::AskHandover(code) => Word::AskHandover(code.clone()),
            Self::AllowHandover => Word::AllowHandover,
            Self::HandoverFailed => Word::HandoverFailed,
            Self::HandedOver => Word::HandedOver,
            Self::GoOn => Word::GoOn,
            Self::CaptureUp => Word::Started,
            Self::CaptureFailed => Word::CaptureFailed,
            Self::Media(body) => Word::Media(body.clone()),
            Self::Elevated(body) => Word::Elevated(body.clone()),
            Self::Leave => Word::Leave,
            Self::ConfirmLeave => Word::ConfirmLeave,
            Self::Stay => Word::Stay,
            Self::Exchange(body) => Word::Exchange(body.clone()),
            Self::PowerKey { long } => Word::PowerKey { long: *long },
            Self::Decline | Self::Chat(_) | Self::Grant { .. } => return None,
        })
    }
}
