//! Whole relays of one fleet.

#[path = "support/node.rs"]
mod support;

use std::{
    io,
    net::{Ipv6Addr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prometheus::Registry;
use remora_proto::{
    id::{RelayId, SessionId, Side},
    noise::{StaticKey, link::FleetKey},
    random::Random,
    record::MAX_RECORD_BYTES,
    wire::message::{
        control::{
            Dismiss, Gone, Lookup, Reason, Rejoin, Release, ReleaseCause,
            node_to_relay::Body as Request, relay_to_node::Body as Reply,
        },
        mesh::{Find, Keep, Offer, Reason as RelayReason, request::Body as Ask},
    },
};
use remora_relay::{
    admin::metrics::{Metrics, Stranger},
    config::Config,
    datapath::{DropReason, socket::Socket},
    mesh::{self, AskError, Ends, Introduction, Mesh, Settings},
    relay::Relay,
    rendezvous::Shelf,
};
use support::{
    Code, Node, admit, code, code_with, get, introduce, relay_with, signal, unix_ms, withdraw,
    within,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn settings(seeds: Vec<String>) -> Settings {
    Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        seeds,
        fleet: FleetKey([7; 32].into()),
    }
}

fn seed(relay: &Relay) -> Vec<String> {
    vec![relay.mesh_addr().expect("in a mesh").to_string()]
}

fn member(seeds: Vec<String>, change: impl FnOnce(&mut Config)) -> Relay {
    relay_with(|config| {
        config.mesh = Some(settings(seeds));
        change(config);
    })
}

/// Relays that all know each other, through the first.
async fn fleet(size: usize) -> Vec<Relay> {
    let first = member(Vec::new(), |_| {});
    let seeds = seed(&first);
    let others = (1..size).map(|_| member(seeds.clone(), |_| {}));
    let relays: Vec<_> = [first].into_iter().chain(others).collect();
    meet(&relays, size - 1).await;
    relays
}

/// Waits until each has so many others.
async fn meet(relays: &[Relay], others: usize) {
    for relay in relays {
        let mut neighbours = relay.neighbours();
        within(neighbours.wait_for(|neighbours| neighbours.heard() == others))
            .await
            .expect("running");
    }
}

/// Waits until a relay's metrics say so.
async fn shows(relay: &Relay, line: &str) {
    let line = format!("remora_relay_{line}\n");
    let shown = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !get(relay.admin_addr(), "/metrics").await.1.contains(&line) {
            ticks.tick().await;
        }
    };
    within(shown).await;
}

fn lookup(code: &Code) -> Request {
    Request::Lookup(Lookup {
        locator_keys: vec![code.key_bytes()],
    })
}

/// Frames of the session cross both ways.
async fn talk(host: &mut Node, joiner: &mut Node, session: SessionId) {
    let there = host.frame(session, Side::Host, b"there").await;
    assert_eq!(joiner.next_frame().await, there);
    let back = joiner.frame(session, Side::Joiner, b"and back").await;
    assert_eq!(host.next_frame().await, back);
}

/// A host at the one and a joiner at the other, with a session.
async fn bridged(one: &Relay, other: &Relay, seed: u8) -> (Node, Node, SessionId) {
    let (mut host, mut joiner, code) = (Node::new(one).await, Node::new(other).await, code(seed));
    host.done(code.publish()).await;
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
    (host, joiner, SessionId(allocated.session))
}

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
async fn a_locator_belongs_to_whoever_came_first_and_to_nobody_afterwards() {
    let relays = fleet(3).await;
    let mut nodes = Vec::new();
    for relay in &relays {
        nodes.push(Node::new(relay).await);
    }
    let first = code(1);
    let mut second = code_with(2, |record| record.locator_key = first.key);
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

/// The relay of that key in another process, as after a crash: at the same ports.
async fn begun_anew(relay: Relay, key: StaticKey, seeds: Vec<String>) -> Relay {
    let (nodes, mesh) = (relay.local_addr(), relay.mesh_addr().expect("in a mesh"));
    drop(relay);
    let left = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while std::net::UdpSocket::bind(nodes).is_err() || TcpListener::bind(mesh).is_err() {
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
    let (mesh, task) = test_relay(victim, key.clone());
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
    // That connection has been closed: it sees so when it goes on.
    let mut its_own = mesh.neighbours();
    tokio::select! {
        _ = &mut hung => panic!("ended"),
        left = within(its_own.wait_for(|all| all.0.is_empty())) => drop(left.expect("running")),
    }
    drop(hung);
    assert_eq!(neighbours.borrow().met(id), met_anew);
    // Whatever it is asked is answered: by one that hangs, half would not be.
    for _ in 0..8 {
        let find = Ask::Find(Find {
            locator_key: code(0).key_bytes(),
        });
        anew.mesh.ask(victim.id(), find).await.expect("answered");
    }
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

#[tokio::test]
async fn a_relay_that_does_not_belong_is_refused_and_it_is_said_why() {
    let relays = fleet(1).await;
    let first = &relays[0];
    let other_key = relay_with(|config| {
        config.mesh = Some(Settings {
            fleet: FleetKey([8; 32].into()),
            ..settings(seed(first))
        });
    });
    let other_realm = member(seed(first), |config| config.realm = "other".into());
    for (relay, why) in [
        (&other_key, Stranger::FleetKey),
        (&other_realm, Stranger::Realm),
    ] {
        let refused = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            while first.mesh_refusals(why) == 0 || relay.mesh_refusals(why) == 0 {
                ticks.tick().await;
            }
        };
        within(refused).await;
    }
    assert!(first.neighbours().borrow().0.is_empty());
    let (_, metrics) = get(first.admin_addr(), "/metrics").await;
    for why in ["fleet_key", "realm"] {
        let counted = format!("remora_relay_mesh_refused_total{{why=\"{why}\"}}");
        assert!(metrics.contains(&counted), "{metrics}");
    }
}

/// A relay of the fleet without nodes, that says what the test wants it to.
struct Hostile {
    mesh: Mesh,
    _task: JoinHandle<io::Result<()>>,
    _closing: CancellationToken,
}

/// The mesh of a relay that has nothing else, not even an answer where it says that it takes frames.
fn test_relay(victim: &Relay, key: StaticKey) -> (Mesh, mesh::Task) {
    let Ends { mesh, work, .. } = mesh::ends();
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut sockets = Socket::bind(at, NonZeroUsize::MIN).expect("a port");
    let id = RelayId(key.public());
    let introduction = Introduction {
        key,
        realm: "default".into(),
        name: "hostile".into(),
        frame_address: "127.0.0.1:9".into(),
        socket: Arc::new(sockets.remove(0)),
    };
    let metrics = Arc::new(Metrics::new(&Registry::new()).expect("new names"));
    let shelf = Arc::new(Shelf::new(10, id, "default".into()));
    let task = mesh::Task::new(settings(seed(victim)), introduction, work, shelf, metrics);
    (mesh, task.expect("bound"))
}

impl Hostile {
    async fn new(victim: &Relay) -> Self {
        Self::with_key(victim, StaticKey::generate()).await
    }

    async fn with_key(victim: &Relay, key: StaticKey) -> Self {
        let (mesh, task) = test_relay(victim, key);
        let closing = CancellationToken::new();
        let task = tokio::spawn(task.run(closing.clone()));
        let find = Ask::Find(Find {
            locator_key: code(0).key_bytes(),
        });
        within(mesh.insist(victim.id(), find))
            .await
            .expect("let in");
        Self {
            mesh,
            _task: task,
            _closing: closing,
        }
    }

    async fn keep(&self, victim: &Relay, record: Bytes, ended: Gone) -> Option<RelayReason> {
        let ended = ended.into();
        let keep = Ask::Keep(Keep { record, ended });
        match self.mesh.insist(victim.id(), keep).await {
            Ok(_) => None,
            Err(AskError::Refused(reason)) => Some(reason),
            Err(AskError::Unreachable) => panic!("not answered"),
        }
    }
}

#[tokio::test]
async fn a_relay_that_lies_is_not_believed() {
    let relays = fleet(2).await;
    let [victim, other] = &relays[..] else {
        panic!("two")
    };
    let hostile = Hostile::new(victim).await;
    let (mut host, mut joiner) = (Node::new(victim).await, Node::new(victim).await);
    let honest = code(1);
    host.done(honest.publish()).await;

    let now = unix_ms();
    let mut forged = code(2).record.to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let expired = code_with(3, |record| {
        (record.not_before_ms, record.expiry_ms) = (now - 500_000, now - 1);
    });
    let realm = code_with(4, |record| record.realm = "other".into());
    let colliding = code_with(5, |record| record.locator_key = honest.key);
    for (record, reason) in [
        (forged.into(), RelayReason::BadRecord),
        (expired.record, RelayReason::BadRecord),
        (realm.record, RelayReason::BadRecord),
        (vec![7; MAX_RECORD_BYTES + 1].into(), RelayReason::BadRecord),
        (Bytes::new(), RelayReason::BadRecord),
        (colliding.record, RelayReason::Taken),
    ] {
        let kept = hostile.keep(victim, record, Gone::Unspecified).await;
        assert_eq!(kept, Some(reason));
    }
    // The very same, as if its node were at the hostile relay now, or had ended it: where its node is, and where it is kept.
    for relay in [victim, other] {
        for ended in [Gone::Unspecified, Gone::Used] {
            let kept = hostile.keep(relay, honest.record.clone(), ended).await;
            assert_eq!(kept, Some(RelayReason::Taken));
        }
    }
    for code in [code(2), code(3), code(4)] {
        assert_eq!(joiner.refused(lookup(&code)).await, Reason::UnknownCode);
    }
    // What it may do is to keep a record of its own, and not to answer for it.
    let kept = hostile
        .keep(victim, code(6).record, Gone::Unspecified)
        .await;
    assert_eq!(kept, None);
    assert_eq!(
        joiner.refused(code(6).join("hello")).await,
        Reason::PeerGone
    );
    // An offer for nobody, and an exchange that is somebody else's.
    let offer = |key: Bytes| {
        Ask::Offer(Offer {
            exchange: 7,
            locator_key: key,
            payload: Bytes::new(),
        })
    };
    let nobody = hostile
        .mesh
        .ask(victim.id(), offer(code(9).key_bytes()))
        .await;
    assert_eq!(nobody, Err(AskError::Refused(RelayReason::PeerGone)));
    let exchange = introduce(&mut host, &mut joiner, &honest).await;
    for ask in [
        Ask::Dismiss(mesh_dismiss(exchange)),
        Ask::Offer(Offer {
            exchange,
            locator_key: honest.key_bytes(),
            payload: Bytes::new(),
        }),
    ] {
        // Done or refused, it changes nothing.
        hostile.mesh.ask(victim.id(), ask).await.ok();
    }
    admit(&mut host, &mut joiner, exchange).await;
    // Nothing is sent to an address that has not answered, and no host is bothered with a joiner from there.
    let neighbours = victim.neighbours().borrow().clone();
    assert_eq!((neighbours.0.len(), neighbours.heard()), (2, 1));
    assert!(neighbours.leg(other.id()).is_some());
    let from_there = hostile
        .mesh
        .ask(victim.id(), offer(honest.key_bytes()))
        .await;
    assert_eq!(from_there, Err(AskError::Refused(RelayReason::Busy)));
}

fn mesh_dismiss(exchange: u64) -> remora_proto::wire::message::mesh::Dismiss {
    remora_proto::wire::message::mesh::Dismiss {
        exchange,
        payload: Bytes::new(),
        wrong_secret: true,
    }
}
