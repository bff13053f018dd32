//! What other relays may say: strangers, hostile ones of the fleet, and those of the version before.

#[path = "support/peer.rs"]
mod peer;
#[path = "support/relays.rs"]
mod relays;
#[path = "support/node.rs"]
mod support;

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use libp2p::{Multiaddr, PeerId, kad::KBucketKey};
use peer::{Lie, Peer, frozen};
use relays::{Hostile, fleet, lookup, meet, member, seed, settings, talk, test_relay};
use remora_proto::{
    id::{SessionId, Side},
    noise::{StaticKey, link::FleetKey},
    record::{MAX_RECORD_BYTES, RecordKey},
    wire::message::{
        control::{
            Gone, Reason, ReleaseCause, node_to_relay::Body as Request,
            relay_to_node::Body as Reply,
        },
        mesh::{Forget, Keep, Offer, Reason as RelayReason, request::Body as Ask},
    },
};
use remora_relay::{
    admin::metrics::Stranger,
    mesh::{self, AskError, Mesh, Settings},
    relay::Relay,
};
use support::{
    Node, admit, code, code_with, get, introduce, relay_with, signal, unix_ms, withdraw, within,
};
use tokio_util::sync::CancellationToken;
use tracing::Level;

/// Waits until a relay has refused somebody for that reason.
async fn refuses(relay: &Relay, why: Stranger) {
    let refused = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while relay.mesh_refusals(why) == 0 {
            ticks.tick().await;
        }
    };
    within(refused).await;
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        Self::begin_at(Level::INFO)
    }

    fn begin_at(level: Level) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(level)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// Whether there is a line that has all of these.
    fn has(&self, words: &[&str]) -> bool {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&log);
        text.lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_relay_that_does_not_belong_is_refused_and_it_is_said_why() {
    let (log, _logging) = Log::begin();
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
        refuses(first, why).await;
        refuses(relay, why).await;
    }
    assert!(first.neighbours().borrow().0.is_empty());
    let (_, metrics) = get(first.admin_addr(), "/metrics").await;
    for why in ["fleet_key", "realm"] {
        let counted = format!("remora_relay_mesh_refused_total{{why=\"{why}\"}}");
        assert!(metrics.contains(&counted), "{metrics}");
        let why = format!("why=\"{why}\"");
        assert!(log.has(&["WARN", "a relay was refused", &why]));
    }
}

#[tokio::test]
async fn a_relay_with_another_clock_realm_or_version_is_refused_and_it_is_said_why() {
    let (log, _logging) = Log::begin();
    let relays = fleet(1).await;
    let victim = &relays[0];
    type Change = fn(&mut frozen::mesh::Hello);
    let cases: [(Stranger, Change, frozen::mesh::Reason); 4] = [
        (
            Stranger::Clock,
            |hello| hello.unix_ms -= 61_000,
            frozen::mesh::Reason::WrongClock,
        ),
        (
            Stranger::Clock,
            |hello| hello.unix_ms += 61_000,
            frozen::mesh::Reason::WrongClock,
        ),
        (
            Stranger::Realm,
            |hello| hello.realm = "other".into(),
            frozen::mesh::Reason::WrongRealm,
        ),
        (
            Stranger::Version,
            |hello| (hello.protocol, hello.minimum_protocol) = (9, 9),
            frozen::mesh::Reason::VersionTooOld,
        ),
    ];
    for (why, change, reason) in cases {
        let mut peer = Peer::new(victim, change).await;
        let answer = within(peer.greeted.recv()).await.expect("running");
        let frozen::mesh::response::Body::Refused(refused) = answer else {
            panic!("let in: {answer:?}")
        };
        assert_eq!(refused.reason(), reason);
        assert!(victim.mesh_refusals(why) > 0);
        let label = format!("why=\"{}\"", why.label());
        let name = format!("{:?}", peer.id);
        assert!(
            log.has(&["WARN", "a relay was refused", &label, &name]),
            "{label}"
        );
        assert!(victim.neighbours().borrow().0.is_empty());
    }
}

