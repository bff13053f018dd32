//! Sessions set up by a crowd: what a relay has to do for two people and a code, without what it never sees.
//!
//! ```text
//!  host                     relay                    joiner
//!   │ ── Publish(record) ──▶ │                         │
//!   │                        │ ◀── Lookup, Join ────── │
//!   │ ◀─ Offer ───────────── │                         │
//!   │ ── Signal ───────────▶ │ ── Signal ────────────▶ │
//!   │ ◀─ Signal ──────────── │ ◀────────────── Signal  │
//!   │ ── Admit, Withdraw ──▶ │ ── Allocated ─────────▶ │
//! ```
//!
//! Handshakes, messages, their order and their sizes are those of real nodes, and records are signed by real codes, for the
//! relay checks them. The PAKE is not computed: the relay passes its messages on unread, and two more scalar multiplications
//! a node would make the load the bottleneck. Their bytes are random, of the lengths that [`Sizes`] reads off a real exchange.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use remora::control::unix_ms;
use remora_proto::{
    id::{SessionId, Side},
    random::Random,
    record::{HostRole, InvalidRecord, MAX_LIFETIME_MS, Record, RecordKey, Waiting},
    rendezvous::{Host, HostTransmit, Joiner, JoinerTransmit, LIFETIME},
    wire::message::control::{
        Admit, Gone, Join, Lookup, Publish, Release, Signal, Started, Withdraw,
        node_to_relay::Body as Request, relay_to_node::Body as Answer,
    },
};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use crate::{
    crowd::{Fault, Member},
    report::Progress,
};

/// How often a taken place is drawn again, as in nodes.
const MAX_DRAWS: usize = 20;
const TAKEN: &str = "TAKEN";
/// Sessions that two nodes may have: a node may ask a hundred times at once, and each takes five.
const SESSIONS_PER_PAIR: usize = 10;
/// Pairs that set up theirs at a time.
const SETUPS_AT_ONCE: usize = 32;
/// A relay forgets a session that is silent for a minute.
const TOUCH_AFTER: Duration = Duration::from_secs(20);

/// How long the PAKE's messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    share: usize,
    reply: usize,
    tag: usize,
    tag_reply: usize,
}

impl Sizes {
    /// Lets a real host and a real joiner find each other, and measures what they say.
    ///
    /// # Errors
    /// When they do not.
    pub fn of_a_real_exchange() -> anyhow::Result<Self> {
        const EXCHANGE: remora_proto::id::ExchangeId = remora_proto::id::ExchangeId(1);
        let (now, ms) = (Instant::now(), unix_ms());
        let (realm, role) = ("default", HostRole::Helper);
        let mut host = Host::new(realm, role, LIFETIME, now, ms, Random::seeded(1));
        let code = host.code().clone();
        let mut joiner = Joiner::new(code, realm, role, now, ms, Random::seeded(2));
        let unlike = "a real exchange goes another way";
        let Some(JoinerTransmit::Lookup(_)) = joiner.poll_transmit() else {
            anyhow::bail!(unlike)
        };
        joiner.handle_found(&host.signed_record(), ms);
        let Some(JoinerTransmit::Join(_, share)) = joiner.poll_transmit() else {
            anyhow::bail!(unlike)
        };
        joiner.handle_started(EXCHANGE);
        host.handle_offer(EXCHANGE, &share, now);
        let Some(HostTransmit::Signal(_, reply)) = host.poll_transmit() else {
            anyhow::bail!(unlike)
        };
        joiner.handle_signal(EXCHANGE, &reply);
        let Some(JoinerTransmit::Signal(_, tag)) = joiner.poll_transmit() else {
            anyhow::bail!(unlike)
        };
        host.handle_signal(EXCHANGE, &tag, now);
        let Some(HostTransmit::Admit(_, tag_reply)) = host.poll_transmit() else {
            anyhow::bail!(unlike)
        };
        Ok(Self {
            share: share.len(),
            reply: reply.len(),
            tag: tag.len(),
            tag_reply: tag_reply.len(),
        })
    }

    /// What a joiner says first, or might have.
    pub fn share(self) -> Bytes {
        random(self.share)
    }
}

/// A signed record, and what whoever has its code looks up.
#[derive(Clone, Debug)]
pub struct Prepared {
    record: Bytes,
    key: RecordKey,
    lookup: [RecordKey; 3],
}

impl Prepared {
    /// The place that it is published at.
    pub fn locator_key(&self) -> Bytes {
        bytes_of(&self.key)
    }

    /// A new code. From the system's randomness: codes of an earlier run with the same seed would still be taken.
    ///
    /// # Errors
    /// When the record is not one.
    pub fn draw(realm: &str) -> Result<Self, InvalidRecord> {
        let (now, ms) = (Instant::now(), unix_ms());
        let host = Host::new(realm, HostRole::Helper, LIFETIME, now, ms, Random::system());
        let record = host.signed_record();
        Ok(Self {
            key: Record::decode_signed(&record, ms)?.key,
            lookup: host.code().lookup_keys(realm, ms),
            record,
        })
    }

