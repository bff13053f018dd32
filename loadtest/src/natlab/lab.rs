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

use anyhow::{Context as _, anyhow};
use patchbay::{Device, IpSupport, Ipv4Net, Lab, Nat, Router};
use remora_proto::{id::RelayAddr, noise::StaticKey};
use remora_relay::{config::Config, rate::Rate, relay::Relay};

use super::{
    counter,
    edge::{Edge, Outwards, Pair},
    gateway::{self, Duties, mapping},
    proxy,
    service::Service,
    tool,
    wire::{Link, Wire, uplink},
};

/// Of each node's link, one way.
pub const NODE_DELAY: Duration = Duration::from_millis(10);
/// Of the relay's and the observer's.
pub const RELAY_DELAY: Duration = Duration::from_millis(5);
/// Where the relay listens.
const RELAY_PORT: u16 = 4433;
/// Every home has this network inside, so that an address there says nothing of which home it is.
const HOME: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 1, 0), 24);
/// Inside the network that a node may go to: the address that it leaves must not be one that it is given there.
const ELSEWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 2, 0), 24);
/// Between homes and a carrier's NAT (RFC 6598).
const CARRIER: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 24);
/// Of the bridge where routers meet: one that is nobody's (bit 1 of the first byte).
const EXCHANGE_MAC: &str = "02:00:00:00:00:01";
/// Two nodes' places, and what is between them.
pub struct Network {
    /// What the nodes are behind.
    pub pair: Pair,
    /// First to go: its threads are in the lab.
    relay: Relay,
    /// Where the relay runs.
    pub relay_at: Device,
    /// Another host without a NAT.
    pub observer: Device,
    /// Where the nodes run.
    pub sides: [Side; 2],
    link: Link,
    _wires: [Wire; 2],
    _services: Vec<Service>,
    lab: Lab,
}

/// A network that a node may go to.
pub(super) struct Roaming<'a> {
    device: &'a Device,
    gateway: Router,
    link: Link,
}

impl Roaming<'_> {
    /// The node's interface is gone, and it has another one, for as long as the wire.
    ///
    /// # Errors
    /// What `ip` said.
    pub(super) fn go(&self) -> anyhow::Result<Wire> {
        let spawn = |command| self.device.spawn_command_sync(command);
        tool::run(spawn, "ip", &["link", "delete", "eth0"], "")?;
        Wire::new(self.device, 1, &self.gateway, self.link)
    }
}

/// A lab has no words for itself.
impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("pair", &self.pair)
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
    /// The nearest router.
    pub gateway: Router,
    /// The HTTP proxy of its network, if it has one.
    pub proxy: Option<SocketAddr>,
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
            "this system lets you have no user and network namespaces of your own ({error}); networks are made of them: \
             on Ubuntu `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`, elsewhere `sudo sysctl \
             user.max_user_namespaces=10000`, in a container allow `unshare` (`--security-opt seccomp=unconfined`)"
        )
    })
}

impl Network {
    /// Builds it, and starts the relay. Of the frames on each node's link, so many are lost; `seed` says which.
    ///
    /// # Errors
    /// What could not be built.
    pub async fn new(pair: Pair, loss: f64, seed: u64) -> anyhow::Result<Self> {
        let lab = Lab::builder().outdir_from_env().label(pair.to_string());
        let lab = lab.build().await.context("no network namespaces")?;
        fix_exchange(&lab)?;
        let core = lab.add_router("core").nat(Nat::None);
        let core = core.ip_support(if pair.is_v6() {
            IpSupport::DualStack
        } else {
            IpSupport::V4Only
        });
        let core = core.build().await?;
        let link = Link {
            delay: RELAY_DELAY,
            loss: 0.0,
            seed,
            has_trains: loss == 0.0,
        };
        let (relay_at, relay_wire) = host(&lab, "relay", &core, link).await?;
        let (observer, observer_wire) = host(&lab, "observer", &core, link).await?;
        let mut sites = vec![Site::new(&lab, "a", pair.a, HOME).await?];
        if !pair.shares_a_gateway() {
            sites.push(Site::new(&lab, "b", pair.b, HOME).await?);
        }
        let (first, last) = (&sites[0], &sites[sites.len() - 1]);
        let link = Link {
            delay: NODE_DELAY,
            loss,
            ..link
        };
        let sides = [
            first.side(&lab, "node-a", link).await?,
            last.side(
                &lab,
                "node-b",
                Link {
                    seed: seed + 1,
                    ..link
                },
            )
            .await?,
        ];
        let relay = start_relay(&relay_at).await?;
        Ok(Self {
            pair,
            relay,
            relay_at,
            observer,
            sides,
            link,
            _wires: [relay_wire, observer_wire],
            _services: sites.into_iter().flat_map(|site| site.services).collect(),
            lab,
        })
    }

    /// The relay's address, as nodes get it.
    pub fn relay(&self) -> &RelayAddr {
        self.relay.address()
    }