#[tokio::test]
async fn a_relay_that_comes_and_goes_is_left_alone_for_a_moment_and_then_let_in() {
    let (log, _logging) = Log::begin();
    let relays = fleet(1).await;
    let (victim, key) = (&relays[0], StaticKey::generate());
    let mut neighbours = victim.neighbours();
    let flapping = || member(seed(victim), |config| config.key = key.clone());
    for _ in 0..4 {
        assert_eq!(victim.mesh_refusals(Stranger::Flapping), 0);
        let relay = flapping();
        within(neighbours.wait_for(|all| all.0.len() == 1))
            .await
            .expect("running");
        relay.shutdown().await;
        within(neighbours.wait_for(|all| all.0.is_empty()))
            .await
            .expect("running");
    }
    let stays = flapping();
    refuses(victim, Stranger::Flapping).await;
    assert!(log.has(&["WARN", "a relay was refused", "why=\"flapping\""]));
    meet(&[stays], 1).await;
}

#[tokio::test]
async fn twenty_relays_without_the_fleet_key_change_nothing_for_five_that_have_it() {
    let strangers = |seeds| {
        let others = Settings {
            fleet: FleetKey([8; 32].into()),
            ..settings(seeds)
        };
        test_relay(others, StaticKey::generate())
    };
    // Whoever names the seeds names all of these; and others come by themselves.
    let mut running = Vec::new();
    let mut seeds = Vec::new();
    let mut start = |(mesh, task): (Mesh, mesh::Task)| {
        let at = task.local_addr().to_string();
        running.push((mesh, tokio::spawn(task.run(CancellationToken::new()))));
        at
    };
    for _ in 0..15 {
        seeds.push(start(strangers(Vec::new())));
    }
    let first = member(seeds.clone(), |_| {});
    seeds.extend(seed(&first));
    let others = (1..5).map(|_| member(seeds.clone(), |_| {}));
    let relays: Vec<_> = [first].into_iter().chain(others).collect();
    for relay in &relays {
        start(strangers(seed(relay)));
    }
    meet(&relays, 4).await;
    let all: BTreeSet<_> = relays.iter().map(Relay::id).collect();
    for relay in &relays {
        refuses(relay, Stranger::FleetKey).await;
        let mut known: BTreeSet<_> = relay.neighbours().borrow().0.keys().copied().collect();
        known.insert(relay.id());
        assert_eq!(known, all);
    }
    let mut seed = 0;
    for at in &relays {
        for from in relays.iter().filter(|from| from.id() != at.id()) {
            let (mut host, mut joiner) = (Node::new(at).await, Node::new(from).await);
            let code = code(seed);
            seed += 1;
            host.done(code.publish()).await;
            let exchange = introduce(&mut host, &mut joiner, &code).await;
            let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
            talk(&mut host, &mut joiner, SessionId(allocated.session)).await;
        }
    }
    assert!(running.iter().all(|(_, task)| !task.is_finished()));
}

