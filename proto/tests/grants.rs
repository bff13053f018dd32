//! Clipboard and files, as the session's machine sees them: what may leave either computer is the sharer's to grant, each way on its
//! own (SESSION.md §1.5), and forbidden where policy says so.
mod pair;
mod people;

use pair::{Two, attended, ms, permitted};
use remora_proto::{
    org::{
        permission::Permissions,
        setting::{Setting, Settings},
        verdict::Verdict,
    },
    session::{Command, Entry, Event, Grants, Matter, Mode, Refusal, T_LOST, Terms, Way},
    wire::message::session::{self as schema, Control, control::Body},
};

fn clipboard() -> Grants {
    Grants::both(Matter::Clipboard)
}

fn to_helper() -> Grants {
    Grants::of(Matter::Files, Way::ToHelper)
}

fn grant(grants: Grants) -> Command {
    Command::Grant { grants, on: true }
}

fn revoke(grants: Grants) -> Command {
    Command::Grant { grants, on: false }
}

/// ACTIVE, in VIEW, and the sharer has compared the words.
fn active(terms: Terms) -> Two {
    let mut two = Two::active(terms, Mode::View);
    two.sharer_does(Command::SasChecked(true)).expect("may");
    two.settle();
    two
}

fn in_force(two: &Two) -> [Grants; 2] {
    [two.helper.rights().grants, two.sharer.rights().grants]
}

#[test]
fn nothing_is_granted_at_the_start() {
    let two = active(attended());
    assert_eq!(in_force(&two), [Grants::NONE; 2]);
}

#[test]
fn the_sharer_grants_each_way_on_its_own_and_takes_it_back() {
    let mut two = active(attended());
    two.sharer_does(grant(clipboard())).expect("may");
    two.sharer_does(grant(to_helper())).expect("may");
    two.settle();
    assert_eq!(in_force(&two), [clipboard() | to_helper(); 2]);
    two.sharer_does(revoke(Grants::of(Matter::Clipboard, Way::ToHelper)))
        .expect("may");
    two.settle();
    let left = to_helper() | Grants::of(Matter::Clipboard, Way::ToSharer);
    assert_eq!(in_force(&two), [left; 2]);
    assert!(two.heard[0].contains(&Event::Granted(left)));
}

#[test]
fn a_helper_asks_and_gives_back_and_grants_nothing() {
    let mut two = active(attended());
    two.helper_does(grant(to_helper())).expect("may");
    two.settle();
    assert_eq!(in_force(&two), [Grants::NONE; 2]);
    let asked = |two: &Two| {
        let is =
            |event: &&Event| matches!(event, Event::GrantWanted(grants) if *grants == to_helper());
        two.heard[1].iter().filter(is).count()
    };
    assert_eq!(asked(&two), 1);
    two.helper_does(grant(to_helper())).expect("may");
    two.settle();
    assert_eq!(asked(&two), 1, "asking again is no news");
    two.sharer_does(grant(to_helper() | clipboard()))
        .expect("may");
    two.settle();
    two.helper_does(revoke(clipboard())).expect("may");
    two.settle();
    assert_eq!(in_force(&two), [to_helper(); 2]);
    // A modified helper says what only the sharer may.
    let message = Control {
        body: Some(Body::Grants(schema::Grants {
            files_to_sharer: true,
            ..schema::Grants::default()
        })),
    };
    assert!(two.sharer.handle_control(message, two.now).is_err());
    assert_eq!(in_force(&two), [to_helper(); 2]);
}

#[test]
fn to_whom_nobody_vouches_for_nothing_is_granted_before_the_words_were_compared() {
    let mut two = Two::active(attended(), Mode::Control);
    let refused = two.sharer.handle_command(grant(clipboard()), two.now);
    assert_eq!(refused, Err(Refusal::Unverified));
    two.helper_does(grant(clipboard())).expect("may");
    two.settle();
    assert!(two.heard[0].contains(&Event::Refused(Refusal::Unverified)));
    two.sharer_does(Command::SasChecked(true)).expect("may");
    two.sharer_does(grant(clipboard())).expect("may");
    two.settle();
    assert_eq!(in_force(&two), [clipboard(); 2]);
}

#[test]
fn whom_an_organisation_vouches_for_need_not_compare() {
    let vouched = || {
        let verdict = permitted(Permissions::ALL).expect("a session");
        Ok(Verdict {
            verified: true,
            ..verdict
        })
    };
    let mut two = Two::judged(attended(), [vouched(), vouched()]).settled();
    two.helper_does(Command::AskMode(Mode::View)).expect("may");
    two.sharer_does(Command::Allow(Mode::View)).expect("may");
    two.sharer_does(Command::CaptureUp).expect("may");
    two.sharer_does(grant(clipboard())).expect("may");
    two.settle();
    assert_eq!(in_force(&two), [clipboard(); 2]);
}

