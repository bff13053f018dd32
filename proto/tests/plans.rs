//! Two nodes behind NATs that checks alone do not get through, in virtual time: 20 ms apart, 30 ms through the relay.
#![expect(clippy::disallowed_methods, reason = "the one moment that is read")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use remora_proto::{
    id::Side,
    path::{
        candidate::{Attempt, Candidate, Kind, Named, Policy},
        check::{self, Saying},
        machine::{Paths, WhyRelayed},
        nat::{Allocation, Mapping, Nat},
        survey::Survey,
        way::{Base, SocketChange, Way},
    },
    random::Random,
    sim::{
        edge::{self, Reach},
        internet::{
            ADF, APDM_BLOCK, APDM_RANDOM, APDM_SEQUENTIAL, APDM_WIDE_BLOCK, Behaviour, EIF,
            FIREWALL, HOME, Ports,
        },
        nodes::{World, keys},
    },
    wire::reflect::{self, Load},
};

/// Ports in turn, of which others take some.
const fn busy(others_per_s: u16) -> Behaviour {
    Behaviour {
        ports: Ports::Sequential(others_per_s),
        ..APDM_SEQUENTIAL
    }
}

const HARD: [(&str, Behaviour); 6] = [
    ("sequential", APDM_SEQUENTIAL),
    ("sequential, 20/s", busy(20)),
    ("sequential, 100/s", busy(100)),
    ("block of 512", APDM_BLOCK),
    ("block of 4096", APDM_WIDE_BLOCK),
    ("random", APDM_RANDOM),
];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A cell of the matrix, and what is asked of it.
struct Cell {
    name: String,
    edges: [Behaviour; 2],
    /// Of a hundred.
    direct: usize,
    median: Duration,
    within: Duration,
}

impl Cell {
    /// Many times: how often and how soon both send directly, and that it takes no more than was foretold.
    fn holds(&self, loss: f64, runs: u64) {
        let [a, b] = self.edges;
        let name = format!("{}, {loss} lost", self.name);
        let reach = Reach::between(&[a], &[b]);
        let mut times = Vec::new();
        for seed in 0..runs {
            let mut world = World::new([&[a], &[b]], loss, Instant::now(), seed);
            times.extend(world.reach(self.within));
            for node in &world.nodes {
                let sent = node.paths.checks_sent();
                assert!(sent <= u64::from(reach.checks()), "{name} ({seed}): {sent}");
            }
        }
        times.sort();
        let direct = times.len() * 100;
        let runs = usize::try_from(runs).expect("few");
        assert!(direct >= self.direct * runs, "{name}: {}", times.len());
        let median = times[times.len() / 2];
        assert!(median <= self.median, "{name}: {median:?}");
    }
}

/// What issue 5 asks for, from when the first of both knows of the other.
fn planned() -> Vec<Cell> {
    let against_easy = HARD.into_iter().flat_map(|(name, hard)| {
        let (direct, median, within) = match hard.ports {
            Ports::Random => (98, ms(1500), ms(10_000)),
            Ports::Sequential(_) | Ports::Block(_) | Ports::Preserved => (98, ms(300), ms(10_000)),
        };
        [("EIM/APDF", HOME), ("firewall", FIREWALL)].map(|(easy_name, easy)| Cell {
            name: format!("{name} x {easy_name}"),
            edges: [easy, hard],
            direct,
            median,
            within,
        })
    });
    let both = [("0/s", APDM_SEQUENTIAL), ("10/s", busy(10))].map(|(name, other)| Cell {
        name: format!("sequential x sequential, {name}"),
        edges: [APDM_SEQUENTIAL, other],
        direct: 90,
        median: ms(500),
        within: ms(10_000),
    });
    against_easy.chain(both).collect()
}

#[test]
fn what_checks_alone_do_not_reach_is_reached_by_plan_and_soon() {
    for cell in planned() {
        let [a, b] = cell.edges;
        assert!(
            matches!(Reach::between(&[a], &[b]), Reach::Plan(_)),
            "{}",
            cell.name
        );
        cell.holds(0.0, 100);
    }
}

