//! Random sequences of join, wrong code, expiry, leave and crash keep the invariants 8, 10 and 12 of `SESSION.md` §1.6.
#![expect(
    clippy::unwrap_used,
    reason = "a test may fail anywhere, looks for one thing among many, and reads one clock"
)]

mod people;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use people::{epoch, profile};
use proptest::prelude::*;
use remora_proto::{
    code::Code,
    id::{ExchangeId, Side},
    identity::{Introduction, Role},
    org::verdict::Verdict,
    path::candidate::Named,
    random::Random,
    rendezvous::{
        CodeEnd, Host, HostEvent, HostTransmit, Joiner, JoinerEvent, JoinerTransmit, LIFETIME,
    },
    sas::Nonce,
    session::{Command, Event, Mode, Session, Setup, Terms, Transmit},
    wire::message::session::Control,
};

/// What happens next, anywhere.
#[derive(Clone, Debug)]
enum Op {
    /// Somebody begins to join, with the right code or a wrong one.
    Join { right: bool },
    /// The oldest message under way to or from the `n`th joiner that has one arrives.
    Deliver(usize),
    /// It is lost with its joiner.
    JoinerCrashes(usize),
    /// Time passes.
    Wait(u16),
    /// The host's person cancels the code.
    Cancel,
    /// The oldest of the session's messages arrives at this side.
    DeliverSession(Role),
    /// A person does something.
    Does(Role, u8),
    /// One side's connection is gone.
    Lost(Role),
    /// One side's program is gone.
    Crashes(Role),
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Helper), Just(Role::Sharer)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => any::<bool>().prop_map(|right| Op::Join { right }),
        24 => (0usize..6).prop_map(Op::Deliver),
        1 => (0usize..6).prop_map(Op::JoinerCrashes),
        3 => prop_oneof![6 => 0u16..5, 1 => 0u16..700].prop_map(Op::Wait),
        1 => prop_oneof![4 => Just(Op::Wait(0)), 1 => Just(Op::Cancel)],
        12 => role().prop_map(Op::DeliverSession),
        8 => (role(), any::<u8>()).prop_map(|(role, what)| Op::Does(role, what)),
        1 => role().prop_map(Op::Lost),
        1 => role().prop_map(Op::Crashes),
    ]
}

fn command(what: u8) -> Command {
    match what % 10 {
        0 => Command::AskMode(Mode::View),
        1 => Command::AskMode(Mode::Control),
        2 => Command::Allow(Mode::View),
        3 => Command::Allow(Mode::Control),
        4 => Command::Decline,
        5 => Command::DropMode,
        6 => Command::SasChecked(what < 200),
        7 => Command::Leave,
        8 => Command::CaptureUp,
        _ => Command::Chat("hello".into()),
    }
}

enum Mail {
    Record,
    Offer(Vec<u8>),
    ToHost(Vec<u8>),
    ToJoiner(Vec<u8>),
    Admitted(Vec<u8>),
    Dismissed(Vec<u8>),
}

struct Try {
    joiner: Joiner,
    right: bool,
    mail: VecDeque<Mail>,
    outcomes: usize,
}

/// One side of the session, when there is one.
struct OneSide {
    session: Session,
    inbox: VecDeque<Transmit>,
    crashed: bool,
    ends: usize,
}

struct World {
    now: Instant,
    unix_ms: u64,
    host: Host,
    tries: Vec<Try>,
    admitted: usize,
    wrong: usize,
    code_ends: Vec<CodeEnd>,
    sides: Option<[OneSide; 2]>,
}

fn index(role: Role) -> usize {
    match role {
        Role::Helper => 0,
        Role::Sharer => 1,
    }
}

impl World {
    fn new() -> Self {
        let now = epoch();
        let host = people::host(1, now);
        Self {
            now,
            unix_ms: people::UNIX_MS,
            host,
            tries: vec![],
            admitted: 0,
            wrong: 0,
            code_ends: vec![],
            sides: None,
        }
    }

    fn join(&mut self, right: bool) {
        if self.tries.len() == 6 {
            return;
        }
        let code = self.host.code().to_string();
        let last = if code.ends_with('0') { '1' } else { '0' };
        let wrong = format!("{}{last}", &code[..code.len() - 1]);
        let code: Code = if right { code } else { wrong }.parse().unwrap();
        let seed = self.tries.len() as u64;
        let joiner = Joiner::new(
            code,
            people::REALM,
            remora_proto::record::HostRole::Helper,
            self.now,
            self.unix_ms,
            Random::seeded(seed + 50),
        );
        self.tries.push(Try {
            joiner,
            right,
            mail: VecDeque::new(),
            outcomes: 0,
        });
    }

