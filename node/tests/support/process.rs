//! The real binaries: a home of their own each, a relay, a node driven through pipes.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use super::PATIENCE;

/// The node's binary.
pub const REMORA: &str = env!("CARGO_BIN_EXE_remora");

/// File descriptors of a terminal must not leak into processes that other tests start meanwhile.
pub fn starting() -> MutexGuard<'static, ()> {
    static STARTING: Mutex<()> = Mutex::new(());
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The relay's binary, beside the node's.
pub fn relay_binary() -> PathBuf {
    let path = Path::new(REMORA).with_file_name("remora-relay");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace --bins` (with the same profile) first",
        path.display()
    );
    path
}

/// A person's computer: settings, runtime folder and environment of its own.
#[derive(Debug)]
pub struct Home(TempDir);

impl Home {
    /// An empty one.
    pub fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(home.path().join("run")).expect("a folder");
        Self(home)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A command that sees nothing of the environment the tests run in.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .env("XDG_RUNTIME_DIR", self.path().join("run"))
            .env("TERM", "xterm-256color")
            .env("LANG", "C.UTF-8");
        // Where coverage and sanitizers write to.
        for name in ["LLVM_PROFILE_FILE", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// `remora` with these arguments.
    pub fn remora(&self, args: &[&str]) -> Command {
        let mut command = self.command(REMORA);
        // What a direct path does is shown where there are two computers: in the NAT lab.
        command.env("REMORA_RELAY_ONLY", "true").args(args);
        command
    }
}

/// A running `remora-relay`.
#[derive(Debug)]
pub struct RelayProcess {
    child: Child,
    /// `HOST:PORT/KEY`
    pub address: String,
    /// `HOST:PORT` of its admin port.
    pub admin: String,
    /// What it writes to standard error.
    pub log: PathBuf,
    _home: Home,
}

impl RelayProcess {
    /// On ports of the system's choosing.
    pub fn start(args: &[&str]) -> Self {
        Self::start_in(&BTreeMap::new(), args)
    }

    /// The same, with more in its environment.
    pub fn start_in(environment: &BTreeMap<&str, String>, args: &[&str]) -> Self {
        let home = Home::new();
        let log = home.path().join("relay.log");
        let mut command = home.command(relay_binary());
        command
            .args(["serve", "--json", "--listen", "127.0.0.1:0"])
            .args(["--admin", "127.0.0.1:0"])
            // Unless a test wants to feel the limit.
            .env("REMORA_RELAY_LOOKUPS_PER_MINUTE", "6000")
            .envs(environment)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a file"));
        let mut child = {
            let _one_at_a_time = starting();
            command.spawn().expect("the relay starts")
        };
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("its address");
        let object: Value = serde_json::from_str(&line).unwrap_or_else(|error| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("the relay said {line:?} ({error}) and {log:?}")
        });
        let text = |name: &str| object[name].as_str().expect("text").to_owned();
        Self {
            child,
            address: text("address"),
            admin: text("admin"),
            log,
            _home: home,
        }
    }

    /// `HOST:PORT`
    pub fn host_port(&self) -> &str {
        self.address.split('/').next().expect("a place")
    }

    /// `KEY`
    pub fn key(&self) -> &str {
        self.address.split('/').nth(1).expect("a key")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("waited for")
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        // Gone already is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None`: a signal.
    pub code: Option<i32>,
    /// What was not read before.
    pub stdout: Vec<String>,
    /// Everything.
    pub stderr: String,
}

impl Ended {
    /// The one line of a failure.
    pub fn line(&self) -> &str {
        assert_eq!(self.stderr.lines().count(), 1, "one line: {self:?}");
        assert!(!self.stderr.contains('\x1b'), "no colours: {self:?}");
        self.stderr.trim_end()
    }
}

/// A program driven through pipes.
#[derive(Debug)]
pub struct Script {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: mpsc::Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    seen: Vec<String>,
}

impl Script {
    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = {
            let _one_at_a_time = starting();
            command.spawn().expect("it starts")
        };
        let (lines, stdout) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let mut err = child.stderr.take().expect("piped");
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            err.read_to_end(&mut text).expect("readable");
            String::from_utf8(text).expect("text")
        });
        Self {
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr: Some(stderr),
            seen: Vec::new(),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        writeln!(stdin, "{line}").expect("it listens");
        stdin.flush().expect("it listens");
    }

    /// Takes its standard input away, for a thread of its own.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("open")
    }

    /// Nobody reads its standard output any more, from its next line on.
    pub fn stop_reading(&mut self) {
        self.stdout = mpsc::channel().1;
    }

    /// The next line of its standard output.
    pub fn line(&mut self, limit: Duration) -> String {
        match self.stdout.recv_timeout(limit) {
            Ok(line) => {
                self.seen.push(line.clone());
                line
            }
            Err(why) => {
                let what = match why {
                    RecvTimeoutError::Timeout => "said nothing more within",
                    RecvTimeoutError::Disconnected => "ended, and not after",
                };
                self.child.kill().ok();
                let stderr = self.stderr.take().expect("once").join();
                let seen = &self.seen[self.seen.len().saturating_sub(20)..];
                panic!("it {what} {limit:?}; at last {seen:#?}, and on standard error {stderr:?}")
            }
        }
    }

    /// The next event.
    pub fn event(&mut self, limit: Duration) -> Value {
        let line = self.line(limit);
        let event: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("not one JSON object: {line} ({error})"));
        assert!(event.is_object(), "an object: {line}");
        assert_eq!(event["v"], 1, "its version: {line}");
        assert!(event["event"].is_string(), "its kind: {line}");
        event
    }

    /// The next event, which must be of this kind.
    pub fn expect(&mut self, kind: &str) -> Value {
        let event = self.event(PATIENCE);
        assert_eq!(event["event"], kind, "{event}");
        event
    }

    /// Goes on to an event of this kind; those before it are of no interest.
    pub fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self.event(PATIENCE);
            if event["event"] == kind {
                return event;
            }
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("still there");
    }

    /// Waits for its end.
    pub fn end(&mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        let mut stdout = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(line) => stdout.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.child.kill().ok();
                    let stderr = self.stderr.take().expect("once").join();
                    panic!("it did not end within {limit:?}: {stdout:#?} {stderr:?}")
                }
            }
        }
        let status: ExitStatus = self.child.wait().expect("waited for");
        let stderr = self.stderr.take().expect("once").join().expect("read");
        Ended {
            code: status.code(),
            stdout,
            stderr,
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs a command that ends by itself.
pub fn run(command: Command) -> Ended {
    let mut script = Script::start(command);
    drop(script.stdin.take());
    script.end(PATIENCE)
}