#[test]
fn while_paused_or_interrupted_nothing_goes_and_afterwards_it_does_again() {
    let mut two = active(attended());
    two.sharer_does(grant(clipboard())).expect("may");
    two.sharer_does(Command::Pause(true)).expect("may");
    two.settle();
    assert_eq!(in_force(&two), [Grants::NONE; 2]);
    two.sharer_does(Command::Pause(false)).expect("may");
    two.settle();
    assert_eq!(in_force(&two), [clipboard(); 2]);
    two.silence(T_LOST + ms(1));
    assert_eq!(in_force(&two), [Grants::NONE; 2]);
    // Taken back meanwhile, it stays so.
    two.sharer_does(revoke(clipboard())).expect("may");
    two.settle();
    assert_eq!(in_force(&two), [Grants::NONE; 2]);
}

#[test]
fn control_or_not_makes_no_difference() {
    let mut two = active(attended());
    two.sharer_does(grant(clipboard())).expect("may");
    two.helper_does(Command::AskMode(Mode::Control))
        .expect("may");
    two.settle();
    two.sharer_does(Command::Allow(Mode::Control)).expect("may");
    two.sharer_does(Command::DropMode).expect("may");
    two.settle();
    assert_eq!(in_force(&two), [clipboard(); 2]);
}

#[test]
fn the_end_takes_all_back() {
    let mut two = active(attended());
    two.sharer_does(grant(clipboard() | to_helper()))
        .expect("may");
    two.sharer_does(Command::Leave).expect("may");
    two.settle();
    assert_eq!(in_force(&two), [Grants::NONE; 2]);
}

#[test]
fn policy_forbids_the_clipboard_or_files_in_a_running_session_too() {
    let mut two = active(attended());
    two.sharer_does(grant(clipboard() | to_helper()))
        .expect("may");
    let under = |blocked: &[Setting]| {
        let mut settings = Settings::default();
        for setting in blocked {
            settings.set(*setting, 1);
        }
        let settings = Some(settings);
        Verdict {
            settings,
            ..permitted(Permissions::ALL).expect("a session")
        }
    };
    let now = two.now;
    let verdict = Ok(under(&[Setting::BlockClipboard]));
    two.sharer.handle_verdict(verdict, now).expect("open");
    two.settle();
    two.settle();
    assert_eq!(in_force(&two), [to_helper(); 2]);
    let refused = two.sharer.handle_command(grant(clipboard()), now);
    assert_eq!(refused, Err(Refusal::ClipboardBlocked));
    two.helper_does(grant(clipboard())).expect("may");
    two.settle();
    assert!(two.heard[0].contains(&Event::Refused(Refusal::ClipboardBlocked)));
    // The helper's organisation has a say in what it takes part in, too.
    let verdict = Ok(under(&[Setting::BlockFiles]));
    two.helper.handle_verdict(verdict, now).expect("open");
    assert_eq!(two.helper.rights().grants, Grants::NONE);
    let refused = two
        .helper
        .handle_command(grant(to_helper() | Grants::both(Matter::Files)), now);
    assert_eq!(refused, Err(Refusal::FilesBlocked));
}

#[test]
fn e_6_who_came_by_a_link_sees_the_screen_and_that_is_all() {
    let terms = Terms {
        entry: Entry::Link,
        ..attended()
    };
    let mut two = active(terms);
    for command in [grant(clipboard()), grant(to_helper())] {
        let refused = two.sharer.handle_command(command.clone(), two.now);
        assert_eq!(refused, Err(Refusal::ModeNotPermitted));
        let refused = two.helper.handle_command(command, two.now);
        assert_eq!(
            refused,
            Err(Refusal::ModeNotPermitted),
            "the helper knows it, too"
        );
    }
}

#[test]
fn what_is_exchanged_comes_from_whoever_is_in_a_session_only() {
    let offer = || {
        Body::ClipboardOffer(schema::ClipboardOffer {
            number: 1,
            bytes: 1,
        })
    };
    let mut two = Two::trusting(attended());
    let message = Control {
        body: Some(offer()),
    };
    assert!(two.sharer.handle_control(message, two.now).is_err());
    let mut two = active(attended());
    two.helper_does(Command::Exchange(offer())).expect("may");
    two.settle();
    assert!(two.heard[1].contains(&Event::Exchange(offer())));
}
