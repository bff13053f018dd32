//! A session in life-cycle order: two machines, an honest connection between them, virtual time.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail anywhere, looks for one thing among many, and reads one clock"
)]

mod people;

use std::time::{Duration, Instant};

use people::{epoch, profile};
use remora_proto::{
    id::Side,
    identity::{Introduction, Role},
    org::{
        permission::Permissions,
        verdict::{Limit, Refusal, Verdict},
    },
    path::candidate::Named,
    random::Random,
    sas::Nonce,
    session::{
        BadState, Command, EndReason, Event, Mode, Receipt, SasState, Session, Setup, T_CONSENT,
        T_JOIN, T_MODE, T_UPGRADE, Transmit,
    },
    wire::message::{
        MAX_CHAT_TEXT_BYTES,
        session::{self as schema, Chat, Control},
    },
};

struct Two {
    now: Instant,
    helper: Session,
    sharer: Session,
    heard: [Vec<Event>; 2],
}

/// Nobody thinks badly of the other.
fn session(role: Role, side: Side, nonces: [&Nonce; 2], now: Instant) -> Session {
    judged(role, side, nonces, Ok(Verdict::unmanaged()), now)
}

fn judged(
    role: Role,
    side: Side,
    nonces: [&Nonce; 2],
    verdict: Result<Verdict, Refusal>,
    now: Instant,
) -> Session {
    let [own, theirs] = nonces;
    let peer = Introduction {
        papers: None,
        role: role.peer(),
        profile: profile(role.peer()),
        commitment: theirs.commitment(),
        named: Named::default(),
    };
    Session::new(
        Setup {
            role,
            side,
            nonce: own.clone(),
            peer,
            verdict,
            handshake_hash: [7; 32],
        },
        now,
    )
}

impl Two {
    fn new() -> Self {
        Self::with_sharers(Ok(Verdict::unmanaged()))
    }

    /// A helper who thinks that it may do anything, and a sharer with that verdict of it.
    fn with_sharers(verdict: Result<Verdict, Refusal>) -> Self {
        let now = epoch();
        let mut random = Random::seeded(1);
        let (a, b) = (Nonce::generate(&mut random), Nonce::generate(&mut random));
        Self {
            now,
            helper: session(Role::Helper, Side::Host, [&a, &b], now),
            sharer: judged(Role::Sharer, Side::Joiner, [&b, &a], verdict, now),
            heard: [vec![], vec![]],
        }
    }

    /// Delivers everything, both ways, until nothing is left.
    fn settle(&mut self) {
        loop {
            let to_sharer: Vec<_> = std::iter::from_fn(|| self.helper.poll_transmit()).collect();
            let to_helper: Vec<_> = std::iter::from_fn(|| self.sharer.poll_transmit()).collect();
            if to_sharer.is_empty() && to_helper.is_empty() {
                break;
            }
            deliver(&mut self.sharer, to_sharer, self.now);
            deliver(&mut self.helper, to_helper, self.now);
        }
        self.heard[0].extend(std::iter::from_fn(|| self.helper.poll_event()));
        self.heard[1].extend(std::iter::from_fn(|| self.sharer.poll_event()));
    }

    fn helper_does(&mut self, command: Command) -> Result<(), BadState> {
        let done = self.helper.handle_command(command, self.now);
        self.settle();
        done
    }

    fn sharer_does(&mut self, command: Command) -> Result<(), BadState> {
        let done = self.sharer.handle_command(command, self.now);
        self.settle();
        done
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.helper.handle_timeout(self.now);
        self.sharer.handle_timeout(self.now);
        self.settle();
    }

    fn active(mode: Mode) -> Self {
        let mut two = Self::new();
        two.settle();
        two.helper_does(Command::AskMode(Mode::Control)).unwrap();
        two.sharer_does(Command::Allow(mode)).unwrap();
        two
    }

