//! Every metric that there is: on the page, moved by something, and few enough.

#[path = "support/relays.rs"]
mod relays;
#[path = "support/node.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use data_encoding::BASE64;
use ed25519_dalek::SigningKey;
use relays::{Hostile, bridged, lookup, meet, member, seed, settings, shows, talk};
use remora_proto::{
    id::{DeviceId, SessionId, Side},
    noise::{StaticKey, link::FleetKey},
    record::{Present, Record, RecordKey, Subject},
    wire::{
        frame::Header,
        message::control::{
            Dismiss, Gone, MoveCause, PathKnown, PathMoved, PathOutcome, PathReport, PathWay,
            Publish, Reason, RelayMoved, node_to_relay::Body as Request, path_report::Body,
            relay_to_node::Body as Reply,
        },
    },
};
use remora_relay::{
    admin::metrics::{
        MAX_SERIES, Metrics,
        family::{Described, MetricKind},
        page,
    },
    config::Standing,
    mesh::Settings,
    rate::Rate,
    relay::Relay,
    stream::certificate::Files,
};
use support::{Node, admit, code, get, hello, introduce, relay, unix_ms, withdraw, within};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// Of a page: each metric's name, type and labels.
fn rows(page: &str) -> BTreeMap<String, Vec<String>> {
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<_> = line.split(" | ").map(str::to_owned).collect();
        let name = cells.first()?.strip_prefix("| `")?.strip_suffix('`')?;
        Some((name.to_owned(), cells[1..4].to_vec()))
    });
    rows.collect()
}

#[test]
fn what_is_on_the_page_stays() {
    const COMMITTED: &str = include_str!("../../docs/metrics.md");
    let printed = page::page().expect("each name once");
    let (committed, now) = (rows(COMMITTED), rows(&printed));
    assert!(!now.is_empty() && now.len() == Metrics::describe().expect("each once").len());
    for (name, cells) in &committed {
        let kept = now.get(name);
        let kept = kept
            .unwrap_or_else(|| panic!("{name} is gone: that breaks whoever has an alert on it"));
        let [before, after] = [cells, kept].map(|cells| cells[2].replace("<br>", " "));
        let values = |text: &str| text.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
        let lost: Vec<_> = values(&before)
            .difference(&values(&after))
            .cloned()
            .collect();
        assert!(
            lost.is_empty() && cells[0].split(':').next() == kept[0].split(':').next(),
            "{name} was {cells:?} and is {kept:?}: that breaks whoever has an alert on it"
        );
    }
    assert_eq!(
        printed, COMMITTED,
        "docs/metrics.md is old; print it anew: remora-relay metrics > docs/metrics.md"
    );
}

#[test]
fn each_stands_beside_a_line_that_moves_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for metric in Metrics::describe().expect("each once") {
        let (file, call) = metric.moved;
        let text = fs::read_to_string(source.join(file));
        let text = text.unwrap_or_else(|error| panic!("{}: {file}: {error}", metric.name));
        assert!(text.contains(call), "{}: {file} has no {call}", metric.name);
    }
}

#[tokio::test]
async fn there_are_few_of_them_and_all_of_them_at_once() {
    let relay = relay();
    let (_, text) = get(relay.admin_addr(), "/metrics").await;
    let now = series(&text).len();
    // Not there on loopback: an operator's certificate, maybe a limit of memory, and the further workers of a larger machine.
    let absent = 2 + 7;
    assert!(now + absent <= MAX_SERIES, "{now} of {MAX_SERIES}");
    for metric in Metrics::describe().expect("each once") {
        if ABSENT.contains(&&*metric.name) {
            continue;
        }
        let expected = expected(&metric);
        let here = family(&text, &metric.name).len();
        assert!(
            here >= expected.min(1) && here >= expected,
            "{}: {here} of {expected}",
            metric.name
        );
    }
}

/// Only there when there is something to say.
const ABSENT: [&str; 3] = [
    "remora_relay_certificate_expiry_seconds",
    "remora_relay_memory_limit_bytes",
    "remora_relay_worker_busy_ratio",
];

fn expected(metric: &Described) -> usize {
    let labels = metric.labels.iter();
    // Of two labels not every pair can be.
    let combinations: usize = match labels.len() {
        2 => 1,
        _ => labels.map(|(_, values)| values.len().max(1)).product(),
    };
    match &metric.kind {
        MetricKind::Counter | MetricKind::Gauge => combinations,
        MetricKind::Histogram(buckets) => combinations * (buckets.len() + 3),
    }
}

/// Every sample of a scrape.
fn series(text: &str) -> BTreeMap<&str, &str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.rsplit_once(' ')).collect()
}

