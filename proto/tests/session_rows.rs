//! SESSION.md §1.4, a test for each row that begins with a connection, and the guide's rules that this machine decides: the id stands
//! first in the name, and `docs/rules.md` is made of the names.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one thing among many"
)]

mod pair;
mod people;

use std::time::Duration;

use pair::{Judged, Two, attended, ms, permitted, unattended};
use people::profile;
use remora_proto::{
    identity::Role,
    line::Why,
    org::{
        permission::{Permission, Permissions},
        setting::{Setting, Settings},
        verdict::{self, Verdict},
    },
    session::{
        Act, Cause, Check, Command, Durations, Elevation, EndReason, Entry, Event, LocalEnd,
        Method, Mode, Phase, Refusal, SasState, SecurePrompt, Shield, T_ANSWER, T_CONSENT, T_ELEV,
        T_FREEZE, T_JOIN, T_LOST, T_MODE, T_RESTART, T_RESUME, T_START, T_UNATTENDED, T_UPGRADE,
        Terms, Transmit,
    },
    wire::message::session::{self as schema, control::Body},
};

const MS: Duration = ms(1);

fn ask_control() -> Body {
    Body::ModeRequest(schema::ModeRequest {
        mode: schema::Mode::ControlMode.into(),
        number: 1,
    })
}

// ---- 9–13: who is it? ------------------------------------------------------------------------

#[test]
fn t_09_both_see_each_other_and_the_same_words() {
    let mut two = Two::connected(attended());
    two.settle();
    let trust = |side: usize| match &two.heard[side][..] {
        [Event::Trust { peer, words, .. }] => (peer.clone(), *words),
        other => panic!("{other:?}"),
    };
    let ((sharer, a), (helper, b)) = (trust(0), trust(1));
    assert_eq!(sharer, profile(Role::Sharer));
    assert_eq!(helper, profile(Role::Helper));
    assert_eq!(a, b);
    assert_eq!(two.phases(), [Phase::Trust; 2]);
}

#[test]
fn t_10_who_cannot_open_its_commitment_has_not_proved_itself() {
    let mut two = Two::connected(attended());
    let reveal = schema::NonceReveal {
        nonce: vec![3; 32].into(),
    };
    two.forge(Body::NonceReveal(reveal)).unwrap();
    two.settle();
    assert_eq!(two.ended()[1].unwrap().reason, EndReason::AuthFailed);
}

#[test]
fn t_10_a_join_takes_30_s_at_most() {
    let mut two = Two::connected(attended());
    for at in [T_JOIN - MS, T_JOIN] {
        let now = two.now + at;
        two.sharer.handle_heard(now).unwrap();
        two.sharer.handle_timeout(now);
    }
    let end = std::iter::from_fn(|| two.sharer.poll_event()).collect::<Vec<_>>();
    assert!(
        matches!(&end[..], [Event::Ended(receipt)] if receipt.reason == EndReason::JoinTimeout)
    );
}

#[test]
fn t_10_with_whom_there_can_be_no_session_it_ends_before_a_nonce_is_shown() {
    for (refusal, reason) in [
        (verdict::Refusal::OrgMismatch, EndReason::OrgMismatch),
        (
            verdict::Refusal::UnenrolledNotAllowed,
            EndReason::UnenrolledNotAllowed,
        ),
        (verdict::Refusal::Revoked, EndReason::AuthFailed),
        (verdict::Refusal::NotTheirs, EndReason::AuthFailed),
    ] {
        let mut two = Two::judged(attended(), [permitted(Permissions::ALL), Err(refusal)]);
        let said: Vec<_> = std::iter::from_fn(|| two.sharer.poll_transmit()).collect();
        assert!(matches!(said[..], [Transmit::Control(Body::Ended(_))]));
        pair::deliver(&mut two.helper, said, two.now);
        while two.helper.poll_transmit().is_some() {}
        two.settle();
        two.assert_ended(reason);
        let known = |event: &Event| matches!(event, Event::Trust { .. });
        assert!(!two.heard.iter().flatten().any(known), "{refusal}");
    }
}

#[test]
fn t_10_either_leaves_a_join() {
    for (role, reason) in [
        (Role::Helper, EndReason::HelperLeft),
        (Role::Sharer, EndReason::SharerLeft),
    ] {
        let mut two = Two::connected(attended());
        let side = if role == Role::Helper {
            &mut two.helper
        } else {
            &mut two.sharer
        };
        side.handle_command(Command::Leave, two.now).unwrap();
        two.settle();
        two.assert_ended(reason);
    }
}

#[test]
fn t_11_the_helper_asks_and_the_sharer_is_asked() {
    let two = Two::asked(attended(), Mode::Control);
    assert_eq!(two.phases(), [Phase::Consent; 2]);
    assert!(two.heard[1].contains(&Event::ConsentPrompt {
        mode: Mode::Control,
        within: T_CONSENT,
        upgrade: false
    }));
    assert!(two.heard[0].contains(&Event::AwaitingConsent { within: T_CONSENT }));
    let two = Two::asked(unattended(), Mode::Control);
    assert_eq!(two.phases(), [Phase::Countdown; 2]);
}

#[test]
fn t_11_what_is_not_permitted_is_not_even_asked() {
    let guest = || permitted(Permissions::GUEST);
    let mut two = Two::judged(attended(), [guest(), guest()]).settled();
    let refused = two.helper_does(Command::AskMode(Mode::Control));
    assert_eq!(refused.unwrap_err(), Refusal::ModeNotPermitted);
    assert_eq!(refused.unwrap_err().code(), "MODE_NOT_PERMITTED");
    assert_eq!(two.phases(), [Phase::Trust; 2]);
}

/// The sharer's person is not even asked.
#[test]
fn t_11_a_modified_helper_gets_no_more_than_the_sharer_knows_it_to_be_permitted() {
    let all = || permitted(Permissions::ALL);
    let mut two = Two::judged(attended(), [all(), permitted(Permissions::GUEST)]).settled();
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    assert!(two.heard[0].contains(&Event::Refused(Refusal::ModeNotPermitted)));
    let is_prompt = |event: &Event| matches!(event, Event::ConsentPrompt { .. });
    assert!(!two.heard[1].iter().any(is_prompt));
    assert_eq!(two.phases(), [Phase::Trust; 2], "and may ask for less");
    two.helper_does(Command::AskMode(Mode::View)).unwrap();
    assert!(two.sharer_does(Command::Allow(Mode::Control)).is_err());
    two.sharer_does(Command::Allow(Mode::View)).unwrap();
    two.sharer_does(Command::CaptureUp).unwrap();
    assert_eq!(two.forge(ask_control()), Err(Refusal::ModeNotPermitted));
    assert_eq!(two.sharer.mode(), Some(Mode::View));

    let mut two = Two::judged(attended(), [all(), permitted(Permissions::NONE)]).settled();
    two.helper_does(Command::AskMode(Mode::View)).unwrap();
    assert!(two.heard[0].contains(&Event::Refused(Refusal::ModeNotPermitted)));
}

#[test]
fn t_11_nobody_watches_an_unattended_screen_that_cannot_be_hidden() {
    let terms = Terms {
        platform: remora_proto::session::Platform::default(),
        ..unattended()
    };
    let mut two = Two::trusting(terms);
    two.helper_does(Command::AskMode(Mode::View)).unwrap();
    assert!(two.heard[0].contains(&Event::Refused(Refusal::PrerequisiteMissing)));
    assert_eq!(two.phases(), [Phase::Trust; 2]);
}