#[tokio::test]
async fn a_flood_of_locators_by_one_relay_takes_nobodys_place() {
    let relays = fleet(2).await;
    let [victim, other] = &relays[..] else {
        panic!("two")
    };
    let (mut host, mut second) = (Node::new(other).await, Node::new(victim).await);
    host.done(code(1).publish()).await;
    let hostile = Hostile::new(victim).await;
    let flood: Vec<_> = (0..1000_u32)
        .map(|n| {
            let mut key = [0xee; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            code_with(9, |record| record.key = RecordKey(key))
        })
        .collect();
    let all = flood
        .iter()
        .map(|code| hostile.keep(victim, code.record.clone(), Gone::Unspecified));
    let honest = async { second.done(code(2).publish()).await };
    let (kept, ()) = tokio::join!(join_all(all), honest);
    assert!(kept.iter().any(Option::is_none), "it may keep its own");
    let mut joiners = Vec::new();
    for relay in &relays {
        let mut joiner = Node::new(relay).await;
        for (number, host) in [(1, &mut host), (2, &mut second)] {
            introduce(host, &mut joiner, &code(number)).await;
        }
        // Its exchanges end with it, which the hosts would be told.
        joiners.push(joiner);
    }
}

#[tokio::test]
async fn what_a_relay_says_late_changes_nothing_that_it_has_said_since() {
    let relays = fleet(1).await;
    let victim = &relays[0];
    let other = Hostile::new(victim).await;
    let (mut joiner, code) = (Node::new(victim).await, code(1));
    let keep = |number| {
        Ask::Keep(Keep {
            record: code.record.clone(),
            number,
            ..Keep::default()
        })
    };
    let forget = |number| {
        Ask::Forget(Forget {
            locator_key: code.key_bytes(),
            number,
        })
    };
    let taken = Err(AskError::Refused(RelayReason::Taken));
    for (ask, answer, is_found) in [
        (keep(2), Ok(()), true),
        // Overtaken by what it took back.
        (forget(1), Ok(()), true),
        (forget(3), Ok(()), false),
        // Overtaken by that it was taken back.
        (keep(2), taken, false),
        (keep(4), Ok(()), true),
    ] {
        let answered = other.mesh.insist(victim.id(), ask.clone()).await;
        assert_eq!(answered.map(drop), answer, "{ask:?}");
        let found = joiner.ask(lookup(&code)).await;
        assert_eq!(matches!(found, Reply::Found(_)), is_found, "{ask:?}");
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
    let colliding = code_with(5, |record| record.key = honest.key);
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

/// Where no relay of a fleet on loopback is to be looked for.
const ELSEWHERE: [&str; 4] = [
    "/ip4/169.254.169.254/tcp/80",
    "/ip4/10.0.0.1/tcp/22",
    "/ip4/192.0.2.1/tcp/443",
    "/ip6/fe80::1/tcp/443",
];

/// Peers that are not there, those nearest to the key first.
fn made_up(key: &[u8]) -> Vec<PeerId> {
    let target = KBucketKey::new(key.to_vec());
    let mut peers: Vec<_> = (0..200).map(|_| PeerId::random()).collect();
    peers.sort_by_cached_key(|&peer| KBucketKey::from(peer).distance(&target));
    peers
}

fn at(address: &str) -> Multiaddr {
    address.parse().expect("an address")
}

fn strangers(key: &[u8]) -> Vec<(PeerId, Multiaddr)> {
    let addresses = ELSEWHERE.iter().cycle().map(|address| at(address));
    made_up(key).into_iter().take(20).zip(addresses).collect()
}

/// The place that it has given as its own, under other names.
fn itself(key: &[u8]) -> Vec<(PeerId, Multiaddr)> {
    let here = || at("/ip4/127.0.0.1/tcp/9");
    let names = made_up(key).into_iter().take(20);
    names.map(|name| (name, here())).collect()
}

fn far(key: &[u8]) -> Vec<(PeerId, Multiaddr)> {
    let here = || at("/ip4/127.0.0.1/tcp/9");
    let names = made_up(key).into_iter().rev().take(20);
    names.map(|name| (name, here())).collect()
}

fn nothing(_: &[u8]) -> Vec<(PeerId, Multiaddr)> {
    Vec::new()
}

#[tokio::test]
async fn relays_whose_kademlia_lies_hide_no_code_and_send_nobody_elsewhere() {
    let (log, _logging) = Log::begin_at(Level::DEBUG);
    let relays = fleet(4).await;
    let lies: [Lie; 4] = [strangers, itself, far, nothing];
    let mut seed = 0;
    for lie in lies {
        let mut liars = Vec::new();
        for relay in &relays[..2] {
            let mut liar = Peer::lying(relay, lie).await;
            within(liar.greeted.recv()).await.expect("running");
            liars.push(liar);
        }
        for (at, from) in [(0, 2), (1, 0), (2, 1), (3, 0)] {
            let (mut host, mut joiner) =
                (Node::new(&relays[at]).await, Node::new(&relays[from]).await);
            let code = code(seed);
            seed += 1;
            host.done(code.publish()).await;
            introduce(&mut host, &mut joiner, &code).await;
        }
    }
    // They have been heard, and not followed.
    for address in ELSEWHERE {
        assert!(log.has(&["no relay is dialed there", address]), "{address}");
    }
}

#[tokio::test]
async fn a_relay_of_the_version_before_is_let_in_keeps_records_and_bridges() {
    use frozen::mesh::{self as old, request::Body as Ask, response::Body as Answer};
    let relays = fleet(1).await;
    let relay = &relays[0];
    let mut peer = Peer::new(relay, |_| {}).await;
    assert!(matches!(
        within(peer.greeted.recv()).await,
        Some(Answer::Hello(_))
    ));
    meet(&relays, 1).await;
    // It keeps what the newer one has, and the newer one tells it what that has.
    let mut host = Node::new(relay).await;
    let code_here = code(1);
    host.done(code_here.publish()).await;
    let Ask::Keep(keep) = peer.asked().await else {
        panic!("not kept")
    };
    assert_eq!(
        (&keep.record, keep.ended()),
        (&code_here.record, Gone::Unspecified)
    );
    let find = old::Find {
        locator_key: code_here.key_bytes(),
    };
    let Answer::Found(found) = peer.ask(Ask::Find(find)).await else {
        panic!("not found")
    };
    assert_eq!(
        (found.record, &found.relay[..]),
        (code_here.record.clone(), &relay.id().0[..])
    );
    // Its joiner, and a host of the newer one.
    let offer = old::Offer {
        exchange: 5,
        locator_key: code_here.key_bytes(),
        payload: Bytes::from_static(b"hello"),
    };
    assert!(matches!(peer.ask(Ask::Offer(offer)).await, Answer::Done(_)));
    assert!(matches!(host.notice().await, Reply::Offer(offer) if offer.exchange == 5));
    let admit = Request::Admit(remora_proto::wire::message::control::Admit {
        exchange: 5,
        payload: Bytes::from_static(b"welcome"),
    });
    let Reply::Allocated(allocated) = host.ask(admit).await else {
        panic!("not allocated")
    };
    let Ask::Admit(admitted) = peer.asked().await else {
        panic!("not admitted")
    };
    assert_eq!(
        (admitted.exchange, admitted.session),
        (5, allocated.session)
    );
    let session = SessionId(allocated.session);
    let there = host.frame(session, Side::Host, b"there").await;
    assert_eq!(peer.next_frame().await, there);
    let back = peer.frame(session, Side::Joiner, b"and back").await;
    assert_eq!(host.next_frame().await, back);
    host.done(withdraw(&code_here, Gone::Used)).await;
    let Ask::Keep(keep) = peer.asked().await else {
        panic!("not told")
    };
    assert_eq!(keep.ended(), Gone::Used);
    // Its host, and a joiner of the newer one.
    let code_there = code(2);
    let keep = old::Keep {
        record: code_there.record.clone(),
        ended: 0,
    };
    assert!(matches!(peer.ask(Ask::Keep(keep)).await, Answer::Done(_)));
    let mut joiner = Node::new(relay).await;
    let Reply::Started(started) = joiner.ask(code_there.join("hello")).await else {
        panic!("not started")
    };
    let Ask::Offer(offer) = peer.asked().await else {
        panic!("not offered")
    };
    assert_eq!(
        (offer.exchange, &offer.payload[..]),
        (started.exchange, &b"hello"[..])
    );
    joiner.done(signal(started.exchange, b"to host")).await;
    let Ask::Signal(passed) = peer.asked().await else {
        panic!("no signal")
    };
    assert_eq!((passed.sequence, &passed.payload[..]), (1, &b"to host"[..]));
    let admit = old::Admit {
        exchange: started.exchange,
        payload: Bytes::from_static(b"welcome"),
        session: 77,
    };
    assert!(matches!(peer.ask(Ask::Admit(admit)).await, Answer::Done(_)));
    assert!(matches!(joiner.notice().await, Reply::Allocated(told) if told.session == 77));
    let there = joiner.frame(SessionId(77), Side::Joiner, b"there").await;
    assert_eq!(peer.next_frame().await, there);
    let back = peer.frame(SessionId(77), Side::Host, b"and back").await;
    assert_eq!(joiner.next_frame().await, back);
    let release = old::Release {
        session: 77,
        cause: ReleaseCause::PeerReleased.into(),
    };
    assert!(matches!(
        peer.ask(Ask::Release(release)).await,
        Answer::Done(_)
    ));
    assert!(matches!(joiner.notice().await, Reply::Released(told) if told.session == 77));
}