#[test]
fn with_loss_too() {
    for cell in planned() {
        cell.holds(0.05, 50);
    }
}

#[test]
fn where_checks_do_no_plan_gets_in_their_way() {
    for (name, hard) in HARD {
        for easy in [EIF, ADF] {
            for seed in 0..5 {
                let mut world = World::new([&[hard], &[easy]], 0.0, Instant::now(), seed);
                assert_eq!(Reach::between(&[hard], &[easy]), Reach::Checks);
                let time = world.reach(ms(10_000));
                // With the 30 ms until they know of each other.
                assert!(time.is_some_and(|time| time <= ms(130)), "{name}: {time:?}");
                world.run(ms(5_000), |_| false);
                for node in &world.nodes {
                    assert_eq!(node.most_sockets, 0, "{name}");
                }
            }
        }
    }
}

#[test]
fn what_a_survey_finds_is_what_stands_there() {
    for seed in 0..40 {
        for [a, b] in [
            [APDM_SEQUENTIAL, HOME],
            [busy(100), FIREWALL],
            [APDM_RANDOM, EIF],
        ] {
            let world = World::new([&[a], &[b]], 0.05, Instant::now(), seed);
            for (node, edge) in [a, b].into_iter().enumerate() {
                assert_eq!(world.nat(node), edge::nat(&[edge]), "{seed}");
            }
        }
        let world = World::new(
            [&[APDM_BLOCK], &[APDM_WIDE_BLOCK]],
            0.05,
            Instant::now(),
            seed,
        );
        for (node, most) in [(0, 1024), (1, 6000)] {
            let Some(Allocation::Block { size, .. }) = world.nat(node).allocation() else {
                panic!("{seed}: {:?}", world.nat(node));
            };
            assert!((most / 8..=most).contains(&size), "{seed}: {size}");
        }
    }
}

#[test]
fn what_needs_too_many_checks_is_relayed_and_says_so() {
    let random = ("random", APDM_RANDOM);
    for (a, b) in [
        (random, random),
        (random, HARD[0]),
        (random, HARD[3]),
        (HARD[0], HARD[4]),
    ] {
        let mut world = World::new([&[a.1], &[b.1]], 0.0, Instant::now(), 1);
        let reach = Reach::between(&[a.1], &[b.1]);
        assert_eq!(reach, Reach::Relay);
        assert_eq!(world.reach(ms(10_000)), None);
        for node in &world.nodes {
            let why = node.paths.why_relayed(world.now);
            assert_eq!(why, Some(WhyRelayed::BothSymmetric), "{} x {}", a.0, b.0);
            assert!(node.paths.checks_sent() <= u64::from(reach.checks()));
            assert_eq!(node.most_sockets, 0);
        }
    }
}

#[test]
fn a_plan_that_fails_is_given_up_within_its_budget_and_tried_again_seldom() {
    for (a, b, why) in [
        (APDM_RANDOM, HOME, WhyRelayed::SymmetricVsRestricted),
        (APDM_BLOCK, FIREWALL, WhyRelayed::SymmetricVsRestricted),
        (APDM_SEQUENTIAL, HOME, WhyRelayed::SymmetricVsRestricted),
        (APDM_SEQUENTIAL, APDM_SEQUENTIAL, WhyRelayed::BothSymmetric),
    ] {
        let mut world = World::new([&[a], &[b]], 0.0, Instant::now(), 1);
        let reach = Reach::between(&[a], &[b]);
        // Nodes reach their relay, and not each other.
        world.part(true);
        assert_eq!(world.reach(ms(500)), None);
        let is_probing = |world: &World| {
            let why = world
                .nodes
                .iter()
                .map(|node| node.paths.why_relayed(world.now));
            { why }.all(|why| why == Some(WhyRelayed::Probing))
        };
        assert!(is_probing(&world), "{why:?}");
        assert_eq!(world.reach(ms(11_500)), None);
        let sent: Vec<_> = world
            .nodes
            .iter()
            .map(|node| node.paths.checks_sent())
            .collect();
        for (node, sent) in world.nodes.iter().zip(&sent) {
            assert_eq!(node.paths.why_relayed(world.now), Some(why));
            assert!(*sent <= u64::from(reach.checks()), "{why:?}: {sent}");
            assert_eq!(node.sockets(), 0, "{why:?}");
        }
        world.run(ms(600_000), |_| false);
        for node in &world.nodes {
            let sent = node.paths.checks_sent();
            assert!(sent <= 2 * 4096 + 400, "{why:?}: {sent}");
        }
        // Nobody has told that they do now.
        world.part(false);
        let time = world.reach(ms(700_000));
        assert!(time.is_some(), "{why:?}");
    }
}