#[test]
fn t_12_words_that_differ_end_it_on_both_sides_whenever_that_is_seen() {
    let states: [fn() -> Two; 5] = [
        || Two::trusting(attended()),
        || Two::asked(attended(), Mode::View),
        || Two::asked(unattended(), Mode::View),
        || Two::starting(attended(), Mode::View),
        || Two::active(attended(), Mode::View),
    ];
    for state in states {
        let mut two = state();
        two.sharer_does(Command::SasChecked(true)).unwrap();
        assert!(two.heard[0].contains(&Event::PeerCheckedSas(true)));
        two.helper_does(Command::SasChecked(false)).unwrap();
        two.assert_ended(EndReason::SasMismatch);
        let said = two.ended().map(|receipt| receipt.unwrap().sas);
        assert_eq!(said, [SasState::Mismatch; 2]);
    }
}

#[test]
fn t_13_a_helper_who_asks_for_nothing_is_not_waited_for() {
    let mut two = Two::trusting(attended());
    two.wait(T_MODE - MS);
    two.assert_goes_on();
    two.wait(MS);
    two.assert_ended(EndReason::HelperTimeout);
    let mut two = Two::trusting(attended());
    two.sharer_does(Command::Leave).unwrap();
    two.assert_ended(EndReason::SharerLeft);
}

// ---- 14–17: may it be? -----------------------------------------------------------------------

#[test]
fn t_14_the_sharer_allows_at_most_what_was_asked() {
    let mut two = Two::asked(attended(), Mode::View);
    let more = two.sharer_does(Command::Allow(Mode::Control));
    assert!(matches!(more, Err(Refusal::BadState(_))));
    two.sharer_does(Command::Allow(Mode::View)).unwrap();
    assert_eq!(two.phases(), [Phase::Starting; 2]);
    let mut two = Two::asked(attended(), Mode::Control);
    two.sharer_does(Command::Allow(Mode::View)).unwrap();
    two.sharer_does(Command::CaptureUp).unwrap();
    assert_eq!(two.modes(), [Some(Mode::View); 2]);
}

#[test]
fn t_14_nothing_starts_before_the_sharer_allows() {
    let mut two = Two::trusting(attended());
    assert!(two.sharer_does(Command::Allow(Mode::View)).is_err());
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    assert!(two.sharer_does(Command::CaptureUp).is_err());
    assert!(two.helper_does(Command::Chat("early".into())).is_err());
    assert!(!two.sharer.rights().may_show());
    assert_eq!(two.modes(), [None, None]);
}

#[test]
fn t_14_a_sharers_program_cannot_say_that_silence_was_a_yes() {
    let mut two = Two::asked(attended(), Mode::View);
    let answer = schema::ConsentAnswer {
        allow: true,
        mode: schema::Mode::View.into(),
        method: schema::ConsentMethod::Timeout.into(),
        number: 1,
    };
    let body = Some(Body::ConsentAnswer(answer));
    let done = two.helper.handle_control(schema::Control { body }, two.now);
    assert!(done.is_err());
    assert_eq!(two.helper.phase(), Phase::Consent);
}

#[test]
fn t_15_declined_left_or_not_answered() {
    for command in [Command::Decline, Command::Leave] {
        let mut two = Two::asked(attended(), Mode::View);
        two.sharer_does(command).unwrap();
        two.assert_ended(EndReason::Declined);
        assert!(two.ended()[0].unwrap().mode.is_none());
    }
    // A sharer's program that never answers does not hold the helper for ever.
    let mut two = Two::asked(attended(), Mode::View);
    let late = two.now + T_CONSENT + ms(10_000);
    two.helper.handle_heard(late).unwrap();
    two.helper.handle_timeout(late);
    two.settle();
    assert_eq!(two.ended()[0].unwrap().reason, EndReason::ConsentTimeout);
}

#[test]
fn t_16_an_unattended_session_starts_by_a_person_by_silence_or_where_nobody_is() {
    let consent = |two: &mut Two| {
        two.sharer_does(Command::CaptureUp).unwrap();
        two.helper_does(Command::Leave).unwrap();
        two.ended().map(|receipt| receipt.unwrap().consent)
    };
    let mut two = Two::starting(unattended(), Mode::Control);
    assert_eq!(consent(&mut two), [Some(Method::User); 2]);

    let mut two = Two::asked(unattended(), Mode::Control);
    two.wait(T_UNATTENDED);
    assert_eq!(consent(&mut two), [Some(Method::Timeout); 2]);

    let skips = Terms {
        skip_wait: true,
        nobody_there: true,
        ..unattended()
    };
    let mut two = Two::asked(skips.clone(), Mode::Control);
    assert_eq!(two.phases(), [Phase::Starting; 2]);
    assert_eq!(consent(&mut two), [Some(Method::NoUser); 2]);

    let waits = Terms {
        nobody_there: false,
        ..skips
    };
    assert_eq!(
        Two::asked(waits, Mode::View).phases(),
        [Phase::Countdown; 2]
    );
}

#[test]
fn t_17_somebody_there_says_no() {
    for command in [Command::Decline, Command::Leave] {
        let mut two = Two::asked(unattended(), Mode::Control);
        two.wait(T_UNATTENDED - MS);
        two.sharer_does(command).unwrap();
        two.assert_ended(EndReason::Declined);
        assert_eq!(two.acts(), []);
    }
}

// ---- 18–22: it starts, and how much of it ----------------------------------------------------

#[test]
fn t_18_it_is_active_once_the_screen_is_up() {
    let mut two = Two::starting(attended(), Mode::Control);
    assert!(!two.sharer.rights().may_show());
    two.sharer_does(Command::CaptureUp).unwrap();
    assert_eq!(two.phases(), [Phase::Active; 2]);
    for heard in &two.heard {
        let mode = Mode::Control;
        assert!(heard.contains(&Event::Started { mode }));
    }
    assert!(two.sharer.rights().may_show());
    assert_eq!(two.acts(), []);
}

#[test]
fn t_18_an_unattended_screen_is_hidden_first() {
    let two = Two::active(unattended(), Mode::Control);
    assert_eq!(two.acts(), [Act::Shield]);
    let shielded = Event::Shield {
        shield: Shield::Shielded,
        within: Duration::ZERO,
    };
    assert!(two.heard[0].contains(&shielded));
}

#[test]
fn t_19_a_screen_that_cannot_be_shown_ends_it() {
    let mut two = Two::starting(attended(), Mode::View);
    two.sharer_does(Command::CaptureFailed).unwrap();
    two.assert_ended(EndReason::CaptureFailed);

    let mut two = Two::starting(attended(), Mode::View);
    two.wait(T_START - MS);
    two.assert_goes_on();
    two.wait(MS);
    two.assert_ended(EndReason::CaptureFailed);
}

#[test]
fn t_20_control_within_the_session() {
    let mut two = Two::active(attended(), Mode::View);
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    assert!(two.helper_does(Command::AskMode(Mode::Control)).is_err());
    two.sharer_does(Command::Allow(Mode::Control)).unwrap();
    assert_eq!(two.modes(), [Some(Mode::Control); 2]);

    let mut two = Two::active(attended(), Mode::View);
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    two.wait(T_UPGRADE - MS);
    assert!(!two.heard[0].contains(&Event::UpgradeDeclined));
    two.wait(MS);
    assert!(two.heard[0].contains(&Event::UpgradeDeclined));
    assert_eq!(two.modes(), [Some(Mode::View); 2]);
    two.assert_goes_on();
}

