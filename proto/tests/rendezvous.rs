//! From the code to the keys of the inner connection, in life-cycle order; the relay in between is honest.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail anywhere, looks for one thing among many, and reads one clock"
)]

mod people;

use std::time::Duration;

use people::{EXCHANGE, epoch, host, joiner, meet};
use remora_proto::{
    code::Code,
    id::ExchangeId,
    rendezvous::{
        CodeEnd, Host, HostEvent, HostTransmit, JoinFailure, JoinerEvent, LIFETIME, T_JOIN,
    },
    wire::message::control::Reason,
};

fn another(code: &Code) -> Code {
    let text = code.to_string();
    let last = if text.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &text[..text.len() - 1])
        .parse()
        .unwrap()
}

fn ends(host: &mut Host) -> Vec<CodeEnd> {
    std::iter::from_fn(|| host.poll_event())
        .filter_map(|event| match event {
            HostEvent::Ended(end) => Some(end),
            _ => None,
        })
        .collect()
}

#[test]
fn the_right_code_gives_both_sides_the_same_keys() {
    let now = epoch();
    let mut host = host(1, now);
    let code = host.code().clone();
    let met = meet(&mut host, &mut joiner(code, 2, now), now, |held| vec![held]);
    let (a, b) = (met.host_keys.unwrap(), met.joiner_keys.unwrap());
    assert_eq!(
        (a.psk_id, &a.psk, &a.context),
        (b.psk_id, &b.psk, &b.context)
    );
    assert_eq!(met.code_end, Some(CodeEnd::Used));
}

#[test]
fn t_08_a_code_works_once() {
    let now = epoch();
    let mut host = host(1, now);
    let code = host.code().clone();
    meet(&mut host, &mut joiner(code.clone(), 2, now), now, |held| {
        vec![held]
    });
    let again = meet(&mut host, &mut joiner(code, 3, now), now, |held| vec![held]);
    assert_eq!(again.failure, Some(JoinFailure::Used));
}

#[test]
fn t_07_three_wrong_codes_burn_it_and_each_is_told_to_both() {
    let now = epoch();
    let mut host = host(1, now);
    let (right, wrong) = (host.code().clone(), another(host.code()));
    for tries_left in [2, 1, 0] {
        let met = meet(&mut host, &mut joiner(wrong.clone(), 2, now), now, |held| {
            vec![held]
        });
        assert_eq!(met.failure, Some(JoinFailure::WrongCode { tries_left }));
        assert_eq!(met.wrong_codes, 1);
        assert_eq!(met.code_end, (tries_left == 0).then_some(CodeEnd::Burned));
    }
    let late = meet(&mut host, &mut joiner(right, 3, now), now, |held| {
        vec![held]
    });
    assert_eq!(late.failure, Some(JoinFailure::Burned));
}

#[test]
fn two_wrong_codes_leave_the_third_try_to_the_right_person() {
    let now = epoch();
    let mut host = host(1, now);
    let (right, wrong) = (host.code().clone(), another(host.code()));
    for _ in 0..2 {
        meet(&mut host, &mut joiner(wrong.clone(), 2, now), now, |held| {
            vec![held]
        });
    }
    let met = meet(&mut host, &mut joiner(right, 3, now), now, |held| {
        vec![held]
    });
    assert!(met.joiner_keys.is_some());
}

#[test]
fn t_06_a_code_lives_600_seconds() {
    let now = epoch();
    let mut host = host(1, now);
    assert_eq!(host.poll_timeout(), Some(now + LIFETIME));
    host.handle_timeout(now + LIFETIME - Duration::from_millis(1));
    assert_eq!(ends(&mut host), []);
    host.handle_timeout(now + LIFETIME);
    assert_eq!(ends(&mut host), [CodeEnd::Expired]);
    assert!(matches!(
        host.poll_transmit(),
        Some(HostTransmit::Withdraw(_, CodeEnd::Expired))
    ));
    let code = host.code().clone();
    let met = meet(&mut host, &mut joiner(code, 2, now), now, |held| vec![held]);
    assert_eq!(met.failure, Some(JoinFailure::Expired));
}

#[test]
fn t_06_a_withdrawn_code_admits_nobody() {
    let now = epoch();
    let mut host = host(1, now);
    host.cancel();
    host.cancel();
    let code = host.code().clone();
    let met = meet(&mut host, &mut joiner(code, 2, now), now, |held| vec![held]);
    assert_eq!(met.failure, Some(JoinFailure::Cancelled));
    assert_eq!(met.code_end, Some(CodeEnd::Cancelled));
}

/// A share without a tag reveals nothing and is no guess; but it costs work, so it has an end.
#[test]
fn a_flood_of_shares_burns_the_code() {
    let now = epoch();
    let mut host = host(1, now);
    let mut bystander = joiner(host.code().clone(), 2, now);
    let mut share = None;
    meet(&mut host, &mut bystander, now, |held| {
        if let people::Held::Join(bytes) = &held {
            share = Some(bytes.clone());
            return vec![];
        }
        vec![held]
    });
    for n in 0..64 {
        host.handle_offer(ExchangeId(n), share.as_ref().unwrap(), now);
        assert_eq!(ends(&mut host), [], "share {n}");
    }
    host.handle_offer(ExchangeId(64), share.as_ref().unwrap(), now);
    assert_eq!(ends(&mut host), [CodeEnd::Burned]);
}

#[test]
fn garbage_is_no_guess() {
    let now = epoch();
    let mut host = host(1, now);
    host.handle_offer(EXCHANGE, b"\xff\xff", now);
    host.handle_signal(EXCHANGE, b"no such exchange", now);
    assert!(std::iter::from_fn(|| host.poll_event()).next().is_none());
    let code = host.code().clone();
    let met = meet(&mut host, &mut joiner(code, 2, now), now, |held| vec![held]);
    assert!(met.joiner_keys.is_some());
}

#[test]
fn every_refusal_of_the_relay_has_its_own_error() {
    let now = epoch();
    for (reason, failure) in [
        (Reason::UnknownCode, JoinFailure::UnknownCode),
        (Reason::CodeExpired, JoinFailure::Expired),
        (Reason::CodeUsed, JoinFailure::Used),
        (Reason::CodeBurned, JoinFailure::Burned),
        (Reason::CodeCancelled, JoinFailure::Cancelled),
        (Reason::PeerGone, JoinFailure::PeerGone),
        (
            Reason::RateLimited,
            JoinFailure::Refused(Reason::RateLimited),
        ),
    ] {
        let mut joiner = joiner("4060-r0gx".parse().unwrap(), 1, now);
        joiner.handle_refused(reason);
        joiner.handle_refused(Reason::Full);
        assert!(matches!(joiner.poll_event(), Some(JoinerEvent::Failed(seen)) if seen == failure));
        assert!(joiner.poll_event().is_none(), "one outcome");
    }
}

#[test]
fn a_silent_host_is_given_up_after_30_seconds() {
    let now = epoch();
    let mut joiner = joiner("4060-r0gx".parse().unwrap(), 1, now);
    joiner.handle_timeout(now + T_JOIN - Duration::from_millis(1));
    assert!(joiner.poll_event().is_none());
    joiner.handle_timeout(now + T_JOIN);
    assert!(matches!(
        joiner.poll_event(),
        Some(JoinerEvent::Failed(JoinFailure::Timeout))
    ));
    assert_eq!(joiner.poll_timeout(), None);
}
