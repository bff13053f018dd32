//! Two nodes and everything that may stand between them, in virtual time.
#![expect(clippy::disallowed_methods, reason = "the one moment that is read")]

use std::{
    iter,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use remora_proto::{
    id::Side,
    path::{
        candidate::{Candidate, Hindrance, Kind, Named, Policy, Subnet},
        check,
        machine::{Moved, Paths, Route, WhyRelayed},
        way::Way,
    },
    sim::{
        edge,
        internet::{
            ADF, APDM_RANDOM, Behaviour, CORE, EIF, FIREWALL, HOME, Internet, NetworkId, Place,
            Ports, SHORT_LIVED,
        },
        nodes::keys,
    },
};

const PORT: u16 = 40_000;
/// Of each node's link, one way.
const LINK: Duration = Duration::from_millis(10);
/// Where nodes ask how they are seen.
const OBSERVER: &str = "198.51.100.1:4433";
/// From one node to the other through the relay, one way.
const RELAYED: Duration = Duration::from_millis(30);
const TICK: Duration = Duration::from_millis(1);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What stands between a node and the core, from the inside out.
#[derive(Clone, Debug)]
struct Edge(&'static str, Vec<Behaviour>);

fn edges() -> Vec<Edge> {
    vec![
        Edge("public", vec![]),
        Edge("firewall", vec![FIREWALL]),
        Edge("EIM/EIF", vec![EIF]),
        Edge("EIM/ADF", vec![ADF]),
        Edge("EIM/APDF", vec![HOME]),
        Edge(
            "CGN",
            vec![
                HOME,
                Behaviour {
                    ports: Ports::Random,
                    ..HOME
                },
            ],
        ),
        Edge("APDM random", vec![APDM_RANDOM]),
    ]
}

impl Edge {
    fn reaches(&self, other: &Self) -> bool {
        edge::reaches(&self.1, &other.1)
    }
}

struct Node {
    paths: Paths,
    at: Place,
    moves: Vec<(Duration, Moved)>,
    inbox: Vec<(Instant, Named)>,
}

struct World {
    /// Checks on their way through the relay: when they arrive, and at whom.
    relayed: Vec<(Instant, usize, Vec<u8>)>,
    is_relay_up: bool,
    epoch: Instant,
    now: Instant,
    internet: Internet,
    nodes: [Node; 2],
}

fn build(internet: &mut Internet, edge: &Edge, outer: &str) -> (NetworkId, IpAddr) {
    let mut network = CORE;
    for (depth, gateway) in edge.1.iter().rev().enumerate() {
        let address = if depth == 0 {
            ip(outer)
        } else {
            ip(&format!("100.64.{depth}.{}", 1 + outer.len()))
        };
        network = internet.gateway(network, address, *gateway);
    }
    let is_translated = edge.1.iter().any(|gateway| !gateway.is_firewall);
    // Homes have the same addresses inside, mostly.
    let own = if is_translated {
        ip(&format!("192.168.1.{}", 1 + edge.0.len()))
    } else {
        ip(outer)
    };
    (network, own)
}

impl World {
    fn new(a: &Edge, b: &Edge, seed: u64) -> Self {
        let epoch = Instant::now();
        let mut internet = Internet::new(epoch, seed);
        let observer: SocketAddr = OBSERVER.parse().expect("an address");
        internet.host(CORE, observer.ip(), Duration::from_millis(5));
        let sides = [
            (a, "203.0.113.1", Side::Host),
            (b, "203.0.113.22", Side::Joiner),
        ];
        let nodes = sides.map(|(edge, outer, side)| {
            let (network, own) = build(&mut internet, edge, outer);
            internet.host(network, own, LINK);
            let at = Place {
                network,
                address: SocketAddr::new(own, PORT),
            };
            let policy = Policy {
                forbidden: vec![observer],
                ..Policy::default()
            };
            Node {
                paths: Paths::new(keys(side), policy, epoch),
                at,
                moves: Vec::new(),
                inbox: Vec::new(),
            }
        });
        let mut world = Self {
            epoch,
            now: epoch,
            internet,
            nodes,
            relayed: Vec::new(),
            is_relay_up: true,
        };
        for node in 0..2 {
            world.gather(node);
        }
        world
    }

    /// Asks the observer, and tells the machine.
    fn gather(&mut self, node: usize) {
        let at = self.nodes[node].at;
        let observer: SocketAddr = OBSERVER.parse().expect("an address");
        let seen = self.internet.observe(self.now, at, observer);
        let own = Subnet {
            address: at.address.ip(),
            prefix: 24,
        };
        let mut candidates = vec![Candidate {
            kind: Kind::Host,
            address: at.address,
        }];
        candidates.extend(seen.map(|address| Candidate {
            kind: Kind::ServerReflexive,
            address,
        }));
        self.nodes[node]
            .paths
            .handle_local(candidates, vec![own], self.now);
    }

    fn step(&mut self) {
        self.now += TICK;
        let now = self.now;
        while let Some(packet) = self.internet.receive(now) {
            if let Some(node) = self.nodes.iter_mut().find(|node| node.at == packet.to) {
                node.paths
                    .handle_datagram(&packet.bytes, Some(Way::main(packet.from)), now);
            }
        }
        let arriving = self.relayed.extract_if(.., |(at, ..)| *at <= now);
        for (_, node, bytes) in arriving.filter(|_| self.is_relay_up) {
            self.nodes[node].paths.handle_datagram(&bytes, None, now);
        }
        for node in 0..2 {
            let Node {
                paths,
                at,
                moves,
                inbox,
            } = &mut self.nodes[node];
            inbox.retain(|(at, candidates)| {
                let is_there = *at <= now;
                if is_there {
                    paths.handle_remote(candidates, now);
                }
                !is_there
            });
            if paths.poll_timeout().is_some_and(|due| due <= now) {
                paths.handle_timeout(now);
            }
            while let Some(transmit) = paths.poll_transmit() {
                let (to, bytes) = (transmit.to, transmit.bytes());
                let Some(Way { to, .. }) = to else {
                    let arrives = (now + RELAYED, 1 - node, bytes.to_vec());
                    self.relayed.push(arrives);
                    continue;
                };
                self.internet.send(now, *at, to, bytes);
            }
            while let Some(moved) = paths.poll_move() {
                moves.push((now - self.epoch, moved));
            }
            if let Some(candidates) = paths.poll_candidates() {
                self.nodes[1 - node].inbox.push((now + RELAYED, candidates));
            }
        }
    }

    fn run(&mut self, how_long: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + how_long;
        while self.now < until {
            if done(self) {
                return true;
            }
            self.step();
        }
        done(self)
    }

    fn is_direct(&self) -> bool {
        self.nodes
            .iter()
            .all(|node| node.paths.route().direct.is_some())
    }

    fn elapsed(&self) -> Duration {
        self.now - self.epoch
    }
}

#[test]
fn t_p1_every_pair_gets_what_its_gateways_allow_and_soon() {
    for (n, a) in edges().iter().enumerate() {
        for b in &edges()[n..] {
            for seed in 0..5 {
                let name = format!("{} x {} ({seed})", a.0, b.0);
                let mut world = World::new(a, b, seed);
                let is_direct = world.run(Duration::from_secs(20), World::is_direct);
                assert_eq!(is_direct, a.reaches(b), "{name}");
                if is_direct {
                    assert!(
                        world.elapsed() <= Duration::from_millis(150),
                        "{name}: {:?}",
                        world.elapsed()
                    );
                } else {
                    for node in &world.nodes {
                        assert_eq!(
                            node.paths.why_relayed(world.now),
                            Some(WhyRelayed::Unreachable),
                            "{name}"
                        );
                        assert!(
                            node.paths.checks_sent() < 60,
                            "{name}: {}",
                            node.paths.checks_sent()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn with_loss_it_takes_longer_and_comes_about() {
    let home = Edge("EIM/APDF", vec![HOME]);
    for seed in 0..40 {
        let mut world = World::new(&home, &home, seed);
        world.internet.loss = 0.05;
        assert!(
            world.run(Duration::from_secs(2), World::is_direct),
            "{seed}"
        );
    }
}

#[test]
fn two_behind_one_nat_use_their_own_network() {
    let epoch = Instant::now();
    for hairpin in [false, true] {
        let mut world = World::new(&Edge("public", vec![]), &Edge("public", vec![]), 1);
        let mut internet = Internet::new(epoch, 2);
        internet.host(CORE, ip("198.51.100.1"), Duration::from_millis(5));
        let home = internet.gateway(CORE, ip("203.0.113.1"), Behaviour { hairpin, ..HOME });
        for (node, last) in world.nodes.iter_mut().zip([10, 11]) {
            let own = ip(&format!("192.168.1.{last}"));
            internet.host(home, own, Duration::from_millis(1));
            node.at = Place {
                network: home,
                address: SocketAddr::new(own, PORT),
            };
        }
        world.internet = internet;
        for node in 0..2 {
            world.gather(node);
        }
        assert!(world.run(Duration::from_secs(2), |world| {
            world.nodes.iter().all(|node| {
                let direct = node.paths.route().direct;
                direct
                    .is_some_and(|way| hairpin || way.to.ip().to_string().starts_with("192.168.1."))
            })
        }));
    }
}

#[test]
fn private_addresses_are_told_to_nobody_elsewhere() {
    let home = Edge("EIM/APDF", vec![HOME]);
    let mut world = World::new(&home, &home, 3);
    let mut told = Vec::new();
    for _ in 0..3000 {
        world.step();
        told.extend(world.nodes.iter().flat_map(|node| {
            node.inbox
                .iter()
                .flat_map(|(_, all)| all.candidates.clone())
        }));
    }
    assert!(
        !told.is_empty()
            && told
                .iter()
                .all(|candidate| candidate.kind == Kind::ServerReflexive),
        "{told:?}"
    );
}

#[test]
fn an_idle_path_keeps_its_mappings_for_ten_minutes() {
    let short = Edge("30 s", vec![SHORT_LIVED]);
    let mut world = World::new(&short, &short, 4);
    assert!(world.run(Duration::from_secs(2), World::is_direct));
    world.run(Duration::from_secs(600), |_| false);
    assert!(world.is_direct());
    for node in &world.nodes {
        assert_eq!(node.moves.len(), 1, "{:?}", node.moves);
        assert!(
            node.paths.checks_sent() < 120,
            "{}",
            node.paths.checks_sent()
        );
    }
}

#[test]
fn another_relay_is_asked_through_at_once_although_packets_go_directly() {
    let home = Edge("EIM/APDF", vec![HOME]);
    let asked = |is_another: bool| {
        let mut world = World::new(&home, &home, 6);
        assert!(world.run(Duration::from_secs(2), World::is_direct));
        let (mut now, mut through_the_relay) = (world.now, 0);
        let paths = &mut world.nodes[0].paths;
        if is_another {
            paths.handle_relay_changed(now);
        }
        // Not so long that a path counts as dark on which nothing is delivered here.
        for _ in 0..14 {
            paths.handle_timeout(now);
            let sent = iter::from_fn(|| paths.poll_transmit());
            through_the_relay += sent.filter(|transmit| transmit.to.is_none()).count();
            now += Duration::from_millis(100);
        }
        through_the_relay
    };
    assert_eq!(asked(false), 0);
    assert_eq!(asked(true), 5);
}

/// Sends on the chosen path, as a session does that is in use.
fn use_paths(world: &mut World) {
    let now = world.now;
    for node in &mut world.nodes {
        node.paths.handle_sent(now);
    }
}

#[test]
fn t_p3_a_path_that_goes_dark_is_left_within_two_seconds_and_taken_again() {
    let home = Edge("EIM/APDF", vec![HOME]);
    // Both ways, and one way: then both have to notice.
    for dead in [vec![0, 1], vec![0], vec![1]] {
        let mut world = World::new(&home, &home, 5);
        assert!(world.run(Duration::from_secs(2), World::is_direct));
        for _ in 0..1000 {
            use_paths(&mut world);
            world.step();
        }
        let since = world.now;
        let hosts = dead.iter().map(|node| world.nodes[*node].at);
        let hosts = hosts.map(|at| (at.network, at.address.ip())).collect();
        world.internet.mute(hosts);
        let mut doubled = None;
        while world
            .nodes
            .iter()
            .any(|node| node.paths.route().direct.is_some())
        {
            assert!(world.now - since < Duration::from_millis(2000), "{dead:?}");
            use_paths(&mut world);
            world.step();
            let is_doubled = world.nodes.iter().all(|node| {
                node.paths.route()
                    != Route {
                        direct: node.paths.route().direct,
                        is_doubled: false,
                    }
                    || node.paths.route().direct.is_none()
            });
            if is_doubled && doubled.is_none() {
                doubled = Some(world.now - since);
            }
        }
        assert!(
            doubled.is_some_and(|after| after < Duration::from_millis(1000)),
            "{dead:?} {doubled:?}"
        );
        for node in &world.nodes {
            assert_eq!(
                node.moves.last().map(|(_, moved)| *moved),
                Some(Moved::Relayed)
            );
            assert_eq!(
                node.paths.why_relayed(world.now),
                Some(WhyRelayed::WentDark)
            );
        }
        world.internet.mute(Vec::new());
        assert!(
            world.run(Duration::from_secs(40), World::is_direct),
            "again"
        );
    }
}

#[test]
fn a_path_on_which_only_checks_arrive_is_left_and_held_longer_each_time() {
    let home = Edge("EIM/APDF", vec![HOME]);
    let mut world = World::new(&home, &home, 7);
    let mut away = Vec::new();
    for _ in 0..4 {
        assert!(world.run(Duration::from_secs(60), World::is_direct));
        let now = world.now;
        for node in &mut world.nodes {
            node.paths.handle_unheard(now);
            assert_eq!(node.paths.route(), Route::default());
        }
        assert!(world.run(Duration::from_secs(60), World::is_direct));
        away.push((world.now - now).as_secs());
    }
    assert!(
        away[0] >= 2 && away.is_sorted() && away[3] >= 16,
        "{away:?}"
    );
}

#[test]
fn a_node_that_changes_its_network_is_found_again() {
    let home = Edge("EIM/APDF", vec![HOME]);
    let mut world = World::new(&home, &home, 6);
    assert!(world.run(Duration::from_secs(2), World::is_direct));
    for _ in 0..1000 {
        use_paths(&mut world);
        world.step();
    }
    let cellular = world.internet.gateway(CORE, ip("203.0.113.99"), HOME);
    let (from, to) = (world.nodes[1].at, ip("10.9.9.9"));
    world
        .internet
        .move_host((from.network, from.address.ip()), (cellular, to));
    world.nodes[1].at = Place {
        network: cellular,
        address: SocketAddr::new(to, PORT),
    };
    world.gather(1);
    let since = world.now;
    assert!(world.run(Duration::from_secs(3), |world| {
        let seen = world.nodes[0].paths.route().direct;
        world.is_direct() && seen.is_some_and(|way| way.to.ip() == ip("203.0.113.99"))
    }));
    assert!(
        world.now - since <= Duration::from_millis(2000),
        "{:?}",
        world.now - since
    );
}

#[test]
fn t_p2_a_shorter_path_is_taken_when_it_stays_shorter() {
    let now = Instant::now();
    let (mut node, mut peer) = (
        Paths::new(keys(Side::Host), Policy::default(), now),
        keys(Side::Joiner),
    );
    let [far, near] = ["203.0.113.7:1111", "203.0.113.8:1111"]
        .map(|at| at.parse::<SocketAddr>().expect("an address"));
    let candidates = [far, near].map(|address| Candidate {
        kind: Kind::Host,
        address,
    });
    node.handle_remote(&candidates[..].into(), now);
    let mut now = now;
    let mut arriving: Vec<(Instant, SocketAddr, Vec<u8>)> = Vec::new();
    let mut near_ms = 100;
    for ms in 0..20_000_u64 {
        now += TICK;
        if ms == 3000 {
            near_ms = 40;
        }
        node.handle_timeout(now);
        while let Some(transmit) = node.poll_transmit() {
            let (to, bytes) = (transmit.to, transmit.bytes());
            let Some((of, _)) = peer.open(&bytes) else {
                continue;
            };
            let Some(Way { to, .. }) = to else { continue };
            let rtt = if to == far { 60 } else { near_ms };
            let (_, answer) = peer.seal(check::Saying::Answer { of, seen: far });
            arriving.push((now + Duration::from_millis(rtt), to, answer.to_vec()));
        }
        arriving.retain(|(at, from, bytes)| {
            let is_there = *at <= now;
            if is_there {
                node.handle_datagram(bytes, Some(Way::main(*from)), now);
            }
            !is_there
        });
        if ms == 2900 {
            let way = node.route().direct;
            assert_eq!(way, Some(Way::main(far)), "the shorter one, as it is");
        }
    }
    assert_eq!(node.route().direct, Some(Way::main(near)));
    let moves = iter::from_fn(|| node.poll_move()).count();
    assert_eq!(moves, 2, "to one, and to the other");
}

#[test]
fn one_wish_takes_both_off_the_direct_path_and_back_and_a_path_that_died_meanwhile_is_not_taken() {
    let home = Edge("EIM/APDF", vec![HOME]);
    let mut world = World::new(&home, &home, 8);
    assert!(world.run(Duration::from_secs(2), World::is_direct));
    let is_relayed = |world: &World| {
        let mut nodes = world.nodes.iter();
        nodes.all(|node| node.paths.route() == Route::default())
    };
    for who in [0, 1] {
        let now = world.now;
        world.nodes[who].paths.handle_wish(true, now);
        // The other side hears of it, and asks whether the relay carries anything, a tenth of a second after its last question.
        let asked = 3 * RELAYED + Duration::from_millis(105);
        assert!(world.run(asked, is_relayed), "at once");
        assert!(!world.run(Duration::from_secs(600), World::is_direct));
        // Each knows whose wish it is.
        for node in 0..2 {
            let whose = if node == who {
                WhyRelayed::PolicyRelayOnly
            } else {
                WhyRelayed::PeerRelayOnly
            };
            let paths = &world.nodes[node].paths;
            assert_eq!(paths.why_relayed(world.now), Some(whose));
            assert_eq!(paths.is_relay_wanted_by_peer(), node != who);
        }
        let now = world.now;
        world.nodes[who].paths.handle_wish(false, now);
        assert!(
            world.run(Duration::from_millis(150), World::is_direct),
            "at once"
        );
    }
    // Both want it: it takes both to come back.
    for who in [0, 1] {
        let now = world.now;
        world.nodes[who].paths.handle_wish(true, now);
    }
    assert!(world.run(2 * RELAYED + Duration::from_millis(105), is_relayed));
    let now = world.now;
    world.nodes[0].paths.handle_wish(false, now);
    assert!(!world.run(Duration::from_secs(5), World::is_direct));
    let hosts = world.nodes.iter().map(|node| node.at);
    let hosts = hosts.map(|at| (at.network, at.address.ip())).collect();
    world.internet.mute(hosts);
    let now = world.now;
    world.nodes[1].paths.handle_wish(false, now);
    assert!(!world.run(Duration::from_secs(5), |world| !is_relayed(world)));
    world.internet.mute(Vec::new());
    assert!(world.run(Duration::from_secs(40), World::is_direct));
}

#[test]
fn a_wish_for_a_relay_that_is_gone_takes_nobody_off_a_path_that_works() {
    let home = Edge("EIM/APDF", vec![HOME]);
    let mut world = World::new(&home, &home, 8);
    assert!(world.run(Duration::from_secs(2), World::is_direct));
    let is_relayed = |world: &World| {
        let mut nodes = world.nodes.iter();
        nodes.any(|node| node.paths.route() == Route::default())
    };
    world.is_relay_up = false;
    let now = world.now;
    world.nodes[0].paths.handle_wish(true, now);
    assert!(
        !world.run(Duration::from_secs(60), is_relayed),
        "none there"
    );
    world.is_relay_up = true;
    assert!(world.run(Duration::from_secs(1), is_relayed), "as wished");
    assert!(!world.run(Duration::from_secs(60), World::is_direct));
    world.is_relay_up = false;
    assert!(world.run(Duration::from_secs(3), World::is_direct), "gone");
    assert!(!world.run(Duration::from_secs(60), is_relayed));
}

#[test]
fn who_wants_no_direct_path_gets_none_and_says_nothing() {
    let now = Instant::now();
    let policy = Policy {
        relay_only: true,
        ..Policy::default()
    };
    let mut node = Paths::new(keys(Side::Host), policy, now);
    let candidate = Candidate {
        kind: Kind::Host,
        address: "203.0.113.7:1111".parse().expect("an address"),
    };
    node.handle_local(vec![candidate], Vec::new(), now);
    node.handle_remote(&[candidate][..].into(), now);
    let (_, question) = keys(Side::Joiner).seal(check::Saying::Question);
    node.handle_datagram(&question, Some(Way::main(candidate.address)), now);
    node.handle_timeout(now);
    assert_eq!(
        (
            node.poll_transmit(),
            node.poll_candidates(),
            node.poll_timeout()
        ),
        (None, None, None)
    );
    assert_eq!(node.why_relayed(now), Some(WhyRelayed::PolicyRelayOnly));
}

#[test]
fn whoever_cannot_be_reached_directly_says_why_and_the_other_knows_it() {
    let home = Edge("EIM/APDF", vec![HOME]);
    let mut world = World::new(&home, &home, 9);
    assert!(world.run(Duration::from_secs(2), World::is_direct));
    // Its network lets no UDP through any more.
    let hosts = world.nodes.iter().map(|node| node.at);
    let hosts = hosts.map(|at| (at.network, at.address.ip())).collect();
    world.internet.mute(hosts);
    world.nodes[0].paths.handle_udp_blocked(true);
    world.run(Duration::from_secs(5), |_| false);
    let why = |world: &World| world.nodes[1].paths.why_relayed(world.now);
    assert_eq!(why(&world), Some(WhyRelayed::PeerUdpBlocked));
    world.nodes[0].paths.handle_udp_blocked(false);
    world.run(Duration::from_secs(1), |_| false);
    assert_eq!(why(&world), Some(WhyRelayed::WentDark));

    let now = Instant::now();
    let mut node = Paths::new(keys(Side::Host), Policy::default(), now);
    let named = Named {
        hindrance: Some(Hindrance::RelayOnly),
        ..Named::default()
    };
    node.handle_remote(&named, now);
    assert_eq!(node.why_relayed(now), Some(WhyRelayed::PeerRelayOnly));
}

#[test]
fn whoever_asks_hears_what_the_way_of_the_moment_takes() {
    let home = Edge("EIM/APDF", vec![HOME]);
    let mut world = World::new(&home, &home, 10);
    let asks = |world: &mut World, node: usize| {
        let now = world.now;
        world.nodes[node].paths.handle_ping(now);
        world.run(Duration::from_millis(200), |_| false);
        let pongs = iter::from_fn(|| world.nodes[node].paths.poll_pong());
        pongs.collect::<Vec<_>>()
    };
    world.nodes[0].paths.handle_wish(true, world.epoch);
    world.run(Duration::from_millis(300), |_| false);
    for node in [0, 1] {
        let [pong] = asks(&mut world, node)[..] else {
            panic!("one question, one answer")
        };
        assert_eq!(pong.direct, None);
        let [least, most] = [0, 2].map(|ticks| 2 * RELAYED + ticks * TICK);
        assert!((least..=most).contains(&pong.rtt), "{:?}", pong.rtt);
    }
    let now = world.now;
    world.nodes[0].paths.handle_wish(false, now);
    assert!(world.run(Duration::from_secs(2), World::is_direct));
    for node in [0, 1] {
        let [pong] = asks(&mut world, node)[..] else {
            panic!("one question, one answer")
        };
        assert_eq!(pong.direct, world.nodes[node].paths.route().direct);
        assert!(pong.rtt < 2 * RELAYED, "{:?}", pong.rtt);
    }
    // Where nothing comes back there is no answer; and however often one asks, it is no storm.
    world.is_relay_up = false;
    let hosts = world.nodes.iter().map(|node| node.at);
    let hosts = hosts.map(|at| (at.network, at.address.ip())).collect();
    world.internet.mute(hosts);
    assert_eq!(asks(&mut world, 0), []);
    let (now, before) = (world.now, world.nodes[0].paths.checks_sent());
    for _ in 0..1000 {
        world.nodes[0].paths.handle_ping(now);
    }
    assert!(world.nodes[0].paths.checks_sent() - before <= 60);
}

#[test]
fn who_wants_the_relay_only_can_be_measured_through_it() {
    let now = Instant::now();
    let policy = Policy {
        relay_only: true,
        ..Policy::default()
    };
    let mut asked = Paths::new(keys(Side::Host), policy, now);
    let mut asks = Paths::new(keys(Side::Joiner), Policy::default(), now);
    asks.handle_ping(now);
    let question = asks.poll_transmit().expect("a question");
    asked.handle_datagram(&question.bytes(), None, now);
    let answer = asked.poll_transmit().expect("an answer");
    assert_eq!(answer.to, None, "and by no other way");
    let later = now + Duration::from_millis(31);
    asks.handle_datagram(&answer.bytes(), None, later);
    let rtt = asks.poll_pong().map(|pong| pong.rtt);
    assert_eq!(rtt, Some(Duration::from_millis(31)));
    // The same answer again is none.
    asks.handle_datagram(&answer.bytes(), None, later);
    assert_eq!(asks.poll_pong(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever hears everything and can send anything from anywhere, but has no key, makes no path and takes none away.
    #[test]
    fn an_attacker_moves_nothing(seed in any::<u64>(), choices in prop::collection::vec((any::<u8>(), any::<u16>()), 200)) {
        let home = Edge("EIM/EIF", vec![EIF]);
        let mut world = World::new(&home, &home, seed);
        let evil: SocketAddr = "203.0.113.66:6666".parse().expect("an address");
        let mut heard: Vec<Vec<u8>> = Vec::new();
        world.run(Duration::from_millis(400), |_| false);
        prop_assert!(world.is_direct());
        let before = [0, 1].map(|node: usize| world.nodes[node].paths.route());
        for (what, how) in choices {
            let now = world.now;
            for node in 0..2 {
                // Everything the node says goes its way, and is heard.
                world.nodes[node].paths.handle_sent(now);
                world.nodes[node].paths.handle_timeout(now);
                let at = world.nodes[node].at;
                while let Some(transmit) = world.nodes[node].paths.poll_transmit() {
                    let (to, bytes) = (transmit.to, transmit.bytes());
                    let Some(Way { to, .. }) = to else { continue };
                    heard.push(bytes.clone());
                    world.internet.send(now, at, to, bytes);
                }
            }
            world.run(Duration::from_millis(25), |_| false);
            let Some(caught) = heard.get(usize::from(how) % heard.len().max(1)).cloned() else { continue };
            let mut forged = caught.clone();
            if what & 1 == 1 {
                let at = usize::from(how) % (forged.len() * 8);
                forged[at / 8] ^= 1 << (at % 8);
            }
            let from = if what & 2 == 2 { evil } else { "203.0.113.1:40000".parse().expect("an address") };
            let now = world.now;
            let node = &mut world.nodes[usize::from(what >> 2 & 1)];
            node.paths.handle_datagram(&forged, Some(Way::main(from)), now);
        }
        for (node, before) in world.nodes.iter().zip(before) {
            prop_assert_eq!(node.paths.route(), before);
            prop_assert!(node.paths.trusted(world.now).all(|trusted| trusted.to != evil));
            prop_assert_eq!(node.moves.len(), 1);
        }
    }

    /// Whatever the other side names: only hosts are probed, and within the budget.
    #[test]
    fn a_peer_cannot_make_a_flood(addresses in prop::collection::vec((any::<[u8; 4]>(), any::<u16>()), 0..60)) {
        let start = Instant::now();
        let policy = Policy::default();
        let mut node = Paths::new(keys(Side::Host), policy.clone(), start);
        let mut now = start;
        let mut sent = 0_u64;
        for chunk in addresses.chunks(3) {
            let all: Vec<_> = chunk
                .iter()
                .map(|(ip, port)| Candidate { kind: Kind::Host, address: SocketAddr::from((*ip, *port)) })
                .collect();
            node.handle_remote(&all[..].into(), now);
            for _ in 0..100 {
                now += TICK;
                node.handle_timeout(now);
                while let Some(transmit) = node.poll_transmit() {
                    let to = transmit.to;
                    prop_assert!(to.is_some_and(|way| policy.allows(way.to, &[])));
                    sent += 1;
                }
            }
        }
        let seconds = (now - start).as_secs_f64();
        prop_assert!(sent as f64 <= 10.0 + 50.0 * seconds, "{sent} in {seconds} s");
    }
}