#[test]
fn what_was_not_hit_is_closed_at_once_and_what_was_stays_for_ten_minutes() {
    for (name, hard) in HARD {
        let mut world = World::new([&[HOME], &[hard]], 0.0, Instant::now(), 2);
        assert!(world.reach(ms(10_000)).is_some(), "{name}");
        world.run(ms(100), |_| false);
        assert!((1..=3).contains(&world.nodes[1].sockets()), "{name}");
        assert_eq!(world.nodes[0].sockets(), 0, "{name}");
        let sent = world.nodes.each_ref().map(|node| node.paths.checks_sent());
        world.run(ms(600_000), |_| false);
        assert!(world.is_direct(), "{name}");
        for (node, sent) in world.nodes.iter().zip(sent) {
            assert!(node.sockets() <= 2, "{name}");
            let since = node.paths.checks_sent() - sent;
            assert!(since < 120, "{name}: {since}");
        }
    }
}

#[test]
fn who_moves_behind_a_hard_nat_is_found_again() {
    for (name, hard) in HARD {
        let mut world = World::new([&[HOME], &[HOME]], 0.0, Instant::now(), 3);
        assert!(world.reach(ms(1000)).is_some());
        let before = world.nodes[0].paths.route();
        world.move_to(1, &[hard]);
        let is_found = |world: &World| {
            let route = world.nodes[0].paths.route();
            world.is_direct() && route != before
        };
        assert!(world.run(ms(12_000), is_found), "{name}");
    }
}

#[test]
fn a_survey_asks_again_and_gives_up() {
    let start = Instant::now();
    let observers = [1, 2, 3, 4].map(|port| SocketAddr::from(([198, 51, 100, 1], port)));
    let mut survey = Survey::new(&observers, &mut Random::seeded(1), start);
    let mut asked = Vec::new();
    let mut now = start;
    while let Some(due) = survey.poll_timeout() {
        while let Some((base, to, bytes)) = survey.poll_transmit() {
            assert_eq!(base, Base::MAIN);
            // The first answers the second time.
            let seen = SocketAddr::from(([203, 0, 113, 1], 5000));
            let answer = reflect::respond(&bytes, seen, Load::default()).expect("a request");
            let reflection = reflect::decode_response(&answer).expect("a response");
            let (transaction, seen) = (reflection.transaction, reflection.seen);
            if to == observers[0] && now > start {
                assert!(!survey.handle_response(base, observers[1], transaction, seen, now));
                assert!(survey.handle_response(base, to, transaction, seen, now));
            }
            asked.push(to);
        }
        now = due;
        survey.handle_timeout(now);
    }
    let times = |to| asked.iter().filter(|asked| **asked == to).count();
    assert_eq!(observers.map(times), [2, 4, 4, 0]);
    assert!(survey.is_over() && now - start <= ms(1500));
    assert_eq!(survey.nat().mapping, Mapping::Unknown, "one is not enough");
    assert!(survey.reflexive().is_some());
}

