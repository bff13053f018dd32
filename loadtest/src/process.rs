//! Other processes: started on cores of their own, ended with us; and what they cost.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    path::PathBuf,
    process::{Child as StdChild, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Which cores who runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The load's.
    pub load: Vec<usize>,
    /// Those of what is measured.
    pub measured: Vec<usize>,
}

impl Cores {
    /// The first core makes the load, the next `workers` carry it, the first one with them when there are no more;
    /// everything where it likes when there is only one, or when `pin` is false.
    ///
    /// # Errors
    /// What the system said.
    pub fn divide(pin: bool, workers: usize) -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let all: Vec<_> = (0..CpuSet::count())
            .filter(|&core| allowed.is_set(core).unwrap_or(false))
            .collect();
        Ok(match all[..] {
            [load, ref others @ ..] if pin && !others.is_empty() => {
                let measured = others.iter().chain([&load]).take(workers.max(1));
                Self {
                    load: vec![load],
                    measured: measured.copied().collect(),
                }
            }
            _ => Self {
                load: all.clone(),
                measured: all,
            },
        })
    }

    /// Keeps this thread, and what it starts, on the load's cores.
    ///
    /// # Errors
    /// What the system said.
    pub fn stay_on_load(&self) -> anyhow::Result<()> {
        stay_on(&self.load)
    }

    /// For scripts.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({"load": self.load, "measured": self.measured})
    }

    /// Starts a process on the measured cores: it inherits those of the thread that starts it.
    fn spawn(&self, command: &mut Command) -> anyhow::Result<StdChild> {
        stay_on(&self.measured)?;
        let child = command.spawn();
        stay_on(&self.load)?;
        Ok(child?)
    }
}

fn stay_on(cores: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("cannot run on core {cores:?}; try --no-pin"))
}

/// A program that ends when this is dropped.
#[derive(Debug)]
pub struct Child {
    child: StdChild,
    /// Open until then.
    pub input: Option<ChildStdin>,
}

impl Child {
    /// Starts `command` on its cores, its standard input open and its output as `output` says.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(mut command: Command, cores: &Cores, output: Stdio) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(output);
        let mut child = cores.spawn(&mut command).with_context(|| {
            let program = command.get_program().display();
            format!("cannot start {program}")
        })?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// The first line that it writes.
    ///
    /// # Errors
    /// When it ends before.
    pub fn first_line(&mut self) -> anyhow::Result<String> {
        let output = self.output().context("its output is ours")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.is_empty() {
            bail!("it ended without a word ({})", self.child.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }

    /// What it writes, if that comes here and nobody has taken it.
    pub fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id())?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// What the system says.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// How it ends.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// What it costs.
    pub fn meter(&self) -> Meter {
        Meter {
            pid: self.child.id(),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A program that stands beside this one.
///
/// # Errors
/// When it does not, with what to do.
pub fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        bail!(
            "{} is missing: build it with `cargo build --release -p {name}`, or name a running relay with --relay",
            path.display()
        );
    }
    Ok(path)
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU, nanoseconds.
    pub ran_ns: u64,
    /// How long it could have run and somebody else did.
    pub waited_ns: u64,
}

impl Usage {
    /// And so much more.
    pub fn add(&mut self, more: Self) {
        self.ran_ns += more.ran_ns;
        self.waited_ns += more.waited_ns;
    }

    /// What it has used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            ran_ns: self.ran_ns.saturating_sub(before.ran_ns),
            waited_ns: self.waited_ns.saturating_sub(before.waited_ns),
        }
    }
}

/// Reads from /proc what a process has used.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    pid: u32,
}

impl Meter {
    /// Of the process `pid`.
    ///
    /// # Errors
    /// When there is none, or its threads may not be read.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let meter = Self { pid };
        meter.usage()?;
        Ok(meter)
    }

    /// What all its threads have used.
    ///
    /// # Errors
    /// When it is gone.
    pub fn usage(self) -> anyhow::Result<Usage> {
        let mut sum = Usage::default();
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid))
            .with_context(|| format!("process {} is gone", self.pid))?;
        for thread in threads {
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
            sum.ran_ns += numbers.next().context("schedstat is empty")??;
            sum.waited_ns += numbers.next().context("schedstat is short")??;
        }
        Ok(sum)
    }

    /// Memory it has resident.
    ///
    /// # Errors
    /// When it is gone.
    pub fn rss_bytes(self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// Of that, what lies in huge pages of 2 MiB: it comes in steps as large, and what asks for them is made once.
    ///
    /// # Errors
    /// When it is gone.
    pub fn huge_bytes(self) -> anyhow::Result<u64> {
        self.read("smaps_rollup", "AnonHugePages:")
    }

    /// The most that it had, since that was last forgotten.
    ///
    /// # Errors
    /// When it is gone.
    pub fn peak_rss_bytes(self) -> anyhow::Result<u64> {
        self.memory("VmHWM:")
    }

    /// Lets its peak begin from what it has now (proc(5), `clear_refs`).
    ///
    /// # Errors
    /// When it is gone, or somebody else's.
    pub fn forget_peak(self) -> anyhow::Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5")
            .with_context(|| format!("process {} is gone", self.pid))
    }

    fn memory(self, name: &str) -> anyhow::Result<u64> {
        self.read("status", name)
    }

    fn read(self, file: &str, name: &str) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.pid))
            .with_context(|| format!("process {} is gone", self.pid))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .map(str::parse::<u64>);
        // One that has ended is listed until somebody asks how, but has no memory.
        let kib = kib.with_context(|| format!("process {} has ended", self.pid))?;
        Ok(kib? * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_uses_is_read() {
        let meter = Meter::of(std::process::id()).expect("alive");
        let rss_bytes = meter.rss_bytes().expect("alive");
        assert!(meter.huge_bytes().expect("alive") <= rss_bytes);
        assert!(rss_bytes > 1 << 20 && meter.peak_rss_bytes().expect("alive") > 1 << 20);
        assert!(meter.forget_peak().is_ok());
        assert!(Meter::of(u32::MAX).is_err());
    }

    #[test]
    fn without_pinning_everything_runs_everywhere() {
        let cores = Cores::divide(false, 1).expect("cores");
        assert_eq!(cores.load, cores.measured);
    }
}