/// The helper gives up and asks again just when the sharer says yes to the first question: that yes is none to the second.
#[test]
fn t_20_a_yes_to_an_earlier_question_is_none() {
    let mut two = Two::active(attended(), Mode::View);
    let ask = || Command::AskMode(Mode::Control);
    two.helper_does(ask()).unwrap();
    for command in [Command::DropMode, ask()] {
        two.helper.handle_command(command, two.now).unwrap();
    }
    let yes = Command::Allow(Mode::Control);
    two.sharer.handle_command(yes.clone(), two.now).unwrap();
    let said = std::iter::from_fn(|| two.sharer.poll_transmit()).collect::<Vec<_>>();
    let [Transmit::Control(yes_to_the_first)] = &said[..] else {
        panic!("{said:?}")
    };
    let body = Some(yes_to_the_first.clone());
    let done = two.helper.handle_control(schema::Control { body }, two.now);
    assert!(done.is_err());
    two.settle();
    assert_eq!(two.modes(), [Some(Mode::View); 2]);
    two.sharer_does(yes).unwrap();
    assert_eq!(two.modes(), [Some(Mode::Control); 2]);
}

#[test]
fn t_21_control_is_given_back_or_taken_back_and_elevation_with_it() {
    for role in [Role::Helper, Role::Sharer] {
        let mut two = Two::elevated();
        assert_eq!(two.sharer.rights().input_refusal(), None);
        match role {
            Role::Helper => two.helper_does(Command::DropMode).unwrap(),
            Role::Sharer => two.sharer_does(Command::DropMode).unwrap(),
        }
        assert_eq!(two.modes(), [Some(Mode::View); 2]);
        assert_eq!(two.sharer.rights().input_refusal(), Some("VIEW"));
        assert_eq!(two.acts(), [Act::Elevate, Act::Unelevate]);
        assert_eq!(two.helper.elevation(), Elevation::None);
        assert!(two.helper_does(Command::DropMode).is_err());
    }
}

#[test]
fn t_22_a_pause_shows_nothing_and_takes_nothing() {
    let mut two = Two::active(attended(), Mode::Control);
    assert!(two.sharer_does(Command::Pause(false)).is_err());
    two.sharer_does(Command::Pause(true)).unwrap();
    let rights = two.sharer.rights();
    assert!(!rights.may_show());
    assert_eq!(rights.input_refusal(), Some("PAUSED"));
    assert!(two.heard[0].contains(&Event::Paused(true)));
    two.sharer_does(Command::Pause(false)).unwrap();
    assert!(two.sharer.rights().may_show());
    assert!(two.helper_does(Command::Pause(true)).is_err());
    let mut two = Two::active(unattended(), Mode::Control);
    assert!(two.sharer_does(Command::Pause(true)).is_err(), "attended");
}

// ---- 23–25: an administrator's rights --------------------------------------------------------

#[test]
fn t_23_elevation_is_asked_for_and_answered() {
    let two = Two::elevated();
    assert_eq!(two.acts(), [Act::Elevate]);
    assert_eq!(two.helper.elevation(), Elevation::Granted);

    let mut two = Two::active(attended(), Mode::Control);
    two.helper_does(Command::AskElevation).unwrap();
    assert!(two.heard[1].contains(&Event::ElevationPrompt { within: T_ELEV }));
    two.sharer_does(Command::Decline).unwrap();
    assert!(two.heard[0].contains(&Event::ElevationDeclined));

    two.helper_does(Command::AskElevation).unwrap();
    two.wait(T_ELEV - MS);
    assert_eq!(two.helper.elevation(), Elevation::Asked);
    two.wait(MS);
    assert_eq!(two.helper.elevation(), Elevation::None);
    two.assert_goes_on();
    assert_eq!(two.acts(), []);

    let mut two = Two::active(attended(), Mode::View);
    assert!(two.helper_does(Command::AskElevation).is_err(), "CONTROL");
}

#[test]
fn t_23_what_the_broker_is_told_and_says_passes_only_while_elevated() {
    let order = Body::ElevationOrder(schema::ElevationOrder {
        sealed: vec![7; 48].into(),
    });
    let key = Body::ElevationKey(schema::ElevationKey {
        key: vec![7; 32].into(),
    });
    let mut two = Two::active(attended(), Mode::Control);
    assert!(two.helper_does(Command::Elevated(order.clone())).is_err());
    assert!(two.sharer_does(Command::Elevated(key.clone())).is_err());

    let mut two = Two::elevated();
    two.sharer_does(Command::Elevated(key.clone())).unwrap();
    two.helper_does(Command::Elevated(order.clone())).unwrap();
    assert_eq!(two.heard[0].last(), Some(&Event::Elevated(key.clone())));
    assert_eq!(two.heard[1].last(), Some(&Event::Elevated(order.clone())));
    assert!(
        two.helper_does(Command::Elevated(key)).is_err(),
        "the sharer's"
    );
    let forged = schema::Control {
        body: Some(order.clone()),
    };
    assert!(
        two.helper.handle_control(forged, two.now).is_err(),
        "the helper's"
    );
    two.sharer_does(Command::ReleaseElevation).unwrap();
    assert!(two.helper_does(Command::Elevated(order.clone())).is_err());
    let late = schema::Control { body: Some(order) };
    assert!(two.sharer.handle_control(late, two.now).is_err());
    two.assert_goes_on();
}

#[test]
fn t_24_a_secure_prompt_is_not_shown_unless_the_helper_may_see_to_it() {
    let prompt = SecurePrompt { takes_keys: false };
    let mut two = Two::active(attended(), Mode::Control);
    two.sharer
        .handle_secure_prompt(Some(prompt), two.now)
        .unwrap();
    two.settle();
    let rights = two.sharer.rights();
    assert!(!rights.may_show());
    assert_eq!(rights.input_refusal(), Some("SECURE_PROMPT"));
    assert!(two.heard[0].contains(&Event::Covered(Some(prompt))));
    two.helper_does(Command::AskElevation).unwrap();
    two.sharer_does(Command::AllowElevation).unwrap();
    assert!(two.sharer.rights().may_show());
    assert_eq!(two.heard[0].last(), Some(&Event::Covered(None)));
    two.helper_does(Command::ReleaseElevation).unwrap();
    assert!(!two.sharer.rights().may_show());
    two.sharer.handle_secure_prompt(None, two.now).unwrap();
    two.settle();
    assert!(two.sharer.rights().may_show());
    assert_eq!(two.heard[0].last(), Some(&Event::Covered(None)));
}

#[test]
fn t_25_elevation_ends_with_everything_it_started() {
    type End = fn(&mut Two);
    let ends: [End; 4] = [
        |two| two.helper_does(Command::ReleaseElevation).unwrap(),
        |two| two.sharer_does(Command::ReleaseElevation).unwrap(),
        |two| two.sharer_does(Command::DropMode).unwrap(),
        |two| two.silence(T_LOST),
    ];
    for end in ends {
        let mut two = Two::elevated();
        end(&mut two);
        assert_eq!(two.acts(), [Act::Elevate, Act::Unelevate]);
        for side in [&two.helper, &two.sharer] {
            assert_eq!(side.elevation(), Elevation::None);
        }
    }
}

/// Only the helper's packets are lost: the sharer has noticed nothing, and is told.
#[test]
fn t_25_a_silence_that_one_side_hears_ends_it_on_both() {
    let mut two = Two::elevated();
    two.now += T_LOST;
    two.sharer.handle_heard(two.now).unwrap();
    two.helper.handle_timeout(two.now);
    assert_eq!(
        [two.helper.phase(), two.sharer.phase()],
        [Phase::Interrupted, Phase::Active]
    );
    two.hear_again();
    assert_eq!(two.phases(), [Phase::Active; 2]);
    assert_eq!(two.sharer.elevation(), Elevation::None);
    assert_eq!(two.acts(), [Act::Elevate, Act::Unelevate]);
}

// ---- 26: the shield --------------------------------------------------------------------------

