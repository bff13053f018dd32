//! Sessions between two nodes of this process, through a relay of this process: what each side is told.

#[path = "support/nat.rs"]
mod nat;
mod support;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use nat::Nat;
use remora::{
    error::{Exit, Failure, exit_of},
    event::{Event, Input},
    share::desktop::Desktop,
};
use remora_proto::{
    identity::Role,
    noise::StaticKey,
    rendezvous::{CodeEnd, LIFETIME},
    session::{Cause, Command, EndReason, Event as SessionEvent, Mode, SasState},
    wire::message::MAX_CHAT_TEXT_BYTES,
};
use remora_relay::{config::Config, relay::Relay};
use support::{
    KILL_LIMIT, LEAVE_LIMIT, chat_line,
    people::{
        active, introduced, invites, invites_with, joins, mistyped, node, profile, relay, start,
        within,
    },
};
use tokio::time::timeout;

const MANY: usize = 1_000;

fn mode_change(event: &SessionEvent) -> Option<(Mode, Role)> {
    if let SessionEvent::ModeChanged { mode, by } = event {
        Some((*mode, *by))
    } else {
        None
    }
}

fn not_possible(event: &Event) -> Option<String> {
    if let Event::NotPossible { text, .. } = event {
        Some(text.clone())
    } else {
        None
    }
}

fn draining(event: &Event) -> Option<()> {
    matches!(event, Event::RelayDraining(_)).then_some(())
}

// ---- codes -----------------------------------------------------------------------------------

#[tokio::test]
async fn after_a_new_code_the_old_one_is_refused_as_cancelled() {
    let relay = relay();
    let (mut helper, old) = invites(relay.address(), "Sam").await;
    helper.wishes(Input::NewCode).await;
    let new = helper.code().await;
    assert_ne!(old, new);
    let failure = joins(relay.address(), "Maria", &old)
        .await
        .expect_err("withdrawn");
    assert_eq!(
        (failure.code, failure.exit),
        ("CODE_CANCELLED", Exit::Declined)
    );
    let mut sharer = joins(relay.address(), "Maria", &new).await.expect("works");
    assert_eq!(sharer.trust().await.1, helper.trust().await.1);
}

#[tokio::test]
async fn t_08_of_two_sharers_with_the_right_code_at_once_one_wins() {
    let relay = relay();
    let (mut helper, code) = invites(relay.address(), "Sam").await;
    let (one, other) = tokio::join!(
        joins(relay.address(), "One", &code),
        joins(relay.address(), "Other", &code)
    );
    let (mut winner, loser): (_, Failure) = match (one, other) {
        (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser),
        both => panic!("one wins: {both:?}"),
    };
    assert_eq!((loser.code, loser.exit), ("CODE_USED", Exit::Verification));
    let (peer, words) = helper.trust().await;
    assert_eq!(peer, winner.name);
    assert_eq!(words, winner.trust().await.1);
    start(&mut helper, &mut winner, Mode::View).await;
    helper.does(Command::Leave).await;
    assert_eq!(winner.receipt().await.reason, EndReason::HelperLeft);
}

#[tokio::test]
async fn a_helper_who_leaves_while_waiting_withdraws_the_code() {
    let relay = relay();
    let (mut helper, code) = invites(relay.address(), "Sam").await;
    helper.does(Command::Leave).await;
    let end = helper.until(|event| {
        if let Event::CodeEnded(end) = event {
            Some(*end)
        } else {
            None
        }
    });
    assert_eq!(end.await, CodeEnd::Cancelled);
    let failure = helper.outcome().await.expect_err("no session");
    assert_eq!((failure.code, failure.exit), ("HELPER_CANCELLED", Exit::Ok));
    let failure = joins(relay.address(), "Maria", &code)
        .await
        .expect_err("withdrawn");
    assert_eq!(failure.code, "CODE_CANCELLED");
}

#[tokio::test]
async fn a_code_of_nobody_is_unknown() {
    let relay = relay();
    let failure = joins(relay.address(), "Maria", "zzzz-zzzz")
        .await
        .expect_err("nobody");
    assert_eq!(
        (failure.code, failure.exit),
        ("UNKNOWN_CODE", Exit::Verification)
    );
}

