//! The relays a node knows: how far away each is, and the node's place at the nearest that takes it.
//!
//! ```text
//!  relays of the settings ─▶ measure (address reflection) ─▶ nearest first ─▶ attached: socket, keeper, control connection
//!                                    ▲                                                           │
//!                                    └── learned: its own address, others of its fleet ◀── Welcome ┘
//! ```
//!
//! One name may lead to any of several relays, each of which has a key of its own: it is named with each. Nobody knows who answers, so
//! it is tried until somebody does who has the key that was expected; what has to reach that very relay again, or one of the others,
//! goes to its own address from then on, and by the name only when that is not known, or not good any more.

/// A node's place at a relay.
pub(crate) mod attached;
/// The relays of a session.
pub(crate) mod keep;
/// Where the relay that a node is at is itself, and others of its fleet, as it says.
mod learned;
/// How far away relays are.
mod measure;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use remora_proto::{
    id::{RelayAddr, RelayId},
    wire::reflect::Load,
};
use tokio::task::JoinSet;

use self::attached::Attached;
use crate::{
    control::RELAY_KEY,
    error::{Exit, Failure},
    node::{Options, addresses},
    path::stream::proxy::Proxy,
};

/// Relays that did not answer and are tried at once: where UDP does not go none has answered, and each takes its time.
const MAX_TRIED_AT_ONCE: usize = 4;

/// How often a name is tried that leads to any of several relays. Of as many keys as there are relays one fits, wherever it leads; of
/// three, all of these fail once in a million times, if each time another one answers at random.
const MAX_DRAWS: usize = 12;

/// A relay at one of its addresses.
#[derive(Clone, Debug)]
pub struct Near {
    /// Whose it is.
    pub relay: RelayAddr,
    /// `None`: only the proxy knows.
    pub address: Option<SocketAddr>,
    /// Whether it was asked how far away it is.
    pub is_asked: bool,
    /// There and back, the median of a few; `None` when it has not answered, or was not asked.
    pub rtt: Option<Duration>,
    /// How much it has to do, if it has answered.
    pub load: Load,
}

