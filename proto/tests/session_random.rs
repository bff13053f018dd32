//! Random events against the twelve invariants of SESSION.md §1.6: two machines, once joined by a channel that delays but neither loses,
//! changes nor reorders what is on one stream, once each with a peer that says anything at all. Time is virtual, the generator seeded: a
//! failure names its seed, which goes into `SEEDS`.
//!
//! Invariant 7 (one winner, one lease) is decided at the device's desk: `desk_random.rs`; 8 (codes) where codes are: `random_ops.rs`. 9
//! holds by construction, for no input of this machine is a path, and of the whole: node/tests/direct.rs.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for a few things among many"
)]

mod pair;
mod people;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use pair::{Judged, able, ms, permitted, returned, side};
use people::epoch;
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use remora_proto::{
    identity::Role,
    line::Why,
    org::{
        permission::Permissions,
        setting::{Setting, Settings},
        verdict::Verdict,
    },
    random::Random,
    sas::Nonce,
    session::{
        Act, Command, Durations, Elevation, EndReason, Entry, Event, Grants, Kind, LocalEnd,
        Matter, Method, Mode, Phase, Receipt, Rights, SecurePrompt, Session, Terms, Transmit, Way,
    },
    wire::message::session::{self as schema, Chat, Control, control::Body},
};

/// In a session, at most.
const STEPS: u32 = 300;
/// Of all sessions together, by far.
const EVENTS: u64 = 5_000_000;
/// Those that have failed once.
const SEEDS: [u64; 0] = [];

/// One side, and what it has said and done so far.
struct Watched {
    role: Role,
    session: Session,
    /// Under way to it, a stream each.
    control: VecDeque<Body>,
    chat: VecDeque<Chat>,
    /// The person has said yes to this at most.
    allowed: Option<Mode>,
    asked: Option<Mode>,
    method: Option<Method>,
    acts: Vec<Act>,
    confirmed: bool,
    receipt: Option<Receipt>,
    said_end: bool,
    /// The person has granted these, at some time.
    granted: Grants,
    /// ... and said that the words are the same.
    compared: bool,
}

/// What a refused word leaves as it was.
type Picture = (Phase, Option<Mode>, Elevation, Rights);

fn picture(session: &Session) -> Picture {
    (
        session.phase(),
        session.mode(),
        session.elevation(),
        session.rights(),
    )
}

impl Watched {
    fn new(role: Role, session: Session) -> Self {
        Self {
            role,
            session,
            control: VecDeque::new(),
            chat: VecDeque::new(),
            allowed: None,
            asked: None,
            method: None,
            acts: vec![],
            confirmed: false,
            receipt: None,
            said_end: false,
            granted: Grants::NONE,
            compared: false,
        }
    }

    fn does(&mut self, command: Command, now: Instant) {
        let before = picture(&self.session);
        let compares = command == Command::SasChecked(true);
        let grants = match command {
            Command::Grant { grants, on: true } => grants,
            _ => Grants::NONE,
        };
        let (allows, confirms) = match &command {
            Command::Allow(mode) => (Some(*mode), false),
            Command::ConfirmLeave => (None, true),
            _ => (None, false),
        };
        match self.session.handle_command(command, now) {
            Ok(()) => {
                assert!(self.receipt.is_none(), "12: a command after the end");
                self.allowed = self.allowed.max(allows);
                self.confirmed |= confirms;
                self.compared |= compares;
                self.granted = self.granted | grants;
            }
            Err(_) => assert_eq!(picture(&self.session), before, "a refusal changes nothing"),
        }
    }

    fn hears(&mut self, body: Body, now: Instant) {
        let asks = match &body {
            Body::ModeRequest(request) => match request.mode() {
                schema::Mode::View => Some(Mode::View),
                schema::Mode::ControlMode => Some(Mode::Control),
                schema::Mode::Unspecified => None,
            },
            _ => None,
        };
        // Hearing anything at all may end an interruption; what was said then still changes nothing if it is refused.
        let heard = self.session.handle_heard(now).is_ok();
        let before = picture(&self.session);
        let body = Some(body);
        match self.session.handle_control(Control { body }, now) {
            Ok(()) => {
                assert!(heard, "12: a message after the end");
                self.asked = self.asked.max(asks);
            }
            Err(_) => assert_eq!(picture(&self.session), before, "a refusal changes nothing"),
        }
    }