#[tokio::test]
async fn a_sharer_who_mistyped_can_try_again_on_the_same_node() {
    let relay = relay();
    let (mut helper, code) = invites(relay.address(), "Sam").await;
    let mut sharer = node(relay.address()).await;
    let failure = sharer
        .try_code(mistyped(&code).parse().expect("a code"))
        .await
        .expect_err("wrong");
    assert_eq!(failure.code, "WRONG_CODE");
    let told = helper.event().await;
    assert_eq!(told, Event::WrongCode { tries_left: 2 });
    let introduced = sharer
        .try_code(code.parse().expect("a code"))
        .await
        .expect("right");
    let running = sharer.join(introduced, profile("Maria"), Desktop::X11(None));
    assert_eq!(helper.trust().await.0, "Maria");
    drop(running);
}

// ---- trust and consent -----------------------------------------------------------------------

#[tokio::test]
async fn t_15_declining_ends_it_as_declined_for_both() {
    let relay = relay();
    let (helper, mut sharer) = introduced(relay.address(), "Sam", "Maria").await;
    helper.does(Command::AskMode(Mode::Control)).await;
    assert_eq!(sharer.asked().await, (Mode::Control, false));
    sharer.does(Command::Decline).await;
    for person in [helper, sharer] {
        let receipt = person.receipt().await;
        assert_eq!(receipt.reason, EndReason::Declined);
        assert_eq!(receipt.mode, None);
        assert_eq!(exit_of(receipt.reason), Exit::Declined);
    }
}

#[tokio::test]
async fn words_that_differ_end_it_for_both() {
    let relay = relay();
    for sharer_says in [true, false] {
        let (helper, sharer) = introduced(relay.address(), "Sam", "Maria").await;
        let who = if sharer_says { &sharer } else { &helper };
        who.does(Command::SasChecked(false)).await;
        for person in [helper, sharer] {
            let receipt = person.receipt().await;
            assert_eq!(receipt.reason, EndReason::SasMismatch);
            assert_eq!(receipt.sas, SasState::Mismatch);
            assert_eq!(exit_of(receipt.reason), Exit::Verification);
        }
    }
}

#[tokio::test]
async fn control_is_asked_for_given_back_and_taken_back() {
    let relay = relay();
    let (mut helper, mut sharer) = active(relay.address(), Mode::View).await;
    for by in [Role::Helper, Role::Sharer] {
        helper.does(Command::AskMode(Mode::Control)).await;
        assert_eq!(sharer.asked().await, (Mode::Control, true));
        sharer.does(Command::Allow(Mode::Control)).await;
        for person in [&mut helper, &mut sharer] {
            assert_eq!(
                person.session(mode_change).await,
                (Mode::Control, Role::Sharer)
            );
        }
        let who = if by == Role::Helper { &helper } else { &sharer };
        who.does(Command::DropMode).await;
        for person in [&mut helper, &mut sharer] {
            assert_eq!(person.session(mode_change).await, (Mode::View, by));
        }
    }
    helper.does(Command::AskMode(Mode::Control)).await;
    sharer.asked().await;
    sharer.does(Command::Decline).await;
    let declined = |event: &SessionEvent| (*event == SessionEvent::UpgradeDeclined).then_some(());
    helper.session(declined).await;
    helper.does(Command::Chat("still here".into())).await;
    assert_eq!(sharer.hears().await, "still here");
    sharer.does(Command::Leave).await;
    let receipt = helper.receipt().await;
    assert_eq!(
        (receipt.reason, receipt.mode),
        (EndReason::SharerLeft, Some(Mode::Control))
    );
}

#[tokio::test]
async fn nobody_can_do_what_is_the_others_to_do() {
    let relay = relay();
    let (mut helper, mut sharer) = introduced(relay.address(), "Sam", "Maria").await;
    for (person, command) in [
        (&mut helper, Command::Allow(Mode::Control)),
        (&mut sharer, Command::AskMode(Mode::Control)),
    ] {
        person.does(command).await;
        person.until(not_possible).await;
    }
    for person in [&mut helper, &mut sharer] {
        person.does(Command::Chat("too early".into())).await;
        person.until(not_possible).await;
    }
    start(&mut helper, &mut sharer, Mode::View).await;
}

// ---- chat ------------------------------------------------------------------------------------