fn mapping() -> impl Strategy<Value = Mapping> {
    let block = (any::<u16>(), 1..10_000_u16).prop_map(|(first, size)| Allocation::Block {
        first,
        size: size.min(u16::MAX - first).max(1),
    });
    let allocation = prop_oneof![
        (1..=32_u16).prop_map(|step| Allocation::Sequential { step }),
        block,
        Just(Allocation::Random)
    ];
    prop_oneof![
        Just(Mapping::Unknown),
        Just(Mapping::Independent),
        allocation.prop_map(Mapping::Dependent)
    ]
}

fn edge() -> impl Strategy<Value = Behaviour> {
    let hard = HARD.map(|(_, hard)| hard);
    prop::sample::select([&[EIF, ADF, HOME, FIREWALL][..], &hard].concat())
}

#[derive(Clone, Debug)]
enum Operation {
    Move(usize, Behaviour),
    Mute(Vec<usize>),
    Lose(f64),
    Wait(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (0..2_usize, edge()).prop_map(|(node, edge)| Operation::Move(node, edge)),
        prop::sample::subsequence(vec![0, 1], 0..=2).prop_map(Operation::Mute),
        (0.0..0.5).prop_map(Operation::Lose),
        (0..4000_u64).prop_map(Operation::Wait),
    ]
}

