//! What a node asks, checked as far as that goes without the state, then asked of rendezvous and registry.
//!
//! ```text
//! request ─▶ Desk::begin ─┬─ Step::Answered, Step::Park ────────────────────────────────▶ reply
//!                         └─ Step::Ask ─▶ Question::ask (may take a while) ─▶ Desk::conclude ─▶ reply
//! ```

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use remora_proto::{
    id::{DeviceId, ExchangeId, NodeId, RelayId, SessionId},
    record::{InvalidRecord, Kind, Record, RecordKey},
    wire::message::{
        MAX_SIGNAL_BYTES,
        control::{Found as FoundReply, QueueUp, Sighted, Withdraw},
    },
};

use super::{
    message::{self, Answer, Reason, Refusal, Reply, Request},
    policies, queue,
    registry::{ConnectionNumber, Demand, Outcome, Registry, RejoinKey},
    reports::Report,
};
use crate::{
    admin::metrics::{CodeEnd, Metrics},
    drain,
    rate::{Rate, SourceLimiter, TokenBucket},
    rendezvous::{
        Ended, Found, Publication, PutRefused, Rendezvous, Sighting, WithdrawRefused,
        shelf::{ended, is_at},
    },
};

/// Requests of one node: an introduction takes six; a node that needs more than this is broken.
const REQUEST_RATE: Rate = Rate::per_second(50, 100);
/// Devices that one source may ask for: a page of them at once, and each again every minute. There is nothing to guess.
const SEEK_RATE: Rate = Rate::per_second(5, 300);
/// Devices that one source may ring at: a help desk behind one address, in the morning. Each ring may be seen by somebody.
const RING_RATE: Rate = Rate::per_second(1, 60);
/// What the nodes of one source may say of their sessions: a handful each when it begins, and when something changes.
const REPORT_RATE: Rate = Rate::per_second(1, 120);
/// Keys in one look-up, as `control.proto` allows: the epochs before, of and after now.
const MAX_LOOKUP_KEYS: usize = 3;

/// By then a relay that does not answer is known to be gone.
const QUORUM_RETRY: Duration = Duration::from_secs(5);

const TOO_MANY_CODES: &str = "too many codes tried from this address; wait a moment";
const TOO_MANY_DEVICES: &str = "too many devices asked for from this address; wait a moment";
const TOO_MANY_REPORTS: &str = "too many reports from this address";
const TOO_MANY_RINGS: &str = "too many invitations from this address; wait a moment";
const DRAINING: Refusal =
    Refusal::new(Reason::Draining, "this relay is about to stop; use another");
const NO_DEVICE: Refusal = Refusal::new(Reason::Malformed, "a device's key has 32 bytes");

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Its connection.
    pub number: ConnectionNumber,
    /// Its key.
    pub node: NodeId,
    /// Where it is.
    pub source: IpAddr,
}

/// How far a request has come.
#[derive(Debug)]
pub enum Step {
    /// All the way.
    Answered(Answer),
    /// Another relay has been asked about this exchange.
    Later(ExchangeId),
    /// Rendezvous has to be asked.
    Ask(Question),
    /// The node is to be parked, which is the driver's: it has the connections.
    Park,
    /// It is about a policy.
    Policy(policies::Question),
    /// It is about who waits for help.
    Queue(queue::Question),
}

impl From<Outcome> for Step {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Answered(answer) => Self::Answered(answer),
            Outcome::Later(exchange) => Self::Later(exchange),
        }
    }
}

/// What rendezvous is asked.
#[derive(Debug)]
pub enum Question {
    /// To keep a record.
    Put(Publication),
    /// What it knows of a device.
    Seek {
        /// Which.
        key: RecordKey,
        /// What to say to it, if it is there.
        ring: Option<Bytes>,
    },
    /// To end one.
    Withdraw {
        /// Which.
        key: RecordKey,
        /// Who asks.
        owner: NodeId,
        /// Why.
        why: Ended,
    },
    /// What it keeps.
    Find {
        /// Under which keys.
        keys: Vec<RecordKey>,
        /// Why somebody wants to know.
        purpose: Purpose,
    },
}

/// Why a record is looked for.
#[derive(Debug)]
pub enum Purpose {
    /// To tell it.
    Lookup,
    /// To join whoever put it there.
    Join {
        /// For the host.
        payload: Bytes,
    },
}