    /// Something around both.
    fn world(&mut self, what: u32, now: Instant) {
        let over = self.receipt.is_some();
        let before = picture(&self.session);
        let session = &mut self.session;
        let done = match what % 9 {
            0 | 1 => session.handle_local_input(now),
            2 => session.handle_secure_prompt(None, now),
            3 => session.handle_secure_prompt(
                Some(SecurePrompt {
                    takes_keys: what > 50,
                }),
                now,
            ),
            4 | 5 => session.handle_activity(now),
            6 if what.is_multiple_of(7) => session.handle_kill(Why::default(), now),
            7 if what.is_multiple_of(7) => session.handle_connection_lost(now),
            8 if what.is_multiple_of(11) => session.handle_malformed(now),
            _ => session.handle_heard(now),
        };
        assert!(!(over && done.is_ok()), "12: something after the end");
        if done.is_err() {
            assert_eq!(picture(session), before, "a refusal changes nothing");
        }
    }

    /// Takes what came of it; gives what goes to the other side.
    fn drain(&mut self, terms: &Terms, caps: [Option<Mode>; 2]) -> Vec<Transmit> {
        let mut said = vec![];
        while let Some(transmit) = self.session.poll_transmit() {
            assert!(!self.said_end, "12: a word after the end");
            self.said_end |= matches!(transmit, Transmit::Control(Body::Ended(_)));
            said.push(transmit);
        }
        while let Some(event) = self.session.poll_event() {
            assert!(self.receipt.is_none(), "12: {event:?} after the end");
            match event {
                Event::Act(act) => {
                    assert_eq!(self.role, Role::Sharer, "the helper's system is none of it");
                    self.acts.push(act);
                }
                Event::Starting { .. } if self.role == Role::Sharer => {
                    self.method = Some(match terms.kind {
                        Kind::Attended => Method::User,
                        Kind::Unattended => Method::Timeout,
                    });
                }
                Event::Ended(receipt) => self.receipt = Some(receipt),
                _ => {}
            }
        }
        self.check(terms, caps);
        said
    }

    /// What must be true of a side at any time.
    fn check(&self, terms: &Terms, caps: [Option<Mode>; 2]) {
        let session = &self.session;
        let (phase, mode, elevation, rights) = picture(session);
        let live = matches!(phase, Phase::Active | Phase::Interrupted | Phase::Ending);
        assert_eq!(mode.is_some(), live);
        // 1: no frame before; 4, 5: no input but in CONTROL, and none while frozen.
        assert!(live || !rights.may_show(), "1");
        if rights.input_refusal().is_none() {
            assert_eq!(mode, Some(Mode::Control), "4");
            assert!(rights.frozen_until.is_none() && !rights.paused, "5");
            assert!(!rights.interrupted, "33");
        }
        let may_share = live && !rights.paused && !rights.interrupted && terms.entry != Entry::Link;
        assert!(rights.grants.is_empty() || may_share, "1.5: grants");
        if elevation != Elevation::None {
            assert_eq!(mode, Some(Mode::Control), "11");
            assert!(!rights.interrupted, "11");
        }
        if self.role == Role::Sharer {
            self.check_sharer(terms, caps[0]);
        }
        if let Some(receipt) = &self.receipt {
            assert_eq!(phase, Phase::Ended, "10");
            assert_eq!(
                (session.poll_timeout(), elevation),
                (None, Elevation::None),
                "11, 12"
            );
            assert!(receipt.mode <= caps[1], "3");
        } else {
            // The last chat may still be under way.
            let flushes = session.poll_timeout().is_some();
            assert!(
                phase != Phase::Ended || flushes,
                "10: no end without a receipt"
            );
        }
    }

