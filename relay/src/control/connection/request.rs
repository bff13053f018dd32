//! What a node asks, checked as far as that goes without the state, then asked of rendezvous and registry.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use remora_proto::{
    id::{ExchangeId, SessionId},
    record::{InvalidRecord, LocatorKey, Record},
    wire::message::{
        MAX_SIGNAL_BYTES,
        control::{Found as FoundReply, Withdraw},
    },
};

use super::{Session, unix_ms};
use crate::{
    control::{
        message::{self, Answer, Gone, Reason, Refusal, Reply, Request},
        registry::Demand,
    },
    drain,
    rate::{Rate, SourceLimiter},
    rendezvous::{Ended, Found, Publication, PutRefused, WithdrawRefused},
};

/// Requests of one node: an introduction takes six; a node that needs more than this is broken.
const REQUEST_RATE: Rate = Rate::per_second(50, 100);
/// Keys in one look-up, as `control.proto` allows: the epochs before, of and after now.
const MAX_LOOKUP_KEYS: usize = 3;

impl Session {
    pub(super) async fn handle_request(&mut self, request: Request, now: Instant) -> Answer {
        self.requests
            .take(REQUEST_RATE, 1, now)
            .map_err(|wait| Refusal {
                retry_after: Some(wait),
                ..Refusal::new(Reason::RateLimited, "too many requests")
            })?;
        match request {
            Request::Hello(_) => Err(Refusal::new(Reason::BadState, "Hello was said already")),
            Request::Publish(publish) => self.publish(publish.record).await,
            Request::Withdraw(withdraw) => self.withdraw(&withdraw).await,
            Request::Lookup(lookup) => self.lookup(&lookup.locator_keys, now).await,
            Request::Join(join) => self.join(&join.locator_key, join.payload, now).await,
            Request::Signal(signal) => {
                let payload = payload(signal.payload)?;
                self.demand(Demand::Signal {
                    exchange: ExchangeId(signal.exchange),
                    payload,
                })
                .await
            }
            Request::Admit(admit) => {
                let payload = payload(admit.payload)?;
                self.demand(Demand::Admit {
                    exchange: ExchangeId(admit.exchange),
                    payload,
                })
                .await
            }
            Request::Dismiss(dismiss) => {
                let (exchange, wrong_secret) = (ExchangeId(dismiss.exchange), dismiss.wrong_secret);
                let payload = payload(dismiss.payload)?;
                self.demand(Demand::Dismiss {
                    exchange,
                    payload,
                    wrong_secret,
                })
                .await
            }
            Request::Release(release) => {
                let answer = self
                    .demand(Demand::Release {
                        session: SessionId(release.session),
                    })
                    .await?;
                self.sessions = self.sessions.saturating_sub(1);
                Ok(answer)
            }
        }
    }

    async fn demand(&self, demand: Demand) -> Answer {
        self.shared.registry.demand(self.number, demand).await
    }

    async fn publish(&self, bytes: Bytes) -> Answer {
        if *self.shared.life.borrow() != Some(drain::State::Serving) {
            return Err(Refusal::new(
                Reason::Draining,
                "this relay is about to stop; use another",
            ));
        }
        let unix_ms = unix_ms();
        let record = Record::decode_signed(&bytes, unix_ms).map_err(bad_record)?;
        if record.realm != self.shared.realm {
            return Err(Refusal::new(
                Reason::BadRecord,
                "the record is for another realm than this relay's",
            ));
        }
        let publication = Publication::new(&record, bytes, self.node, unix_ms);
        let (key, live_for) = (publication.key(), publication.live_for());
        self.shared
            .rendezvous
            .put_if_absent(publication)
            .await
            .map_err(|refused| match refused {
                PutRefused::Taken => Refusal::new(Reason::Taken, "the code is taken; draw another"),
                PutRefused::NodeFull => {
                    Refusal::new(Reason::Full, "too many live codes; withdraw one first")
                }
                PutRefused::Full => Refusal::new(
                    Reason::Full,
                    "this relay keeps as many codes as it may; try another",
                ),
            })?;
        self.demand(Demand::Host { key, live_for }).await
    }

