use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A node counts what is not answered for so long as silence.
const SILENT: Duration = Duration::from_millis(1200);
/// Between two frames of a node.
const FRAMES: Duration = Duration::from_millis(50);
/// A relay that does not answer is given up after this.
const UNREACHED: Duration = Duration::from_secs(2);
/// Who waits at a relay is forgotten after this.
const WAITS: Duration = Duration::from_secs(10);
/// A relay lets its sessions have so long.
const DRAIN: Duration = Duration::from_secs(60);
/// What may happen to relays happens so often.
const BETWEEN: Duration = Duration::from_secs(30);

fn relay(number: u8) -> RelayId {
    RelayId([number; 32])
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Killed,
    Drained,
    /// One of the two does not reach it any more.
    CutOff(usize),
    /// Both lose theirs, and the one that is warm.
    TwoKilled,
    /// The first finds another nearer.
    Nearer,
    /// And it is not there.
    NearerKilled,
    /// And on the way there the one of now goes.
    NearerInNeed,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        Just(Happening::Killed),
        Just(Happening::Drained),
        (0..2usize).prop_map(Happening::CutOff),
        Just(Happening::TwoKilled),
        Just(Happening::Nearer),
        Just(Happening::NearerKilled),
        Just(Happening::NearerInNeed),
    ]
}

#[derive(Clone, Debug)]
enum Event {
    Frame(usize, Leg),
    Send(usize),
    Reached(usize, RelayId),
    Unreached(usize, RelayId),
    Presented(usize, Leg),
    Allocated(usize, Leg),
    Refused(usize, RelayId),
    Draining(usize, RelayId),
    Lost(usize, RelayId),
    Moving(usize, u32, Option<RelayId>),
    Restart(RelayId),
}

#[derive(Debug, Default)]
struct Relay {
    is_dead: bool,
    is_draining: bool,
    cut_off: Option<usize>,
    attached: BTreeSet<usize>,
    waiting: BTreeMap<u32, (usize, Instant)>,
    allocated: BTreeSet<u32>,
}

impl Relay {
    fn is_reached(&self, node: usize) -> bool {
        !self.is_dead && self.cut_off != Some(node)
    }
}

struct World {
    now: Instant,
    serial: u64,
    events: BTreeMap<(Instant, u64), Event>,
    relays: BTreeMap<RelayId, Relay>,
    /// Where each of the two began.
    homes: [RelayId; 2],
    nodes: [Carriers; 2],
    heard_at: [Instant; 2],
    longest_gap: Duration,
    random: Random,
}

#[expect(clippy::disallowed_methods, reason = "the one look at a clock")]
fn epoch() -> Instant {
    Instant::now()
}

impl World {
    fn new(relays: u8, is_bridged: bool, seed: u64) -> Self {
        let now = epoch();
        let homes = [0, u8::from(is_bridged)].map(relay);
        let mut world = Self {
            now,
            serial: 0,
            events: BTreeMap::new(),
            relays: (0..relays)
                .map(|at| (relay(at), Relay::default()))
                .collect(),
            homes,
            nodes: [0, 1].map(|node: u8| {
                let random = Random::seeded(seed * 2 + u64::from(node));
                Carriers::new(homes[usize::from(node)], random, now)
            }),
            heard_at: [now; 2],
            longest_gap: Duration::ZERO,
            random: Random::seeded(seed + 1000),
        };
        for (node, home) in homes.into_iter().enumerate() {
            world.relay(home).allocated.insert(0);
            world.relay(home).attached.insert(node);
            let order = (0..relays).map(relay).collect();
            world.nodes[node].handle_agreed(order, is_bridged, now);
            world.follow(node);
            world.later(Duration::ZERO, Event::Send(node));
        }
        world
    }

    fn relay(&mut self, relay: RelayId) -> &mut Relay {
        self.relays.get_mut(&relay).expect("one of them")
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.serial += 1;
        self.events.insert((self.now + after, self.serial), event);
    }

