//! Whole relays of one fleet.

#[path = "support/relays.rs"]
mod relays;
#[path = "support/node.rs"]
mod support;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use bytes::Bytes;
use relays::{
    Hostile, bridged, fleet, lookup, meet, member, seed, settings, shows, talk, test_relay,
};
use remora_proto::{
    id::{RelayAddr, RelayId, SessionId, Side},
    noise::StaticKey,
    random::Random,
    wire::{
        message::control::{
            Dismiss, Gone, Reason, Rejoin, Release, ReleaseCause, node_to_relay::Body as Request,
            relay_to_node::Body as Reply,
        },
        reflect::Load,
    },
};
use remora_relay::{admin::metrics::Stranger, datapath::DropReason, mesh::Settings, relay::Relay};
use support::{Node, admit, code, code_with, get, introduce, relay_with, signal, withdraw, within};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_relay_that_takes_both_families_does_so_at_one_port() {
    let first = relay_with(|config| {
        config.mesh = Some(Settings {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            ..settings(Vec::new())
        });
    });
    let port = first.mesh_addr().expect("in a mesh").port();
    for host in ["127.0.0.1", "[::1]"] {
        let other = member(vec![format!("{host}:{port}")], |_| {});
        meet(&[other], 1).await;
    }
}

#[tokio::test]
async fn relays_behind_load_balancers_reach_each_other_from_inside() {
    // From there, nobody gets to what nodes come by (RFC 5737).
    let inside = |seeds| {
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let listen = free.local_addr().expect("bound");
        drop(free);
        member(seeds, |config| {
            config.listen = listen;
            config.listen_tcp = None;
            config.observers = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
            config.advertise = Some(format!("192.0.2.1:{}", listen.port()));
        })
    };
    let first = inside(Vec::new());
    let other = inside(seed(&first));
    let relays = [first, other];
    meet(&relays, 1).await;
    let (mut host, mut joiner, session) = bridged(&relays[0], &relays[1], 1).await;
    talk(&mut host, &mut joiner, session).await;
    let (_node, welcome) = Node::welcomed(&relays[0]).await;
    assert_eq!(welcome.others, [relays[1].address().to_string()]);
}

#[tokio::test]
async fn two_nodes_at_two_relays_meet_by_code_and_part() {
    let relays = fleet(2).await;
    let (mut host, mut joiner) = (Node::new(&relays[0]).await, Node::new(&relays[1]).await);
    let code = code(1);
    host.done(code.publish()).await;
    let Reply::Found(found) = joiner.ask(lookup(&code)).await else {
        panic!("not found")
    };
    assert_eq!(found.record, code.record);

    let exchange = introduce(&mut host, &mut joiner, &code).await;
    for _ in 0..3 {
        for (from, to) in [(0, 1), (1, 0)] {
            let nodes = [&mut host, &mut joiner];
            let text: &[u8] = if from == 0 { b"to joiner" } else { b"to host" };
            let [host, joiner] = nodes;
            let (from, to) = if from < to {
                (host, joiner)
            } else {
                (joiner, host)
            };
            from.done(signal(exchange, text)).await;
            let Reply::Signal(passed) = to.notice().await else {
                panic!("no signal")
            };
            assert_eq!((passed.exchange, &passed.payload[..]), (exchange, text));
        }
    }
    let [one, two] = admit(&mut host, &mut joiner, exchange).await;
    assert_eq!((one.side, two.side), (0, 1));
    assert_eq!(
        (one.session, &two.payload[..]),
        (two.session, &b"welcome"[..])
    );
    let session = SessionId(one.session);
    talk(&mut host, &mut joiner, session).await;
    for relay in &relays {
        assert_eq!(relay.sessions(), 1);
        let (_, metrics) = get(relay.admin_addr(), "/metrics").await;
        for line in ["mesh_peers 1", "bridged_sessions 1", "dht_records 1"] {
            assert!(
                metrics.contains(&format!("remora_relay_{line}\n")),
                "{metrics}"
            );
        }
    }

    joiner
        .done(Request::Release(Release { session: session.0 }))
        .await;
    let Reply::Released(released) = host.notice().await else {
        panic!("not released")
    };
    assert_eq!(released.session, session.0);
    assert_eq!(released.cause(), ReleaseCause::PeerReleased);
    assert_eq!((relays[0].sessions(), relays[1].sessions()), (0, 0));
}

