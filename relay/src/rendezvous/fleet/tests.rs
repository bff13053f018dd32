use std::sync::atomic::{AtomicUsize, Ordering as Atomically};

use ed25519_dalek::SigningKey;
use prometheus::Registry;
use remora_proto::{
    id::DeviceId,
    record::{HostRole, Present, Subject, Waiting},
    wire::message::mesh::{self as wire, Reason},
};

use super::{hand_out::Outcome, *};
use crate::{
    mesh::{self, Ends, Neighbours, done},
    rendezvous::store::Account,
};

const ME: RelayId = RelayId([1; 32]);
const NODE: NodeId = NodeId([7; 32]);

/// A fleet of this relay and `others`; what each of those was asked, and how many of them answer.
struct Bench {
    fleet: Fleet,
    asked: Arc<Mutex<Vec<(RelayId, Ask)>>>,
    answering: Arc<AtomicUsize>,
}

impl Bench {
    fn new(others: u8) -> Self {
        let Ends { mesh, work, .. } = mesh::ends();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answering = Arc::new(AtomicUsize::new(others.into()));
        let (asks, answers) = (Arc::clone(&asked), Arc::clone(&answering));
        let relays: Vec<_> = (1..=others + 1).map(|n| RelayId([n; 32])).collect();
        work.play(relays, move |relay, ask| {
            asks.lock().expect("whole").push((relay, ask));
            let is_there = usize::from(relay.0[0]) - 2 < answers.load(Atomically::Relaxed);
            Some(is_there.then(done).ok_or(AskError::Unreachable))
        });
        let shelf = Arc::new(Shelf::new(10, ME, "default".into()));
        let metrics = Arc::new(Metrics::new(&Registry::new()).expect("new names"));
        let fleet = Fleet::new(shelf, mesh, mpsc::channel(1).0, metrics);
        Self {
            fleet,
            asked,
            answering,
        }
    }

    fn asked(&self) -> Vec<(RelayId, Ask)> {
        std::mem::take(&mut *self.asked.lock().expect("whole"))
    }
}

fn publication(live_for_ms: u64) -> Publication {
    let (signing, now) = (SigningKey::from_bytes(&[3; 32]), unix_ms());
    let record = Record {
        realm: "default".into(),
        key: RecordKey([4; 32]),
        publisher: signing.verifying_key().to_bytes(),
        subject: Subject::Waiting(Waiting {
            nonce: [5; 16],
            role: HostRole::Helper,
        }),
        not_before_ms: now - 1000,
        expiry_ms: now + live_for_ms,
        sequence: 1,
    };
    Publication::of_node(&record, record.encode_signed(&signing), NODE, ME, now)
}

#[tokio::test]
async fn what_few_keep_is_taken_back_from_all_but_not_what_was_there_before() {
    let (bench, publication) = (Bench::new(4), publication(60_000));
    let key = publication.key();
    assert_eq!(publication.account(), Account::Node(NODE));
    bench.answering.store(1, Atomically::Relaxed);
    let put = bench.fleet.put(publication.clone()).await;
    assert_eq!(put, Err(PutRefused::NoQuorum));
    assert_eq!(bench.fleet.shelf.look(key), Found::Absent);
    let asked = bench.asked();
    let forget = asked
        .iter()
        .filter(|(_, ask)| matches!(ask, Ask::Forget(_)));
    assert_eq!(forget.count(), 4, "also who has not answered");

    bench.answering.store(2, Atomically::Relaxed);
    assert_eq!(bench.fleet.put(publication.clone()).await, Ok(()));
    // Its connection broke, and it is back; and then too few answer.
    bench.fleet.let_go(key);
    bench.answering.store(0, Atomically::Relaxed);
    bench.asked();
    let put = bench.fleet.put(publication).await;
    assert_eq!(put, Err(PutRefused::NoQuorum));
    assert!(matches!(bench.fleet.shelf.look(key), Found::Live { .. }));
    let asked = bench.asked();
    assert!(asked.iter().all(|(_, ask)| matches!(ask, Ask::Keep(_))));
}

fn device(sequence: u64) -> Publication {
    let (signing, now) = (SigningKey::from_bytes(&[6; 32]), unix_ms());
    let publisher = signing.verifying_key().to_bytes();
    let record = Record {
        realm: "default".into(),
        key: RecordKey::of_device(DeviceId(publisher), "default"),
        publisher,
        subject: Subject::Present(Present {
            relay: ME,
            agents: 1,
        }),
        not_before_ms: now,
        expiry_ms: now + 60_000,
        sequence,
    };
    Publication::of_node(&record, record.encode_signed(&signing), NODE, ME, now)
}

