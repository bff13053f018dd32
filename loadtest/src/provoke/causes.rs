//! What happens to relays of our own: each cause has its relays for itself, lasts until nobody waits for its alert any more, and
//! takes them with it.

use std::{
    convert::Infallible,
    fs,
    future::pending,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use data_encoding::BASE64_MIME;
use futures_util::future::try_join_all;
use nix::sys::signal::Signal;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, date_time_ymd};
use remora_proto::id::{SessionId, Side};
use tokio::time::sleep;

use super::{
    alert::Cause,
    hose::Hose,
    people::{Deed, Deeds, keep_doing},
    prometheus::every,
    stage::{Member, Particular, Stage},
};
use crate::{
    relay::{Capacity, SessionRate},
    setup::{self, Prepared, Sizes},
};

/// How often somebody does something: often enough for the numbers that an alert wants in a window of seconds.
const OFTEN: Duration = Duration::from_millis(200);
/// The same where a relay takes one report of a path a second from an address, and 120 at once.
const OFTEN_ENOUGH: Duration = Duration::from_millis(600);
/// What a session may send that sends more: so little that it costs nothing.
const LITTLE_BYTES_PER_S: u64 = 256 << 10;
/// Nodes that are let in where more come.
const FEW_NODES: usize = 1;
/// Longer than anybody waits for the alert: the most that a relay takes.
const LONG_DRAIN_S: &str = "3600";
/// A session without a frame is idle after a minute.
const TOUCH: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// libfaketime's, as Debian has it.
const AHEAD: &str = "+600s";
/// Of the memory that it may: enough for the alert, and not so much that a relay takes no more nodes.
const USED_PERCENT: u64 = 92;
/// Long enough for a buffer of 4 MiB to fill, short enough for a scrape to wait.
const HELD_STILL: Duration = Duration::from_millis(60);
const LET_GO: Duration = Duration::from_millis(100);
/// How long relays do not answer others; and how long they do then, so that nobody misses them.
const STOPPED: Duration = Duration::from_millis(2500);
const GOING: Duration = Duration::from_millis(400);

/// Brings it about.
///
/// # Errors
/// When it cannot be brought about here, with what is missing.
pub async fn bring_about(
    cause: Cause,
    stage: &Stage,
    speed: u32,
    deeds: &Arc<Deeds>,
) -> anyhow::Result<Infallible> {
    match cause {
        Cause::Killed => killed(stage, speed).await,
        Cause::CertificateEnded => with_certificate(stage, -1).await,
        Cause::CertificateEnding => with_certificate(stage, 1).await,
        Cause::StaysInSession => stays_in_session(stage).await,
        Cause::LittleMemory => little_memory(stage).await,
        Cause::ClockAhead => clock_ahead(stage).await,
        Cause::Stranger => stranger(stage).await,
        Cause::SilentOthers => silent_others(stage, deeds).await,
        Cause::HeldStill => held_still(stage).await,
        Cause::Flooded => flooded(stage).await,
        Cause::People(deed) => by_people(deed, stage, deeds).await,
    }
}

async fn by_people(deed: Deed, stage: &Stage, deeds: &Arc<Deeds>) -> anyhow::Result<Infallible> {
    let ordinary = Stage::capacity();
    let capacity = match deed {
        Deed::Overflow => Capacity {
            session_rate: SessionRate::BytesPerSecond(LITTLE_BYTES_PER_S),
            ..ordinary
        },
        Deed::Knock => Capacity {
            nodes: FEW_NODES,
            ..ordinary
        },
        Deed::Guess
        | Deed::Desert
        | Deed::Hesitate
        | Deed::Vanish
        | Deed::StayRelayed
        | Deed::Show
        | Deed::Meet => ordinary,
    };
    let particular = Particular {
        capacity: Some(capacity),
        ..Particular::default()
    };
    let relay = stage.particular("relay-0", &particular)?;
    let every = match deed {
        Deed::StayRelayed => OFTEN_ENOUGH,
        Deed::Guess
        | Deed::Desert
        | Deed::Hesitate
        | Deed::Vanish
        | Deed::Overflow
        | Deed::Knock
        | Deed::Show
        | Deed::Meet => OFTEN,
    };
    keep_doing(deed, relay.crowd()?, every, deeds).await
}