    /// As many codes, no two in the same place: how often a relay says "taken" depends on how many it has had.
    ///
    /// # Errors
    /// When a record is not one.
    pub fn draw_different(count: usize, realm: &str) -> anyhow::Result<Vec<Self>> {
        let mut keys = BTreeSet::new();
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let prepared = Self::draw(realm).context("a record that is not valid")?;
            if keys.insert(prepared.key) {
                all.push(prepared);
            }
        }
        Ok(all)
    }
}

/// A signed record under `key`, which may be no code's: a relay cannot know that.
pub fn record_under(key: RecordKey, realm: &str) -> Bytes {
    let signing = SigningKey::from_bytes(&rand::random());
    let now_ms = unix_ms();
    let record = Record {
        realm: realm.to_owned(),
        key,
        publisher: signing.verifying_key().to_bytes(),
        subject: Waiting {
            nonce: rand::random(),
            role: HostRole::Helper,
        },
        not_before_ms: now_ms,
        expiry_ms: now_ms + MAX_LIFETIME_MS,
        sequence: 1,
    };
    record.encode_signed(&signing)
}

/// What two have when they are introduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Their session.
    pub session: SessionId,
    /// What it may send each way.
    pub rate_bytes_per_s: u64,
}

/// Introduces `joiner` to `host`; the session that they have.
///
/// # Errors
/// What went wrong.
pub async fn introduce(
    host: &mut Member,
    joiner: &mut Member,
    prepared: Prepared,
    sizes: Sizes,
) -> Result<SessionId, Fault> {
    let agreed = introduce_slowly(host, joiner, prepared, sizes, Duration::ZERO).await?;
    Ok(agreed.session)
}

/// The same by a `host` that takes so long to answer.
///
/// # Errors
/// What went wrong.
pub async fn introduce_slowly(
    host: &mut Member,
    joiner: &mut Member,
    prepared: Prepared,
    sizes: Sizes,
    hesitation: Duration,
) -> Result<Agreed, Fault> {
    let prepared = publish(host, prepared).await?;
    look_up(joiner, &prepared).await?;
    let key = prepared.key;
    let join = Request::Join(Join {
        locator_key: bytes_of(&key),
        payload: sizes.share(),
    });
    let Answer::Started(Started { exchange }) = joiner.ask(join).await? else {
        return Err(Fault::Unexpected);
    };
    let signal = |size| {
        let payload = random(size);
        Request::Signal(Signal { exchange, payload })
    };
    expect(host.notice().await?, |body| {
        matches!(body, Answer::Offer(_))
    })?;
    if !hesitation.is_zero() {
        sleep(hesitation).await;
    }
    host.tell(signal(sizes.reply)).await?;
    expect(joiner.notice().await?, |body| {
        matches!(body, Answer::Signal(_))
    })?;
    joiner.tell(signal(sizes.tag)).await?;
    expect(host.notice().await?, |body| {
        matches!(body, Answer::Signal(_))
    })?;
    let payload = random(sizes.tag_reply);
    host.tell(Request::Admit(Admit { exchange, payload }))
        .await?;
    let locator_key = bytes_of(&key);
    let why = Gone::Used.into();
    host.tell(Request::Withdraw(Withdraw { locator_key, why }))
        .await?;
    let told = [host.notice().await?, joiner.notice().await?];
    match told {
        [Answer::Allocated(host), Answer::Allocated(joiner)]
            if host.session == joiner.session && (host.side, joiner.side) == (0, 1) =>
        {
            Ok(Agreed {
                session: SessionId(joiner.session),
                rate_bytes_per_s: joiner.rate_bytes_per_s,
            })
        }
        _ => Err(Fault::Unexpected),
    }
}

/// Looks it up, as whoever has its code does.
///
/// # Errors
/// It is not found, or what went wrong.
pub async fn look_up(joiner: &mut Member, prepared: &Prepared) -> Result<(), Fault> {
    let locator_keys = prepared.lookup.iter().map(bytes_of).collect();
    let found = joiner.ask(Request::Lookup(Lookup { locator_keys })).await?;
    expect(found, |body| matches!(body, Answer::Found(_)))
}

/// Withdraws it.
///
/// # Errors
/// What went wrong.
pub async fn withdraw(host: &mut Member, prepared: &Prepared) -> Result<(), Fault> {
    let locator_key = bytes_of(&prepared.key);
    let why = Gone::Cancelled.into();
    let withdraw = Request::Withdraw(Withdraw { locator_key, why });
    host.ask(withdraw).await.map(drop)
}