    fn check_sharer(&self, terms: &Terms, cap: Option<Mode>) {
        let session = &self.session;
        let grants = session.rights().grants;
        assert!(self.granted.covers(grants), "1.5: only the sharer grants");
        assert!(
            self.compared || grants.is_empty(),
            "1.5: not to whom nobody vouches for"
        );
        if session.mode().is_some() {
            let yes = match terms.kind {
                Kind::Attended => self.allowed.is_some(),
                Kind::Unattended => true,
            };
            assert!(yes, "2: an attended session without a yes");
            assert!(session.mode() <= self.asked, "3: more than was asked");
            assert!(session.mode() <= cap, "3: more than is permitted");
            if terms.kind == Kind::Attended {
                assert!(session.mode() <= self.allowed, "3: more than was allowed");
            }
        }
        let count = |wanted: Act| self.acts.iter().filter(|act| **act == wanted).count();
        let signed_out = count(Act::SignOut);
        assert!(signed_out <= 1, "6");
        let reason = self.receipt.as_ref().map(|receipt| receipt.reason);
        let confirmed = reason == Some(EndReason::SharerLeftSignedOut);
        if self.receipt.is_some() {
            assert_eq!(signed_out == 1, confirmed, "6");
            assert!(!confirmed || self.confirmed, "6");
            assert_eq!(count(Act::Shield), count(Act::Unshield), "31: as it was");
            assert_eq!(count(Act::Elevate), count(Act::Unelevate), "11, 31");
        }
        if session.elevation() == Elevation::Granted {
            assert_eq!(count(Act::Elevate), count(Act::Unelevate) + 1);
        } else {
            assert_eq!(count(Act::Elevate), count(Act::Unelevate), "11");
        }
    }
}

fn terms(random: &mut StdRng) -> Terms {
    let short = |random: &mut StdRng| {
        random
            .random_bool(0.3)
            .then(|| Duration::from_secs(random.random_range(20..90)))
    };
    Terms {
        kind: match random.random_bool(0.5) {
            true => Kind::Attended,
            false => Kind::Unattended,
        },
        entry: match random.random_bool(0.1) {
            true => Entry::Link,
            false => Entry::Code,
        },
        elevation_blocked: random.random_bool(0.1),
        multi_user: random.random_bool(0.1),
        local_end: match random.random_bool(0.5) {
            true => LocalEnd::Forbid,
            false => LocalEnd::Reclaim,
        },
        skip_wait: random.random_bool(0.2),
        nobody_there: random.random_bool(0.2),
        platform: able(),
        durations: Durations {
            reconfirm: short(random),
            max: short(random),
            idle: short(random),
            ..Durations::default()
        },
        ..Terms::default()
    }
}

fn permissions(random: &mut StdRng) -> Permissions {
    let guest = Permissions::GUEST;
    let all = [
        Permissions::NONE,
        guest,
        Permissions::ATTENDED,
        Permissions::ALL,
        Permissions::ALL,
    ];
    all.choose(random).copied().unwrap_or(guest)
}

fn cap(permissions: Permissions, terms: &Terms) -> Option<Mode> {
    let link = match terms.entry {
        Entry::Link => Mode::View,
        Entry::Code | Entry::Notify | Entry::Request => Mode::Control,
    };
    let verdict = permitted(permissions).ok()?;
    verdict.permitted().map(|mode| mode.min(link))
}

