//! What is measured: a relay, a plain forwarder or coturn, with its sessions.

// coturn, with two allocations for each session, or one.
mod coturn;
// A plain forwarder of our own.
mod raw;
// A relay, its own or somebody's, with real nodes.
mod relay;
// STUN and TURN, as much of it as a session needs.
mod stun;

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use remora_proto::id::RelayAddr;
use tokio::runtime::Runtime;

pub use self::relay::{Fleet, Target};
use crate::{
    interrupt,
    lane::Lane,
    process::{Child, Cores, Meter},
    report::Progress,
    traffic::Mode,
};

/// For the nodes' keep-alive between two runs: one of each and its answer.
const BREATH: Duration = Duration::from_millis(50);
const BREATH_PER_SESSION: Duration = Duration::from_micros(200);

/// What a relay is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rival {
    /// The plain forwarder that fits the mode
    Raw,
    /// coturn, both ends with an allocation and a channel: two passes through it for each frame
    Coturn,
    /// coturn, the sender with an allocation, the receiver a plain peer: one pass, its cheapest way
    CoturnOne,
}

/// Something that forwards frames.
#[derive(Debug)]
pub struct Subject {
    /// For people and scripts.
    pub name: &'static str,
    /// More about it, for people.
    pub detail: &'static str,
    /// Its sessions.
    pub lanes: Vec<Lane>,
    /// Its process, where that is known.
    pub meter: Option<Meter>,
    held: Held,
}

/// What has to live as long as the sessions.
#[derive(Debug)]
enum Held {
    Relay(Fleet),
    Raw { _child: Child },
    Coturn(coturn::Server),
}

impl Subject {
    /// A relay with `sessions` sessions by code.
    ///
    /// # Errors
    /// When there is none, or it does not want so many.
    pub fn relay(
        target: Target,
        sessions: usize,
        cores: &Cores,
        runtime: &Runtime,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let making = Fleet::new(target, sessions, cores, progress);
        let (fleet, lanes) = unless_interrupted(runtime, making)?;
        Ok(Self {
            name: "relay",
            detail: "",
            meter: fleet.meter(),
            lanes,
            held: Held::Relay(fleet),
        })
    }

    /// Somebody else for the same load.
    ///
    /// # Errors
    /// When it does not start.
    pub fn rival(
        rival: Rival,
        mode: Mode,
        sessions: usize,
        cores: &Cores,
        runtime: &Runtime,
    ) -> anyhow::Result<Self> {
        let _entered = runtime.enter();
        match rival {
            Rival::Raw => {
                let (kind, detail) = raw::fitting(mode);
                let (child, lanes) = raw::start(kind, sessions, cores)?;
                Ok(Self {
                    name: "raw",
                    detail,
                    meter: Some(child.meter()),
                    lanes,
                    held: Held::Raw { _child: child },
                })
            }
            Rival::Coturn | Rival::CoturnOne => {
                let both_ways = rival == Rival::Coturn;
                let (server, lanes) = coturn::start(sessions, both_ways, cores)?;
                let (name, detail) = if both_ways {
                    ("coturn", "two allocations a session")
                } else {
                    ("coturn-one", "one allocation a session")
                };
                Ok(Self {
                    name,
                    detail,
                    meter: Some(server.meter()),
                    lanes,
                    held: Held::Coturn(server),
                })
            }
        }
    }

    /// Between two runs: nodes say that they are there, allocations are refreshed.
    ///
    /// # Errors
    /// When that fails.
    pub fn breathe(&mut self, runtime: &Runtime) -> anyhow::Result<()> {
        match &mut self.held {
            Held::Relay(_) => {
                let sessions = u32::try_from(self.lanes.len()).unwrap_or(u32::MAX);
                let breath = BREATH + BREATH_PER_SESSION * sessions;
                runtime.block_on(async { tokio::time::sleep(breath).await });
                Ok(())
            }
            Held::Raw { .. } => Ok(()),
            Held::Coturn(server) => server.refresh(Instant::now()),
        }
    }

    /// Leaves in order.
    pub fn end(self, runtime: &Runtime) {
        if let Held::Relay(fleet) = self.held {
            runtime.block_on(fleet.leave());
        }
    }
}

fn unless_interrupted<T>(
    runtime: &Runtime,
    making: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    runtime.block_on(async {
        tokio::select! {
            made = making => made,
            () = interrupt::told() => Err(interrupt::check().err().context("interrupted")?),
        }
    })
}

/// Whether `ip` is one of this machine's: only then can a port be bound there.
pub fn is_on_this_machine(address: SocketAddr) -> bool {
    UdpSocket::bind((address.ip(), 0)).is_ok()
}

/// Where a relay is.
///
/// # Errors
/// When its name cannot be resolved.
pub fn resolve(relay: &RelayAddr) -> anyhow::Result<SocketAddr> {
    use std::net::ToSocketAddrs as _;
    let host_port = &relay.host_port;
    let addresses = host_port
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve `{host_port}`; check the name and your DNS"))?;
    let address = addresses.min_by_key(|address| !address.is_ipv4());
    let address = address.with_context(|| format!("`{host_port}` has no address"))?;
    ensure!(
        !address.ip().is_unspecified(),
        "`{host_port}` is no address to send to; name one of the relay's"
    );
    Ok(address)
}