#[test]
fn t_26_who_touches_a_shielded_computer_freezes_it_for_30_s() {
    let mut two = Two::active(unattended(), Mode::Control);
    two.wait(ms(5_000));
    two.sharer.handle_local_input(two.now).unwrap();
    two.settle();
    let frozen = Event::Shield {
        shield: Shield::Frozen,
        within: T_FREEZE,
    };
    for heard in &two.heard {
        assert!(heard.contains(&frozen));
    }
    assert_eq!(two.sharer.rights().input_refusal(), Some("INPUT_FROZEN"));
    let until = two.sharer.rights().frozen_until.unwrap();
    assert_eq!(until - two.now, T_FREEZE);
    // More of it does not make it longer.
    two.wait(T_FREEZE - MS);
    two.sharer.handle_local_input(two.now).unwrap();
    assert_eq!(two.sharer.rights().input_refusal(), Some("INPUT_FROZEN"));
    two.wait(MS);
    assert_eq!(two.sharer.rights().input_refusal(), None);
    // And it can be done again.
    two.sharer.handle_local_input(two.now).unwrap();
    assert_eq!(two.sharer.rights().input_refusal(), Some("INPUT_FROZEN"));
    assert_eq!(two.acts(), [Act::Shield]);
}

#[test]
fn t_26_nobody_is_frozen_at_an_attended_computer() {
    let mut two = Two::active(attended(), Mode::Control);
    assert!(two.sharer.handle_local_input(two.now).is_err());
    assert_eq!(two.sharer.rights().input_refusal(), None);
}

// ---- 27–32: leaving --------------------------------------------------------------------------

#[test]
fn t_27_where_policy_says_so_a_computer_is_reclaimed() {
    let reclaim = Terms {
        local_end: LocalEnd::Reclaim,
        ..unattended()
    };
    let mut two = Two::active(reclaim, Mode::Control);
    two.sharer_does(Command::Leave).unwrap();
    assert!(two.heard[1].contains(&Event::LeaveWarning { signs_out: false }));
    two.sharer_does(Command::Stay).unwrap();
    assert_eq!(two.phases(), [Phase::Active; 2]);
    two.sharer_does(Command::Leave).unwrap();
    two.sharer_does(Command::ConfirmLeave).unwrap();
    two.assert_ended(EndReason::Reclaimed);
    assert_eq!(two.acts(), [Act::Shield, Act::Unshield]);
}

#[test]
fn t_28_the_sharer_leaves() {
    let states: [fn() -> Two; 3] = [
        || Two::starting(attended(), Mode::View),
        || Two::active(attended(), Mode::View),
        || {
            let mut two = Two::active(attended(), Mode::View);
            two.silence(T_LOST);
            two
        },
    ];
    for state in states {
        let mut two = state();
        two.sharer_does(Command::Leave).unwrap();
        two.assert_ended(EndReason::SharerLeft);
        assert_eq!(two.acts(), []);
    }
}

#[test]
fn t_29_after_elevation_the_sharer_is_warned_and_the_session_goes_on() {
    let mut two = Two::elevated();
    // That it is over makes no difference.
    two.helper_does(Command::ReleaseElevation).unwrap();
    two.sharer_does(Command::Leave).unwrap();
    assert!(two.heard[1].contains(&Event::LeaveWarning { signs_out: true }));
    assert_eq!(two.phases(), [Phase::Active, Phase::Ending]);
    two.helper_does(Command::Chat("still there".into()))
        .unwrap();
    assert!(two.sharer.rights().may_show());
    two.sharer_does(Command::DropMode).unwrap();
    assert_eq!(two.modes(), [Some(Mode::View); 2]);
    assert!(two.sharer_does(Command::Leave).is_err());
    two.silence(T_LOST);
    assert_eq!(two.sharer.phase(), Phase::Ending);
    two.sharer_does(Command::Stay).unwrap();
    assert_eq!(two.helper.phase(), Phase::Interrupted);
    assert_eq!(two.sharer.phase(), Phase::Interrupted);
}

#[test]
fn t_30_who_confirms_is_signed_out_once_and_who_stays_is_not() {
    let mut two = Two::elevated();
    assert!(two.sharer_does(Command::ConfirmLeave).is_err());
    two.sharer_does(Command::Leave).unwrap();
    two.sharer_does(Command::Stay).unwrap();
    assert_eq!(two.phases(), [Phase::Active; 2]);
    assert_eq!(two.acts(), [Act::Elevate]);
    two.sharer_does(Command::Leave).unwrap();
    two.sharer_does(Command::ConfirmLeave).unwrap();
    two.assert_ended(EndReason::SharerLeftSignedOut);
    assert_eq!(two.acts(), [Act::Elevate, Act::SignOut, Act::Unelevate]);
    assert!(two.sharer_does(Command::ConfirmLeave).is_err());
}

#[test]
fn t_30_a_helper_who_leaves_meanwhile_signs_nobody_out() {
    let mut two = Two::elevated();
    two.sharer_does(Command::Leave).unwrap();
    two.helper_does(Command::Leave).unwrap();
    two.assert_ended(EndReason::HelperLeft);
    assert_eq!(two.acts(), [Act::Elevate, Act::Unelevate]);
}

#[test]
fn t_31_the_helper_leaves_and_the_device_is_as_it_was() {
    let states: [(fn() -> Two, &[Act]); 6] = [
        (|| Two::trusting(attended()), &[]),
        (|| Two::asked(attended(), Mode::View), &[]),
        (|| Two::asked(unattended(), Mode::View), &[]),
        (|| Two::starting(attended(), Mode::View), &[]),
        (
            || Two::active(unattended(), Mode::View),
            &[Act::Shield, Act::Unshield],
        ),
        (Two::elevated, &[Act::Elevate, Act::Unelevate]),
    ];
    for (state, acts) in states {
        let mut two = state();
        two.helper_does(Command::Leave).unwrap();
        two.assert_ended(EndReason::HelperLeft);
        assert_eq!(two.acts(), acts);
    }
}

#[test]
fn t_32_an_administrator_ends_it() {
    for role in [Role::Helper, Role::Sharer] {
        let mut two = Two::elevated();
        let side = if role == Role::Helper {
            &mut two.helper
        } else {
            &mut two.sharer
        };
        let why: Why = "the shift is over".parse().unwrap();
        side.handle_kill(why.clone(), two.now).unwrap();
        two.settle();
        two.assert_ended(EndReason::AdminEnded);
        assert_eq!(
            two.acts(),
            [Act::Elevate, Act::Unelevate],
            "nobody is signed out"
        );
        // Both read why, also the one whose program has not been told.
        for receipt in two.ended() {
            assert_eq!(receipt.unwrap().why, why);
        }
        assert_eq!(two.helper.name(), two.sharer.name());
        assert!(two.sharer.handle_kill(why, two.now).is_err());
    }
}

#[test]
fn a_relays_operator_ends_it_and_nobody_is_signed_out() {
    let mut two = Two::elevated();
    let why: Why = "wrong device".parse().unwrap();
    two.sharer
        .handle_operator_end(why.clone(), two.now)
        .unwrap();
    two.settle();
    two.assert_ended(EndReason::OperatorEnded);
    assert_eq!(two.acts(), [Act::Elevate, Act::Unelevate]);
    for receipt in two.ended() {
        assert_eq!(receipt.unwrap().why, why);
    }
    assert!(two.helper.handle_operator_end(why, two.now).is_err());
}