/// Mostly what the phase makes likely, so that long sessions come about; now and then anything.
fn command(role: Role, phase: Phase, random: &mut StdRng) -> Command {
    let any = [
        Command::AskMode(Mode::View),
        Command::AskMode(Mode::Control),
        Command::Allow(Mode::View),
        Command::Allow(Mode::Control),
        Command::Decline,
        Command::DropMode,
        Command::SasChecked(true),
        Command::SasChecked(false),
        Command::Chat("hello".into()),
        Command::Pause(true),
        Command::Pause(false),
        Command::AskElevation,
        Command::AllowElevation,
        Command::ReleaseElevation,
        Command::AskRestart,
        Command::AllowRestart,
        Command::GoOn,
        Command::CaptureUp,
        Command::CaptureFailed,
        Command::Leave,
        Command::ConfirmLeave,
        Command::Stay,
        Command::Media(Body::KeyFrameRequest(schema::KeyFrameRequest {})),
        Command::Media(Body::CursorPosition(schema::CursorPosition { x: 1, y: 2 })),
        Command::AskHandover("4060-r0gx".parse().expect("a code")),
        Command::AllowHandover,
        Command::HandoverFailed,
        Command::HandedOver,
        Command::Grant {
            grants: Grants::both(Matter::Clipboard),
            on: true,
        },
        Command::Grant {
            grants: Grants::of(Matter::Files, Way::ToSharer),
            on: true,
        },
        Command::Grant {
            grants: Grants::of(Matter::Clipboard, Way::ToHelper),
            on: false,
        },
    ];
    let likely: &[Command] = match (phase, role) {
        (Phase::Trust, Role::Helper) => &any[0..2],
        (Phase::Consent | Phase::Countdown, Role::Sharer) => &any[2..4],
        (Phase::Starting, Role::Sharer) => &any[17..18],
        (Phase::Active, Role::Helper) => &[
            any[1].clone(),
            any[11].clone(),
            any[14].clone(),
            any[16].clone(),
            any[24].clone(),
            any[26].clone(),
        ],
        (Phase::Active, Role::Sharer) => &[
            any[3].clone(),
            any[12].clone(),
            any[15].clone(),
            any[16].clone(),
            any[19].clone(),
            any[24].clone(),
            any[25].clone(),
        ],
        (Phase::Ending, _) => &any[20..22],
        _ => &[],
    };
    let from = match random.random_bool(0.7) && !likely.is_empty() {
        true => likely,
        false => &any,
    };
    // The ends are rare, or nothing would ever last.
    let picked = from.choose(random).cloned();
    match picked {
        Some(Command::Leave | Command::SasChecked(false) | Command::CaptureFailed)
            if random.random_bool(0.8) =>
        {
            Command::SasChecked(true)
        }
        other => other.unwrap_or(Command::Stay),
    }
}

/// Anything that a program could say, honest or not.
fn body(random: &mut StdRng, nonce: &Nonce) -> Body {
    let mode = random.random_range(0..3);
    match random.random_range(0..27u32) {
        0 => Body::NonceReveal(schema::NonceReveal {
            nonce: bytes::Bytes::copy_from_slice(nonce.as_bytes()),
        }),
        1 => Body::SasChecked(schema::SasChecked {
            same: random.random_bool(0.9),
        }),
        2 | 3 => Body::ModeRequest(schema::ModeRequest {
            mode,
            number: random.random_range(0..3),
        }),
        4 => Body::ConsentPrompted(schema::ConsentPrompted {
            deadline_ms: random.random(),
        }),
        5 | 6 => Body::ConsentAnswer(schema::ConsentAnswer {
            allow: random.random(),
            mode,
            method: random.random_range(0..5),
            number: random.random_range(0..3),
        }),
        7 => Body::ModeDropped(schema::ModeDropped {}),
        8 => Body::Paused(schema::Paused {
            paused: random.random(),
        }),
        9 | 10 => Body::Started(schema::Started {}),
        11 => Body::Refused(schema::Refused {
            code: random.random_range(0..9),
            question: random.random_range(0..4),
            number: random.random_range(0..3),
        }),
        12 => Body::ElevationRequest(schema::ElevationRequest {
            number: random.random_range(0..3),
        }),
        13 => Body::ElevationAnswer(schema::ElevationAnswer {
            allow: random.random(),
            number: random.random_range(0..3),
        }),
        14 => Body::ElevationReleased(schema::ElevationReleased {}),
        15 => Body::ScreenPaused(schema::ScreenPaused {
            paused: random.random(),
            takes_keys: random.random(),
        }),
        16 => Body::ShieldState(schema::ShieldState {
            kind: random.random_range(0..4),
            left_ms: random.random(),
        }),
        17 => Body::RestartRequest(schema::RestartRequest {
            number: random.random_range(0..3),
        }),
        18 => Body::RestartAnswer(schema::RestartAnswer {
            allow: random.random(),
            number: random.random_range(0..3),
        }),
        19 => Body::Check(schema::Check {
            kind: random.random_range(0..5),
            deadline_ms: random.random(),
        }),
        20 => Body::GoOn(schema::GoOn {}),
        21 => Body::HandoverRequest(schema::HandoverRequest {
            number: random.random_range(0..3),
            code: ["4060r0gx", "4060"][random.random_range(0..2)].to_owned(),
        }),
        22 => Body::HandoverAnswer(schema::HandoverAnswer {
            allow: random.random(),
            number: random.random_range(0..3),
        }),
        23 => Body::HandoverFailed(schema::HandoverFailed {}),
        24 => Body::Grants(grants(random)),
        25 => Body::GrantRequest(schema::GrantRequest {
            number: random.random_range(0..3),
            grants: Some(grants(random)),
            gives_back: random.random(),
        }),
        _ if random.random_bool(0.05) => Body::Ended(schema::Ended {
            reason: random.random_range(0..26),
            chat_sent: random.random_range(0..3),
            why: String::new(),
        }),
        _ => media(random),
    }
}

