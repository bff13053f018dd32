//! A relay that lies. It swaps keys, replays, flips bytes, reorders, holds back, answers for the helper; at worst there
//! is no session, and whoever is in one talks to the right person and hears what that person said, in order.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail anywhere, looks for one thing among many, and reads one clock"
)]

mod people;

use std::time::{Duration, Instant};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use people::{
    Held, Met, Party, Person, REALM, UNIX_MS, epoch, host, joiner, meet, network, peer_of, profile,
    shared,
};
use prost::Message;
use remora_proto::{
    code::Code,
    id::Side,
    identity::{Introduction, Role},
    noise::Profile as Noise,
    pake::{Inputs, Responder, lv_cat},
    random::Random,
    record::{HostRole, Record, Waiting},
    rendezvous::JoinFailure,
    sas::{Nonce, Words},
    session::{Command, Event, Mode, Phase},
    sim::{Direction, End, Network, Verdict},
    wire::message::session::{Confirmation, Rendezvous, Share, ShareReply, rendezvous::Body},
};

const LINES: usize = 12;
const PATIENCE: Duration = Duration::from_secs(120);

/// What this relay does, all derived from the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Nothing: the control, or a harness that never works would pass.
    Honest,
    /// Puts keys of its own into the exchange.
    SwapsShares,
    /// Flips one bit of one rendezvous message.
    FlipsRendezvous,
    /// Gives one side messages of an earlier meeting.
    ReplaysRendezvous,
    /// Publishes a record of its own under the locator, and guesses the code.
    AnswersForHelper,
    /// Flips a bit in every tenth packet.
    FlipsPackets,
    /// Delays, doubles and drops packets.
    ReordersPackets,
    /// Gives back packets of an earlier session, and of this one.
    ReplaysPackets,
}

const LIES: [Lie; 8] = [
    Lie::Honest,
    Lie::SwapsShares,
    Lie::FlipsRendezvous,
    Lie::ReplaysRendezvous,
    Lie::AnswersForHelper,
    Lie::FlipsPackets,
    Lie::ReordersPackets,
    Lie::ReplaysPackets,
];

fn below(random: &mut Random, end: usize) -> usize {
    usize::try_from(u64::from_be_bytes(random.bytes()) % end as u64).unwrap()
}

fn flip(bytes: &mut [u8], random: &mut Random) {
    if !bytes.is_empty() {
        let at = below(random, bytes.len());
        bytes[at] ^= 1 << below(random, 8);
    }
}

/// An honest meeting, for its messages.
fn earlier_messages(seed: u64, now: Instant) -> Vec<Held> {
    let mut host = host(seed ^ 0xffff, now);
    let mut joiner = joiner(host.code().clone(), seed ^ 0xfffe, now);
    let seen = shared(Vec::new());
    let tap = seen.clone();
    meet(&mut host, &mut joiner, now, move |held| {
        tap.borrow_mut().push(held.clone());
        vec![held]
    });
    seen.take()
}

fn same_kind(a: &Held, b: &Held) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

/// Runs the meeting through the relay's lie.
fn meeting(lie: Lie, seed: u64, now: Instant) -> Met {
    let mut random = Random::seeded(seed);
    let mut host = host(seed, now);
    let mut joiner = joiner(host.code().clone(), seed + 1, now);
    let target = below(&mut random, 4);
    let mut count = 0;
    let earlier = earlier_messages(seed, now);
    let mut impostor = Impostor::new(host.code(), seed);
    meet(&mut host, &mut joiner, now, |mut held| {
        count += 1;
        match lie {
            Lie::SwapsShares => impostor.swap(&mut held),
            Lie::FlipsRendezvous if count == target + 1 => flip(held.bytes(), &mut random),
            Lie::ReplaysRendezvous if count > target => {
                if let Some(old) = earlier.iter().find(|old| same_kind(old, &held)) {
                    held = old.clone();
                }
            }
            Lie::AnswersForHelper => return impostor.answer(held),
            _ => {}
        }
        vec![held]
    })
}

