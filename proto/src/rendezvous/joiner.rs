//! Who types the code: finds the host, proves that it has the code, and makes the host prove it, too.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever is not expected in a state changes nothing"
)]

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{InnerKeys, array, decode, encode, inputs};
use crate::{
    code::Code,
    id::ExchangeId,
    pake::{Initiator, Unconfirmed},
    random::Random,
    record::{HostRole, Record, RecordKey, Waiting},
    wire::message::{
        control::Reason,
        session::{self as schema, RejectReason, rendezvous::Body},
    },
};

/// From the code to the inner connection's keys, at most (SESSION.md §1.2).
pub const T_JOIN: Duration = Duration::from_secs(30);

/// What the joiner wants its relay to be told.
#[derive(Debug)]
pub enum JoinerTransmit {
    /// Who waits under one of these?
    Lookup([RecordKey; 3]),
    /// Open an exchange with the host under this key.
    Join(RecordKey, Bytes),
    /// Pass on to the host.
    Signal(ExchangeId, Bytes),
}

/// How it went; exactly one comes.
#[derive(Debug)]
pub enum JoinerEvent {
    /// The host has the same code; the inner connection may begin.
    Joined(InnerKeys),
    /// It did not work.
    Failed(JoinFailure),
}

/// Why a code did not lead to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinFailure {
    /// Somebody waits there, but with another code.
    #[error("this is not your helper's code ({tries_left} {} left); {}", tries(*.tries_left), advice(*.tries_left))]
    WrongCode {
        /// Before it burns.
        tries_left: u32,
    },
    /// Nobody waits there.
    #[error("nobody waits with this code; please compare it and type it again")]
    UnknownCode,
    /// 10 minutes are over.
    #[error("this code has expired; please ask your helper for a new one")]
    Expired,
    /// It admitted somebody already.
    #[error(
        "this code has been used already; please ask your helper for a new one, and tell them if it was not you"
    )]
    Used,
    /// Three wrong tries.
    #[error(
        "this code was tried wrongly too often and is blocked; please ask your helper for a new one"
    )]
    Burned,
    /// Withdrawn by the helper.
    #[error("your helper has withdrawn this code; please ask for a new one")]
    Cancelled,
    /// Whoever answered did not have the code: not the host, or not an honest relay.
    #[error(
        "whoever answered does not have your code: something between you and your helper interferes; do not go on"
    )]
    Impostor,
    /// The relay gave a record that is no host's.
    #[error(
        "the relay answered with a record that is not valid; if your clock is right, do not trust this relay"
    )]
    BadRecord,
    /// The host went away meanwhile.
    #[error("your helper's computer is no longer connected")]
    PeerGone,
    /// No answer within [`T_JOIN`].
    #[error("your helper's computer did not answer in time")]
    Timeout,
    /// The relay said no.
    #[error("the relay refused: {}", .0.as_str_name())]
    Refused(Reason),
}

fn tries(left: u32) -> &'static str {
    if left == 1 { "try" } else { "tries" }
}

/// What to do after a wrong code.
fn advice(tries_left: u32) -> &'static str {
    match tries_left {
        0 => "it is blocked now: please ask your helper for a new one",
        _ => "please compare it and type it again",
    }
}

enum State {
    LookingUp(Code),
    Joining(Box<Record<Waiting>>, Initiator),
    Exchanging(Box<Record<Waiting>>, ExchangeId, Initiator),
    Confirming(Box<Record<Waiting>>, ExchangeId, Unconfirmed),
    Done,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LookingUp(_) => "LookingUp",
            Self::Joining(..) => "Joining",
            Self::Exchanging(..) => "Exchanging",
            Self::Confirming(..) => "Confirming",
            Self::Done => "Done",
        })
    }
}

/// The machine of one try with one code.
#[derive(Debug)]
pub struct Joiner {
    state: State,
    host_role: HostRole,
    keys: [RecordKey; 3],
    deadline: Instant,
    decided: bool,
    random: Random,
    transmits: VecDeque<JoinerTransmit>,
    events: VecDeque<JoinerEvent>,
}

impl Joiner {
    /// Begins with what the person typed; the host must have `host_role`.
    pub fn new(
        code: Code,
        realm: &str,
        host_role: HostRole,
        now: Instant,
        unix_ms: u64,
        random: Random,
    ) -> Self {
        let keys = code.lookup_keys(realm, unix_ms);
        Self {
            state: State::LookingUp(code),
            host_role,
            keys,
            deadline: now + T_JOIN,
            decided: false,
            random,
            transmits: [JoinerTransmit::Lookup(keys)].into(),
            events: VecDeque::new(),
        }
    }

