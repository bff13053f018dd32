//! The network of two nodes, built anew for each pair, with a relay in it.
//!
//! ```text
//!  node ── 10 ms ── gateway ─┬─ the core ─┬─ 5 ms ── relay
//!  node ── 10 ms ── gateway ─┘            └─ 5 ms ── observer: the second address that a NAT is asked about from
//! ```

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use patchbay::{
    Device, Firewall, IpSupport, Ipv4Net, Lab, Nat, NatConfig, NatFiltering, NatMapping, NodeId,
    Router,
};
use remora_proto::{
    id::RelayAddr,
    noise::StaticKey,
    sim::internet::{Behaviour, DependsOn, Ports},
};
use remora_relay::{config::Config, rate::Rate, relay::Relay};

use super::{
    counter,
    edge::{Edge, Pair},
    tool,
    wire::{UPLINK, Wire},
};

/// Of each node's link, one way.
pub const NODE_DELAY: Duration = Duration::from_millis(10);
/// Of the relay's and the observer's.
pub const RELAY_DELAY: Duration = Duration::from_millis(5);
/// Where the relay listens.
const RELAY_PORT: u16 = 4433;
/// Every home has this network inside, so that an address there says nothing of which home it is.
const HOME: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 1, 0), 24);
/// Between homes and a carrier's NAT (RFC 6598).
const CARRIER: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 24);
/// Address-dependent filtering, for each inner port by itself; patchbay's opens all ports to whom one has sent. What goes out is
/// seen before its source is translated, what comes in after its destination is.
const ADDRESS_DEPENDENT: &str = "table ip natlab {
    set contacted {
        type ipv4_addr . ipv4_addr . inet_service
        flags dynamic,timeout
        timeout EXPIRYs
        size 65536
    }
    chain forward {
        type filter hook forward priority 0; policy accept;
        iif WAN ct state established,related accept
        iif WAN ip saddr . ip daddr . udp dport @contacted accept
        iif WAN drop
    }
    chain postrouting {
        type filter hook postrouting priority 0; policy accept;
        oif WAN update @contacted { ip daddr . ip saddr . udp sport }
    }
}";

/// Two nodes' places, and what is between them.
pub struct Network {
    /// First to go: its threads are in the lab.
    relay: Relay,
    /// Where the relay runs.
    pub relay_at: Device,
    /// Another host without a NAT.
    pub observer: Device,
    /// Where the nodes run.
    pub sides: [Side; 2],
    _wires: [Wire; 2],
    lab: Lab,
}

/// A lab has no words for itself.
impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("relay", &self.relay)
            .field("sides", &self.sides)
            .finish_non_exhaustive()
    }
}

/// A node's place.
#[derive(Debug)]
pub struct Side {
    /// What stands in front of it.
    pub edge: Edge,
    /// Its namespace.
    pub device: Device,
    /// The address under which others see what it sends.
    pub outer: IpAddr,
    _wire: Wire,
}

/// Makes this process one that may have networks of its own. Only while it has one thread.
///
/// # Errors
/// When the system does not let it, or what networks are made with is missing.
pub fn enter() -> anyhow::Result<()> {
    tool::check()?;
    patchbay::init_userns().map_err(|error| {
        anyhow!(
            "this system lets you have no user and network namespaces of your own ({error}); natlab needs them: \
             on Ubuntu `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`, elsewhere `sudo sysctl \
             user.max_user_namespaces=10000`, in a container allow `unshare` (`--security-opt seccomp=unconfined`)"
        )
    })
}

impl Network {
    /// Builds it, and starts the relay.
    ///
    /// # Errors
    /// What could not be built.
    pub async fn new(pair: Pair) -> anyhow::Result<Self> {
        let lab = Lab::builder().outdir_from_env().label(pair.to_string());
        let lab = lab.build().await.context("no network namespaces")?;
        let core = lab.add_router("core").nat(Nat::None);
        let core = core.ip_support(IpSupport::V4Only).build().await?;
        let (relay_at, relay_wire) = host(&lab, "relay", &core, RELAY_DELAY).await?;
        let (observer, observer_wire) = host(&lab, "observer", &core, RELAY_DELAY).await?;
        let (inside_a, outer_a) = edge(&lab, "a", pair.a).await?;
        let (inside_b, outer_b) = if pair.shares_a_gateway() {
            (inside_a.clone(), outer_a)
        } else {
            edge(&lab, "b", pair.b).await?
        };
        let sides = [
            Side::new(&lab, "node-a", pair.a, &inside_a, outer_a).await?,
            Side::new(&lab, "node-b", pair.b, &inside_b, outer_b).await?,
        ];
        let relay = start_relay(&relay_at).await?;
        Ok(Self {
            relay,
            relay_at,
            observer,
            sides,
            _wires: [relay_wire, observer_wire],
            lab,
        })
    }

    /// The relay's address, as nodes get it.
    pub fn relay(&self) -> &RelayAddr {
        self.relay.address()
    }

