//! Two nodes, each behind gateways of its own, two relays and the way through one of them: the shell around a path's machines,
//! in virtual time.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    Dice,
    internet::{Behaviour, CORE, Internet, NetworkId, Place},
};
use crate::{
    id::{SessionId, Side},
    path::{
        candidate::{Candidate, Kind, Named, Policy, Subnet},
        check::Keys,
        machine::Paths,
        nat::{Mapping, Nat},
        survey::Survey,
        way::{Base, SocketChange, Way},
    },
    wire::reflect::{self, Load, Reflection},
};

/// A node's link, one way: two nodes are twice as far apart.
const LINK: Duration = Duration::from_millis(10);
/// A relay's.
const RELAY_LINK: Duration = Duration::from_millis(5);
/// From one node to the other through the relay.
const RELAYED: Duration = Duration::from_millis(30);
/// Machines are told of time so often.
const TICK: Duration = Duration::from_millis(1);
/// One relay's two ports, and another relay's: for documentation (RFC 5737), as all addresses here.
const OBSERVERS: [SocketAddr; 3] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 4433),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 4434),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), 4433),
];

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its machine.
    pub paths: Paths,
    survey: Survey,
    network: NetworkId,
    ip: IpAddr,
    /// Of its sockets.
    port_by_base: BTreeMap<Base, u16>,
    /// That relays are asked about.
    observed: BTreeMap<u64, Base>,
    inbox: Vec<(Instant, Named)>,
    /// That its machine has been told of: of the survey.
    told: Option<(usize, Nat)>,
    /// Most sockets beside the main one that it has had at once.
    pub most_sockets: usize,
}

impl Node {
    /// How many sockets it has, beside the main one.
    pub fn sockets(&self) -> usize {
        self.port_by_base.len() - 1
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// When both nodes' surveys were over.
    pub epoch: Instant,
    /// It is.
    pub now: Instant,
    /// What stands between the nodes.
    pub internet: Internet,
    /// The host, and the joiner.
    pub nodes: [Node; 2],
    dice: Dice,
    is_parted: bool,
    /// So many networks have been built.
    networks: u8,
}

impl World {
    /// Nodes behind these gateways, from the inside out, that have just finished their surveys; packets are lost by `loss`.
    pub fn new(edges: [&[Behaviour]; 2], loss: f64, epoch: Instant, seed: u64) -> Self {
        let mut internet = Internet::new(epoch, seed);
        internet.loss = loss;
        for observer in OBSERVERS {
            internet.host(CORE, observer.ip(), RELAY_LINK);
        }
        let mut dice = Dice::new(seed.wrapping_add(1));
        let nodes = [Side::Host, Side::Joiner].map(|side| {
            let policy = Policy {
                forbidden: OBSERVERS.to_vec(),
                ..Policy::default()
            };
            Node {
                paths: Paths::new(keys(side), policy, epoch),
                survey: Survey::new(&OBSERVERS, &mut dice.0, epoch),
                network: CORE,
                ip: OBSERVERS[0].ip(),
                port_by_base: BTreeMap::new(),
                observed: BTreeMap::new(),
                inbox: Vec::new(),
                told: None,
                most_sockets: 0,
            }
        });
        let mut world = Self {
            epoch,
            now: epoch,
            internet,
            nodes,
            dice,
            is_parted: false,
            networks: 0,
        };
        for (node, edge) in edges.into_iter().enumerate() {
            world.move_to(node, edge);
        }
        while world.nodes.iter().any(|node| !node.survey.is_over()) {
            world.now += TICK;
            world.deliver();
            world.survey();
        }
        world.epoch = world.now;
        for node in &mut world.nodes {
            node.most_sockets = 0;
        }
        world
    }