/// But for where a block is, and how large.
fn is_alike(one: Nat, other: Nat) -> bool {
    let is_block = |nat: Nat| matches!(nat.allocation(), Some(Allocation::Block { .. }));
    one == other || (is_block(one) && is_block(other))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever becomes of networks: nobody sends into the dark for long, and what can be reached is in the end.
    #[test]
    fn whatever_happens_there_is_a_path(
        first in edge(), second in edge(), seed: u64, operations in prop::collection::vec(operation(), 0..6),
    ) {
        let mut edges = [first, second];
        let mut world = World::new([&[first], &[second]], 0.0, Instant::now(), seed);
        let mut muted = Vec::new();
        for operation in operations {
            match operation {
                Operation::Move(node, edge) => {
                    edges[node] = edge;
                    world.move_to(node, &[edge]);
                    world.mute(&muted);
                }
                Operation::Mute(nodes) => {
                    world.mute(&nodes);
                    muted = nodes;
                }
                Operation::Lose(loss) => world.internet.loss = loss,
                Operation::Wait(wait) => {
                    for _ in 0..wait {
                        let now = world.now;
                        world.nodes.iter_mut().for_each(|node| node.paths.handle_sent(now));
                        world.step();
                    }
                }
            }
            if !muted.is_empty() {
                for _ in 0..2500 {
                    let now = world.now;
                    world.nodes.iter_mut().for_each(|node| node.paths.handle_sent(now));
                    world.step();
                }
                for node in &world.nodes {
                    let route = node.paths.route();
                    prop_assert!(route.direct.is_none() || route.is_doubled, "{route:?}");
                }
            }
        }
        world.internet.loss = 0.0;
        world.mute(&[]);
        // Who has been asked while packets were lost may be taken for something else; a plan whose budget is spent takes longer.
        world.run(ms(3000), |_| false);
        let is_known = (0..2).all(|node| is_alike(world.nat(node), edge::nat(&edges[node..=node])));
        match Reach::between(&edges[..1], &edges[1..]) {
            Reach::Checks => prop_assert!(world.reach(ms(60_000)).is_some()),
            Reach::Plan(plan) => prop_assert!(!is_known || world.reach(ms(900_000)).is_some(), "{plan:?}"),
            Reach::Relay => prop_assert_eq!(world.reach(ms(30_000)), None),
        }
    }

    /// Whatever the other side says of itself: nothing goes where it may not, nor more than the budget, nor faster.
    #[test]
    fn a_peer_cannot_make_a_storm(
        nat in mapping(), peers in prop::collection::vec(
            (mapping(), any::<[u8; 4]>(), any::<u16>(), any::<(u32, u16)>(), 0..1500_u64), 1..60,
        ),
    ) {
        let start = Instant::now();
        let policy = Policy::default();
        let mut node = Paths::new(keys(Side::Host), policy.clone(), start);
        node.handle_nat(Nat { mapping: nat }, start);
        let (mut now, mut sent, mut open, mut lately) = (start, 0_u64, 0_usize, Vec::new());
        for (mapping, ip, port, (number, attempt_port), wait) in peers {
            let candidate = |kind, port| Candidate { kind, address: SocketAddr::from((ip, port)) };
            let named = Named {
                candidates: vec![candidate(Kind::ServerReflexive, port), candidate(Kind::Host, port)],
                nat: Nat { mapping },
                attempt: Some(Attempt { number, port: attempt_port }),
                relayed: number % 4 == 0,
                hindrance: None,
            };
            node.handle_remote(&named, now);
            for _ in 0..wait {
                now += ms(1);
                node.handle_timeout(now);
                while let Some(change) = node.poll_socket() {
                    match change {
                        SocketChange::Open(_) => open += 1,
                        SocketChange::Close(_) => open -= 1,
                    }
                }
                while let Some(base) = node.poll_observe() {
                    node.handle_observed(base, SocketAddr::from(([203, 0, 113, 1], 1)), now);
                }
                while let Some(transmit) = node.poll_transmit() {
                    // Through the relay, by the peer's wish: to nobody else.
                    let is_allowed = transmit.to.is_none_or(|way| policy.allows(way.to, &[]));
                    prop_assert!(is_allowed);
                    sent += 1;
                    lately.push(now);
                }
                lately.retain(|at| now - *at < ms(100));
                prop_assert!(lately.len() <= 130, "{} in 100 ms", lately.len());
                prop_assert!(open <= 257, "{open} sockets");
                node.poll_candidates();
            }
        }
        let seconds = (now - start).as_secs_f64();
        prop_assert!(sent as f64 <= 4096.0 + 10.0 + (50.0 + 7.0 + 10.0) * seconds, "{sent} in {seconds} s");
    }

    /// Whoever has the key and answers everything from everywhere makes few ways of it.
    #[test]
    fn hits_are_few(from in prop::collection::vec((0..300_u16, any::<u16>(), any::<bool>()), 0..200)) {
        let start = Instant::now();
        let mut node = Paths::new(keys(Side::Host), Policy::default(), start);
        let mut peer = keys(Side::Joiner);
        node.handle_nat(Nat { mapping: Mapping::Dependent(Allocation::Random) }, start);
        let address: SocketAddr = "203.0.113.7:7000".parse().expect("an address");
        let candidates = vec![Candidate { kind: Kind::ServerReflexive, address }];
        let nat = Nat { mapping: Mapping::Independent };
        node.handle_remote(&Named { candidates, nat, ..Named::default() }, start);
        for (base, port, is_question) in from {
            let to = SocketAddr::new(address.ip(), port);
            let answer = Saying::Answer { of: 1, seen: address };
            let (_, bytes) = peer.seal(if is_question { Saying::Question } else { answer });
            node.handle_datagram(&bytes, Some(Way { base: Base(base), to }), start);
        }
        prop_assert!(node.trusted(start).count() <= 4);
        let answers = std::iter::from_fn(|| node.poll_transmit());
        prop_assert!(answers.filter(|answer| answer.length == check::LEN).count() <= 10);
    }
}

#[test]
fn gateways_in_a_row_are_seen_as_the_outermost_gives_ports() {
    let nat = |gateways: &[Behaviour]| edge::nat(gateways).mapping;
    assert_eq!(nat(&[]), Mapping::Independent);
    assert_eq!(nat(&[HOME, HOME]), Mapping::Independent);
    let sequential = Mapping::Dependent(Allocation::Sequential { step: 1 });
    assert_eq!(nat(&[APDM_RANDOM, APDM_SEQUENTIAL]), sequential);
    assert_eq!(nat(&[APDM_SEQUENTIAL, HOME]), sequential);
}
