//! A whole relay on its way out.

#[path = "support/node.rs"]
mod support;

use std::time::Duration;

use remora_proto::{
    id::Side,
    park::Saying,
    wire::message::control::{
        Reason, Release, ReleaseCause, node_to_relay::Body as Request, relay_to_node::Body as Reply,
    },
};
use remora_relay::{admin::token::AdminToken, control::connection};
use support::{Node, admit, code, get, introduce, pair, relay, relay_with, request, within};

#[tokio::test]
async fn probes_follow_the_relays_life() {
    let mut relay = relay();
    let admin = relay.admin_addr();
    let (mut host, _joiner, session) = pair(&relay, 1).await;
    assert_eq!(get(admin, "/livez").await, (200, "ok\n".into()));
    assert_eq!(get(admin, "/readyz").await, (200, "ok\n".into()));
    let address = format!("{}\n", relay.address());
    assert_eq!(get(admin, "/address").await, (200, address));
    relay.drain();
    assert!(matches!(host.notice().await, Reply::Draining(_)));
    assert_eq!(get(admin, "/readyz").await, (503, "draining\n".into()));
    let (_, metrics) = get(admin, "/metrics").await;
    assert!(
        metrics.contains("remora_relay_drain_state 1")
            && metrics.contains("remora_relay_drain_remaining 1")
    );
    host.done(Request::Release(Release { session: session.0 }))
        .await;
    within(relay.drained()).await.expect("nothing failed");
    assert_eq!(get(admin, "/readyz").await, (503, "drained\n".into()));
    assert_eq!(get(admin, "/livez").await.0, 200);
    assert_eq!(get(admin, "/nothing").await.0, 404);
}

#[tokio::test]
async fn who_has_the_token_drains_by_the_admin_port_and_nobody_else() {
    let open = relay();
    for method in ["GET", "POST"] {
        let (status, hint) = request(open.admin_addr(), method, "/drain", "").await;
        assert_eq!(status, 403);
        assert!(hint.contains("--admin-token-file"), "{hint}");
    }
    let mut relay = relay_with(|config| {
        config.admin_token = AdminToken::parse("0123456789abcdef");
    });
    let admin = relay.admin_addr();
    let (mut host, _joiner, session) = pair(&relay, 1).await;
    let right = "authorization: Bearer 0123456789abcdef\r\n";
    for wrong in [
        "",
        "authorization: Bearer \r\n",
        "authorization: Bearer 0123456789abcdeX\r\n",
        "authorization: Basic 0123456789abcdef\r\n",
    ] {
        for (method, path) in [("GET", "/drain"), ("POST", "/drain"), ("GET", "/drained")] {
            let (status, hint) = request(admin, method, path, wrong).await;
            assert_eq!(status, 401);
            assert!(!hint.contains("sessions"), "{hint}");
        }
    }
    let ask = async |method, path| {
        let (status, body) = request(admin, method, path, right).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(&body).expect("JSON")
    };
    let facts = ask("GET", "/drain").await;
    assert_eq!(
        (&facts["state"], &facts["sessions"]),
        (&"serving".into(), &1.into())
    );
    assert_eq!(get(admin, "/readyz").await.0, 200, "nothing has begun");
    for _ in 0..2 {
        let facts = ask("POST", "/drain").await;
        assert_eq!(
            (&facts["state"], &facts["sessions"]),
            (&"draining".into(), &1.into())
        );
        assert!((1..=60_000).contains(&facts["deadline_ms"].as_u64().expect("one")));
    }
    assert!(matches!(host.notice().await, Reply::Draining(_)));
    let release = Request::Release(Release { session: session.0 });
    let (facts, ()) = tokio::join!(ask("GET", "/drained"), host.done(release));
    assert_eq!(
        (&facts["state"], &facts["sessions"]),
        (&"drained".into(), &0.into())
    );
    assert_eq!(facts["cut_off"], 0);
    within(relay.drained()).await.expect("nothing failed");
}