    /// Answer to the look-up.
    pub fn handle_found(&mut self, record: &[u8], unix_ms: u64) {
        let code = match self.take() {
            State::LookingUp(code) => code,
            other => return self.state = other,
        };
        let record = Record::decode_signed(record, unix_ms).ok();
        let record = match record.and_then(Record::waiting) {
            Some(record)
                if self.keys.contains(&record.key) && record.subject.role == self.host_role =>
            {
                record
            }
            _ => return self.fail(JoinFailure::BadRecord),
        };
        let nonce = self.random.bytes();
        let initiator =
            Initiator::start(code.pake_input(), inputs(&record, &nonce), &mut self.random);
        let share = schema::Share {
            point: Bytes::copy_from_slice(&initiator.share()),
            nonce: Bytes::copy_from_slice(&nonce),
        };
        self.transmits
            .push_back(JoinerTransmit::Join(record.key, encode(Body::Share(share))));
        self.state = State::Joining(Box::new(record), initiator);
    }

    /// Answer to the join.
    pub fn handle_started(&mut self, exchange: ExchangeId) {
        self.state = match self.take() {
            State::Joining(record, initiator) => State::Exchanging(record, exchange, initiator),
            other => other,
        };
    }

    /// The host's share.
    pub fn handle_signal(&mut self, from: ExchangeId, payload: &[u8]) {
        let (record, initiator) = match self.take() {
            State::Exchanging(record, exchange, initiator) if exchange == from => {
                (record, initiator)
            }
            other => return self.state = other,
        };
        let share = match decode(payload) {
            Some(Body::ShareReply(reply)) => array(&reply.point),
            _ => None,
        };
        let Some((unconfirmed, tag)) = share.and_then(|share| initiator.finish(&share).ok()) else {
            return self.fail(JoinFailure::Impostor);
        };
        let confirmation = schema::Confirmation {
            tag: Bytes::copy_from_slice(&tag),
        };
        self.transmits.push_back(JoinerTransmit::Signal(
            from,
            encode(Body::Confirmation(confirmation)),
        ));
        self.state = State::Confirming(record, from, unconfirmed);
    }

    /// The relay has allocated a session, and passes on the host's tag.
    pub fn handle_allocated(&mut self, from: ExchangeId, payload: &[u8]) {
        let (record, unconfirmed) = match self.take() {
            State::Confirming(record, exchange, unconfirmed) if exchange == from => {
                (record, unconfirmed)
            }
            State::Exchanging(..) => return self.fail(JoinFailure::Impostor),
            other => return self.state = other,
        };
        let tag = match decode(payload) {
            Some(Body::ConfirmationReply(reply)) => array(&reply.tag),
            _ => None,
        };
        match tag.and_then(|tag| unconfirmed.confirm(&tag).ok()) {
            Some(keys) => self.decide(JoinerEvent::Joined(InnerKeys::new(&keys, &record))),
            None => self.fail(JoinFailure::Impostor),
        }
    }

    /// The host has ended the exchange, and says why (empty: the relay has).
    pub fn handle_dismissed(&mut self, from: ExchangeId, payload: &[u8]) {
        if !matches!(&self.state, State::Exchanging(_, exchange, _) | State::Confirming(_, exchange, _) if *exchange == from)
        {
            return;
        }
        let failure = match decode(payload) {
            Some(Body::Rejected(rejected)) => match rejected.reason() {
                RejectReason::WrongCode => JoinFailure::WrongCode {
                    tries_left: rejected.tries_left.min(3),
                },
                RejectReason::CodeUsed => JoinFailure::Used,
                RejectReason::CodeBurned => JoinFailure::Burned,
                RejectReason::CodeExpired => JoinFailure::Expired,
                RejectReason::CodeCancelled => JoinFailure::Cancelled,
                RejectReason::Malformed | RejectReason::Unspecified => JoinFailure::Impostor,
            },
            _ => JoinFailure::PeerGone,
        };
        self.fail(failure);
    }

    /// The relay refuses the look-up, the join or the signal.
    pub fn handle_refused(&mut self, reason: Reason) {
        self.fail(match reason {
            Reason::UnknownCode => JoinFailure::UnknownCode,
            Reason::CodeExpired => JoinFailure::Expired,
            Reason::CodeUsed => JoinFailure::Used,
            Reason::CodeBurned => JoinFailure::Burned,
            Reason::CodeCancelled => JoinFailure::Cancelled,
            Reason::PeerGone => JoinFailure::PeerGone,
            other => JoinFailure::Refused(other),
        });
    }

    fn take(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Done)
    }

    fn fail(&mut self, failure: JoinFailure) {
        self.transmits.clear();
        self.decide(JoinerEvent::Failed(failure));
    }

    /// The first outcome is the outcome.
    fn decide(&mut self, event: JoinerEvent) {
        self.state = State::Done;
        if !self.decided {
            self.decided = true;
            self.events.push_back(event);
        }
    }

    /// The next message for the relay.
    pub fn poll_transmit(&mut self) -> Option<JoinerTransmit> {
        self.transmits.pop_front()
    }

    /// The outcome, once.
    pub fn poll_event(&mut self) -> Option<JoinerEvent> {
        self.events.pop_front()
    }

    /// When the try is given up.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!matches!(self.state, State::Done)).then_some(self.deadline)
    }

    /// Gives the try up when its time is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| now >= deadline) {
            self.fail(JoinFailure::Timeout);
        }
    }
}
