//! Debian's coturn with allocations and channels for each session.
//!
//! ```text
//! both ways:  sender ─ ChannelData ─▶ its allocation ─▶ the receiver's allocation ─ ChannelData ─▶ receiver
//! one way:    sender ─ ChannelData ─▶ its allocation ─ the data alone ─▶ receiver
//! ```

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use super::stun::Client;
use crate::{
    interrupt,
    lane::{Lane, NodeSocket, Wire},
    process::{Child, Cores, Meter},
};

const PROGRAM: &str = "turnserver";
/// From its start to its first answer: it reads its interfaces and makes its threads.
const START: Duration = Duration::from_secs(10);
/// The first channel there is (RFC 8656 §12); every session's.
const CHANNEL: u16 = 0x4000;
/// Permissions live for five minutes (RFC 8656 §9).
const REFRESH_AFTER: Duration = Duration::from_secs(60);
/// Ports for allocations, of which each session has up to two.
const PORTS: [u16; 2] = [10_000, 32_000];

/// A running coturn with its allocations.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    channels: Vec<(Client, SocketAddrV4)>,
    refreshed: Instant,
    _folder: TempDir,
}

impl Server {
    pub(super) fn meter(&self) -> Meter {
        self.child.meter()
    }

    /// Keeps what is about to end.
    pub(super) fn refresh(&mut self, now: Instant) -> anyhow::Result<()> {
        if now.duration_since(self.refreshed) < REFRESH_AFTER {
            return Ok(());
        }
        self.refreshed = now;
        for (client, peer) in &mut self.channels {
            client.bind_channel(CHANNEL, *peer)?;
        }
        Ok(())
    }
}

/// Starts coturn with `sessions` sessions; call within a runtime.
pub(super) fn start(
    sessions: usize,
    both_ways: bool,
    cores: &Cores,
) -> anyhow::Result<(Server, Vec<Lane>)> {
    // Free now, and nobody here takes ports so fast.
    let at = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let folder = tempfile::tempdir().context("no folder for coturn")?;
    let child = spawn(at, folder.path(), cores)?;
    let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    Client::new(probe.as_fd(), at)?.wait_for_server(START)?;
    let mut server = Server {
        child,
        channels: Vec::new(),
        refreshed: Instant::now(),
        _folder: folder,
    };
    let mut lanes = Vec::with_capacity(sessions);
    for _ in 0..sessions {
        interrupt::check()?;
        lanes.push(server.session(at, both_ways)?);
    }
    Ok((server, lanes))
}

impl Server {
    fn session(&mut self, at: SocketAddr, both_ways: bool) -> anyhow::Result<Lane> {
        let [sender, receiver] = [NodeSocket::bind(at)?, NodeSocket::bind(at)?];
        let mut sending = Client::new(sender.magic.as_fd(), at)?;
        let from = sending.allocate()?;
        let to = if both_ways {
            let mut receiving = Client::new(receiver.magic.as_fd(), at)?;
            let to = receiving.allocate()?;
            receiving.bind_channel(CHANNEL, from)?;
            self.channels.push((receiving, from));
            to
        } else {
            let SocketAddr::V4(to) = receiver.on_loopback()? else {
                unreachable!("127.0.0.1 is an IPv4 address")
            };
            to
        };
        sending.bind_channel(CHANNEL, to)?;
        self.channels.push((sending, to));
        let wire = Wire::Channel {
            number: CHANNEL,
            both_ways,
        };
        Ok(Lane::new(&sender.magic, &receiver.magic, at, wire)?)
    }
}

fn spawn(at: SocketAddr, folder: &Path, cores: &Cores) -> anyhow::Result<Child> {
    let (ip, port, folder_text) = (at.ip(), at.port(), folder.display());
    let [min_port, max_port] = PORTS;
    // One thread that relays, as the others have; nobody is asked who they are; nothing is limited.
    let config = format!(
        "listening-ip={ip}\nlistening-port={port}\nrelay-ip={ip}\nmin-port={min_port}\nmax-port={max_port}\n\
         relay-threads=1\nno-auth\nallow-loopback-peers\nuser-quota=0\ntotal-quota=0\n\
         no-tls\nno-dtls\nno-tcp\nno-tcp-relay\nno-cli\n\
         log-file=/dev/null\nno-stdout-log\nuserdb={folder_text}/turndb\npidfile={folder_text}/pid\n"
    );
    let path = folder.join("turnserver.conf");
    fs::write(&path, config).context("cannot write coturn's configuration")?;
    let installed = Command::new(PROGRAM).arg("--version").output().is_ok();
    ensure!(
        installed,
        "coturn is missing, and --vs coturn needs it: apt-get install coturn"
    );
    let mut command = Command::new(PROGRAM);
    command.arg("-c").arg(&path).stderr(Stdio::null());
    Child::start(command, cores, Stdio::null())
}