/// Nothing: a fleet serves.
///
/// # Errors
/// When it cannot.
pub async fn nothing(stage: &Stage, deeds: &Arc<Deeds>) -> anyhow::Result<Infallible> {
    let key = stage.fleet_key("fleet.key")?;
    let mut fleet = Vec::new();
    for number in 0..3 {
        fleet.push(member(stage, number, &key, &fleet)?);
    }
    let crowds = fleet.iter().map(Member::crowd);
    let crowds: Vec<_> = crowds.collect::<Result<_, _>>()?;
    let meeting = crowds
        .into_iter()
        .map(|crowd| keep_doing(Deed::Meet, crowd, OFTEN_ENOUGH, deeds));
    try_join_all(meeting).await?;
    pending().await
}

/// Prometheus has asked a relay several times.
async fn known(speed: u32) {
    sleep(4 * every(speed)).await;
}

async fn killed(stage: &Stage, speed: u32) -> anyhow::Result<Infallible> {
    let _lives = stage.relay("relay-0")?;
    let mut dies = stage.relay("relay-1")?;
    known(speed).await;
    dies.up.child.signal(Signal::SIGKILL)?;
    dies.up.child.wait()?;
    pending().await
}

/// One that ends so many days from now.
fn certificate(stage: &Stage, days: i32) -> anyhow::Result<[PathBuf; 2]> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let now = date_time_ymd(1970, 1, 1) + now;
    let mut params = CertificateParams::new(["relay.example.org".to_owned()])?;
    params.not_before = now - 30 * DAY;
    params.not_after = if days < 0 {
        now - days.unsigned_abs() * DAY
    } else {
        now + days.unsigned_abs() * DAY
    };
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let certificate = params.self_signed(&key)?;
    let [certificate_file, key_file] = ["tls.crt", "tls.key"].map(|name| stage.path(name));
    fs::write(&certificate_file, pem("CERTIFICATE", certificate.der()))?;
    fs::write(&key_file, pem("PRIVATE KEY", key.serialized_der()))?;
    Ok([certificate_file, key_file])
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let lines = BASE64_MIME.encode(der);
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

async fn with_certificate(stage: &Stage, days: i32) -> anyhow::Result<Infallible> {
    let [certificate, key] = certificate(stage, days)?;
    let (certificate, key) = (certificate.to_string_lossy(), key.to_string_lossy());
    let flags = ["--tls-cert", &certificate, "--tls-key", &key];
    let _relay = stage.relay_with("relay-0", &flags)?;
    pending().await
}

async fn stays_in_session(stage: &Stage) -> anyhow::Result<Infallible> {
    let relay = stage.relay_with("relay-0", &["--drain-timeout", LONG_DRAIN_S])?;
    let crowd = relay.crowd()?;
    let (mut host, mut joiner) = (crowd.connect().await?, crowd.connect().await?);
    let prepared = Prepared::draw(&host.realm)?;
    let sizes = Sizes::of_a_real_exchange()?;
    let session = setup::introduce(&mut host, &mut joiner, prepared, sizes).await?;
    relay.up.child.signal(Signal::SIGTERM)?;
    loop {
        joiner.touch(session, Side::Joiner)?;
        sleep(TOUCH).await;
    }
}

async fn clock_ahead(stage: &Stage) -> anyhow::Result<Infallible> {
    let library = faketime()?;
    let particular = Particular {
        environment: &[
            ("LD_PRELOAD", &library),
            ("FAKETIME", Path::new(AHEAD)),
            ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
        ],
        ..Particular::default()
    };
    let _relay = stage.particular("relay-0", &particular)?;
    pending().await
}

/// One that sees another limit than the system's: where control groups are, it has a folder of ours.
async fn little_memory(stage: &Stage) -> anyhow::Result<Infallible> {
    let groups = stage.path("cgroup");
    let limits = ["memory.max", "memory/memory.limit_in_bytes"].map(|name| groups.join(name));
    fs::create_dir_all(groups.join("memory"))?;
    let folder = groups.to_string_lossy();
    let instead = format!("mount --bind '{folder}' /sys/fs/cgroup && exec \"$@\"");
    let particular = Particular {
        by: &[
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            &instead,
            "sh",
        ],
        ..Particular::default()
    };
    let relay = stage.particular("relay-0", &particular)?;
    let used = relay.up.child.meter().rss_bytes()?;
    for name in ["memory.current", "memory/memory.usage_in_bytes"] {
        fs::write(groups.join(name), used.to_string())?;
    }
    for limit in limits {
        fs::write(limit, (used * 100 / USED_PERCENT).to_string())?;
    }
    pending().await
}

