//! Files between two sides: what is offered, accepted, cut off and continued, and whatever a peer may say.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for a few things among many"
)]

use bytes::Bytes;
use proptest::prelude::*;
use remora_proto::{
    exchange::{
        files::{Files, Hash, MAX_OFFERS, Offer, Output, Over, Refused, Whose},
        name::{FileName, MAX_NAME_BYTES},
    },
    identity::Role,
    session::{Grants, Matter, Way},
    wire::message::session::{self as schema, control::Body},
};

const HASH: Hash = [7; 32];
const NOTHING: Hash = [0; 32];

fn both() -> Grants {
    Grants::both(Matter::Files)
}

fn report() -> Offer {
    Offer {
        name: FileName::new("report.pdf"),
        bytes: 1_000,
        hash: HASH,
    }
}

/// Helper and sharer, and what their shells were told.
struct Pair {
    sides: [Files; 2],
    done: [Vec<Output>; 2],
}

const HELPER: usize = 0;
const SHARER: usize = 1;

impl Pair {
    fn new(grants: Grants) -> Self {
        let sides = [Files::new(Role::Helper), Files::new(Role::Sharer)];
        let mut pair = Self {
            sides,
            done: [vec![], vec![]],
        };
        pair.grant(grants);
        pair
    }

    fn grant(&mut self, grants: Grants) {
        for side in &mut self.sides {
            side.handle_grants(grants);
        }
        self.carry();
    }