/// Plays the host towards the joiner: with a record of its own under the right locator, and a guess for the code.
struct Impostor {
    record: Record<Waiting>,
    signed: Vec<u8>,
    guess: &'static [u8],
    random: Random,
}

impl Impostor {
    fn new(code: &Code, seed: u64) -> Self {
        let mut random = Random::seeded(seed + 2);
        let key = SigningKey::from_bytes(&random.bytes());
        let record = Record {
            realm: REALM.into(),
            key: code.locator_key(REALM, UNIX_MS),
            publisher: key.verifying_key().to_bytes(),
            subject: Waiting {
                nonce: random.bytes(),
                role: HostRole::Helper,
            },
            not_before_ms: UNIX_MS,
            expiry_ms: UNIX_MS + 600_000,
            sequence: 9,
        };
        // One guess in 33 million is right; this one is not.
        let guess = if code.to_string() == "0000-0000" {
            b"11111111"
        } else {
            b"00000000"
        };
        Self {
            signed: record.encode_signed(&key).to_vec(),
            record,
            guess,
            random,
        }
    }

    fn inputs(&self, nonce: &[u8]) -> Inputs {
        let channel = lv_cat(&[
            b"mnq1",
            REALM.as_bytes(),
            b"host=helper",
            b"joiner=sharer",
            &self.record.publisher,
        ]);
        Inputs {
            channel,
            session: [&self.record.subject.nonce[..], nonce].concat(),
        }
    }

    /// A valid share of the relay's own, in place of the one that passes.
    fn swap(&mut self, held: &mut Held) {
        let inputs = self.inputs(&[0; 16]);
        let point = Responder::respond(self.guess, &inputs, &base_point(), &mut self.random)
            .unwrap()
            .share();
        let point = Bytes::copy_from_slice(&point);
        let (Held::Join(bytes) | Held::SignalToJoiner(bytes)) = held else {
            return;
        };
        let body = match Rendezvous::decode(&bytes[..]).unwrap().body.unwrap() {
            Body::Share(share) => Body::Share(Share { point, ..share }),
            Body::ShareReply(_) => Body::ShareReply(ShareReply { point }),
            other => other,
        };
        *bytes = Rendezvous { body: Some(body) }.encode_to_vec();
    }

    fn answer(&mut self, held: Held) -> Vec<Held> {
        let said = |body| Rendezvous { body: Some(body) }.encode_to_vec();
        match held {
            Held::Record(_) => vec![Held::Record(self.signed.clone())],
            Held::Join(payload) => {
                let Some(Body::Share(share)) = Rendezvous::decode(&payload[..]).unwrap().body
                else {
                    panic!("a share")
                };
                let ya = share.point[..].try_into().unwrap();
                let inputs = self.inputs(&share.nonce);
                let yb = Responder::respond(self.guess, &inputs, &ya, &mut self.random)
                    .unwrap()
                    .share();
                let point = Bytes::copy_from_slice(&yb);
                vec![
                    Held::Started(vec![]),
                    Held::SignalToJoiner(said(Body::ShareReply(ShareReply { point }))),
                ]
            }
            // The joiner has shown its tag; the relay can only invent its own.
            Held::SignalToHost(_) => {
                let tag = Bytes::copy_from_slice(&self.random.bytes::<32>());
                vec![Held::Admit(said(Body::ConfirmationReply(Confirmation {
                    tag,
                })))]
            }
            held => vec![held],
        }
    }
}

/// ristretto255's generator, as any peer may send it.
fn base_point() -> [u8; 32] {
    hex::decode("e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76")
        .unwrap()
        .try_into()
        .unwrap()
}

// ---- packets -------------------------------------------------------------------------------------