#[tokio::test]
async fn a_device_is_there_however_few_others_keep_it_and_they_have_it_later() {
    let (bench, first) = (Bench::new(4), device(1));
    let key = first.key();
    assert_eq!(bench.fleet.put(first).await, Ok(()));
    assert!(!bench.fleet.takes_unplaced());
    bench.answering.store(0, Atomically::Relaxed);
    let second = device(2);
    assert_eq!(bench.fleet.put(second.clone()).await, Ok(()));
    assert!(bench.fleet.takes_unplaced(), "soon, not in half a minute");
    let here = |fleet: &Fleet| fleet.shelf.sight(key).map(|sighting| sighting.gone_unix_ms);
    assert_eq!(here(&bench.fleet), Some(None));
    bench.asked();
    let kept = |asked: Vec<(RelayId, Ask)>, ended| {
        let is_it = |ask: &Ask| matches!(ask, Ask::Keep(keep) if keep.record == *second.bytes() && keep.ended() == ended);
        asked.iter().filter(|(_, ask)| is_it(ask)).count()
    };
    let neighbours = Neighbours::default();
    let round = bench.fleet.republish(&neighbours, || false).await;
    assert_eq!(round.all, Outcome::Unheard, "to be tried again soon");
    assert_eq!(kept(bench.asked(), Gone::Unspecified), 4);
    bench.answering.store(4, Atomically::Relaxed);
    let round = bench.fleet.republish(&neighbours, || false).await;
    assert_eq!(round.all, Outcome::Settled);
    assert_eq!(kept(bench.asked(), Gone::Unspecified), 4);
    // That it has gone is told, and then nothing more is done for it.
    bench.fleet.let_go(key);
    bench.fleet.tell_gone().await;
    assert_eq!(kept(bench.asked(), Gone::Cancelled), 4);
    assert!(here(&bench.fleet).flatten().is_some());
    assert!(bench.fleet.own().is_empty());
}

#[tokio::test]
async fn who_is_busy_is_asked_again_and_nothing_is_lost() {
    let Ends { mesh, work, .. } = mesh::ends();
    let mut tries = 0;
    work.play(vec![ME, RelayId([2; 32])], move |_, _| {
        tries += 1;
        let is_busy = tries % 3 != 0;
        Some(if is_busy {
            Err(AskError::Refused(Reason::Busy))
        } else {
            Ok(done())
        })
    });
    let shelf = Arc::new(Shelf::new(10, ME, "default".into()));
    let metrics = Arc::new(Metrics::new(&Registry::new()).expect("new names"));
    let fleet = Fleet::new(shelf, mesh, mpsc::channel(1).0, metrics);
    // What somebody waits for, and what nobody does.
    assert_eq!(fleet.put(publication(60_000)).await, Ok(()));
    fleet.own().values_mut().for_each(|own| own.placed.clear());
    let round = fleet.republish(&Neighbours::default(), || false).await;
    assert_eq!(round.all, Outcome::Settled);
}

#[tokio::test]
async fn what_has_changed_meanwhile_is_looked_at_before_all_is_handed_out() {
    let bench = Bench::new(4);
    assert_eq!(bench.fleet.put(publication(60_000)).await, Ok(()));
    bench.asked();
    let (neighbours, stale) = (Neighbours::default(), || true);
    let round = bench.fleet.republish(&neighbours, stale).await;
    assert_eq!(round.all, Outcome::Unheard);
    assert!(bench.asked().is_empty());
}