    fn exchange(n: usize) -> ExchangeId {
        ExchangeId(n as u64)
    }

    fn deliver(&mut self, n: usize) {
        let waiting: Vec<usize> = (0..self.tries.len())
            .filter(|&n| !self.tries[n].mail.is_empty())
            .collect();
        let Some(&n) = waiting.get(n % waiting.len().max(1)) else {
            return;
        };
        let (one, id) = (&mut self.tries[n], Self::exchange(n));
        let mail = one.mail.pop_front().unwrap();
        match mail {
            Mail::Record => one
                .joiner
                .handle_found(&self.host.signed_record(), self.unix_ms),
            Mail::Offer(payload) => {
                one.joiner.handle_started(id);
                self.host.handle_offer(id, &payload, self.now);
            }
            Mail::ToHost(payload) => self.host.handle_signal(id, &payload, self.now),
            Mail::ToJoiner(payload) => one.joiner.handle_signal(id, &payload),
            Mail::Admitted(payload) => one.joiner.handle_allocated(id, &payload),
            Mail::Dismissed(payload) => one.joiner.handle_dismissed(id, &payload),
        }
    }

    fn collect(&mut self) {
        for one in &mut self.tries {
            while let Some(transmit) = one.joiner.poll_transmit() {
                one.mail.push_back(match transmit {
                    JoinerTransmit::Lookup(_) => Mail::Record,
                    JoinerTransmit::Join(_, payload) => Mail::Offer(payload.to_vec()),
                    JoinerTransmit::Signal(_, payload) => Mail::ToHost(payload.to_vec()),
                });
            }
            while let Some(event) = one.joiner.poll_event() {
                one.outcomes += 1;
                assert_eq!(one.outcomes, 1, "one outcome per try");
                if let JoinerEvent::Joined(_) = event {
                    assert!(one.right, "8: a wrong code joined");
                }
            }
        }
        while let Some(transmit) = self.host.poll_transmit() {
            let (id, mail) = match transmit {
                HostTransmit::Signal(id, payload) => (id, Mail::ToJoiner(payload.to_vec())),
                HostTransmit::Admit(id, payload) => (id, Mail::Admitted(payload.to_vec())),
                HostTransmit::Dismiss {
                    exchange, payload, ..
                } => (exchange, Mail::Dismissed(payload.to_vec())),
                HostTransmit::Withdraw(..) => continue,
            };
            self.tries[usize::try_from(id.0).unwrap()]
                .mail
                .push_back(mail);
        }
        while let Some(event) = self.host.poll_event() {
            self.note(event);
        }
        if let Some(sides) = &mut self.sides {
            collect_session(sides);
        }
    }

    fn note(&mut self, event: HostEvent) {
        match event {
            HostEvent::WrongCode { tries_left } => {
                self.wrong += 1;
                assert_eq!(usize::try_from(tries_left).unwrap(), 3 - self.wrong);
                assert!(
                    self.code_ends.is_empty(),
                    "8: a try was counted after the end"
                );
            }
            HostEvent::Joined(id, _) => {
                self.admitted += 1;
                assert_eq!(self.admitted, 1, "8: a code admits one peer");
                assert!(
                    self.tries[usize::try_from(id.0).unwrap()].right,
                    "8: a wrong code was admitted"
                );
                assert!(self.wrong < 3, "8: admitted after three wrong secrets");
                assert!(
                    self.unix_ms < people::UNIX_MS + 600_000,
                    "8: admitted after its time"
                );
                self.begin_session();
            }
            HostEvent::Ended(end) => {
                self.code_ends.push(end);
                assert_eq!(self.code_ends.len(), 1, "a code ends once");
            }
        }
    }

    fn begin_session(&mut self) {
        let mut random = Random::seeded(9);
        let nonces = [Nonce::generate(&mut random), Nonce::generate(&mut random)];
        let side = |role: Role, side| {
            let peer = role.peer();
            let commitment = nonces[index(peer)].commitment();
            let setup = Setup {
                role,
                side,
                nonce: nonces[index(role)].clone(),
                verdict: Ok(Verdict::unmanaged()),
                peer: Introduction {
                    papers: None,
                    role: peer,
                    profile: profile(peer),
                    commitment,
                    named: Named::default(),
                },
                handshake_hash: [1; 32],
                terms: Terms::default(),
            };
            OneSide {
                session: Session::new(setup, self.now),
                inbox: VecDeque::new(),
                crashed: false,
                ends: 0,
            }
        };
        self.sides = Some([
            side(Role::Helper, Side::Host),
            side(Role::Sharer, Side::Joiner),
        ]);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.unix_ms += u64::try_from(time.as_millis()).unwrap();
        self.host.handle_timeout(self.now);
        for one in &mut self.tries {
            one.joiner.handle_timeout(self.now);
        }
        for side in self.sides.iter_mut().flatten().filter(|side| !side.crashed) {
            side.session.handle_timeout(self.now);
        }
    }