/// Publishes it, or another one when its place is taken, as nodes do.
///
/// # Errors
/// What went wrong.
pub async fn publish(host: &mut Member, mut prepared: Prepared) -> Result<Prepared, Fault> {
    for _ in 0..MAX_DRAWS {
        let record = prepared.record.clone();
        match host.ask(Request::Publish(Publish { record })).await {
            Ok(_) => return Ok(prepared),
            Err(Fault::Refused(TAKEN)) => {
                prepared = Prepared::draw(&host.realm).map_err(|_| Fault::Unexpected)?;
            }
            Err(fault) => return Err(fault),
        }
    }
    Err(Fault::Refused(TAKEN))
}

fn expect(body: Answer, fits: impl FnOnce(&Answer) -> bool) -> Result<(), Fault> {
    fits(&body).then_some(()).ok_or(Fault::Unexpected)
}

/// Gives a session back, so that both know.
///
/// # Errors
/// What went wrong.
pub async fn part(
    host: &mut Member,
    joiner: &mut Member,
    SessionId(session): SessionId,
) -> Result<(), Fault> {
    joiner.ask(Request::Release(Release { session })).await?;
    expect(host.notice().await?, |body| {
        matches!(body, Answer::Released(_))
    })
}

fn bytes_of(key: &RecordKey) -> Bytes {
    Bytes::copy_from_slice(&key.0)
}

fn random(size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    rand::fill(&mut bytes[..]);
    bytes.into()
}

/// Sessions that stay, with their nodes; a frame now and then keeps them.
#[derive(Debug)]
pub struct Standing {
    pairs: Vec<([Member; 2], Vec<SessionId>)>,
    touched: Instant,
}

impl Standing {
    /// Nodes for `sessions` sessions.
    pub fn nodes(sessions: usize) -> usize {
        2 * sessions.div_ceil(SESSIONS_PER_PAIR)
    }

    /// A session for each of `codes` among `members`, of whom there must be enough.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn new(
        members: Vec<Member>,
        codes: Vec<Prepared>,
        sizes: Sizes,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let all = codes.len();
        let mut standing = Self {
            pairs: Vec::new(),
            touched: Instant::now(),
        };
        let places = Arc::new(Semaphore::new(SETUPS_AT_ONCE));
        let mut setups = JoinSet::new();
        let (mut members, mut codes) = (members.into_iter(), codes.into_iter());
        while let (Some(host), Some(joiner)) = (members.next(), members.next()) {
            let codes: Vec<_> = codes.by_ref().take(SESSIONS_PER_PAIR).collect();
            let places = Arc::clone(&places);
            setups.spawn(async move {
                let _place = places.acquire_owned().await?;
                pair([host, joiner], codes, sizes).await
            });
        }
        while let Some(joined) = setups.join_next().await {
            standing
                .pairs
                .push(joined?.context("cannot set up a session")?);
            progress.show(&format!("sessions {}/{all}", standing.sessions()));
        }
        Ok(standing)
    }

    /// How many there are.
    pub fn sessions(&self) -> usize {
        self.pairs.iter().map(|(_, sessions)| sessions.len()).sum()
    }

    /// Sends a frame of each, unless that was not long ago.
    pub fn keep(&mut self) {
        if self.touched.elapsed() < TOUCH_AFTER {
            return;
        }
        self.touch();
    }

    /// Sends a frame of each.
    pub fn touch(&mut self) {
        self.touched = Instant::now();
        for ([_, joiner], sessions) in &self.pairs {
            for &session in sessions {
                // One that is lost is made up for by the next.
                joiner.touch(session, Side::Joiner).ok();
            }
        }
    }

    /// The nodes, who leave without a word about their sessions.
    pub fn into_members(self) -> impl Iterator<Item = Member> {
        self.pairs.into_iter().flat_map(|(members, _)| members)
    }
}

async fn pair(
    [mut host, mut joiner]: [Member; 2],
    codes: Vec<Prepared>,
    sizes: Sizes,
) -> anyhow::Result<([Member; 2], Vec<SessionId>)> {
    let mut sessions = Vec::with_capacity(codes.len());
    for prepared in codes {
        sessions.push(introduce(&mut host, &mut joiner, prepared, sizes).await?);
    }
    Ok(([host, joiner], sessions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_exchange_is_as_long_as_it_is_every_time() {
        let sizes = Sizes::of_a_real_exchange().expect("they find each other");
        assert_eq!(Sizes::of_a_real_exchange().expect("again"), sizes);
        assert!(
            sizes.share > 32 + 16 && sizes.reply > 32 && sizes.tag > 16 && sizes.tag_reply > 16
        );
    }

    #[test]
    fn codes_differ_in_their_places() {
        let codes = Prepared::draw_different(50, "default").expect("valid");
        let keys: BTreeSet<_> = codes.iter().map(|prepared| prepared.key).collect();
        assert_eq!(keys.len(), 50);
        assert!(
            codes
                .iter()
                .all(|prepared| prepared.lookup.contains(&prepared.key))
        );
    }

    #[test]
    fn two_nodes_have_ten_sessions_at_most() {
        assert_eq!([0, 1, 10, 11].map(Standing::nodes), [0, 2, 2, 4]);
    }
}
