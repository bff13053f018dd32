//! What people and their computers do that an operator is to hear of: a deed every so often, at a relay of one's own or at a fleet.
//!
//! Nobody else's code, session or computer has a part in it: whoever guesses, guesses a code that somebody here shows.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use remora_proto::{
    id::Side,
    wire::message::control::{
        Dismiss, Gone, Join, PathKnown, PathOutcome, PathReport, Withdraw,
        node_to_relay::Body as Request, path_report, relay_to_node::Body as Answer,
    },
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    crowd::{Crowd, Fault, Member},
    setup::{self, Agreed, Prepared, Sizes},
};

/// Longer than anybody waits gladly, and shorter than a relay lets an introduction take.
const HESITATION: Duration = Duration::from_secs(2);
/// Deeds at a time: one that hangs must not keep the next from being done.
const AT_ONCE: usize = 24;
/// Nodes that come at once where only so many are let in.
const KNOCKS: usize = 8;
/// Nodes that stay, so that the next are too many; where that is not enough, nobody is refused.
const MAX_STAYING: usize = 4096;
/// How long a session sends more than it may.
const OVERFLOWING: Duration = Duration::from_secs(10);
/// Of what it may.
const EXCESS_PERCENT: u128 = 125;
/// How often it sends what is due.
const SENDING: Duration = Duration::from_millis(10);
/// As long as it takes in a city.
const PATH_AFTER_MS: u32 = 80;
/// Of a session that is soon over.
const FRAMES: usize = 20;
/// As large as frames are.
const FRAME_BYTES: usize = 1200;

/// What somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// Joins with a wrong secret.
    Guess,
    /// Shows a code, and goes away when somebody joins.
    Desert,
    /// Shows a code, and is slow to answer.
    Hesitate,
    /// Leaves a session without a word.
    Vanish,
    /// Sends more than a session may.
    Overflow,
    /// Comes where there are enough.
    Knock,
    /// Is in sessions that find no direct path.
    StayRelayed,
    /// Shows a code, and takes it back.
    Show,
    /// Meets somebody, and parts again: what all is for.
    Meet,
}

