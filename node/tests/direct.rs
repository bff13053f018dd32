//! Sessions whose packets leave the relay's path, and come back to it.
mod support;

use std::time::Duration;

use remora::{
    event::{Event, Input},
    node::{Node, Options},
};
use remora_proto::{
    id::RelayAddr,
    path::{candidate::Policy, machine::WhyRelayed},
    rendezvous::LIFETIME,
    session::{Command, EndReason, Event as SessionEvent, Mode},
};
use support::people::{Person, invites_with, joins_with, relay, start, within};

/// Nodes that may reach each other on this computer itself.
async fn node(relay: &RelayAddr) -> Node {
    let policy = Policy {
        allow_loopback: true,
        ..Policy::default()
    };
    let options = Options {
        policy,
        ..Options::default()
    };
    within("connecting", Node::connect(relay, options))
        .await
        .expect("a relay")
}

async fn active(relay: &RelayAddr) -> (Person, Person) {
    let (mut helper, code) = invites_with(node(relay).await, "Sam", LIFETIME).await;
    let mut sharer = joins_with(node(relay).await, "Maria", &code)
        .await
        .expect("works");
    assert_eq!(sharer.trust().await.1, helper.trust().await.1);
    start(&mut helper, &mut sharer, Mode::View).await;
    (helper, sharer)
}

async fn until_direct(person: &mut Person) {
    let path = &mut person.running.path;
    let direct = path.wait_for(|path| path.direct.is_some());
    within("a direct path", direct).await.expect("alive");
}

async fn talk(helper: &mut Person, sharer: &mut Person) {
    for n in 0..50 {
        let line = format!("line {n}");
        helper.does(Command::Chat(line.clone())).await;
        assert_eq!(sharer.hears().await, line);
        sharer.does(Command::Chat(line.clone())).await;
        assert_eq!(helper.hears().await, line);
    }
}

#[tokio::test]
async fn two_who_can_reach_each_other_do_and_the_relay_carries_no_more() {
    let relay = relay();
    let (mut helper, mut sharer) = active(relay.address()).await;
    until_direct(&mut helper).await;
    until_direct(&mut sharer).await;
    let before = relay.frames_forwarded();
    talk(&mut helper, &mut sharer).await;
    let carried = relay.frames_forwarded() - before;
    assert!(carried <= 4, "{carried} frames, of a heartbeat each");
    helper.does(Command::Leave).await;
    assert_eq!(sharer.ended().await, EndReason::HelperLeft);
}

#[tokio::test]
async fn a_move_is_told_to_both() {
    let relay = relay();
    let (mut helper, code) = invites_with(node(relay.address()).await, "Sam", LIFETIME).await;
    let mut sharer = joins_with(node(relay.address()).await, "Maria", &code)
        .await
        .expect("works");
    for person in [&mut helper, &mut sharer] {
        let path = person.until(|event| {
            if let Event::Moved(path) = event {
                Some(path.clone())
            } else {
                None
            }
        });
        let path = path.await;
        let shown = person.running.path.borrow().direct;
        assert_eq!(shown, path.direct, "whoever looks sees it, too");
        let address = path.direct.expect("direct");
        assert!(address.ip().is_loopback() || !address.ip().is_unspecified());
        assert!(path.rtt < Duration::from_secs(1));
        assert_eq!((path.kind(), path.why_relayed), ("direct", None));
        assert!(path.badge().starts_with(&format!("direct {address} (")));
    }
}

/// Packets go to the relay and back again; from the first word of that on, nobody hears of anything else.
async fn move_twice(helper: &mut Person, sharer: &mut Person) {
    let mut heard = [false, false];
    for relayed in [true, false] {
        helper.wishes(Input::Relayed(relayed)).await;
        let both = [
            (&mut *helper, (relayed, false)),
            (&mut *sharer, (false, relayed)),
        ];
        for ((person, wanted), heard) in both.into_iter().zip(&mut heard) {
            let (mut is_wished, mut has_moved) = (false, false);
            while !(is_wished && has_moved) {
                let event = person.event().await;
                if let Event::RelayWish { ours, theirs } = event {
                    is_wished = (ours, theirs) == wanted;
                } else if let Event::Moved(path) = event {
                    has_moved = path.direct.is_none() == relayed;
                } else {
                    assert!(!*heard, "{} heard {event:?} of a move", person.name);
                    continue;
                }
                *heard = true;
            }
        }
    }
}

fn is_awaited(event: &SessionEvent) -> Option<()> {
    matches!(event, SessionEvent::AwaitingConsent { .. }).then_some(())
}