fn tamper(lie: Lie, network: &mut Network, seed: u64, earlier: Vec<(Direction, Vec<u8>)>) {
    let mut random = Random::seeded(seed + 3);
    let mut seen: Vec<(Direction, Vec<u8>)> = earlier;
    network.tamper(move |direction, packet| {
        let chance = below(&mut random, 100);
        match lie {
            Lie::FlipsPackets if chance < 10 => flip(packet, &mut random),
            Lie::ReordersPackets if chance < 10 => return Verdict::Drop,
            Lie::ReordersPackets if chance < 20 => return Verdict::DeliverTwice,
            Lie::ReordersPackets if chance < 60 => {
                return Verdict::DeliverAfter(Duration::from_millis(below(&mut random, 80) as u64));
            }
            Lie::ReplaysPackets => {
                seen.push((direction, packet.clone()));
                if chance < 30 {
                    let old = seen
                        .iter()
                        .filter(|(way, _)| *way == direction)
                        .collect::<Vec<_>>();
                    *packet = old[below(&mut random, old.len())].1.clone();
                }
            }
            _ => {}
        }
        Verdict::Deliver
    });
}

fn lines(role: Role) -> Vec<String> {
    (0..LINES).map(|n| format!("{role:?} says {n}")).collect()
}

/// How a session between the two went.
struct Outcome {
    helper: Option<Person>,
    sharer: Option<Person>,
}

fn session(
    lie: Lie,
    seed: u64,
    met: &Met,
    epoch: Instant,
    earlier: Vec<(Direction, Vec<u8>)>,
    record: Option<std::rc::Rc<std::cell::RefCell<Vec<(Direction, Vec<u8>)>>>>,
) -> Outcome {
    let (helper, sharer) = (
        Party::new(Role::Helper, seed + 4),
        Party::new(Role::Sharer, seed + 5),
    );
    let noise = if seed.is_multiple_of(2) {
        Noise::E2ePq
    } else {
        Noise::E2e
    };
    let mut network = network(seed, epoch, &helper, met.host_keys.as_ref().unwrap());
    match record {
        Some(record) => network.tamper(move |direction, packet| {
            record.borrow_mut().push((direction, packet.clone()));
            Verdict::Deliver
        }),
        None => tamper(lie, &mut network, seed, earlier),
    }
    network
        .connect(sharer.client(met.joiner_keys.as_ref().unwrap(), noise))
        .unwrap();
    let mut people: [Option<Person>; 2] = [None, None];
    let mut script = Script::default();
    network.run_until(PATIENCE, |network| {
        let now = network.now();
        take_turn(
            &mut people[0],
            &helper,
            Side::Host,
            &mut network.server,
            now,
        );
        take_turn(
            &mut people[1],
            &sharer,
            Side::Joiner,
            &mut network.client,
            now,
        );
        script.go_on(&mut people, now);
        people
            .iter()
            .flatten()
            .filter(|person| person.receipt().is_some())
            .count()
            == 2
    });
    let [helper, sharer] = people;
    Outcome { helper, sharer }
}

fn take_turn(person: &mut Option<Person>, party: &Party, side: Side, end: &mut End, now: Instant) {
    if person.is_none() && end.is_connected() {
        *person = Person::new(party, side, end, now);
    }
    if let Some(person) = person {
        person.turn(end, now);
    }
}

/// What the two do when they get to it.
#[derive(Default)]
struct Script {
    asked: bool,
    allowed: bool,
    spoke: [bool; 2],
    left: bool,
}

impl Script {
    fn go_on(&mut self, people: &mut [Option<Person>; 2], now: Instant) {
        let [Some(helper), Some(sharer)] = people else {
            return;
        };
        let has = |person: &Person, wanted: fn(&Event) -> bool| person.events.iter().any(wanted);
        if !self.asked && has(helper, |event| matches!(event, Event::Trust { .. })) {
            self.asked = helper
                .session
                .handle_command(Command::AskMode(Mode::Control), now)
                .is_ok();
        }
        if !self.allowed && has(sharer, |event| matches!(event, Event::ConsentPrompt { .. })) {
            self.allowed = sharer
                .session
                .handle_command(Command::Allow(Mode::View), now)
                .is_ok();
        }
        if sharer.session.phase() == Phase::Starting {
            let up = sharer.session.handle_command(Command::CaptureUp, now);
            up.expect("starting");
        }
        for (person, role, spoke) in [
            (&mut *helper, Role::Helper, 0),
            (&mut *sharer, Role::Sharer, 1),
        ] {
            if !self.spoke[spoke] && has(person, |event| matches!(event, Event::Started { .. })) {
                self.spoke[spoke] = true;
                for line in lines(role) {
                    person
                        .session
                        .handle_command(Command::Chat(line), now)
                        .unwrap();
                }
            }
        }
        if !self.left && helper.chat().len() == LINES && sharer.chat().len() == LINES {
            self.left = helper.session.handle_command(Command::Leave, now).is_ok();
        }
    }
}