#[tokio::test]
async fn a_node_is_told_who_else_there_is_and_how_much_there_is_to_do() {
    let relays = fleet(3).await;
    let (_first, welcome) = Node::welcomed(&relays[0]).await;
    let others: BTreeSet<_> = welcome.others.into_iter().collect();
    let expected = relays[1..].iter().map(|relay| {
        let address = RelayAddr {
            host_port: relay.local_addr().to_string(),
            tls: None,
            ..relay.address().clone()
        };
        address.to_string()
    });
    assert_eq!(others, expected.collect());
    let load = |nodes| u32::from(Load::of_nodes(nodes).to_byte());
    assert_eq!(welcome.load, load(1));
    let (_second, welcome) = Node::welcomed(&relays[0]).await;
    assert_eq!(welcome.load, load(2));
}

#[tokio::test]
async fn frames_of_a_bridge_come_only_from_the_relay_that_it_leads_to() {
    let relays = fleet(3).await;
    let (mut host, mut joiner, session) = bridged(&relays[0], &relays[1], 1).await;
    let (mut stranger, mut peer, other) = bridged(&relays[2], &relays[0], 2).await;
    // At the relay that the session is at, from a node and from another relay of the fleet.
    host.frame(session, Side::Joiner, b"as the other").await;
    stranger.frame(other, Side::Host, b"not for you").await;
    stranger.frame(session, Side::Host, b"nowhere").await;
    // One that has a session of its own there, with another relay's node.
    peer.frame(session, Side::Joiner, b"as the other").await;
    host.barrier().await;
    stranger.barrier().await;
    peer.barrier().await;
    assert_eq!(relays[0].dropped(DropReason::WrongSource), 2);
    assert_eq!(relays[2].dropped(DropReason::UnknownSession), 1);
    talk(&mut host, &mut joiner, session).await;
    assert_eq!(joiner.waiting_frames(), 0);
}

#[tokio::test]
async fn the_end_of_a_drain_is_told_to_another_relays_node() {
    let first = member(Vec::new(), |config| {
        config.drain_timeout = Duration::from_millis(200);
    });
    let second = member(seed(&first), |_| {});
    let mut relays = vec![first, second];
    meet(&relays, 1).await;
    let (_host, mut joiner, session) = bridged(&relays[0], &relays[1], 1).await;
    let mut first = relays.remove(0);
    first.drain();
    within(first.drained()).await.expect("drained");
    first.shutdown().await;
    let Reply::Released(released) = joiner.notice().await else {
        panic!("not released")
    };
    assert_eq!(released.session, session.0);
    assert_eq!(released.cause(), ReleaseCause::RelayDrained);
}

#[tokio::test]
async fn how_an_exchange_ends_is_told_across_relays() {
    let relays = fleet(2).await;
    let (mut host, mut joiner) = (Node::new(&relays[0]).await, Node::new(&relays[1]).await);
    let code = code(1);
    host.done(code.publish()).await;
    // The host says no.
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    let dismiss = Dismiss {
        exchange,
        payload: Bytes::from_static(b"no"),
        wrong_secret: true,
    };
    host.done(Request::Dismiss(dismiss.clone())).await;
    assert_eq!(joiner.notice().await, Reply::Dismissed(dismiss));
    // The joiner goes away.
    let mut second = Node::new(&relays[1]).await;
    let exchange = introduce(&mut host, &mut second, &code).await;
    drop(second);
    let Reply::Dismissed(dismissed) = host.notice().await else {
        panic!("not told")
    };
    assert_eq!(
        (dismissed.exchange, dismissed.wrong_secret),
        (exchange, false)
    );
    // A session's node goes away.
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
    drop(host);
    let Reply::Released(released) = joiner.notice().await else {
        panic!("not told")
    };
    assert_eq!(released.session, allocated.session);
    assert_eq!(released.cause(), ReleaseCause::PeerLost);
    // And with it, whoever could be joined.
    assert_eq!(joiner.refused(code.join("late")).await, Reason::PeerGone);
}

#[tokio::test]
async fn t_01_a_locator_belongs_to_whoever_came_first_and_to_nobody_afterwards() {
    let relays = fleet(3).await;
    let mut nodes = Vec::new();
    for relay in &relays {
        nodes.push(Node::new(relay).await);
    }
    let first = code(1);
    let mut second = code_with(2, |record| record.key = first.key);
    second.key = first.key;
    nodes[0].done(first.publish()).await;
    assert_eq!(nodes[1].refused(second.publish()).await, Reason::Taken);
    nodes[0].done(withdraw(&first, Gone::Used)).await;
    for node in &mut nodes {
        assert_eq!(node.refused(lookup(&first)).await, Reason::CodeUsed);
    }
    assert_eq!(nodes[2].refused(second.publish()).await, Reason::Taken);
}

