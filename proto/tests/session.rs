//! What a session keeps of what people say, and how it ends between the lines of the table (see session_rows.rs).
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one thing among many"
)]

mod pair;
mod people;

use std::time::Duration;

use pair::{Two, attended, deliver};
use remora_proto::{
    identity::Role,
    session::{Command, EndReason, Event, Mode, Refusal, Terms, Transmit},
    wire::message::{
        MAX_CHAT_TEXT_BYTES,
        session::{self as schema, Chat, Control},
    },
};

#[test]
fn d_1_chat_arrives_in_order_with_every_script() {
    let mut two = Two::active(attended(), Mode::View);
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
fn d_1_where_policy_blocks_chat_it_is_not_shown_and_refused() {
    let blocked = Terms {
        chat_blocked: true,
        ..attended()
    };
    let mut two = Two::active(blocked, Mode::View);
    let hello = || Command::Chat("hello".into());
    for refused in [two.helper_does(hello()), two.sharer_does(hello())] {
        assert_eq!(refused, Err(Refusal::ChatBlocked));
    }
    // A helper's program that does not know, or care, is told each time.
    for id in 1..3 {
        let text = "hello".into();
        two.sharer.handle_chat(Chat { id, text }, two.now).unwrap();
        two.settle();
        let told = |event: &&Event| **event == Event::Refused(Refusal::ChatBlocked);
        assert_eq!(
            two.heard[0].iter().filter(told).count(),
            usize::try_from(id).unwrap()
        );
    }
    let shown = |event: &Event| matches!(event, Event::Chat { .. });
    assert!(!two.heard.iter().flatten().any(shown));
    two.assert_goes_on();
}

#[test]
fn an_overlong_message_is_the_senders_mistake_and_harms_nothing() {
    let mut two = Two::active(attended(), Mode::View);
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
        let mut two = Two::active(attended(), Mode::View);
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
        let mut two = Two::active(attended(), Mode::View);
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
    let mut two = Two::active(attended(), Mode::View);
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
fn nobody_can_say_that_the_other_one_left() {
    let mut two = Two::active(attended(), Mode::View);
    let ended = schema::Ended {
        reason: schema::EndReason::HelperLeft.into(),
        chat_sent: 0,
        why: String::new(),
    };
    let body = Some(schema::control::Body::Ended(ended));
    two.helper
        .handle_control(Control { body }, two.now)
        .unwrap();
    two.settle();
    assert_eq!(two.ended()[0].unwrap().reason, EndReason::Internal);
}
