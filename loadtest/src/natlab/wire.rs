//! A link with a delay, and with loss. netem would do it, where the kernel has it; here frames pass through this process, everywhere the same.
//!
//! ```text
//!  a host's namespace:   eth0 ═ veth ═ wire0 ──▶ here, for so long ──▶ uplink0 ═ veth ═ its router
//! ```
//!
//! Frames are taken with the offloads they have (PACKET_VNET_HDR), so that trains of datagrams and checksums that are still to
//! be computed go through as they are.

/// A packet socket on an interface.
mod port;

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use patchbay::{Device, Router};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::tool;

/// The longest frame: a train of datagrams in one, with its headers.
const MAX_FRAME_BYTES: usize = 1 << 17;
/// Frames on their way, each direction; what comes when there are as many is lost, as in a router's queue. 100 Mbit/s for 80 ms.
const MAX_FRAMES: usize = 1000;

/// What patchbay connects to the router, as the host's interface of this number.
pub(super) fn uplink(number: usize) -> String {
    format!("uplink{number}")
}

/// How a link is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// One way.
    pub(super) delay: Duration,
    /// Of all frames, each way, each on its own.
    pub(super) loss: f64,
    /// Which.
    pub(super) seed: u64,
    /// Whether what the host sends goes in trains of datagrams, which a link loses as one.
    pub(super) has_trains: bool,
}

/// The link of a host; gone with this.
#[derive(Debug)]
pub(super) struct Wire {
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    stop: Option<UnixStream>,
}

impl Wire {
    /// Puts it between the host and `router`: the host's address moves from its [`uplink`] of this number to its `eth`.
    ///
    /// # Errors
    /// What `ip` said, or the system of packet sockets.
    pub(super) fn new(
        device: &Device,
        number: usize,
        router: &Router,
        link: Link,
    ) -> anyhow::Result<Self> {
        let uplink = uplink(number);
        let (eth, wire) = (format!("eth{number}"), format!("wire{number}"));
        let interface = device.iface(&uplink).context("a host without a link")?;
        let address = interface.ip().context("a host without an address")?;
        let network = router
            .downstream_cidr()
            .context("a router without a network")?;
        let gateway = router
            .downstream_gw()
            .context("a router without an address")?;
        let prefix = network.prefix_len();
        // Neither end of the wire may answer in the host's place.
        let mut cable = format!(
            "address flush dev {uplink}\n\
             link set {uplink} arp off addrgenmode none\n\
             link add {eth} type veth peer name {wire}\n\
             link set {wire} arp off addrgenmode none up\n"
        );
        if !link.has_trains {
            cable += &format!("link set {eth} gso_max_segs 1\n");
        }
        let mut host = format!(
            "address add {address}/{prefix} dev {eth}\n\
             link set {eth} up\n\
             route replace default via {gateway}\n"
        );
        if let (Some(address), Some(gateway)) = (interface.ip6(), router.downstream_gw_v6()) {
            let network = router.downstream_cidr_v6();
            let prefix = network
                .context("a router without an IPv6 network")?
                .prefix_len();
            host += &format!(
                "address add {address}/{prefix} dev {eth} nodad\n\
                 route replace default via {gateway}\n"
            );
        }
        let ip = |commands: &str| {
            let spawn = |command| device.spawn_command_sync(command);
            tool::run(spawn, "ip", &["-batch", "-"], commands)
        };
        ip(&cable)?;
        let ports = device.run_sync(move || Ok([port::open(&wire)?, port::open(&uplink)?]));
        let ports = ports.context("no packet sockets")?;
        // From now on nothing is lost: the host sends as soon as it has an address, and whom it asks for its router's hardware
        // address it does not ask again for a second.
        ip(&host)?;
        let (stop, stopped) = UnixStream::pair()?;
        let thread = thread::Builder::new().name("wire".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = carry(&ports, &stopped, link) {
                tracing::error!(%error, "a link of the lab is down");
            }
        })?;
        Ok(Self {
            thread: Some(thread),
            stop: Some(stop),
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a link of the lab has panicked");
        }
    }
}

/// A frame, and when it is at the other end.
type Due = (Instant, Vec<u8>);

/// Carries frames both ways until `stopped`.
fn carry(ports: &[File; 2], stopped: &UnixStream, link: Link) -> io::Result<()> {
    let mut dice = SmallRng::seed_from_u64(link.seed);
    let mut queues = [VecDeque::<Due>::new(), VecDeque::new()];
    let mut buffer = vec![0; MAX_FRAME_BYTES];
    loop {
        let due = queues
            .iter()
            .filter_map(|queue| queue.front())
            .map(|(at, _)| *at);
        let wait = due
            .min()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let watched = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut watching = [
            watched(ports[0].as_fd()),
            watched(ports[1].as_fd()),
            watched(stopped.as_fd()),
        ];
        match ppoll(&mut watching, wait.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if watching[2].any().unwrap_or(false) {
            return Ok(());
        }
        for (from, queue) in ports.iter().zip(&mut queues) {
            take(from, queue, &mut buffer, link, &mut dice)?;
        }
        for (to, queue) in ports.iter().rev().zip(&mut queues) {
            give(to, queue);
        }
    }
}

/// All frames that are there.
fn take(
    mut from: &File,
    queue: &mut VecDeque<Due>,
    buffer: &mut [u8],
    link: Link,
    dice: &mut SmallRng,
) -> io::Result<()> {
    loop {
        match from.read(buffer) {
            Ok(_) if dice.random_bool(link.loss) => {}
            Ok(length) if queue.len() < MAX_FRAMES => {
                queue.push_back((Instant::now() + link.delay, buffer[..length].to_vec()));
            }
            Ok(_) => tracing::debug!("a link of the lab is full"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Those that have been on their way for long enough. What an interface does not take is lost.
fn give(mut to: &File, queue: &mut VecDeque<Due>) {
    let now = Instant::now();
    while queue.front().is_some_and(|(at, _)| *at <= now) {
        let Some((_, frame)) = queue.pop_front() else {
            return;
        };
        if let Err(error) = to.write_all(&frame) {
            tracing::debug!(%error, bytes = frame.len(), "a link of the lab has lost a frame");
        }
    }
}