#[tokio::test]
async fn a_thousand_messages_sent_just_before_leaving_all_arrive() {
    let relay = relay();
    let (helper, mut sharer) = active(relay.address(), Mode::View).await;
    let talking = async {
        for n in 0..MANY {
            helper.does(Command::Chat(chat_line(n))).await;
        }
        helper.does(Command::Leave).await;
        helper.receipt().await
    };
    let listening = async {
        for n in 0..MANY {
            assert_eq!(sharer.hears().await, chat_line(n));
        }
        sharer.receipt().await
    };
    let (sent, received) = tokio::join!(talking, listening);
    assert_eq!(
        (sent.reason, received.reason),
        (EndReason::HelperLeft, EndReason::HelperLeft)
    );
    assert_eq!(
        (sent.chat_sent, received.chat_received),
        (MANY as u64, MANY as u64)
    );
}

#[tokio::test]
async fn the_longest_message_arrives_and_a_longer_one_is_refused_here() {
    let relay = relay();
    let (mut helper, mut sharer) = active(relay.address(), Mode::View).await;
    let longest = "é".repeat(MAX_CHAT_TEXT_BYTES / 2);
    helper.does(Command::Chat(longest.clone())).await;
    assert_eq!(sharer.hears().await, longest);
    helper.does(Command::Chat(format!("{longest}x"))).await;
    let why = helper.until(not_possible).await;
    assert!(why.contains("16 KiB"), "{why}");
    helper.does(Command::Chat("short".into())).await;
    assert_eq!(sharer.hears().await, "short");
    helper.does(Command::Leave).await;
    assert_eq!(sharer.receipt().await.chat_received, 2);
}

#[tokio::test]
async fn sessions_on_one_relay_do_not_mix() {
    const PAIRS: usize = 8;
    const MESSAGES: usize = 50;
    let relay = relay();
    let mut pairs = tokio::task::JoinSet::new();
    for pair in 0..PAIRS {
        let relay = relay.address().clone();
        pairs.spawn(async move {
            let (sam, maria) = (format!("Sam {pair}"), format!("Maria {pair}"));
            let (mut helper, mut sharer) = introduced(&relay, &sam, &maria).await;
            start(&mut helper, &mut sharer, Mode::View).await;
            for n in 0..MESSAGES {
                helper.does(Command::Chat(format!("{sam} {n}"))).await;
                sharer.does(Command::Chat(format!("{maria} {n}"))).await;
            }
            for n in 0..MESSAGES {
                assert_eq!(sharer.hears().await, format!("{sam} {n}"));
                assert_eq!(helper.hears().await, format!("{maria} {n}"));
            }
            sharer.does(Command::Leave).await;
            let (helper, sharer) = (helper.receipt().await, sharer.receipt().await);
            assert_eq!(
                (helper.reason, sharer.reason),
                (EndReason::SharerLeft, EndReason::SharerLeft)
            );
            pair
        });
    }
    let done: BTreeSet<usize> = within("all sessions", pairs.join_all())
        .await
        .into_iter()
        .collect();
    assert_eq!(done.len(), PAIRS);
}

// ---- the end ---------------------------------------------------------------------------------

#[tokio::test]
async fn who_drops_the_handle_has_left() {
    let relay = relay();
    let (mut helper, sharer) = active(relay.address(), Mode::View).await;
    drop(sharer);
    assert_eq!(
        timeout(LEAVE_LIMIT, helper.ended()).await,
        Ok(EndReason::SharerLeft)
    );
}

#[tokio::test]
async fn a_draining_relay_is_announced_to_everybody_and_sessions_go_on() {
    let relay = relay();
    let (mut helper, mut sharer) = active(relay.address(), Mode::View).await;
    let (mut waiting, _) = invites(relay.address(), "Wanda").await;
    relay.drain();
    for person in [&mut helper, &mut sharer, &mut waiting] {
        person.until(draining).await;
    }
    helper.does(Command::Chat("still here".into())).await;
    assert_eq!(sharer.hears().await, "still here");
    helper.does(Command::Leave).await;
    assert_eq!(sharer.receipt().await.reason, EndReason::HelperLeft);
}

fn interrupted(event: &SessionEvent) -> Option<Cause> {
    if let SessionEvent::Interrupted { cause, .. } = event {
        Some(*cause)
    } else {
        None
    }
}

#[tokio::test]
async fn t_33_when_the_relay_vanishes_both_are_told_and_may_leave_at_once() {
    let relay = relay();
    let (mut helper, mut sharer) = active(relay.address(), Mode::View).await;
    drop(relay);
    let told = timeout(KILL_LIMIT, async {
        (
            helper.session(interrupted).await,
            sharer.session(interrupted).await,
        )
    });
    assert_eq!(told.await, Ok((Cause::Lost, Cause::Lost)));
    for (person, reason) in [
        (helper, EndReason::HelperLeft),
        (sharer, EndReason::SharerLeft),
    ] {
        person.does(Command::Leave).await;
        assert_eq!(person.receipt().await.reason, reason);
    }
}