#[tokio::test]
async fn two_relays_that_keep_a_code_may_die_before_it_is_used_at_one_that_does_not() {
    let mut random = Random::seeded(5);
    for run in 0..3_u8 {
        // Seven, so that it is not everybody that keeps it.
        let relays = fleet(7).await;
        let mut host = Node::new(&relays[0]).await;
        let code = code(run);
        host.done(code.publish()).await;
        let (mut keepers, mut others) = (Vec::new(), Vec::new());
        for relay in relays {
            let (_, metrics) = get(relay.admin_addr(), "/metrics").await;
            let is_kept = metrics.contains("remora_relay_dht_records 1\n");
            let is_hosts = relay.id().0 == host.relay_key();
            if is_kept && !is_hosts {
                keepers.push(relay);
            } else {
                others.push(relay);
            }
        }
        assert!((4..=5).contains(&keepers.len()), "{}", keepers.len());
        for _ in 0..2 {
            let dead = usize::from(random.bytes::<1>()[0]) % keepers.len();
            drop(keepers.remove(dead));
        }
        // A session ends with its joiner.
        let mut joiners = Vec::new();
        for relay in others.iter().chain(&keepers) {
            let mut joiner = Node::new(relay).await;
            let exchange = introduce(&mut host, &mut joiner, &code).await;
            let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
            talk(&mut host, &mut joiner, SessionId(allocated.session)).await;
            joiners.push(joiner);
        }
    }
}

#[tokio::test]
async fn who_comes_later_is_given_what_was_there_before() {
    let mut relays = fleet(2).await;
    let (mut host, mut other) = (Node::new(&relays[0]).await, Node::new(&relays[0]).await);
    let (live, dead) = (code(1), code(2));
    host.done(live.publish()).await;
    other.done(dead.publish()).await;
    other.done(withdraw(&dead, Gone::Burned)).await;
    relays.push(member(seed(&relays[1]), |_| {}));
    meet(&relays, 2).await;
    shows(&relays[2], "dht_records 2").await;
    let mut joiner = Node::new(&relays[2]).await;
    let exchange = introduce(&mut host, &mut joiner, &live).await;
    admit(&mut host, &mut joiner, exchange).await;
    // There is nobody else to ask.
    relays.drain(..2);
    let Reply::Found(found) = joiner.ask(lookup(&live)).await else {
        panic!("not found")
    };
    assert_eq!(found.record, live.record);
    assert_eq!(joiner.refused(lookup(&dead)).await, Reason::CodeBurned);
}

#[tokio::test]
async fn of_two_codes_under_one_locator_one_stays_when_their_relays_meet_and_the_other_host_is_told()
 {
    let (one, other) = (member(Vec::new(), |_| {}), member(Vec::new(), |_| {}));
    let (mut first, mut second) = (Node::new(&one).await, Node::new(&other).await);
    let codes = [code(1), code_with(2, |record| record.key = code(1).key)];
    first.done(codes[0].publish()).await;
    second.done(codes[1].publish()).await;
    let seeds = [seed(&one), seed(&other)].concat();
    let relays = [one, other, member(seeds, |_| {})];
    meet(&relays[2..], 2).await;
    // The two learn of each other as soon as either looks for something.
    let mut asker = Node::new(&relays[0]).await;
    let met = async {
        while relays[0].neighbours().borrow().heard() < 2 {
            asker.refused(lookup(&code(7))).await;
        }
    };
    within(met).await;
    meet(&relays, 2).await;
    let (stays, told) = tokio::select! {
        told = first.notice() => (1, told),
        told = second.notice() => (0, told),
    };
    let Reply::Taken(taken) = told else {
        panic!("not told: {told:?}")
    };
    assert_eq!(taken.locator_key, codes[0].key_bytes());
    for relay in &relays {
        let mut joiner = Node::new(relay).await;
        let found = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            loop {
                ticks.tick().await;
                let reply = joiner.ask(lookup(&codes[0])).await;
                if matches!(reply, Reply::Found(found) if found.record == codes[stays].record) {
                    return;
                }
            }
        };
        within(found).await;
        let host = if stays == 0 { &mut first } else { &mut second };
        let exchange = introduce(host, &mut joiner, &codes[stays]).await;
        admit(host, &mut joiner, exchange).await;
        // A session ends with its joiner, which the host is told.
        drop(joiner);
        assert!(matches!(host.notice().await, Reply::Released(_)));
    }
}

/// The relay of that key in another process, as after a crash: at the same ports.
async fn begun_anew(relay: Relay, key: StaticKey, seeds: Vec<String>) -> Relay {
    let (nodes, mesh) = (relay.local_addr(), relay.mesh_addr().expect("in a mesh"));
    drop(relay);
    let left = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while UdpSocket::bind(nodes).is_err() || TcpListener::bind(mesh).is_err() {
            ticks.tick().await;
        }
    };
    within(left).await;
    member(seeds, |config| {
        config.key = key;
        config.listen = nodes;
        if let Some(settings) = &mut config.mesh {
            settings.listen = mesh;
        }
    })
}

