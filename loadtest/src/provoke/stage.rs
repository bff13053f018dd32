//! Where relays are started that something is to happen to, and asked by Prometheus until they end.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::Context as _;
use remora_proto::id::RelayAddr;
use tempfile::TempDir;

use super::prometheus::Prometheus;
use crate::{
    crowd::Crowd,
    process::{self, Cores},
    relay::{self, Capacity, SessionRate, Up},
};

/// Room for all that anybody does here.
const CAPACITY: Capacity = Capacity {
    nodes: 2000,
    sessions: 2000,
    // Many relays share a machine.
    workers: Some(1),
    session_rate: SessionRate::Ordinary,
};

/// A place for one cause, whose relays are a fleet of its own to the rules.
#[derive(Debug)]
pub struct Stage {
    /// The fleet's name: their namespace.
    pub fleet: String,
    prometheus: Arc<Prometheus>,
    cores: Cores,
    folder: TempDir,
}

/// A relay that Prometheus asks until this is dropped.
#[derive(Debug)]
pub struct Member {
    /// The process.
    pub up: Up,
    prometheus: Arc<Prometheus>,
    name: String,
}

/// What is particular about a relay.
#[derive(Debug, Default)]
pub struct Particular<'a> {
    /// Further flags.
    pub flags: &'a [&'a str],
    /// Rather than the ordinary one.
    pub capacity: Option<Capacity>,
    /// A program, with what it takes, that becomes the relay.
    pub by: &'a [&'a str],
    /// Of its environment, which is empty otherwise.
    pub environment: &'a [(&'a str, &'a Path)],
}

impl Stage {
    /// An empty one.
    ///
    /// # Errors
    /// When there is no place for keys.
    pub fn new(fleet: &str, prometheus: &Arc<Prometheus>, cores: &Cores) -> anyhow::Result<Self> {
        Ok(Self {
            fleet: fleet.to_owned(),
            prometheus: Arc::clone(prometheus),
            cores: cores.clone(),
            folder: tempfile::tempdir().context("no folder for relays' keys")?,
        })
    }

    /// The ordinary capacity, to be changed.
    pub fn capacity() -> Capacity {
        CAPACITY
    }

    /// A file of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An ordinary relay.
    ///
    /// # Errors
    /// When it does not start.
    pub fn relay(&self, name: &str) -> anyhow::Result<Member> {
        self.particular(name, &Particular::default())
    }

    /// One with flags of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub fn relay_with(&self, name: &str, flags: &[&str]) -> anyhow::Result<Member> {
        let particular = Particular {
            flags,
            ..Particular::default()
        };
        self.particular(name, &particular)
    }

    /// One that is like no other.
    ///
    /// # Errors
    /// When it does not start.
    pub fn particular(&self, name: &str, particular: &Particular<'_>) -> anyhow::Result<Member> {
        let program = process::beside("remora-relay")?;
        let mut command = match particular.by {
            [] => Command::new(program),
            [by, more @ ..] => {
                let mut command = Command::new(by);
                command.args(more).arg(program);
                command
            }
        };
        command.env_clear();
        command.envs(particular.environment.iter().copied());
        let key = self.path(&format!("{name}.key"));
        let any = "127.0.0.1:0";
        let mut flags = vec!["--name", name, "--listen", any, "--admin", any];
        flags.extend(["--observer", any]);
        flags.extend(particular.flags);
        let capacity = particular.capacity.unwrap_or(CAPACITY);
        let up = Up::start_by(command, capacity, &self.cores, &key, &flags)?;
        let name = format!("{}/{name}", self.fleet);
        self.prometheus.watch(&name, up.admin)?;
        Ok(Member {
            up,
            prometheus: Arc::clone(&self.prometheus),
            name,
        })
    }

    /// A new fleet's key, in a file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn fleet_key(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        let mut command = Command::new(process::beside("remora-relay")?);
        command.arg("fleet-key").arg(&path);
        let made = command.output().context("cannot make a fleet key")?;
        anyhow::ensure!(made.status.success(), "cannot make a fleet key");
        Ok(path)
    }
}

impl Member {
    /// Many nodes for it.
    ///
    /// # Errors
    /// What the system said.
    pub fn crowd(&self) -> anyhow::Result<Crowd> {
        crowd(&self.up.address)
    }
}

/// Many nodes for a relay.
///
/// # Errors
/// It is nowhere, or the system has no sockets.
pub fn crowd(relay: &RelayAddr) -> anyhow::Result<Crowd> {
    Crowd::new(relay, relay::resolve(relay)?)
}

impl Drop for Member {
    fn drop(&mut self) {
        // A Prometheus that has no room any more has nothing to say either.
        self.prometheus.forget(&self.name).ok();
    }
}
