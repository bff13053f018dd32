//! `remora-broker`, which needs root, as a process of a test.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{display::eventually, support::process::starting};

/// `remora-broker`, without systemd.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    /// Where it listens.
    pub(crate) socket: PathBuf,
}

impl Broker {
    /// In that folder; whoever is in one of these groups is an administrator.
    pub(crate) fn start(folder: &Path, groups: &str) -> Self {
        let socket = folder.join("broker.sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora-broker"));
        command
            .args(["--groups", groups, "--listen"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(File::create(folder.join("broker.log")).expect("a file"));
        let child = {
            let _one_at_a_time = starting();
            command.spawn().expect("it starts")
        };
        eventually("the broker", || socket.exists().then_some(()));
        Self { child, socket }
    }

    /// Itself, and a process for each elevation.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let own = self.child.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        let children = children.unwrap_or_default();
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        std::iter::once(own).chain(children).collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
