//! Parking places in virtual time, against the node's own machine.

use std::{convert::Infallible, net::SocketAddr};

use remora_proto::{
    park::{self, KEEP_INTERVAL},
    wire::message::control::{Done, Draining},
};

use super::*;

fn grant(seed: u8) -> Grant {
    let fill = |out: &mut [u8], _: &[u8], _: &[u8]| {
        out.fill(seed);
        Ok::<_, Infallible>(())
    };
    Grant::export(fill).expect("it exports")
}

fn leg(last: u8) -> Leg {
    Leg {
        remote: SocketAddr::from(([192, 0, 2, last], 4433)),
        local: None,
    }
}

fn parked(seed: u8, now: Instant) -> Parked {
    Parked {
        grant: grant(seed),
        leg: leg(seed),
        network: Network::from(leg(seed).remote.ip()),
        requests: TokenBucket::new(now),
    }
}

fn notice() -> Reply {
    Reply::Done(Done {})
}

/// A relay's places with one node in one of them.
struct One {
    start: Instant,
    parking: Parking,
    number: ConnectionNumber,
}

impl One {
    fn new() -> Self {
        let start = Instant::now();
        let mut parking = Parking::new(start);
        let number = parking.park(parked(1, start), start).expect("free");
        Self {
            start,
            parking,
            number,
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn say(&mut self, saying: Saying, counter: u64, from: u8, ms: u64) -> Reaction {
        let now = self.at(ms);
        self.parking
            .handle(&grant(1).seal(saying, counter), leg(from), now)
    }
}

fn answer(saying: Saying, counter: u64) -> Reaction {
    Reaction::Answer(grant(1).seal(saying, counter))
}

#[test]
fn a_node_that_keeps_its_place_has_it_for_good() {
    let mut one = One::new();
    let mut node = park::Parked::new(grant(1), one.start);
    let mut now = one.start;
    for _ in 0..1000 {
        now = node.poll_timeout().expect("it goes on").max(now);
        assert_eq!(node.handle_timeout(now), None);
        while let Some(bytes) = node.poll_transmit(now) {
            let Reaction::Answer(answer) = one.parking.handle(&bytes, leg(1), now) else {
                panic!("no answer")
            };
            assert_eq!(node.handle(&answer, now), None);
        }
        assert_eq!(one.parking.poll(now), None);
    }
    assert!(now - one.start > KEEP_INTERVAL * 900);
    assert_eq!(one.parking.find(grant(1).ticket()), Ok(one.number));
}

#[test]
fn a_silent_node_is_gone_after_a_minute() {
    let mut one = One::new();
    assert_eq!(one.say(Saying::Keep, 1, 1, 20_000), answer(Saying::Kept, 1));
    assert_eq!(one.parking.poll(one.at(79_999)), None);
    let lost = one.parking.poll(one.at(80_000));
    let network = Network::from(leg(1).remote.ip());
    assert_eq!(lost, Some(Event::Lost(one.number, network)));
    assert!(one.parking.is_empty() && one.parking.poll_timeout().is_none());
    assert_eq!(one.parking.find(grant(1).ticket()), Err(NOT_PARKED));
    assert!(one.parking.resume(one.number).is_err());
}

#[test]
fn a_counter_is_good_for_once() {
    let mut one = One::new();
    assert_eq!(one.say(Saying::Keep, 5, 1, 0), answer(Saying::Kept, 5));
    for counter in [5, 4, 0] {
        assert_eq!(one.say(Saying::Keep, counter, 9, 1), Reaction::Unknown);
        assert_eq!(one.say(Saying::Bye, counter, 9, 1), Reaction::Unknown);
    }
    assert_eq!(one.say(Saying::Keep, 6, 1, 2), answer(Saying::Kept, 6));
}

#[test]
fn what_is_not_the_nodes_changes_nothing() {
    let mut one = One::new();
    let now = one.at(50_000);
    for saying in [Saying::Keep, Saying::Bye] {
        let mut forged = grant(1).seal(saying, 1);
        forged[LEN - 1] ^= 1;
        assert_eq!(one.parking.handle(&forged, leg(1), now), Reaction::Unknown);
    }
    for saying in [Saying::Kept, Saying::Wake, Saying::Gone, Saying::Unknown] {
        assert_eq!(one.say(saying, 1, 1, 50_000), Reaction::Unknown);
    }
    assert_eq!(
        one.parking.handle(b"\x07short", leg(1), now),
        Reaction::Unknown
    );
    assert!(matches!(
        one.parking.poll(one.at(60_000)),
        Some(Event::Lost(..))
    ));
}

#[test]
fn from_another_address_it_is_called_back_and_stays_where_it_was() {
    let mut one = One::new();
    assert_eq!(one.say(Saying::Keep, 1, 9, 0), answer(Saying::Wake, 0));
    let wake = one.parking.tell(one.number, notice(), one.at(1));
    assert_eq!(wake.map(|wake| wake.leg), Some(leg(1)));
}

#[test]
fn a_stranger_is_told_that_it_is_unknown_and_a_flood_is_not() {
    let mut one = One::new();
    let keep = grant(2).seal(Saying::Keep, 3);
    let now = one.start;
    let datagram = Datagram::decode(&keep).expect("one");
    assert_eq!(
        one.parking.handle(&keep, leg(2), now),
        Reaction::Answer(datagram.unknown())
    );
    let unknown = datagram.unknown();
    assert_eq!(
        one.parking.handle(&unknown, leg(2), now),
        Reaction::Unknown,
        "no echo"
    );
    let answered = (0..10_000)
        .filter(|_| one.parking.handle(&keep, leg(2), now) != Reaction::Unknown)
        .count();
    assert!(answered < 2000, "{answered}");
}

#[test]
fn bye_frees_the_place_and_is_answered_as_often_as_it_is_said() {
    let mut one = One::new();
    let network = Network::from(leg(1).remote.ip());
    let bye = Datagram {
        saying: Saying::Bye,
        ticket: grant(1).ticket(),
        counter: 1,
    };
    assert_eq!(
        one.say(Saying::Bye, 1, 1, 0),
        Reaction::Left(one.number, network, bye.unknown())
    );
    assert!(one.parking.is_empty());
    assert_eq!(
        one.say(Saying::Bye, 1, 1, 1),
        Reaction::Answer(bye.unknown())
    );
}

#[test]
fn a_notice_wakes_the_node_until_it_is_back_and_it_gets_all_of_them() {
    let mut one = One::new();
    let wake = Transmit {
        leg: leg(1),
        bytes: grant(1).seal(Saying::Wake, 0),
    };
    assert_eq!(
        one.parking.tell(one.number, notice(), one.start),
        Some(wake)
    );
    assert_eq!(
        one.parking.tell(one.number, notice(), one.start),
        None,
        "told already"
    );
    let mut told = Vec::new();
    for ms in 0..2000 {
        while let Some(event) = one.parking.poll(one.at(ms)) {
            assert_eq!(event, Event::Transmit(wake));
            told.push(ms);
        }
    }
    assert_eq!(told, [250, 750, 1750]);
    assert_eq!(one.say(Saying::Keep, 1, 1, 2000), answer(Saying::Wake, 0));
    let returned = one.parking.resume(one.number).expect("there");
    assert_eq!(returned.notices, [notice(), notice()]);
    assert_eq!(one.parking.poll(one.at(100_000)), None);
    assert_eq!(one.parking.waking, 0);
}

#[test]
fn a_node_that_does_not_wake_up_is_gone_before_an_exchange_is() {
    let mut one = One::new();
    one.parking.tell(one.number, notice(), one.at(0));
    // It is heard, and never comes.
    assert_eq!(one.say(Saying::Keep, 1, 1, 9000), answer(Saying::Wake, 0));
    let mut now = one.start;
    loop {
        match one.parking.poll(now) {
            Some(Event::Lost(number, _)) => break assert_eq!(number, one.number),
            Some(Event::Transmit(_)) => {}
            None => now = one.parking.poll_timeout().expect("it is waited for"),
        }
    }
    assert_eq!(now - one.start, WAKE_TIMEOUT);
    assert_eq!((one.parking.waking, one.parking.len()), (0, 0));
}

#[test]
fn more_than_a_node_may_have_waiting_is_too_much() {
    let mut one = One::new();
    for _ in 0..MAX_NOTICES {
        one.parking.tell(one.number, notice(), one.start);
    }
    assert_eq!(one.parking.poll(one.start), None);
    one.parking.tell(one.number, notice(), one.start);
    assert!(matches!(one.parking.poll(one.start), Some(Event::Lost(..))));
}

#[test]
fn a_drain_wakes_all_but_not_all_at_once_and_nobody_waits_for_that() {
    let now = Instant::now();
    let mut parking = Parking::new(now);
    let draining = || Reply::Draining(Draining { deadline_ms: 1 });
    let grants = |number: usize| {
        let fill = |out: &mut [u8], _: &[u8], _: &[u8]| {
            out.fill(1);
            out[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
            Ok::<_, Infallible>(())
        };
        Grant::export(fill).expect("it exports")
    };
    let numbers: Vec<_> = (0..WAKES_AT_ONCE * 2)
        .map(|number| {
            let grant = grants(number);
            let parked = Parked {
                grant,
                ..parked(1, now)
            };
            parking.park(parked, now).expect("free")
        })
        .collect();
    let told = numbers
        .iter()
        .filter(|number| parking.tell(**number, draining(), now).is_some())
        .count();
    assert_eq!(told, WAKES_AT_ONCE);
    assert_eq!(parking.poll(now), None, "the others wait for their turn");
    let last = *numbers.last().expect("some");
    assert!(
        parking.tell(last, notice(), now).is_some(),
        "who is asked for does not"
    );
    for returned in &numbers[..2] {
        parking.resume(*returned).expect("there");
    }
    assert!(matches!(parking.poll(now), Some(Event::Transmit(_))));
    assert_eq!(parking.poll(now), None);
    let returned = parking.resume(last).expect("there");
    assert_eq!(returned.notices, [draining(), notice()], "in order");
    for number in &numbers[2..] {
        parking.resume(*number).ok();
        while parking.poll(now).is_some() {}
    }
    assert_eq!((parking.len(), parking.waking), (0, 0));
}

#[test]
fn a_place_is_small_and_nobodys_twice() {
    assert!(size_of::<Place>() <= 240, "{}", size_of::<Place>());
    let mut one = One::new();
    assert!(one.parking.park(parked(1, one.start), one.start).is_err());
    one.parking.resume(one.number).expect("there");
    let again = one
        .parking
        .park(parked(1, one.start), one.start)
        .expect("free");
    assert_eq!(again.key(), one.number.key());
    assert!(one.parking.resume(one.number).is_err(), "another's by now");
    assert!(again.is_parked() && !ConnectionNumber::new(7, 3).is_parked());
}
