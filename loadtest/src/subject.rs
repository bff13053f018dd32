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

pub use self::relay::{Bridge, Fleet, Home};
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
    /// A relay with `sessions` sessions by code, of `pairs` of nodes.
    ///
    /// # Errors
    /// When there is none, or it does not want so many.
    pub fn relay(
        relay: Relay,
        sessions: usize,
        pairs: usize,
        runtime: &Runtime,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let meter = relay.meter;
        let sessions_by_pair = share_out(sessions, pairs);
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

    /// Somebody else for the same load; coturn has sockets of its own for each session.
    ///
    /// # Errors
    /// When it does not start.
    pub fn rival(
        rival: Rival,
        mode: Mode,
        sessions: usize,
        pairs: usize,
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
                let (child, lanes) = raw::start(kind, &share_out(sessions, pairs), cores)?;
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

    /// How long its nodes need to say that they are there.
    pub fn breath(&self) -> Duration {
        match self.held {
            Held::Relay(_) => {
                let nodes = u32::try_from(self.nodes).unwrap_or(u32::MAX);
                BREATH + BREATH_PER_NODE * nodes
            }
            Held::Raw { .. } | Held::Coturn(_) => Duration::ZERO,
        }
    }

    /// Between two runs: nodes say that they are there, allocations are refreshed.
    ///
    /// # Errors
    /// When that fails.
    pub fn breathe(&mut self, runtime: &Runtime) -> anyhow::Result<()> {
        match &mut self.held {
            Held::Relay(_) => {
                let breath = self.breath();
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

/// How many sessions each of `pairs` of nodes has, so that there are `sessions` in all.
fn share_out(sessions: usize, pairs: usize) -> Vec<usize> {
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
    fn sessions_are_shared_out_evenly() {
        assert_eq!(share_out(3, 3), [1, 1, 1]);
        assert_eq!(share_out(11, 4), [3, 3, 3, 2]);
    }
}
