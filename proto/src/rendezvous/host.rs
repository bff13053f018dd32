//! The code's owner: publishes, answers joiners, counts wrong tries, admits one.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::{InnerKeys, array, decode, encode, inputs};
use crate::{
    code::Code,
    id::ExchangeId,
    pake::Responder,
    random::Random,
    record::{HostRole, MAX_LIFETIME_MS, Record, RecordKey, Waiting},
    wire::message::session::{self as schema, RejectReason, rendezvous::Body},
};

/// A wrong tag is one guess; the third one burns the code.
pub const MAX_TRIES: u32 = 3;
/// Life of a code (`T_code` of SESSION.md §1.2).
pub const LIFETIME: Duration = Duration::from_millis(MAX_LIFETIME_MS);
/// Unfinished exchanges; the oldest gives way. A share without a tag is no guess, but costs us work.
const MAX_PENDING: usize = 4;
/// Exchanges begun with one code: beyond, somebody is flooding us.
const MAX_STARTED: u32 = 64;

/// Why a code admits nobody any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeEnd {
    /// A joiner proved that it has the code.
    Used,
    /// Three wrong tries, or a flood.
    Burned,
    /// Its time is over.
    Expired,
    /// The host's person, or its program's end.
    Cancelled,
}

impl CodeEnd {
    fn reject_reason(self) -> RejectReason {
        match self {
            Self::Used => RejectReason::CodeUsed,
            Self::Burned => RejectReason::CodeBurned,
            Self::Expired => RejectReason::CodeExpired,
            Self::Cancelled => RejectReason::CodeCancelled,
        }
    }
}

/// What the host wants its relay to be told.
#[derive(Debug)]
pub enum HostTransmit {
    /// Pass on to the joiner.
    Signal(ExchangeId, Bytes),
    /// Pass on, and allocate a session.
    Admit(ExchangeId, Bytes),
    /// Pass on, and forget the exchange.
    Dismiss {
        /// Which.
        exchange: ExchangeId,
        /// The reason, for the joiner.
        payload: Bytes,
        /// For the relay's statistics.
        wrong_secret: bool,
    },
    /// Nobody may join any more.
    Withdraw(RecordKey, CodeEnd),
}

/// What the host's person should know.
#[derive(Debug)]
pub enum HostEvent {
    /// Somebody tried a wrong code.
    WrongCode {
        /// Before it burns.
        tries_left: u32,
    },
    /// This exchange's joiner has the code; the inner connection may begin. Comes at most once.
    Joined(ExchangeId, InnerKeys),
    /// The code admits nobody any more. Comes exactly once.
    Ended(CodeEnd),
}

/// The machine of a code's owner.
#[derive(Debug)]
pub struct Host {
    code: Code,
    record: Record<Waiting>,
    key: SigningKey,
    signed: Bytes,
    expires: Instant,
    random: Random,
    tries: u32,
    started: u32,
    pending: BTreeMap<ExchangeId, Responder>,
    ended: Option<CodeEnd>,
    transmits: VecDeque<HostTransmit>,
    events: VecDeque<HostEvent>,
}

impl Host {
    /// A host that draws a fresh code in `realm`, valid for `lifetime` (at most [`LIFETIME`]) from `now`, which is
    /// `unix_ms` for the rest of the world.
    pub fn new(
        realm: &str,
        role: HostRole,
        lifetime: Duration,
        now: Instant,
        unix_ms: u64,
        mut random: Random,
    ) -> Self {
        let code = Code::generate(&mut random);
        Self::with_code(code, realm, role, lifetime, now, unix_ms, random)
    }