fn grants(random: &mut StdRng) -> schema::Grants {
    schema::Grants {
        clipboard_to_helper: random.random(),
        clipboard_to_sharer: random.random(),
        files_to_helper: random.random(),
        files_to_sharer: random.random(),
    }
}

fn media(random: &mut StdRng) -> Body {
    match random.random_bool(0.5) {
        true => Body::KeyFrameRequest(schema::KeyFrameRequest {}),
        false => Body::CursorPosition(schema::CursorPosition { x: 1, y: 1 }),
    }
}

struct World {
    now: Instant,
    /// The most that the helper may, by verdict and terms; and has been allowed to at any time.
    cap: Option<Mode>,
    most: Option<Mode>,
    terms: Terms,
    /// As it is now.
    verdict: Judged,
    sides: [Watched; 2],
    nonces: [Nonce; 2],
    events: u64,
}

impl World {
    fn new(random: &mut StdRng) -> Self {
        let (now, terms) = (epoch(), terms(random));
        let permissions = permissions(random);
        let cap = cap(permissions, &terms);
        let verdict = || permitted(permissions);
        let mut seeded = Random::seeded(random.next_u64());
        let nonces = [Nonce::generate(&mut seeded), Nonce::generate(&mut seeded)];
        let [a, b] = &nonces;
        let sides = [
            Watched::new(
                Role::Helper,
                side(Role::Helper, [a, b], verdict(), terms.clone(), now),
            ),
            Watched::new(
                Role::Sharer,
                side(Role::Sharer, [b, a], verdict(), terms.clone(), now),
            ),
        ];
        Self {
            now,
            cap,
            most: cap,
            verdict: verdict(),
            terms,
            sides,
            nonces,
            events: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.sides.iter().all(|side| side.receipt.is_some())
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for side in &mut self.sides {
            side.session.handle_timeout(self.now);
            let next = side.session.poll_timeout();
            assert!(
                next.is_none_or(|next| next > self.now),
                "a deadline is met once"
            );
        }
    }

    /// The connection keeps itself alive meanwhile.
    fn wait_alive(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            for side in &mut self.sides {
                side.session.handle_heard(self.now).ok();
            }
            self.wait((end - self.now).min(ms(5_000)));
        }
    }

    /// Little time mostly; now and then a silence.
    fn some_time(random: &mut StdRng) -> Duration {
        match random.random_range(0..40u32) {
            0 => Duration::from_secs(random.random_range(0..330)),
            1..5 => Duration::from_secs(random.random_range(0..12)),
            _ => ms(random.random_range(0..900)),
        }
    }