    /// Ends everything in it, the relay in order.
    pub async fn close(self) {
        self.relay.shutdown().await;
        drop(self.lab);
    }
}

impl Side {
    async fn new(
        lab: &Lab,
        name: &str,
        edge: Edge,
        inside: &Router,
        outer: Option<IpAddr>,
    ) -> anyhow::Result<Self> {
        let (device, wire) = host(lab, name, inside, NODE_DELAY).await?;
        counter::install(&device)?;
        let own = address(&device)?;
        Ok(Self {
            edge,
            outer: outer.unwrap_or(own),
            device,
            _wire: wire,
        })
    }
}

/// The address that a host has itself.
///
/// # Errors
/// When it has none, which patchbay does not let happen.
pub fn address(device: &Device) -> anyhow::Result<IpAddr> {
    let address = device.ip().context("a host of the lab has no address")?;
    Ok(address.into())
}

/// A host behind `router`, and its link.
async fn host(
    lab: &Lab,
    name: &str,
    router: &Router,
    delay: Duration,
) -> anyhow::Result<(Device, Wire)> {
    let device = lab.add_device(name).iface(UPLINK, router.id());
    let device = device.build().await?;
    let wire = Wire::new(&device, router, delay)?;
    Ok((device, wire))
}

/// The innermost router of an edge, and what outer address it gives, if it translates.
async fn edge(lab: &Lab, name: &str, edge: Edge) -> anyhow::Result<(Router, Option<IpAddr>)> {
    let gateways = edge.gateways();
    let Some((innermost, outwards)) = gateways.split_first() else {
        let router = lab.add_router(name).nat(Nat::None);
        let router = router.ip_support(IpSupport::V4Only).build().await?;
        return Ok((router, None));
    };
    let (mut outside, mut outer) = (None, None);
    for behaviour in outwards.iter().rev() {
        let router = gateway(lab, &format!("{name}-carrier"), behaviour, CARRIER, outside).await?;
        (outside, outer) = (
            Some(router.id()),
            outer.or_else(|| translated(&router, behaviour)),
        );
    }
    let router = gateway(lab, name, innermost, HOME, outside).await?;
    outer = outer.or_else(|| translated(&router, innermost));
    Ok((router, outer))
}

fn translated(router: &Router, behaviour: &Behaviour) -> Option<IpAddr> {
    let outer = router.uplink_ip().filter(|_| !behaviour.is_firewall);
    outer.map(IpAddr::V4)
}

async fn gateway(
    lab: &Lab,
    name: &str,
    behaviour: &Behaviour,
    inside: Ipv4Net,
    outside: Option<NodeId>,
) -> anyhow::Result<Router> {
    let mut router = lab.add_router(name).ip_support(IpSupport::V4Only);
    if let Some(outside) = outside {
        router = router.upstream(outside);
    }
    router = if behaviour.is_firewall {
        router.nat(Nat::None).firewall(Firewall::BlockInbound)
    } else {
        router.nat(nat(behaviour)?).downstream_cidr(inside)
    };
    let router = router.build().await?;
    if !behaviour.is_firewall && behaviour.filtering == DependsOn::Address {
        let wan = if outside.is_some() { "wan" } else { "ix" };
        let rules = ADDRESS_DEPENDENT
            .replace("WAN", wan)
            .replace("EXPIRY", &behaviour.expiry.as_secs().to_string());
        let spawn = |command| router.spawn_command_sync(command);
        tool::run(spawn, "nft", &["-f", "-"], &rules)?;
    }
    Ok(router)
}

/// As nftables are told.
fn nat(behaviour: &Behaviour) -> anyhow::Result<NatConfig> {
    let mapping = match (behaviour.mapping, behaviour.ports) {
        (DependsOn::Nothing, Ports::Preserved) => NatMapping::EndpointIndependent,
        (DependsOn::AddressAndPort, Ports::Random) => NatMapping::EndpointDependent,
        other => bail!("the lab has no NAT whose mapping is {other:?}"),
    };
    let filtering = match behaviour.filtering {
        // The latter by rules of our own.
        DependsOn::Nothing | DependsOn::Address => NatFiltering::EndpointIndependent,
        DependsOn::AddressAndPort => NatFiltering::AddressAndPortDependent,
    };
    let expiry_s = u32::try_from(behaviour.expiry.as_secs())?;
    let config = NatConfig::builder()
        .mapping(mapping)
        .filtering(filtering)
        .udp_timeout(expiry_s)
        .udp_stream_timeout(expiry_s)
        .hairpin(behaviour.hairpin);
    Ok(config.build()?)
}

async fn start_relay(at: &Device) -> anyhow::Result<Relay> {
    let config = Config {
        listen: SocketAddr::new(address(at)?, RELAY_PORT),
        name: "lab".to_owned(),
        // All runs' codes are looked up from one address.
        lookup_rate: Rate::new(1000, Duration::from_secs(1), 1000),
        ..Config::loopback(StaticKey::generate())
    };
    let starting = at.spawn(move |_| async move { Relay::start(config) })?;
    starting.await?.context("the lab's relay does not start")
}
