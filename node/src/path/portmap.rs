//! A port on the gateway that leads to ours, for the asking: PCP (RFC 6887), NAT-PMP (RFC 6886), UPnP-IGD.
//!
//! ```text
//!  node, mover ── this port, this network ─▶ keep ─▶ PCP, or NAT-PMP ─┬─▶ the gateway's address and port, or none ─▶ mover
//!                                                └─▶ UPnP ────────────┘   renewed at half life, deleted at the end
//! ```
//!
//! What a gateway says is looked at as what anybody says. It is asked where the system knows one, which is Linux for now.

/// Which gateway.
mod gateway;
/// PCP and NAT-PMP.
mod pcp;
/// UPnP-IGD.
mod upnp;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    num::NonZeroU16,
    time::{Duration, Instant},
};

use remora_proto::path::candidate::Policy;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

pub use self::gateway::Gateway;
use crate::deadline::until;

/// How long a gateway is asked in all.
const ASKING: Duration = Duration::from_millis(1500);
/// How long PCP and NAT-PMP have before a port is asked for by UPnP: on one's own network they answer in a few milliseconds, and
/// are one exchange instead of five.
const HEAD_START: Duration = Duration::from_millis(100);
/// How often a gateway that gave none is asked again.
const AGAIN: Duration = Duration::from_secs(600);
/// How often one looks for a gateway where none is known: a route may come later than the address.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How long a mapping is asked for: what a computer that loses its power leaves behind is gone after that.
const LEASE: Duration = Duration::from_secs(1200);
/// The shortest life that a mapping is taken to have, whatever the gateway says (RFC 6887 §15).
const SHORTEST: Duration = Duration::from_secs(120);
/// How long the gateway is told that a mapping is not needed any more.
const DELETING: Duration = Duration::from_millis(300);

/// How a gateway was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// WANIPConnection of UPnP's Internet Gateway Device.
    Upnp,
}

impl Protocol {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Upnp => "upnp",
        }
    }
}

/// Why there is no mapping that strangers could use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmapped {
    /// It would be of no use: all is on this computer, or UDP is not wanted.
    #[error("not asked: nobody needs one to this computer alone, or by TCP")]
    NotAsked,
    /// The system knows none, or not how to find out.
    #[error("no gateway is known")]
    NoGateway,
    /// None that understands, and allows it.
    #[error("the gateway gives no port")]
    NotGiven,
    /// The gateway's address is not one that strangers reach: another NAT stands behind it.
    #[error("the gateway's own address {0} is not reached from outside")]
    NotPublic(Ipv4Addr),
}

/// A port on the gateway that leads to ours.
#[derive(Debug)]
pub struct Mapping {
    /// By which it was asked for.
    pub protocol: Protocol,
    /// Where it is.
    pub external: SocketAddrV4,
    /// From being given, or renewed, on.
    lifetime: Duration,
    held: Held,
}

/// What it takes to renew it, and to give it back.
#[derive(Debug)]
enum Held {
    Asked(crab_nat::PortMapping),
    Upnp(upnp::Held),
}

impl Mapping {
    fn new(protocol: Protocol, external: SocketAddrV4, lifetime: Duration, held: Held) -> Self {
        let lifetime = lifetime.clamp(SHORTEST, LEASE);
        Self {
            protocol,
            external,
            lifetime,
            held,
        }
    }

    /// The same once more, or at another address.
    async fn renewed(&self, at: Gateway) -> Result<Self, Unmapped> {
        let renewing = async {
            match &self.held {
                Held::Asked(mapping) => pcp::renew(mapping, at).await,
                Held::Upnp(held) => held.renew(self.external.port()).await,
            }
        };
        within(ASKING, renewing).await
    }

    /// Gives it back, as far as the gateway listens.
    pub async fn delete(self) {
        let external = self.external;
        let deleting = async {
            match self.held {
                Held::Asked(mapping) => pcp::delete(mapping).await,
                Held::Upnp(held) => held.delete(external.port()).await,
            }
        };
        match timeout(DELETING, deleting).await {
            Ok(Ok(())) => tracing::debug!(%external, "the gateway's port is given back"),
            Ok(Err(_)) | Err(_) => {
                tracing::debug!(%external, "the gateway keeps its port for a while");
            }
        }
    }
}

async fn within(
    limit: Duration,
    asking: impl Future<Output = Result<Mapping, Unmapped>>,
) -> Result<Mapping, Unmapped> {
    timeout(limit, asking)
        .await
        .unwrap_or(Err(Unmapped::NotGiven))
}

/// Asks for a port of the gateway's that leads to `port` here. What was asked for and is not waited for any more lapses by itself.
///
/// # Errors
/// Why there is none that strangers could use, by what `policy` says of them.
pub async fn map(at: Gateway, port: NonZeroU16, policy: &Policy) -> Result<Mapping, Unmapped> {
    let asking = async {
        let simple = pcp::map(at, port);
        let searching = async {
            let (found, ()) = tokio::join!(upnp::search(at), sleep(HEAD_START));
            found?.map(port).await
        };
        tokio::pin!(simple, searching);
        // Whichever fails, it may yet be the other one that is given a port.
        tokio::select! { biased;
            given = &mut simple => match given {
                Ok(mapping) => Ok(mapping),
                Err(_) => searching.await,
            },
            given = &mut searching => match given {
                Ok(mapping) => Ok(mapping),
                Err(_) => simple.await,
            },
        }
    };
    checked(within(ASKING, asking).await?, policy).await
}