    /// From a node to a relay, or back.
    fn delay(&mut self) -> Duration {
        let [lot] = self.random.bytes();
        Duration::from_millis(5 + u64::from(lot) / 4)
    }

    fn soon(&mut self, event: Event) {
        let delay = self.delay();
        self.later(delay, event);
    }

    fn follow(&mut self, node: usize) {
        while let Some(command) = self.nodes[node].poll_command() {
            match command {
                Command::Connect(relay) if self.relay(relay).is_reached(node) => {
                    self.soon(Event::Reached(node, relay));
                }
                Command::Connect(relay) => self.later(UNREACHED, Event::Unreached(node, relay)),
                Command::Leave(relay) => {
                    assert_ne!(self.nodes[node].current().relay, relay);
                    self.relay(relay).attached.remove(&node);
                }
                Command::Present(leg) => self.soon(Event::Presented(node, leg)),
                Command::Use(_) => {
                    self.heard_at[node] = self.heard_at[node].max(self.now - SILENT / 2)
                }
                Command::Release(leg) => {
                    let theirs = self.by(1 - node, leg);
                    assert_ne!(self.nodes[1 - node].current(), theirs, "it is still used");
                    self.relay(leg.relay).allocated.remove(&leg.number);
                    self.stop_if_empty(leg.relay);
                }
                // It arrives when the relay between them works.
                Command::Tell { number, nearer } => {
                    let leg = self.nodes[node].current();
                    if self.forwards(leg, node) {
                        self.soon(Event::Moving(1 - node, number, nearer));
                    }
                }
            }
        }
    }

    /// The same leg as the other knows it.
    fn by(&self, node: usize, leg: Leg) -> Leg {
        let relay = if leg.number == 0 {
            self.homes[node]
        } else {
            leg.relay
        };
        Leg { relay, ..leg }
    }

    fn forwards(&self, leg: Leg, from: usize) -> bool {
        let carries = |node: usize| {
            let relay = &self.relays[&self.by(node, leg).relay];
            relay.is_reached(node) && relay.allocated.contains(&leg.number)
        };
        carries(from) && carries(1 - from)
    }

    fn stop_if_empty(&mut self, at: RelayId) {
        let relay = self.relay(at);
        if relay.is_draining && relay.allocated.is_empty() && !relay.is_dead {
            relay.is_dead = true;
            for node in std::mem::take(&mut relay.attached) {
                self.soon(Event::Lost(node, at));
            }
            self.later(Duration::from_secs(3), Event::Restart(at));
        }
    }

    fn kill(&mut self, relay: RelayId) {
        self.relay(relay).is_dead = true;
        self.later(Duration::from_secs(22), Event::Restart(relay));
    }

    /// One that carries neither of them.
    fn other(&self) -> RelayId {
        let current = self.nodes.each_ref().map(|node| node.current().relay);
        let mut relays = self.relays.keys().copied();
        relays
            .find(|relay| !current.contains(relay))
            .expect("several")
    }