impl Near {
    /// Nearest first; of those equally far the one that was named first. What did not answer is last.
    fn rank(&self) -> (bool, u128) {
        let rtt = self.rtt.unwrap_or_default();
        (self.rtt.is_none(), rtt.as_millis())
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Homes {
    /// Those that were named: nearest first, each relay and each of its addresses once.
    near: Vec<Near>,
    /// Others of the same fleet: see [`learned`].
    learned: Vec<Near>,
    options: Options,
}

impl Homes {
    /// Finds out where `relays` are, and how far away, if there is a choice.
    ///
    /// # Errors
    /// No name among them can be resolved, and there is no proxy that might.
    pub(crate) async fn find(relays: &[RelayAddr], options: Options) -> Result<Self, Failure> {
        let mut near = resolve(relays, &options).await?;
        if has_choice(&near) && !options.tcp_only {
            measure::measure(&mut near).await;
            near.sort_by_key(Near::rank);
        }
        tracing::debug!(?near, "relays");
        Ok(Self {
            near,
            learned: Vec::new(),
            options,
        })
    }

    /// Those that were named, nearest first; where they are themselves, if that is known.
    pub(crate) fn near(&self) -> Vec<Near> {
        let named: BTreeSet<_> = self.near.iter().map(|near| near.relay.id).collect();
        let mut known = self.own_first();
        known.retain(|near| named.contains(&near.relay.id));
        known.into_iter().cloned().collect()
    }

    /// All that may be gone to, those that were named first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Near> {
        self.near.iter().chain(&self.learned)
    }

    /// Whether there is more than one relay to go to, whatever the number of their addresses.
    pub(crate) fn are_several(&self) -> bool {
        let relays: BTreeSet<_> = self.all().map(|near| near.relay.id).collect();
        relays.len() > 1
    }

    /// All relays that were named but that one, nearest first: those of its fleet know the same codes.
    pub(crate) fn others(&self, than: RelayId) -> Vec<RelayId> {
        let mut others = Vec::new();
        for near in &self.near {
            let id = near.relay.id;
            if id != than && !others.contains(&id) {
                others.push(id);
            }
        }
        others
    }

    /// Whether its name is that of other relays, too.
    fn is_shared(&self, near: &Near) -> bool {
        let relay = &near.relay;
        let is_namesake =
            |other: &Near| other.relay.host_port == relay.host_port && other.relay.id != relay.id;
        self.near.iter().any(is_namesake)
    }

    /// All, those first that are at an address of their own.
    fn own_first(&self) -> Vec<&Near> {
        let mut all: Vec<_> = self.all().collect();
        all.sort_by_key(|near| self.is_shared(near));
        all
    }

    /// A place at the nearest relay that takes us, and stays; but at none of `avoided`.
    ///
    /// # Errors
    /// What is wrong with the nearest of them.
    pub(crate) async fn settle(&self, avoided: &BTreeSet<RelayId>) -> Result<Attached, Failure> {
        let mut wanted = self.own_first();
        wanted.retain(|near| !avoided.contains(&near.relay.id));
        let mut settled = self.settle_at(&wanted).await;
        wanted.retain(|near| self.is_shared(near));
        for _ in 1..MAX_DRAWS {
            match &settled {
                Err(failure) if failure.code == RELAY_KEY && !wanted.is_empty() => {
                    // Who answers in turn would else always answer to the wrong one.
                    wanted.rotate_left(1);
                    settled = self.settle_at(&wanted).await;
                }
                _ => break,
            }
        }
        settled
    }

    async fn settle_at(&self, wanted: &[&Near]) -> Result<Attached, Failure> {
        let mut first_failure = None;
        // One that is about to go is better than none.
        let mut leaving = None;
        let wanted = wanted.iter().copied();
        let (answered, silent): (Vec<_>, Vec<_>) = wanted.partition(|near| near.rtt.is_some());
        for near in answered {
            match Attached::connect(near, &self.options).await {
                Ok(attached) if attached.is_leaving() => leaving = leaving.or(Some(attached)),
                Ok(attached) => return Ok(attached),
                Err(failure) => {
                    tracing::info!(relay = %near.relay.host_port, %failure, "not taken");
                    first_failure.get_or_insert(failure);
                }
            }
        }
        for tried in silent.chunks(MAX_TRIED_AT_ONCE) {
            match self.any_of(tried).await {
                Ok(attached) if attached.is_leaving() => leaving = leaving.or(Some(attached)),
                Ok(attached) => return Ok(attached),
                Err(failure) => {
                    first_failure.get_or_insert(failure);
                }
            }
        }
        let failure = first_failure.unwrap_or_else(no_other);
        leaving.ok_or(failure)
    }

    /// The first of them that takes us, and stays if any does.
    async fn any_of(&self, tried: &[&Near]) -> Result<Attached, Failure> {
        if let [near] = tried {
            return Attached::connect(near, &self.options).await;
        }
        let mut connecting = JoinSet::new();
        for (number, near) in tried.iter().enumerate() {
            let (near, options) = ((*near).clone(), self.options.clone());
            connecting.spawn(async move { (number, Attached::connect(&near, &options).await) });
        }
        let (mut failures, mut leaving) = (Vec::new(), None);
        while let Some(connected) = connecting.join_next().await {
            match connected.map_err(|error| Failure::internal("a connection's task", error))? {
                (_, Ok(attached)) if attached.is_leaving() => leaving = Some(attached),
                (_, Ok(attached)) => return Ok(attached),
                (number, Err(failure)) => failures.push((number, failure)),
            }
        }
        failures.sort_by_key(|(number, _)| *number);
        let first = failures.into_iter().next().map(|(_, failure)| failure);
        leaving.ok_or_else(|| first.unwrap_or_else(no_other))
    }

    /// A place at this relay.
    ///
    /// # Errors
    /// It is none that we know, or does not take us.
    pub(crate) async fn attach(&self, relay: RelayId) -> Result<Attached, Failure> {
        let known = self.own_first();
        let near = known.iter().find(|near| near.relay.id == relay);
        Attached::connect(near.ok_or_else(no_other)?, &self.options).await
    }
}

/// Whether it matters how far away they are. Of the two families of one relay the first is as good as the other.
fn has_choice(near: &[Near]) -> bool {
    let of = |near: &Near| (near.relay.id, near.address.map(|address| address.is_ipv4()));
    let kinds: BTreeSet<_> = near.iter().map(of).collect();
    let relays: BTreeSet<_> = kinds.iter().map(|(relay, _)| relay).collect();
    relays.len() > 1 || kinds.len() < near.len()
}

fn no_other() -> Failure {
    Failure::new(
        Exit::Offline,
        "RELAY_LOST",
        "there is no other relay to go to; name more of them with --relay or in the settings file",
    )
}

/// All addresses of all relays.
async fn resolve(relays: &[RelayAddr], options: &Options) -> Result<Vec<Near>, Failure> {
    let mut resolving = JoinSet::new();
    for (number, relay) in relays.iter().enumerate() {
        let relay = relay.clone();
        resolving.spawn(async move {
            let addresses = addresses(&relay).await;
            (number, relay, addresses)
        });
    }
    let mut resolved = resolving.join_all().await;
    resolved.sort_by_key(|(number, ..)| *number);
    let (mut near, mut failures) = (Vec::new(), Vec::new());
    for (_, relay, addresses) in resolved {
        let has_proxy =
            options.proxy.is_some() || Proxy::from_environment(&relay.host_port).is_some();
        let places = match addresses {
            Ok(addresses) => addresses.into_iter().map(Some).collect(),
            // Behind some proxies there are no names.
            Err(_) if has_proxy => vec![None],
            Err(failure) => {
                failures.push(failure);
                continue;
            }
        };
        near.extend(places.into_iter().map(|address| Near {
            relay: relay.clone(),
            address,
            is_asked: false,
            rtt: None,
            load: Load::default(),
        }));
    }
    match failures.into_iter().next() {
        Some(failure) if near.is_empty() => Err(failure),
        _ => Ok(near),
    }
}