    async fn withdraw(&self, withdraw: &Withdraw) -> Answer {
        let key = locator_key(&withdraw.locator_key)?;
        let (why, label) = match withdraw.why() {
            Gone::Used => (Ended::Used, "used"),
            Gone::Burned => (Ended::Burned, "burned"),
            Gone::Expired => (Ended::Expired, "expired"),
            Gone::Cancelled => (Ended::Cancelled, "cancelled"),
            Gone::Unspecified => {
                return Err(Refusal::new(
                    Reason::Malformed,
                    "withdrawn for no known reason",
                ));
            }
        };
        self.shared
            .rendezvous
            .withdraw(key, self.node, why)
            .await
            .map_err(|refused| match refused {
                WithdrawRefused::Absent => {
                    Refusal::new(Reason::UnknownCode, "nothing is kept under this key")
                }
                WithdrawRefused::NotYours => {
                    Refusal::new(Reason::BadState, "this code is somebody else's")
                }
            })?;
        self.shared.metrics.code_ended(label);
        self.demand(Demand::Unhost { key }).await
    }

    async fn lookup(&self, keys: &[Bytes], now: Instant) -> Answer {
        if keys.is_empty() || keys.len() > MAX_LOOKUP_KEYS {
            return Err(Refusal::new(
                Reason::Malformed,
                "one to three keys can be looked up at once",
            ));
        }
        let keys = keys
            .iter()
            .map(|key| locator_key(key))
            .collect::<Result<Vec<_>, _>>()?;
        let answer = match self.take(&self.shared.lookups, now) {
            Ok(()) => self
                .find(&keys)
                .await
                .map(|record| Reply::Found(FoundReply { record })),
            Err(refusal) => Err(refusal),
        };
        self.shared.metrics.lookup(message::result(&answer));
        answer
    }

    /// Takes one of what this node's source may do.
    fn take(&self, limiter: &Mutex<SourceLimiter>, now: Instant) -> Result<(), Refusal> {
        let source = self.connection.remote_address().ip();
        let mut limiter = limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.take(source, now).map_err(|wait| Refusal {
            retry_after: Some(wait),
            ..Refusal::new(
                Reason::RateLimited,
                "too many codes tried from this address; wait a moment",
            )
        })
    }

    /// A live record before a dead one, a dead one before none.
    async fn find(&self, keys: &[LocatorKey]) -> Result<Bytes, Refusal> {
        let mut refusal = Refusal::new(Reason::UnknownCode, "nobody waits under this code");
        for &key in keys {
            match self.shared.rendezvous.find(key).await {
                Found::Live(record) => return Ok(record),
                Found::Ended(why) => refusal = code_ended(why),
                Found::Absent => {}
            }
        }
        Err(refusal)
    }

    async fn join(&self, key: &[u8], bytes: Bytes, now: Instant) -> Answer {
        let (key, payload) = (locator_key(key)?, payload(bytes)?);
        self.take(&self.shared.joins, now)?;
        self.find(&[key]).await?;
        self.demand(Demand::Join { key, payload }).await
    }
}

fn locator_key(bytes: &[u8]) -> Result<LocatorKey, Refusal> {
    LocatorKey::from_bytes(bytes)
        .map_err(|_| Refusal::new(Reason::Malformed, "a locator key has 32 bytes"))
}

fn payload(bytes: Bytes) -> Result<Bytes, Refusal> {
    if bytes.len() > MAX_SIGNAL_BYTES {
        return Err(Refusal::new(Reason::Malformed, "the payload is too long"));
    }
    Ok(bytes)
}

fn bad_record(invalid: InvalidRecord) -> Refusal {
    let text = match invalid {
        InvalidRecord::Time => "the record is not valid now; is this computer's clock right?",
        InvalidRecord::Signature => "the record's signature does not verify",
        InvalidRecord::TooLong(_) | InvalidRecord::Malformed | InvalidRecord::Field(_) => {
            "not a record"
        }
    };
    Refusal::new(Reason::BadRecord, text)
}

fn code_ended(why: Ended) -> Refusal {
    match why {
        Ended::Used => Refusal::new(Reason::CodeUsed, "this code has been used"),
        Ended::Burned => Refusal::new(Reason::CodeBurned, "this code was tried wrongly too often"),
        Ended::Expired => Refusal::new(Reason::CodeExpired, "this code has expired"),
        Ended::Cancelled => Refusal::new(Reason::CodeCancelled, "this code was taken back"),
    }
}
