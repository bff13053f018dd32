//! What is measured: a relay, a plain forwarder or coturn, with its sessions.

// coturn, with two allocations for each session, or one.
mod coturn;
// A plain forwarder of our own.
mod raw;
// A relay, its own or somebody's, with real nodes.
mod relay;
// STUN and TURN, as much of it as a session needs.
mod stun;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use tokio::runtime::Runtime;

pub use self::relay::Fleet;
use crate::{
    interrupt,
    lane::Lane,
    process::{Child, Cores, Meter},
    relay::Relay,
    report::Progress,
    traffic::Mode,
};

/// For the nodes' keep-alive between two runs: one of each and its answer.
const BREATH: Duration = Duration::from_millis(50);
const BREATH_PER_NODE: Duration = Duration::from_micros(100);
/// More nodes than this take more memory and more file descriptors than a machine may have to spare: sessions beyond share
/// them. A pair may have up to 16.
const MAX_PAIRS: usize = 1000;

/// What a relay is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rival {
    /// The plain forwarder that fits the mode
    Raw,
    /// The plainest: a frame at a time, recvfrom and sendto
    One,
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
    /// Nodes that are connected to it.
    pub nodes: usize,
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
        relay: Relay,
        sessions: usize,
        runtime: &Runtime,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let meter = relay.meter;
        let sessions_by_pair = sessions_by_pair(sessions);
        let making = Fleet::new(relay, &sessions_by_pair, progress);
        let (fleet, lanes) = unless_interrupted(runtime, making)?;
        Ok(Self {
            name: "relay",
            detail: "",
            meter,
            nodes: fleet.nodes(),
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
            Rival::Raw | Rival::One => {
                let (name, (kind, detail)) = if rival == Rival::One {
                    ("one", raw::PLAINEST)
                } else {
                    ("raw", raw::fitting(mode))
                };
                let (child, lanes) = raw::start(kind, &sessions_by_pair(sessions), cores)?;
                Ok(Self {
                    name,
                    detail,
                    meter: Some(child.meter()),
                    nodes: 0,
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
                    nodes: 0,
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
                let nodes = u32::try_from(self.nodes).unwrap_or(u32::MAX);
                let breath = BREATH + BREATH_PER_NODE * nodes;
                runtime.block_on(async { tokio::time::sleep(breath).await });
                Ok(())
            }
            Held::Raw { .. } => Ok(()),
            Held::Coturn(server) => server.refresh(Instant::now()),
        }
    }

    /// The relay, where this is one.
    pub fn as_relay(&self) -> Option<&Relay> {
        match &self.held {
            Held::Relay(fleet) => Some(fleet.relay()),
            Held::Raw { .. } | Held::Coturn(_) => None,
        }
    }

    /// Leaves in order.
    pub fn end(self, runtime: &Runtime) {
        if let Held::Relay(fleet) = self.held {
            runtime.block_on(fleet.leave());
        }
    }
}

/// How many sessions each pair of nodes has, so that there are `sessions` in all.
fn sessions_by_pair(sessions: usize) -> Vec<usize> {
    let pairs = sessions.min(MAX_PAIRS);
    (0..pairs)
        .map(|pair| sessions / pairs + usize::from(pair < sessions % pairs))
        .collect()
}

/// What comes of `making`, unless somebody wants an end.
///
/// # Errors
/// Its own, or that somebody does.
pub fn unless_interrupted<T>(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_beyond_the_pairs_are_shared_out_evenly() {
        assert_eq!(sessions_by_pair(3), [1, 1, 1]);
        let shared = sessions_by_pair(2500);
        assert_eq!(
            (shared.len(), shared.iter().sum::<usize>()),
            (MAX_PAIRS, 2500)
        );
        assert_eq!((shared[499], shared[500]), (3, 2));
    }
}
