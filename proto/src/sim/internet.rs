//! Links, NATs and firewalls between any two nodes, in virtual time.
//!
//! ```text
//!  host ── network ── gateway ── network ── gateway ── the core ── …
//!          (a home)     NAT     (a carrier)    NAT
//! ```
//!
//! Behaviours are those of RFC 4787: how a mapping depends on the destination, whom it lets in, how its port is chosen, how long
//! it lives, whether it takes packets from its own inside. What reaches whom follows from these alone.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::Dice;

/// A network's number; [`CORE`] is the one in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(usize);

/// Where everybody can reach everybody who is there.
pub const CORE: NetworkId = NetworkId(0);

/// What a mapping, or a filter, depends on (RFC 4787 §4.1, §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DependsOn {
    /// Nothing: endpoint-independent.
    Nothing,
    /// The other's address.
    Address,
    /// Its address and port.
    AddressAndPort,
}

/// How a mapping's port is chosen (RFC 4787 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// As it is inside, if it is free.
    Preserved,
    /// The next one; others take so many a second.
    Sequential(u16),
    /// Any of so many that follow each other.
    Block(u16),
    /// Any.
    Random,
}

/// What a gateway does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// The same address inside and outside: a firewall.
    pub is_firewall: bool,
    /// When packets of one inner port get another outer one.
    pub mapping: DependsOn,
    /// Who may answer.
    pub filtering: DependsOn,
    /// Which port.
    pub ports: Ports,
    /// A mapping that nothing goes out by for so long is gone.
    pub expiry: Duration,
    /// Takes packets from its inside to its own outer address.
    pub hairpin: bool,
}

/// What a router at home does: endpoint-independent mapping, address- and port-dependent filtering.
pub const HOME: Behaviour = Behaviour {
    is_firewall: false,
    mapping: DependsOn::Nothing,
    filtering: DependsOn::AddressAndPort,
    ports: Ports::Preserved,
    expiry: Duration::from_secs(120),
    hairpin: false,
};

/// A firewall that lets in what answers.
pub const FIREWALL: Behaviour = Behaviour {
    is_firewall: true,
    ..HOME
};

/// A NAT that lets in everybody.
pub const EIF: Behaviour = Behaviour {
    filtering: DependsOn::Nothing,
    ..HOME
};

/// A NAT that lets in whoever's address was sent to.
pub const ADF: Behaviour = Behaviour {
    filtering: DependsOn::Address,
    ..HOME
};

/// A NAT with another mapping for each destination, on any port.
pub const APDM_RANDOM: Behaviour = Behaviour {
    mapping: DependsOn::AddressAndPort,
    ports: Ports::Random,
    ..HOME
};

/// The same, on ports in turn.
pub const APDM_SEQUENTIAL: Behaviour = Behaviour {
    ports: Ports::Sequential(0),
    ..APDM_RANDOM
};

/// The same, on any port of a small block.
pub const APDM_BLOCK: Behaviour = Behaviour {
    ports: Ports::Block(512),
    ..APDM_RANDOM
};

/// The same, on any port of as large a block as carriers give to a subscriber.
pub const APDM_WIDE_BLOCK: Behaviour = Behaviour {
    ports: Ports::Block(4096),
    ..APDM_RANDOM
};

/// A router at home that forgets a mapping after 30 s, which is as soon as any is known to.
pub const SHORT_LIVED: Behaviour = Behaviour {
    expiry: Duration::from_secs(30),
    ..HOME
};

#[derive(Debug)]
struct Mapping {
    inner: SocketAddr,
    key: Option<SocketAddr>,
    /// Whom something was sent to by it, and when.
    sent: HashMap<SocketAddr, Instant>,
    used: Instant,
}

#[derive(Debug)]
struct Gateway {
    behaviour: Behaviour,
    outside: NetworkId,
    inside: NetworkId,
    address: IpAddr,
    by_port: BTreeMap<u16, Mapping>,
    /// The one after which the next in turn comes; the first of its block.
    port: u16,
    /// When others have taken theirs.
    others_at: Instant,
}

/// A host's port: networks may have the same addresses inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the host is.
    pub network: NetworkId,
    /// Its address there.
    pub address: SocketAddr,
}

/// One that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where from, as its receiver sees it.
    pub from: SocketAddr,
    /// Where to.
    pub to: Place,
    /// What.
    pub bytes: Vec<u8>,
}