#[tokio::test]
async fn a_relay_that_crashed_and_is_back_is_one_of_the_fleet_and_its_sessions_are_over() {
    let key = StaticKey::generate();
    let first = member(Vec::new(), |_| {});
    let second = member(seed(&first), |config| config.key = key.clone());
    let third = member(seed(&first), |_| {});
    let mut relays = vec![first, second, third];
    meet(&relays, 2).await;
    let (mut host, joiner, session) = bridged(&relays[0], &relays[1], 1).await;
    let (mut waiting, code) = (Node::new(&relays[0]).await, code(2));
    waiting.done(code.publish()).await;

    let seeds = seed(&relays[0]);
    let second = begun_anew(relays.remove(1), key, seeds).await;
    relays.push(second);
    drop(joiner);
    let Reply::Released(released) = host.notice().await else {
        panic!("not told")
    };
    assert_eq!(released.session, session.0);
    assert_eq!(released.cause(), ReleaseCause::PeerLost);
    meet(&relays, 2).await;
    let [first, third, second] = &relays[..] else {
        panic!("three")
    };
    assert_eq!(first.sessions(), 0);
    for relay in &relays {
        assert_eq!(relay.mesh_refusals(Stranger::Flapping), 0);
    }
    // It has the records again, and sessions go by way of it.
    shows(second, "dht_records 2").await;
    let mut joiner = Node::new(second).await;
    let exchange = introduce(&mut waiting, &mut joiner, &code).await;
    let [allocated, _] = admit(&mut waiting, &mut joiner, exchange).await;
    talk(&mut waiting, &mut joiner, SessionId(allocated.session)).await;
    let (mut host, mut joiner, session) = bridged(second, third, 3).await;
    talk(&mut host, &mut joiner, session).await;
}

#[tokio::test]
async fn a_relay_that_hangs_gives_way_to_the_same_one_begun_anew() {
    let relays = fleet(1).await;
    let (victim, key) = (&relays[0], StaticKey::generate());
    let id = RelayId(key.public());
    let (mesh, task) = test_relay(settings(seed(victim)), key.clone());
    let mut hung = Box::pin(task.run(CancellationToken::new()));
    let mut neighbours = victim.neighbours();
    let met = tokio::select! {
        _ = &mut hung => panic!("ended"),
        met = within(neighbours.wait_for(|all| all.met(id) > 0)) => met.expect("running").met(id),
    };
    // Nobody polls it any more, and its connection stays.
    let anew = Hostile::with_key(victim, key).await;
    let met_anew = within(neighbours.wait_for(|all| all.met(id) > met)).await;
    let met_anew = met_anew.expect("running").met(id);
    // What it is asked goes to the one that answers. If it went by turns, every other record would not be kept by enough.
    let mut hosts = [Node::new(victim).await, Node::new(victim).await];
    for number in 0..6 {
        let host = &mut hosts[usize::from(number % 2)];
        host.done(code(number).publish()).await;
    }
    assert_eq!(neighbours.borrow().met(id), met_anew);
    drop((hung, mesh, anew));
}

#[tokio::test]
async fn one_rejoin_key_is_one_session_at_the_relay_where_both_present_it() {
    let relays = fleet(2).await;
    let rejoin = |side: Side| {
        Request::Rejoin(Rejoin {
            key: Bytes::from_static(&[9; 32]),
            side: side as u32,
        })
    };
    let (mut host, mut joiner) = (Node::new(&relays[0]).await, Node::new(&relays[1]).await);
    // At two relays: each waits, and neither has half of a session.
    host.done(rejoin(Side::Host)).await;
    joiner.done(rejoin(Side::Joiner)).await;
    let mut joiner_here = Node::new(&relays[0]).await;
    let Reply::Allocated(theirs) = joiner_here.ask(rejoin(Side::Joiner)).await else {
        panic!("not allocated")
    };
    let Reply::Allocated(ours) = host.notice().await else {
        panic!("not told")
    };
    assert_eq!(ours.session, theirs.session);
    // Both at once, and again.
    let (one, other) = tokio::join!(
        host.ask(rejoin(Side::Host)),
        joiner_here.ask(rejoin(Side::Joiner))
    );
    for (told, before) in [(one, &ours), (other, &theirs)] {
        assert_eq!(told, Reply::Allocated(before.clone()));
    }
    let refused = Node::new(&relays[0])
        .await
        .refused(rejoin(Side::Joiner))
        .await;
    assert_eq!(refused, Reason::BadState);
    assert_eq!((relays[0].sessions(), relays[1].sessions()), (1, 0));
    talk(&mut host, &mut joiner_here, SessionId(ours.session)).await;
}