#[test]
fn t_32_what_is_not_permitted_any_more_ends_at_once() {
    let judge = |two: &mut Two, verdict| {
        two.sharer.handle_verdict(verdict, two.now).unwrap();
        two.settle();
    };
    let mut lower = Two::elevated();
    judge(&mut lower, permitted(Permissions::GUEST));
    assert_eq!(lower.modes(), [Some(Mode::View); 2]);
    assert_eq!(lower.acts(), [Act::Elevate, Act::Unelevate]);
    for verdict in [permitted(Permissions::NONE), Err(verdict::Refusal::Revoked)] {
        for state in [Two::elevated, || Two::asked(attended(), Mode::View)] {
            let mut two = state();
            judge(&mut two, verdict.clone());
            two.assert_ended(EndReason::AdminEnded);
        }
    }
    let mut asked = Two::asked(attended(), Mode::Control);
    judge(&mut asked, permitted(Permissions::GUEST));
    asked.assert_ended(EndReason::AdminEnded);
    // More than before changes nothing by itself.
    let mut more = Two::elevated();
    judge(&mut more, permitted(Permissions::ALL));
    assert_eq!(more.modes(), [Some(Mode::Control); 2]);
    // Nor does it reach back: what was asked before cannot be allowed afterwards.
    let mut late = Two::active(attended(), Mode::View);
    late.helper_does(Command::AskMode(Mode::Control)).unwrap();
    judge(&mut late, permitted(Permissions::GUEST));
    assert!(late.heard[0].contains(&Event::UpgradeDeclined));
    assert!(late.sharer_does(Command::Allow(Mode::Control)).is_err());
}

/// Of a helper who may do everything, by an organisation that has set this.
fn set(text: &str) -> Verdict {
    let (setting, value) = Setting::parse(text).expect("a setting");
    let mut settings = Settings::default();
    settings.set(setting, value);
    Verdict {
        permissions: Permissions::ALL,
        settings: Some(settings),
        ..Verdict::unmanaged()
    }
}

#[test]
fn t_32_a_policy_that_changes_holds_in_the_session() {
    let judge = |two: &mut Two, verdict: Judged| {
        two.sharer
            .handle_verdict(verdict.clone(), two.now)
            .expect("open");
        two.settle();
        let told = verdict.map(Event::Judged).expect("goes on");
        assert!(two.heard[1].contains(&told));
        two.assert_goes_on();
    };
    let mut two = Two::elevated();
    judge(&mut two, Ok(set("block-elevation=on")));
    assert_eq!(two.acts(), [Act::Elevate, Act::Unelevate]);
    assert_eq!(two.modes(), [Some(Mode::Control); 2]);
    two.helper_does(Command::AskElevation).unwrap();
    assert!(two.heard[0].contains(&Event::Refused(Refusal::ElevationBlocked)));
    // What is allowed again may be asked for again.
    judge(&mut two, permitted(Permissions::ALL));
    two.helper_does(Command::AskElevation).unwrap();
    two.sharer_does(Command::AllowElevation).unwrap();

    let mut two = Two::elevated();
    two.helper_does(Command::AskRestart).unwrap();
    judge(&mut two, Ok(set("block-restart=on")));
    assert!(two.heard[0].contains(&Event::RestartDeclined));
    assert_eq!(two.helper.elevation(), Elevation::Granted);

    let mut two = Two::active(attended(), Mode::View);
    judge(&mut two, Ok(set("block-chat=on")));
    let hello = Command::Chat("hello".into());
    assert_eq!(two.sharer_does(hello.clone()), Err(Refusal::ChatBlocked));
    two.helper_does(hello).unwrap();
    assert!(two.heard[0].contains(&Event::Refused(Refusal::ChatBlocked)));

    // While nothing is heard; both know of it afterwards.
    let mut two = Two::active(attended(), Mode::Control);
    two.silence(T_LOST);
    judge(&mut two, permitted(Permissions::GUEST));
    two.hear_again();
    assert_eq!(two.modes(), [Some(Mode::View); 2]);

    // While the sharer thinks about leaving.
    let mut two = Two::elevated();
    two.sharer_does(Command::Leave).unwrap();
    judge(&mut two, permitted(Permissions::GUEST));
    assert_eq!(two.phases(), [Phase::Active, Phase::Ending]);
    assert_eq!(two.modes(), [Some(Mode::View); 2]);
}

#[test]
fn t_32_where_policy_says_so_whoever_is_ended_after_elevation_is_signed_out() {
    let mut two = Two::elevated();
    two.sharer
        .handle_verdict(Ok(set("sign-out-on-kill=on")), two.now)
        .unwrap();
    two.sharer.handle_kill(Why::default(), two.now).unwrap();
    two.settle();
    two.assert_ended(EndReason::AdminEnded);
    assert_eq!(two.acts(), [Act::Elevate, Act::SignOut, Act::Unelevate]);
}

// ---- 33–36: interrupted ----------------------------------------------------------------------

#[test]
fn t_33_ten_seconds_of_silence_interrupt_it() {
    let mut two = Two::active(unattended(), Mode::Control);
    two.silence(T_LOST - MS);
    assert_eq!(two.phases(), [Phase::Active; 2]);
    two.silence(MS);
    assert_eq!(two.phases(), [Phase::Interrupted; 2]);
    let interrupted = Event::Interrupted {
        cause: Cause::Lost,
        within: T_RESUME,
    };
    assert!(two.heard[0].contains(&interrupted));
    let rights = two.sharer.rights();
    assert_eq!(rights.input_refusal(), Some("INTERRUPTED"));
    assert!(!rights.may_show());
    assert_eq!(two.acts(), [Act::Shield], "the shield stays up");
}

#[test]
fn t_33_what_was_asked_is_declined() {
    let mut two = Two::active(attended(), Mode::View);
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    two.silence(T_LOST);
    assert!(two.sharer_does(Command::Allow(Mode::Control)).is_err());
    two.hear_again();
    assert!(two.heard[0].contains(&Event::UpgradeDeclined));
    assert_eq!(two.modes(), [Some(Mode::View); 2]);
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    two.sharer_does(Command::Allow(Mode::Control)).unwrap();
}

#[test]
fn t_34_it_is_back_and_nobody_is_asked_again() {
    let mut two = Two::active(attended(), Mode::Control);
    two.silence(T_LOST);
    two.silence(T_RESUME - MS);
    let prompts = two.heard[1].len();
    two.hear_again();
    assert_eq!(two.phases(), [Phase::Active; 2]);
    assert_eq!(two.modes(), [Some(Mode::Control); 2]);
    let resumed = Event::Resumed {
        mode: Mode::Control,
    };
    assert_eq!(two.heard[1][prompts..], [resumed]);
    assert_eq!(two.sharer.rights().input_refusal(), None);
    two.wait(T_RESUME);
    two.assert_goes_on();
}

#[test]
fn t_35_who_does_not_come_back_is_lost() {
    let mut two = Two::elevated();
    two.silence(T_LOST);
    two.silence(T_RESUME - MS);
    two.assert_goes_on();
    two.silence(MS);
    two.assert_ended(EndReason::ConnectionLost);
    assert_eq!(two.acts(), [Act::Elevate, Act::Unelevate]);
}

#[test]
fn t_35_a_connection_that_is_gone_for_good_is_not_waited_for() {
    let mut two = Two::active(attended(), Mode::Control);
    two.helper.handle_connection_lost(two.now).unwrap();
    assert!(two.helper.handle_connection_lost(two.now).is_err());
    two.sharer.handle_connection_lost(two.now).unwrap();
    two.settle();
    two.assert_ended(EndReason::ConnectionLost);
}

/// Before anything has started there is nothing to come back to.
#[test]
fn t_35_silence_before_the_start_ends_it() {
    let mut two = Two::asked(attended(), Mode::Control);
    two.silence(T_LOST);
    two.assert_ended(EndReason::ConnectionLost);
}