    fn deliver(&mut self, to: usize, random: &mut StdRng) {
        let (side, now) = (&mut self.sides[to], self.now);
        let chats = side.session.accepts_chat() && !side.chat.is_empty();
        if chats && random.random_bool(0.5) {
            if let Some(chat) = side.chat.pop_front() {
                side.session.handle_chat(chat, now).ok();
            }
        } else if let Some(body) = side.control.pop_front() {
            side.hears(body, now);
        }
    }

    fn collect(&mut self, honest: bool) {
        self.events += 1;
        for from in 0..2 {
            for said in self.sides[from].drain(&self.terms, [self.cap, self.most]) {
                let other = &mut self.sides[1 - from];
                match said {
                    _ if !honest => {}
                    Transmit::Control(body) => other.control.push_back(body),
                    Transmit::Chat(chat) => other.chat.push_back(chat),
                }
            }
        }
    }

    fn step(&mut self, honest: bool, random: &mut StdRng) {
        let at = random.random_range(0..2);
        let now = self.now;
        match random.random_range(0..20u32) {
            0..8 if honest => self.deliver(at, random),
            0..8 => {
                let said = body(random, &self.nonces[1 - at]);
                self.sides[at].hears(said, now);
            }
            8..14 => {
                let (role, phase) = (self.sides[at].role, self.sides[at].session.phase());
                self.sides[at].does(command(role, phase, random), now);
            }
            14..18 => {
                let time = Self::some_time(random);
                match random.random_bool(0.8) {
                    true => self.wait_alive(time),
                    false => self.wait(time),
                }
            }
            _ => match random.random_range(0..99u32) {
                what if what % 9 == 4 && honest => self.resume(),
                5 => self.judge(random),
                what => self.sides[at].world(what, now),
            },
        }
        self.collect(honest);
    }

    /// The organisation thinks otherwise.
    fn judge(&mut self, random: &mut StdRng) {
        let permissions = permissions(random);
        self.cap = cap(permissions, &self.terms);
        self.most = self.most.max(self.cap);
        let mut settings = Settings::default();
        for (setting, value) in [
            (Setting::BlockElevation, 1),
            (Setting::BlockRestart, 1),
            (Setting::BlockChat, 1),
            (Setting::MaxSeconds, 60),
            (Setting::UnattendedReclaim, 1),
        ] {
            if random.random_bool(0.2) {
                settings.set(setting, value);
            }
        }
        let settings = Some(settings);
        let verdict = permitted(permissions).map(|verdict| Verdict {
            settings,
            ..verdict
        });
        self.verdict = verdict.clone();
        for side in &mut self.sides {
            side.session.handle_verdict(verdict.clone(), self.now).ok();
        }
    }

    /// An honest restart: what was said has arrived, and both are back at once.
    fn resume(&mut self) {
        let waits =
            |side: &Watched| side.session.phase() == Phase::Interrupted && side.control.is_empty();
        if self.sides.iter().all(waits) {
            for side in &mut self.sides {
                side.session.handle_heard(self.now).expect("interrupted");
            }
            self.come_back();
        }
    }

    /// In another connection, if both wait for one.
    fn come_back(&mut self) {
        let [helper, sharer] = &self.sides;
        let (before, verdicts) = (
            [&helper.session, &sharer.session],
            [self.verdict.clone(), self.verdict.clone()],
        );
        let Some(after) = returned(before, verdicts, &self.terms, self.now) else {
            return;
        };
        for (side, session) in self.sides.iter_mut().zip(after) {
            side.session = session;
            side.chat.clear();
            // The shield went with the computer.
            let count = |wanted: Act| side.acts.iter().filter(|act| **act == wanted).count();
            if count(Act::Shield) > count(Act::Unshield) {
                side.acts.push(Act::Unshield);
            }
        }
    }