/// Whoever got into a session sees the right person and hears a prefix of what that person said.
fn assert_nobody_was_fooled(held: &Outcome, what: &str) {
    for (person, role) in [(&held.helper, Role::Helper), (&held.sharer, Role::Sharer)] {
        let Some(person) = person else { continue };
        for event in &person.events {
            if let Event::Trust { peer, .. } = event {
                assert_eq!(*peer, profile(role.peer()), "{what}");
            }
        }
        let said = lines(role.peer());
        let heard = person.chat();
        assert!(
            heard.len() <= said.len() && heard.iter().zip(&said).all(|(h, s)| h == s),
            "{what}: {heard:?}"
        );
    }
    let words = |person: &Option<Person>| {
        person.as_ref().and_then(|person| {
            person.events.iter().find_map(|event| match event {
                Event::Trust { words, .. } => Some(*words),
                _ => None,
            })
        })
    };
    if let (Some(a), Some(b)) = (words(&held.helper), words(&held.sharer)) {
        assert_eq!(
            a, b,
            "{what}: a session between the two shows the same words"
        );
    }
}

#[test]
fn a_lying_relay_fools_nobody_in_a_thousand_runs() {
    let epoch = epoch();
    let mut complete = [0; LIES.len()];
    for seed in 0..1000 {
        let kind = usize::try_from(seed).unwrap() % LIES.len();
        let lie = LIES[kind];
        let what = format!("seed {seed}, {lie:?}");
        let met = meeting(lie, seed, epoch);
        let (Some(host_keys), Some(joiner_keys)) = (&met.host_keys, &met.joiner_keys) else {
            // No session, and the one who typed the code knows why (or waits, and T_join will say so).
            assert_ne!(lie, Lie::Honest, "{what}");
            assert!(
                met.joiner_keys.is_none(),
                "{what}: the joiner believes in a host that does not know it"
            );
            continue;
        };
        assert_eq!(host_keys.psk, joiner_keys.psk, "{what}");
        let earlier = if lie == Lie::ReplaysPackets {
            earlier_packets(seed, epoch)
        } else {
            Vec::new()
        };
        let held = session(lie, seed, &met, epoch, earlier, None);
        assert_nobody_was_fooled(&held, &what);
        let done =
            |person: &Option<Person>| person.as_ref().is_some_and(|p| p.chat().len() == LINES);
        complete[kind] += usize::from(done(&held.helper) && done(&held.sharer));
    }
    // What a relay can only delay gets through; what it forges does not.
    for (lie, complete) in LIES.iter().zip(complete) {
        match lie {
            Lie::Honest => assert_eq!(complete, 125, "{lie:?}"),
            Lie::FlipsPackets | Lie::ReordersPackets => {
                assert!(complete > 100, "{lie:?}: {complete}")
            }
            Lie::SwapsShares | Lie::AnswersForHelper => assert_eq!(complete, 0, "{lie:?}"),
            Lie::FlipsRendezvous | Lie::ReplaysRendezvous | Lie::ReplaysPackets => {}
        }
    }
}

fn earlier_packets(seed: u64, epoch: Instant) -> Vec<(Direction, Vec<u8>)> {
    let met = meeting(Lie::Honest, seed ^ 0x5555_0000, epoch);
    let record = shared(Vec::new());
    session(
        Lie::Honest,
        seed,
        &met,
        epoch,
        Vec::new(),
        Some(record.clone()),
    );
    record.take()
}