#[test]
fn t_36_a_restart_is_waited_for_ten_minutes() {
    let mut two = Two::elevated();
    two.helper_does(Command::AskRestart).unwrap();
    assert!(two.heard[1].contains(&Event::RestartPrompt { within: T_ELEV }));
    two.sharer_does(Command::AllowRestart).unwrap();
    assert_eq!(two.phases(), [Phase::Interrupted; 2]);
    assert_eq!(two.acts(), [Act::Elevate, Act::Restart, Act::Unelevate]);
    // Until it is down it is heard.
    two.hear_again();
    assert_eq!(two.phases(), [Phase::Interrupted; 2]);
    two.silence(T_RESTART - MS);
    two.assert_goes_on();
    let all = || permitted(Permissions::ALL);
    let prompts = two.heard.each_ref().map(Vec::len);
    two.return_to(&attended(), [all(), all()]);
    assert_eq!(two.modes(), [Some(Mode::Control); 2]);
    assert_eq!(two.phases(), [Phase::Active; 2]);
    assert_eq!(two.sharer.elevation(), Elevation::None);
    for (heard, before) in two.heard.iter().zip(prompts) {
        let kinds = heard[before..].iter().map(|event| match event {
            Event::Returned { .. } => "returned",
            Event::Starting { .. } => "starting",
            Event::Resumed {
                mode: Mode::Control,
            } => "resumed",
            event => panic!("nobody is asked: {event:?}"),
        });
        assert!(kinds.eq(["returned", "starting", "resumed"]));
    }

    let mut two = Two::elevated();
    two.helper_does(Command::AskRestart).unwrap();
    two.sharer_does(Command::AllowRestart).unwrap();
    two.silence(T_RESTART);
    two.assert_ended(EndReason::ConnectionLost);
}

#[test]
fn t_36_a_computer_that_does_not_restart_goes_on_without_elevation() {
    let mut two = Two::elevated();
    two.helper_does(Command::AskRestart).unwrap();
    two.sharer_does(Command::AllowRestart).unwrap();
    two.sharer_does(Command::RestartFailed).unwrap();
    assert_eq!(two.phases(), [Phase::Active; 2]);
    assert!(two.heard[0].contains(&Event::RestartDeclined));
    assert_eq!(two.sharer.elevation(), Elevation::None);
    assert!(two.sharer_does(Command::RestartFailed).is_err());
    assert_eq!(two.helper.before_restart(two.now), None);
}

/// Its receipt is one, of both connections; and whoever was elevated before is signed out on leaving.
#[test]
fn t_36_what_was_before_a_restart_counts_after_it() {
    let mut two = Two::elevated();
    two.sharer_does(Command::Pause(true)).unwrap();
    two.helper_does(Command::Chat("before".into())).unwrap();
    two.helper_does(Command::AskRestart).unwrap();
    two.sharer_does(Command::AllowRestart).unwrap();
    two.silence(T_RESTART / 2);
    let all = || permitted(Permissions::ALL);
    two.return_to(&attended(), [all(), all()]);
    assert!(!two.sharer.rights().may_show(), "still paused");
    two.helper_does(Command::Chat("after".into())).unwrap();
    two.wait(Duration::from_secs(5));
    two.sharer_does(Command::Leave).unwrap();
    assert_eq!(two.phases()[1], Phase::Ending);
    two.sharer_does(Command::ConfirmLeave).unwrap();
    two.assert_ended(EndReason::SharerLeftSignedOut);
    let [helper, sharer] = two.ended().map(Option::unwrap);
    assert_eq!((helper.chat_sent, sharer.chat_received), (2, 2));
    assert_eq!(sharer.duration, T_RESTART / 2 + Duration::from_secs(5));
    assert_eq!(
        (sharer.consent, sharer.elevated),
        (Some(Method::User), true)
    );
}

/// What the organisation has taken away meanwhile is not given again.
#[test]
fn t_36_after_a_restart_nobody_may_more_than_is_permitted_now() {
    for (now, mode) in [
        (
            [Permission::View, Permission::Offer, Permission::Connector]
                .into_iter()
                .collect(),
            Some(Mode::View),
        ),
        (Permissions::NONE, None),
    ] {
        let mut two = Two::elevated();
        two.helper_does(Command::AskRestart).unwrap();
        two.sharer_does(Command::AllowRestart).unwrap();
        two.return_to(&attended(), [permitted(now), permitted(now)]);
        assert_eq!(two.modes(), [mode; 2]);
    }
}

#[test]
fn t_36_a_restart_is_declined_by_a_no_and_by_silence() {
    let mut two = Two::elevated();
    two.helper_does(Command::AskRestart).unwrap();
    two.sharer_does(Command::Decline).unwrap();
    assert!(two.heard[0].contains(&Event::RestartDeclined));
    two.helper_does(Command::AskRestart).unwrap();
    two.wait(T_ELEV);
    assert_eq!(two.phases(), [Phase::Active; 2]);
    assert_eq!(two.sharer.elevation(), Elevation::Granted);
    // Nothing is asked any more.
    assert!(two.sharer_does(Command::AllowRestart).is_err());
    let mut two = Two::active(attended(), Mode::Control);
    two.helper_does(Command::AskRestart).unwrap();
    assert!(
        matches!(
            two.heard[0].last(),
            Some(Event::Refused(Refusal::BadState(_)))
        ),
        "elevated"
    );
}

// ---- 37, 38: the end -------------------------------------------------------------------------

fn checked(durations: Durations) -> Two {
    let terms = Terms {
        durations,
        ..attended()
    };
    Two::active(terms, Mode::View)
}

#[test]
fn t_37_a_session_that_nobody_confirms_ends() {
    let hour = Duration::from_secs(3600);
    let cases = [
        (
            Durations {
                reconfirm: Some(hour),
                ..Durations::default()
            },
            Check::Reconfirm,
            EndReason::Reconfirm,
        ),
        (
            Durations {
                max: Some(hour),
                ..Durations::default()
            },
            Check::MaxDuration,
            EndReason::MaxDuration,
        ),
        (
            Durations {
                idle: Some(hour),
                ..Durations::default()
            },
            Check::Idle,
            EndReason::Idle,
        ),
    ];
    for (durations, check, reason) in cases {
        let mut two = checked(durations);
        two.wait(hour - MS);
        let is_check = |event: &Event| matches!(event, Event::Check { .. });
        assert!(!two.heard[1].iter().any(is_check));
        two.wait(MS);
        let asked = |ours| Event::Check {
            check,
            within: T_ANSWER,
            ours,
        };
        assert_eq!(two.heard[1].last(), Some(&asked(true)));
        assert_eq!(two.heard[0].last(), Some(&asked(check == Check::Idle)));
        let helpers = two.helper_does(Command::GoOn);
        assert_eq!(helpers.is_ok(), check == Check::Idle);
        if helpers.is_err() {
            two.sharer_does(Command::GoOn).unwrap();
        }
        // And again.
        two.wait(hour);
        two.wait(T_ANSWER - MS);
        two.assert_goes_on();
        two.wait(MS);
        two.assert_ended(reason);
    }
    let mut two = checked(Durations::default());
    two.wait(Duration::from_secs(100_000));
    two.assert_goes_on();
}

#[test]
fn t_37_a_limit_that_is_set_in_a_session_counts_from_then() {
    let mut two = Two::active(attended(), Mode::View);
    two.wait(Duration::from_secs(7200));
    two.sharer
        .handle_verdict(Ok(set("max-seconds=60")), two.now)
        .unwrap();
    let asked = |two: &Two| {
        let check = |event: &Event| match event {
            Event::Check { check, .. } => *check == Check::MaxDuration,
            _ => false,
        };
        two.heard.each_ref().map(|heard| heard.iter().any(check))
    };
    two.wait(Duration::from_secs(60) - MS);
    assert_eq!(asked(&two), [false; 2]);
    two.wait(MS);
    assert_eq!(asked(&two), [true; 2]);
}