/// The world between nodes.
#[derive(Debug)]
pub struct Internet {
    dice: Dice,
    now: Instant,
    /// With the delay of all that it sends and receives.
    hosts: HashMap<(NetworkId, IpAddr), Duration>,
    gateways: Vec<Gateway>,
    networks: usize,
    queue: BTreeMap<(Instant, u64), Packet>,
    sequence: u64,
    /// Of packets, each on its own.
    pub loss: f64,
    /// Hosts whose packets arrive nowhere.
    muted: Vec<(NetworkId, IpAddr)>,
}

impl Internet {
    /// Nobody is there yet.
    pub fn new(epoch: Instant, seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            now: epoch,
            hosts: HashMap::new(),
            gateways: Vec::new(),
            networks: 1,
            queue: BTreeMap::new(),
            sequence: 0,
            loss: 0.0,
            muted: Vec::new(),
        }
    }

    /// A gateway from a new network to `outside`, where it has `address` (which a firewall does not use).
    pub fn gateway(
        &mut self,
        outside: NetworkId,
        address: IpAddr,
        behaviour: Behaviour,
    ) -> NetworkId {
        let inside = NetworkId(self.networks);
        self.networks += 1;
        let port = 20_000 + u16::try_from(self.dice.below(20_000)).unwrap_or(0);
        self.gateways.push(Gateway {
            behaviour,
            outside,
            inside,
            address,
            by_port: BTreeMap::new(),
            port,
            others_at: self.now,
        });
        inside
    }

    /// A host in a network, with one delay for all that it sends and receives.
    pub fn host(&mut self, network: NetworkId, address: IpAddr, delay: Duration) {
        self.hosts.insert((network, address), delay);
    }

    /// The host moves: whatever gateways knew of it is of no use to it.
    pub fn move_host(&mut self, from: (NetworkId, IpAddr), to: (NetworkId, IpAddr)) {
        if let Some(delay) = self.hosts.remove(&from) {
            self.hosts.insert(to, delay);
        }
    }

    /// What these send arrives nowhere, from now on; what others send to them does.
    pub fn mute(&mut self, hosts: Vec<(NetworkId, IpAddr)>) {
        self.muted = hosts;
    }

    /// A host sends a packet.
    pub fn send(&mut self, now: Instant, from: Place, to: SocketAddr, bytes: Vec<u8>) {
        self.now = self.now.max(now);
        let delay = |hosts: &HashMap<_, _>, place: Place| {
            let host = (place.network, place.address.ip());
            hosts.get(&host).copied()
        };
        let Some(sent) = delay(&self.hosts, from) else {
            return;
        };
        if self.dice.chance(self.loss) || self.muted.contains(&(from.network, from.address.ip())) {
            return;
        }
        let Some((from, to)) = self.route(from, to) else {
            return;
        };
        let at = self.now + sent + delay(&self.hosts, to).unwrap_or_default();
        self.sequence += 1;
        self.queue
            .insert((at, self.sequence), Packet { from, to, bytes });
    }

    /// How `to`, if a packet reaches it, sees `from`; at once, and whatever is lost.
    pub fn observe(&mut self, now: Instant, from: Place, to: SocketAddr) -> Option<SocketAddr> {
        self.now = self.now.max(now);
        self.route(from, to).map(|(seen, _)| seen)
    }

    /// A packet that has arrived by `now`.
    pub fn receive(&mut self, now: Instant) -> Option<Packet> {
        let next = self.queue.first_entry()?;
        let (at, _) = *next.key();
        (at <= now).then(|| next.remove())
    }

    /// Through gateways outwards and inwards, to a host; as it sees the packet.
    fn route(&mut self, from: Place, mut to: SocketAddr) -> Option<(SocketAddr, Place)> {
        let now = self.now;
        let Place {
            mut network,
            address: mut from,
        } = from;
        // Each turn goes through a gateway; nobody has as many.
        for _ in 0..16 {
            if self.hosts.contains_key(&(network, to.ip())) {
                let address = to;
                return Some((from, Place { network, address }));
            }
            if let Some(at) = self.inwards(network, to.ip()) {
                let gateway = &mut self.gateways[at];
                to = gateway.admit(from, to, now)?;
                network = gateway.inside;
                continue;
            }
            let at = (0..self.gateways.len()).find(|&at| self.gateways[at].inside == network)?;
            let gateway = &mut self.gateways[at];
            from = gateway.let_out(from, to, now, &mut self.dice);
            if !gateway.behaviour.is_firewall && to.ip() == gateway.address {
                if !gateway.behaviour.hairpin {
                    return None;
                }
                to = gateway.admit(from, to, now)?;
                network = gateway.inside;
            } else {
                network = gateway.outside;
            }
        }
        None
    }

    /// The gateway of `network` behind which `ip` is.
    fn inwards(&self, network: NetworkId, ip: IpAddr) -> Option<usize> {
        (0..self.gateways.len()).find(|&at| {
            let gateway = &self.gateways[at];
            gateway.outside == network
                && if gateway.behaviour.is_firewall {
                    self.hosts.contains_key(&(gateway.inside, ip))
                } else {
                    gateway.address == ip
                }
        })
    }
}

