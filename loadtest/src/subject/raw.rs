//! A plain forwarder in a process of its own, with the addresses of sockets such as nodes have.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use clap::ValueEnum as _;
use remora_proto::{
    id::{SessionId, Side},
    wire::frame::Header,
};

use crate::{
    forwarder::Kind,
    lane::{Lane, NodeSocket, Wire},
    process::{Child, Cores},
    traffic::Mode,
};

/// What one would write first, and its name for people.
pub(super) const PLAINEST: (Kind, &str) = (Kind::One, "recvfrom/sendto");

/// The best forwarder for a mode, and its name for people.
pub(super) fn fitting(mode: Mode) -> (Kind, &'static str) {
    match mode {
        Mode::Single => (Kind::Mmsg, "recvmmsg/sendmmsg"),
        Mode::Burst => (Kind::Gso, "recvmmsg/sendmmsg, GSO runs"),
        Mode::Train => (Kind::Gro, "GRO and GSO"),
    }
}

/// Starts it for pairs of sockets with so many sessions each; call within a runtime.
pub(super) fn start(
    kind: Kind,
    sessions_by_pair: &[usize],
    cores: &Cores,
) -> anyhow::Result<(Child, Vec<Lane>)> {
    let own = std::env::current_exe().context("this program cannot be found")?;
    let mut command = Command::new(own);
    let kind = kind.to_possible_value().context("a kind with a name")?;
    command.args(["forwarder", kind.get_name()]);
    let mut child = Child::start(command, cores, Stdio::piped())?;
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let pairs = sessions_by_pair
        .iter()
        .map(|_| Ok([NodeSocket::bind(anywhere)?, NodeSocket::bind(anywhere)?]))
        .collect::<std::io::Result<Vec<_>>>()
        .context("not enough UDP sockets; fewer --sessions, or a higher `ulimit -n`")?;
    let mut lines = String::new();
    for ([host, joiner], &sessions) in pairs.iter().zip(sessions_by_pair) {
        let line = format!("{} {}\n", host.on_loopback()?, joiner.on_loopback()?);
        lines += &line.repeat(sessions);
    }
    let input = child.input.as_mut().context("its input is ours")?;
    writeln!(input, "{lines}").context("the forwarder does not take its sessions")?;
    let at: SocketAddr = child.first_line()?.parse().context("no address")?;
    let mut lanes: Vec<Lane> = Vec::new();
    for ([host, joiner], &sessions) in pairs.iter().zip(sessions_by_pair) {
        let first = lanes.len();
        for _ in 0..sessions {
            let wire = Wire::Frame(Header {
                side: Side::Joiner,
                session: SessionId(lanes.len() as u64),
            });
            lanes.push(match lanes.get(first) {
                Some(lane) => lane.beside(wire),
                None => Lane::new(&joiner.magic, &host.magic, at, wire)?,
            });
        }
    }
    Ok((child, lanes))
}