#[tokio::test]
async fn one_relay_that_says_the_key_is_held_is_not_believed_and_two_are() {
    for (liars, expected) in [(1, Ok(())), (2, Err(PutRefused::Taken))] {
        let Ends { mesh, work, .. } = mesh::ends();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let asks = Arc::clone(&asked);
        let relays: Vec<_> = (2..=6).map(|n| RelayId([n; 32])).collect();
        work.play(relays, move |relay, ask| {
            let is_liar = relay.0[0] < 2 + liars && matches!(ask, Ask::Keep(_));
            asks.lock().expect("whole").push(ask);
            Some(if is_liar {
                Err(AskError::Refused(Reason::Taken))
            } else {
                Ok(done())
            })
        });
        let shelf = Arc::new(Shelf::new(10, ME, "default".into()));
        let metrics = Arc::new(Metrics::new(&Registry::new()).expect("new names"));
        let fleet = Fleet::new(shelf, mesh, mpsc::channel(1).0, metrics);
        let publication = publication(60_000);
        assert_eq!(fleet.put(publication.clone()).await, expected);
        let asked = asked.lock().expect("whole");
        let forgets = asked.iter().filter(|ask| matches!(ask, Ask::Forget(_)));
        assert_eq!(forgets.count(), if expected.is_ok() { 0 } else { 5 });
        let is_kept = matches!(fleet.shelf.look(publication.key()), Found::Live { .. });
        assert_eq!(is_kept, expected.is_ok());
    }
}

/// How a record ends up of which `held` of the closest relays keep this one's, and `taken` another that was published so much later.
async fn contested(held: u8, taken: u8, later_ms: i64) -> (bool, bool) {
    let Ends { mesh, work, .. } = mesh::ends();
    let ours = publication(60_000);
    let theirs = {
        let signing = SigningKey::from_bytes(&[9; 32]);
        let record = Record::decode_ended(ours.bytes(), unix_ms()).expect("valid");
        let record = Record {
            publisher: signing.verifying_key().to_bytes(),
            not_before_ms: (record.not_before_ms)
                .checked_add_signed(later_ms)
                .expect("a time"),
            ..record
        };
        wire::Found {
            record: record.encode_signed(&signing),
            relay: Bytes::copy_from_slice(&[9; 32]),
            ..wire::Found::default()
        }
    };
    let others: Vec<_> = (2..2 + held + taken).map(|n| RelayId([n; 32])).collect();
    // While they were apart, everybody kept it who was there.
    let is_healed = Arc::new(AtomicUsize::new(0));
    let healed = Arc::clone(&is_healed);
    let has_theirs = move |relay: RelayId| relay.0[0] >= 2 + held;
    work.play(others, move |relay, ask| {
        let is_apart = healed.load(Atomically::Relaxed) == 0;
        Some(if !has_theirs(relay) {
            Ok(done())
        } else if is_apart {
            Err(AskError::Unreachable)
        } else if matches!(ask, Ask::Find(_)) {
            Ok(Answer::Found(theirs.clone()))
        } else if matches!(ask, Ask::Keep(_)) {
            Err(AskError::Refused(Reason::Taken))
        } else {
            Ok(done())
        })
    });
    let shelf = Arc::new(Shelf::new(10, ME, "default".into()));
    let metrics = Arc::new(Metrics::new(&Registry::new()).expect("new names"));
    let (lost, mut told) = mpsc::channel(1);
    let fleet = Fleet::new(shelf, mesh, lost, metrics);
    let key = ours.key();
    // As it was put when there were no others.
    fleet.shelf.put(ours.clone()).expect("room");
    fleet.own().insert(key, Own::new(ours));
    fleet.republish(&Neighbours::default(), || false).await;
    assert!(told.try_recv().is_err());
    is_healed.store(1, Atomically::Relaxed);
    let round = fleet.republish(&Neighbours::default(), || false).await;
    let is_contested = round.all == Outcome::Contested;
    let is_told = told.try_recv() == Ok(key);
    assert_eq!(fleet.shelf.look(key) == Found::Absent, is_told);
    assert_eq!(fleet.own().contains_key(&key), !is_told);
    (is_contested, is_told)
}

#[tokio::test]
async fn of_two_records_that_met_the_one_stays_that_more_have_and_of_as_many_the_first() {
    let (stays, goes) = ((true, false), (false, true));
    for (held, taken, later_ms, expected) in [
        (3, 2, -5, stays),
        (2, 3, 5, goes),
        (2, 2, 5, stays),
        (2, 2, -5, goes),
        (1, 1, -5, goes),
        (0, 2, 5, goes),
        // One relay alone may say what it wants, among others.
        (0, 1, 5, goes),
        (2, 1, -5, stays),
        (3, 0, 0, (false, false)),
    ] {
        let ended = contested(held, taken, later_ms).await;
        assert_eq!(ended, expected, "{held} {taken} {later_ms}");
    }
}

