//! `remora-broker` without systemd, and an administrator of this system. Both need root.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{display::eventually, support::process::starting};

/// Of nothing else that is ever in a program's memory.
pub(crate) const PASSWORD: &str = "tr0ub4dor-ZQXJ-71f3-credential";

/// An administrator of this system, for as long as the test lasts.
pub(crate) struct Administrator(pub(crate) String);

impl Administrator {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("remora-{}-{number}", std::process::id());
        system(
            "useradd",
            &[
                "--no-create-home",
                "--shell",
                "/bin/sh",
                "--user-group",
                &name,
            ],
        );
        let administrator = Self(name);
        let mut chpasswd = Command::new("chpasswd")
            .stdin(Stdio::piped())
            .spawn()
            .expect("this test needs chpasswd (Debian: passwd)");
        let line = format!("{}:{PASSWORD}\n", administrator.0);
        let mut stdin = chpasswd.stdin.take().expect("piped");
        stdin.write_all(line.as_bytes()).expect("it listens");
        drop(stdin);
        assert!(chpasswd.wait().expect("waited for").success());
        administrator
    }
}

impl Drop for Administrator {
    fn drop(&mut self) {
        Command::new("userdel").arg(&self.0).status().ok();
    }
}

fn system(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status();
    let status = status.unwrap_or_else(|error| panic!("this test needs {program}: {error}"));
    assert!(status.success(), "{program} {args:?}, which needs root");
}

/// `remora-broker`, without systemd.
pub(crate) struct Broker {
    child: Child,
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

/// Most pages are empty, and soon done with.
pub(crate) fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    const PAGE: usize = 4096;
    (0..bytes.len()).step_by(PAGE).any(|from| {
        let to = (from + PAGE + needle.len()).min(bytes.len());
        let page = &bytes[from..to];
        page.contains(&needle[0]) && page.windows(needle.len()).any(|window| window == needle)
    })
}

/// Whether the bytes are anywhere in the memory of a process.
pub(crate) fn remembers(pid: u32, needle: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    let mut memory = File::open(format!("/proc/{pid}/mem")).expect("root may");
    let mut searched = 0;
    let found = maps.lines().any(|line| {
        let mut parts = line.split_whitespace();
        let range = parts.next().and_then(|range| range.split_once('-'));
        let (from, to) = range.expect("a range");
        let is_writable = parts.next().is_some_and(|rights| rights.starts_with("rw"));
        let number = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (from, to) = (number(from), number(to));
        let mut bytes = vec![0; usize::try_from(to - from).expect("fits")];
        let read = memory
            .seek(SeekFrom::Start(from))
            .and_then(|_| memory.read_exact(&mut bytes));
        if !is_writable || read.is_err() {
            return false;
        }
        searched += bytes.len();
        holds(&bytes, needle)
    });
    assert!(searched > 100_000, "its memory could be read");
    found
}
