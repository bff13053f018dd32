//! Several relays, each a process, that are ended and started again while sessions go through them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use remora_proto::{id::RelayAddr, noise::link::FleetKey};
use remora_relay::mesh::fleet_key;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    measure::float,
    process::{self, Child, Cores, Meter},
    relay::{self, Capacity, Up},
    sites::Sites,
};

/// How often one looks whether a process has ended.
const GLANCE: Duration = Duration::from_millis(20);
/// Where one listens that has a network of its own: for nodes, for other relays, for us.
const PORTS: [u16; 3] = [4433, 4001, 9090];

/// Relays, by number.
#[derive(Debug)]
pub struct Fleet {
    members: Vec<Member>,
    capacity: Capacity,
    cores: Cores,
    /// Where their keys are.
    folder: TempDir,
    is_mesh: bool,
    /// Each in one of these, or all on loopback.
    sites: Option<Arc<Sites>>,
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
    /// None yet, each to have the same room; on loopback, or the first in the first of `sites` and so on.
    ///
    /// # Errors
    /// When there is no place for their keys.
    pub fn new(
        is_mesh: bool,
        sites: Option<Arc<Sites>>,
        capacity: Capacity,
        cores: &Cores,
    ) -> anyhow::Result<Self> {
        let fleet = Self {
            members: Vec::new(),
            capacity,
            cores: cores.clone(),
            folder: tempfile::tempdir().context("no folder for the relays' keys")?,
            is_mesh,
            sites,
        };
        if is_mesh {
            fleet.make_key()?;
        }
        Ok(fleet)
    }

    /// So many more.
    ///
    /// # Errors
    /// When one does not start.
    pub fn grow(&mut self, relays: usize) -> anyhow::Result<()> {
        for _ in 0..relays {
            let number = self.members.len();
            let places = PORTS.map(|port| match &self.sites {
                Some(sites) => format!("{}:{port}", sites.site(number).address),
                None => "127.0.0.1:0".to_owned(),
            });
            let [listen, mesh, _] = &places;
            let up = self.up(number, listen, mesh)?;
            self.members.push(Member {
                listen: up.address.host_port.clone(),
                mesh: up.mesh.map(|mesh| mesh.to_string()),
                up,
            });
        }
        Ok(())
    }

    fn make_key(&self) -> anyhow::Result<()> {
        let mut command = Command::new(process::beside("remora-relay")?);
        command.arg("fleet-key").arg(self.fleet_key());
        let mut child = Child::start(command, &self.cores, Stdio::null())?;
        ensure!(child.wait()?.success(), "cannot make a fleet key");
        Ok(())
    }

    /// What makes a relay one of them.
    ///
    /// # Errors
    /// When they are no fleet.
    pub fn key(&self) -> anyhow::Result<FleetKey> {
        Ok(fleet_key::load(&self.fleet_key())?)
    }

    fn fleet_key(&self) -> std::path::PathBuf {
        self.folder.path().join("fleet.key")
    }

    fn up(&self, number: usize, listen: &str, mesh: &str) -> anyhow::Result<Up> {
        let key = self.folder.path().join(name(number));
        let (name, fleet_key) = (name(number), self.fleet_key());
        let fleet_key = fleet_key.to_string_lossy();
        let site = self.sites.as_ref().map(|sites| sites.site(number));
        let [_, _, admin_port] = PORTS;
        let [observer, admin] = match site {
            Some(site) => [0, admin_port].map(|port| format!("{}:{port}", site.address)),
            None => [0; 2].map(|port| format!("127.0.0.1:{port}")),
        };
        let mut flags = vec!["--listen", listen, "--name", &name, "--admin", &admin];
        // One that is started again would ask for the next port, which may be a node's by then.
        flags.extend(["--observer", &observer]);
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
        let start = || Up::start(self.capacity, &self.cores, &key, &flags);
        match site {
            Some(site) => site.within(start),
            None => start(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Waits until each relay has all others, if they are a fleet at all.
    ///
    /// # Errors
    /// When they do not within that time.
    pub async fn whole(&self, within: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let others = float(self.members.len().saturating_sub(1) as u64);
        for (number, member) in (0..).zip(&self.members).filter(|_| self.is_mesh) {
            while relay::metrics(member.up.admin)?.get("mesh_peers").copied() != Some(others) {
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
    pub fn metrics(&self, number: usize) -> anyhow::Result<BTreeMap<String, f64>> {
        relay::metrics(self.members[number].up.admin)
    }

    /// How many have ended.
    ///
    /// # Errors
    /// What the system says.
    pub fn ended(&mut self) -> anyhow::Result<usize> {
        let mut ended = 0;
        for member in &mut self.members {
            ended += usize::from(member.up.child.ended()?.is_some());
        }
        Ok(ended)
    }

    /// Where another relay connects to one, if they are a fleet.
    pub fn mesh_address(&self, number: usize) -> Option<SocketAddr> {
        self.members[number].up.mesh
    }

    /// One is not heard of any more, nor hears anything.
    ///
    /// # Errors
    /// When it has no network of its own.
    pub fn lose(&self, number: usize) -> anyhow::Result<()> {
        let sites = self.sites.as_ref();
        sites.context("all are on loopback")?.lose(number)
    }

    /// Records and tombstones that one keeps.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn records(&self, number: usize) -> anyhow::Result<u64> {
        let metrics = self.metrics(number)?;
        let records = metrics.get("dht_records").copied().unwrap_or_default();
        // A count, which a float holds exactly.
        Ok(format!("{records:.0}").parse()?)
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