/// SESSION.md, invariant 9. Whatever changes in a session is told to both, so that a move that nobody hears more of has changed nothing;
/// what each may do next shows the same.
#[tokio::test]
async fn invariant_9_no_move_changes_what_the_session_is() {
    let relay = relay();
    let (mut helper, code) = invites_with(node(relay.address()).await, "Sam", LIFETIME).await;
    let mut sharer = joins_with(node(relay.address()).await, "Maria", &code)
        .await
        .expect("works");
    assert_eq!(sharer.trust().await.1, helper.trust().await.1);
    until_direct(&mut helper).await;
    until_direct(&mut sharer).await;
    // Before anybody has agreed to anything; while the sharer is asked.
    move_twice(&mut helper, &mut sharer).await;
    helper.does(Command::AskMode(Mode::Control)).await;
    assert_eq!(sharer.asked().await, (Mode::Control, false));
    helper.session(is_awaited).await;
    move_twice(&mut helper, &mut sharer).await;
    sharer.does(Command::Allow(Mode::View)).await;
    assert_eq!(helper.started().await, Mode::View);
    assert_eq!(sharer.started().await, Mode::View);
    move_twice(&mut helper, &mut sharer).await;
    // In the session; while it is asked for more; paused; with more.
    helper.does(Command::AskMode(Mode::Control)).await;
    assert_eq!(sharer.asked().await, (Mode::Control, true));
    helper.session(is_awaited).await;
    move_twice(&mut helper, &mut sharer).await;
    sharer.does(Command::Allow(Mode::Control)).await;
    for person in [&mut helper, &mut sharer] {
        let control = |event: &_| {
            matches!(
                event,
                SessionEvent::ModeChanged {
                    mode: Mode::Control,
                    ..
                }
            )
            .then_some(())
        };
        person.session(control).await;
    }
    move_twice(&mut helper, &mut sharer).await;
    sharer.does(Command::Pause(true)).await;
    for person in [&mut helper, &mut sharer] {
        let paused = |event: &_| matches!(event, SessionEvent::Paused(true)).then_some(());
        person.session(paused).await;
    }
    move_twice(&mut helper, &mut sharer).await;
    sharer.does(Command::Pause(false)).await;
    for person in [&mut helper, &mut sharer] {
        let resumed = |event: &_| matches!(event, SessionEvent::Paused(false)).then_some(());
        person.session(resumed).await;
    }
    talk(&mut helper, &mut sharer).await;
    sharer.does(Command::Leave).await;
    assert_eq!(helper.ended().await, EndReason::SharerLeft);
    let receipt = sharer.receipt().await;
    assert_eq!(
        (receipt.mode, receipt.reason),
        (Some(Mode::Control), EndReason::SharerLeft)
    );
}

#[tokio::test]
async fn a_session_that_goes_directly_outlives_its_relay() {
    let relay = relay();
    let (mut helper, mut sharer) = active(relay.address()).await;
    until_direct(&mut helper).await;
    until_direct(&mut sharer).await;
    drop(relay);
    talk(&mut helper, &mut sharer).await;
    sharer.does(Command::Leave).await;
    assert_eq!(helper.ended().await, EndReason::SharerLeft);
}

/// What a person is told of who wants the relay: this side, the other.
async fn wish(person: &mut Person) -> (bool, bool) {
    person
        .until(|event| {
            if let Event::RelayWish { ours, theirs } = event {
                Some((*ours, *theirs))
            } else {
                None
            }
        })
        .await
}

async fn until_why(person: &mut Person, why: WhyRelayed) {
    let path = &mut person.running.path;
    let is_it = path.wait_for(|path| path.why_relayed == Some(why));
    within(why, is_it).await.expect("alive");
}

#[tokio::test]
async fn whose_wish_the_relay_is_both_know() {
    let relay = relay();
    let (mut helper, mut sharer) = active(relay.address()).await;
    until_direct(&mut helper).await;
    until_direct(&mut sharer).await;
    helper.wishes(Input::Relayed(true)).await;
    assert_eq!(wish(&mut helper).await, (true, false));
    assert_eq!(wish(&mut sharer).await, (false, true));
    until_why(&mut helper, WhyRelayed::PolicyRelayOnly).await;
    until_why(&mut sharer, WhyRelayed::PeerRelayOnly).await;
    // The other's wish holds.
    sharer.wishes(Input::Relayed(false)).await;
    assert_eq!(wish(&mut sharer).await, (false, true));
    helper.wishes(Input::Relayed(false)).await;
    assert_eq!(wish(&mut helper).await, (false, false));
    assert_eq!(wish(&mut sharer).await, (false, false));
    until_direct(&mut helper).await;
    until_direct(&mut sharer).await;
}

#[tokio::test]
async fn whose_other_side_takes_the_relay_only_is_told_so() {
    let relay = relay();
    let helper = support::people::node(relay.address()).await;
    let (mut helper, code) = invites_with(helper, "Sam", LIFETIME).await;
    let mut sharer = joins_with(node(relay.address()).await, "Maria", &code)
        .await
        .expect("works");
    until_why(&mut helper, WhyRelayed::PolicyRelayOnly).await;
    until_why(&mut sharer, WhyRelayed::PeerRelayOnly).await;
}