    fn carry(&mut self) {
        loop {
            let mut quiet = true;
            for from in [HELPER, SHARER] {
                while let Some(output) = self.sides[from].poll_output() {
                    quiet = false;
                    match output {
                        Output::Tell(body) => self.sides[1 - from].handle_message(&body),
                        output => self.done[from].push(output),
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn told(&mut self, side: usize) -> Vec<Output> {
        self.carry();
        std::mem::take(&mut self.done[side])
    }

    fn offers(&mut self, offer: &Offer) -> u32 {
        let number = self.sides[HELPER].offer(offer).expect("granted");
        let offer = offer.clone();
        assert_eq!(self.told(SHARER), [Output::Offered { number, offer }]);
        number
    }

    /// Up to where the bytes go.
    fn accepted(&mut self, offer: &Offer, offset: u64) -> u32 {
        let number = self.offers(offer);
        self.sides[SHARER].accept(number).expect("offered");
        let prepare = Output::Prepare {
            number,
            offer: offer.clone(),
        };
        assert_eq!(self.told(SHARER), [prepare]);
        assert!(self.sides[SHARER].handle_prepared(number, offset, NOTHING));
        let send = Output::Send {
            number,
            offset,
            hash: NOTHING,
        };
        assert_eq!(self.told(HELPER), [send]);
        number
    }
}

fn over(whose: Whose, number: u32, over: Over) -> Output {
    Output::Over {
        whose,
        number,
        over,
    }
}

#[test]
fn a_file_goes_once_it_is_accepted() {
    let mut pair = Pair::new(both());
    let number = pair.accepted(&report(), 0);
    assert_eq!(pair.sides[SHARER].handle_stream(number, 0), Some(report()));
    pair.sides[HELPER].handle_sent(number);
    pair.sides[SHARER].handle_over(Whose::Theirs, number, Over::Received);
    assert_eq!(
        pair.told(SHARER),
        [
            Output::Stop {
                whose: Whose::Theirs,
                number
            },
            over(Whose::Theirs, number, Over::Received)
        ]
    );
    assert_eq!(
        pair.told(HELPER),
        [over(Whose::Ours, number, Over::Received)]
    );
}

#[test]
fn nothing_goes_that_way_without_the_sharers_grant() {
    let mut pair = Pair::new(Grants::of(Matter::Files, Way::ToHelper));
    assert_eq!(
        pair.sides[HELPER].offer(&report()),
        Err(Refused::NotGranted)
    );
    // A modified helper's.
    let offer = schema::FileOffer {
        number: 1,
        name: "x".into(),
        bytes: 1,
        hash: Bytes::copy_from_slice(&HASH),
    };
    pair.sides[SHARER].handle_message(&Body::FileOffer(offer));
    assert_eq!(pair.told(SHARER), [], "it is declined, and nobody is asked");
    assert!(pair.sides[SHARER].offer(&report()).is_ok());
    assert_eq!(pair.told(HELPER).len(), 1);
}

#[test]
fn a_declined_file_does_not_go() {
    let mut pair = Pair::new(both());
    let number = pair.offers(&report());
    pair.sides[SHARER]
        .give_up(Whose::Theirs, number)
        .expect("offered");
    assert_eq!(
        pair.told(HELPER),
        [over(Whose::Ours, number, Over::Declined)]
    );
    assert_eq!(pair.sides[SHARER].accept(number), Err(Refused::NoSuchOffer));
    assert_eq!(pair.sides[SHARER].handle_stream(number, 0), None);
}

#[test]
fn a_grant_that_ends_stops_what_is_under_way_and_one_that_comes_back_goes_on_with_it() {
    let mut pair = Pair::new(both());
    let number = pair.accepted(&report(), 0);
    assert!(pair.sides[SHARER].handle_stream(number, 0).is_some());
    pair.grant(Grants::NONE);
    let stopped = |whose| Output::Stop { whose, number };
    assert_eq!(pair.told(HELPER), [stopped(Whose::Ours)]);
    assert_eq!(pair.told(SHARER), [stopped(Whose::Theirs)]);
    pair.grant(both());
    let offer = report();
    assert_eq!(pair.told(SHARER), [Output::Prepare { number, offer }]);
    assert!(pair.sides[SHARER].handle_prepared(number, 400, HASH));
    let (offset, hash) = (400, HASH);
    assert_eq!(
        pair.told(HELPER),
        [Output::Send {
            number,
            offset,
            hash
        }]
    );
    assert_eq!(
        pair.sides[SHARER].handle_stream(number, 300),
        None,
        "neither there nor the beginning"
    );
    assert!(pair.sides[SHARER].handle_stream(number, 400).is_some());
}

#[test]
fn one_goes_at_a_time() {
    let mut pair = Pair::new(both());
    let first = pair.accepted(&report(), 0);
    let second = pair.offers(&report());
    pair.sides[SHARER].accept(second).expect("offered");
    pair.carry();
    assert!(pair.sides[SHARER].handle_prepared(second, 0, NOTHING));
    assert_eq!(pair.told(HELPER), []);
    pair.sides[HELPER].handle_sent(first);
    assert!(matches!(pair.told(HELPER)[..], [Output::Send { number, .. }] if number == second));
}

#[test]
fn so_many_may_wait_and_no_more() {
    let mut pair = Pair::new(both());
    for _ in 0..MAX_OFFERS {
        pair.offers(&report());
    }
    assert_eq!(pair.sides[HELPER].offer(&report()), Err(Refused::TooMany));
    // A modified helper's.
    let forged = |number| {
        Body::FileOffer(schema::FileOffer {
            number,
            name: "x".into(),
            bytes: 1,
            hash: Bytes::copy_from_slice(&HASH),
        })
    };
    for number in 100..1_000 {
        pair.sides[SHARER].handle_message(&forged(number));
    }
    assert_eq!(pair.told(SHARER), []);
    pair.sides[HELPER]
        .give_up(Whose::Ours, 1)
        .expect("it waits");
    assert_eq!(pair.told(SHARER), [over(Whose::Theirs, 1, Over::Withdrawn)]);
    pair.sides[SHARER].handle_message(&forged(1_000));
    assert!(matches!(
        pair.told(SHARER)[..],
        [Output::Offered { number: 1_000, .. }]
    ));
}

/// A name that somebody may send to do harm.
fn hostile() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        Just("..".to_owned()),
        Just("/".to_owned()),
        Just("\\".to_owned()),
        Just("\0".to_owned()),
        Just("\u{202e}".to_owned()),
        Just("~".to_owned()),
        Just("CON".to_owned()),
        Just(".".to_owned()),
        Just("é".repeat(99)),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn no_name_leaves_its_folder(said in hostile()) {
        let name = FileName::new(&said);
        for name in [name.clone(), name.numbered(u32::MAX)] {
            let path = std::path::Path::new("/downloads").join(name.as_str());
            prop_assert_eq!(path.parent(), Some(std::path::Path::new("/downloads")));
            prop_assert_eq!(path.file_name(), Some(name.as_str().as_ref()));
            prop_assert!(!name.as_str().starts_with('.'));
            prop_assert!(!name.as_str().contains(['/', '\\', '\0', ':']));
            prop_assert!(!name.as_str().chars().any(remora_proto::line::is_unsafe_in_line));
            prop_assert!(!name.as_str().is_empty() && name.as_str().len() <= 255);
        }
        prop_assert!(name.as_str().len() <= MAX_NAME_BYTES);
        prop_assert_eq!(FileName::new(name.as_str()), name);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Grant(bool, bool),
    Offer(u32, usize),
    Accept(u32, u64, usize),
    End(u32, bool, i32),
    Mine(u8, u32),
    Stream(u32, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..12u32;
    prop_oneof![
        (any::<bool>(), any::<bool>()).prop_map(|(to, from)| Step::Grant(to, from)),
        (number.clone(), 30..34usize).prop_map(|(number, hash)| Step::Offer(number, hash)),
        (number.clone(), any::<u64>(), 30..34usize)
            .prop_map(|(n, at, hash)| Step::Accept(n, at, hash)),
        (number.clone(), any::<bool>(), -1..9).prop_map(|(n, yours, why)| Step::End(n, yours, why)),
        (0..8u8, number.clone()).prop_map(|(what, number)| Step::Mine(what, number)),
        (number, 0..3u64).prop_map(|(number, at)| Step::Stream(number, at)),
    ]
}

proptest! {
    /// Whatever the other side says, and in whatever order: nothing goes or comes that is not granted and accepted, and what
    /// waits is bounded.
    #[test]
    fn nothing_moves_without_grant_and_consent(steps in prop::collection::vec(step(), 0..200)) {
        let mut sharer = Files::new(Role::Sharer);
        let (mut accepted, mut asked) = (std::collections::BTreeSet::new(), 0usize);
        for step in steps {
            match step {
                Step::Grant(to, from) => {
                    let way = |on, way| if on { Grants::of(Matter::Files, way) } else { Grants::NONE };
                    sharer.handle_grants(way(to, Way::ToHelper) | way(from, Way::ToSharer));
                }
                Step::Offer(number, hash) => sharer.handle_message(&Body::FileOffer(schema::FileOffer {
                    number, name: "../x".into(), bytes: 5, hash: vec![1; hash].into(),
                })),
                Step::Accept(number, offset, hash) => sharer.handle_message(&Body::FileAccept(schema::FileAccept {
                    number, offset, hash: vec![1; hash].into(),
                })),
                Step::End(number, yours, reason) => sharer.handle_message(&Body::FileEnd(schema::FileEnd {
                    number, yours, reason,
                })),
                Step::Mine(what, number) => match what {
                    0 => { sharer.offer(&report()).ok(); }
                    1 => if sharer.accept(number).is_ok() {
                        prop_assert!(sharer.may_receive());
                        accepted.insert(number);
                    },
                    2 => { sharer.give_up(Whose::Theirs, number).ok(); }
                    3 => { sharer.give_up(Whose::Ours, number).ok(); }
                    4 => { sharer.handle_prepared(number, 2, HASH); }
                    5 => sharer.handle_sent(number),
                    6 => sharer.handle_cut_off(number),
                    _ => sharer.handle_over(Whose::Theirs, number, Over::Received),
                },
                Step::Stream(number, offset) => if sharer.handle_stream(number, offset).is_some() {
                    prop_assert!(sharer.may_receive() && accepted.contains(&number));
                    prop_assert!(offset == 0 || offset == 2);
                },
            }
            while let Some(output) = sharer.poll_output() {
                match output {
                    Output::Send { .. } => prop_assert!(sharer.may_send()),
                    Output::Prepare { number, .. } => prop_assert!(sharer.may_receive() && accepted.contains(&number)),
                    Output::Offered { offer, .. } => {
                        prop_assert!(sharer.may_receive());
                        prop_assert_eq!(offer.name.as_str(), "x");
                        asked += 1;
                    }
                    Output::Over { whose: Whose::Theirs, .. } => asked -= 1,
                    _ => {}
                }
            }
            prop_assert!(asked <= MAX_OFFERS);
        }
    }
}