    /// Another network, behind most homes' NAT, that the second node may go to.
    ///
    /// # Errors
    /// What could not be built.
    pub(super) async fn roaming(&self) -> anyhow::Result<Roaming<'_>> {
        let site = Site::new(&self.lab, "roaming", Edge::EimApdf, ELSEWHERE).await?;
        let [_, side] = &self.sides;
        side.device.add_iface(&uplink(1), site.gateway.id()).await?;
        // Not yet.
        let spawn = |command| side.device.spawn_command_sync(command);
        tool::run(spawn, "ip", &["address", "flush", "dev", &uplink(1)], "")?;
        Ok(Roaming {
            device: &side.device,
            gateway: site.gateway,
            link: self.link,
        })
    }

    /// Ends everything in it, the relay in order.
    pub async fn close(self) {
        self.relay.shutdown().await;
        drop(self.lab);
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

/// Its IPv6 address, which others see, too.
pub fn v6_address(device: &Device) -> Option<IpAddr> {
    device.ip6().map(IpAddr::V6)
}

/// The bridge that all routers meet at keeps its hardware address when another router comes: else it is that of the port with the
/// lowest, and those who have learned it send to nobody until they ask again.
fn fix_exchange(lab: &Lab) -> anyhow::Result<()> {
    let ip = |args: &[&str]| {
        let spawn = |command| lab.ix().spawn_command_sync(command);
        tool::run(spawn, "ip", args, "")
    };
    // `2: br-p1230-1: <BROADCAST,…`
    let bridges = ip(&["-oneline", "link", "show", "type", "bridge"])?;
    let mut bridge = bridges.split([':', ' ']).filter(|word| !word.is_empty());
    let bridge = bridge.nth(1).context("a lab without a bridge")?;
    ip(&["link", "set", bridge, "address", EXCHANGE_MAC])?;
    Ok(())
}

/// A host behind `router`, and its link.
async fn host(
    lab: &Lab,
    name: &str,
    router: &Router,
    link: Link,
) -> anyhow::Result<(Device, Wire)> {
    let device = lab.add_device(name).iface(&uplink(0), router.id());
    let device = device.build().await?;
    let wire = Wire::new(&device, 0, router, link)?;
    Ok((device, wire))
}

/// What stands at an edge.
#[derive(Debug)]
struct Site {
    edge: Edge,
    /// The innermost router.
    gateway: Router,
    /// What outer address it gives, if it translates.
    outer: Option<IpAddr>,
    proxy: Option<SocketAddr>,
    services: Vec<Service>,
}

impl Site {
    async fn new(lab: &Lab, name: &str, edge: Edge, inside: Ipv4Net) -> anyhow::Result<Self> {
        let gateways = edge.gateways();
        let Some((innermost, outwards)) = gateways.split_first() else {
            let router = lab.add_router(name).nat(Nat::None);
            return Ok(Self {
                edge,
                gateway: router.ip_support(IpSupport::V4Only).build().await?,
                outer: None,
                proxy: None,
                services: Vec::new(),
            });
        };
        let (mut outside, mut outer) = (None, None);
        for behaviour in outwards.iter().rev() {
            let duties = Duties {
                behaviour: *behaviour,
                outwards: Outwards::Everything,
                maps_ports: false,
                has_v6: false,
            };
            let name = format!("{name}-carrier");
            let router = gateway(lab, &name, &duties, CARRIER, outside.as_ref()).await?;
            outer = outer.or_else(|| gateway::outer(&router, behaviour));
            outside = Some(router);
        }
        let duties = Duties {
            behaviour: *innermost,
            outwards: edge.outwards(),
            maps_ports: edge.maps_ports(),
            has_v6: edge.v6().is_some(),
        };
        let router = gateway(lab, name, &duties, inside, outside.as_ref()).await?;
        let mut services = Vec::new();
        if edge.maps_ports() {
            services.push(mapping::start(&router).await?);
        }
        let mut proxy = None;
        if edge.outwards() == Outwards::Proxy {
            let (service, at) = proxy::start(&router).await?;
            services.push(service);
            proxy = Some(at);
        }
        Ok(Self {
            edge,
            outer: outer.or_else(|| gateway::outer(&router, innermost)),
            gateway: router,
            proxy,
            services,
        })
    }

    /// With a node in it.
    async fn side(&self, lab: &Lab, name: &str, link: Link) -> anyhow::Result<Side> {
        let (device, wire) = host(lab, name, &self.gateway, link).await?;
        counter::install(&device)?;
        let own = address(&device)?;
        Ok(Side {
            edge: self.edge,
            outer: self.outer.unwrap_or(own),
            device,
            gateway: self.gateway.clone(),
            proxy: self.proxy,
            _wire: wire,
        })
    }
}

async fn gateway(
    lab: &Lab,
    name: &str,
    duties: &Duties,
    inside: Ipv4Net,
    outside: Option<&Router>,
) -> anyhow::Result<Router> {
    let mut router = lab.add_router(name);
    if let Some(outside) = outside {
        router = router.upstream(outside.id());
    }
    if !duties.behaviour.is_firewall {
        router = router.downstream_cidr(inside);
    }
    // To patchbay, what translates IPv4 has no public IPv6 inside, either.
    let is_private = !duties.behaviour.is_firewall && !duties.has_v6;
    router = router.nat(if is_private { Nat::Open } else { Nat::None });
    let router = router.ip_support(if duties.has_v6 {
        IpSupport::DualStack
    } else {
        IpSupport::V4Only
    });
    let router = router.build().await?;
    gateway::install(&router, duties)?;
    Ok(router)
}

async fn start_relay(at: &Device) -> anyhow::Result<Relay> {
    let listen = SocketAddr::new(address(at)?, RELAY_PORT);
    let config = Config {
        listen,
        listen_tcp: Some(listen),
        name: "lab".to_owned(),
        // All runs' codes are looked up from one address.
        lookup_rate: Rate::new(1000, Duration::from_secs(1), 1000),
        ..Config::loopback(StaticKey::generate())
    };
    let starting = at.spawn(move |_| async move { Relay::start(config) })?;
    starting.await?.context("the lab's relay does not start")
}
