use proptest::prelude::*;

use super::*;
use crate::random::Random;

fn relay(number: usize) -> RelayId {
    RelayId([u8::try_from(number).expect("few"); 32])
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[expect(clippy::disallowed_methods, reason = "the one look at a clock")]
fn epoch() -> Instant {
    Instant::now()
}

/// Between two measurements of the session's way.
const PINGS: Duration = Duration::from_secs(5);
/// From one side to the other.
const DELAY: Duration = Duration::from_millis(50);
/// Until a move that is wanted has been made.
const MOVE: Duration = Duration::from_millis(300);

#[derive(Debug)]
enum Event {
    Ping,
    Measured(usize),
    Told(usize, Vec<Usable>),
    Moved(RelayId),
}

/// Two sides, some relays, and how far they are apart.
struct World {
    now: Instant,
    began: Instant,
    serial: u64,
    events: BTreeMap<(Instant, u64), Event>,
    sides: [Meeting; 2],
    /// There and back, of each side to each relay; `None`: no answer.
    rtts: [Vec<Option<Duration>>; 2],
    /// Where the session goes, and how much longer that is than the halves: the bridge.
    current: RelayId,
    bridge: Duration,
    /// What may come on top of a measurement, in thousandths of it, and sometimes this; never twice in a row of the same.
    noise: u32,
    spike: Duration,
    spiked: BTreeMap<(usize, Option<usize>), bool>,
    /// Where nobody can meet.
    stopped: Option<RelayId>,
    random: Random,
    moves: Vec<(Duration, RelayId)>,
    wanted: usize,
    told: usize,
}

impl World {
    fn new(rtts_ms: [&[u64]; 2], seed: u64) -> Self {
        let now = epoch();
        let rtts = rtts_ms.map(|rtts| rtts.iter().map(|rtt| Some(ms(*rtt))).collect());
        let mut world = Self {
            now,
            began: now,
            serial: 0,
            events: BTreeMap::new(),
            sides: [Side::Host, Side::Joiner].map(|side| Meeting::new(side, relay(0), now)),
            rtts,
            current: relay(0),
            bridge: Duration::ZERO,
            noise: 0,
            spike: Duration::ZERO,
            spiked: BTreeMap::new(),
            stopped: None,
            random: Random::seeded(seed),
            moves: Vec::new(),
            wanted: 0,
            told: 0,
        };
        let common: Vec<_> = (0..rtts_ms[0].len()).map(relay).collect();
        for side in &mut world.sides {
            side.handle_agreed(common.clone(), &[], false);
        }
        world.later(PINGS, Event::Ping);
        world
    }

    /// The session goes through a relay of each side.
    fn bridged(mut self, bridge: Duration) -> Self {
        self.bridge = bridge;
        for side in &mut self.sides {
            side.is_bridged = true;
        }
        self
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.serial += 1;
        self.events.insert((self.now + after, self.serial), event);
    }

    fn noisy(&mut self, what: (usize, Option<usize>), rtt: Duration) -> Duration {
        let [lot, luck] = self.random.bytes();
        let noise = rtt * self.noise / 1000 * u32::from(lot) / 255;
        let before = self.spiked.get(&what) == Some(&true);
        let is_spiked = luck < 32 && !before;
        self.spiked.insert(what, is_spiked);
        rtt + noise
            + if is_spiked {
                self.spike
            } else {
                Duration::ZERO
            }
    }

    fn way(&self, relay: RelayId) -> Duration {
        let at = usize::from(relay.0[0]);
        let halves = self.rtts.each_ref().map(|rtts| rtts[at].unwrap_or(LONG));
        halves[0] + halves[1]
    }

    fn way_of_now(&self) -> Duration {
        self.way(self.current) + self.bridge
    }

    fn follow(&mut self, side: usize) {
        while let Some(command) = self.sides[side].poll_command() {
            match command {
                Command::Measure => self.later(ms(200), Event::Measured(side)),
                Command::Tell(usable) => {
                    self.told += 1;
                    self.later(DELAY, Event::Told(1 - side, usable));
                }
                Command::Meet(relay) => {
                    assert_eq!(side, 0, "the host decides");
                    self.wanted += 1;
                    if self.stopped != Some(relay) {
                        self.later(MOVE, Event::Moved(relay));
                    }
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Ping => {
                for side in 0..2 {
                    let way = self.way_of_now();
                    let taken = self.noisy((side, None), way);
                    self.sides[side].handle_path(taken);
                }
                self.later(PINGS, Event::Ping);
            }
            Event::Measured(side) => {
                let rtts = self.rtts[side].clone();
                let measured = rtts.into_iter().enumerate().map(|(at, rtt)| Usable {
                    relay: relay(at),
                    rtt: rtt.map(|rtt| self.noisy((side, Some(at)), rtt)),
                });
                let measured: Vec<_> = measured.collect();
                self.sides[side].handle_measured(&measured, now);
            }
            Event::Told(side, usable) => self.sides[side].handle_told(&usable),
            Event::Moved(relay) => {
                self.moves.push((now - self.began, relay));
                (self.current, self.bridge) = (relay, Duration::ZERO);
                for side in &mut self.sides {
                    side.handle_moved(relay, now);
                }
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            for side in 0..2 {
                self.sides[side].handle_relayed(true, self.now);
                self.sides[side].handle_timeout(self.now);
                self.follow(side);
            }
            let due = self.sides.iter().filter_map(Meeting::poll_timeout).min();
            let next = self.events.first_key_value().map(|((at, _), _)| *at);
            let at = due.into_iter().chain(next).min().expect("pings go on");
            if at > end {
                break;
            }
            self.now = at;
            while let Some(entry) = self.events.first_entry()
                && entry.key().0 <= at
            {
                let event = entry.remove();
                self.handle(event);
            }
        }
        self.now = end;
    }
}

const LONG: Duration = Duration::from_secs(900);

#[test]
fn they_meet_at_the_nearer_relay_within_seconds_and_stay_there() {
    let mut world = World::new([&[10, 40, 30], &[100, 15, 60]], 1);
    world.run(Duration::from_secs(15));
    assert_eq!(world.current, relay(1));
    world.run(LONG);
    assert_eq!(world.moves.len(), 1);
    assert!(world.told <= 4, "nothing new is told: {}", world.told);
}

#[test]
fn what_nobody_would_feel_moves_nobody() {
    // A fifth, but not by enough; enough, but not a fifth; both.
    for (here, there, moves) in [(10, 8, 0), (100, 85, 0), (50, 50, 0), (10, 7, 1)] {
        let mut world = World::new([&[here, there], &[here, there]], 1);
        world.run(LONG);
        assert_eq!(world.moves.len(), moves, "{here} to {there}");
    }
}

#[test]
fn a_relay_on_both_sides_is_left_for_one_when_the_bridge_is_a_way_round() {
    // The host's own alone is as good as any, and nothing is gained where the bridge is the straight way.
    let mut world = World::new([&[5, 70], &[60, 60]], 1).bridged(ms(80));
    world.run(Duration::from_secs(30));
    assert_eq!((world.current, world.moves.len()), (relay(0), 1));
    let mut world = World::new([&[5, 70], &[60, 60]], 1).bridged(ms(10));
    world.run(LONG);
    assert_eq!(world.moves, []);
}

#[test]
fn the_network_changes_and_they_meet_elsewhere_but_not_twice_in_a_minute() {
    let mut world = World::new([&[10, 40], &[10, 40]], 1);
    world.run(LONG);
    assert_eq!(world.moves, []);
    for rtts in &mut world.rtts {
        rtts.swap(0, 1);
    }
    world.run(Duration::from_secs(60));
    assert_eq!(world.current, relay(1));
    let (before, _) = world.moves[0];
    for rtts in &mut world.rtts {
        rtts.swap(0, 1);
    }
    world.run(LONG);
    assert_eq!(world.moves.len(), 2);
    assert!(world.moves[1].0 >= before + SETTLED, "{:?}", world.moves);
}

#[test]
fn where_nothing_comes_of_it_nobody_goes_for_a_while() {
    let mut world = World::new([&[50, 10, 30], &[50, 10, 30]], 1);
    world.stopped = Some(relay(1));
    world.run(Duration::from_secs(30));
    assert_eq!((world.wanted, world.moves.len()), (1, 0));
    world.run(Duration::from_secs(90));
    assert_eq!(world.current, relay(2), "the next best");
    world.stopped = None;
    world.run(AVOIDED);
    assert_eq!(world.current, relay(1));
}

#[test]
fn a_relay_that_one_side_does_not_reach_is_none_to_meet_at() {
    for side in 0..2 {
        let mut world = World::new([&[50, 10], &[50, 10]], 1);
        world.rtts[side][1] = None;
        world.run(LONG);
        assert_eq!(world.moves, []);
        world.rtts[side][1] = Some(ms(10));
        world.run(LONG);
        assert_eq!(world.current, relay(1));
    }
}

#[test]
fn whoever_goes_directly_measures_nothing() {
    let now = epoch();
    let mut side = Meeting::new(Side::Host, relay(0), now);
    side.handle_relayed(true, now);
    assert_eq!(side.poll_timeout(), None, "there is no other relay yet");
    side.handle_agreed(vec![relay(0), relay(1)], &[], false);
    side.handle_relayed(false, now);
    assert_eq!(side.poll_timeout(), None);
    side.handle_relayed(true, now);
    assert_eq!(side.poll_timeout(), Some(now + SOON));
    side.handle_relayed(false, now);
    side.handle_measured(&[], now);
    assert_eq!(side.poll_timeout(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Measurements are up to a tenth too long, and every eighth is held up: each move is to a shorter way, no two within a minute, and
    /// in the end no other way is clearly shorter.
    #[test]
    fn noise_moves_nobody_to_and_fro_and_the_best_is_found(
        ours in prop::collection::vec(1..150u64, 5),
        theirs in prop::collection::vec(1..150u64, 5),
        bridge in prop::option::of(0..100u64),
        noise in 0..100u32,
        spike in 0..200u64,
        seed in any::<u64>(),
    ) {
        let mut world = World::new([&ours, &theirs], seed);
        if let Some(bridge) = bridge {
            world = world.bridged(ms(bridge));
        }
        (world.noise, world.spike) = (noise, ms(spike));
        let mut ways = vec![world.way_of_now()];
        world.run(LONG);
        ways.extend(world.moves.iter().map(|(_, relay)| world.way(*relay)));
        prop_assert!(ways.is_sorted_by(|before, after| after < before), "{:?}", ways);
        prop_assert!(world.moves.is_sorted_by(|before, after| after.0 >= before.0 + SETTLED), "{:?}", world.moves);
        let best = (0..5).map(|at| world.way(relay(at))).min().expect("five");
        let now = world.way_of_now();
        // Within what a measurement may be wrong by.
        prop_assert!(now < (best + SHORTER_BY).max(best * 5 / 4) * 112 / 100, "{:?} where {:?} is possible", now, best);
    }
}