#[test]
fn t_37_whoever_does_something_is_not_idle() {
    let minute = Duration::from_secs(60);
    let mut two = checked(Durations {
        idle: Some(minute),
        ..Durations::default()
    });
    for _ in 0..3 {
        two.wait(minute - MS);
        two.helper_does(Command::Chat("here".into())).unwrap();
        two.wait(minute - MS);
        two.sharer.handle_activity(two.now).unwrap();
    }
    assert!(
        !two.heard[1]
            .iter()
            .any(|event| matches!(event, Event::Check { .. }))
    );
    two.wait(minute);
    assert!(matches!(two.heard[1].last(), Some(Event::Check { .. })));
}

#[test]
fn t_37_what_ran_out_in_an_interruption_is_asked_afterwards() {
    let minute = Duration::from_secs(60);
    let mut two = checked(Durations {
        max: Some(minute),
        ..Durations::default()
    });
    two.silence(T_LOST);
    two.silence(minute);
    assert_eq!(two.phases(), [Phase::Interrupted; 2]);
    two.hear_again();
    two.wait(MS);
    assert!(matches!(
        two.heard[1].last(),
        Some(Event::Check {
            check: Check::MaxDuration,
            ..
        })
    ));
}

#[test]
fn t_38_both_have_one_receipt_and_nothing_happens_afterwards() {
    let mut two = Two::active(attended(), Mode::Control);
    two.helper_does(Command::SasChecked(true)).unwrap();
    two.wait(ms(90_000));
    two.helper_does(Command::Leave).unwrap();
    let receipts = two.ended().map(|receipt| receipt.unwrap().clone());
    for receipt in &receipts {
        assert_eq!(receipt.reason, EndReason::HelperLeft);
        assert_eq!(receipt.mode, Some(Mode::Control));
        assert_eq!(receipt.consent, Some(Method::User));
        assert_eq!(receipt.duration, ms(90_000));
        assert!(!receipt.elevated);
    }
    let heard = two.heard.clone();
    assert!(two.sharer_does(Command::Leave).is_err());
    assert!(two.helper_does(Command::AskMode(Mode::View)).is_err());
    assert!(two.forge(ask_control()).is_err());
    two.silence(Duration::from_secs(1_000));
    assert_eq!(two.heard, heard);
    assert_eq!(two.sharer.poll_timeout(), None);
}

// ---- RULES.md §1 -----------------------------------------------------------------------------

#[test]
fn a_1_a_role_cannot_say_what_is_the_others() {
    let mut two = Two::trusting(attended());
    let answer = schema::ConsentAnswer {
        allow: true,
        mode: schema::Mode::ControlMode.into(),
        method: schema::ConsentMethod::User.into(),
        number: 1,
    };
    let forged = [
        Body::ConsentAnswer(answer),
        Body::ConsentPrompted(schema::ConsentPrompted { deadline_ms: 1 }),
        Body::ModeDropped(schema::ModeDropped {}),
        Body::NonceReveal(schema::NonceReveal::default()),
        Body::Started(schema::Started {}),
        Body::ElevationAnswer(schema::ElevationAnswer {
            allow: true,
            number: 1,
        }),
        Body::RestartAnswer(schema::RestartAnswer {
            allow: true,
            number: 1,
        }),
        Body::Paused(schema::Paused { paused: true }),
        Body::ScreenPaused(schema::ScreenPaused::default()),
        Body::ShieldState(schema::ShieldState::default()),
        Body::Refused(schema::Refused::default()),
    ];
    for body in forged {
        assert!(two.forge(body).is_err());
    }
    for body in [
        ask_control(),
        Body::ElevationRequest(schema::ElevationRequest { number: 1 }),
        Body::RestartRequest(schema::RestartRequest { number: 1 }),
    ] {
        let body = Some(body);
        let done = two.helper.handle_control(schema::Control { body }, two.now);
        assert!(done.is_err());
    }
    let nothing = schema::Control { body: None };
    assert!(two.helper.handle_control(nothing, two.now).is_err());
    two.settle();
    assert_eq!(two.phases(), [Phase::Trust; 2], "nothing changed");
}

#[test]
fn e_6_by_a_link_the_screen_can_only_be_seen() {
    let link = Terms {
        entry: Entry::Link,
        ..attended()
    };
    let mut two = Two::trusting(link.clone());
    let refused = two.helper_does(Command::AskMode(Mode::Control));
    assert_eq!(refused.unwrap_err().code(), "MODE_NOT_PERMITTED");
    // The sharer does not rely on the helper's program.
    assert_eq!(two.forge(ask_control()), Err(Refusal::ModeNotPermitted));
    let mut two = Two::active(link, Mode::View);
    assert!(two.helper_does(Command::AskMode(Mode::Control)).is_err());
    assert_eq!(two.forge(ask_control()), Err(Refusal::ModeNotPermitted));
    assert_eq!(two.sharer.mode(), Some(Mode::View));
}

#[test]
fn e_7_by_a_code_both_modes_are_there() {
    for mode in [Mode::View, Mode::Control] {
        assert_eq!(Two::active(Terms::default(), mode).modes(), [Some(mode); 2]);
    }
}

#[test]
fn e_13_a_computer_of_several_people_is_not_restarted() {
    let shared = Terms {
        multi_user: true,
        ..attended()
    };
    let mut two = Two::active(shared, Mode::Control);
    two.helper_does(Command::AskElevation).unwrap();
    two.sharer_does(Command::AllowElevation).unwrap();
    two.helper_does(Command::AskRestart).unwrap();
    let Some(Event::Refused(refusal)) = two.heard[0].last() else {
        panic!("{:?}", two.heard[0].last());
    };
    assert_eq!(refusal.code(), "RESTART_UNAVAILABLE");
    assert_eq!(two.phases(), [Phase::Active; 2]);
    assert!(!two.acts().contains(&Act::Restart));
    let told = Event::NoRestart(Refusal::RestartUnavailable);
    let before = two.heard[0].iter().position(|event| *event == told);
    assert!(
        before
            < two.heard[0]
                .iter()
                .position(|event| *event == Event::ElevationGranted)
    );
}

#[test]
fn c_4_the_helper_asks_for_the_screen_or_for_full_control() {
    for mode in [Mode::View, Mode::Control] {
        let two = Two::asked(attended(), mode);
        assert!(two.heard[1].iter().any(
            |event| matches!(event, Event::ConsentPrompt { mode: asked, .. } if *asked == mode)
        ));
    }
}

#[test]
fn c_5_a_decline_shows_nothing() {
    let mut two = Two::asked(attended(), Mode::Control);
    assert!(!two.sharer.rights().may_show());
    two.sharer_does(Command::Decline).unwrap();
    two.assert_ended(EndReason::Declined);
    assert!(!two.sharer.rights().may_show());
}

#[test]
fn c_6_after_five_minutes_the_question_answers_itself_with_no() {
    let mut two = Two::asked(attended(), Mode::View);
    two.wait(ms(299_900));
    two.assert_goes_on();
    assert_eq!(two.phases(), [Phase::Consent; 2]);
    two.wait(ms(100));
    two.assert_ended(EndReason::ConsentTimeout);
}

