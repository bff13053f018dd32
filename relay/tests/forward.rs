//! A whole relay, seen from the frames.

#[path = "support/node.rs"]
mod support;

use std::{net::SocketAddr, time::Duration};

use remora_proto::{
    id::{SessionId, Side},
    random::Random,
    wire::{
        frame::HEADER_LEN,
        message::control::{Release, node_to_relay::Body as Request},
    },
};
use remora_relay::{datapath::DropReason, rate::Rate};
use support::{Node, admit, code, get, introduce, noise_bytes, pair, relay, relay_with, within};

#[tokio::test]
async fn frames_go_both_ways_byte_for_byte() {
    let relay = relay();
    let (mut host, mut joiner, session) = pair(&relay, 1).await;
    let mut random = Random::seeded(1);
    for _ in 0..200 {
        let packet = [
            &[random.bytes::<1>()[0]][..],
            &noise_bytes(&mut random, 1400),
        ]
        .concat();
        let there = host.frame(session, Side::Host, &packet).await;
        assert_eq!(joiner.next_frame().await, there);
        let back = joiner.frame(session, Side::Joiner, &packet).await;
        assert_eq!(host.next_frame().await, back);
    }
    let (_, metrics) = get(relay.admin_addr(), "/metrics").await;
    assert!(
        metrics.contains("remora_relay_frames_forwarded_total{leg=\"node\"} 400"),
        "{metrics}"
    );
    assert!(
        metrics.contains("remora_relay_sessions{path=\"relayed\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_burst_arrives_whole_and_in_order() {
    let relay = relay();
    let (host, mut joiner, session) = pair(&relay, 1).await;
    // More would not fit into the receive buffer of the joiner's socket, which the system makes.
    for n in 0..60_u8 {
        host.frame(session, Side::Host, &[n; 1000]).await;
    }
    for n in 0..60_u8 {
        assert_eq!(joiner.next_frame().await[HEADER_LEN..], [n; 1000]);
    }
}

#[tokio::test]
async fn what_is_not_of_a_session_is_dropped_and_counted() {
    let relay = relay();
    let (mut host, mut joiner, session) = pair(&relay, 1).await;
    let (mut stranger, _peer, other) = pair(&relay, 2).await;
    stranger.frame(session, Side::Host, b"from nobody").await;
    stranger.frame(session, Side::Joiner, b"from nobody").await;
    stranger
        .frame(SessionId(session.0 ^ 1), Side::Host, b"to nowhere")
        .await;
    stranger.barrier().await;
    host.frame(session, Side::Joiner, b"as the other").await;
    host.frame(other, Side::Host, b"into another").await;
    host.datagram(&[4, 0, 0, 0]).await;
    host.datagram(&[4, 0x80, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        .await;
    host.datagram(&[0x20, 1, 2, 3]).await;
    host.datagram(&[5, 9]).await;
    host.barrier().await;
    for (reason, count) in [
        (DropReason::WrongSource, 4),
        (DropReason::UnknownSession, 1),
        (DropReason::FrameShort, 1),
        (DropReason::FrameReserved, 1),
        (DropReason::UnknownKind, 1),
        (DropReason::ReflectMalformed, 1),
        (DropReason::RateLimited, 0),
    ] {
        assert_eq!(relay.dropped(reason), count, "{reason:?}");
    }
    let frame = host.frame(session, Side::Host, b"the only one").await;
    assert_eq!(joiner.next_frame().await, frame);
    assert_eq!(
        (
            joiner.waiting_frames(),
            host.waiting_frames(),
            stranger.waiting_frames()
        ),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn a_session_that_sends_too_fast_loses_frames_of_its_own_only() {
    // Three frames at once, the next one after a day.
    let relay = relay_with(|config| {
        config.session_rate = Rate::new(1000, Duration::from_secs(86_400), 3036)
    });
    let (mut host, mut joiner, session) = pair(&relay, 1).await;
    let (other, mut peer, theirs) = pair(&relay, 2).await;
    for _ in 0..10 {
        host.frame(session, Side::Host, &[1; 1000]).await;
    }
    host.barrier().await;
    assert_eq!(relay.dropped(DropReason::RateLimited), 7);
    for _ in 0..3 {
        joiner.next_frame().await;
    }
    assert_eq!(joiner.waiting_frames(), 0);
    joiner.frame(session, Side::Joiner, &[2; 1000]).await;
    host.next_frame().await;
    other.frame(theirs, Side::Host, &[3; 1000]).await;
    peer.next_frame().await;
}

#[tokio::test]
async fn after_the_release_nothing_is_forwarded() {
    let relay = relay();
    let (mut host, mut joiner, session) = pair(&relay, 1).await;
    host.done(Request::Release(Release { session: session.0 }))
        .await;
    host.frame(session, Side::Host, b"late").await;
    host.barrier().await;
    joiner.frame(session, Side::Joiner, b"late").await;
    joiner.barrier().await;
    assert_eq!(relay.dropped(DropReason::UnknownSession), 2);
}

/// As in the default configuration: IPv4 nodes at a socket that takes both.
#[tokio::test]
async fn nodes_of_both_families_meet_at_one_port() {
    let relay = relay_with(|config| config.listen = "[::]:0".parse().expect("an address"));
    let port = relay.local_addr().port();
    let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), port);
    let has_v6 = relay.local_addr().is_ipv6();
    let (mut host, welcome) = Node::welcomed_at(at("127.0.0.1"), relay.id().0).await;
    assert_eq!(
        welcome.observed_address,
        host.port.io.local_addr().expect("bound").to_string()
    );
    let other = if has_v6 { at("::1") } else { at("127.0.0.1") };
    let (mut joiner, _) = Node::welcomed_at(other, relay.id().0).await;
    let code = code(1);
    host.done(code.publish()).await;
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
    let session = SessionId(allocated.session);
    let there = host.frame(session, Side::Host, b"from IPv4").await;
    assert_eq!(joiner.next_frame().await, there);
    let back = joiner.frame(session, Side::Joiner, b"from IPv6").await;
    assert_eq!(host.next_frame().await, back);
    assert_eq!(
        host.barrier().await,
        host.port.io.local_addr().expect("bound")
    );
}

#[tokio::test]
async fn a_node_learns_its_address_by_reflection() {
    let relay = relay();
    let mut node = Node::new(&relay).await;
    assert_eq!(
        node.barrier().await,
        node.port.io.local_addr().expect("bound")
    );
}

#[tokio::test]
async fn frames_follow_a_node_whose_address_changes() {
    let relay = relay();
    let (mut host, mut joiner, session) = pair(&relay, 1).await;
    joiner.rebind().await;
    // Frames are lost until the relay has validated the new address and compared it with the leg.
    let arrived = within(async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                frame = joiner.next_frame() => return frame,
                _ = ticks.tick() => host.frame(session, Side::Host, b"where are you?").await,
            };
        }
    });
    assert_eq!(arrived.await[HEADER_LEN..], b"where are you?"[..]);
    let back = joiner.frame(session, Side::Joiner, b"here").await;
    assert_eq!(host.next_frame().await, back);
}
