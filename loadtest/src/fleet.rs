//! Several relays, each a process, that are ended and started again while sessions go through them.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use remora_proto::id::RelayAddr;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    measure::float,
    process::{self, Child, Cores, Meter},
    relay::{self, Capacity, Up},
};

/// How often one looks whether a process has ended.
const GLANCE: Duration = Duration::from_millis(20);

/// Relays, by number.
#[derive(Debug)]
pub struct Fleet {
    members: Vec<Member>,
    capacity: Capacity,
    cores: Cores,
    /// Where their keys are.
    folder: TempDir,
    is_mesh: bool,
}

#[derive(Debug)]
struct Member {
    up: Up,
    /// Where it listens, whenever it is started.
    listen: String,
    /// The same for other relays, if it is in a mesh.
    mesh: Option<String>,
}

impl Fleet {
    /// So many, each alone, with room for the same each.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start(relays: usize, capacity: Capacity, cores: &Cores) -> anyhow::Result<Self> {
        Self::new(relays, capacity, cores, false)
    }

    /// The same, of one fleet.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start_mesh(relays: usize, capacity: Capacity, cores: &Cores) -> anyhow::Result<Self> {
        Self::new(relays, capacity, cores, true)
    }

    fn new(
        relays: usize,
        capacity: Capacity,
        cores: &Cores,
        is_mesh: bool,
    ) -> anyhow::Result<Self> {
        let mut fleet = Self {
            members: Vec::with_capacity(relays),
            capacity,
            cores: cores.clone(),
            folder: tempfile::tempdir().context("no folder for the relays' keys")?,
            is_mesh,
        };
        if is_mesh {
            fleet.make_key()?;
        }
        for number in 0..relays {
            let up = fleet.up(number, "127.0.0.1:0", "127.0.0.1:0")?;
            fleet.members.push(Member {
                listen: up.address.host_port.clone(),
                mesh: up.mesh.map(|mesh| mesh.to_string()),
                up,
            });
        }
        Ok(fleet)
    }

    fn make_key(&self) -> anyhow::Result<()> {
        let mut command = Command::new(process::beside("remora-relay")?);
        command.arg("fleet-key").arg(self.fleet_key());
        let mut child = Child::start(command, &self.cores, Stdio::null())?;
        ensure!(child.wait()?.success(), "cannot make a fleet key");
        Ok(())
    }

    fn fleet_key(&self) -> std::path::PathBuf {
        self.folder.path().join("fleet.key")
    }

    fn up(&self, number: usize, listen: &str, mesh: &str) -> anyhow::Result<Up> {
        let key = self.folder.path().join(name(number));
        let (name, fleet_key) = (name(number), self.fleet_key());
        let fleet_key = fleet_key.to_string_lossy();
        let mut flags = vec!["--listen", listen, "--name", &name];
        // One that is started again would ask for the next port, which may be a node's by then.
        flags.extend(["--observer", "127.0.0.1:0"]);
        if self.is_mesh {
            flags.extend(["--mesh", mesh, "--fleet-key", &fleet_key]);
        }
        // Two that it may be met by: one of them may be gone.
        let seeds = self
            .members
            .iter()
            .filter_map(|member| member.mesh.as_deref());
        for seed in seeds.filter(|seed| *seed != mesh).take(2) {
            flags.extend(["--peer", seed]);
        }
        Up::start(self.capacity, &self.cores, &key, &flags)
    }

    /// Waits until each relay that runs has so many others.
    ///
    /// # Errors
    /// When they do not within that time.
    pub async fn whole(&self, others: usize, within: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        for (number, member) in (0..).zip(&self.members) {
            while relay::metrics(member.up.admin)?.get("mesh_peers").copied()
                != Some(float(others as u64))
            {
                ensure!(
                    began.elapsed() < within,
                    "{} has not met the others",
                    name(number)
                );
                sleep(GLANCE).await;
            }
        }
        Ok(began.elapsed())
    }

    /// What one costs.
    pub fn meter(&self, number: usize) -> Meter {
        self.members[number].up.child.meter()
    }

    /// What one has counted.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(
        &self,
        number: usize,
    ) -> anyhow::Result<std::collections::BTreeMap<String, f64>> {
        relay::metrics(self.members[number].up.admin)
    }

    /// As nodes get them.
    pub fn addresses(&self) -> Vec<RelayAddr> {
        let members = self.members.iter();
        members.map(|member| member.up.address.clone()).collect()
    }

    /// Ends one without a word.
    ///
    /// # Errors
    /// When it is gone.
    pub fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let child = &mut self.members[number].up.child;
        child.signal(Signal::SIGKILL)?;
        child.wait()?;
        Ok(())
    }

    /// Tells one to drain; how long it takes until it has ended, and whether it says that all went well.
    ///
    /// # Errors
    /// When it is gone, or does not end by then.
    pub async fn drain(
        &mut self,
        number: usize,
        within: Duration,
    ) -> anyhow::Result<(Duration, bool)> {
        let child = &mut self.members[number].up.child;
        let began = Instant::now();
        child.signal(Signal::SIGTERM)?;
        loop {
            if let Some(status) = child.ended()? {
                return Ok((began.elapsed(), status.success()));
            }
            ensure!(began.elapsed() < within, "{} does not end", name(number));
            sleep(GLANCE).await;
        }
    }

    /// Starts one that has ended again: the same key, the same address.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_again(&mut self, number: usize) -> anyhow::Result<()> {
        let Member { listen, mesh, .. } = &self.members[number];
        let mesh = mesh.as_deref().unwrap_or_default();
        self.members[number].up = self.up(number, listen, mesh)?;
        Ok(())
    }
}

/// As people see it.
pub fn name(number: usize) -> String {
    format!("relay-{number}")
}