/// Only what a stranger can use is kept.
async fn checked(mapping: Mapping, policy: &Policy) -> Result<Mapping, Unmapped> {
    let external = mapping.external;
    if policy.allows(external.into(), &[]) {
        return Ok(mapping);
    }
    mapping.delete().await;
    Err(Unmapped::NotPublic(*external.ip()))
}

/// Which port is to be reached, and in which network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted {
    port: Option<NonZeroU16>,
    /// Counts them.
    network: u32,
}

/// The end that wants a port, as long as any copy of it is there.
#[derive(Clone, Debug)]
pub struct PortMap {
    is_useful: bool,
    wanted: watch::Sender<Wanted>,
    mapped: watch::Receiver<Option<SocketAddrV4>>,
}

impl PortMap {
    /// From now on a port that leads to `port` is wanted: the one that is held, unless it leads to another one here, or is another
    /// gateway's than this computer's now.
    pub fn want(&self, port: Option<u16>) {
        let port = self.useful(port);
        self.wanted.send_modify(|wanted| wanted.port = port);
    }

    /// The same in a network that is another one than before, even if its gateway has the same address.
    pub fn want_anew(&self, port: Option<u16>) {
        let port = self.useful(port);
        self.wanted.send_modify(|wanted| {
            let network = wanted.network.wrapping_add(1);
            *wanted = Wanted { port, network };
        });
    }

    fn useful(&self, port: Option<u16>) -> Option<NonZeroU16> {
        port.filter(|_| self.is_useful).and_then(NonZeroU16::new)
    }

    /// Where the gateway's port is.
    pub fn mapped(&self) -> Option<SocketAddrV4> {
        *self.mapped.borrow()
    }

    /// Until that has changed.
    pub async fn changed(&mut self) {
        if self.mapped.changed().await.is_err() {
            // There is nobody any more who could change it.
            std::future::pending().await
        }
    }
}

/// A mapping to be had from `gateway`, which is looked for again in each network: the end that wants it, and what keeps it for as
/// long as there is such an end, and then gives it back. None is asked for where `policy` has no use for it: nodes of one computer have
/// no gateway between them.
pub fn port_map(
    policy: Policy,
    gateway: fn() -> Option<Gateway>,
) -> (PortMap, impl Future<Output = ()>) {
    let (wanted, wants) = watch::channel(Wanted::default());
    let (maps, mapped) = watch::channel(None);
    let is_useful = !policy.relay_only && !policy.allow_loopback;
    let keeper = Keeper {
        policy,
        gateway,
        maps,
        wanted: Wanted::default(),
        at: None,
        held: None,
        expires: Instant::now(),
    };
    let port_map = PortMap {
        is_useful,
        wanted,
        mapped,
    };
    (port_map, keeper.run(wants))
}

struct Keeper {
    policy: Policy,
    gateway: fn() -> Option<Gateway>,
    maps: watch::Sender<Option<SocketAddrV4>>,
    /// For this it is held.
    wanted: Wanted,
    /// Whom it is held from.
    at: Option<Gateway>,
    held: Option<Mapping>,
    expires: Instant,
}

impl Keeper {
    async fn run(mut self, mut wants: watch::Receiver<Wanted>) {
        let mut due = None;
        loop {
            tokio::select! { biased;
                changed = wants.changed() => {
                    let wanted = *wants.borrow_and_update();
                    let is_right = self.wanted == wanted && self.at == (self.gateway)();
                    if changed.is_err() || !is_right {
                        self.give_back().await;
                    }
                    if changed.is_err() {
                        return;
                    }
                    self.wanted = wanted;
                    if self.held.is_none() {
                        due = Some(Instant::now());
                    }
                }
                () = until(due) => {
                    let mut soon = wants.clone();
                    due = tokio::select! { biased;
                        wait = self.ask() => Some(Instant::now() + wait),
                        // It comes first, and what was being asked for is asked for after it.
                        _ = soon.changed() => Some(Instant::now()),
                    };
                }
            }
        }
    }

    /// Asks for one, or for the same once more; gives how long that is enough.
    async fn ask(&mut self) -> Duration {
        let Some(port) = self.wanted.port else {
            return AGAIN;
        };
        let asked = match (&self.held, self.at) {
            (Some(held), Some(at)) => match held.renewed(at).await {
                Ok(mapping) => checked(mapping, &self.policy).await,
                Err(error) => Err(error),
            },
            _ => {
                self.at = (self.gateway)();
                match self.at {
                    Some(at) => map(at, port, &self.policy).await,
                    None => Err(Unmapped::NoGateway),
                }
            }
        };
        let now = Instant::now();
        match asked {
            Ok(mapping) => {
                tracing::debug!(?mapping, "a port of the gateway's");
                self.expires = now + mapping.lifetime;
                self.held = Some(mapping);
            }
            Err(error) => {
                tracing::debug!(%error, "no port of the gateway's");
                let is_over = self.expires <= now || matches!(error, Unmapped::NotPublic(_));
                if is_over {
                    self.held = None;
                }
            }
        }
        self.tell();
        match self.held {
            // Half of what is left; the end is an end, not a row of ever shorter halves.
            Some(_) => (self.expires.saturating_duration_since(now) / 2).max(SHORTEST / 8),
            None if self.at.is_none() => LOOK_AGAIN,
            None => AGAIN,
        }
    }

    async fn give_back(&mut self) {
        if let Some(mapping) = self.held.take() {
            self.tell();
            mapping.delete().await;
        }
    }

    fn tell(&self) {
        let external = self.held.as_ref().map(|mapping| mapping.external);
        self.maps
            .send_if_modified(|told| std::mem::replace(told, external) != external);
    }
}

#[cfg(test)]
mod tests;