    /// The node is in another network now, and asks what stands before it there.
    pub fn move_to(&mut self, node: usize, edge: &[Behaviour]) {
        self.networks += 1;
        let outer = IpAddr::from([203, 0, 113, self.networks]);
        let mut network = CORE;
        for (depth, gateway) in (0..).zip(edge.iter().rev()) {
            let shared = IpAddr::from([100, 64, depth, self.networks]);
            let address = if depth == 0 { outer } else { shared };
            network = self.internet.gateway(network, address, *gateway);
        }
        let is_translated = edge.iter().any(|gateway| !gateway.is_firewall);
        let private = IpAddr::from([192, 168, 1, self.networks]);
        let ip = if is_translated { private } else { outer };
        self.internet.host(network, ip, LINK);
        let port = self.port();
        let moved = &mut self.nodes[node];
        (moved.network, moved.ip, moved.told) = (network, ip, None);
        moved.port_by_base.insert(Base::MAIN, port);
        moved.survey = Survey::new(&OBSERVERS, &mut self.dice.0, self.now);
    }

    /// What a node sends arrives nowhere, from now on, or does again.
    pub fn mute(&mut self, nodes: &[usize]) {
        let hosts = nodes.iter().map(|node| &self.nodes[*node]);
        let hosts = hosts.map(|node| (node.network, node.ip)).collect();
        self.internet.mute(hosts);
    }

    /// The nodes reach relays and not each other, from now on, or do again.
    pub fn part(&mut self, is_parted: bool) {
        self.is_parted = is_parted;
    }

    /// A millisecond passes.
    pub fn step(&mut self) {
        self.now += TICK;
        self.deliver();
        self.survey();
        for node in 0..2 {
            self.tell(node);
            self.drive(node);
        }
    }

    /// Until it is `done`, or so long has passed; whether it is.
    pub fn run(&mut self, how_long: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + how_long;
        while self.now < until && !done(self) {
            self.step();
        }
        done(self)
    }

    /// How long it takes, from now, until both send directly; `None` when that is longer than `within`.
    pub fn reach(&mut self, within: Duration) -> Option<Duration> {
        let began = self.now;
        self.run(within, Self::is_direct)
            .then(|| self.now.saturating_duration_since(began))
    }

    /// Whether both send directly.
    pub fn is_direct(&self) -> bool {
        let mut routes = self.nodes.iter().map(|node| node.paths.route());
        routes.all(|route| route.direct.is_some())
    }

    /// What a node has found out of what stands before it.
    pub fn nat(&self, node: usize) -> Nat {
        self.nodes[node].survey.nat()
    }

    /// A free port, as systems give them.
    fn port(&mut self) -> u16 {
        let taken = |port: &u16| {
            let mut nodes = self.nodes.iter();
            nodes.any(|node| node.port_by_base.values().any(|other| other == port))
        };
        let mut port = 32_768 + u16::try_from(self.dice.below(28_000)).unwrap_or(0);
        while taken(&port) {
            port += 1;
        }
        port
    }

    fn change(&mut self, node: usize, change: SocketChange) {
        match change {
            SocketChange::Open(base) => {
                let port = self.port();
                self.nodes[node].port_by_base.insert(base, port);
            }
            SocketChange::Close(base) => {
                self.nodes[node].port_by_base.remove(&base);
            }
        }
        let sockets = self.nodes[node].sockets();
        self.nodes[node].most_sockets = self.nodes[node].most_sockets.max(sockets);
    }

    fn deliver(&mut self) {
        let now = self.now;
        while let Some(packet) = self.internet.receive(now) {
            let (from, to) = (packet.from, packet.to);
            if OBSERVERS.contains(&to.address) {
                if let Some(response) = reflect::respond(&packet.bytes, from, Load::default()) {
                    self.internet.send(now, to, from, response.to_vec());
                }
                continue;
            }
            let is_there =
                |node: &&mut Node| (node.network, node.ip) == (to.network, to.address.ip());
            let Some(node) = self.nodes.iter_mut().find(is_there) else {
                continue;
            };
            let mut sockets = node.port_by_base.iter();
            let Some((&base, _)) = sockets.find(|(_, port)| **port == to.address.port()) else {
                continue;
            };
            if let Some(reflection) = reflect::decode_response(&packet.bytes) {
                let Reflection {
                    transaction, seen, ..
                } = reflection;
                let survey = &mut node.survey;
                if !survey.handle_response(base, from, transaction, seen, now)
                    && node.observed.remove(&transaction) == Some(base)
                {
                    node.paths.handle_observed(base, seen, now);
                }
            } else {
                let way = Way { base, to: from };
                node.paths.handle_datagram(&packet.bytes, Some(way), now);
            }
        }
    }

