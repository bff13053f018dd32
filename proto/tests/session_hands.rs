//! The sharer's own buttons, and a helper who has the sharer's mouse: what only the sharer may say cannot be pressed by the helper.

mod pair;
mod people;

use std::time::Duration;

use pair::{Two, attended, ms, unattended};
use remora_proto::{
    code::Code,
    session::{
        Check, Command, Durations, Event, Grants, LocalEnd, Matter, Mode, Phase, Refusal, T_ANSWER,
        T_REST, Terms, Way,
    },
};

/// Confirmed every hour.
const HOUR: Duration = Duration::from_secs(3600);

fn control(durations: Durations) -> Two {
    let terms = Terms {
        durations,
        ..attended()
    };
    Two::active(terms, Mode::Control)
}

fn clipboard() -> Grants {
    Grants::of(Matter::Clipboard, Way::ToHelper)
}

/// The helper presses something at the sharer's computer, and there the sharer's program hears that.
fn helper_presses(two: &mut Two, command: Command) -> Result<(), Refusal> {
    let before = (two.sharer.phase(), two.sharer.rights());
    two.sharer.handle_hands(two.now);
    let done = two.sharer_does(command);
    assert_eq!((two.sharer.phase(), two.sharer.rights()), before);
    done
}

/// States in which the sharer has something to say, and that.
fn questions() -> Vec<(Two, Command)> {
    let with = |ask: Command, mode| {
        let mut two = Two::active(attended(), mode);
        // To somebody whom nobody vouches for nothing is granted before.
        two.sharer_does(Command::SasChecked(true))
            .expect("may say so");
        two.helper_does(ask).expect("may ask");
        two
    };
    let mut restart = Two::elevated();
    restart.helper_does(Command::AskRestart).expect("may ask");
    let mut leaving = Two::elevated();
    leaving.sharer_does(Command::Leave).expect("may leave");
    let mut staying = Two::elevated();
    staying.sharer_does(Command::Leave).expect("may leave");
    let mut paused = control(Durations::default());
    paused.sharer_does(Command::Pause(true)).expect("may pause");
    let mut checked = control(Durations {
        reconfirm: Some(HOUR),
        ..Durations::default()
    });
    checked.wait(HOUR);
    let grants = clipboard();
    let code: Code = "4060-r0gx".parse().expect("a code");
    vec![
        (
            with(Command::AskMode(Mode::Control), Mode::View),
            Command::Allow(Mode::Control),
        ),
        (
            with(Command::AskElevation, Mode::Control),
            Command::AllowElevation,
        ),
        (
            with(Command::AskHandover(code), Mode::Control),
            Command::AllowHandover,
        ),
        (
            with(Command::Grant { grants, on: true }, Mode::Control),
            Command::Grant { grants, on: true },
        ),
        (restart, Command::AllowRestart),
        (leaving, Command::ConfirmLeave),
        (staying, Command::Stay),
        (paused, Command::Pause(false)),
        (checked, Command::GoOn),
        (control(Durations::default()), Command::SasChecked(true)),
    ]
}

#[test]
fn what_only_the_sharer_may_say_does_not_count_while_the_helpers_hands_are_at_work() {
    for (mut two, command) in questions() {
        let refused = helper_presses(&mut two, command.clone());
        assert_eq!(refused, Err(Refusal::HandsAtWork), "{command:?}");
        two.wait(T_REST - ms(1));
        let refused = two.sharer_does(command.clone());
        assert_eq!(refused, Err(Refusal::HandsAtWork), "{command:?}");
        two.wait(ms(1));
        let done = two.sharer_does(command.clone());
        assert_eq!(done, Ok(()), "{command:?}, when they rest");
    }
}

#[test]
fn the_bar_is_the_sharers_at_any_time() {
    for (mut two, command) in questions() {
        two.sharer.handle_hands(two.now);
        let done = two.sharer.handle_pressed(command.clone(), two.now);
        assert_eq!(done, Ok(()), "{command:?}");
    }
}

/// Less is never refused: to a sharer who wants it to stop, the helper's hands are no hindrance.
#[test]
fn whoever_wants_it_to_stop_need_not_wait() {
    let grants = clipboard();
    let mut two = control(Durations::default());
    for command in [
        Command::SasChecked(true),
        Command::Grant { grants, on: true },
    ] {
        two.sharer_does(command).expect("nobody is at work");
    }
    for command in [
        Command::Grant { grants, on: false },
        Command::Pause(true),
        Command::DropMode,
        Command::Leave,
    ] {
        two.sharer.handle_hands(two.now);
        assert_eq!(two.sharer_does(command.clone()), Ok(()), "{command:?}");
    }
}

#[test]
fn t_37_while_the_sharer_is_asked_whether_it_goes_on_the_helpers_keys_do_not_count() {
    let durations = |check| Durations {
        reconfirm: (check == Check::Reconfirm).then_some(HOUR),
        max: (check == Check::MaxDuration).then_some(HOUR),
        idle: (check == Check::Idle).then_some(HOUR),
        ..Durations::default()
    };
    for (check, refusal) in [
        (Check::Reconfirm, Some("ASKED")),
        (Check::MaxDuration, Some("ASKED")),
        // That somebody is still there either may say.
        (Check::Idle, None),
    ] {
        let mut two = control(durations(check));
        assert_eq!(two.sharer.rights().input_refusal(), None);
        two.wait(HOUR);
        assert_eq!(two.sharer.rights().input_refusal(), refusal, "{check:?}");
        two.sharer_does(Command::GoOn).expect("the sharer's");
        assert_eq!(two.sharer.rights().input_refusal(), None);
    }
}

#[test]
fn t_30_while_the_sharer_is_leaving_the_helpers_keys_do_not_count() {
    let mut two = Two::elevated();
    two.sharer_does(Command::Leave).expect("may leave");
    assert_eq!(two.sharer.rights().input_refusal(), Some("ASKED"));
    assert!(two.sharer.rights().may_show(), "the helper goes on looking");
    two.sharer_does(Command::Stay).expect("asked");
    assert_eq!(two.sharer.rights().input_refusal(), None);
    // Where nobody answers, nobody leaves, and the helper is not kept waiting for ever.
    for mut two in [
        Two::elevated(),
        Two::active(
            Terms {
                local_end: LocalEnd::Reclaim,
                ..unattended()
            },
            Mode::Control,
        ),
    ] {
        two.sharer_does(Command::Leave).expect("may leave");
        two.wait(T_ANSWER - ms(1));
        assert_eq!(two.sharer.phase(), Phase::Ending);
        two.wait(ms(1));
        assert_eq!(two.sharer.phase(), Phase::Active);
        assert_eq!(two.heard[1].last(), Some(&Event::Stayed));
        two.assert_goes_on();
    }
}
