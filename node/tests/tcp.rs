//! Sessions where UDP does not go, or goes only for a while.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one event is waited for among many"
)]

mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use remora::{
    error::{Exit, Failure},
    event::{Asked, Event, PathSnapshot},
    node::{Node, Options},
    path::stream::proxy::Proxy,
};
use remora_proto::{
    id::RelayAddr,
    path::machine::WhyRelayed,
    rendezvous::LIFETIME,
    session::{Command, EndReason, Mode},
};
use remora_relay::admin::metrics::StreamEnd;
use support::{
    front::Front,
    people::{Person, invites_with, joins_with, relay, start, within},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};

async fn node(relay: &RelayAddr, options: Options) -> Result<Node, Failure> {
    within("connecting", Node::connect(relay, options)).await
}

async fn active(relay: &RelayAddr, options: &Options) -> (Person, Person) {
    let helper = node(relay, options.clone()).await.expect("a relay");
    let (mut helper, code) = invites_with(helper, "Sam", LIFETIME).await;
    let sharer = node(relay, options.clone()).await.expect("a relay");
    let mut sharer = joins_with(sharer, "Maria", &code).await.expect("works");
    assert_eq!(sharer.trust().await.1, helper.trust().await.1);
    start(&mut helper, &mut sharer, Mode::View).await;
    (helper, sharer)
}

async fn talk(helper: &mut Person, sharer: &mut Person) {
    for n in 0..20 {
        let line = format!("line {n}");
        helper.does(Command::Chat(line.clone())).await;
        assert_eq!(sharer.hears().await, line);
        sharer.does(Command::Chat(line.clone())).await;
        assert_eq!(helper.hears().await, line);
    }
}

async fn leave(mut helper: Person, mut sharer: Person) {
    helper.does(Command::Leave).await;
    assert_eq!(sharer.ended().await, EndReason::HelperLeft);
    assert_eq!(helper.ended().await, EndReason::HelperLeft);
}

/// Waits until a person is shown such a path.
async fn shown(person: &mut Person, wanted: impl Fn(&PathSnapshot) -> bool) -> PathSnapshot {
    let path = person.running.path.wait_for(wanted);
    within("such a path", path).await.expect("alive").clone()
}

#[tokio::test]
async fn a_session_by_tcp_only_sends_the_relay_nothing_by_udp() {
    let relay = relay();
    let front = Front::new(relay.address(), false, true).await;
    let (mut helper, mut sharer) = active(&front.relay, &Options::tcp_only()).await;
    talk(&mut helper, &mut sharer).await;
    for person in [&mut helper, &mut sharer] {
        let path = shown(person, |path| path.why_relayed.is_some()).await;
        assert!(path.is_by_tcp);
        assert_eq!(path.why_relayed, Some(WhyRelayed::PolicyRelayOnly));
        assert!(path.badge().contains(" over TCP ("), "{}", path.badge());
        assert_eq!(path.json()["transport"], "tcp");
    }
    assert_eq!(front.udp_seen(), 0);
    leave(helper, sharer).await;
}

#[tokio::test]
async fn where_udp_is_blocked_a_session_goes_by_tcp() {
    let relay = relay();
    let front = Front::new(relay.address(), false, true).await;
    let (mut helper, mut sharer) = active(&front.relay, &Options::relay_only()).await;
    talk(&mut helper, &mut sharer).await;
    shown(&mut helper, |path| path.is_by_tcp).await;
    shown(&mut sharer, |path| path.is_by_tcp).await;
    assert_ne!(front.udp_seen(), 0, "it was tried");
    leave(helper, sharer).await;
}

#[tokio::test]
async fn one_by_tcp_meets_one_by_udp() {
    let relay = relay();
    let front = Front::new(relay.address(), false, true).await;
    let helper = node(&front.relay, Options::relay_only())
        .await
        .expect("a relay");
    assert!(helper.is_by_tcp());
    let (mut helper, code) = invites_with(helper, "Sam", LIFETIME).await;
    let sharer = node(relay.address(), Options::relay_only()).await;
    let sharer = sharer.expect("a relay");
    assert!(!sharer.is_by_tcp());
    let mut sharer = joins_with(sharer, "Maria", &code).await.expect("works");
    assert_eq!(sharer.trust().await.1, helper.trust().await.1);
    start(&mut helper, &mut sharer, Mode::View).await;
    talk(&mut helper, &mut sharer).await;
    leave(helper, sharer).await;
}

#[tokio::test]
async fn a_session_survives_that_udp_is_blocked_in_the_middle_and_goes_back_when_it_is_not() {
    let relay = relay();
    let front = Front::new(relay.address(), true, true).await;
    let (mut helper, mut sharer) = active(&front.relay, &Options::relay_only()).await;
    talk(&mut helper, &mut sharer).await;
    assert!(!shown(&mut helper, |_| true).await.is_by_tcp);
    front.passes_udp(false);
    // Nobody notices anything but a pause, and what the path says.
    helper.does(Command::Chat("still there?".to_owned())).await;
    let moved = helper.until(|event| match event {
        Event::Moved(path) => Some(path.is_by_tcp),
        _ => None,
    });
    assert!(moved.await);
    assert_eq!(sharer.hears().await, "still there?");
    talk(&mut helper, &mut sharer).await;
    shown(&mut helper, |path| path.is_by_tcp).await;
    shown(&mut sharer, |path| path.is_by_tcp).await;
    front.passes_udp(true);
    shown(&mut helper, |path| !path.is_by_tcp).await;
    shown(&mut sharer, |path| !path.is_by_tcp).await;
    talk(&mut helper, &mut sharer).await;
    leave(helper, sharer).await;
}