/// The library that gives a program another clock.
fn faketime() -> anyhow::Result<PathBuf> {
    let all = fs::read_dir("/usr/lib").context("no /usr/lib")?;
    let mut libraries = all.flatten().map(|folder| {
        let library = "faketime/libfaketimeMT.so.1";
        folder.path().join(library)
    });
    let found = libraries.find(|path| path.exists());
    found.context("no libfaketime, which gives a relay another clock; install it (Debian: apt-get install faketime)")
}

/// Two of a fleet, and one that would be.
async fn stranger(stage: &Stage) -> anyhow::Result<Infallible> {
    let [ours, another] = [
        stage.fleet_key("ours.key")?,
        stage.fleet_key("another.key")?,
    ];
    let mut fleet = Vec::new();
    for (number, key) in [&ours, &ours, &another].into_iter().enumerate() {
        fleet.push(member(stage, number, key, &fleet)?);
    }
    pending().await
}

fn member(stage: &Stage, number: usize, key: &Path, others: &[Member]) -> anyhow::Result<Member> {
    let key = key.to_string_lossy();
    let seeds = others.iter().filter_map(|other| other.up.mesh);
    let seeds: Vec<_> = seeds.map(|mesh| mesh.to_string()).collect();
    let mut flags = vec!["--mesh", "127.0.0.1:0", "--fleet-key", &key];
    for seed in &seeds {
        flags.extend(["--peer", seed]);
    }
    stage.relay_with(&format!("relay-{number}"), &flags)
}

/// A fleet of which all but one do not answer for a while, over and over, as people show codes at that one.
async fn silent_others(stage: &Stage, deeds: &Arc<Deeds>) -> anyhow::Result<Infallible> {
    let key = stage.fleet_key("fleet.key")?;
    let mut fleet = Vec::new();
    for number in 0..3 {
        fleet.push(member(stage, number, &key, &fleet)?);
    }
    let (one, others) = fleet.split_first().context("three relays")?;
    let showing = keep_doing(Deed::Show, one.crowd()?, OFTEN, deeds);
    let stopping = async {
        loop {
            for (signal, pause) in [(Signal::SIGCONT, GOING), (Signal::SIGSTOP, STOPPED)] {
                for other in others {
                    other.up.child.signal(signal)?;
                }
                sleep(pause).await;
            }
        }
    };
    tokio::select! {
        never = showing => never,
        ended = stopping => ended,
    }
}

/// What comes meanwhile, of a session that there is not, is more than its buffer holds.
async fn held_still(stage: &Stage) -> anyhow::Result<Infallible> {
    let relay = stage.relay("relay-0")?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no UDP socket")?;
    let _hose = Hose::new(socket, v4(&relay)?, &[SessionId(rand::random())])?;
    loop {
        relay.up.child.signal(Signal::SIGSTOP)?;
        sleep(HELD_STILL).await;
        relay.up.child.signal(Signal::SIGCONT)?;
        sleep(LET_GO).await;
    }
}

/// One joiner sends to two hosts in turns. The relay is let have a processor for itself, if this user may say so: on a machine that
/// is busy otherwise it could not use one up.
async fn flooded(stage: &Stage) -> anyhow::Result<Infallible> {
    let particular = Particular {
        by: &["nice", "-n", "-15"],
        capacity: Some(Capacity {
            session_rate: SessionRate::Unlimited,
            ..Stage::capacity()
        }),
        ..Particular::default()
    };
    let relay = stage.particular("relay-0", &particular)?;
    let crowd = relay.crowd()?;
    let sizes = Sizes::of_a_real_exchange()?;
    let mut joiner = crowd.connect().await?;
    let (mut hosts, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let mut host = crowd.connect().await?;
        let prepared = Prepared::draw(&host.realm)?;
        sessions.push(setup::introduce(&mut host, &mut joiner, prepared, sizes).await?);
        hosts.push(host);
    }
    let _hose = Hose::new(joiner.socket()?, v4(&relay)?, &sessions)?;
    pending().await
}

fn v4(relay: &Member) -> anyhow::Result<SocketAddrV4> {
    let at = relay.up.address.host_port.parse();
    at.context("our relays are on 127.0.0.1")
}