impl DependsOn {
    /// What of `other` it depends on.
    fn key(self, other: SocketAddr) -> Option<SocketAddr> {
        match self {
            Self::Nothing => None,
            Self::Address => Some(SocketAddr::new(other.ip(), 0)),
            Self::AddressAndPort => Some(other),
        }
    }
}

impl Gateway {
    /// A packet goes out; its source, as the outside sees it.
    fn let_out(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
        dice: &mut Dice,
    ) -> SocketAddr {
        let Behaviour {
            mapping,
            expiry,
            is_firewall,
            ..
        } = self.behaviour;
        self.by_port
            .retain(|_, mapping| now.saturating_duration_since(mapping.used) < expiry);
        let key = mapping.key(to);
        let known = self
            .by_port
            .iter_mut()
            .find(|(_, mapping)| mapping.inner == from && (mapping.key == key || is_firewall));
        let port = match known {
            Some((port, mapping)) => {
                mapping.used = now;
                mapping.sent.insert(to, now);
                *port
            }
            None => {
                let port = self.choose_port(from.port(), now, dice);
                let mapping = Mapping {
                    inner: from,
                    key,
                    sent: HashMap::from([(to, now)]),
                    used: now,
                };
                self.by_port.insert(port, mapping);
                port
            }
        };
        if is_firewall {
            from
        } else {
            SocketAddr::new(self.address, port)
        }
    }

    fn choose_port(&mut self, inner: u16, now: Instant, dice: &mut Dice) -> u16 {
        let below =
            |end: u16, dice: &mut Dice| u16::try_from(dice.below(usize::from(end))).unwrap_or(0);
        let wanted = match self.behaviour.ports {
            Ports::Preserved => inner,
            Ports::Sequential(others_per_s) => {
                let others = self.others(others_per_s, now, dice);
                self.port = self.port.wrapping_add(1 + others).max(1024);
                self.port
            }
            Ports::Block(size) => self.port + below(size, dice),
            Ports::Random => 1024 + below(64_512, dice),
        };
        let is_free = |port: &u16| *port >= 1024 && !self.by_port.contains_key(port);
        let mut ports = match self.behaviour.ports {
            Ports::Block(size) => (wanted..self.port + size).chain(self.port..wanted),
            Ports::Preserved | Ports::Sequential(_) | Ports::Random => {
                (wanted..u16::MAX).chain(1024..wanted)
            }
        };
        ports.find(is_free).unwrap_or(wanted)
    }

    /// Mappings of others since the last time, of up to ten seconds: in each millisecond there is one or none.
    fn others(&mut self, per_s: u16, now: Instant, dice: &mut Dice) -> u16 {
        let since = now.saturating_duration_since(self.others_at);
        self.others_at = now;
        let moments = 0..since.as_millis().min(10_000);
        let probability = f64::from(per_s) / 1000.0;
        let taken = moments.filter(|_| dice.chance(probability)).count();
        u16::try_from(taken).unwrap_or(u16::MAX)
    }

    /// A packet wants in; its destination, as the inside sees it, if it may.
    fn admit(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) -> Option<SocketAddr> {
        let Behaviour {
            filtering,
            expiry,
            is_firewall,
            ..
        } = self.behaviour;
        let mapping = if is_firewall {
            self.by_port.values().find(|mapping| mapping.inner == to)
        } else {
            self.by_port.get(&to.port())
        };
        let mapping =
            mapping.filter(|mapping| now.saturating_duration_since(mapping.used) < expiry)?;
        let may_answer = |(sent_to, at): (&SocketAddr, &Instant)| {
            filtering.key(*sent_to) == filtering.key(from)
                && now.saturating_duration_since(*at) < expiry
        };
        mapping.sent.iter().any(may_answer).then_some(mapping.inner)
    }
}