/// Those of one metric.
fn family<'a>(text: &'a str, name: &str) -> BTreeMap<&'a str, &'a str> {
    let mut all = series(text);
    all.retain(|sample, _| {
        let base = sample.split('{').next().unwrap_or_default();
        let ending = base.strip_prefix(name);
        ending.is_some_and(|ending| ["", "_bucket", "_sum", "_count"].contains(&ending))
    });
    all
}

/// What no test can move at will, and who has seen it move.
const UNMOVED: [(&str, &str); 7] = [
    (
        "remora_relay_clock_skew_seconds",
        "another relay's clock: tests/faults.rs has one that is off",
    ),
    ("remora_relay_build_info", "it is 1"),
    (
        "remora_relay_memory_limit_bytes",
        "the control group of whoever runs the tests; read in admin/metrics/process.rs",
    ),
    (
        "remora_relay_heap_bytes",
        "0 unless the system's allocator says it",
    ),
    (
        "remora_relay_socket_receive_drops_total",
        "a worker that is kept from its socket: datapath/socket.rs has one that nobody reads",
    ),
    (
        "remora_relay_stream_datagrams_total",
        "a node behind TLS and a WebSocket: tests/stream.rs",
    ),
    (
        "remora_relay_quic_queue_drops_total",
        "control that is kept from its queue: datapath/tests.rs",
    ),
];

#[tokio::test]
async fn each_is_moved_by_a_relays_life() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = certificate(directory.path());
    let first = member(Vec::new(), |_| {});
    let mut relay = member(seed(&first), |config| {
        config.certificate = Some(files);
        config.session_rate = Rate::new(200_000, Duration::from_secs(1), 200_000);
        config.drain_timeout = Duration::from_secs(3);
    });
    let before = get(relay.admin_addr(), "/metrics").await.1;
    let mut seen = BTreeSet::new();
    // It is looked at as soon as the relay is up, and of one that has none there is no sample.
    let ends = "remora_relay_certificate_expiry_seconds";
    if !family(&before, ends).is_empty() {
        seen.insert(ends.to_owned());
    }
    meet(std::slice::from_ref(&relay), 1).await;
    live(&first, &relay, &before, &mut seen).await;
    relay.drain();
    within(relay.drained()).await.expect("runs");
    shows(&relay, "drain_state 2").await;
    look(&relay, &before, &mut seen).await;
    for metric in Metrics::describe().expect("each once") {
        // What the system says of the process is read by its crate, all of it at once.
        let is_known = metric.name.starts_with("process_")
            || UNMOVED.iter().any(|(name, _)| *name == metric.name);
        assert!(
            seen.contains(&metric.name) || is_known,
            "nothing has moved {}",
            metric.name
        );
    }
}

/// Notes what is not as it was.
async fn look(relay: &Relay, before: &str, seen: &mut BTreeSet<String>) {
    let now = get(relay.admin_addr(), "/metrics").await.1;
    for metric in Metrics::describe().expect("each once") {
        if family(before, &metric.name) != family(&now, &metric.name) {
            seen.insert(metric.name);
        }
    }
}