#[tokio::test]
async fn t_34_after_a_while_without_a_network_it_goes_on_and_nobody_is_asked_again() {
    let relay = relay();
    let (mut helper, code) = invites(relay.address(), "Sam").await;
    let nat = Nat::new(relay.address()).await;
    let mut sharer = joins(&nat.relay, "Maria", &code).await.expect("works");
    helper.trust().await;
    sharer.trust().await;
    start(&mut helper, &mut sharer, Mode::Control).await;
    nat.cut(true);
    for person in [&mut helper, &mut sharer] {
        assert_eq!(person.session(interrupted).await, Cause::Lost);
    }
    sharer.does(Command::Chat("into the silence".into())).await;
    nat.cut(false);
    for person in [&mut helper, &mut sharer] {
        let event = person.session(|event| Some(event.clone())).await;
        assert_eq!(
            event,
            SessionEvent::Resumed {
                mode: Mode::Control
            }
        );
    }
    assert_eq!(helper.hears().await, "into the silence");
    helper.does(Command::Leave).await;
    assert_eq!(sharer.receipt().await.reason, EndReason::HelperLeft);
}

/// The same relay each time, at a port of the system's choosing, or that one.
fn restarted(at: Option<SocketAddr>) -> Relay {
    let mut config = Config::loopback(StaticKey::from_bytes([7; 32]));
    let any = config.listen;
    config.listen = at.unwrap_or(any);
    config.listen_tcp = None;
    config.observers = vec![any];
    Relay::start(config).expect("a relay")
}

fn lost(event: &Event) -> Option<()> {
    matches!(event, Event::RelayLost).then_some(())
}

#[tokio::test]
async fn a_code_that_waits_comes_back_with_its_relay() {
    let relay = restarted(None);
    let (mut helper, code) = invites(relay.address(), "Sam").await;
    let at = relay.local_addr();
    within("the end", relay.shutdown()).await;
    helper.until(lost).await;
    let relay = restarted(Some(at));
    let same_code = helper.until(|event| {
        if let Event::RelayBack { same_code, .. } = event {
            Some(*same_code)
        } else {
            None
        }
    });
    assert!(same_code.await);
    let mut sharer = joins(relay.address(), "Maria", &code).await.expect("works");
    assert_eq!(sharer.trust().await.1, helper.trust().await.1);
}

#[tokio::test]
async fn whoever_waits_without_a_relay_can_leave_and_waits_no_longer_than_the_code_lives() {
    for leaves in [true, false] {
        let relay = relay();
        let node = node(relay.address()).await;
        // Longer than it takes to notice.
        let lifetime = if leaves {
            LIFETIME
        } else {
            Duration::from_secs(3)
        };
        let (mut helper, _) = invites_with(node, "Sam", lifetime).await;
        relay.shutdown().await;
        helper.until(lost).await;
        helper.wishes(Input::NewCode).await;
        helper.until(not_possible).await;
        let (code, exit) = if leaves {
            helper.does(Command::Leave).await;
            ("HELPER_CANCELLED", Exit::Ok)
        } else {
            ("CODE_EXPIRED", Exit::TimedOut)
        };
        let failure = helper.outcome().await.expect_err("no session");
        assert_eq!((failure.code, failure.exit), (code, exit));
    }
}

/// The benchmark `rebind` says how soon.
#[tokio::test]
async fn a_session_goes_on_when_a_nat_gives_its_node_another_address() {
    let relay = relay();
    let (mut helper, code) = invites(relay.address(), "Sam").await;
    let nat = Nat::new(relay.address()).await;
    let mut sharer = joins(&nat.relay, "Maria", &code).await.expect("works");
    helper.trust().await;
    sharer.trust().await;
    start(&mut helper, &mut sharer, Mode::View).await;
    nat.forget().await;
    sharer.does(Command::Chat("from elsewhere".into())).await;
    assert_eq!(helper.hears().await, "from elsewhere");
    helper.does(Command::Chat("to elsewhere".into())).await;
    assert_eq!(sharer.hears().await, "to elsewhere");
    assert_eq!(relay.sessions(), 1);
}