#[tokio::test]
async fn the_end_of_a_code_is_told_also_when_its_node_was_gone_meanwhile() {
    let (bench, publication) = (Bench::new(4), publication(60_000));
    let key = publication.key();
    assert_eq!(bench.fleet.put(publication).await, Ok(()));
    bench.fleet.let_go(key);
    bench.asked();
    bench
        .fleet
        .republish(&Neighbours::default(), || false)
        .await;
    assert_eq!(bench.asked(), [], "it may have moved");
    let withdrawn = bench.fleet.withdraw(key, NODE, Ended::Cancelled).await;
    assert_eq!(withdrawn, Ok(()));
    let asked = bench.asked();
    assert_eq!(asked.len(), 4);
    for (_, ask) in asked {
        let Ask::Keep(keep) = ask else {
            panic!("not kept")
        };
        assert_eq!(keep.ended(), Gone::Cancelled);
    }
}

#[tokio::test]
async fn what_was_heard_counts_when_the_others_take_too_long() {
    let Ends { mesh, work, .. } = mesh::ends();
    let publication = publication(60_000);
    let found = wire::Found {
        record: publication.bytes().clone(),
        relay: Bytes::copy_from_slice(&[2; 32]),
        ..wire::Found::default()
    };
    let relays = (2..=4).map(|n| RelayId([n; 32])).collect();
    // One answers, the others never do.
    work.play(relays, move |relay, _| {
        (relay.0[0] == 2).then(|| Ok(Answer::Found(found.clone())))
    });
    let shelf = Arc::new(Shelf::new(10, ME, "default".into()));
    let metrics = Arc::new(Metrics::new(&Registry::new()).expect("new names"));
    let fleet = Fleet::new(shelf, mesh, mpsc::channel(1).0, metrics);
    let began = time::Instant::now();
    let found = fleet.find(publication.key()).await;
    assert!(matches!(found, Found::Live { relay, .. } if relay == RelayId([2; 32])));
    assert!(began.elapsed() < FIND_TIMEOUT);
}

#[tokio::test]
async fn what_has_expired_is_handed_out_as_its_tombstone() {
    let (bench, publication) = (Bench::new(4), publication(1));
    let key = publication.key();
    assert_eq!(bench.fleet.put(publication.clone()).await, Ok(()));
    bench.asked();
    for own in bench.fleet.own().values_mut() {
        own.expires = Instant::now();
        own.placed.clear();
    }
    bench
        .fleet
        .republish(&Neighbours::default(), || false)
        .await;
    let asked = bench.asked();
    assert_eq!(asked.len(), 4);
    let there = Shelf::new(10, RelayId([2; 32]), "default".into());
    let record = Record::decode_ended(publication.bytes(), unix_ms());
    let expiry_ms = record.expect("valid").expiry_ms;
    while unix_ms() < expiry_ms {
        tokio::task::yield_now().await;
    }
    for (_, ask) in asked {
        let Ask::Keep(keep) = ask else {
            panic!("not kept")
        };
        assert_eq!(keep.ended(), Gone::Expired);
        // Also by a relay that has never had it.
        assert_eq!(there.keep(ME, keep), done());
        assert_eq!(there.look(key), Found::Ended(Ended::Expired));
    }
}

fn live(record: &'static [u8], relay: u8) -> Found {
    Found::Live {
        record: Bytes::from_static(record),
        relay: RelayId([relay; 32]),
    }
}

fn tally(all: &[Found]) -> Tally {
    let mut tally = Tally::default();
    for found in all {
        tally.count(found.clone());
    }
    tally
}

#[test]
fn what_most_relays_say_is_believed_and_a_tombstone_before_a_record() {
    let used = Found::Ended(Ended::Used);
    let (a, b) = (live(b"a", 1), live(b"b", 2));
    for (said, expected) in [
        (&[][..], &Found::Absent),
        (&[Found::Absent, Found::Absent], &Found::Absent),
        (&[Found::Absent, a.clone()], &a),
        (&[a.clone(), used.clone()], &used),
        (&[a.clone(), used.clone(), a.clone()], &a),
        (&[b.clone(), a.clone(), a.clone()], &a),
        (&[b.clone(), a.clone()], &b),
    ] {
        assert_eq!(&tally(said).found(), expected, "{said:?}");
    }
    assert!(tally(&[a.clone(), a.clone()]).is_decided());
    assert!(tally(&[used.clone(), a.clone(), used.clone()]).is_decided());
    for said in [&[a.clone()][..], &[a.clone(), b], &[a.clone(), used, a]] {
        assert!(!tally(said).is_decided(), "{said:?}");
    }
}