/// What rendezvous said.
#[derive(Debug)]
pub enum Finding {
    /// Whether it keeps the record of this kind, under this key, for so long.
    Put(Result<(), PutRefused>, RecordKey, Kind, Duration),
    /// What it knows of the device, and what is to be said to it.
    Sought {
        /// Which.
        key: RecordKey,
        /// What is known.
        sighting: Option<Sighting>,
        /// For the device.
        ring: Option<Bytes>,
    },
    /// Whether it ended the record.
    Withdrawn(Result<(), WithdrawRefused>, RecordKey, Ended),
    /// What it keeps, key by key.
    Found(Vec<(RecordKey, Found)>, Purpose),
}

impl Question {
    /// Asks it.
    pub async fn ask(self, rendezvous: Arc<dyn Rendezvous>) -> Finding {
        match self {
            Self::Put(publication) => {
                let (key, kind) = (publication.key(), publication.kind());
                let live_for = publication.live_for();
                let put = rendezvous.put_if_absent(publication).await;
                Finding::Put(put, key, kind, live_for)
            }
            Self::Seek { key, ring } => Finding::Sought {
                key,
                sighting: rendezvous.seek(key).await,
                ring,
            },
            Self::Withdraw { key, owner, why } => {
                let withdrawn = rendezvous.withdraw(key, owner, why).await;
                Finding::Withdrawn(withdrawn, key, why)
            }
            Self::Find { keys, purpose } => {
                // All at once: they are the code's epochs, and somebody waits. A live one is taken before what comes after it, so that
                // nobody waits for that: where nothing is kept takes longest to find out.
                let mut asked: FuturesOrdered<_> = keys
                    .into_iter()
                    .map(|key| {
                        let rendezvous = &rendezvous;
                        async move { (key, rendezvous.find(key).await) }
                    })
                    .collect();
                let mut all = Vec::with_capacity(asked.len());
                while let Some((key, found)) = asked.next().await {
                    let is_live = matches!(found, Found::Live { .. });
                    all.push((key, found));
                    if is_live {
                        break;
                    }
                }
                Finding::Found(all, purpose)
            }
        }
    }
}

/// Where requests are taken.
#[derive(Debug)]
pub struct Desk {
    me: RelayId,
    /// For people.
    name: String,
    realm: String,
    /// Look-ups of each source.
    lookups: SourceLimiter,
    /// Joins of each source: they tell as much as a look-up, and cost a host one of its tries.
    joins: SourceLimiter,
    /// Devices that each source asks for.
    seeks: SourceLimiter,
    /// Devices that it rings at.
    rings: SourceLimiter,
    /// What it says of its sessions.
    reports: SourceLimiter,
    metrics: Arc<Metrics>,
}