    fn ended(&self) -> [Option<&Receipt>; 2] {
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

    fn assert_ended(&self, reason: EndReason) {
        assert_eq!(
            self.ended().map(|receipt| receipt.map(|r| r.reason)),
            [Some(reason); 2]
        );
    }
}

fn deliver(to: &mut Session, transmits: Vec<Transmit>, now: Instant) {
    for transmit in transmits {
        match transmit {
            Transmit::Control(body) => {
                // Both may end at the same moment; then the other's word comes too late.
                let ended = matches!(body, schema::control::Body::Ended(_));
                let done = to.handle_control(Control { body: Some(body) }, now);
                assert!(done.is_ok() || ended, "{done:?}");
            }
            Transmit::Chat(chat) => to.handle_chat(chat, now).unwrap(),
        }
    }
}

#[test]
fn both_see_each_other_and_the_same_words() {
    let mut two = Two::new();
    two.settle();
    let [
        Event::Trust {
            peer: sharer,
            words: a,
            ..
        },
    ] = &two.heard[0][..]
    else {
        panic!("{:?}", two.heard)
    };
    let [
        Event::Trust {
            peer: helper,
            words: b,
            ..
        },
    ] = &two.heard[1][..]
    else {
        panic!("{:?}", two.heard)
    };
    assert_eq!(
        (sharer, helper),
        (&profile(Role::Sharer), &profile(Role::Helper))
    );
    assert_eq!(a, b);
}

#[test]
fn nothing_starts_before_the_sharer_allows() {
    let mut two = Two::new();
    two.settle();
    assert!(two.sharer_does(Command::Allow(Mode::View)).is_err());
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    assert_eq!((two.helper.mode(), two.sharer.mode()), (None, None));
    assert!(two.helper_does(Command::Chat("early".into())).is_err());
    two.sharer_does(Command::Allow(Mode::View)).unwrap();
    assert_eq!(
        (two.helper.mode(), two.sharer.mode()),
        (Some(Mode::View), Some(Mode::View))
    );
}

#[test]
fn more_than_asked_cannot_be_allowed() {
    let mut two = Two::new();
    two.settle();
    two.helper_does(Command::AskMode(Mode::View)).unwrap();
    assert!(two.sharer_does(Command::Allow(Mode::Control)).is_err());
    two.sharer_does(Command::Allow(Mode::View)).unwrap();
}

fn permitted(permissions: Permissions) -> Result<Verdict, Refusal> {
    let limit = (permissions == Permissions::NONE).then_some(Limit::OutOfScope);
    Ok(Verdict {
        permissions,
        limit,
        ..Verdict::unmanaged()
    })
}

#[test]
fn t_11_a_modified_helper_gets_no_more_than_the_sharer_knows_it_to_be_permitted() {
    let mut two = Two::with_sharers(permitted(Permissions::GUEST));
    two.settle();
    let prompts = |two: &mut Two| {
        let heard = std::iter::from_fn(|| two.sharer.poll_event());
        heard
            .filter(|event| matches!(event, Event::ConsentPrompt { .. }))
            .count()
    };
    // The sharer's person is not even asked.
    let ask = |mode| Control {
        body: Some(schema::control::Body::ModeRequest(schema::ModeRequest {
            mode,
        })),
    };
    let (control, now) = (ask(schema::Mode::ControlMode.into()), two.now);
    assert!(two.sharer.handle_control(control.clone(), now).is_err());
    assert_eq!(prompts(&mut two), 0);
    two.sharer
        .handle_control(ask(schema::Mode::View.into()), now)
        .unwrap();
    assert_eq!(prompts(&mut two), 1);
    assert!(
        two.sharer
            .handle_command(Command::Allow(Mode::Control), now)
            .is_err()
    );
    two.sharer
        .handle_command(Command::Allow(Mode::View), now)
        .unwrap();
    assert!(
        two.sharer.handle_control(control, now).is_err(),
        "nor in the session"
    );
    assert_eq!(two.sharer.mode(), Some(Mode::View));

    let mut nothing = Two::with_sharers(permitted(Permissions::NONE));
    nothing.settle();
    let now = nothing.now;
    assert!(
        nothing
            .sharer
            .handle_control(ask(schema::Mode::View.into()), now)
            .is_err()
    );
}

#[test]
fn t_10_with_whom_there_can_be_no_session_it_ends_before_a_nonce_is_shown() {
    for (refusal, reason) in [
        (Refusal::OrgMismatch, EndReason::OrgMismatch),
        (
            Refusal::UnenrolledNotAllowed,
            EndReason::UnenrolledNotAllowed,
        ),
        (Refusal::Revoked, EndReason::AuthFailed),
        (Refusal::NotTheirs, EndReason::AuthFailed),
    ] {
        let mut two = Two::with_sharers(Err(refusal));
        let said: Vec<_> = std::iter::from_fn(|| two.sharer.poll_transmit()).collect();
        assert!(matches!(
            said[..],
            [Transmit::Control(schema::control::Body::Ended(_))]
        ));
        deliver(&mut two.helper, said, two.now);
        while two.helper.poll_transmit().is_some() {}
        two.settle();
        two.assert_ended(reason);
        let known = |event: &Event| matches!(event, Event::Trust { .. });
        assert!(!two.heard.iter().flatten().any(known), "{refusal}");
    }
}

#[test]
fn t_32_what_is_not_permitted_any_more_ends_at_once() {
    let active = || {
        let mut two = Two::new();
        two.settle();
        two.helper_does(Command::AskMode(Mode::Control)).unwrap();
        two.sharer_does(Command::Allow(Mode::Control)).unwrap();
        two
    };
    let mut lower = active();
    let now = lower.now;
    lower
        .sharer
        .handle_verdict(permitted(Permissions::GUEST), now);
    lower.settle();
    let modes = (lower.helper.mode(), lower.sharer.mode());
    assert_eq!(modes, (Some(Mode::View), Some(Mode::View)));
    for verdict in [permitted(Permissions::NONE), Err(Refusal::Revoked)] {
        let mut two = active();
        two.sharer.handle_verdict(verdict, now);
        two.settle();
        two.assert_ended(EndReason::AdminEnded);
    }
    // More than before changes nothing by itself.
    let mut more = active();
    more.sharer.handle_verdict(permitted(Permissions::ALL), now);
    more.settle();
    assert_eq!(more.sharer.mode(), Some(Mode::Control));
}

#[test]
fn a_decline_ends_it() {
    let mut two = Two::new();
    two.settle();
    two.helper_does(Command::AskMode(Mode::View)).unwrap();
    two.sharer_does(Command::Decline).unwrap();
    two.assert_ended(EndReason::Declined);
    assert!(two.ended()[0].unwrap().mode.is_none());
}

#[test]
fn timers_end_what_nobody_answers() {
    let ms = Duration::from_millis(1);
    let mut alone = Two::new();
    alone.helper.handle_timeout(alone.now + T_JOIN - ms);
    assert!(alone.helper.poll_event().is_none());
    alone.helper.handle_timeout(alone.now + T_JOIN);
    assert!(
        matches!(alone.helper.poll_event(), Some(Event::Ended(r)) if r.reason == EndReason::JoinTimeout)
    );

    let mut two = Two::new();
    two.settle();
    two.wait(T_MODE - ms);
    assert_eq!(two.ended(), [None, None]);
    two.wait(ms);
    two.assert_ended(EndReason::HelperTimeout);

    let mut two = Two::new();
    two.settle();
    two.helper_does(Command::AskMode(Mode::View)).unwrap();
    two.wait(T_CONSENT - ms);
    assert_eq!(two.ended(), [None, None]);
    two.wait(ms);
    two.assert_ended(EndReason::ConsentTimeout);
}

/// A sharer's program that never answers does not hold the helper for ever.
#[test]
fn the_helper_does_not_trust_the_sharers_clock() {
    let mut two = Two::new();
    two.settle();
    two.helper_does(Command::AskMode(Mode::View)).unwrap();
    two.helper
        .handle_timeout(two.now + T_CONSENT + Duration::from_secs(10));
    assert!(
        matches!(two.helper.poll_event(), Some(Event::Ended(r)) if r.reason == EndReason::ConsentTimeout)
    );
}

#[test]
fn control_can_be_asked_for_later_declined_allowed_and_taken_back() {
    let mut two = Two::active(Mode::View);
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    two.sharer_does(Command::Decline).unwrap();
    assert_eq!(
        (two.helper.mode(), two.ended()),
        (Some(Mode::View), [None, None])
    );
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    two.wait(T_UPGRADE);
    assert_eq!(
        two.heard[0]
            .iter()
            .filter(|event| **event == Event::UpgradeDeclined)
            .count(),
        2
    );
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    two.sharer_does(Command::Allow(Mode::Control)).unwrap();
    assert_eq!(
        (two.helper.mode(), two.sharer.mode()),
        (Some(Mode::Control), Some(Mode::Control))
    );
    two.sharer_does(Command::DropMode).unwrap();
    assert_eq!(
        (two.helper.mode(), two.sharer.mode()),
        (Some(Mode::View), Some(Mode::View))
    );
    assert!(two.helper_does(Command::DropMode).is_err());
}

#[test]
fn chat_arrives_in_order_with_every_script() {
    let mut two = Two::active(Mode::View);
    let texts = ["plain", "نص عربي", "漢字かな", "👩‍💻🏳️‍🌈", "a\u{301}\u{0}", ""];
    for text in texts {
        two.helper_does(Command::Chat(text.into())).unwrap();
        two.sharer_does(Command::Chat(text.into())).unwrap();
    }
    for heard in &two.heard {
        let heard: Vec<_> = heard
            .iter()
            .filter_map(|event| match event {
                Event::Chat { text, .. } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(heard, texts);
    }
}

#[test]
fn an_overlong_message_is_the_senders_mistake_and_harms_nothing() {
    let mut two = Two::active(Mode::View);
    assert!(
        two.helper_does(Command::Chat("x".repeat(MAX_CHAT_TEXT_BYTES + 1)))
            .is_err()
    );
    two.helper_does(Command::Chat("x".repeat(MAX_CHAT_TEXT_BYTES)))
        .unwrap();
    assert_eq!(two.ended(), [None, None]);
}

#[test]
fn invented_repeated_or_missing_chat_ends_the_session() {
    for id in [0, 2, u64::MAX] {
        let mut two = Two::active(Mode::View);
        assert!(
            two.sharer
                .handle_chat(
                    Chat {
                        id,
                        text: "x".into()
                    },
                    two.now
                )
                .is_err()
        );
        two.settle();
        two.assert_ended(EndReason::Internal);
    }
}

#[test]
fn whoever_leaves_the_other_knows_and_chat_under_way_still_counts() {
    for role in [Role::Helper, Role::Sharer] {
        let mut two = Two::active(Mode::View);
        let (leaver, other, reason) = match role {
            Role::Helper => (&mut two.helper, &mut two.sharer, EndReason::HelperLeft),
            Role::Sharer => (&mut two.sharer, &mut two.helper, EndReason::SharerLeft),
        };
        leaver
            .handle_command(Command::Chat("last words".into()), two.now)
            .unwrap();
        leaver.handle_command(Command::Leave, two.now).unwrap();
        let mut said: Vec<_> = std::iter::from_fn(|| leaver.poll_transmit()).collect();
        // The control stream overtakes the chat stream.
        said.reverse();
        deliver(other, said, two.now);
        two.settle();
        two.assert_ended(reason);
        let other = if role == Role::Helper { 1 } else { 0 };
        assert_eq!(two.ended()[other].unwrap().chat_received, 1);
    }
}

#[test]
fn last_words_that_never_come_are_waited_for_one_second() {
    let mut two = Two::active(Mode::View);
    two.helper
        .handle_command(Command::Chat("lost".into()), two.now)
        .unwrap();
    two.helper.handle_command(Command::Leave, two.now).unwrap();
    for transmit in std::iter::from_fn(|| two.helper.poll_transmit()) {
        if let Transmit::Control(body) = transmit {
            two.sharer
                .handle_control(Control { body: Some(body) }, two.now)
                .unwrap();
        }
    }
    two.settle();
    assert!(two.ended()[1].is_none());
    two.wait(Duration::from_secs(1));
    two.assert_ended(EndReason::HelperLeft);
}

#[test]
fn words_that_differ_end_the_session_on_both_sides() {
    let mut two = Two::active(Mode::View);
    two.sharer_does(Command::SasChecked(true)).unwrap();
    assert!(two.heard[0].contains(&Event::PeerCheckedSas(true)));
    two.helper_does(Command::SasChecked(false)).unwrap();
    two.assert_ended(EndReason::SasMismatch);
    assert_eq!(
        two.ended().map(|receipt| receipt.unwrap().sas),
        [SasState::Mismatch; 2]
    );
}

#[test]
fn a_lost_connection_ends_it_once() {
    let mut two = Two::active(Mode::Control);
    two.helper.handle_connection_lost(two.now);
    two.helper.handle_connection_lost(two.now);
    two.sharer.handle_connection_lost(two.now);
    two.settle();
    two.assert_ended(EndReason::ConnectionLost);
}

#[test]
fn the_other_role_cannot_say_what_is_not_its_to_say() {
    let mut two = Two::new();
    two.settle();
    let answer = schema::ConsentAnswer {
        allow: true,
        mode: schema::Mode::ControlMode.into(),
    };
    let forged = [
        schema::control::Body::ConsentAnswer(answer),
        schema::control::Body::ConsentPrompted(schema::ConsentPrompted { deadline_ms: 1 }),
        schema::control::Body::ModeDropped(schema::ModeDropped {}),
        schema::control::Body::NonceReveal(schema::NonceReveal::default()),
    ];
    for body in forged {
        assert!(
            two.sharer
                .handle_control(Control { body: Some(body) }, two.now)
                .is_err()
        );
    }
    let request = schema::ModeRequest {
        mode: schema::Mode::View.into(),
    };
    let body = Some(schema::control::Body::ModeRequest(request));
    assert!(
        two.helper
            .handle_control(Control { body }, two.now)
            .is_err()
    );
    assert!(
        two.helper
            .handle_control(Control { body: None }, two.now)
            .is_err()
    );
    two.settle();
    assert_eq!(
        (two.sharer.mode(), two.ended()),
        (None, [None, None]),
        "nothing changed"
    );
}

#[test]
fn nobody_can_say_that_the_other_one_left() {
    let mut two = Two::active(Mode::View);
    let ended = schema::Ended {
        reason: schema::EndReason::HelperLeft.into(),
        chat_sent: 0,
    };
    let body = Some(schema::control::Body::Ended(ended));
    two.helper
        .handle_control(Control { body }, two.now)
        .unwrap();
    two.settle();
    assert_eq!(two.ended()[0].unwrap().reason, EndReason::Internal);
}