/// All that can happen at one relay of two.
async fn live(other: &Relay, relay: &Relay, before: &str, seen: &mut BTreeSet<String>) {
    relay.reloaded(None, Standing::default());
    // A stranger to the fleet, a relay that takes no frames, and a node that is too old.
    let strange = Settings {
        fleet: FleetKey([8; 32].into()),
        ..settings(seed(relay))
    };
    let strange = relays::Bare::new(strange, StaticKey::generate(), 10);
    let closing = tokio_util::sync::CancellationToken::new();
    let stranger = tokio::spawn(strange.task.run(closing.clone()));
    let _friend = Hostile::new(relay).await;
    let mut old = Node::silent(relay).await;
    assert_eq!(old.refused(hello(0)).await, Reason::VersionTooOld);

    // A stream that is none, and one that waits.
    let mut stream = TcpStream::connect(relay.stream_addr().expect("a port"))
        .await
        .expect("connected");
    shows(relay, "streams 1").await;
    look(relay, before, seen).await;
    stream.write_all(b"not TLS").await.expect("sent");
    shows(relay, "stream_ends_total{why=\"failed\"} 1").await;

    // A device, a code that is looked up and taken back, and one that is tried wrongly.
    let mut device = Node::new(relay).await;
    device.done(present(relay)).await;
    let (mut host, mut joiner) = (Node::new(relay).await, Node::new(relay).await);
    let (one, two) = (code(11), code(12));
    host.done(one.publish()).await;
    assert!(matches!(joiner.ask(lookup(&one)).await, Reply::Found(_)));
    look(relay, before, seen).await;
    host.done(withdraw(&one, Gone::Cancelled)).await;
    host.done(two.publish()).await;
    let exchange = introduce(&mut host, &mut joiner, &two).await;
    let dismiss = Dismiss {
        exchange,
        payload: Bytes::new(),
        wrong_secret: true,
    };
    host.done(Request::Dismiss(dismiss)).await;
    joiner.notice().await;
    let exchange = introduce(&mut host, &mut joiner, &two).await;
    let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
    let session = SessionId(allocated.session);

    // Frames: of a run, to another relay, too many, of nobody.
    talk(&mut host, &mut joiner, session).await;
    let (mut far, mut near, bridge) = bridged(other, relay, 13).await;
    talk(&mut far, &mut near, bridge).await;
    run(&host, relay.local_addr(), session).await;
    host.datagram(b"\x20nothing").await;
    look(relay, before, seen).await;
    while family(
        &get(relay.admin_addr(), "/metrics").await.1,
        "remora_relay_rate_limited_sessions",
    )
    .values()
    .all(|value| *value == "0")
    {
        for _ in 0..100 {
            host.frame(session, Side::Host, &[0; 1000]).await;
        }
    }

    // What a host says of its session.
    for body in [
        Body::Known(PathKnown {
            outcome: PathOutcome::Direct.into(),
            after_ms: 300,
        }),
        Body::Moved(PathMoved {
            from: PathWay::Relay.into(),
            to: PathWay::Direct.into(),
            gap_ms: 0,
        }),
        Body::RelayMoved(RelayMoved {
            why: MoveCause::Draining.into(),
            gap_ms: 20,
        }),
    ] {
        let report = PathReport { body: Some(body) };
        host.done(Request::PathReport(report)).await;
    }
    let report = PathReport::default();
    let refused = joiner.refused(Request::PathReport(report)).await;
    assert_eq!(refused, Reason::Malformed);
    let parked = Node::new(relay).await.park().await;
    shows(relay, "nodes_parked 1").await;
    closing.cancel();
    stranger.await.expect("no panic").ok();
    // The worker says once a second how much it had to do.
    loop {
        look(relay, before, seen).await;
        if seen.contains("remora_relay_worker_busy_ratio")
            && seen.contains("remora_relay_gso_runs_total")
            && seen.contains("remora_relay_mesh_refused_total")
            && seen.contains("process_cpu_seconds_total")
        {
            break;
        }
        run(&host, relay.local_addr(), session).await;
    }
    drop((parked, device, far, near));
    relay.drain();
    let draining = async {
        while !seen.contains("remora_relay_drain_remaining") {
            look(relay, before, seen).await;
        }
    };
    within(draining).await;
}

/// Many frames as one datagram that the system cuts: as one is what it is received as, and sent on.
async fn run(host: &Node, relay: SocketAddr, session: SessionId) {
    let header = Header {
        session,
        side: Side::Host,
    };
    let frame = [&header.encode()[..], &[7; 500]].concat();
    let whole = frame.repeat(8);
    // Made of another socket: what it sets there is not for one that takes each datagram by itself.
    let other = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("bound");
    let state = quinn::udp::UdpSocketState::new((&other).into()).expect("offloads");
    let transmit = quinn::udp::Transmit {
        destination: relay,
        ecn: None,
        contents: &whole,
        segment_size: Some(frame.len()),
        src_ip: None,
    };
    within(host.port.io.writable()).await.expect("open");
    state.try_send((&*host.port.io).into(), &transmit).ok();
}

fn present(relay: &Relay) -> Request {
    let signing = SigningKey::from_bytes(&[77; 32]);
    let id = DeviceId(signing.verifying_key().to_bytes());
    let now = unix_ms();
    let record = Record {
        realm: "default".into(),
        key: RecordKey::of_device(id, "default"),
        publisher: id.0,
        subject: Subject::Present(Present {
            relay: relay.id(),
            agents: 1,
        }),
        not_before_ms: now,
        expiry_ms: now + 500_000,
        sequence: 1,
    };
    Request::Publish(Publish {
        record: record.encode_signed(&signing),
    })
}

/// An operator's certificate, and its key.
fn certificate(directory: &Path) -> Files {
    let pair = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["relay.example".to_owned()]).expect("a name");
    let certificate = params.self_signed(&pair).expect("a certificate");
    let files = Files {
        certificate: directory.join("relay.pem"),
        key: directory.join("relay.key"),
    };
    for (path, what, der) in [
        (&files.certificate, "CERTIFICATE", &certificate.der()[..]),
        (&files.key, "PRIVATE KEY", pair.serialized_der()),
    ] {
        let text = BASE64.encode(der);
        let pem = format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n");
        fs::write(path, pem).expect("written");
    }
    files
}