impl Desk {
    /// A desk of the relay `me` at which each source may look up so often, and join as often; so many sources are remembered.
    pub fn new(
        me: RelayId,
        name: String,
        realm: String,
        rate: Rate,
        sources: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            me,
            name,
            realm,
            lookups: SourceLimiter::new(rate, sources),
            joins: SourceLimiter::new(rate, sources),
            seeks: SourceLimiter::new(SEEK_RATE, sources),
            rings: SourceLimiter::new(RING_RATE, sources),
            reports: SourceLimiter::new(REPORT_RATE, sources),
            metrics,
        }
    }

    /// So many look-ups, and as many joins, from now on.
    pub fn limit(&mut self, rate: Rate) {
        self.lookups.limit(rate);
        self.joins.limit(rate);
    }

    /// Name space of the locators.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// Takes a request; `bucket` is the node's.
    pub fn begin(
        &mut self,
        registry: &mut Registry,
        asker: Asker,
        bucket: &mut TokenBucket,
        request: Request,
        now: Instant,
    ) -> Step {
        let step = bucket
            .take(REQUEST_RATE, 1, now)
            .map_err(|wait| Refusal {
                retry_after: Some(wait),
                ..Refusal::new(Reason::RateLimited, "too many requests")
            })
            .and_then(|()| self.check(registry, asker, request, now));
        step.unwrap_or_else(|refusal| Step::Answered(Err(refusal)))
    }

    /// What follows from what rendezvous said.
    pub fn conclude(
        &self,
        registry: &mut Registry,
        number: ConnectionNumber,
        finding: Finding,
        now: Instant,
    ) -> Outcome {
        let demand = match finding {
            Finding::Put(put, key, kind, live_for) => put
                .map_err(|refused| not_put(refused, kind))
                .map(|()| Demand::Host {
                    key,
                    kind,
                    live_for,
                }),
            Finding::Sought {
                key,
                sighting,
                ring,
            } => match (ring, sighting) {
                (Some(payload), Some(sighting)) if sighting.gone_unix_ms.is_none() => {
                    Ok(Demand::Ring {
                        key,
                        relay: sighting.relay,
                        payload,
                    })
                }
                (_, sighting) => return self.sighted(registry, sighting, unix_ms()).into(),
            },
            Finding::Withdrawn(withdrawn, key, why) => withdrawn.map_err(not_withdrawn).map(|()| {
                self.metrics.code_ended(code_end(why));
                Demand::Unhost { key }
            }),
            Finding::Found(all, Purpose::Lookup) => {
                let answer = live(all).map(|live| {
                    Reply::Found(FoundReply {
                        record: live.record,
                    })
                });
                self.metrics.lookup(message::lookup(&answer));
                return answer.into();
            }
            Finding::Found(all, Purpose::Join { payload }) => {
                live(all).map(|Live { key, relay, .. }| Demand::Join {
                    key,
                    relay,
                    payload,
                })
            }
        };
        match demand {
            Ok(demand) => registry.handle(number, demand, now),
            Err(refusal) => refusal.into(),
        }
    }

    fn check(
        &mut self,
        registry: &mut Registry,
        asker: Asker,
        request: Request,
        now: Instant,
    ) -> Result<Step, Refusal> {
        let demand = match request {
            Request::Hello(_) => {
                return Err(Refusal::new(Reason::BadState, "Hello was said already"));
            }
            Request::Publish(publish) => {
                return self.publish(registry.state(), asker.node, publish.record);
            }
            Request::Withdraw(request) => return withdraw(asker.node, &request),
            Request::Lookup(lookup) => {
                let step = self.lookup(&lookup.locator_keys, asker.source, now);
                if let Err(refusal) = step {
                    self.metrics.lookup(message::lookup(&Err(refusal)));
                }
                return step;
            }
            Request::Join(join) => {
                let (key, payload) = (locator_key(&join.locator_key)?, payload(join.payload)?);
                take(&mut self.joins, asker.source, TOO_MANY_CODES, now)?;
                return Ok(Step::Ask(Question::Find {
                    keys: vec![key],
                    purpose: Purpose::Join { payload },
                }));
            }
            Request::Signal(signal) => Demand::Signal {
                exchange: ExchangeId(signal.exchange),
                payload: payload(signal.payload)?,
            },
            Request::Admit(admit) => Demand::Admit {
                exchange: ExchangeId(admit.exchange),
                payload: payload(admit.payload)?,
            },
            Request::Dismiss(dismiss) => Demand::Dismiss {
                exchange: ExchangeId(dismiss.exchange),
                payload: payload(dismiss.payload)?,
                wrong_secret: dismiss.wrong_secret,
            },
            // It is where the packet came from: known already, or proven in a moment.
            Request::Here(_) => return Ok(Step::Answered(Ok(message::done()))),
            Request::Park(_) => return Ok(Step::Park),
            Request::FetchPolicy(fetch) => {
                return Ok(Step::Policy(policies::Question::Fetch(fetch)));
            }
            Request::PutPolicy(put) => return Ok(Step::Policy(policies::Question::Put(put))),
            Request::QueueUp(up) => return self.queue_up(registry, asker, &up),
            Request::FetchQueue(fetch) => {
                return Ok(Step::Queue(queue::Question::look(&fetch)?));
            }
            Request::Seek(seek) => {
                let key = self.device_key(&seek.device)?;
                take(&mut self.seeks, asker.source, TOO_MANY_DEVICES, now)?;
                return Ok(Step::Ask(Question::Seek { key, ring: None }));
            }
            Request::Ring(ring) => {
                let (key, payload) = (self.device_key(&ring.device)?, payload(ring.payload)?);
                take(&mut self.rings, asker.source, TOO_MANY_RINGS, now)?;
                let ring = Some(payload);
                return Ok(Step::Ask(Question::Seek { key, ring }));
            }
            Request::PathReport(report) => {
                let report = Report::parse(report)?;
                if !registry.is_host(asker.number) {
                    return Err(Refusal::new(Reason::BadState, "you host no session here"));
                }
                take(&mut self.reports, asker.source, TOO_MANY_REPORTS, now)?;
                report.count(&self.metrics);
                return Ok(Step::Answered(Ok(message::done())));
            }
            Request::Rejoin(rejoin) => {
                let (key, side) = RejoinKey::parse(&rejoin)?;
                Demand::Rejoin { key, side }
            }
            Request::Release(release) => Demand::Release {
                session: SessionId(release.session),
            },
        };
        Ok(registry.handle(asker.number, demand, now).into())
    }

    fn device_key(&self, device: &[u8]) -> Result<RecordKey, Refusal> {
        let device = <[u8; 32]>::try_from(device).map_err(|_| NO_DEVICE)?;
        Ok(RecordKey::of_device(DeviceId(device), &self.realm))
    }

    /// What a node is told of a device.
    fn sighted(&self, registry: &Registry, sighting: Option<Sighting>, unix_ms: u64) -> Reply {
        let Some(sighting) = sighting else {
            return Reply::Sighted(Sighted::default());
        };
        let name = if sighting.relay == self.me {
            Some(self.name.as_str())
        } else {
            registry.name_of(sighting.relay)
        };
        let gone = sighting.gone_unix_ms;
        Reply::Sighted(Sighted {
            is_online: gone.is_none(),
            seen_ms_ago: Some(gone.map_or(0, |seen| unix_ms.saturating_sub(seen))),
            agents: sighting.agents,
            relay: Bytes::copy_from_slice(&sighting.relay.0),
            relay_name: name.unwrap_or_default().to_owned(),
        })
    }

    fn publish(&self, life: drain::State, owner: NodeId, bytes: Bytes) -> Result<Step, Refusal> {
        if life != drain::State::Serving {
            return Err(DRAINING);
        }
        let unix_ms = unix_ms();
        let record = Record::decode_signed(&bytes, unix_ms).map_err(bad_record)?;
        if record.realm != self.realm {
            return Err(Refusal::new(
                Reason::BadRecord,
                "the record is for another realm than this relay's",
            ));
        }
        if !is_at(&record, self.me) {
            return Err(Refusal::new(
                Reason::BadRecord,
                "the record says that the device is at another relay than this one",
            ));
        }
        let publication = Publication::of_node(&record, bytes, owner, self.me, unix_ms);
        Ok(Step::Ask(Question::Put(publication)))
    }

    /// Only for itself: whoever looks at the queue rings at all who are in it.
    fn queue_up(&self, registry: &Registry, asker: Asker, up: &QueueUp) -> Result<Step, Refusal> {
        let question = queue::Question::up(up)?;
        if registry.state() != drain::State::Serving {
            return Err(DRAINING);
        }
        if !registry.is_device(asker.number, self.device_key(&up.device)?) {
            return Err(Refusal::new(
                Reason::BadState,
                "who queues up has to be a device that has said here that it is there",
            ));
        }
        Ok(Step::Queue(question))
    }

    fn lookup(&mut self, keys: &[Bytes], source: IpAddr, now: Instant) -> Result<Step, Refusal> {
        if keys.is_empty() || keys.len() > MAX_LOOKUP_KEYS {
            return Err(Refusal::new(
                Reason::Malformed,
                "one to three keys can be looked up at once",
            ));
        }
        let keys = keys
            .iter()
            .map(|key| locator_key(key))
            .collect::<Result<_, _>>()?;
        take(&mut self.lookups, source, TOO_MANY_CODES, now)?;
        Ok(Step::Ask(Question::Find {
            keys,
            purpose: Purpose::Lookup,
        }))
    }
}

