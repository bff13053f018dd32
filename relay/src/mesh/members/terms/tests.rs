//! Two relays, their connections, and everything that is said by these, in any order.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::mesh::members::Members;

/// Who they are to each other.
const IDS: [RelayId; 2] = [RelayId([1; 32]), RelayId([2; 32])];
/// Longer than anybody is avoided.
const LONG: Duration = Duration::from_secs(20);

fn member(side: usize) -> Member {
    let port = u16::try_from(side).expect("0 or 1");
    Member {
        address: SocketAddr::from(([192, 0, 2, 1], port)),
        name: "relay".into(),
        run: 1,
        advertised: None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Opened,
    Closed,
    Hello,
    Answer(bool),
    NoAnswer,
}

/// On its way to one of the two, by a connection.
#[derive(Clone, Copy, Debug)]
struct Message {
    to: usize,
    by: usize,
    what: What,
}

struct Side {
    members: Members,
    is_willing: bool,
    open: BTreeSet<usize>,
    /// On which it has refused the other.
    shunned: BTreeSet<usize>,
    losses: usize,
}

struct World {
    sides: [Side; 2],
    under_way: Vec<Message>,
    connections: usize,
    now: Instant,
    /// Of connections, and answers that did not come: then somebody may be lost.
    failures: usize,
}

impl World {
    fn new() -> Self {
        let side = || Side {
            members: Members::default(),
            is_willing: true,
            open: BTreeSet::new(),
            shunned: BTreeSet::new(),
            losses: 0,
        };
        Self {
            sides: [side(), side()],
            under_way: Vec::new(),
            connections: 0,
            now: Instant::now(),
            failures: 0,
        }
    }

    fn send(&mut self, to: usize, by: usize, what: What) {
        self.under_way.push(Message { to, by, what });
    }

    fn dial(&mut self) {
        self.connections += 1;
        for to in [0, 1] {
            self.send(to, self.connections, What::Opened);
        }
    }

    fn greet(&mut self, side: usize, which: usize) {
        let open = &self.sides[side].open;
        if let Some(&by) = open.iter().nth(which % open.len().max(1)) {
            self.send(1 - side, by, What::Hello);
        }
    }

    fn deliver(&mut self, number: usize) {
        let message = self.under_way.remove(number);
        let Message { to, by, what } = message;
        // A connection is there before anything is said by it.
        let opened = self
            .under_way
            .iter()
            .position(|other| (other.to, other.by, other.what) == (to, by, What::Opened));
        if let Some(opened) = opened {
            self.under_way.remove(opened);
            self.handle(to, by, What::Opened);
        }
        self.handle(to, by, what);
    }

    fn handle(&mut self, me: usize, by: usize, what: What) {
        let (id, connection) = (IDS[1 - me], ConnectionId::new_unchecked(by));
        if what == What::Opened {
            self.sides[me].open.insert(by);
            self.sides[me].members.opened(id, connection);
            if self.sides[me].open.len() == 1 {
                self.greet(me, 0);
            }
            return;
        }
        if !self.sides[me].open.contains(&by) {
            return;
        }
        match what {
            What::Opened => {}
            What::Closed => self.closed(me, by),
            What::Hello => {
                let answer = self.hear(me, by);
                self.send(1 - me, by, What::Answer(answer));
            }
            What::Answer(true) => {
                self.sides[me].members.answered(id, connection);
                self.hear(me, by);
            }
            What::Answer(false) => {
                self.sides[me].members.part(id, connection, self.now);
                self.close(me, by);
            }
            What::NoAnswer if !self.sides[me].members.contains(id) => self.close(me, by),
            What::NoAnswer => {
                if self.sides[me].members.missed(id) {
                    for by in self.sides[me].open.clone() {
                        self.close(me, by);
                    }
                }
            }
        }
    }

    /// Whether the other is let in.
    fn hear(&mut self, me: usize, by: usize) -> bool {
        let (id, connection, now) = (IDS[1 - me], ConnectionId::new_unchecked(by), self.now);
        let side = &mut self.sides[me];
        let is_welcome = side.members.counts(id, connection)
            && side.is_willing
            && side.members.check(id, now).is_ok();
        if is_welcome {
            side.members.hear(id, connection, member(1 - me), now);
        } else {
            side.members.part(id, connection, now);
            side.shunned.insert(by);
        }
        is_welcome
    }

    fn close(&mut self, me: usize, by: usize) {
        self.send(1 - me, by, What::Closed);
        self.closed(me, by);
    }

    fn closed(&mut self, me: usize, by: usize) {
        let side = &mut self.sides[me];
        side.open.remove(&by);
        side.shunned.remove(&by);
        let connection = ConnectionId::new_unchecked(by);
        let lost = side.members.closed(IDS[1 - me], connection, self.now);
        side.losses += usize::from(lost.is_some());
        self.greet(me, by);
    }

    fn act(&mut self, op: u8, which: usize) {
        let some = |all: usize| which % all.max(1);
        match op {
            0 => self.dial(),
            1 => self.sides[which % 2].is_willing ^= true,
            2 => {
                let side = which % 2;
                if self.sides[side].members.contains(IDS[1 - side]) {
                    self.greet(side, which / 2);
                }
            }
            3 => self.now += Duration::from_secs(1),
            // What only failures do comes last, so that there are runs without.
            4 => {
                let all = &self.sides[0].open;
                if let Some(&by) = all.iter().nth(some(all.len())) {
                    self.failures += 1;
                    for to in [0, 1] {
                        self.send(to, by, What::Closed);
                    }
                }
            }
            5 => {
                let lost = some(self.under_way.len());
                let from = match self.under_way.get(lost).map(|message| message.what) {
                    Some(What::Hello) => 1 - self.under_way[lost].to,
                    Some(What::Answer(_)) => self.under_way[lost].to,
                    Some(What::Opened | What::Closed | What::NoAnswer) | None => return,
                };
                self.failures += 1;
                let by = self.under_way.remove(lost).by;
                self.send(from, by, What::NoAnswer);
            }
            _ if self.under_way.is_empty() => {}
            _ => self.deliver(some(self.under_way.len())),
        }
        self.nobody_is_lost_without_a_failure();
    }

    fn nobody_is_lost_without_a_failure(&self) {
        if self.failures == 0 {
            assert_eq!(self.sides.each_ref().map(|side| side.losses), [0, 0]);
        }
    }

    /// Until nothing is under way.
    fn rest(&mut self) {
        while !self.under_way.is_empty() {
            self.deliver(0);
        }
    }

    /// Time passes, and nothing more happens to the two.
    fn settle(&mut self) {
        for round in 0..20 {
            self.rest();
            for side in [0, 1] {
                if self.sides[side].members.contains(IDS[1 - side]) {
                    self.greet(side, round);
                }
            }
            self.rest();
            for side in [0, 1] {
                for by in self.sides[side].shunned.clone() {
                    if self.sides[side].open.contains(&by) {
                        self.close(side, by);
                    }
                }
            }
            self.rest();
            self.nobody_is_lost_without_a_failure();
            self.now += LONG;
            if self.sides[0].open.is_empty() {
                self.dial();
            }
        }
        self.rest();
    }

    fn met(&self) -> [bool; 2] {
        [0, 1].map(|side| self.sides[side].members.contains(IDS[1 - side]))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn in_the_end_two_relays_have_met_or_both_know_why_not(
        acts in prop::collection::vec((0..16_u8, 0..64_usize), 1..60),
    ) {
        let mut world = World::new();
        for (op, which) in acts {
            world.act(op, which);
        }
        world.settle();
        let both = world.sides.iter().all(|side| side.is_willing);
        prop_assert_eq!(world.met(), [both, both]);
    }

    #[test]
    fn who_is_not_let_in_is_not_lost_whatever_comes_first(
        acts in prop::collection::vec((0..4_u8, 6..16_u8, 0..64_usize), 1..60),
    ) {
        let mut world = World::new();
        for (op, deliver, which) in acts {
            world.act(op, which);
            world.act(deliver, which);
        }
        world.settle();
        prop_assert_eq!(world.sides.each_ref().map(|side| side.losses), [0, 0]);
    }
}

#[test]
fn a_hello_after_a_no_lets_nobody_in_and_a_new_connection_does() {
    let (now, one) = (Instant::now(), ConnectionId::new_unchecked(1));
    let (two, mut members) = (ConnectionId::new_unchecked(2), Members::default());
    members.opened(IDS[1], one);
    assert!(!members.part(IDS[1], one, now), "it was not in");
    members.answered(IDS[1], one);
    assert!(!members.hear(IDS[1], one, member(1), now) && !members.counts(IDS[1], one));
    members.opened(IDS[1], two);
    assert!(
        !members.hear(IDS[1], two, member(1), now),
        "it has not said yes"
    );
    assert!(members.may_ask(IDS[1]) && !members.contains(IDS[1]));
    members.answered(IDS[1], two);
    assert!(members.hear(IDS[1], two, member(1), now));
    assert_eq!(members.closed(IDS[1], one, now), None);
    assert!(members.contains(IDS[1]));
    assert_eq!(members.closed(IDS[1], two, now), Some(member(1)));
}