#[tokio::test]
async fn what_is_new_is_refused_and_what_lives_goes_on() {
    let relay = relay();
    let (mut host, mut joiner, session) = pair(&relay, 1).await;
    let mut idle = Node::new(&relay).await;
    relay.drain();
    for node in [&mut host, &mut joiner, &mut idle] {
        let Reply::Draining(draining) = node.notice().await else {
            panic!("not told")
        };
        assert!((1..=60_000).contains(&draining.deadline_ms));
    }
    assert_eq!(idle.refused(code(2).publish()).await, Reason::Draining);
    assert_eq!(idle.refused(code(1).join("hello")).await, Reason::Draining);
    let mut late = Node::new(&relay).await;
    assert!(matches!(late.notice().await, Reply::Draining(_)));
    let frame = host.frame(session, Side::Host, b"still forwarded").await;
    assert_eq!(joiner.next_frame().await, frame);
}

#[tokio::test]
async fn an_introduction_under_way_becomes_a_session_before_the_relay_goes() {
    let mut relay = relay();
    let (mut host, mut joiner, code) = (Node::new(&relay).await, Node::new(&relay).await, code(1));
    host.done(code.publish()).await;
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    relay.drain();
    for node in [&mut host, &mut joiner] {
        assert!(matches!(node.notice().await, Reply::Draining(_)));
    }
    assert_eq!(
        get(relay.admin_addr(), "/readyz").await,
        (503, "draining\n".into())
    );
    let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
    for node in [&mut host, &mut joiner] {
        assert!(
            matches!(node.notice().await, Reply::Draining(_)),
            "once more"
        );
    }
    let session = allocated.session;
    host.done(Request::Release(Release { session })).await;
    within(relay.drained()).await.expect("nothing failed");
}

#[tokio::test]
async fn a_relay_without_sessions_is_done_at_once() {
    let mut relay = relay();
    let node = Node::new(&relay).await;
    relay.drain();
    within(relay.drained()).await.expect("nothing failed");
    within(relay.shutdown()).await;
    assert_eq!(node.closed().await, connection::CLOSED_DRAINED.into_inner());
}

#[tokio::test]
async fn the_deadline_ends_what_is_left_and_says_so() {
    let mut relay = relay_with(|config| config.drain_timeout = Duration::from_millis(50));
    let (mut host, mut joiner, session) = pair(&relay, 1).await;
    relay.drain();
    within(relay.drained()).await.expect("nothing failed");
    let shutdown = tokio::spawn(relay.shutdown());
    for node in [&mut host, &mut joiner] {
        assert!(matches!(node.notice().await, Reply::Draining(_)));
        let Reply::Released(released) = node.notice().await else {
            panic!("not told")
        };
        assert_eq!(
            (released.session, released.cause()),
            (session.0, ReleaseCause::RelayDrained)
        );
        assert_eq!(node.closed().await, connection::CLOSED_DRAINED.into_inner());
    }
    within(shutdown).await.expect("ended");
}

#[tokio::test]
async fn its_ports_are_free_after_the_shutdown() {
    let relay = relay();
    let (nodes, admin) = (relay.local_addr(), relay.admin_addr());
    let _node = Node::new(&relay).await;
    within(relay.shutdown()).await;
    let relay = relay_with(|config| (config.listen, config.admin) = (nodes, vec![admin]));
    Node::new(&relay).await;
}

#[tokio::test]
async fn parked_nodes_hear_of_the_drain_and_of_the_end() {
    let relay = relay();
    let (_host, _joiner, _session) = pair(&relay, 1).await;
    let mut parked = Node::new(&relay).await.park().await;
    let mut other = Node::new(&relay).await.park().await;
    relay.drain();
    assert_eq!(parked.hear().await, (Saying::Wake, 0));
    let mut node = parked.back().await;
    assert!(matches!(node.notice().await, Reply::Draining(_)));
    assert_eq!(other.hear().await, (Saying::Wake, 0));
    within(relay.shutdown()).await;
    while other.hear().await != (Saying::Gone, 0) {}
    assert_eq!(node.closed().await, connection::CLOSED_DRAINED.into_inner());
}