#[test]
fn c_7_from_the_screen_to_full_control_or_not() {
    let mut two = Two::active(attended(), Mode::View);
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    two.sharer_does(Command::Decline).unwrap();
    assert_eq!(two.modes(), [Some(Mode::View); 2]);
    two.assert_goes_on();
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    two.sharer_does(Command::Allow(Mode::Control)).unwrap();
    assert_eq!(two.modes(), [Some(Mode::Control); 2]);
}

#[test]
fn d_3_a_policy_blocks_elevation() {
    let blocked = Terms {
        elevation_blocked: true,
        ..attended()
    };
    let mut two = Two::active(blocked, Mode::Control);
    two.helper_does(Command::AskElevation).unwrap();
    let Some(Event::Refused(refusal)) = two.heard[0].last() else {
        panic!("{:?}", two.heard[0].last());
    };
    assert_eq!(refusal.code(), "ELEVATION_BLOCKED_BY_POLICY");
    assert_eq!(two.helper.elevation(), Elevation::None);
    assert!(
        !two.heard[1]
            .iter()
            .any(|event| matches!(event, Event::ElevationPrompt { .. }))
    );
}

#[test]
fn d_4_control_does_not_bring_elevation() {
    let control = || permitted(Permissions::GUEST.or([Permission::Control].into_iter().collect()));
    let mut two = Two::judged(attended(), [permitted(Permissions::ALL), control()]).settled();
    two.helper_does(Command::AskMode(Mode::Control)).unwrap();
    two.sharer_does(Command::Allow(Mode::Control)).unwrap();
    two.sharer_does(Command::CaptureUp).unwrap();
    two.helper_does(Command::AskElevation).unwrap();
    assert_eq!(
        two.heard[0].last(),
        Some(&Event::Refused(Refusal::NoPermission))
    );
    assert_eq!(two.helper.elevation(), Elevation::None);
}

/// A system that cannot do it says so, and pretends nothing.
#[test]
fn d_2_without_a_broker_elevation_is_unsupported() {
    let mut two = Two::active(Terms::default(), Mode::Control);
    two.helper_does(Command::AskElevation).unwrap();
    assert_eq!(
        two.heard[0].last(),
        Some(&Event::Refused(Refusal::Unsupported))
    );
    two.helper_does(Command::AskRestart).unwrap();
    assert_eq!(
        two.heard[0].last(),
        Some(&Event::Refused(Refusal::Unsupported))
    );
    assert_eq!(two.acts(), []);
}

#[test]
fn d_5_either_ends_it_at_any_time() {
    for (role, reason) in [
        (Role::Helper, EndReason::HelperLeft),
        (Role::Sharer, EndReason::SharerLeft),
    ] {
        let mut two = Two::active(attended(), Mode::Control);
        match role {
            Role::Helper => two.helper_does(Command::Leave).unwrap(),
            Role::Sharer => two.sharer_does(Command::Leave).unwrap(),
        }
        two.assert_ended(reason);
    }
}

#[test]
fn d_6_who_leaves_after_elevation_is_warned_then_signed_out_once() {
    let mut two = Two::elevated();
    two.sharer_does(Command::Leave).unwrap();
    assert!(two.heard[1].contains(&Event::LeaveWarning { signs_out: true }));
    two.sharer_does(Command::Stay).unwrap();
    two.assert_goes_on();
    two.sharer_does(Command::Leave).unwrap();
    two.sharer_does(Command::ConfirmLeave).unwrap();
    let signed_out = two.acts().into_iter().filter(|act| *act == Act::SignOut);
    assert_eq!(signed_out.count(), 1);
}

#[test]
fn d_7_a_helper_who_ends_it_signs_nobody_out() {
    let mut two = Two::elevated();
    two.helper_does(Command::Leave).unwrap();
    assert!(!two.acts().contains(&Act::SignOut));
}

#[test]
fn d_10_what_must_not_be_seen_can_be_typed_at_where_the_system_says_so() {
    let mut two = Two::active(attended(), Mode::Control);
    let prompt = Some(SecurePrompt { takes_keys: true });
    two.sharer.handle_secure_prompt(prompt, two.now).unwrap();
    let rights = two.sharer.rights();
    assert!(!rights.may_show());
    assert_eq!(rights.input_refusal(), None);
}

#[test]
fn u_1_without_an_answer_it_starts_after_30_s() {
    let mut two = Two::asked(unattended(), Mode::Control);
    two.wait(ms(29_900));
    assert_eq!(two.phases(), [Phase::Countdown; 2]);
    assert!(!two.sharer.rights().may_show());
    two.wait(ms(100));
    assert_eq!(two.phases(), [Phase::Starting; 2]);
    two.sharer_does(Command::CaptureUp).unwrap();
    assert!(two.sharer.rights().may_show());
}

#[test]
fn u_2_an_answer_starts_or_cancels_it_at_once() {
    let mut two = Two::asked(unattended(), Mode::Control);
    two.sharer_does(Command::Allow(Mode::Control)).unwrap();
    assert_eq!(two.phases(), [Phase::Starting; 2]);
    let mut two = Two::asked(unattended(), Mode::Control);
    two.sharer_does(Command::Decline).unwrap();
    two.assert_ended(EndReason::Declined);
}

#[test]
fn u_3_the_screen_is_hidden_for_as_long_as_it_lasts() {
    let mut two = Two::active(unattended(), Mode::Control);
    assert_eq!(two.acts(), [Act::Shield]);
    two.silence(T_LOST);
    assert_eq!(two.acts(), [Act::Shield]);
    two.silence(T_RESUME);
    assert_eq!(two.acts(), [Act::Shield, Act::Unshield]);
}

#[test]
fn u_4_who_touches_it_is_told_who_is_there() {
    let mut two = Two::active(unattended(), Mode::Control);
    two.sharer.handle_local_input(two.now).unwrap();
    two.settle();
    let named = two.heard[1].iter().find_map(|event| match event {
        Event::Trust { peer, .. } => Some(peer.full_name.clone()),
        _ => None,
    });
    assert_eq!(named.as_deref(), Some("Sam Okafor"));
    let shield = Shield::Frozen;
    assert!(two.heard[1].contains(&Event::Shield {
        shield,
        within: T_FREEZE
    }));
}

#[test]
fn u_5_for_30_s_nobodys_input_counts() {
    let mut two = Two::active(unattended(), Mode::Control);
    two.sharer.handle_local_input(two.now).unwrap();
    two.settle();
    two.wait(ms(29_900));
    assert_eq!(two.sharer.rights().input_refusal(), Some("INPUT_FROZEN"));
    two.wait(ms(100));
    assert_eq!(two.sharer.rights().input_refusal(), None);
}

#[test]
fn u_6_nobody_there_can_end_it() {
    let states: [fn() -> Two; 2] = [
        || Two::active(unattended(), Mode::Control),
        || Two::starting(unattended(), Mode::Control),
    ];
    for state in states {
        let mut two = state();
        let refused = two.sharer_does(Command::Leave);
        assert_eq!(refused, Err(Refusal::NoLocalEnd));
        assert_eq!(refused.unwrap_err().code(), "UNATTENDED_NO_LOCAL_END");
        two.assert_goes_on();
        two.helper_does(Command::Leave).unwrap();
        two.assert_ended(EndReason::HelperLeft);
    }
}

#[test]
fn u_8_unattended_help_is_a_permission_of_its_own() {
    let attended_only = || permitted(Permissions::ATTENDED);
    let verdicts = [permitted(Permissions::ALL), attended_only()];
    let mut two = Two::judged(unattended(), verdicts).settled();
    two.helper_does(Command::AskMode(Mode::View)).unwrap();
    assert!(two.heard[0].contains(&Event::Refused(Refusal::NoPermission)));
    assert_eq!(two.phases(), [Phase::Trust; 2]);
}
