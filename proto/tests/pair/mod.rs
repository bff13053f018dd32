//! Two machines of one session, an honest connection between them, virtual time.
#![allow(dead_code, reason = "each test takes what it needs")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one thing among many"
)]

use std::time::{Duration, Instant};

use remora_proto::{
    id::Side,
    identity::{Introduction, Role},
    org::{
        permission::Permissions,
        verdict::{self, Limit, Verdict},
    },
    path::candidate::Named,
    random::Random,
    sas::Nonce,
    session::{
        Act, Command, EndReason, Event, Kind, Mode, Phase, Platform, Receipt, Refusal, Session,
        Setup, Terms, Transmit,
    },
    wire::message::session::{Control, control::Body},
};

use crate::people::{epoch, profile};

/// Between two packets of an idle connection.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

pub(crate) struct Two {
    pub(crate) now: Instant,
    pub(crate) helper: Session,
    pub(crate) sharer: Session,
    pub(crate) heard: [Vec<Event>; 2],
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A system that can do everything.
pub(crate) fn able() -> Platform {
    Platform {
        mode: Mode::Control,
        elevates: true,
        shields: true,
        restarts: true,
        power_key: true,
    }
}

/// Attended, at such a system.
pub(crate) fn attended() -> Terms {
    Terms {
        platform: able(),
        ..Terms::default()
    }
}

/// Unattended, at such a system.
pub(crate) fn unattended() -> Terms {
    Terms {
        kind: Kind::Unattended,
        ..attended()
    }
}

pub(crate) type Judged = Result<Verdict, verdict::Refusal>;

/// The helper may do this and no more.
pub(crate) fn permitted(permissions: Permissions) -> Judged {
    let limit = (permissions == Permissions::NONE).then_some(Limit::OutOfScope);
    Ok(Verdict {
        permissions,
        limit,
        ..Verdict::unmanaged()
    })
}

/// One side, which has the other's commitment.
pub(crate) fn side(
    role: Role,
    nonces: [&Nonce; 2],
    verdict: Judged,
    terms: Terms,
    now: Instant,
) -> Session {
    Session::new(setup(role, nonces, verdict, terms), now)
}

fn setup(role: Role, nonces: [&Nonce; 2], verdict: Judged, terms: Terms) -> Setup {
    let [own, theirs] = nonces;
    let peer = Introduction {
        papers: None,
        role: role.peer(),
        profile: profile(role.peer()),
        commitment: theirs.commitment(),
        named: Named::default(),
    };
    let side = match role {
        Role::Helper => Side::Host,
        Role::Sharer => Side::Joiner,
    };
    Setup {
        role,
        side,
        nonce: own.clone(),
        peer,
        verdict,
        handshake_hash: [7; 32],
        terms,
    }
}

/// What each side had before a restart, in another connection; `None`: not both wait for one.
pub(crate) fn returned(
    before: [&Session; 2],
    verdicts: [Judged; 2],
    terms: &Terms,
    now: Instant,
) -> Option<[Session; 2]> {
    let [helper, sharer] = before.map(|session| session.before_restart(now));
    let (helper, sharer) = (helper?, sharer?);
    let mut random = Random::seeded(2);
    let (a, b) = (Nonce::generate(&mut random), Nonce::generate(&mut random));
    let [helpers, sharers] = verdicts;
    let helpers = setup(Role::Helper, [&a, &b], helpers, terms.clone());
    let sharers = setup(Role::Sharer, [&b, &a], sharers, terms.clone());
    Some([
        Session::resumed(helpers, helper, now),
        Session::resumed(sharers, sharer, now),
    ])
}

impl Two {
    /// Both have the same terms, and have just connected; the helper may do everything.
    pub(crate) fn connected(terms: Terms) -> Self {
        let all = || permitted(Permissions::ALL);
        Self::judged(terms, [all(), all()])
    }

    /// What the helper believes it may do, and what the sharer knows.
    pub(crate) fn judged(terms: Terms, verdicts: [Judged; 2]) -> Self {
        let now = epoch();
        let [helpers, sharers] = verdicts;
        let mut random = Random::seeded(1);
        let (a, b) = (Nonce::generate(&mut random), Nonce::generate(&mut random));
        Self {
            now,
            helper: side(Role::Helper, [&a, &b], helpers, terms.clone(), now),
            sharer: side(Role::Sharer, [&b, &a], sharers, terms, now),
            heard: [vec![], vec![]],
        }
    }

    /// TRUST
    pub(crate) fn trusting(terms: Terms) -> Self {
        Self::connected(terms).settled()
    }

    /// The same after everything has arrived.
    pub(crate) fn settled(mut self) -> Self {
        self.settle();
        self
    }

    /// CONSENT or COUNTDOWN
    pub(crate) fn asked(terms: Terms, mode: Mode) -> Self {
        let mut two = Self::trusting(terms);
        two.helper_does(Command::AskMode(mode)).expect("may ask");
        two
    }

    /// STARTING
    pub(crate) fn starting(terms: Terms, mode: Mode) -> Self {
        let mut two = Self::asked(terms, mode);
        two.sharer_does(Command::Allow(mode)).expect("may allow");
        two
    }

    /// ACTIVE
    pub(crate) fn active(terms: Terms, mode: Mode) -> Self {
        let mut two = Self::starting(terms, mode);
        two.sharer_does(Command::CaptureUp).expect("starting");
        two
    }

