//! Parking places in virtual time, against the node's own machine.

use std::{convert::Infallible, net::SocketAddr};

use remora_proto::{
    park::{self, KEEP_INTERVAL},
    wire::message::{
        Inbox, MAX_CONTROL_BYTES,
        control::{Done, Draining, Offer},
    },
};

use super::*;
use crate::datapath::leg::FarEnd;

fn grant(seed: u8) -> Grant {
    let fill = |out: &mut [u8], _: &[u8], _: &[u8]| {
        out.fill(seed);
        Ok::<_, Infallible>(())
    };
    Grant::export(fill).expect("it exports")
}

fn leg(last: u8) -> Leg {
    Leg {
        end: FarEnd::Node,
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
    let network = Network::from(leg(1).remote.ip());
    assert_eq!(
        one.parking.find(grant(1).ticket()),
        Ok((one.number, network))
    );
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
        assert_eq!(one.say(Saying::Keep, counter, 9, 900), Reaction::Unknown);
        assert_eq!(one.say(Saying::Bye, counter, 9, 900), Reaction::Unknown);
    }
    assert_eq!(one.say(Saying::Keep, 6, 1, 900), answer(Saying::Kept, 6));
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

fn offer(exchange: u64) -> Reply {
    Reply::Offer(Offer {
        exchange,
        payload: vec![7; 500].into(),
        locator_key: vec![7; 32].into(),
    })
}

fn read(untold: &[u8]) -> Vec<Reply> {
    let mut inbox = Inbox::new(MAX_CONTROL_BYTES);
    inbox.push(untold);
    std::iter::from_fn(|| inbox.next::<RelayToNode>().expect("messages"))
        .map(|message| {
            assert_eq!(message.request, 0);
            message.body.expect("one")
        })
        .collect()
}

#[test]
fn a_notice_wakes_the_node_until_it_is_back_and_it_gets_all_of_them() {
    let mut one = One::new();
    let wake = Transmit {
        leg: leg(1),
        bytes: grant(1).seal(Saying::Wake, 0),
    };
    let first = one.parking.tell(one.number, notice(), one.start);
    assert_eq!(first, Some(wake));
    let second = one.parking.tell(one.number, offer(2), one.start);
    assert_eq!(second, None, "told already");
    let mut told = Vec::new();
    for ms in 0..15_000 {
        while let Some(event) = one.parking.poll(one.at(ms)) {
            assert_eq!(event, Event::Transmit(wake));
            told.push(ms);
        }
    }
    assert_eq!(told, [250, 750, 1750, 3750, 7750, 11_750]);
    assert_eq!(one.say(Saying::Keep, 1, 1, 15_000), answer(Saying::Wake, 0));
    let returned = one.parking.resume(one.number).expect("there");
    assert_eq!(read(&returned.untold), [notice(), offer(2)]);
    assert_eq!(one.parking.poll(one.at(100_000)), None);
}

/// Its NAT has forgotten it: what is sent to where it was arrives nowhere, and its next Keep comes from elsewhere.
#[test]
fn a_node_that_cannot_be_woken_where_it_was_is_when_it_is_heard_again() {
    let mut one = One::new();
    assert_eq!(one.say(Saying::Keep, 1, 1, 0), answer(Saying::Kept, 1));
    one.parking.tell(one.number, offer(1), one.at(2000));
    for ms in 2000..20_000 {
        while let Some(event) = one.parking.poll(one.at(ms)) {
            assert!(matches!(event, Event::Transmit(_)), "{ms}");
        }
    }
    assert_eq!(one.say(Saying::Keep, 2, 9, 20_000), answer(Saying::Wake, 0));
    let returned = one.parking.resume(one.number).expect("there");
    assert_eq!(read(&returned.untold), [offer(1)]);
}

#[test]
fn a_node_that_does_not_come_back_is_gone_a_minute_after_it_was_well() {
    let mut one = One::new();
    assert_eq!(one.say(Saying::Keep, 1, 1, 0), answer(Saying::Kept, 1));
    one.parking.tell(one.number, notice(), one.at(1000));
    // It is heard, and never comes.
    assert_eq!(one.say(Saying::Keep, 2, 1, 20_000), answer(Saying::Wake, 0));
    let mut now = one.start;
    loop {
        match one.parking.poll(now) {
            Some(Event::Lost(number, _)) => break assert_eq!(number, one.number),
            Some(Event::Transmit(_)) => {}
            None => now = one.parking.poll_timeout().expect("it is waited for"),
        }
    }
    assert_eq!(now - one.start, FORGOTTEN_AFTER);
    assert!(one.parking.is_empty());
}

#[test]
fn what_waits_for_a_node_is_bounded() {
    let mut one = One::new();
    for exchange in 0..10_000 {
        one.parking.tell(one.number, offer(exchange), one.start);
    }
    let returned = one.parking.resume(one.number).expect("there");
    assert!(returned.untold.len() <= MAX_UNTOLD_BYTES);
    let all = read(&returned.untold);
    assert!(all.len() > 100);
    let expected: Vec<_> = (0..).map(offer).take(all.len()).collect();
    assert_eq!(all, expected, "the first ones");
}

#[test]
fn a_drain_wakes_all_one_after_the_other_and_nobody_who_is_asked_for_waits() {
    const MANY: usize = 2000;
    let start = Instant::now();
    let mut parking = Parking::new(start);
    let draining = || Reply::Draining(Draining { deadline_ms: 1 });
    let grants = |number: usize| {
        let fill = |out: &mut [u8], _: &[u8], _: &[u8]| {
            out.fill(1);
            out[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
            Ok::<_, Infallible>(())
        };
        Grant::export(fill).expect("it exports")
    };
    let numbers: Vec<_> = (0..MANY)
        .map(|number| {
            let grant = grants(number);
            let parked = Parked {
                grant,
                ..parked(1, start)
            };
            parking.park(parked, start).expect("free")
        })
        .collect();
    for number in &numbers {
        assert_eq!(parking.tell(*number, draining(), start), None);
    }
    let last = *numbers.last().expect("some");
    let wake = parking.tell(last, offer(1), start);
    assert!(wake.is_some(), "who is asked for does not wait");
    let mut woken = Vec::new();
    for ms in 0..5000 {
        let now = start + Duration::from_millis(ms);
        let mut at_once = 0;
        while let Some(event) = parking.poll(now) {
            let Event::Transmit(wake) = event else {
                panic!("{event:?}")
            };
            let ticket = Datagram::decode(&wake.bytes).expect("one").ticket;
            let (number, _) = parking.find(ticket).expect("there");
            parking.resume(number).expect("there");
            woken.push(number);
            at_once += 1;
        }
        assert!(at_once <= 64, "{at_once}");
    }
    woken.sort_unstable();
    assert_eq!(woken, numbers);
    assert_eq!(parking.poll_timeout(), None);
}

#[test]
fn one_that_keeps_too_often_is_not_answered() {
    let mut one = One::new();
    let answers = (0..1000)
        .filter(|n| one.say(Saying::Keep, n + 1, 9, *n) != Reaction::Unknown)
        .count();
    assert_eq!(answers, 5, "five a second");
    assert_ne!(one.say(Saying::Bye, 2000, 1, 1000), Reaction::Unknown);
}

#[test]
fn a_relay_that_goes_says_so_to_all_and_to_whoever_asks() {
    let mut one = One::new();
    let farewells: Vec<_> = one.parking.close().collect();
    let gone = Transmit {
        leg: leg(1),
        bytes: grant(1).seal(Saying::Gone, 0),
    };
    assert_eq!(farewells, [gone]);
    assert_eq!(one.say(Saying::Keep, 1, 1, 0), answer(Saying::Gone, 0));
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