    fn happen(&mut self, happening: Happening) {
        let current = self.nodes[0].current().relay;
        let other = self.other();
        let restart = Duration::from_secs(22);
        match happening {
            Happening::Killed => self.kill(current),
            Happening::TwoKilled => {
                let mut relays = self.relays.keys().copied();
                let other = relays.find(|relay| *relay != current).expect("several");
                self.kill(current);
                self.kill(other);
            }
            Happening::Nearer | Happening::NearerKilled | Happening::NearerInNeed => {
                if let Happening::NearerKilled = happening {
                    self.kill(other);
                }
                self.nodes[0].handle_nearer(other, self.now);
                self.follow(0);
                if let Happening::NearerInNeed = happening {
                    self.run(Duration::from_millis(30));
                    self.kill(current);
                }
            }
            Happening::CutOff(node) => {
                let current = self.nodes[node].current().relay;
                self.relay(current).cut_off = Some(node);
                self.later(restart, Event::Restart(current));
            }
            Happening::Drained => {
                self.relay(current).is_draining = true;
                for node in self.relay(current).attached.clone() {
                    self.soon(Event::Draining(node, current));
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        let about = match event {
            Event::Send(node) => {
                let leg = self.nodes[node].current();
                if self.forwards(leg, node) {
                    let delay = self.delay() + self.delay();
                    let leg = self.by(1 - node, leg);
                    self.later(delay, Event::Frame(1 - node, leg));
                }
                let is_silent = now - self.heard_at[node] >= SILENT;
                self.nodes[node].handle_silence(is_silent, now);
                self.later(FRAMES, Event::Send(node));
                node
            }
            Event::Frame(node, leg) => {
                self.longest_gap = self.longest_gap.max(now - self.heard_at[node]);
                self.heard_at[node] = now;
                self.nodes[node].handle_heard(leg, now);
                node
            }
            Event::Reached(node, relay) if self.relay(relay).is_reached(node) => {
                self.relay(relay).attached.insert(node);
                let is_draining = self.relay(relay).is_draining;
                self.nodes[node].handle_attached(relay, is_draining, now);
                node
            }
            Event::Presented(node, leg) => {
                self.presented(node, leg);
                node
            }
            Event::Allocated(node, leg) if self.relay(leg.relay).is_reached(node) => {
                self.nodes[node].handle_allocated(leg, now);
                node
            }
            Event::Refused(node, relay) => {
                self.nodes[node].handle_refused(relay, now);
                node
            }
            Event::Draining(node, relay) => {
                self.nodes[node].handle_draining(relay, DRAIN, now);
                node
            }
            Event::Lost(node, relay)
            | Event::Unreached(node, relay)
            | Event::Reached(node, relay) => {
                self.nodes[node].handle_lost(relay, now);
                node
            }
            Event::Moving(node, number, nearer) => {
                self.nodes[node].handle_moving(number, nearer, now);
                node
            }
            Event::Allocated(node, _) => node,
            Event::Restart(at) => {
                let before = std::mem::take(self.relay(at));
                for node in before.attached {
                    self.soon(Event::Lost(node, at));
                }
                return;
            }
        };
        self.follow(about);
    }

    fn presented(&mut self, node: usize, leg: Leg) {
        let now = self.now;
        let relay = self.relay(leg.relay);
        if !relay.is_reached(node) || !relay.attached.contains(&node) {
            return;
        }
        if relay.is_draining {
            return self.soon(Event::Refused(node, leg.relay));
        }
        match relay.waiting.get(&leg.number) {
            Some(&(other, until)) if other != node && until > now => {
                relay.waiting.remove(&leg.number);
                relay.allocated.insert(leg.number);
                for node in [node, other] {
                    self.soon(Event::Allocated(node, leg));
                }
            }
            _ => {
                relay.waiting.insert(leg.number, (node, now + WAITS));
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let due = (0..2)
                .filter_map(|node| Some((self.nodes[node].poll_timeout()?, node)))
                .min();
            let next = self.events.first_key_value().map(|((at, _), _)| *at);
            let next = next.expect("frames go on");
            match due {
                Some((at, node)) if at <= next && at <= end => {
                    self.now = self.now.max(at);
                    self.nodes[node].handle_timeout(self.now);
                    self.follow(node);
                }
                _ if next <= end => {
                    let ((at, _), event) = self.events.pop_first().expect("there is one");
                    self.now = at;
                    self.handle(event);
                }
                _ => break,
            }
        }
        self.now = end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever happens to the relay that carries them, the two meet at another, and soon.
    #[test]
    fn a_session_outlives_its_relays(
        relays in 3..6u8,
        is_bridged in any::<bool>(),
        seed in 0..1_000_000u64,
        happenings in prop::collection::vec(happening(), 1..6),
    ) {
        let mut world = World::new(relays, is_bridged, seed);
        world.run(Duration::from_secs(12));
        for happening in happenings {
            world.longest_gap = Duration::ZERO;
            let (before, nearer) = (world.nodes[0].current(), world.other());
            world.happen(happening);
            world.run(BETWEEN);
            let [one, other] = world.nodes.each_ref().map(Carriers::current);
            if let Happening::NearerKilled = happening {
                prop_assert_eq!(before, one, "it stays where it is");
            } else {
                prop_assert_eq!(one, other);
                prop_assert_ne!(before, one, "{:?}", happening);
            }
            if let Happening::Nearer = happening {
                prop_assert_eq!(one.relay, nearer);
            }
            prop_assert!(world.nodes.iter().all(|node| node.is_heard));
            let limit = Duration::from_millis(match happening {
                Happening::Drained | Happening::Nearer | Happening::NearerKilled => 250,
                Happening::Killed | Happening::CutOff(_) | Happening::NearerInNeed => 2000,
                Happening::TwoKilled => 5000,
            });
            prop_assert!(world.longest_gap <= limit, "{:?} after {:?}", world.longest_gap, happening);
            // Nobody stays at more relays than it uses and keeps warm.
            for node in 0..2 {
                let at = world.relays.values().filter(|relay| relay.attached.contains(&node)).count();
                prop_assert!(at <= 3, "{} relays", at);
            }
        }
    }

    #[test]
    fn both_agree_on_one_order(
        ours in prop::collection::vec((0..12u8, prop::option::of(0..500u64)), 0..10),
        theirs in prop::collection::vec((0..12u8, prop::option::of(0..500u64)), 0..10),
        lot in any::<[u8; KEY_LEN]>(),
    ) {
        let usable = |named: &[(u8, Option<u64>)]| {
            let mut seen = BTreeSet::new();
            let once = named.iter().filter(|(number, _)| seen.insert(*number));
            let all = once.map(|&(number, ms)| Usable { relay: relay(number), rtt: ms.map(Duration::from_millis) });
            all.take(MAX_RELAYS).collect::<Vec<_>>()
        };
        let (ours, theirs) = (usable(&ours), usable(&theirs));
        let told = |usable: &[Usable]| decode(&encode(usable));
        let order = agree(&told(&ours), &told(&theirs), &lot);
        prop_assert_eq!(&order, &agree(&told(&theirs), &told(&ours), &lot));
        let common = ours.iter().filter(|our| theirs.iter().any(|their| their.relay == our.relay));
        prop_assert_eq!(order.len(), common.count());
    }
}

#[test]
fn the_shorter_way_comes_first_and_equals_by_lot() {
    let usable = |number, ms| Usable {
        relay: relay(number),
        rtt: Some(Duration::from_millis(ms)),
    };
    let here = [usable(1, 80), usable(2, 10), usable(3, 12)];
    let mut firsts = BTreeSet::new();
    for lot in 0..32 {
        let order = agree(&here, &here, &[lot; KEY_LEN]);
        assert_eq!(order[2], relay(1));
        firsts.insert(order[0]);
    }
    assert_eq!(firsts.len(), 2);
}

#[test]
fn a_warm_relay_that_drains_is_replaced_at_a_moment_of_each_ones_own() {
    let now = epoch();
    let mut moments = BTreeSet::new();
    for seed in 0..32 {
        let mut carriers = Carriers::new(relay(1), Random::seeded(seed), now);
        carriers.handle_agreed(vec![relay(1), relay(2), relay(3)], false, now);
        carriers.handle_timeout(now + WARM + WARM_SPREAD);
        assert_eq!(carriers.poll_command(), Some(Command::Connect(relay(2))));
        let drained = now + Duration::from_secs(60);
        carriers.handle_attached(relay(2), false, drained);
        carriers.handle_draining(relay(2), DRAIN, drained);
        assert_eq!(carriers.poll_command(), None);
        let at = carriers.poll_timeout().expect("another is wanted");
        assert!(at >= drained + WARM && at <= drained + WARM + WARM_SPREAD);
        carriers.handle_timeout(at);
        assert_eq!(carriers.poll_command(), Some(Command::Connect(relay(3))));
        moments.insert(at);
    }
    assert!(moments.len() > 16);
}
