//! Programs that were ordered: started as root's, their output passed on as far as it goes.

use std::{
    collections::BTreeMap,
    io::Read,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use nix::unistd::Pid;
use remora_proto::{
    elevation::MAX_OUTPUT_BYTES,
    wire::message::session::{BrokerHello, OrderRefusal, RunEnded, elevation_report::What},
};

use super::{Reports, tree};

/// Where root looks for programs.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// At once: a helper has two hands.
const MAX_RUNNING: usize = 8;
/// Of one program's output, both streams. What is more is counted, not kept: a helper who wants all of a log reads it in a file.
const MAX_TOTAL_BYTES: u64 = 4 << 20;
/// For the last output after a program's end; a daemon may hold its pipes for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What runs, and where it may show itself.
pub(super) struct Programs {
    hello: BrokerHello,
    reports: Reports,
    running: Arc<Mutex<BTreeMap<u32, Pid>>>,
}

impl Programs {
    pub(super) fn new(hello: BrokerHello, reports: Reports) -> Self {
        Self {
            hello,
            reports,
            running: Arc::default(),
        }
    }

    /// Starts it, in the name of the administrator who vouches for it.
    pub(super) fn start(&mut self, order: u32, command: &str, administrator: &str) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.len() >= MAX_RUNNING {
            return self.reports.refuse(order, OrderRefusal::OrderBusy);
        }
        tracing::info!(administrator, order, "a program is started");
        match self.shell(command, administrator).spawn() {
            Ok(child) => {
                if let Ok(pid) = i32::try_from(child.id()) {
                    running.insert(order, Pid::from_raw(pid));
                }
                self.reports
                    .report(order, What::Started(command.to_owned()));
                let (reports, running) = (self.reports.clone(), Arc::clone(&self.running));
                thread::spawn(move || attend(order, child, &reports, &running));
            }
            Err(error) => {
                tracing::warn!(%error, "a program was not started");
                self.reports.refuse(order, OrderRefusal::OrderNotStarted);
            }
        }
    }

    fn shell(&self, command: &str, administrator: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", command])
            .env_clear()
            .envs([
                ("PATH", PATH),
                ("HOME", "/root"),
                ("USER", "root"),
                ("LOGNAME", "root"),
                ("LANG", "C.UTF-8"),
                ("REMORA_ADMINISTRATOR", administrator),
            ])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, value) in [
            ("DISPLAY", &self.hello.display),
            ("XAUTHORITY", &self.hello.xauthority),
        ] {
            if !value.is_empty() {
                shell.env(name, value);
            }
        }
        shell
    }

    /// Kills it, and what is below it. What has detached itself goes with the elevation.
    pub(super) fn stop(&self, order: u32) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&pid) = running.get(&order) {
            tree::kill(pid);
        }
    }
}

/// Until it has ended, and its output, as far as it comes soon.
fn attend(order: u32, mut child: Child, reports: &Reports, running: &Mutex<BTreeMap<u32, Pid>>) {
    let passed = Arc::<AtomicU64>::default();
    let (drained, all) = mpsc::channel();
    let stdout = child.stdout.take();
    if let Some(stdout) = stdout {
        pass_on(order, stdout, What::Stdout, reports, &passed, &drained);
    }
    let stderr = child.stderr.take();
    if let Some(stderr) = stderr {
        pass_on(order, stderr, What::Stderr, reports, &passed, &drained);
    }
    drop(drained);
    let status = child.wait();
    running
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&order);
    // Nothing is ever sent: it is over when both have ended.
    let nothing = all.recv_timeout(LAST_WORDS);
    debug_assert_eq!(nothing.ok(), None::<()>);
    let passed = passed.load(Ordering::Relaxed);
    let ended = RunEnded {
        status: status.map_or(255, code),
        left_out_bytes: passed.saturating_sub(MAX_TOTAL_BYTES),
    };
    reports.report(order, What::Ended(ended));
}

fn code(status: ExitStatus) -> u32 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u32::try_from(code).ok())
        .unwrap_or(255)
}

fn pass_on(
    order: u32,
    mut from: impl Read + Send + 'static,
    what: fn(bytes::Bytes) -> What,
    reports: &Reports,
    passed: &Arc<AtomicU64>,
    drained: &mpsc::Sender<()>,
) {
    let (reports, passed, drained) = (reports.clone(), Arc::clone(passed), drained.clone());
    thread::spawn(move || {
        let mut chunk = [0; MAX_OUTPUT_BYTES];
        while let Ok(length @ 1..) = from.read(&mut chunk) {
            let bytes = u64::try_from(length).unwrap_or(u64::MAX);
            if passed.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_TOTAL_BYTES {
                let output = bytes::Bytes::copy_from_slice(&chunk[..length]);
                reports.report(order, what(output));
            }
        }
        drop(drained);
    });
}
