//! A helper hands the sharer over to another helper: only with the sharer's yes, and as long as the other session has not started the
//! first one is as it was. Section 9 of the issue; no row of SESSION.md.
mod pair;
mod people;

use std::time::Duration;

use pair::{Two, attended, ms, unattended};
use remora_proto::{
    code::Code,
    session::{
        Act, Command, EndReason, Event, Mode, Phase, Refusal, T_ELEV, T_LOST, Terms, Transmit,
    },
    wire::message::session::{self as schema, control::Body},
};

const MS: Duration = ms(1);

fn code() -> Code {
    "4060-r0gx".parse().expect("a code")
}

/// The sharer is asked.
fn asked(mut two: Two) -> Two {
    let done = two.helper_does(Command::AskHandover(code()));
    assert_eq!(done, Ok(()));
    assert!(two.heard[1].contains(&Event::HandoverPrompt { within: T_ELEV }));
    assert!(two.heard[0].contains(&Event::AwaitingConsent { within: T_ELEV }));
    two
}

/// The sharer is on its way to the other helper.
fn going(two: Two) -> Two {
    let mut two = asked(two);
    assert_eq!(two.sharer_does(Command::AllowHandover), Ok(()));
    two
}

fn control() -> Two {
    Two::active(attended(), Mode::Control)
}

#[test]
fn with_the_sharers_yes_the_first_session_goes_on_until_the_second_has_started() {
    let mut two = going(control());
    let has_code = |code| Event::HandingOver { code };
    assert!(two.heard[1].contains(&has_code(Some(code()))));
    assert!(two.heard[0].contains(&has_code(None)));
    assert_eq!(two.phases(), [Phase::Active; 2]);
    assert!(two.sharer.rights().may_show());
    two.helper_does(Command::Chat("still here".into())).unwrap();
    two.sharer_does(Command::HandedOver).unwrap();
    two.assert_ended(EndReason::HandedOver);
    assert_eq!(two.acts(), []);
}

#[test]
fn a_no_silence_and_a_failure_leave_all_as_it_was() {
    let mut two = asked(control());
    two.sharer_does(Command::Decline).unwrap();
    assert!(two.heard[0].contains(&Event::HandoverDeclined));

    let mut silent = asked(control());
    silent.wait(T_ELEV - MS);
    assert!(!silent.heard[0].contains(&Event::HandoverDeclined));
    silent.wait(MS);
    assert!(silent.heard[0].contains(&Event::HandoverDeclined));

    let mut failed = going(control());
    failed.sharer_does(Command::HandoverFailed).unwrap();
    assert!(failed.heard[0].contains(&Event::HandoverFailed));

    for mut two in [two, silent, failed] {
        assert_eq!(two.phases(), [Phase::Active; 2]);
        assert_eq!(two.modes(), [Some(Mode::Control); 2]);
        assert_eq!(two.sharer.rights().input_refusal(), None);
        // What was allowed once is not allowed for ever, and the code is forgotten.
        for command in [
            Command::AllowHandover,
            Command::HandedOver,
            Command::HandoverFailed,
        ] {
            let done = two.sharer_does(command);
            assert!(matches!(done, Err(Refusal::BadState(_))), "{done:?}");
        }
        // It may be asked for again.
        going(two);
    }
}

#[test]
fn the_helper_can_neither_answer_nor_bring_anybody_in() {
    let mut two = asked(control());
    for command in [Command::AllowHandover, Command::HandedOver] {
        let done = two.helper_does(command);
        assert!(matches!(done, Err(Refusal::BadState(_))), "{done:?}");
    }
    let answer = schema::HandoverAnswer {
        allow: true,
        number: 1,
    };
    for body in [
        Body::HandoverAnswer(answer),
        Body::HandoverFailed(schema::HandoverFailed {}),
    ] {
        assert!(matches!(two.forge(body), Err(Refusal::BadState(_))));
    }
    let is_going = |event: &Event| matches!(event, Event::HandingOver { .. });
    assert!(!two.heard.iter().flatten().any(is_going));
    // Nor does it say of its own that it has handed over.
    let ended = schema::Ended {
        reason: schema::EndReason::HandedOver.into(),
        chat_sent: 0,
        why: String::new(),
    };
    two.forge(Body::Ended(ended)).unwrap();
    two.settle();
    assert_eq!(two.ended()[1].unwrap().reason, EndReason::Internal);
}

