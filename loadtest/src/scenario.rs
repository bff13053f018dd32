//! The verbs that measure, one file each.

// Everything comes and goes, and memory must not.
pub mod churn;
// Sessions set up by code: how many a second, how long each.
pub mod connect;
// One greedy session among others.
pub mod fairness;
// Honest sessions while somebody floods.
pub mod flood;
// Frames through sessions: CPU per frame, throughput, loss, latency.
pub mod forward;
// Nodes that do nothing: memory and CPU of each.
pub mod idle;
// Nodes at any two relays of a fleet, and codes that outlive relays.
pub mod mesh;
// Two nodes behind real NATs: do they reach each other, and how soon?
pub mod natlab;
// Sessions whose relay stops, or dies.
pub mod outlive;
// A fleet that is cut in two for a while.
pub mod partition;
// A policy that changes: how soon everybody goes by it.
pub mod policy;
// Alerts that are set off.
pub mod provoke;
// From nothing to a person who is helped.
pub mod quickstart;
// What a relay of many sessions says of itself: how long that takes, and how much it is.
pub mod scrape;
// Whole sessions of real nodes, from the code to the picture.
pub mod session;

use std::{
    io,
    time::{Duration, Instant},
};

use remora_relay::open_files;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::{
    cli,
    process::Cores,
    report::{Progress, print},
};

/// Before a run of frames counts: buffers are touched, clocks are up.
const WARM_UP: Duration = Duration::from_millis(300);

/// What every measurement stands on.
#[derive(Debug)]
pub struct Bench {
    /// When it began.
    pub began: Instant,
    /// For people who watch.
    pub progress: Progress,
    /// Whose cores are whose.
    pub cores: Cores,
    /// Its tasks run on the load's very thread, or threads.
    pub runtime: Runtime,
    for_scripts: bool,
}

impl Bench {
    /// Keeps this thread on the load's core; the measured process gets as many as it has `workers`.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(target: &cli::Target, workers: usize) -> anyhow::Result<Self> {
        Self::alone(!target.no_pin, target.json, workers)
    }

    /// The same of a verb that has all its relays itself.
    ///
    /// # Errors
    /// What the system said.
    pub fn alone(pin: bool, for_scripts: bool, workers: usize) -> anyhow::Result<Self> {
        let cores = Cores::divide(pin, workers)?;
        cores.stay_on_load()?;
        // For the children, too. Fewer matter only to those who need more, and they say so.
        open_files::raise();
        Ok(Self {
            began: Instant::now(),
            progress: Progress::new(),
            cores,
            runtime: Builder::new_current_thread().enable_all().build()?,
            for_scripts,
        })
    }

    /// Of a verb whose nodes are many people's: they and their relays run wherever the system likes, all cores at once.
    ///
    /// # Errors
    /// What the system said.
    pub fn spread_out(for_scripts: bool) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let bench = Self::alone(false, for_scripts, 1)?;
        Ok(Self { runtime, ..bench })
    }

    /// Prints what was found, as the reader wants it.
    ///
    /// # Errors
    /// When nobody takes it.
    pub fn print(
        &self,
        json: impl FnOnce() -> Value,
        table: impl FnOnce() -> String,
    ) -> io::Result<()> {
        self.progress.clear();
        print(&if self.for_scripts {
            json().to_string()
        } else {
            table()
        })
    }
}