fn withdraw(owner: NodeId, request: &Withdraw) -> Result<Step, Refusal> {
    let key = locator_key(&request.locator_key)?;
    let why = ended(request.why()).ok_or(Refusal::new(
        Reason::Malformed,
        "withdrawn for no known reason",
    ))?;
    Ok(Step::Ask(Question::Withdraw { key, owner, why }))
}

/// Takes one of what this source may do.
fn take(
    limiter: &mut SourceLimiter,
    source: IpAddr,
    too_many: &'static str,
    now: Instant,
) -> Result<(), Refusal> {
    limiter.take(source, now).map_err(|wait| Refusal {
        retry_after: Some(wait),
        ..Refusal::new(Reason::RateLimited, too_many)
    })
}

/// A record that can be joined.
struct Live {
    key: RecordKey,
    record: Bytes,
    relay: RelayId,
}

/// A live record before a dead one, a dead one before none.
fn live(all: Vec<(RecordKey, Found)>) -> Result<Live, Refusal> {
    let mut refusal = Refusal::new(Reason::UnknownCode, "nobody waits under this code");
    for (key, found) in all {
        match found {
            Found::Live { record, relay } => return Ok(Live { key, record, relay }),
            Found::Ended(why) => refusal = code_ended(why),
            Found::Device { .. } | Found::Absent => {}
        }
    }
    Err(refusal)
}