impl Deed {
    /// How many may be under way.
    fn at_once(self) -> usize {
        match self {
            // One session's excess is enough, and is much.
            Self::Overflow => 1,
            Self::Guess
            | Self::Desert
            | Self::Hesitate
            | Self::Vanish
            | Self::Knock
            | Self::StayRelayed
            | Self::Show
            | Self::Meet => AT_ONCE,
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Deeds(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    done: u64,
    failed: BTreeMap<Fault, u64>,
}

impl Deeds {
    pub(super) fn count(&self, outcome: Result<(), Fault>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => counts.done += 1,
            Err(fault) => *counts.failed.entry(fault).or_default() += 1,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = counts.failed.iter();
        let failed: Vec<_> = failed
            .map(|(fault, count)| format!("{count} {fault}"))
            .collect();
        let failed = if failed.is_empty() {
            String::new()
        } else {
            format!(", failed: {}", failed.join(", "))
        };
        format!("{} times{failed}", counts.done)
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = counts.failed.iter();
        let failed: BTreeMap<_, _> = failed
            .map(|(fault, count)| (fault.to_string(), count))
            .collect();
        json!({"done": counts.done, "failed": failed})
    }
}

/// People at one relay.
#[derive(Debug)]
struct People {
    crowd: Crowd,
    sizes: Sizes,
    staying: Mutex<Vec<Member>>,
}

/// Does it every so often, until nobody waits for this any more.
///
/// # Errors
/// When this machine cannot.
pub async fn keep_doing(
    deed: Deed,
    crowd: Crowd,
    every: Duration,
    deeds: &Arc<Deeds>,
) -> anyhow::Result<Infallible> {
    let people = Arc::new(People {
        crowd,
        sizes: Sizes::of_a_real_exchange()?,
        staying: Mutex::default(),
    });
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut doing = JoinSet::new();
    loop {
        ticks.tick().await;
        while doing.try_join_next().is_some() {}
        if doing.len() < deed.at_once() {
            let (people, deeds) = (Arc::clone(&people), Arc::clone(deeds));
            doing.spawn(async move { deeds.count(people.act(deed).await) });
        }
    }
}

impl People {
    async fn act(&self, deed: Deed) -> Result<(), Fault> {
        match deed {
            Deed::Guess => self.guess().await,
            Deed::Desert => self.desert().await,
            Deed::Hesitate => self.meet(HESITATION).await?.part().await,
            Deed::StayRelayed => self.talk(PathOutcome::NoAnswer).await,
            Deed::Meet => self.talk(PathOutcome::Direct).await,
            // Both connections close with all that they have.
            Deed::Vanish => self.meet(Duration::ZERO).await.map(drop),
            Deed::Overflow => self.overflow().await,
            Deed::Knock => self.knock().await,
            Deed::Show => self.show().await,
        }
    }

    /// Somebody shows a code, and somebody else has its place right.
    async fn offered(&self) -> Result<Offered, Fault> {
        let mut host = self.crowd.connect().await?;
        let mut joiner = self.crowd.connect().await?;
        let prepared = Prepared::draw(&host.realm).map_err(|_| Fault::Unexpected)?;
        let shown = setup::publish(&mut host, prepared).await?;
        let locator_key = shown.locator_key();
        let payload = self.sizes.share();
        let join = Join {
            locator_key: locator_key.clone(),
            payload,
        };
        joiner.ask(Request::Join(join)).await?;
        let Answer::Offer(offer) = host.notice().await? else {
            return Err(Fault::Unexpected);
        };
        Ok(Offered {
            host,
            joiner,
            locator_key,
            exchange: offer.exchange,
        })
    }

    async fn show(&self) -> Result<(), Fault> {
        let mut host = self.crowd.connect().await?;
        let prepared = Prepared::draw(&host.realm).map_err(|_| Fault::Unexpected)?;
        let shown = setup::publish(&mut host, prepared).await?;
        setup::withdraw(&mut host, &shown).await?;
        host.leave().await;
        Ok(())
    }

    async fn guess(&self) -> Result<(), Fault> {
        let Offered {
            mut host,
            joiner,
            locator_key,
            exchange,
        } = self.offered().await?;
        let wrong = Dismiss {
            exchange,
            payload: Bytes::new(),
            wrong_secret: true,
        };
        host.ask(Request::Dismiss(wrong)).await?;
        let why = Gone::Burned.into();
        host.ask(Request::Withdraw(Withdraw { locator_key, why }))
            .await?;
        host.leave().await;
        joiner.leave().await;
        Ok(())
    }

    async fn desert(&self) -> Result<(), Fault> {
        let Offered {
            host, mut joiner, ..
        } = self.offered().await?;
        host.leave().await;
        // That nobody is there any more.
        joiner.notice().await?;
        joiner.leave().await;
        Ok(())
    }

    async fn meet(&self, hesitation: Duration) -> Result<Met, Fault> {
        let mut host = self.crowd.connect().await?;
        let mut joiner = self.crowd.connect().await?;
        let prepared = Prepared::draw(&host.realm).map_err(|_| Fault::Unexpected)?;
        let sizes = self.sizes;
        let agreed =
            setup::introduce_slowly(&mut host, &mut joiner, prepared, sizes, hesitation).await?;
        Ok(Met {
            host,
            joiner,
            agreed,
        })
    }

    /// Of a session whose host says how its path went.
    async fn talk(&self, outcome: PathOutcome) -> Result<(), Fault> {
        let mut met = self.meet(Duration::ZERO).await?;
        let known = PathKnown {
            outcome: outcome.into(),
            after_ms: PATH_AFTER_MS,
        };
        let report = PathReport {
            body: Some(path_report::Body::Known(known)),
        };
        met.host.ask(Request::PathReport(report)).await?;
        for _ in 0..FRAMES {
            // One that is lost is not sent again.
            met.joiner
                .send(met.agreed.session, Side::Joiner, &mut [0; FRAME_BYTES])
                .ok();
        }
        met.part().await
    }

    async fn overflow(&self) -> Result<(), Fault> {
        let met = self.meet(Duration::ZERO).await?;
        let bytes_per_s = u128::from(met.agreed.rate_bytes_per_s) * EXCESS_PERCENT / 100;
        let (began, mut ticks, mut sent_bytes) = (Instant::now(), interval(SENDING), 0);
        while began.elapsed() < OVERFLOWING {
            while sent_bytes < bytes_per_s * began.elapsed().as_millis() / 1000 {
                sent_bytes += FRAME_BYTES as u128;
                // What the system does not take now is dropped there.
                met.joiner
                    .send(met.agreed.session, Side::Joiner, &mut [0; FRAME_BYTES])
                    .ok();
            }
            ticks.tick().await;
        }
        met.part().await
    }

    /// Whoever is let in stays, so that others are not.
    async fn knock(&self) -> Result<(), Fault> {
        let knocking = join_all((0..KNOCKS).map(|_| self.crowd.connect())).await;
        let come: Vec<_> = knocking.into_iter().flatten().collect();
        let all_came = come.len() == KNOCKS;
        let mut staying = self.staying.lock().unwrap_or_else(PoisonError::into_inner);
        staying.extend(come);
        staying.truncate(MAX_STAYING);
        // Nobody was refused: there is room for more.
        if all_came {
            Err(Fault::Unexpected)
        } else {
            Ok(())
        }
    }
}

/// A joiner waits for an answer.
#[derive(Debug)]
struct Offered {
    host: Member,
    joiner: Member,
    locator_key: Bytes,
    exchange: u64,
}

/// Two in a session.
#[derive(Debug)]
struct Met {
    host: Member,
    joiner: Member,
    agreed: Agreed,
}

impl Met {
    async fn part(self) -> Result<(), Fault> {
        let Self {
            mut host,
            mut joiner,
            agreed,
        } = self;
        setup::part(&mut host, &mut joiner, agreed.session).await?;
        host.leave().await;
        joiner.leave().await;
        Ok(())
    }
}