    fn side(&mut self, role: Role) -> Option<&mut OneSide> {
        self.sides
            .as_mut()
            .map(|sides| &mut sides[index(role)])
            .filter(|side| !side.crashed)
    }

    fn apply(&mut self, op: Op) {
        let now = self.now;
        match op {
            Op::Join { right } => self.join(right),
            Op::Deliver(n) => self.deliver(n),
            Op::JoinerCrashes(n) => {
                if let Some(one) = self.tries.get_mut(n) {
                    one.mail.clear();
                    self.host.handle_joiner_gone(Self::exchange(n));
                }
            }
            Op::Wait(seconds) => self.wait(Duration::from_secs(seconds.into())),
            Op::Cancel => self.host.cancel(),
            Op::DeliverSession(role) => {
                if let Some(side) = self.side(role) {
                    deliver_session(side, now);
                }
            }
            Op::Does(role, what) => {
                if let Some(side) = self.side(role) {
                    let over = side.ends > 0;
                    let done = side.session.handle_command(command(what), now);
                    assert!(!(over && done.is_ok()), "12: a command after the end");
                }
            }
            Op::Lost(role) => {
                if let Some(side) = self.side(role) {
                    side.session.handle_connection_lost(now).ok();
                }
            }
            Op::Crashes(role) => {
                if let Some(side) = self.side(role) {
                    side.crashed = true;
                }
            }
        }
        self.collect();
    }

    /// Whatever was going on, nothing goes on for ever: every live side has one end and one receipt.
    fn finish(mut self) {
        for _ in 0..4 {
            self.wait(Duration::from_secs(700));
            self.collect();
        }
        let now = self.now;
        for side in self.sides.iter_mut().flatten().filter(|side| !side.crashed) {
            side.session.handle_connection_lost(now).ok();
        }
        self.collect();
        assert_eq!(self.code_ends.len(), 1, "a code ends");
        for one in &self.tries {
            assert_eq!(one.outcomes, 1, "a try has an outcome");
        }
        for side in self.sides.iter().flatten().filter(|side| !side.crashed) {
            assert_eq!(
                side.ends, 1,
                "10: one end and one receipt on each live side"
            );
            assert_eq!(
                side.session.poll_timeout(),
                None,
                "12: nothing is due after the end"
            );
        }
    }
}

fn deliver_session(side: &mut OneSide, now: Instant) {
    let over = side.ends > 0;
    let message = side.inbox.iter().position(|transmit| {
        // Chat waits on its stream until it may be heard.
        matches!(transmit, Transmit::Control(_)) || side.session.accepts_chat()
    });
    let done = match message.and_then(|at| side.inbox.remove(at)) {
        Some(Transmit::Control(body)) => side
            .session
            .handle_control(Control { body: Some(body) }, now),
        Some(Transmit::Chat(chat)) => side.session.handle_chat(chat, now),
        None => return,
    };
    assert!(
        !(over && done.is_ok()),
        "12: a message was taken after the end"
    );
}

fn collect_session(sides: &mut [OneSide; 2]) {
    for from in 0..2 {
        while let Some(transmit) = sides[from].session.poll_transmit() {
            sides[1 - from].inbox.push_back(transmit);
        }
        let side = &mut sides[from];
        while let Some(event) = side.session.poll_event() {
            assert_eq!(side.ends, 0, "12: an event after the end: {event:?}");
            side.ends += usize::from(matches!(event, Event::Ended(_)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_a_code_admits_one_and_a_session_ends_once(ops in prop::collection::vec(op(), 0..120)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        world.finish();
    }
}

/// The generator reaches what it is for: sessions start, codes burn.
#[test]
fn the_random_worlds_are_not_empty() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut sessions, mut burned) = (0, 0);
    for _ in 0..500 {
        let ops = prop::collection::vec(op(), 0..120)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        sessions += usize::from(world.sides.is_some());
        burned += usize::from(world.code_ends == [CodeEnd::Burned]);
        world.finish();
    }
    assert!(
        sessions > 50 && burned > 5,
        "{sessions} sessions, {burned} burned codes"
    );
    assert!(LIFETIME == Duration::from_secs(600));
}