    fn survey(&mut self) {
        let now = self.now;
        for node in 0..2 {
            let survey = &mut self.nodes[node].survey;
            if survey.is_over() && survey.nat().mapping == Mapping::Unknown {
                // Nobody has heard, or answered.
                *survey = Survey::new(&OBSERVERS, &mut self.dice.0, now);
            }
            if survey.poll_timeout().is_some_and(|due| due <= now) {
                survey.handle_timeout(now);
            }
            while let Some(change) = self.nodes[node].survey.poll_socket() {
                self.change(node, change);
            }
            while let Some((base, to, bytes)) = self.nodes[node].survey.poll_transmit() {
                self.send(node, base, to, bytes.to_vec());
            }
        }
    }

    /// The machine hears what is new.
    fn tell(&mut self, node: usize) {
        let now = self.now;
        let Node {
            paths,
            survey,
            ip,
            port_by_base,
            inbox,
            told,
            ..
        } = &mut self.nodes[node];
        let known = Some((survey.samples().len(), survey.nat()));
        if *told != known {
            *told = known;
            let host = port_by_base.get(&Base::MAIN).map(|port| Candidate {
                kind: Kind::Host,
                address: SocketAddr::new(*ip, *port),
            });
            let reflexive = survey.reflexive().map(|address| Candidate {
                kind: Kind::ServerReflexive,
                address,
            });
            let candidates = reflexive.into_iter().chain(host).collect();
            let own = Subnet {
                address: *ip,
                prefix: 24,
            };
            paths.handle_local(candidates, vec![own], now);
            paths.handle_nat(survey.nat(), now);
        }
        inbox.retain(|(at, named)| {
            if *at <= now {
                paths.handle_remote(named, now);
            }
            *at > now
        });
    }

    fn drive(&mut self, node: usize) {
        let now = self.now;
        let paths = &mut self.nodes[node].paths;
        if paths.poll_timeout().is_some_and(|due| due <= now) {
            paths.handle_timeout(now);
        }
        while let Some(change) = self.nodes[node].paths.poll_socket() {
            self.change(node, change);
        }
        while let Some(base) = self.nodes[node].paths.poll_observe() {
            let transaction = self.dice.draw();
            self.nodes[node].observed.insert(transaction, base);
            let request = reflect::request(transaction);
            self.send(node, base, OBSERVERS[0], request.to_vec());
        }
        while let Some(transmit) = self.nodes[node].paths.poll_transmit() {
            if let Some(way) = transmit.to
                && !self.is_parted
            {
                self.send(node, way.base, way.to, transmit.bytes());
            }
        }
        if let Some(named) = self.nodes[node].paths.poll_candidates() {
            self.nodes[1 - node].inbox.push((now + RELAYED, named));
        }
    }

    fn send(&mut self, node: usize, base: Base, to: SocketAddr, bytes: Vec<u8>) {
        let Node {
            network,
            ip,
            port_by_base,
            ..
        } = &self.nodes[node];
        if let Some(&port) = port_by_base.get(&base) {
            let from = Place {
                network: *network,
                address: SocketAddr::new(*ip, port),
            };
            self.internet.send(self.now, from, to, bytes);
        }
    }
}

/// A node's keys for the checks of a session; its secret is no secret.
pub fn keys(side: Side) -> Keys {
    let exported = Keys::export(SessionId(7), side, |out, _, _| {
        let half = out.len() / 2;
        out[..half].fill(1);
        out[half..].fill(2);
        Ok::<_, Infallible>(())
    });
    let Ok(keys) = exported;
    keys
}