fn locator_key(bytes: &[u8]) -> Result<RecordKey, Refusal> {
    RecordKey::from_bytes(bytes)
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

fn not_put(refused: PutRefused, kind: Kind) -> Refusal {
    match (refused, kind) {
        (PutRefused::Taken, Kind::Host) => {
            Refusal::new(Reason::Taken, "the code is taken; draw another")
        }
        (PutRefused::Taken, Kind::Device) => {
            Refusal::new(Reason::Taken, "the device has said something later")
        }
        (PutRefused::NodeFull, Kind::Host) => {
            Refusal::new(Reason::Full, "too many live codes; withdraw one first")
        }
        (PutRefused::NodeFull, Kind::Device) => Refusal::new(
            Reason::Full,
            "a node is one device, and this is another one",
        ),
        (PutRefused::Full, _) => Refusal::new(
            Reason::Full,
            "this relay keeps as many codes, or devices, as it may; try another",
        ),
        (PutRefused::NoQuorum, _) => Refusal {
            retry_after: Some(QUORUM_RETRY),
            ..Refusal::new(
                Reason::Full,
                "too few relays answer at the moment; try again",
            )
        },
    }
}

fn not_withdrawn(refused: WithdrawRefused) -> Refusal {
    match refused {
        WithdrawRefused::Absent => {
            Refusal::new(Reason::UnknownCode, "nothing is kept under this key")
        }
        WithdrawRefused::NotYours => Refusal::new(Reason::BadState, "this code is somebody else's"),
    }
}

fn code_ended(why: Ended) -> Refusal {
    match why {
        Ended::Used => Refusal::new(Reason::CodeUsed, "this code has been used"),
        Ended::Burned => Refusal::new(Reason::CodeBurned, "this code was tried wrongly too often"),
        Ended::Expired => Refusal::new(Reason::CodeExpired, "this code has expired"),
        Ended::Cancelled => Refusal::new(Reason::CodeCancelled, "this code was taken back"),
    }
}

/// For the metrics.
fn code_end(why: Ended) -> CodeEnd {
    match why {
        Ended::Used => CodeEnd::Used,
        Ended::Burned => CodeEnd::Burned,
        Ended::Expired => CodeEnd::Expired,
        Ended::Cancelled => CodeEnd::Cancelled,
    }
}

/// This computer's clock.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;
    use crate::rendezvous::Pending;

    /// Keeps a live record under the key of only ones, and never finds out what is under that of only nines.
    struct Slow;

    impl Rendezvous for Slow {
        fn put_if_absent(&self, _: Publication) -> Pending<'_, Result<(), PutRefused>> {
            Box::pin(pending())
        }

        fn find(&self, key: RecordKey) -> Pending<'_, Found> {
            match key.0[0] {
                1 => Box::pin(ready(Found::Live {
                    record: Bytes::from_static(b"live"),
                    relay: RelayId([1; 32]),
                })),
                9 => Box::pin(pending()),
                _ => Box::pin(ready(Found::Absent)),
            }
        }

        fn withdraw(
            &self,
            _: RecordKey,
            _: NodeId,
            _: Ended,
        ) -> Pending<'_, Result<(), WithdrawRefused>> {
            Box::pin(pending())
        }

        fn seek(&self, _: RecordKey) -> Pending<'_, Option<Sighting>> {
            Box::pin(pending())
        }

        fn let_go(&self, _: RecordKey) {}

        fn live_records(&self, _: Kind) -> usize {
            1
        }

        fn kept_records(&self, _: Kind) -> usize {
            1
        }
    }

    async fn found(keys: [u8; 3]) -> Vec<u8> {
        let question = Question::Find {
            keys: keys.map(|key| RecordKey([key; 32])).to_vec(),
            purpose: Purpose::Lookup,
        };
        let Finding::Found(all, _) = question.ask(Arc::new(Slow)).await else {
            panic!("another answer");
        };
        all.into_iter().map(|(key, _)| key.0[0]).collect()
    }

    #[tokio::test]
    async fn a_live_code_does_not_wait_for_the_epochs_after_it_and_for_those_before_it() {
        assert_eq!(found([1, 9, 9]).await, [1]);
        assert_eq!(found([2, 1, 9]).await, [2, 1]);
        assert_eq!(found([2, 3, 4]).await, [2, 3, 4]);
        let (late, limit) = (found([9, 1, 1]), Duration::from_millis(1));
        assert!(tokio::time::timeout(limit, late).await.is_err());
    }
}