    /// When nothing is under way any more, both agree.
    fn settle(&mut self, random: &mut StdRng) {
        while self.sides.iter().any(|side| !side.control.is_empty()) {
            for to in 0..2 {
                self.deliver(to, random);
                self.collect(true);
            }
        }
        let [helper, sharer] = &self.sides;
        let (a, b) = (&helper.session, &sharer.session);
        if [a, b].iter().all(|side| side.phase() == Phase::Active) {
            assert_eq!(a.mode(), b.mode(), "both know the mode");
            // A question may be open at the sharer that the helper has given up; its yes is given back.
            let granted = [a, b].map(|side| side.elevation() == Elevation::Granted);
            assert_eq!(granted[0], granted[1], "both know of elevation");
        }
    }

    /// Nothing goes on for ever: silence ends it.
    fn end(&mut self) {
        for _ in 0..8 {
            self.wait(Duration::from_secs(700));
            self.collect(false);
        }
        for side in &self.sides {
            assert!(side.receipt.is_some(), "10: {:?}", side.session.phase());
        }
    }
}

/// One session; how many events it had.
fn play(seed: u64, honest: bool, seen: &mut Seen) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new(&mut random);
    world.collect(honest);
    for step in 0..STEPS {
        if world.is_over() {
            break;
        }
        world.step(honest, &mut random);
        seen.look(&world);
        if honest && step % 64 == 63 {
            world.settle(&mut random);
        }
    }
    world.end();
    for receipt in world.sides.iter().filter_map(|side| side.receipt.as_ref()) {
        seen.ends |= 1
            << EndReason::ALL
                .iter()
                .position(|it| *it == receipt.reason)
                .unwrap_or(31);
    }
    world.events
}

/// What the generator has come across: a property of states that are never reached says nothing.
#[derive(Default)]
struct Seen {
    phases: u32,
    elevated: bool,
    frozen: bool,
    covered: bool,
    signed_out: bool,
    restarted: bool,
    ends: u32,
}

impl Seen {
    fn look(&mut self, world: &World) {
        for side in &world.sides {
            let rights = side.session.rights();
            self.phases |= 1 << side.session.phase() as u32;
            self.elevated |= side.session.elevation() == Elevation::Granted;
            self.frozen |= rights.frozen_until.is_some();
            self.covered |= rights.prompt.is_some();
            self.signed_out |= side.acts.contains(&Act::SignOut);
            self.restarted |= side.acts.contains(&Act::Restart);
        }
    }

    fn assert_much(&self) {
        assert_eq!(self.phases, 0x1ff, "all phases");
        let all = [
            self.elevated,
            self.frozen,
            self.covered,
            self.signed_out,
            self.restarted,
        ];
        assert_eq!(
            all, [true; 5],
            "elevated, frozen, covered, signed out, restarted"
        );
        let all_ends = EndReason::ALL.len();
        assert!(
            self.ends.count_ones() >= 13,
            "{:b} of {all_ends}",
            self.ends
        );
    }
}

fn play_many(honest: bool) {
    let mut seen = Seen::default();
    let mut events = 0;
    let mut seed = u64::from(honest) << 63;
    for seed in SEEDS {
        play(seed, honest, &mut seen);
    }
    while events < EVENTS / 2 {
        let result = std::panic::catch_unwind(|| {
            let mut seen = Seen::default();
            (play(seed, honest, &mut seen), seen)
        });
        let Ok((more, found)) = result else {
            panic!("seed {seed:#x}, honest: {honest}");
        };
        seen.add(&found);
        events += more;
        seed += 1;
    }
    seen.assert_much();
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.phases |= other.phases;
        self.elevated |= other.elevated;
        self.frozen |= other.frozen;
        self.covered |= other.covered;
        self.signed_out |= other.signed_out;
        self.restarted |= other.restarted;
        self.ends |= other.ends;
    }
}

#[test]
fn millions_of_events_between_two_honest_programs_keep_the_invariants() {
    play_many(true);
}

#[test]
fn millions_of_events_with_a_program_that_says_anything_keep_the_invariants() {
    play_many(false);
}