    /// ACTIVE.CONTROL, elevated
    pub(crate) fn elevated() -> Self {
        let mut two = Self::active(attended(), Mode::Control);
        two.helper_does(Command::AskElevation).expect("may ask");
        two.sharer_does(Command::AllowElevation).expect("may allow");
        two
    }

    /// Delivers everything, both ways, until nothing is left.
    pub(crate) fn settle(&mut self) {
        loop {
            let to_sharer: Vec<_> = std::iter::from_fn(|| self.helper.poll_transmit()).collect();
            let to_helper: Vec<_> = std::iter::from_fn(|| self.sharer.poll_transmit()).collect();
            if to_sharer.is_empty() && to_helper.is_empty() {
                break;
            }
            deliver(&mut self.sharer, to_sharer, self.now);
            deliver(&mut self.helper, to_helper, self.now);
        }
        self.hear();
    }

    fn hear(&mut self) {
        self.heard[0].extend(std::iter::from_fn(|| self.helper.poll_event()));
        self.heard[1].extend(std::iter::from_fn(|| self.sharer.poll_event()));
    }

    pub(crate) fn helper_does(&mut self, command: Command) -> Result<(), Refusal> {
        let done = self.helper.handle_command(command, self.now);
        self.settle();
        done
    }

    pub(crate) fn sharer_does(&mut self, command: Command) -> Result<(), Refusal> {
        let done = self.sharer.handle_command(command, self.now);
        self.settle();
        done
    }

    /// The helper's program says what an honest one would not.
    pub(crate) fn forge(&mut self, body: Body) -> Result<(), Refusal> {
        let body = Some(body);
        let done = self.sharer.handle_control(Control { body }, self.now);
        self.hear();
        done
    }

    /// Time passes on a connection that keeps itself alive.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let step = KEEP_ALIVE.min(end - self.now);
            self.now += step;
            for side in [&mut self.helper, &mut self.sharer] {
                side.handle_heard(self.now).ok();
                side.handle_timeout(self.now);
            }
            self.settle();
        }
    }

    /// Time passes, and nothing arrives anywhere.
    pub(crate) fn silence(&mut self, time: Duration) {
        self.now += time;
        for side in [&mut self.helper, &mut self.sharer] {
            side.handle_timeout(self.now);
        }
        self.hear();
    }

    /// The computer has restarted, and the screen is up.
    pub(crate) fn return_to(&mut self, terms: &Terms, verdicts: [Judged; 2]) {
        let before = [&self.helper, &self.sharer];
        let after = returned(before, verdicts, terms, self.now).expect("both wait");
        [self.helper, self.sharer] = after;
        self.settle();
        self.sharer_does(Command::CaptureUp).expect("starting");
    }

    /// The path is back.
    pub(crate) fn hear_again(&mut self) {
        for side in [&mut self.helper, &mut self.sharer] {
            side.handle_heard(self.now).expect("open");
        }
        self.settle();
    }

    pub(crate) fn phases(&self) -> [Phase; 2] {
        [self.helper.phase(), self.sharer.phase()]
    }

    pub(crate) fn modes(&self) -> [Option<Mode>; 2] {
        [self.helper.mode(), self.sharer.mode()]
    }

    /// What the sharer's system had to do so far.
    pub(crate) fn acts(&self) -> Vec<Act> {
        assert!(
            !self.heard[0]
                .iter()
                .any(|event| matches!(event, Event::Act(_))),
            "the helper's system is none of the session's"
        );
        let acts = self.heard[1].iter().filter_map(|event| match event {
            Event::Act(act) => Some(*act),
            _ => None,
        });
        acts.collect()
    }

    pub(crate) fn ended(&self) -> [Option<&Receipt>; 2] {
        [0, 1].map(|side| {
            let mut ends = self.heard[side].iter().filter_map(|event| match event {
                Event::Ended(receipt) => Some(receipt),
                _ => None,
            });
            let end = ends.next();
            assert!(ends.next().is_none(), "one end");
            end
        })
    }

    pub(crate) fn assert_ended(&self, reason: EndReason) {
        assert_eq!(
            self.ended().map(|receipt| receipt.map(|r| r.reason)),
            [Some(reason); 2]
        );
        assert_eq!(self.phases(), [Phase::Ended; 2]);
    }

    pub(crate) fn assert_goes_on(&self) {
        assert_eq!(self.ended(), [None, None]);
    }
}

pub(crate) fn deliver(to: &mut Session, transmits: Vec<Transmit>, now: Instant) {
    for transmit in transmits {
        match transmit {
            Transmit::Control(body) => {
                // Both may end at the same moment, the session or elevation; then the other's word comes too late. Questions may
                // be refused.
                let may_fail = to.phase() == Phase::Ended
                    || matches!(
                        body,
                        Body::ModeRequest(_)
                            | Body::ElevationRequest(_)
                            | Body::ElevationReleased(_)
                            | Body::RestartRequest(_)
                            | Body::GrantRequest(_)
                            | Body::SystemKey(_)
                    );
                let done = to.handle_control(Control { body: Some(body) }, now);
                assert!(done.is_ok() || may_fail, "{done:?}");
            }
            Transmit::Chat(chat) => to.handle_chat(chat, now).expect("in order"),
        }
    }
}