    /// The same with a code that the joiner knows already.
    pub fn with_code(
        code: Code,
        realm: &str,
        role: HostRole,
        lifetime: Duration,
        now: Instant,
        unix_ms: u64,
        mut random: Random,
    ) -> Self {
        let lifetime = lifetime.min(LIFETIME);
        let key = SigningKey::from_bytes(&random.bytes());
        let record = Record {
            realm: realm.to_owned(),
            key: code.locator_key(realm, unix_ms),
            publisher: key.verifying_key().to_bytes(),
            subject: Waiting {
                nonce: random.bytes(),
                role,
            },
            not_before_ms: unix_ms,
            expiry_ms: unix_ms
                .saturating_add(u64::try_from(lifetime.as_millis()).unwrap_or(MAX_LIFETIME_MS)),
            sequence: 1,
        };
        Self {
            signed: record.encode_signed(&key),
            code,
            record,
            key,
            expires: now + lifetime,
            random,
            tries: 0,
            started: 0,
            pending: BTreeMap::new(),
            ended: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// To be shown to the host's person, and to nobody else.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// To be published; when the locator is taken, make another host.
    pub fn signed_record(&self) -> Bytes {
        self.signed.clone()
    }

    /// The host is at another relay: its record is to be published there, and takes the place of the one before, whoever keeps that.
    pub fn handle_moved(&mut self) {
        self.record.sequence = self.record.sequence.saturating_add(1);
        self.signed = self.record.encode_signed(&self.key);
    }

    /// Whether a joiner is on the way.
    pub fn is_asked(&self) -> bool {
        !self.pending.is_empty()
    }

    /// A joiner's first message.
    pub fn handle_offer(&mut self, exchange: ExchangeId, payload: &[u8], now: Instant) {
        self.handle_timeout(now);
        if let Some(end) = self.ended {
            return self.reject(exchange, end.reject_reason(), false);
        }
        self.started += 1;
        if self.started > MAX_STARTED {
            self.end(CodeEnd::Burned);
            return self.reject(exchange, RejectReason::CodeBurned, false);
        }
        let Some(responder) = self.respond(payload) else {
            return self.reject(exchange, RejectReason::Malformed, false);
        };
        let point = Bytes::copy_from_slice(&responder.share());
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_first();
        }
        self.pending.insert(exchange, responder);
        let reply = Body::ShareReply(schema::ShareReply { point });
        self.transmits
            .push_back(HostTransmit::Signal(exchange, encode(reply)));
    }

    fn respond(&mut self, payload: &[u8]) -> Option<Responder> {
        let Body::Share(share) = decode(payload)? else {
            return None;
        };
        let inputs = inputs(&self.record, &array(&share.nonce)?);
        Responder::respond(
            self.code.pake_input(),
            &inputs,
            &array(&share.point)?,
            &mut self.random,
        )
        .ok()
    }

    /// A joiner's further message: its tag.
    pub fn handle_signal(&mut self, exchange: ExchangeId, payload: &[u8], now: Instant) {
        self.handle_timeout(now);
        if let Some(end) = self.ended {
            return self.reject(exchange, end.reject_reason(), false);
        }
        let Some(responder) = self.pending.remove(&exchange) else {
            return self.reject(exchange, RejectReason::Malformed, false);
        };
        let tag = match decode(payload) {
            Some(Body::Confirmation(confirmation)) => array(&confirmation.tag),
            _ => None,
        };
        let Some(tag) = tag else {
            return self.reject(exchange, RejectReason::Malformed, false);
        };
        match responder.confirm(&tag) {
            Ok((keys, tag)) => {
                let tag = Bytes::copy_from_slice(&tag);
                let reply = Body::ConfirmationReply(schema::Confirmation { tag });
                self.transmits
                    .push_back(HostTransmit::Admit(exchange, encode(reply)));
                self.events.push_back(HostEvent::Joined(
                    exchange,
                    InnerKeys::new(&keys, &self.record),
                ));
                self.end(CodeEnd::Used);
            }
            Err(_) => self.count_wrong_try(exchange),
        }
    }

    fn count_wrong_try(&mut self, exchange: ExchangeId) {
        self.tries += 1;
        self.reject(exchange, RejectReason::WrongCode, true);
        self.events.push_back(HostEvent::WrongCode {
            tries_left: self.tries_left(),
        });
        if self.tries_left() == 0 {
            self.end(CodeEnd::Burned);
        }
    }

    fn tries_left(&self) -> u32 {
        MAX_TRIES.saturating_sub(self.tries)
    }

    fn reject(&mut self, exchange: ExchangeId, reason: RejectReason, wrong_secret: bool) {
        let rejected = schema::Rejected {
            reason: reason.into(),
            tries_left: self.tries_left(),
        };
        let payload = encode(Body::Rejected(rejected));
        self.transmits.push_back(HostTransmit::Dismiss {
            exchange,
            payload,
            wrong_secret,
        });
    }

    /// The relay says that the exchange's joiner is gone.
    pub fn handle_joiner_gone(&mut self, exchange: ExchangeId) {
        self.pending.remove(&exchange);
    }

    /// The host's person gives up.
    pub fn cancel(&mut self) {
        self.end(CodeEnd::Cancelled);
    }

    fn end(&mut self, end: CodeEnd) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(end);
        for exchange in std::mem::take(&mut self.pending).into_keys() {
            self.reject(exchange, end.reject_reason(), false);
        }
        self.transmits
            .push_back(HostTransmit::Withdraw(self.record.key, end));
        self.events.push_back(HostEvent::Ended(end));
    }

    /// The next message for the relay.
    pub fn poll_transmit(&mut self) -> Option<HostTransmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<HostEvent> {
        self.events.pop_front()
    }

    /// When the code expires, unless it has ended.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ended.is_none().then_some(self.expires)
    }

    /// Ends the code when its time is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.expires {
            self.end(CodeEnd::Expired);
        }
    }
}