#[tokio::test]
async fn a_measurement_is_of_the_moment_and_waits_for_the_other_node() {
    let relay = relay();
    let front = Front::new(relay.address(), true, false).await;
    let (mut helper, mut sharer) = active(&front.relay, &Options::relay_only()).await;
    for person in [&mut helper, &mut sharer] {
        front.passes_udp(false);
        let (tell, mut told) = oneshot::channel();
        let asked = person.running.asked.send(Asked::Way(tell));
        within("asking", asked).await.expect("alive");
        for _ in 0..2 {
            let renewed = person.running.path.changed();
            within("what is shown", renewed).await.expect("alive");
        }
        assert!(told.try_recv().is_err(), "nothing comes back");
        front.passes_udp(true);
        let path = within("an answer", told).await.expect("alive");
        assert_ne!(path.rtt, Duration::ZERO);
        assert_eq!(person.running.path.borrow().rtt, path.rtt);
    }
    leave(helper, sharer).await;
}

#[tokio::test]
async fn where_udp_goes_no_stream_is_begun() {
    let relay = relay();
    let (mut helper, mut sharer) = active(relay.address(), &Options::relay_only()).await;
    talk(&mut helper, &mut sharer).await;
    leave(helper, sharer).await;
    let ends = [StreamEnd::Left, StreamEnd::Lost, StreamEnd::Failed];
    assert_eq!(ends.map(|end| relay.stream_ends(end)), [0; 3]);
}

#[tokio::test]
async fn a_relay_that_neither_reaches_is_said_to_be_so_for_both() {
    let relay = relay();
    let front = Front::new(relay.address(), false, false).await;
    for (options, says) in [
        (Options::default(), &["by UDP", "Nor by TCP: no answer"][..]),
        (Options::tcp_only(), &["by TCP: no answer"]),
    ] {
        let failure = node(&front.relay, options).await.expect_err("nothing goes");
        assert_eq!(
            (failure.code, failure.exit),
            ("RELAY_UNREACHABLE", Exit::Offline)
        );
        for words in says {
            assert!(failure.line.contains(words), "{}", failure.line);
        }
    }
}

#[tokio::test]
async fn another_certificate_is_not_taken_for_the_relays() {
    let (other, relay) = (relay(), relay());
    let front = Front::new(relay.address(), false, true).await;
    let address = RelayAddr {
        tls: other.address().tls,
        ..front.relay.clone()
    };
    let failure = node(&address, Options::tcp_only())
        .await
        .expect_err("another's");
    assert!(
        failure.line.contains("is not taken for the relay"),
        "{}",
        failure.line
    );
    // Nobody vouches for the relay's own certificate.
    let address = RelayAddr {
        tls: None,
        ..address
    };
    let failure = node(&address, Options::tcp_only())
        .await
        .expect_err("nobody's");
    assert!(
        failure.line.contains("is not taken for the relay"),
        "{}",
        failure.line
    );
}

/// An HTTP proxy that connects to `relay` whoever is asked for, and to nobody without `authorization`.
async fn proxy(
    relay: SocketAddr,
    authorization: Option<&'static str>,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut tasks = JoinSet::new();
        while let Ok((node, _)) = listener.accept().await {
            tasks.spawn(through(node, relay, authorization));
        }
    });
    (address, tasks)
}

async fn through(mut node: TcpStream, relay: SocketAddr, authorization: Option<&str>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(node.read_u8().await.expect("a request"));
    }
    let head = String::from_utf8(head).expect("text");
    assert!(
        head.starts_with("CONNECT relay.invalid:4433 HTTP/1.1\r\n"),
        "{head}"
    );
    let wanted = authorization.map(|value| format!("\r\nProxy-Authorization: {value}\r\n"));
    if wanted.is_some_and(|wanted| !head.contains(&wanted)) {
        let answer = b"HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n";
        node.write_all(answer).await.ok();
        return;
    }
    let mut relay = TcpStream::connect(relay).await.expect("a relay");
    node.write_all(b"HTTP/1.1 200 Here you are\r\n\r\n")
        .await
        .expect("sent");
    copy_bidirectional(&mut node, &mut relay).await.ok();
}

#[tokio::test]
async fn out_of_a_network_whose_only_way_is_a_proxy_that_knows_the_names() {
    let relay = relay();
    let upstream = relay.stream_addr().expect("a TCP port");
    // maria:s@fe
    let (address, _proxy) = proxy(upstream, Some("Basic bWFyaWE6c0BmZQ==")).await;
    let named = RelayAddr {
        host_port: "relay.invalid:4433".to_owned(),
        ..relay.address().clone()
    };
    let through = |user: &str| Options {
        proxy: Proxy::parse(&format!("http://{user}{address}")),
        ..Options::default()
    };
    let (mut helper, mut sharer) = active(&named, &through("maria:s%40fe@")).await;
    talk(&mut helper, &mut sharer).await;
    leave(helper, sharer).await;
    let failure = node(&named, through(""))
        .await
        .expect_err("it wants a name");
    assert_eq!(failure.code, "RELAY_UNREACHABLE");
    assert!(
        failure.line.contains("wants a name and a password"),
        "{}",
        failure.line
    );
}