#[test]
fn a_swapped_share_is_a_wrong_code_to_the_host_and_an_impostor_to_the_joiner() {
    let met = meeting(Lie::SwapsShares, 1, epoch());
    assert!(met.host_keys.is_none() && met.joiner_keys.is_none());
    assert_eq!(met.wrong_codes, 1, "the host's person is told");
    assert!(
        matches!(met.failure, Some(JoinFailure::WrongCode { tries_left: 2 })),
        "{:?}",
        met.failure
    );
}

#[test]
fn whoever_answers_without_the_code_is_an_impostor() {
    for seed in 0..50 {
        let met = meeting(Lie::AnswersForHelper, seed, epoch());
        assert_eq!(met.failure, Some(JoinFailure::Impostor), "seed {seed}");
        assert!(met.joiner_keys.is_none() && met.wrong_codes == 0);
    }
}

#[test]
fn a_record_for_another_locator_is_not_believed() {
    let now = epoch();
    let (mut right, other) = (host(1, now), host(2, now));
    let mut joiner = joiner(right.code().clone(), 3, now);
    let foreign = other.signed_record().to_vec();
    let met = meet(&mut right, &mut joiner, now, |held| match held {
        Held::Record(_) => vec![Held::Record(foreign.clone())],
        held => vec![held],
    });
    assert_eq!(met.failure, Some(JoinFailure::BadRecord));
}

/// The middle knows the PSK (a code that leaked, say) and holds a handshake with each side: both complete, and the
/// words differ, whatever it forwards of the nonces.
#[test]
fn the_words_differ_when_somebody_with_the_key_sits_in_between() {
    let epoch = epoch();
    for seed in 0..1000 {
        let met = meeting(Lie::Honest, seed, epoch);
        let keys = met.host_keys.unwrap();
        let (helper, sharer) = (
            Party::new(Role::Helper, seed + 4),
            Party::new(Role::Sharer, seed + 5),
        );
        // The middle pretends to each to be the other, and copies what it can: profile and nonce commitment.
        let mut as_helper = Party::new(Role::Helper, seed + 6);
        as_helper.nonce = helper.nonce.clone();
        let mut as_sharer = Party::new(Role::Sharer, seed + 7);
        as_sharer.nonce = sharer.nonce.clone();
        let hash = |host: &Party, joiner: &Party| {
            let mut network = network(seed, epoch, host, &keys);
            network.connect(joiner.client(&keys, Noise::E2e)).unwrap();
            assert!(network.run_until(PATIENCE, |network| network.server.is_connected()));
            peer_of(&mut network.server).unwrap().handshake_hash
        };
        let words = |host: &Party, joiner: &Party, a: &Nonce, b: &Nonce| {
            Words::new(&hash(host, joiner), a, b)
        };
        let at_sharer = words(&as_helper, &sharer, &helper.nonce, &sharer.nonce);
        let at_helper = words(&helper, &as_sharer, &helper.nonce, &sharer.nonce);
        assert_ne!(at_sharer, at_helper, "seed {seed}");
    }
}

/// Nor can it first learn both nonces and then choose: a nonce that does not open its commitment ends the session.
#[test]
fn a_nonce_chosen_afterwards_is_refused() {
    let epoch = epoch();
    let met = meeting(Lie::Honest, 3, epoch);
    let keys = met.host_keys.unwrap();
    let (helper, sharer) = (Party::new(Role::Helper, 1), Party::new(Role::Sharer, 2));
    let mut network = network(3, epoch, &helper, &keys);
    network.connect(sharer.client(&keys, Noise::E2e)).unwrap();
    assert!(network.run_until(PATIENCE, |network| network.server.is_connected()));
    let peer = peer_of(&mut network.server).unwrap();
    let introduction = Introduction::decode(&peer.payload, Role::Sharer).unwrap();
    let other = Nonce::generate(&mut Random::seeded(99));
    assert!(introduction.commitment.opens_to(&sharer.nonce));
    assert!(!introduction.commitment.opens_to(&other));
}