/// Whoever has the sharer's mouse could press the button that says yes.
#[test]
fn while_the_sharer_is_asked_and_on_its_way_the_helpers_keys_do_not_count() {
    let mut two = asked(control());
    assert_eq!(two.sharer.rights().input_refusal(), Some("ASKED"));
    two.sharer_does(Command::AllowHandover).unwrap();
    assert_eq!(two.sharer.rights().input_refusal(), Some("ASKED"));
    two.sharer_does(Command::HandoverFailed).unwrap();
    assert_eq!(two.sharer.rights().input_refusal(), None);

    let mut two = control();
    two.helper_does(Command::AskElevation).unwrap();
    assert_eq!(two.sharer.rights().input_refusal(), Some("ASKED"));
    two.sharer_does(Command::Decline).unwrap();
    assert_eq!(two.sharer.rights().input_refusal(), None);
}

#[test]
fn one_question_at_a_time_and_none_on_the_way() {
    let mut two = asked(control());
    for command in [Command::AskHandover(code()), Command::AskRestart] {
        assert!(two.helper_does(command).is_err());
    }
    two.sharer_does(Command::AllowHandover).unwrap();
    for command in [
        Command::AskHandover(code()),
        Command::AskElevation,
        Command::AskRestart,
    ] {
        assert!(two.helper_does(command).is_err());
    }
    let mut two = going(Two::active(attended(), Mode::View));
    assert!(two.helper_does(Command::AskMode(Mode::Control)).is_err());
    // Nobody sits there who could agree to anything.
    let mut two = Two::active(unattended(), Mode::Control);
    assert!(two.helper_does(Command::AskHandover(code())).is_err());
    // What is no code is no question.
    let mut two = control();
    let request = schema::HandoverRequest {
        number: 1,
        code: "4060-r0g".into(),
    };
    assert!(two.forge(Body::HandoverRequest(request)).is_err());
    assert_eq!(two.sharer.rights().input_refusal(), None);
}

#[test]
fn who_is_lost_on_the_way_may_still_be_handed_over_and_a_question_ends() {
    let mut two = going(control());
    two.silence(T_LOST);
    assert_eq!(two.phases(), [Phase::Interrupted; 2]);
    two.sharer_does(Command::HandedOver).unwrap();
    two.assert_ended(EndReason::HandedOver);

    let mut two = asked(control());
    two.silence(T_LOST);
    two.hear_again();
    assert!(two.heard[0].contains(&Event::HandoverDeclined));
    assert!(two.sharer_does(Command::AllowHandover).is_err());
}

/// Being handed over is no way out of being signed out (guide, D-6).
#[test]
fn d_6_who_leaves_the_second_helper_is_warned_of_what_the_first_one_had() {
    let terms = Terms {
        elevated_before: true,
        ..attended()
    };
    let mut two = Two::active(terms, Mode::View);
    two.sharer_does(Command::Leave).unwrap();
    assert!(two.heard[1].contains(&Event::LeaveWarning { signs_out: true }));
    two.sharer_does(Command::ConfirmLeave).unwrap();
    two.assert_ended(EndReason::SharerLeftSignedOut);
    assert_eq!(two.acts(), [Act::SignOut]);
    let receipt = two.ended()[1].unwrap();
    assert!(!receipt.elevated, "not in this session");
}

#[test]
fn the_code_is_told_to_the_sharer_only_and_shown_in_no_log() {
    let mut two = control();
    two.helper
        .handle_command(Command::AskHandover(code()), two.now)
        .unwrap();
    let said: Vec<_> = std::iter::from_fn(|| two.helper.poll_transmit()).collect();
    let [Transmit::Control(Body::HandoverRequest(request))] = &said[..] else {
        panic!("{said:?}");
    };
    assert_eq!(request.code.parse(), Ok(code()));
    pair::deliver(&mut two.sharer, said, two.now);
    two.settle();
    two.sharer_does(Command::AllowHandover).unwrap();
    let shown = format!("{:?} {:?}", two.heard, Command::AskHandover(code()));
    assert!(!shown.contains("r0gx"), "{shown}");
    while let Some(transmit) = two.sharer.poll_transmit() {
        assert!(!format!("{transmit:?}").contains("4060"));
    }
}
